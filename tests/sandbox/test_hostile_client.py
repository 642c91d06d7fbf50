"""A hostile client: whatever arrives at the three listeners, nothing breaks that was not asked to.

A 5xx is asked for by a fault, or by what breaks the real RapidPro too: `breaks_rapidpro` says what that is.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import uuid
from base64 import b64encode
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from http.client import HTTPException, HTTPResponse
from threading import Event, Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlencode

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.sandbox import Sandbox, SandboxSettings
from gateway.sandbox.exchange import DEEPEST
from gateway.sandbox.rapidpro.catalogue import CONTACTS_BY_URN, GROUPS_BY_NAME
from gateway.sandbox.settings import SANDBOX_RAPIDPRO_TOKEN, SANDBOX_TWILIO_ACCOUNT_SID, SANDBOX_TWILIO_AUTH_TOKEN
from tests.lengths import size
from tests.sandbox.conftest import FLOW, STUDIO_FLOW, Client

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVER_ERROR = b"Server Error. Site administrators have been notified."
TOKEN = b"Token " + SANDBOX_RAPIDPRO_TOKEN.encode()
BASIC = b"Basic " + b64encode(f"{SANDBOX_TWILIO_ACCOUNT_SID}:{SANDBOX_TWILIO_AUTH_TOKEN}".encode())
JSON, FORM = b"application/json", b"application/x-www-form-urlencoded"
RIGHT = {"rapidpro": (TOKEN, JSON), "twilio": (BASIC, FORM), "control": (b"", JSON)}
STARTS, EXECUTIONS = b"/api/v2/flow_starts.json", f"/v2/Flows/{STUDIO_FLOW}/Executions".encode()
START: dict[str, Any] = {"flow": FLOW, "urns": ["tel:+12065551212"]}
often = settings(max_examples=size(80, quick=20), deadline=None)
S = st.sampled_from


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A request, framed properly; what is in it may be anything."""

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    body: bytes = b""

    def __bytes__(self) -> bytes:
        usual = {b"Host": b"hostile", b"Connection": b"close", b"Content-Length": b"%d" % len(self.body)}
        lines = [b"%s: %s" % header for header in (usual | self.headers).items()]
        return b"\r\n".join([b"%s %s HTTP/1.1" % (self.method, self.target), *lines, b"", self.body])


def good(to: str, target: bytes, body: bytes = b"", method: bytes = b"", **extra: bytes) -> Ask:
    """Builds a request with the credentials and the content type it should have."""
    headers = {b"Authorization": RIGHT[to][0], b"Content-Type": RIGHT[to][1]}
    headers |= {name.replace("_", "-").encode(): value for name, value in extra.items()}
    return Ask(method=method or (b"POST" if body else b"GET"), target=target, headers=headers, body=body)


@dataclass(kw_only=True)
class Victim:
    """A sandbox that runs in a thread, so that hypothesis need not wait for an event loop."""

    sandbox: Sandbox
    settings: SandboxSettings
    logged: list[logging.LogRecord] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)

    def send(self, to: str, data: bytes, *, method: str = "", patience: float = 5) -> tuple[int, bytes]:
        """Sends bytes as they are, and reads one answer; status 0 if the connection ends or hangs instead."""
        host, port = getattr(self.sandbox, f"{to}_url").removeprefix("http://").split(":")
        status, body = 0, b""
        with socket.create_connection((host, int(port)), timeout=patience) as connection:
            with suppress(OSError):
                connection.sendall(data)
            with suppress(OSError, HTTPException), HTTPResponse(connection, method=method) as answer:
                answer.begin()
                body = answer.read()
                status = answer.status
        self.sent[f"{to} {status // 100}xx" if status else f"{to} no answer"] += 1
        logged, self.logged[:] = list(self.logged), []
        assert [] == [f"{record.getMessage()} {record.exc_info}" for record in logged]
        return status, body

    def ask(self, to: str, ask: Ask) -> tuple[int, bytes]:
        """Makes a request that has to be answered, and not with a 5xx but for the known reasons."""
        status, body = self.send(to, bytes(ask), method=ask.method.decode("latin-1"))
        assert status, "no answer"
        if status >= 500:
            assert (to, status, body) == ("rapidpro", 500, SERVER_ERROR)
            assert breaks_rapidpro(ask, old=self.settings.rapidpro_generation == "old")
        return status, body

    def read(self, to: str, *targets: bytes) -> Any:
        """Reads what must be there, as strict JSON, and returns the last."""
        answers = [self.ask(to, good(to, target)) for target in targets]
        assert [200] * len(targets) == [status for status, _ in answers]
        return [json.loads(body, parse_constant=pytest.fail) for _, body in answers][-1]

    def judge(self) -> None:
        """Says whether it still works, whether anything was made of what it refused, and whether it can go on."""
        self.read("rapidpro", STARTS)
        self.read("twilio", EXECUTIONS)
        entries = self.read("control", b"/journal")["entries"]
        made = {each["request"] for each in entries if each["kind"] == "created"}
        answers = {each["request"]: each for each in entries if each["kind"] == "answer"}
        assert [] == [n for n in made if answers[n]["status"] not in (200, 201) and "fault" not in answers[n]]
        Sandbox(self.settings).journal.close()  # it reads the journal and rebuilds all


@pytest.fixture(scope="module", params=["new", "old"])
def victim(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """A sandbox of either generation, for everything that is thrown in this file."""
    chosen = SandboxSettings(
        journal=tmp_path_factory.mktemp("hostile") / "journal", duration=timedelta(milliseconds=20),
        rapidpro_generation=request.param, rapidpro_requests_per_hour=None, twilio_creates_per_second=None,
    )  # fmt: skip
    victim = Victim(sandbox=Sandbox(chosen), settings=chosen)
    handler = logging.Handler(logging.WARNING)
    handler.emit = victim.logged.append  # type: ignore[method-assign,assignment]
    ready, over = Event(), asyncio.Event()
    loops = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        async with victim.sandbox:
            ready.set()
            await over.wait()

    logging.getLogger().addHandler(handler)
    thread = Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(5)
    yield victim
    loops[0].call_soon_threadsafe(over.set)
    thread.join()
    logging.getLogger().removeHandler(handler)
    print(f"\n{request.param}: {sum(victim.sent.values())} sent: {dict(sorted(victim.sent.items()))}")


def breaks_rapidpro(ask: Ask, *, old: bool) -> bool:
    """Says whether the real one answers 500, for the reasons that are known (rapidpro.md, 2.1, 2.3 and 3)."""
    query = parse_qs(ask.target.decode("utf-8", "replace").partition("?")[2], keep_blank_values=True)
    if old and ask.method == b"POST" and "uuid" in query:
        try:
            uuid.UUID(query["uuid"][-1])
        except ValueError:
            return True
    if ask.headers.get(b"Content-Type", b"").startswith(FORM):
        fields: Any = parse_qs(ask.body.decode("utf-8", "replace"))
    elif depth(ask.body) > DEEPEST:
        return True
    else:
        fields = json.loads(ask.body)
    for kind, others in (("contacts", CONTACTS_BY_URN), ("groups", GROUPS_BY_NAME)):
        named = [others.get(str(each).lower(), str(each)) for each in fields.get(kind, [])]
        if not old and len(set(named)) < len(named):
            return True
    stored = json.dumps([fields.get("params"), fields.get("extra")], ensure_ascii=False)
    return "\\u0000" in stored or re.search("[\ud800-\udfff]", stored) is not None


def depth(body: bytes) -> int:
    """Counts how deep the brackets of a text nest, at most."""
    deepest = level = 0
    for bracket in re.findall(rb"[\[{\]}]", re.sub(rb'"(\\.|[^"\\])*"', b"", body)):
        level += 1 if bracket in b"[{" else -1
        deepest = max(deepest, level)
    return deepest


def changed(good: dict[str, Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Replaces a few fields of a good body: most with what they may be, some with anything."""
    usual = {name: values | values | values | values | VALUES for name, values in fields.items()}
    return st.fixed_dictionaries({}, optional=usual).map(lambda change: good | change)


def as_form(fields: dict[str, Any]) -> bytes:
    """Writes a form; what is no string is written as JSON, good or not."""
    pairs = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    return urlencode(pairs, errors="surrogatepass").encode()


def as_json(document: object) -> bytes:
    """Writes JSON as Python does: with NaN, and with lone surrogates escaped."""
    return json.dumps(document).encode()


def cursor(text: bytes) -> bytes:
    """Writes a cursor as RapidPro does."""
    return quote(b64encode(text)).encode()


# fmt: off
TEXTS = st.text(st.characters()) | S(["", "\0", "\ud800", "a" * 700, "٣", "tel:1", "\u2028", FLOW])
NUMBERS = st.integers() | st.floats() | S([10**400, -(10**4200), 1e308, 2**63, 1e13, 0.01, 0])
VALUES = st.recursive(st.none() | st.booleans() | NUMBERS | TEXTS, max_leaves=8, extend=lambda inner: (
    st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4)))
OBJECTS, SECONDS = st.dictionaries(TEXTS, VALUES, max_size=4), S([0, 0.01]) | S([0, 0.01]) | NUMBERS
SHAPES = b"%s%s", b'{"params":{"a":%s%s}}', b'{"urns":%s%s}', b'{"backend":"twilio","answer":{"patch":{"a":%s%s}}}'
DEPTHS = DEEPEST - 4, DEEPEST + 1, 490, 950, 990, 3000, 20_000  # made as bytes: nothing here could walk the objects
DEEP = st.builds(lambda shape, n: shape % (b"[" * n, b"]" * n), S(SHAPES), S(DEPTHS))
RAW = DEEP | st.binary(max_size=50) | S([b"", b'{"a":' + b"9" * 5000 + b"}", b"\xef\xbb\xbf{}", b'"\xed\xa0\x80"'])
CONTACTS, GROUPS = (st.lists(S([*names, *names.values()])) for names in (CONTACTS_BY_URN, GROUPS_BY_NAME))
MADE = {
    "rapidpro": changed(START | {"params": {"a": 1}}, flow=TEXTS, contacts=CONTACTS, groups=GROUPS, params=OBJECTS,
                        urns=st.lists(TEXTS), restart_participants=st.booleans(), extra=OBJECTS).map(as_json),
    "twilio": changed({"To": "1", "From": "2"}, To=TEXTS, From=TEXTS, Parameters=VALUES, Status=TEXTS).map(as_form),
}
NAMED = st.dictionaries(S(["Content-Length", "Transfer-Encoding", "Connection"]) | TEXTS, TEXTS | S(["5", "chunked"]))
CANNED = st.fixed_dictionaries({"status": st.integers(100, 999)}, optional={"headers": NAMED, "body": VALUES})
ANSWERS = S(["reset", "truncated"]) | CANNED | st.fixed_dictionaries({"patch": OBJECTS})
RULES = S(["rapidpro", "twilio"]).flatmap(lambda backend: changed(
    {"backend": backend}, preset=S(["500_after_commit", "null_status"]), verb=S(["create", "list"]), times=st.just(1),
    match=TEXTS, commit=st.booleans() | SECONDS, delay=SECONDS, list_lag=SECONDS, answer=ANSWERS))
MINIMAL = {"rapidpro": as_json(START), "twilio": b"To=1&From=2", "control": b'{"duplicate":false}'}
CHANGES = changed({}, status=TEXTS, hold=st.booleans()).map(as_json)
BODIES = {"control": RULES.map(as_json) | CHANGES | RAW} | {name: made | made | RAW for name, made in MADE.items()}

NAMES = {
    "rapidpro": [b"uuid", b"id", b"after", b"before", b"reverse", b"cursor", b"cursor"],
    "twilio": [b"PageSize", b"Page", b"PageToken", b"DateCreatedFrom", b"DateCreatedTo", b"status", b"\xff"],
    "control": [b"after", b"limit", b"kind", b"backend"],
}
ENDS = [b"p=0001-01-01+00:00:00%2B00:00", b"p=9999-12-31+23:59:59.999999%2B00:00", b"p=0001-01-01+00:00:00%2B14:00"]
CURSORS = [*ENDS, *(end + b"&r=1" for end in ENDS), b"p=2026-01-01", b"p=2026-01-01&r=1&o=3", b"p=", b"\xff", b"o=-1"]
ODD = [b"", b"0", b"-1", b"9" * 30, b"9" * 5000, b"1e400", b"NaN", b"%00", b"%ff", b"\xff", b"%ED%A0%80", b"%zz",
       b"PT1", b"true", b"active", b"%D9%A3", FLOW.encode(), b"2026-01-01", b"0001-01-01T00:00:00%2B14:00",
       b"9999-12-31T23:59:59.999999-12:00", b"9999-12-31T23:59:59.999999Z", b"0001-01-01T00:00:00Z", b"10000-01-01",
       *map(cursor, [*CURSORS, b"o=" + b"9" * 5000, b"o=1&r=x", b"o=1&r=1"])]
PATHS = {
    "rapidpro": [STARTS] + [b"/api/v2/" + name for name in (b"flow_starts", b"flows.json", b"workspace.json",
                                b"org.json", b"groups.json", b"contacts.json", b"runs.json", b"flow_starts.json/")],
    "twilio": [EXECUTIONS, b"/v2/Flows", EXECUTIONS[:-11], EXECUTIONS + b"/FN" + b"a" * 32 + b"/Steps"],
    "control": [b"/journal", b"/", b"/faults", b"/faults/" + b"9" * 5000, b"/events", b"/state", b"/starts/%ff"],
}
METHODS = [b"GET", b"POST", b"DELETE", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"get", b"\xff"]
BASICS = [b"Basic " + b64encode(each) for each in (b"\xff:\xff", b"a", b":", b"x" * 5000)]
EXTRAS = st.just({}) | st.just({}) | S([{name: value} for name, values in {
    "Authorization": [b"", b"Token", b"Token a b", b"Basic", b"Basic =", b"Basic \xff", b"\xff", b"x" * 9000, *BASICS],
    "Content_Type": [JSON, FORM, b"text/plain", b"\xff", b"", b";"],
    "Host": [b"", b"\xff", b"a b", b"[", b"h:99999999", b"\xed\xa0\x80", b"x" * 900],
    "Accept": [b"*/*", b"text/html", b"\xff", b","],
    "Content_Encoding": [b"gzip", b"deflate", b"br", b"x"],
    "Expect": [b"100-continue", b"x"],
    "Upgrade": [b"websocket", b"h2c"],
}.items() for value in values])
# fmt: on


def asks(to: str) -> st.SearchStrategy[Ask]:
    """Makes requests for one listener up."""
    path, junk = S(PATHS[to]) | st.just(PATHS[to][0]), S(ODD) | st.binary(max_size=9)
    broken = st.builds(lambda path, at, bad: path[:at] + bad + path[at:], path, st.integers(0, 40), junk)
    pairs = st.lists(st.tuples(S(NAMES[to]), S(ODD)), max_size=3)
    queries = pairs.map(lambda pairs: b"?" + b"&".join(b"%s=%s" % pair for pair in pairs))
    return st.builds(
        lambda path, query, body, method, extra: good(to, path + query, body, method, **extra),
        path | path | path | broken, queries | st.just(b""), BODIES[to], S(METHODS) | S(METHODS[:2]), EXTRAS,
    )  # fmt: skip


@pytest.mark.parametrize("to", PATHS)
def test_one_thing_at_a_time(victim: Victim, to: str) -> None:
    """Each path with each method, and each parameter of the first with each odd value: nothing is left to chance."""
    for path in PATHS[to]:
        for method in METHODS:
            for body in (b"", b"{}", MINIMAL[to]):
                victim.ask(to, good(to, path, body, method))
    for name in NAMES[to]:
        for value in ODD:
            victim.ask(to, good(to, b"%s?%s=%s" % (PATHS[to][0], name, value)))


@pytest.mark.parametrize("to", PATHS)
def test_anything_at_all(victim: Victim, to: str) -> None:
    """Everything is answered, and nothing with a 5xx that no one asked for."""
    chunked = good(to, PATHS[to][0], method=b"POST", Transfer_Encoding=b"chunked")
    request = bytes(chunked).replace(b"Content-Length: 0\r\n", b"") + b"2\r\n{}\r\n0\r\n\r\n"

    @settings(often, max_examples=size(150, quick=40))
    @given(asks(to))
    def throw(ask: Ask) -> None:
        victim.ask(to, ask)

    @settings(often, max_examples=size(50, quick=15))
    @given(st.integers(0, len(request)), st.integers(0, 9), st.binary(max_size=20))
    def spoil(at: int, gone: int, junk: bytes) -> None:
        for spoilt in (request[:at] + junk + request[at + gone :], request[:at]):
            assert victim.send(to, spoilt, patience=0.01)[0] < 500

    throw()
    spoil()


@often
@given(MADE["rapidpro"], CHANGES)
def test_every_start_can_be_read(victim: Victim, body: bytes, change: bytes) -> None:
    """Whatever it was made of, and whatever is done to it."""
    status, answer = victim.ask("rapidpro", good("rapidpro", STARTS, body))
    if status == 201:
        uuid = json.loads(answer)["uuid"].encode()
        victim.ask("control", good("control", b"/starts/" + uuid, change))
        victim.read("rapidpro", STARTS, STARTS + b"?uuid=" + uuid)
        victim.read("control", b"/state")


@often
@given(MADE["twilio"], CHANGES, S([b"POST", b"DELETE"]))
def test_every_execution_can_be_read(victim: Victim, body: bytes, change: bytes, method: bytes) -> None:
    """With its context and its steps, before it is ended or deleted."""
    status, answer = victim.ask("twilio", good("twilio", EXECUTIONS, body))
    if status == 201:
        sid = json.loads(answer)["sid"].encode()
        url, step = EXECUTIONS + b"/" + sid, b"/Steps/FT0" + sid[3:]
        victim.ask("control", good("control", b"/starts/" + sid, change))
        victim.read("twilio", EXECUTIONS, url, url + b"/Context", url + b"/Steps", url + step, url + step + b"/Context")
        assert victim.ask("twilio", good("twilio", url, b"Status=ended", method))[0] in (200, 204)


@often
@given(RULES)
def test_a_fault_is_refused_or_does_what_it_says(victim: Victim, rule: dict[str, Any]) -> None:
    """And nothing else, to a request that is good."""
    victim.ask("control", good("control", b"/faults", method=b"DELETE"))
    if victim.ask("control", good("control", b"/faults", as_json(rule)))[0] == 201:
        [shown] = victim.read("control", b"/faults")["faults"]
        answer, to = shown["answer"], shown["backend"]
        silent = answer in ("reset", "hang", "truncated") or shown["delay"] or shown["commit"] is not True
        for body in (b"", MINIMAL[to]):
            ask = good(to, PATHS[to][0], body)
            seen = victim.send(to, bytes(ask), patience=0.05 if silent else 5)[0]
            assert seen or silent
            assert seen < 500 or seen == answer["status"]
        victim.ask("control", good("control", b"/faults", method=b"DELETE"))


# fmt: off
BAD_CHUNK = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n"
NESTED = b"[" * (DEEPEST - 1) + b"]" * (DEEPEST - 1)
FOUND: list[tuple[str, int, Ask | bytes]] = [
    ("rapidpro", 404, good("rapidpro", STARTS + b"?cursor=" + cursor(b"p=0001-01-01T00:00:00%2B14:00"))),
    ("rapidpro", 200, good("rapidpro", STARTS + b"?cursor=" + cursor(ENDS[0]))),
    ("rapidpro", 200, good("rapidpro", STARTS + b"?cursor=" + cursor(ENDS[1]) + b"&reverse=1")),
    ("rapidpro", 400, good("rapidpro", STARTS, as_json(START | {"flow": "\ud800"}))),
    ("rapidpro", 415, good("rapidpro", STARTS, as_json(START), Content_Type=b"\xff")),
    ("rapidpro", 400, good("rapidpro", STARTS, as_json(START), Content_Encoding=b"gzip")),
    ("rapidpro", 413, good("rapidpro", STARTS, b" " * 2_000_000)),
    ("rapidpro", 500, good("rapidpro", STARTS, b'{"x":[%s]}' % NESTED)),
    ("rapidpro", 201, good("rapidpro", STARTS, as_json(START | {"x": json.loads(NESTED)}))),
    ("rapidpro", 200, good("rapidpro", STARTS + b"?cursor=" + cursor(b"p=2026-01-01"))),
    ("twilio", 400, good("twilio", EXECUTIONS + b"?PageSize=" + b"9" * 5000)),
    ("twilio", 200, good("twilio", EXECUTIONS, Host=b"\xff")),
    ("twilio", 400, good("twilio", EXECUTIONS, b"To=3&From=4&Parameters=NaN")),
    ("twilio", 400, good("twilio", EXECUTIONS, b"To=3&From=4&Parameters=1e400")),
    ("twilio", 400, good("twilio", EXECUTIONS, b"To=3&From=4&Parameters=[[" + NESTED + b"]]")),
    ("control", 400, good("control", b"/faults", b"[" * 20_000)),
    *(("control", 400, good("control", b"/faults", as_json({"backend": "twilio"} | fields))) for fields in (  # type: ignore[operator]
        {"preset": []}, {"list_lag": 1e13}, {"delay": 10**400}, {"match": "\ud800"}, {"answer": {"status": 99}},
        *({"answer": {"status": 503} | rest} for rest in (
            {"headers": {"a": "b\r\nc: d"}}, {"headers": {"content-length": "x"}}, {"body": "\ud800"})),
    )),
    ("control", 400, good("control", b"/refuse", as_json({"backend": "twilio", "seconds": float("nan")}))),
    ("control", 400, good("control", b"/refuse", as_json({"backend": "twilio", "seconds": 10**400}))),
    ("control", 400, good("control", b"/starts/x", as_json({"status": "\ud800"}))),
    ("control", 400, good("control", b"/faults", b"{}", Content_Encoding=b"gzip")),
    ("control", 200, good("control", b"/journal?limit=" + b"9" * 30)),
    *((to, 400, nonsense) for to in PATHS for nonsense in (
        b"\x16\x03\x01\x02\0\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\n\0: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    )),
    *((to, 400, BAD_CHUNK.replace(b"/", path, 1)) for to, path in (("rapidpro", STARTS), ("control", b"/faults"))),
]
# fmt: on


@pytest.mark.parametrize(("to", "status", "ask"), FOUND)
def test_what_was_found(victim: Victim, to: str, status: int, ask: Ask | bytes) -> None:
    """Most of these were a 500, a traceback in the log, or a listener that is gone; the others stand beside one."""
    assert status == (victim.send(to, ask) if isinstance(ask, bytes) else victim.ask(to, ask))[0]


def test_after_it_all(victim: Victim) -> None:
    """It answers, has made nothing of what it refused, and can go on from its journal."""
    victim.judge()


async def test_two_refusals_at_once(client: Client) -> None:
    """The address is open again after both, once, and can be closed again."""
    await asyncio.gather(client.sandbox.refuse("twilio", 0), client.sandbox.refuse("twilio", 0))
    await asyncio.sleep(0.05)

    assert (await client.twilio("GET", "Flows")).status == 200
    await client.sandbox.refuse("twilio", 10)
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.twilio("GET", "Flows")


async def test_a_patch_of_an_answer_without_fields(client: Client) -> None:
    """It is left as it is."""
    client.sandbox.faults.add({"backend": "rapidpro", "answer": {"patch": {"status": None}}})

    assert (await client.rapidpro("GET", "flow_starts")).json == []
