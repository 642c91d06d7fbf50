"""Event Streams: what is posted, how it is signed, and what may go wrong with it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from twilio.request_validator import SIGNATURE_SETTINGS_HEADER, RequestValidator, get_signature_algorithm

from gateway.sandbox.settings import (
    SANDBOX_TWILIO_ACCOUNT_SID,
    SANDBOX_TWILIO_AUTH_TOKEN,
    SANDBOX_TWILIO_SHARED_KEY,
    SANDBOX_TWILIO_SHARED_KEY_ID,
)
from gateway.sandbox.twilio.events import PREFIX, signature, with_hash

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.sandbox import SandboxSettings
    from tests.sandbox.conftest import Client, Clock

STARTED, ENDED = PREFIX + "started", PREFIX + "ended"


@dataclass
class Sink:
    """Takes the posts, and answers with these statuses first."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    posts: list[tuple[web.BaseRequest, bytes, Any]] = field(default_factory=list)
    taken: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.Response:
        """Takes a post."""
        self.posts.append((request, await request.read(), await request.json()))
        self.taken.set()
        return web.Response(status=self.statuses.pop(0) if self.statuses else 204)

    async def types(self, count: int) -> list[str]:
        """Waits for so many posts, and names them."""
        async with asyncio.timeout(5):
            while len(self.posts) < count:
                self.taken.clear()
                await self.taken.wait()
        return [events[0]["type"] for _, _, events in self.posts]


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    """A sink on loopback."""
    sink = Sink()
    app = web.Application()
    app.router.add_post("/events", sink.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sink.url = f"http://127.0.0.1:{runner.addresses[0][1]}/events"
    yield sink
    await runner.cleanup()


@pytest.fixture
def settings(settings: SandboxSettings, sink: Sink) -> SandboxSettings:
    """Posts to the sink."""
    return replace(settings, twilio_events_url=sink.url)


async def test_the_start_and_the_end_are_told(client: Client, clock: Clock, sink: Sink) -> None:
    """Each as an array of one CloudEvent, that tells nothing of the parameters."""
    made = (await client.execute(Parameters='{"secret":"x"}')).json
    await sink.types(1)
    clock.tick(11)

    assert [STARTED, ENDED] == await sink.types(2)
    for (_, body, events), status in zip(sink.posts, ("active", "ended"), strict=True):
        [event] = events
        data = event["data"]
        assert b"secret" not in body
        assert ("1.0", 34) == (event["specversion"], len(event["id"]))
        assert (made["sid"], SANDBOX_TWILIO_ACCOUNT_SID, made["flow_sid"], status) == (
            data["execution_sid"], data["account_sid"], data["flow_sid"], data["status"],
        )  # fmt: skip
        assert made["initiated_by"] == data["started_by"]
    assert "FLOW_END" == sink.posts[1][2][0]["data"]["ended_reason"]


async def test_a_post_is_signed(client: Client, sink: Sink) -> None:
    """The signature is that of the URL, which carries the hash of the body."""
    await client.execute()
    await sink.types(1)
    request, body, _ = sink.posts[0]

    assert sha256(body).hexdigest() == request.query["bodySHA256"]
    assert signature(with_hash(sink.url, body)) == request.headers["X-Twilio-Signature"]


def test_a_signature_is_twilios() -> None:
    """Checked by the validator of Twilio's own SDK when it was written down."""
    body = (
        b'[{"specversion": "1.0", "type": "com.twilio.studio.flow.execution.ended", "id": "EZ1", "data":'
        b' {"execution_sid": "FNaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "status": "ended"}}]'
    )
    url = with_hash("https://gw.example.com/twilio/events", body)

    assert url.endswith("?bodySHA256=4813beef7e54a5fa4aa421385cb2a7fd0d9bab3a22b1c3a1159c1b5852c52f4c")
    assert "y4cjRxNXBjrNUUtxSONGJ+gXdQI=" == signature(url, "12345")


async def test_c3_both_events_of_an_execution_have_its_sid_for_an_id(client: Client, clock: Clock, sink: Sink) -> None:
    """As in the one public capture of real ones."""
    made = (await client.execute()).json
    await sink.types(1)
    clock.tick(11)
    await sink.types(2)

    assert [made["sid"]] * 2 == [events[0]["id"] for _, _, events in sink.posts]


@pytest.mark.parametrize(("status", "posts"), [(400, 1), (403, 1), (408, 1), (429, 2), (500, 2), (503, 2)])
async def test_c4_a_post_that_is_refused_is_not_made_again(
    client: Client, clock: Clock, sink: Sink, status: int, posts: int
) -> None:
    """Only 429 and 5xx ask for it. Counted when the sandbox has nothing more to post."""
    sink.statuses = [status]
    await client.execute()
    await asyncio.gather(*client.sandbox.events._posts)
    begun = await sink.types(posts)
    clock.tick(11)

    assert [STARTED] * posts == begun
    assert [STARTED] * posts + [ENDED] == await sink.types(posts + 1)


async def test_events_come_twice_and_the_wrong_way_round(client: Client, clock: Clock, sink: Sink) -> None:
    """As the control endpoint asks; a duplicate has the id of the first."""
    reply = await client.control("POST", "/events", {"duplicate": True, "reverse": True})
    await client.execute()
    clock.tick(11)

    assert {"duplicate": True, "reverse": True, "shared_key": False} == reply.json
    assert [ENDED, ENDED, STARTED, STARTED] == await sink.types(4)
    ids = [events[0]["id"] for _, _, events in sink.posts]
    assert (ids[0], ids[2]) == (ids[1], ids[3])


async def test_a_shared_key_signs_on_demand(client: Client, sink: Sink) -> None:
    """By SHA-256, and a header says so: Twilio's own validator takes it, and not by the auth token."""
    await client.control("POST", "/events", {"shared_key": True})
    await client.execute()
    await sink.types(1)
    [(request, body, _)] = sink.posts
    signed, settings = request.headers["X-Twilio-Signature"], request.headers[SIGNATURE_SETTINGS_HEADER]
    algorithm = get_signature_algorithm(settings)

    def is_valid(secret: str, algorithm: str) -> bool:
        return bool(RequestValidator(secret).validate(str(request.url), body.decode(), signed, algorithm))

    assert f"key={SANDBOX_TWILIO_SHARED_KEY_ID},algorithm=HMAC_SHA256" == settings
    assert is_valid(SANDBOX_TWILIO_SHARED_KEY, algorithm)
    assert not is_valid(SANDBOX_TWILIO_SHARED_KEY, "HMAC_SHA1")
    assert not is_valid(SANDBOX_TWILIO_AUTH_TOKEN, algorithm)


@pytest.mark.parametrize("body", [{"duplicate": 1}, {"often": True}, []])
async def test_another_way_is_refused(client: Client, body: Any) -> None:
    """With a sentence."""
    reply = await client.control("POST", "/events", body)

    error = "Say some of `duplicate`, `reverse` and `shared_key`, each true or false."
    assert (400, {"error": error}) == (reply.status, reply.json)


async def test_a_post_that_is_not_taken_is_made_again(client: Client, sink: Sink) -> None:
    """With the same id; each try is in the journal."""
    sink.statuses = [503]
    await client.execute()
    await sink.types(2)
    await asyncio.sleep(0.02)

    assert [503, 204] == [entry["status"] for entry in client.sandbox.journal.entries(kind="event")]
    assert 1 == len({events[0]["id"] for _, _, events in sink.posts})


async def test_a_deleted_execution_does_not_end(client: Client, sink: Sink) -> None:
    """One that a caller ends does."""
    gone, ended = [(await client.execute(to=f"+1206555000{index}")).json for index in range(2)]
    path = f"Flows/{gone['flow_sid']}/Executions"
    await client.twilio("DELETE", f"{path}/{gone['sid']}")
    await client.twilio("POST", f"{path}/{ended['sid']}", {"Status": "ended"})
    await sink.types(3)
    await asyncio.sleep(0.05)

    assert [ended["sid"]] == [
        events[0]["data"]["execution_sid"] for _, _, events in sink.posts if events[0]["type"] == ENDED
    ]


async def test_a_step_and_its_context(client: Client, clock: Clock) -> None:
    """Failure shows in the context of the step that failed; another sid is not found."""
    made = (await client.execute(Parameters='{"sandbox":"fail"}')).json
    clock.tick(11)
    path = f"Flows/{made['flow_sid']}/Executions/{made['sid']}/Steps"
    last = (await client.twilio("GET", path)).json["steps"][0]
    step = await client.twilio("GET", f"{path}/{last['sid']}")
    context = (await client.twilio("GET", f"{path}/{last['sid']}/Context")).json
    other = await client.twilio("GET", f"{path}/FT{'0' * 32}")

    assert last == step.json
    assert "30003" == context["context"]["widgets"]["send_message_1"]["outbound"]["ErrorCode"]
    assert last["links"]["step_context"] == context["url"]
    assert (404, 20404) == (other.status, other.json["code"])
