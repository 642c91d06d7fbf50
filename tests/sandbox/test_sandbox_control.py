"""The control endpoint, and the sandbox as a process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from gateway.sandbox.settings import loopback_address

if TYPE_CHECKING:
    from tests.sandbox.conftest import Client, Clock, Json

FLOW = "FW" + "a" * 32


async def test_help_can_be_pasted(client: Client) -> None:
    """It names the addresses of this very sandbox."""
    text = (await client.control("GET", "/")).text

    assert f'curl {client.sandbox.control_url}/faults -d \'{{"preset"' in text
    assert client.sandbox.twilio_url in text


async def test_faults_are_added_shown_and_taken_away(client: Client) -> None:
    """One rule or a list; each has an id and a count of how often it fired."""
    one = await client.control("POST", "/faults", {"preset": "throttled", "backend": "twilio", "times": 3})
    two = await client.control("POST", "/faults", [{"backend": "rapidpro"}, {"backend": "twilio", "delay": 1}])
    await client.execute()
    shown = (await client.control("GET", "/faults")).json["faults"]
    gone = await client.control("DELETE", "/faults/2")
    again = await client.control("DELETE", "/faults/2")
    await client.control("DELETE", "/faults")

    assert (one.json["ids"], two.json["ids"]) == ([1], [2, 3])
    assert [(rule["id"], rule["fired"]) for rule in shown] == [(1, 1), (2, 0), (3, 0)]
    assert (gone.status, again.status) == (200, 404)
    assert (await client.control("GET", "/faults")).json == {"faults": []}


async def test_a_list_of_rules_is_taken_whole_or_not_at_all(client: Client) -> None:
    """A bad one spoils it."""
    reply = await client.control("POST", "/faults", [{"backend": "twilio"}, {"backend": "x"}])

    assert (reply.status, client.sandbox.faults.listing()) == (400, [])


async def test_the_journal_can_be_read(client: Client) -> None:
    """From a number on, by kind and backend, and not all at once."""
    await client.start()
    await client.execute()
    everything = (await client.control("GET", "/journal")).json
    created = (await client.control("GET", "/journal?after=2&kind=created&backend=twilio")).json
    two = (await client.control("GET", "/journal?after=1&limit=2")).json

    assert (len(everything["entries"]), everything["head"]) == (6, 6)
    assert [entry["n"] for entry in created["entries"]] == [5]
    assert [entry["n"] for entry in two["entries"]] == [2, 3]


async def test_the_state_is_counts(client: Client) -> None:
    """By backend and status."""
    await client.start()
    await client.execute()
    state = (await client.control("GET", "/state")).json

    assert state["rapidpro"] == {"starts": 1, "statuses": {"pending": 1}}
    assert state["twilio"] == {"starts": 1, "statuses": {"active": 1}}
    assert (state["head"], state["faults"]) == (6, [])


# fmt: off
FORCED: list[tuple[dict[str, Any], str | None, str]] = [
    ({"status": "interrupted"},  "interrupted", "03.250000"),  # an interruption does not touch modified_on
    ({"status": "failed"},       "failed",      "05.250000"),
    ({"status": None},           None,          "05.250000"),
    ({"status": "surprising"},   "surprising",  "05.250000"),
    ({"hold": True},             "started",     "03.250000"),
]
# fmt: on


@pytest.mark.parametrize(("change", "status", "modified"), FORCED)
async def test_a_start_can_be_forced(
    client: Client, clock: Clock, change: dict[str, Any], status: str | None, modified: str
) -> None:
    """It stays as it is from then on."""
    uuid = (await client.start()).json["uuid"]
    clock.tick(5)
    reply = await client.control("POST", f"/starts/{uuid}", change)
    clock.tick(100)
    row = (await client.rapidpro("GET", "flow_starts.json")).json["results"][0]

    assert (200, {"backend": "rapidpro", "external_id": uuid}) == (reply.status, reply.json)
    assert (status, modified) == (row["status"], row["modified_on"][17:-1])
    assert client.kinds().count("forced") == 1


async def test_a_held_start_goes_on_where_it_was(client: Client, clock: Clock) -> None:
    """The time it was held does not count."""
    uuid = (await client.start()).json["uuid"]
    clock.tick(2)
    await client.control("POST", f"/starts/{uuid}", {"hold": True})
    clock.tick(50)
    await client.control("POST", f"/starts/{uuid}", {"hold": False})
    seen = []
    for seconds in (0, 1, 7):
        clock.tick(seconds)
        seen.append((await client.rapidpro("GET", "flow_starts.json")).json["results"][0]["status"])

    assert seen == ["queued", "started", "completed"]


# fmt: off
EXECUTIONS: list[tuple[dict[str, Any], str | None]] = [
    ({"status": "ended"},      "ended"),
    ({"status": None},         None),
    ({"status": "surprising"}, "surprising"),
    ({"hold": True},           "active"),
    ({"hold": False},          "ended"),
]
# fmt: on


@pytest.mark.parametrize(("change", "status"), EXECUTIONS)
async def test_an_execution_can_be_forced(
    client: Client, clock: Clock, change: dict[str, Any], status: str | None
) -> None:
    """Ended, held, or given a status that Studio does not have."""
    sid = (await client.execute()).json["sid"]
    await client.control("POST", f"/starts/{sid}", change)
    clock.tick(11)
    row = (await client.twilio("GET", f"Flows/{FLOW}/Executions/{sid}")).json

    assert status == row["status"]


# fmt: off
REFUSED: list[tuple[str, Any, int, str]] = [
    ("/starts/x", {"status": "failed"},                  404, "There is no start 'x'."),
    ("/starts/x", {},                                    400, "Say `status`, `hold` or both"),
    ("/starts/x", {"state": 1},                          400, "Say `status`, `hold` or both"),
    ("/starts/x", {"status": 1},                         400, "`status` must be a string or null."),
    ("/starts/x", {"hold": "yes"},                       400, "`hold` must be true or false."),
    ("/refuse",   {"backend": "x", "seconds": 1},        400, "`backend` must be one of rapidpro, twilio."),
    ("/refuse",   {"backend": "twilio"},                 400, "`seconds` must be a number of seconds."),
]
# fmt: on


@pytest.mark.parametrize(("path", "body", "status", "sentence"), REFUSED)
async def test_what_cannot_be_done_is_refused_with_a_sentence(
    client: Client, path: str, body: Json, status: int, sentence: str
) -> None:
    """It says what to do instead."""
    reply = await client.control("POST", path, body)

    assert status == reply.status
    assert reply.json["error"].startswith(sentence)


async def test_a_body_that_is_not_json(client: Client) -> None:
    """Is said to be none."""
    reply = await client.ask("POST", f"{client.sandbox.control_url}/faults", data=b"{")

    assert reply.status == 400
    assert reply.json["error"].startswith("The body is not JSON")


async def test_refusing_through_the_control_port(client: Client) -> None:
    """The other backend is not concerned."""
    await client.control("POST", "/refuse", {"backend": "rapidpro", "seconds": 30})
    with pytest.raises(aiohttp.ClientConnectorError):
        await client.start()

    assert (await client.execute()).status == 201


# fmt: off
ADDRESSES: list[tuple[str, tuple[str, int] | str]] = [
    ("127.0.0.1:8001",   ("127.0.0.1", 8001)),
    ("localhost:0",      ("127.0.0.1", 0)),
    ("[::1]:8001",       ("::1", 8001)),
    ("0.0.0.0:8001",     "The sandbox listens on loopback only, not on '0.0.0.0'"),
    ("example.com:80",   "The sandbox listens on loopback only, not on 'example.com'"),
    ("127.0.0.1",        "'127.0.0.1' is not an address"),
    ("127.0.0.1:99999",  "'127.0.0.1:99999' is not an address"),
]
# fmt: on


@pytest.mark.parametrize(("listen", "expected"), ADDRESSES)
def test_only_loopback_is_listened_on(listen: str, expected: tuple[str, int] | str) -> None:
    """The credentials are published."""
    if isinstance(expected, str):
        with pytest.raises(ValueError, match="^" + expected):
            loopback_address(listen)
    else:
        assert expected == loopback_address(listen)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_as_a_process(signum: signal.Signals) -> None:
    """It prints one line of JSON when it is ready, and leaves cleanly when it is told to, even amid a hang."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.sandbox", "--json", "--seed", "1",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    urls = json.loads(await process.stdout.readline())
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{urls['control']}/faults", json={"preset": "hang", "backend": "twilio"}):
            pass
        hanging = asyncio.create_task(session.post(f"{urls['twilio']}/v2/Flows/{FLOW}/Executions", data={}))
        while True:
            async with session.get(f"{urls['control']}/journal") as response:
                if (await response.json())["head"]:
                    break
        process.send_signal(signum)
        with pytest.raises(aiohttp.ClientConnectionError):
            await hanging
    output, errors = await process.communicate()

    assert list(urls) == ["rapidpro", "twilio", "control"]
    assert (process.returncode, output, errors) == (0, b"", b"")
