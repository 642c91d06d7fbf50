"""The journal: order, content, and what a sandbox that is started again makes of it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import aiohttp
import pytest

from gateway.sandbox import SANDBOX_RAPIDPRO_TOKEN, Sandbox, SandboxSettings
from gateway.sandbox import journal as journals
from gateway.sandbox.journal import Journal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.sandbox.conftest import Client, Clock

FLOW = "FW" + "a" * 32


async def test_every_exchange_is_recorded_in_order(client: Client) -> None:
    """Request, creation, answer; numbered without gaps; the request exactly as it came."""
    await client.rapidpro("POST", "flow_starts.json?x=%20y", b'{"flow": "f5901b62-ba76-4003-9c62-72fdacc1b7b7",\n'
                          b' "urns": ["tel:+12065551212"], "params": {"startflow_id": "k"}}')  # fmt: skip
    await client.execute(Parameters='{"startflow_id":"k"}')
    request, created, answer, _, executed, _ = client.sandbox.journal.entries()

    assert [entry["n"] for entry in client.sandbox.journal.entries()] == [1, 2, 3, 4, 5, 6]
    assert (
        request["kind"], request["backend"], request["method"], request["path"], request["query"],
    ) == ("request", "rapidpro", "POST", "/api/v2/flow_starts.json", "x=%20y")  # fmt: skip
    assert f"Token {SANDBOX_RAPIDPRO_TOKEN}" == request["headers"]["Authorization"]
    assert request["body"].startswith('{"flow": "f5901b62-ba76-4003-9c62-72fdacc1b7b7",\n "urns"')
    assert request["at"] == "2026-03-01T12:00:00.250000Z"
    assert (
        created["request"], created["params"], created["urns"],
    ) == (1, {"startflow_id": "k"}, ["tel:+12065551212"])  # fmt: skip
    assert (answer["request"], answer["status"]) == (1, 201)
    assert (
        executed["request"], executed["to"], executed["from"], executed["params"],
    ) == (4, "+12065551212", "+18005551212", {"startflow_id": "k"})  # fmt: skip


class TestRestart:
    """A sandbox with a journal file is stopped and started again."""

    @pytest.fixture
    def settings(self, settings: SandboxSettings, tmp_path: Path) -> SandboxSettings:
        """Keeps a journal."""
        return replace(settings, journal=tmp_path / "journal")

    async def test_nothing_is_lost(self, client: Client, settings: SandboxSettings, clock: Clock) -> None:
        """Starts, their moves, what was ended, deleted and forced, and the numbering go on."""
        uuids = [(await client.start()).json["uuid"] for _ in range(4)]
        sids = [(await client.execute(to=f"+{index}")).json["sid"] for index in range(4)]
        await client.twilio("POST", f"Flows/{FLOW}/Executions/{sids[0]}", {"Status": "ended"})
        await client.twilio("DELETE", f"Flows/{FLOW}/Executions/{sids[1]}")
        clock.tick(4)
        await client.control("POST", f"/starts/{uuids[0]}", {"status": "interrupted"})
        await client.control("POST", f"/starts/{uuids[1]}", {"hold": True})
        await client.control("POST", f"/starts/{sids[2]}", {"hold": True})
        clock.tick(3)
        await client.control("POST", f"/starts/{uuids[1]}", {"hold": False})
        head = client.sandbox.journal.head
        paths = [("rapidpro", "flow_starts.json"), ("twilio", f"Flows/{FLOW}/Executions")]
        before = [(await getattr(client, name)("GET", path)).json for name, path in paths]
        head = client.sandbox.journal.head
        await client.sandbox.stop()
        # The same addresses, so that links in the answers are the same too.
        addresses = [url.removeprefix("http://") for url in (client.sandbox.rapidpro_url, client.sandbox.twilio_url)]
        again = replace(settings, rapidpro_listen=addresses[0], twilio_listen=addresses[1])
        async with Sandbox(again, clock=clock) as sandbox, aiohttp.ClientSession() as session:
            other = type(client)(sandbox, session)
            after = [(await getattr(other, name)("GET", path)).json for name, path in paths]
            clock.tick(60)
            new = await other.start()
            rows = (await other.rapidpro("GET", "flow_starts.json")).json["results"]

            assert before == after
            assert head + 1 == next(sandbox.journal.entries(after=head))["n"]
            assert (new.status, new.json["id"]) == (201, 5)
            assert new.json["uuid"] not in uuids
            assert {"pending", "completed", "interrupted"} == {row["status"] for row in rows}

    async def test_a_torn_last_line_is_cut_off(self, tmp_path: Path, clock: Clock) -> None:
        """It was never whole, and the next entry takes its place."""
        path = tmp_path / "journal"
        journal = Journal(path, clock=clock)
        journal.append("created", "rapidpro", external_id="1")
        journal.close()
        with path.open("ab") as file:
            file.write(b'{"n":2,"at":"20')
        again = Journal(path, clock=clock)
        again.append("answer", "rapidpro", request=1)
        again.close()

        assert [json.loads(line)["n"] for line in path.read_text().splitlines()] == [1, 2]

    @pytest.mark.parametrize("text", ["not a journal\n", '{"n":2}\n', "[]\n"])
    def test_another_file_is_refused(self, tmp_path: Path, clock: Clock, text: str) -> None:
        """It is not written to."""
        path = tmp_path / "journal"
        path.write_text(text)

        with pytest.raises(ValueError, match="is not a sandbox journal: line 1 is not its entry 1"):
            Journal(path, clock=clock)
        assert text == path.read_text()


def test_d18_memory_does_not_grow_with_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox that runs for weeks holds the newest entries; the others are in the file, and all of them are read."""
    monkeypatch.setattr(journals, "KEPT", 10)
    clock = lambda: datetime(2026, 3, 1, tzinfo=UTC)  # noqa: E731
    journal = Journal(tmp_path / "journal", clock=clock)
    for n in range(1, 101):
        assert n == journal.append("answer" if n % 2 else "request", "rapidpro")
        assert len(journal._entries) <= 20
    journal.close()
    again = Journal(tmp_path / "journal", clock=clock)

    assert 10 == len(again._entries)
    assert 101 == again.append("answer", "twilio")
    for each, newest in ((journal, 100), (again, 101)):
        for after in (0, 49, 79, 80, 95, newest):
            assert list(range(after + 1, newest + 1)) == [entry["n"] for entry in each.entries(after=after)]
    assert [99, 101] == [entry["n"] for entry in again.entries(after=98, kind="answer")]
    again.close()


def test_d19_a_journal_is_its_owners(tmp_path: Path) -> None:
    """It holds phone numbers; whatever the umask."""
    before = os.umask(0)
    try:
        Journal(tmp_path / "journal", clock=lambda: datetime.now(UTC)).close()
    finally:
        os.umask(before)

    assert 0o600 == (tmp_path / "journal").stat().st_mode & 0o777
