"""What real backends do that no table of answers shows by itself, through an adapter and the store."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import pytest

from gateway.adapters import ADAPTERS
from gateway.adapters.base import Accepted, Account, Barred, Blocked, Reply
from gateway.adapters.rapidpro import reading as rapidpro_reading
from gateway.config.settings import BackendSettings
from gateway.lanes.lanes import make_backend
from gateway.model import Cause, Dispatch, Identity, Notice, Recipients, State
from gateway.sandbox import Sandbox, SandboxSettings
from gateway.sandbox.settings import (
    SANDBOX_RAPIDPRO_TOKEN,
    SANDBOX_TWILIO_ACCOUNT_SID,
    SANDBOX_TWILIO_API_KEY,
    SANDBOX_TWILIO_API_SECRET,
)
from gateway.sightings import Window
from tests.builders import (
    ACCOUNT,
    BACKEND,
    NOON,
    accepted,
    again,
    claim_ids,
    create,
    put_off,
    run_to,
    seen,
    settle,
    singly,
    unsure,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.lanes.backend import Backend
    from gateway.store import Store

SID = "AC" + "a" * 32
CREDENTIALS = {
    "rapidpro": {"token": "t"},
    "twilio": {"account_sid": SID, "auth_token": "t"},
}
FLOWS = {"rapidpro": "f5901b62-ba76-4003-9c62-72fdacc1b7b7", "twilio": "FW" + "a" * 32}
URN = Recipients(urns=("tel:+12065551212",))
TO_STUDIO = Dispatch(id="s-1", flow=FLOWS["twilio"], recipients=URN, params={}, sender="+1800")
WINDOW = Window(flow=FLOWS["twilio"], oldest=NOON, newest=NOON)
URNS = tuple(f"tel:+1206555{number:04}" for number in range(100))


def refusal(kind: str, dispatch: Dispatch, status: int, body: dict[str, Any]) -> Any:
    """Sends a dispatch, which is refused like this; returns the failure."""
    adapter = ADAPTERS[kind](Account(credentials=CREDENTIALS[kind], sender="+1800" if kind == "twilio" else ""))
    exchange = adapter.send(dispatch)
    next(exchange)
    with pytest.raises(StopIteration) as ended:
        exchange.send(Reply(status=status, body=json.dumps(body).encode()))
    return ended.value.value.failure


@pytest.mark.parametrize(
    ("kind", "number", "urns", "status", "body", "fields"),
    [
        ("rapidpro", 1, URNS, 400, {"urns": {"1": ["Invalid URN"], "7": ["Invalid URN"]}}, "urns[1], urns[7]"),
        ("rapidpro", 3, URNS, 400, {"urns": {"1": ["Invalid URN"], "7": ["Invalid URN"]}}, "urns[201], urns[207]"),
        ("twilio", 1, URNS[:1], 400, {"code": 21211, "status": 400}, "urns[0]"),
        ("twilio", 42, URNS[:1], 400, {"code": 21211, "status": 400}, "urns[41]"),
        ("twilio", 42, URNS[:1], 400, {"code": 21212, "status": 400}, "sender"),
    ],
)
def test_c7_a_refusal_names_the_place_in_the_start(
    kind: str, number: int, urns: tuple[str, ...], status: int, body: dict[str, Any], fields: str
) -> None:
    """Not the place in the one of its requests that was refused."""
    dispatch = Dispatch(id=f"s-{number}", number=number, flow=FLOWS[kind], recipients=Recipients(urns=urns), params={})
    failure = refusal(kind, dispatch, status, body)

    assert fields == failure.metadata["fields"]
    assert kind != "rapidpro" or fields.split(", ", maxsplit=1)[0] in failure.message


@pytest.mark.parametrize(("urns", "complaint", "is_said"), [
    (URNS,      {"urns": {"7": ["Invalid URN"]}},                           True),
    (URNS[:2],  {"urns": {"0": ["Invalid URN"], "1": ["Invalid URN"]}},     False),
    (URNS,      {"urns": ["Ensure this field has no more than 100 elements."]},  False),
    (URNS,      {"non_field_errors": ["Must specify at least one recipient."]},  False),
])  # fmt: skip
def test_those_who_were_refused_with_others_are_told_so(
    *, urns: tuple[str, ...], complaint: dict[str, Any], is_said: bool
) -> None:
    """RapidPro refuses a request of 100 for one, and each of the 100 shows why. That is nothing against the others."""
    dispatch = Dispatch(id="s-1", flow=FLOWS["rapidpro"], recipients=Recipients(urns=urns), params={})
    failure = refusal("rapidpro", dispatch, 400, complaint)

    assert is_said is ("All 100 recipients of that request were refused with it" in failure.message)


async def test_c7_a_claimed_dispatch_knows_its_place(store: Store) -> None:
    """Also one that is written out later."""
    await create(store, singly(250))
    numbers = [dispatch.number for _ in range(3) for dispatch in (await store.claim(BACKEND, 100)).dispatches]

    assert list(range(1, 251)) == sorted(numbers)


async def test_c11_what_a_backend_does_not_count_stays_unset(store: Store) -> None:
    """A total of -1 is not a count: it is not known yet, however many have started."""
    start = await create(store, singly(1))
    await run_to(store, start, accepted("x1", State.QUEUED))
    await store.sight(BACKEND, [seen("x1", State.STARTED, contact_started_count=0)], account=ACCOUNT)
    unknown = (await again(store, start)).standing.progress
    await store.sight(BACKEND, [seen("x1", State.COMPLETED, contact_count=3, contact_started_count=1)], account=ACCOUNT)
    known = (await again(store, start)).standing.progress

    assert (None, 0) == (unknown.contact_count, unknown.contact_started_count)
    assert (3, 1) == (known.contact_count, known.contact_started_count)


async def test_d14_an_adoption_after_an_error_blames_no_other_kind_of_backend(store: Store) -> None:
    """The warning is the same for a Twilio start."""
    start = await create(store, backend="studio")
    (dispatch_id,) = await claim_ids(store, 1, "studio")
    await settle(store, dispatch_id, replace(unsure(), cause=Cause.SERVER_ERROR))
    shown = seen("x1", State.STARTED, correlation_key=dispatch_id, flow=start.asked.flow)
    await store.sight("studio", [shown], account=ACCOUNT)
    (warning,) = (await again(store, start)).standing.warnings

    assert "ADOPTED_AFTER_ERROR" == warning.reason
    assert "RapidPro" not in warning.message


async def test_c5_a_restricted_key_sends_without_the_right_to_read() -> None:
    """The account is as set. What may not be read is named, and holds nothing up."""
    async with Sandbox(SandboxSettings()) as sandbox:
        sandbox.configure("twilio", lacks=["flows", "list", "context"])
        lane = studio(sandbox)
        async with lane.transport:
            identity = await lane.transport.run(lane.adapter.identify())
            sent = await lane.transport.run(lane.adapter.send(TO_STUDIO))
            swept = await lane.transport.run(lane.adapter.sweep(None, [WINDOW]))

    assert Identity(account=SANDBOX_TWILIO_ACCOUNT_SID) == identity
    assert isinstance(sent, Accepted)
    assert isinstance(swept.trouble, Barred)
    assert f"HTTP 403 to GET /v2/Flows/{FLOWS['twilio']}/Executions" in swept.trouble.notice.message
    assert "permission" in swept.trouble.notice.message


async def test_c5_what_may_not_be_sent_names_the_request() -> None:
    """So that the operator knows which permission it is."""
    async with Sandbox(SandboxSettings()) as sandbox:
        sandbox.configure("twilio", lacks=["create"])
        lane = studio(sandbox)
        async with lane.transport:
            sent = await lane.transport.run(lane.adapter.send(TO_STUDIO))

    assert isinstance(sent, Blocked)
    assert f"HTTP 403 to POST /v2/Flows/{FLOWS['twilio']}/Executions" in sent.notice.message


async def test_c6_what_blocked_a_start_is_gone_when_it_was_sent(store: Store) -> None:
    """The warning holds while something is unsent, and no longer."""
    start = await create(store)
    (dispatch_id,) = await claim_ids(store, 1)
    await settle(store, dispatch_id, put_off(NOON, Notice(reason="BACKEND_SUSPENDED", message="suspended")))
    waiting = (await again(store, start)).standing.warnings
    (dispatch_id,) = await claim_ids(store, 1)
    await settle(store, dispatch_id, accepted("x1"))

    assert ["BACKEND_SUSPENDED"] == [each.reason for each in waiting]
    assert () == (await again(store, start)).standing.warnings


def studio(sandbox: Sandbox) -> Backend:
    """Makes a backend of the sandbox's Twilio account, by its API key."""
    return make_backend(
        "studio",
        BackendSettings.model_validate(
            {
                "kind": "twilio",
                "url": sandbox.twilio_url,
                "account_sid": SANDBOX_TWILIO_ACCOUNT_SID,
                "api_key": SANDBOX_TWILIO_API_KEY,
                "api_secret": SANDBOX_TWILIO_API_SECRET,
            }
        ),
    )


@pytest.mark.parametrize("total", [2**31 - 1, 2**31, 2**63, 10**400], ids=["31 bits", "32", "64", "many"])
async def test_n2_a_total_that_the_api_cannot_say_is_the_largest_that_it_can(store: Store, total: int) -> None:
    """It is not unknown: the 0 that was counted before must not stand."""
    start = await create(store, singly(1))
    await run_to(store, start, accepted("x1", State.QUEUED))
    await store.sight(BACKEND, [seen("x1", State.STARTED, contact_count=0, contact_started_count=0)], account=ACCOUNT)
    row = {"uuid": str(uuid.UUID(int=7)), "status": "completed", "progress": {"total": total, "started": total}}
    shown = rapidpro_reading.sighting(row)
    assert shown is not None
    await store.sight(BACKEND, [replace(shown, external_id="x1")], account=ACCOUNT)
    progress = (await again(store, start)).standing.progress

    assert (2**31 - 1, 2**31 - 1) == (progress.contact_count, progress.contact_started_count)


@pytest.mark.parametrize("tied", [4, 9])
@pytest.mark.parametrize("moving", [3, 4, 5])
async def test_c15_a_tied_row_that_moves_between_pages_hides_no_start(tied: int, moving: int) -> None:
    """RapidPro's cursor is a position, and an offset among tied rows: one of them that moves hides an unread one.

    The gateway asks for what is after the last row instead. Where the tied rows fill a page, it says that it may have
    skipped some: the scan proves nothing, and what was missed is read by the next.
    """
    async with Sandbox(SandboxSettings(duration=timedelta(hours=10), rapidpro_page_size=6)) as sandbox:
        lane = textit(sandbox)
        async with lane.transport:
            ids = [await _started(lane, number) for number in range(3 + tied + 5)]
            for some in (ids[:3], ids[3 : 3 + tied], ids[3 + tied :]):
                sandbox.touch(ids=some)
            since = datetime.now(UTC) - timedelta(minutes=1)
            by_cursor = await _followed(sandbox, since, lambda: sandbox.touch(ids=[ids[moving]]))
            for some in (ids[:3], ids[3 : 3 + tied], ids[3 + tied :]):
                sandbox.touch(ids=some)
            pages: list[object] = []

            def answered(answer: object) -> None:
                pages.append(answer)
                if len(pages) == 1:
                    sandbox.touch(ids=[ids[moving]])

            swept = await lane.transport.run(lane.adapter.sweep(since, [WINDOW]), answered=answered)
            again = await lane.transport.run(lane.adapter.sweep(since, [WINDOW]))

    shown = {each.external_id for each in swept.sightings}
    assert set(ids) - by_cursor, "the cursor would have shown all: there was nothing to miss"
    assert swept.is_gapless is (tied < 6)
    assert set(ids) == shown or not swept.is_gapless
    assert set(ids) == shown | {each.external_id for each in again.sightings}


async def _started(lane: Backend, number: int) -> str:
    urns = (f"tel:+1206555{number:04}",)
    dispatch = Dispatch(id=f"s-{number}", flow=FLOWS["rapidpro"], recipients=Recipients(urns=urns), params={})
    sent = await lane.transport.run(lane.adapter.send(dispatch))
    assert isinstance(sent, Accepted)
    return sent.external_id


async def _followed(sandbox: Sandbox, since: datetime, between: Callable[[], object]) -> set[str]:
    """Reads the list by its cursor, as its documentation says, while something happens after the first page."""
    url = f"{sandbox.rapidpro_url}/api/v2/flow_starts.json"
    query, found = {"after": since.isoformat().replace("+00:00", "Z"), "reverse": "true"}, set()
    async with aiohttp.ClientSession(headers={"Authorization": f"Token {SANDBOX_RAPIDPRO_TOKEN}"}) as session:
        while query:
            async with session.get(url, params=query) as answer:
                page = await answer.json()
            if not found:
                between()
            found |= {row["uuid"] for row in page["results"]}
            query = dict(parse_qsl(urlsplit(page["next"] or "").query))
    return found


def textit(sandbox: Sandbox) -> Backend:
    """Makes a backend of the sandbox's RapidPro workspace."""
    given = {"kind": "rapidpro", "url": sandbox.rapidpro_url, "token": SANDBOX_RAPIDPRO_TOKEN, "rate": "1000/second"}
    return make_backend("textit", BackendSettings.model_validate(given))
