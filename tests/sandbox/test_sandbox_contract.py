"""What the sandbox answers is what Studio's contract says: each answer of a whole scenario is held to it."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from jsonschema import Draft202012Validator

from gateway.adapters.base import Accepted, Blocked, Busy, Missing, Refused, Throttled
from gateway.config.settings import BackendSettings
from gateway.lanes.lanes import make_backend
from gateway.model import Dispatch, Recipients, State
from gateway.sandbox import SANDBOX_TWILIO_ACCOUNT_SID, SANDBOX_TWILIO_AUTH_TOKEN
from gateway.sightings import Window
from tests.sandbox.studio import DOCUMENT, Proxy, wrong_answers, wrong_requests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from gateway.lanes.backend import Backend
    from gateway.sandbox import SandboxSettings
    from tests.sandbox.conftest import Client, Clock
    from tests.sandbox.studio import Exchange

FLOW, NO_FLOW = "FW" + "a" * 32, "FW" + "0" * 32
NO_EXECUTION = "FN" + "0" * 32
GATEWAY = "startflow-gateway/"
OPEN = ("context", "definition")  # what is below them is the flow's
SEEN = {
    "ListFlow 200", "ListFlow 401", "ListFlow 403", "FetchFlow 200", "FetchFlow 404",
    "CreateExecution 201", "CreateExecution 400", "CreateExecution 404", "CreateExecution 409", "CreateExecution 429",
    "ListExecution 200", "FetchExecution 200", "FetchExecution 404", "UpdateExecution 200", "DeleteExecution 204",
    "FetchExecutionContext 200", "ListExecutionStep 200", "FetchExecutionStep 200", "FetchExecutionStepContext 200",
    "nothing 405",
}  # fmt: skip
"""What the scenario must have met."""


@pytest.fixture
def settings(settings: SandboxSettings) -> SandboxSettings:
    """Takes four creates a second, so that the fifth is too many."""
    return replace(settings, twilio_creates_per_second=4)


@pytest.fixture
async def proxy(client: Client) -> AsyncIterator[Proxy]:
    """Stands before the sandbox."""
    async with Proxy(client.sandbox.twilio_url) as proxy:
        yield proxy


def backend(proxy: Proxy, token: str = SANDBOX_TWILIO_AUTH_TOKEN) -> Backend:
    """Makes the gateway's own backend of the sandbox's account, behind the proxy."""
    given = {
        "kind": "twilio",
        "url": proxy.url,
        "account_sid": SANDBOX_TWILIO_ACCOUNT_SID,
        "auth_token": token,
        "sender": "+18005551212",
    }
    return make_backend("studio", BackendSettings.model_validate(given))


def dispatch(number: int, flow: str = FLOW, **fields: Any) -> Dispatch:
    """Makes a dispatch to one of many telephone numbers."""
    recipients = Recipients(urns=(f"tel:+1206555{number:04}",))
    return Dispatch(id=f"s-{number}", flow=flow, recipients=recipients, sender="+18005551212", params=fields)


def told(exchanges: list[Exchange]) -> list[str]:
    """Lists what the exchanges break: all answers count, and the requests that the gateway made."""
    asked = [each for each in exchanges if each.agent.startswith(GATEWAY)]
    return [
        *(line for each in exchanges for line in wrong_answers(each)),
        *(line for each in asked for line in wrong_requests(each)),
    ]


async def play(proxy: Proxy, client: Client, clock: Clock) -> None:
    """Asks for everything that the gateway asks for, and for what only people do."""
    lane, stranger = backend(proxy), backend(proxy, token="wrong")
    ask: Any = lane.adapter  # the verbs that not every adapter has, and results by what the sandbox is known to say
    run: Any = lane.transport.run
    async with lane.transport, stranger.transport:
        await _read_flows(ask, run, client)
        made = await _start_and_end(ask, run)
        clock.tick(11)
        since = clock.now - timedelta(seconds=11)
        window = Window(flow=FLOW, oldest=since, newest=clock.now, stragglers=since, proves_from=since)
        swept = await run(ask.sweep(None, [window]))
        refused = await stranger.transport.run(stranger.adapter.identify())
        client.sandbox.configure("twilio", lacks=["flows"])
        await run(ask.identify())
    client.sandbox.configure("twilio", lacks=[])
    await _by_hand(proxy, made[-1])

    assert (None, set(made)) == (swept.trouble, {each.external_id for each in swept.sightings})
    assert isinstance(refused, Blocked)


async def _read_flows(ask: Any, run: Any, client: Client) -> None:
    """Reads whose account it is, and its flows: all of them, page by page, and one that is there or not."""
    client.sandbox.configure("twilio", largest_page=1)
    account = (await run(ask.identify())).account
    found = [[flow.name for flow in (await run(ask.flows(which))).flows] for which in ("", FLOW, NO_FLOW)]

    assert SANDBOX_TWILIO_ACCOUNT_SID == account
    assert [["Thrift Shop", "Registration"], ["Thrift Shop"], []] == found


async def _start_and_end(ask: Any, run: Any) -> list[str]:
    """Starts what can be started and what cannot, reads the first, and ends it. Returns what was made."""
    sent = [dispatch(1), dispatch(1), dispatch(2, NO_FLOW), dispatch(3), dispatch(4, sandbox="fail"), dispatch(5)]
    outcomes = [await run(ask.send(each)) for each in sent]
    made = [each.external_id for each in outcomes if isinstance(each, Accepted)]
    first = replace(dispatch(1), external_id=made[0])
    running, gone = [await run(ask.look(each)) for each in (first, replace(first, external_id=NO_EXECUTION))]
    key, ended = await run(ask.key(FLOW, made[0])), await run(ask.cancel(first))

    assert [Accepted, Busy, Refused, Accepted, Accepted, Throttled] == [type(each) for each in outcomes]
    assert (State.STARTED, Missing(), "s-1", State.COMPLETED) == (running.state, gone, key.correlation_key, ended.state)
    return made


async def _by_hand(proxy: Proxy, sid: str) -> None:
    """Asks for what the gateway does not ask for."""
    account = aiohttp.encode_basic_auth(SANDBOX_TWILIO_ACCOUNT_SID, SANDBOX_TWILIO_AUTH_TOKEN)
    async with aiohttp.ClientSession(proxy.url, headers={"Authorization": account}) as session:
        executions = f"/v2/Flows/{FLOW}/Executions"
        steps = f"{executions}/{sid}/Steps"
        async with session.get(steps, params={"PageSize": "1"}) as answer:
            newest = (await answer.json())["steps"][0]["sid"]
        asked = [
            ("GET", f"{steps}/{newest}"),
            ("GET", f"{steps}/{newest}/Context"),
            ("POST", executions),
            ("PUT", executions),
            ("DELETE", f"{executions}/{sid}"),
        ]
        for method, path in asked:
            async with session.request(method, path):
                pass


async def test_every_answer_is_one_of_studios(proxy: Proxy, client: Client, clock: Clock) -> None:
    """Seen by a proxy between the gateway's own adapter and the sandbox."""
    await play(proxy, client, clock)

    assert [] == told(proxy.exchanges)
    assert set() == SEEN - {each.name for each in proxy.exchanges}
    print(f"{len(proxy.exchanges)} exchanges, {len({each.name for each in proxy.exchanges})} kinds of answers")


async def test_a_field_that_is_dropped_or_added_is_noticed(proxy: Proxy, client: Client, clock: Clock) -> None:
    """Each field of each answer of the scenario, one by one."""
    await play(proxy, client, clock)
    changes = [
        (f"{each.name}: {where}", wrong_answers(replace(each, body=json.dumps(body).encode())))
        for each in {each.name: each for each in proxy.exchanges if each.body}.values()
        for where, body in altered(json.loads(each.body))
    ]

    assert [] == [what for what, differences in changes if not differences]
    print(f"{len(changes)} alterations noticed")


def altered(document: Any) -> Iterator[tuple[str, Any]]:
    """Makes one alteration after another: a field is not there, or there is one too many."""
    for path in places(document):
        body = deepcopy(document)
        place = body
        for step in path[:-1]:
            place = place[step]
        if path[-1] == "+":
            place["detail"] = "more"
        else:
            del place[path[-1]]
        yield ".".join(map(str, path)), body


def places(document: Any, *path: str | int) -> Iterator[tuple[str | int, ...]]:
    """Lists where a field can be taken away, and as `+` where one can be added."""
    inner = document.items() if isinstance(document, dict) else enumerate(document)
    if isinstance(document, dict):
        yield (*path, "+")
        yield from ((*path, name) for name in document)
    for name, value in inner:
        if name not in OPEN and isinstance(value, (dict, list)):
            yield from places(value, *path, name)


def test_the_contract_leaves_nothing_open() -> None:
    """Its schemas are schemas, and none uses `nullable`, which is no word of JSON Schema."""
    Draft202012Validator.check_schema(DOCUMENT)

    assert '"nullable"' not in json.dumps(DOCUMENT)
    for name, schema in DOCUMENT["$defs"].items():
        assert schema.keys() & {"type", "anyOf", "additionalProperties"}, name
        if "required" in schema:
            assert schema["additionalProperties"] is False, name
