"""Faults: what the caller sees, and what was really done."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from gateway.sandbox.exchange import VERBS
from gateway.sandbox.faults import Faults
from gateway.sandbox.presets import PRESETS

if TYPE_CHECKING:
    from tests.sandbox.conftest import Client, Clock, Json, Reply

BACKENDS = ["rapidpro", "twilio"]


async def create(client: Client, backend: str, **options: Json) -> Reply:
    """Starts something on a backend."""
    if backend == "rapidpro":
        body = {"flow": "f5901b62-ba76-4003-9c62-72fdacc1b7b7", "urns": ["tel:+12065551212"]}
        return await client.rapidpro("POST", "flow_starts.json", body, **options)
    form = {"To": "+12065551212", "From": "+18005551212"}
    return await client.twilio("POST", f"Flows/FW{'a' * 32}/Executions", form, **options)


async def listed(client: Client, backend: str) -> list[dict[str, Any]]:
    """Lists what there is on a backend."""
    if backend == "rapidpro":
        rows = (await client.rapidpro("GET", "flow_starts.json")).json["results"]
    else:
        rows = (await client.twilio("GET", f"Flows/FW{'a' * 32}/Executions")).json["executions"]
    return list(rows)


async def recorded(client: Client, kind: str) -> None:
    """Waits until there is an entry of a kind in the journal."""
    while kind not in client.kinds():  # noqa: ASYNC110 - the journal tells nobody
        await asyncio.sleep(0.01)


# What each preset that is about creating shows the caller, and whether something was made.
# fmt: off
CREATING: list[tuple[str, int | type[Exception], bool]] = [
    ("500_after_commit",              500,                                   True),
    ("500_before_commit",             500,                                   False),
    ("reset_after_commit",            aiohttp.ClientConnectionError,         True),
    ("reset_before_commit",           aiohttp.ClientConnectionError,         False),
    ("truncated_201",                 aiohttp.ClientPayloadError,            True),
    ("html_502",                      502,                                   False),
    ("throttled",                     429,                                   False),
    ("throttled_for_long",            429,                                   False),
    ("throttled_without_retry_after", 429,                                   False),
    ("null_status",                   201,                                   True),
]
# fmt: on


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("preset", "seen", "made"), CREATING, ids=[row[0] for row in CREATING])
async def test_a_preset_does_what_it_says(
    client: Client, backend: str, preset: str, seen: int | type[Exception], *, made: bool
) -> None:
    """Once, and then no more."""
    rule = client.sandbox.faults.add({"preset": preset, "backend": backend, "times": 1})
    if isinstance(seen, int):
        reply = await create(client, backend)
        assert seen == reply.status
        assert (preset.startswith("throttled") and "without" not in preset) == ("Retry-After" in reply.headers)
    else:
        with pytest.raises(seen):
            await create(client, backend)

    assert made == ("created" in client.kinds()) == bool(await listed(client, backend))
    assert client.sandbox.faults.fired(rule) == 1
    answer = next(client.sandbox.journal.entries(kind="answer"))
    assert rule == answer["fault"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_rule_for_both(clock: Clock, backend: str, preset: str) -> None:
    """None of them is refused."""
    faults = Faults(rng=random.Random(1), clock=clock)
    faults.add({"preset": preset, "backend": backend})

    assert backend == faults.listing()[0]["backend"]


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_late_commit_comes_although_the_caller_has_gone(client: Client, backend: str) -> None:
    """First a reset and nothing; then the row."""
    client.sandbox.faults.add({"preset": "late_commit", "backend": backend, "commit": 0.3, "times": 1})
    with pytest.raises(aiohttp.ClientConnectionError):
        await create(client, backend)
    before = await listed(client, backend)
    await recorded(client, "created")

    assert before == []
    assert len(await listed(client, backend)) == 1
    assert client.kinds().index("answer") < client.kinds().index("created")


async def test_a_late_commit_that_is_answered_is_a_slow_server(client: Client) -> None:
    """The answer waits for the commit."""
    client.sandbox.faults.add({"backend": "rapidpro", "commit": 0.02})
    reply = await create(client, "rapidpro")

    assert reply.status == 201
    assert client.kinds() == ["request", "created", "answer"]


async def test_a_late_commit_is_forgotten_by_a_sandbox_that_stops(client: Client) -> None:
    """It never reached the database."""
    client.sandbox.faults.add({"preset": "late_commit", "backend": "rapidpro", "commit": 0.05})
    with pytest.raises(aiohttp.ClientConnectionError):
        await create(client, "rapidpro")
    await client.sandbox.stop()
    await asyncio.sleep(0.06)

    assert client.kinds() == ["request", "answer"]


async def test_of_two_late_commits_for_one_contact_the_second_finds_it_busy(client: Client) -> None:
    """The rule is kept when it is committed, not when it was asked."""
    client.sandbox.faults.add({"backend": "twilio", "verb": "create", "commit": 0.02, "times": 2})
    replies = await asyncio.gather(create(client, "twilio"), create(client, "twilio"))

    assert {201, 409} == {reply.status for reply in replies}
    assert client.kinds().count("created") == 1


@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_hang_ends_with_the_callers_patience(client: Client, backend: str) -> None:
    """And what was asked was done."""
    client.sandbox.faults.add({"preset": "hang", "backend": backend})
    with pytest.raises(TimeoutError):
        await create(client, backend, timeout=aiohttp.ClientTimeout(total=0.3))

    assert client.kinds() == ["request", "created", "answer"]


async def test_a_hang_with_a_delay_ends_in_a_reset(client: Client) -> None:
    """So that nothing waits for ever."""
    client.sandbox.faults.add({"preset": "hang_before_commit", "backend": "twilio", "delay": 0.02})
    with pytest.raises(aiohttp.ClientConnectionError):
        await create(client, "twilio")

    assert client.kinds() == ["request", "answer"]


async def test_a_caller_that_hangs_up_has_started_something_all_the_same(client: Client) -> None:
    """The request had arrived whole."""
    client.sandbox.faults.add({"backend": "rapidpro", "delay": 5})
    with pytest.raises(TimeoutError):
        await create(client, "rapidpro", timeout=aiohttp.ClientTimeout(total=0.3))
    await recorded(client, "answer")
    answer = next(client.sandbox.journal.entries(kind="answer"))

    assert client.kinds() == ["request", "created", "answer"]
    assert (answer["status"], answer["how"]) == (None, "hung up")


async def test_half_a_request_starts_nothing(client: Client) -> None:
    """It is in the journal without a body."""
    host, port = client.sandbox.rapidpro_url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /api/v2/flow_starts.json HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
    await writer.drain()
    await asyncio.sleep(0.02)
    writer.close()
    await writer.wait_closed()
    await recorded(client, "request")

    assert [entry["body"] for entry in client.sandbox.journal.entries()] == [None]


async def test_refused_connections(client: Client) -> None:
    """Nobody listens for a while, then it is the same port again, with the same starts."""
    await create(client, "twilio")
    await client.sandbox.refuse("twilio", 0.4)
    with pytest.raises(aiohttp.ClientConnectorError):
        await listed(client, "twilio")
    await asyncio.sleep(0.5)

    assert len(await listed(client, "twilio")) == 1


@pytest.mark.parametrize("backend", BACKENDS)
async def test_lists_can_lag(client: Client, clock: Clock, backend: str) -> None:
    """A row becomes visible so many seconds after it was made, in lists and by its id."""
    client.sandbox.faults.add({"backend": backend, "list_lag": 5})
    made = (await create(client, backend)).json
    alone = f"flow_starts.json?uuid={made['uuid']}" if backend == "rapidpro" else made["url"].partition("/v2/")[2]
    ask = client.rapidpro if backend == "rapidpro" else client.twilio
    early = (await listed(client, backend), await ask("GET", alone))
    clock.tick(5)

    assert early[0] == []
    assert early[1].status == 404 or early[1].json["results"] == []
    assert len(await listed(client, backend)) == 1


@pytest.mark.parametrize("backend", BACKENDS)
async def test_answers_can_be_patched(client: Client, backend: str) -> None:
    """Fields of the answer, or of each row of a list; what a list has itself is replaced there."""
    await create(client, backend)
    client.sandbox.faults.add({"backend": backend, "answer": {"patch": {"status": None, "meta": 7, "next": 8}}})
    text = await (
        client.rapidpro("GET", "flow_starts.json")
        if backend == "rapidpro"
        else client.twilio("GET", f"Flows/FW{'a' * 32}/Executions")
    )
    document = text.json

    assert [row["status"] for row in document.get("results", document.get("executions"))] == [None]
    assert document.get("next", 8) == 8
    assert document.get("meta", 7) == 7


async def test_a_rule_can_be_about_some_requests_only(client: Client) -> None:
    """By verb, and by a text in the path, query or body; the first rule that matches applies."""
    faults = client.sandbox.faults
    faults.add({"backend": "rapidpro", "verb": "create", "match": "twitter:", "answer": {"status": 503}})
    faults.add({"backend": "rapidpro", "verb": "list", "match": "reverse=true", "answer": {"status": 504}})
    statuses = [
        (await client.start()).status,
        (await client.start(urns=["twitter:sirmixalot"])).status,
        (await client.rapidpro("GET", "flow_starts.json")).status,
        (await client.rapidpro("GET", "flow_starts.json?reverse=true")).status,
        (await client.rapidpro("GET", "flows.json?reverse=true")).status,
    ]

    assert statuses == [201, 503, 200, 504, 200]


async def test_chance_repeats_with_its_seed(client: Client) -> None:
    """A probability is drawn from the sandbox's own generator."""
    rule = client.sandbox.faults.add({"backend": "rapidpro", "probability": 0.5, "answer": {"status": 503}})
    statuses = [(await client.rapidpro("GET", "flows.json")).status for _ in range(20)]
    rng = random.Random(f"1/{0}")

    assert statuses == [503 if rng.random() < 0.5 else 200 for _ in range(20)]
    assert client.sandbox.faults.fired(rule) == statuses.count(503)


# fmt: off
BAD_RULES: list[tuple[Any, str]] = [
    ("x",                                                "A rule is a JSON object"),
    ({},                                                 "`backend` must be one of rapidpro, twilio, not None."),
    ({"backend": "x"},                                   "`backend` must be one of"),
    ({"backend": "twilio", "preset": "x"},               "`preset` must be one of 500_after_commit"),
    ({"backend": "twilio", "answr": "real"},             "`answr` is not a field of a rule: use backend, verb"),
    ({"backend": "rapidpro", "verb": "steps"},           "`verb` must be one of any, create, list, fetch, flows"),
    ({"backend": "twilio", "times": 0},                  "`times` must be a positive integer or null, not 0."),
    ({"backend": "twilio", "probability": 2},            "`probability` must be a number from 0 to 1, not 2."),
    ({"backend": "twilio", "match": 1},                  "`match` must be a string or null"),
    ({"backend": "twilio", "commit": "later"},           "`commit` must be true, false or a number of seconds"),
    ({"backend": "twilio", "answer": "explode"},         "`answer` must be real, reset, hang, truncated"),
    ({"backend": "twilio", "answer": {"status": "500"}}, "`answer` must be"),
    ({"backend": "twilio", "answer": {"status": 200, "headers": {"A": 1}}}, "`answer` must be"),
    ({"backend": "twilio", "answer": {"patch": 1}},      "`answer` must be"),
    ({"backend": "twilio", "delay": -1},                 "`delay` must be a number of seconds"),
    ({"backend": "twilio", "list_lag": 1, "times": 2},   "`list_lag` can be combined only with `backend`"),
]
# fmt: on


@pytest.mark.parametrize(("rule", "sentence"), BAD_RULES)
async def test_a_bad_rule_is_refused_with_a_sentence(client: Client, rule: Json, sentence: str) -> None:
    """It names the field."""
    reply = await client.control("POST", "/faults", rule)

    assert reply.status == 400
    assert reply.json["error"].startswith(sentence)
    assert client.sandbox.faults.listing() == []


@pytest.mark.parametrize("backend", BACKENDS)
async def test_every_verb_can_be_named(client: Client, backend: str) -> None:
    """A rule for it is taken."""
    replies = [await client.control("POST", "/faults", {"backend": backend, "verb": verb}) for verb in VERBS[backend]]

    assert {201} == {reply.status for reply in replies}
