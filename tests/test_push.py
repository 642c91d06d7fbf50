"""Pushes over real HTTP, to the gateway's own listener, into a real store."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from base64 import b64encode
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import structlog
from aiohttp import web
from twilio.request_validator import SIGNATURE_SETTINGS_HEADER as SETTINGS_HEADER
from twilio.request_validator import RequestValidator, get_signature_algorithm

from gateway.config.settings import BackendSettings
from gateway.doors.http import events as push
from gateway.doors.http import port as http_port
from gateway.doors.http.events import BODY_LIMIT, EARLY_FOR, PAUSE, Pushes
from gateway.lanes import lanes
from gateway.loops import Loops
from gateway.model import State
from gateway.sandbox.twilio.events import PREFIX, signature, with_hash
from gateway.server import building as server
from tests.builders import accepted, again, create, run_to
from tests.fakes import PATIENCE, Ticks, Watched, settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from gateway.model import FlowStart
    from gateway.store import Store

ACCOUNT, FLOW, TOKEN, SHARED = "AC" + "a" * 32, "FW" + "a" * 32, "t0ken", "sh4red"
RUNS, OTHER = "FN" + "a" * 32, "FN" + "b" * 32
NUMBER = "+12065550100"
STUDIO = {"kind": "twilio", "url": "https://studio.twilio.com", "account_sid": ACCOUNT, "sender": "+18007654321"}
BACKENDS = {
    "studio": {**STUDIO, "auth_token": TOKEN},
    "proxied": {**STUDIO, "auth_token": TOKEN, "public_url": "https://gw.example.org/startflow/"},
    "deaf": {**STUDIO, "api_key": "SK1", "api_secret": TOKEN},
    "shared": {**STUDIO, "api_key": "SK1", "api_secret": TOKEN, "shared_key": SHARED},
    "both": {**STUDIO, "auth_token": TOKEN, "shared_key": SHARED},
    "textit": {"kind": "rapidpro", "url": "https://textit.com", "token": TOKEN},
}


def event(what: str, execution: str = RUNS, **different: Any) -> dict[str, Any]:
    """Builds an event as Twilio does; its id is of what it tells."""
    data = {"execution_sid": execution, "account_sid": ACCOUNT, "flow_sid": FLOW, "contact_channel_address": NUMBER}
    data |= {"status": "ended" if what == "ended" else "active", "date_created": "2026-03-01T12:00:00Z"}
    told = {"specversion": "1.0", "type": PREFIX + what, "id": f"EZ{what}{execution[-8:]}", "data": data}
    return {**told, **different, "new": [None]}


@dataclass
class Gateway:
    """What serves the pushes, and a client of it."""

    store: Watched
    pushes: Pushes
    ticks: Ticks
    url: str
    http: aiohttp.ClientSession
    logged: list[Any] = field(default_factory=list)

    async def post(self, *events: Any, to: str = "twilio/studio", **given: Any) -> int:
        """Posts a batch, signed; returns the status."""
        body = given.get("body", json.dumps(list(events)).encode())
        url = with_hash(f"{self.url}/events/{to}", body)
        signed = {"X-Twilio-Signature": signature(given.get("signed_as", url), given.get("token", TOKEN))}
        headers = {} if given.get("unsigned") else signed
        async with self.http.post(url, data=given.get("sent", body), headers=headers) as answer:
            return answer.status

    async def speak(self, raw: bytes) -> tuple[int, bytes]:
        """Sends bytes and says nothing more; returns the status and the rest of the answer, or 0 if there was none."""
        port = int(self.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.timeout(PATIENCE):
                writer.write(raw)
                head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return 0, b""
        finally:
            writer.close()
        return int(head.split()[1]), head

    def head(self, body: bytes, *headers: str, method: str = "POST") -> bytes:
        """Writes the head of a signed post."""
        url = with_hash(f"{self.url}/events/twilio/studio", body)
        lines = [f"{method} {url.removeprefix(self.url)} HTTP/1.1", f"Host: {self.url.removeprefix('http://')}"]
        return "\r\n".join([*lines, f"X-Twilio-Signature: {signature(url, TOKEN)}", *headers, "", ""]).encode()

    async def running(self, execution: str = RUNS, state: State = State.STARTED) -> FlowStart:
        """Records a start that the backend has accepted."""
        start = await create(self.store, backend="studio", flow=FLOW)
        await run_to(self.store, start, accepted(execution, state))
        return start

    async def state(self, start: FlowStart) -> State:
        """Tells how a start stands."""
        return (await again(self.store, start)).standing.state

    async def until(self, start: FlowStart, state: State) -> None:
        """Waits until a start stands like that, while time passes."""

        async def is_so() -> bool:
            await self.ticks.pass_by(PAUSE)
            return await self.state(start) is state

        await self.store.until(is_so)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """What is undone at the end."""
    async with AsyncExitStack() as undone:
        yield undone


@pytest.fixture
def answer_within() -> float:
    """In how many seconds every push is answered; tests of what takes too long have a shorter one."""
    return PATIENCE


@pytest.fixture
async def gateway(store: Store, stack: AsyncExitStack, answer_within: float) -> Gateway:
    """Listens as the gateway does."""
    ticks, watched = Ticks(), Watched(store)
    backends = {
        name: lanes.make_backend(name, BackendSettings.model_validate(given)) for name, given in BACKENDS.items()
    }
    pushes = Pushes(watched, backends, monotonic=ticks, sleep=ticks.sleep, answer_within=answer_within)
    Loops().keep(stack, "pushes", pushes.run)
    logged = stack.enter_context(structlog.testing.capture_logs())
    port = await http_port.Port.take("127.0.0.1:0", stack)
    await server._serve_http(port, pushes, stack)
    url = f"http://{port.address}"
    http = await stack.enter_async_context(aiohttp.ClientSession())
    return Gateway(watched, pushes, ticks, url, http, logged)


# What is told


async def test_an_end_ends_a_start(gateway: Gateway) -> None:
    """At once, and what is of others in the same batch does no harm."""
    start = await gateway.running()
    status = await gateway.post(event("ended", OTHER), {"type": "com.twilio.other"}, event("ended"), None)

    assert 204 == status
    assert State.COMPLETED is await gateway.state(start)


async def test_a_beginning_begins_one(gateway: Gateway) -> None:
    """Also with a status that nobody knows, and never ends it."""
    for execution, status in ((RUNS, "paused"), (OTHER, "ended")):
        start = await gateway.running(execution, State.QUEUED)
        told = event("started", execution)
        told["data"]["status"] = status
        assert 204 == await gateway.post(told)
        assert State.STARTED is await gateway.state(start)


async def test_nothing_goes_back(gateway: Gateway) -> None:
    """A beginning that comes after the end changes nothing."""
    start = await gateway.running()
    assert 204 == await gateway.post(event("ended"))
    ended = await again(gateway.store, start)
    assert 204 == await gateway.post(event("started"))

    assert State.COMPLETED is ended.standing.state
    assert ended == await again(gateway.store, start)


async def test_a_push_to_another_backend_moves_nothing_of_this(gateway: Gateway) -> None:
    """Even of the same account."""
    start = await gateway.running()
    public = "https://gw.example.org/startflow/events/twilio/proxied"
    body = json.dumps([event("ended")]).encode()
    assert 204 == await gateway.post(to="twilio/proxied", body=body, signed_as=with_hash(public, body))

    assert State.STARTED is await gateway.state(start)


async def test_nothing_for_us_is_taken(gateway: Gateway) -> None:
    """An empty batch, one without events of ours, one that is no array; the store is not even asked."""
    foreign = event("ended")
    foreign["data"]["account_sid"] = "AC" + "b" * 32
    gateway.store.calls.clear()

    assert [204] * 4 == [await gateway.post(*told) for told in ([], [{}], [foreign], [7])]
    assert 204 == await gateway.post(body=json.dumps({"type": "other"}).encode())
    assert [] == gateway.store.calls


# Who is listened to


@pytest.mark.parametrize(
    "to", ["twilio/unknown", "twilio/textit", "rapidpro/textit", "rapidpro/studio", "other/studio", "twilio", ""]
)
async def test_who_does_not_push_is_not_found(gateway: Gateway, to: str) -> None:
    """A backend that is not there, is of another kind, or whose kind does not push."""
    assert 404 == await gateway.post(event("ended"), to=to)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_only_posts_are_taken(gateway: Gateway, method: str) -> None:
    """Another method is told which one is."""
    async with gateway.http.request(method, f"{gateway.url}/events/twilio/studio") as answer:
        assert (405, "POST") == (answer.status, answer.headers["Allow"])


async def test_what_is_not_signed_is_not_believed(gateway: Gateway) -> None:
    """By another token, for another URL, with another body, for a backend that has no token. It moves nothing."""
    start = await gateway.running()
    body = json.dumps([event("ended")]).encode()
    elsewhere = with_hash("https://gw.example.org/events/twilio/studio", body)
    gateway.store.calls.clear()
    statuses = [
        await gateway.post(body=body, token="other"),
        await gateway.post(body=body, signed_as=elsewhere),
        await gateway.post(body=body, sent=body.replace(b"aaaa", b"AAAA")),
        await gateway.post(body=body, to="twilio/deaf"),
        await gateway.post(body=body, to="twilio/proxied"),
    ]

    assert [503] * 5 == statuses
    assert [] == gateway.store.calls
    assert State.STARTED is await gateway.state(start)


async def test_c4_what_twilio_did_not_sign_at_all_is_refused_for_good(gateway: Gateway) -> None:
    """Twilio repeats what is answered 429 or 5xx and drops the rest: 5xx is only for what may be its."""
    assert 403 == await gateway.post(event("ended"), unsigned=True)
    assert 503 == await gateway.post(event("ended"), token="other")


async def test_c3_a_beginning_and_an_end_with_one_id_are_two(gateway: Gateway) -> None:
    """Twilio gives both events of an execution its SID for an id."""
    start = await gateway.running()
    for what in ("started", "ended"):
        assert 204 == await gateway.post(event(what, id=RUNS))

    assert State.COMPLETED is await gateway.state(start)


async def test_why_is_told_in_the_log_alone_and_seldom(gateway: Gateway) -> None:
    """Once a minute of each backend, with the setting, and without what came."""
    for _ in range(3):
        assert 503 == await gateway.post(event("ended"), token="0ther")
        assert 503 == await gateway.post(event("ended"), to="twilio/deaf")
    told = [(entry["event"], entry["backend"]) for entry in gateway.logged]
    gateway.ticks.tick(61)
    assert 503 == await gateway.post(event("ended"), token="0ther")
    whys = {entry["backend"]: entry["why"] for entry in gateway.logged}

    assert [("push_refused", "studio"), ("push_refused", "deaf")] == told
    assert 3 == len(gateway.logged)
    assert "public_url" in whys["studio"]
    assert "auth_token is not set" in whys["deaf"]
    for private in (TOKEN, "0ther", NUMBER, RUNS):
        assert private not in str(gateway.logged)


async def test_a_stranger_s_body_is_not_read(gateway: Gateway) -> None:
    """The answer comes while all of it is still to come."""
    head = gateway.head(b"x", "Content-Length: 1000000").replace(b"X-Twilio-Signature: ", b"X-Twilio-Signature: A")

    assert 503 == (await gateway.speak(head))[0]


async def test_a_request_without_a_host_is_no_push(gateway: Gateway) -> None:
    """Nobody signs that."""
    head = gateway.head(b"[]", "Content-Length: 2").replace(b"HTTP/1.1", b"HTTP/1.0")
    without = b"\r\n".join(line for line in head.split(b"\r\n") if not line.startswith(b"Host"))

    assert 503 == (await gateway.speak(without + b"[]"))[0]


async def test_a_proxy_before_it(gateway: Gateway) -> None:
    """What Twilio signed is `public_url` and the path below it, whatever the request says."""
    body = b"[]"
    public = with_hash("https://gw.example.org/startflow/events/twilio/proxied", body)

    assert 204 == await gateway.post(to="twilio/proxied", body=body, signed_as=public)


# Other signatures

BY_SHARED_KEY = "key=webhooks_sharedkey_01k4hg4tvzecxt7bk1y0v5xqhr,algorithm=HMAC_SHA256"


@pytest.mark.parametrize(
    ("to", "secret", "algorithm", "settings", "status"),
    [
        ("shared", SHARED, "HMAC_SHA256", BY_SHARED_KEY, 204),
        ("both", SHARED, "HMAC_SHA256", BY_SHARED_KEY, 204),
        ("both", SHARED, "HMAC_SHA256", BY_SHARED_KEY.replace("HMAC", "hmac").replace(",", " , "), 204),
        ("both", SHARED, "HMAC_SHA1", BY_SHARED_KEY.replace("256", "1"), 204),
        ("both", SHARED, "HMAC_SHA1", BY_SHARED_KEY.partition(",")[0], 204),  # the SDKs' default
        ("both", TOKEN, "HMAC_SHA1", None, 204),
        ("both", TOKEN, "HMAC_SHA256", BY_SHARED_KEY, 503),
        ("both", TOKEN, "HMAC_SHA1", BY_SHARED_KEY, 503),
        ("both", SHARED, "HMAC_SHA1", None, 503),
        ("both", SHARED, "HMAC_SHA1", BY_SHARED_KEY, 503),
        ("both", SHARED, "HMAC_SHA256", BY_SHARED_KEY.replace("256", "1"), 503),
        ("both", SHARED, "HMAC_SHA256", BY_SHARED_KEY.replace("HMAC_SHA256", "NONE"), 503),
        ("shared", TOKEN, "HMAC_SHA1", None, 503),
        ("studio", SHARED, "HMAC_SHA256", BY_SHARED_KEY, 503),
    ],
)
async def test_a_shared_key_signs(
    gateway: Gateway, to: str, secret: str, algorithm: str, settings: str | None, status: int
) -> None:
    """With the header that names it, the shared key alone is believed, and without it the auth token alone.

    What is expected is what Twilio's own validator says.
    """
    body = json.dumps([event("ended")]).encode()
    url = with_hash(f"{gateway.url}/events/twilio/{to}", body)
    signed = RequestValidator(secret).compute_signature(url, {}, algorithm)
    headers = {"X-Twilio-Signature": signed} | ({SETTINGS_HEADER: settings} if settings else {})
    believed = RequestValidator(BACKENDS[to].get("shared_key" if settings else "auth_token", "-"))

    async with gateway.http.post(url, data=body, headers=headers) as answer:
        assert status == answer.status
    assert (status == 204) is believed.validate(url, body.decode(), signed, get_signature_algorithm(settings))


async def test_it_is_said_which_key_is_missing(gateway: Gateway) -> None:
    """And neither the key nor anything of the post."""
    body = b"[]"
    for to, settings in (("studio", BY_SHARED_KEY), ("both", BY_SHARED_KEY), ("shared", BY_SHARED_KEY + "9")):
        url = with_hash(f"{gateway.url}/events/twilio/{to}", body)
        headers = {"X-Twilio-Signature": signature(url, "0ther"), SETTINGS_HEADER: settings}
        async with gateway.http.post(url, data=body, headers=headers) as answer:
            assert 503 == answer.status
    whys = {entry["backend"]: entry["why"] for entry in gateway.logged}

    assert "shared_key is not set" in whys["studio"]
    assert "not signed with shared_key" in whys["both"]
    assert "an algorithm that is not known here" in whys["shared"]


@pytest.mark.parametrize(
    ("login", "spelled"),
    [
        ("name:pa55", "name:pa55@"),
        ("name:pa55", ""),  # Twilio's page says that messages and calls are signed without, and is silent on events
        ("name:", "name@"),
        ("n@me:p:ss/é", "n%40me:p%3Ass%2F%C3%A9@"),
    ],
)
@pytest.mark.parametrize("port", ["", ":443"])
async def test_a_sink_whose_url_has_user_and_password(gateway: Gateway, login: str, spelled: str, port: str) -> None:
    """Its URL was signed with them or without; Twilio sends them in each request's `Authorization`."""
    body = b"[]"
    path = "/startflow/events/twilio/proxied"
    signed = signature(with_hash(f"https://{spelled}gw.example.org{port}{path}", body), TOKEN)
    basic = "Basic " + b64encode(login.encode()).decode()
    url = with_hash(f"{gateway.url}/events/twilio/proxied", body)

    answers = []
    for authorization in (basic, "Basic " + b64encode(b"0ther:pa55").decode(), "Basic =", "Bearer x"):
        headers = {"X-Twilio-Signature": signed, "Authorization": authorization}
        async with gateway.http.post(url, data=body, headers=headers) as answer:
            answers.append(answer.status)

    assert [204, *([503] * 3 if spelled else [204] * 3)] == answers
    for private in ("name:", "pa55", login):
        assert private not in str(gateway.logged)


async def test_a_login_does_not_move_the_host(gateway: Gateway) -> None:
    """What Twilio has signed for another host is not believed here, whatever a request says of user and password."""
    body = b"[]"
    login = "elsewhere.example/hook"
    signed = signature(with_hash(f"https://{login}@gw.example.org/startflow/events/twilio/proxied", body), TOKEN)
    headers = {"X-Twilio-Signature": signed, "Authorization": "Basic " + b64encode(login.encode()).decode()}
    url = with_hash(f"{gateway.url}/events/twilio/proxied", body)

    async with gateway.http.post(url, data=body, headers=headers) as answer:
        assert 503 == answer.status


# What takes too much


async def test_a_large_body_is_refused_by_its_length(gateway: Gateway) -> None:
    """Before it comes; one that is as large as it may be is not."""
    body = b"[" + b" " * (BODY_LIMIT - 2) + b"]"

    assert 413 == (await gateway.speak(gateway.head(b"x", f"Content-Length: {BODY_LIMIT + 1}")))[0]
    assert 204 == await gateway.post(body=body)


async def test_a_large_body_without_a_length_is_cut(gateway: Gateway) -> None:
    """When there has been too much of it, though it has no end."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(BODY_LIMIT // 65_536 + 1):
            yield b" " * 65_536

    assert 413 == await gateway.post(body=b"", sent=chunks())


@pytest.mark.parametrize("answer_within", [0.2])
async def test_a_slow_body_is_cut(gateway: Gateway) -> None:
    """However much of it has come."""
    assert 503 == (await gateway.speak(gateway.head(b"[]", "Content-Length: 2") + b"["))[0]
    assert 503 == (await gateway.speak(gateway.head(b"[]", "Transfer-Encoding: chunked") + b"1\r\n[\r\n"))[0]


async def test_a_body_that_is_no_body(gateway: Gateway) -> None:
    """Bad chunks are no request at all. What something in between has broken comes again."""
    chunked = gateway.head(b"[]", "Transfer-Encoding: chunked") + b"zz\r\n[]\r\n"
    zipped = gateway.head(b"[]", "Content-Encoding: gzip", "Content-Length: 2") + b"[]"

    assert [400, 503] == [(await gateway.speak(raw))[0] for raw in (chunked, zipped)]


@pytest.mark.parametrize("body", [b"", b"{", b"7", b"<html>", b"\xff", b"[" * 100_000, b"null"])
async def test_what_is_signed_and_no_json_is_seen(gateway: Gateway, body: bytes) -> None:
    """By whoever looks at Twilio's log, and at ours."""
    assert 400 == await gateway.post(body=body)
    assert [("push_unreadable", "studio")] == [(entry["event"], entry["backend"]) for entry in gateway.logged]


async def test_too_many_at_once_are_put_off(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are being taken go on, and there is room again afterwards."""
    monkeypatch.setattr(push, "AT_ONCE", 2)
    first = [await gateway.running(execution) for execution in (RUNS, OTHER)]
    go, waiting = asyncio.Event(), asyncio.Semaphore(0)

    async def wait() -> None:
        waiting.release()
        await go.wait()

    gateway.store.before["unknown"] = wait
    posts = [asyncio.create_task(gateway.post(event("ended", execution))) for execution in (RUNS, OTHER)]
    for _ in posts:
        await waiting.acquire()
    assert 503 == await gateway.post(event("started"))
    go.set()

    assert [204, 204, 204] == [*await asyncio.gather(*posts), await gateway.post(event("started"))]
    assert [State.COMPLETED] * 2 == [await gateway.state(start) for start in first]


# What the store does


@pytest.mark.parametrize("operation", ["unknown", "sight"])
async def test_what_the_store_does_not_take_is_asked_for_again(gateway: Gateway, operation: str) -> None:
    """The same event, posted again, is not taken for one that was told before."""
    start = await gateway.running()
    gateway.store.down[operation] = 1
    statuses = [await gateway.post(event("ended")) for _ in range(2)]

    assert [503, 204] == statuses
    assert State.COMPLETED is await gateway.state(start)


@pytest.mark.parametrize("answer_within", [0.2])
@pytest.mark.parametrize("operation", ["unknown", "sight"])
async def test_a_store_that_does_not_answer_holds_nobody_up(gateway: Gateway, operation: str) -> None:
    """The backend is told to come again, and the place is free for others."""
    start = await gateway.running()
    never = asyncio.Event()

    async def wait() -> None:
        await never.wait()

    gateway.store.before[operation] = wait
    assert 503 == await gateway.post(event("ended"))
    del gateway.store.before[operation]
    gateway.pushes._answer_within = PATIENCE

    assert 204 == await gateway.post(event("ended"))
    assert State.COMPLETED is await gateway.state(start)


async def test_what_was_told_is_not_recorded_again(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the id of the event, of which the latest are remembered; one without an id is looked at each time."""
    monkeypatch.setattr(push, "REMEMBERED", 2)
    await gateway.running()
    writes = []
    for told in ("1", "2", "1", "1", "3", "2", "1", ["1"], ["1"]):
        gateway.store.calls.clear()
        assert 204 == await gateway.post(event("started", id=told))
        writes.append(gateway.store.calls.count("sight"))

    assert [1, 1, 0, 0, 1, 1, 1, 1, 1] == writes


async def test_two_batches_race(gateway: Gateway) -> None:
    """In whatever order they come, and with the same events in both, each start ends once."""
    executions = [f"FN{number:032x}" for number in range(20)]
    starts = [await gateway.running(execution, State.QUEUED) for execution in executions]
    told = [event(what, execution) for execution in executions for what in ("started", "ended")]
    statuses = await asyncio.gather(*(gateway.post(*order) for order in (told, told[::-1], told[10:], told[:30])))
    changes = (await gateway.store.changes(0, 10_000)).changes
    ends = [change.flow_start.asked.id for change in changes if change.flow_start.standing.state is State.COMPLETED]

    assert [204] * 4 == statuses
    assert sorted(start.asked.id for start in starts) == sorted(ends)


# What comes early


async def test_an_end_before_the_answer_waits_for_it(gateway: Gateway) -> None:
    """The dispatch is not known yet by its external id; when it is, the start ends."""
    start = await create(gateway.store, backend="studio", flow=FLOW)
    assert 204 == await gateway.post(event("ended"))
    before = await gateway.state(start)
    await run_to(gateway.store, start, accepted(RUNS, State.STARTED))
    await gateway.until(start, State.COMPLETED)

    assert State.PENDING is before


async def test_an_end_while_the_answer_is_recorded(gateway: Gateway) -> None:
    """Between asking the store whose it is and keeping it: the next look finds it."""
    await gateway.running(OTHER)
    start = await create(gateway.store, backend="studio", flow=FLOW)

    async def accept() -> None:
        del gateway.store.before["sight"]
        await run_to(gateway.store, start, accepted(RUNS, State.STARTED))
        await gateway.ticks.pass_by(10 * PAUSE)

    gateway.store.before["sight"] = accept
    assert 204 == await gateway.post(event("ended"), event("started", OTHER))  # which moves nothing

    await gateway.until(start, State.COMPLETED)


async def test_an_early_end_outlives_a_store_that_is_down(gateway: Gateway) -> None:
    """It is looked at again."""
    start = await create(gateway.store, backend="studio", flow=FLOW)
    assert 204 == await gateway.post(event("ended"))
    await gateway.ticks.pass_by(PAUSE)
    gateway.store.down = {"sight": 2}
    await run_to(gateway.store, start, accepted(RUNS, State.STARTED))

    await gateway.until(start, State.COMPLETED)
    assert {"sight": 0} == gateway.store.down


async def test_an_early_end_is_forgotten(gateway: Gateway) -> None:
    """After five minutes it is somebody else's; sweeping finds what is not."""
    start = await create(gateway.store, backend="studio", flow=FLOW)
    assert 204 == await gateway.post(event("ended"))
    await gateway.ticks.pass_by(EARLY_FOR + PAUSE)
    await run_to(gateway.store, start, accepted(RUNS, State.STARTED))
    other = await create(gateway.store, backend="studio", flow=FLOW)
    assert 204 == await gateway.post(event("ended", OTHER))
    await run_to(gateway.store, other, accepted(OTHER, State.STARTED))
    await gateway.until(other, State.COMPLETED)

    assert State.STARTED is await gateway.state(start)


async def test_only_so_many_early_ends_are_kept(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest ones; beginnings are not."""
    monkeypatch.setattr(push, "EARLY", 2)
    executions = [f"FN{number:032x}" for number in range(3)]
    await gateway.post(*(event("ended", execution) for execution in executions), event("started", RUNS))

    assert executions[1:] == list(gateway.pushes._early["studio"])


async def test_nothing_kept_costs_nothing(gateway: Gateway) -> None:
    """What others record asks the store nothing, and neither does an end that was found its dispatch."""
    start = await create(gateway.store, backend="studio", flow=FLOW)
    await gateway.post(event("ended"))
    await run_to(gateway.store, start, accepted(RUNS, State.STARTED))
    await gateway.until(start, State.COMPLETED)
    await gateway.ticks.sleeping()
    gateway.store.calls.clear()
    await create(gateway.store, backend="studio", flow=FLOW)
    await gateway.ticks.pass_by(5 * PAUSE)
    await settled()

    assert ["create"] == gateway.store.calls


# Whatever may come


PIECES = (
    *(b"\r\n", b"\r\n\r\n", b" ", b":", b"%", b"?bodySHA256=", b"\x00", b"\xff", b"//", b"http://["),
    *(b"Host: [::1\r\n", b"Content-Length: -1\r\n", b"Expect: 100-continue\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"Content-Encoding: br\r\n", b"X-Twilio-Signature: \xff\r\n", b"Upgrade: h2c\r\n"),
)


def _noise(rng: random.Random, good: Sequence[bytes]) -> bytes:
    """Makes a request of pieces of good ones and of bytes that are none."""
    raw = bytearray(rng.choice(good))
    for _ in range(rng.randrange(5)):
        place = rng.randrange(len(raw))
        piece = rng.choice([rng.randbytes(rng.randrange(1, 20)), *PIECES])
        raw[place : place + rng.choice((0, 0, 1, 10))] = piece
    return bytes(raw) + b"\r\n\r\n"  # so that the head has an end


@pytest.mark.parametrize("answer_within", [0.05])
@pytest.mark.parametrize("seed", range(4))
async def test_whatever_is_sent_is_answered_in_order(
    gateway: Gateway, caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    """No bytes are a bug of ours, nothing of them is logged, nothing moves, and others are served as before."""
    start = await gateway.running()
    rng, body = random.Random(seed), json.dumps([event("started")]).encode()
    good = [
        gateway.head(body, f"Content-Length: {len(body)}") + body,
        gateway.head(body, "Transfer-Encoding: chunked") + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body),
        gateway.head(b"", "Content-Length: 0"),
    ]
    with caplog.at_level(logging.DEBUG, "gateway.http"):
        statuses = [(await gateway.speak(_noise(rng, good)))[0] for _ in range(120)]

    assert {0, 200, 204, 400, 403, 404, 405, 413, 417, 503} | {100} >= set(statuses)
    assert {204, 400, 503} <= set(statuses)
    assert [] == [record.getMessage() for record in caplog.records if record.name == "gateway.http"]
    assert {"push_refused", "push_unreadable"} >= {entry["event"] for entry in gateway.logged}
    assert NUMBER not in str(gateway.logged)
    assert State.STARTED is await gateway.state(start)
    gateway.pushes._answer_within = PATIENCE
    assert 204 == await gateway.post(event("ended"))


async def test_a_bug_is_logged(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    """The line that is left out is that of what no parser reads, and of nothing else."""
    gateway.store.before["unknown"] = web.Application  # type: ignore[assignment]  # something that cannot be awaited

    assert 500 == await gateway.post(event("ended"))
    assert [("gateway.http", "ERROR")] == [(record.name, record.levelname) for record in caplog.records]
