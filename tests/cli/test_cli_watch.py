"""The command watches a real gateway, in a pipe and on a terminal, through kills and restarts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from startflow.v1 import start_flow_service_pb2 as pb

from tests.cli.screen import on_screen
from tests.end_to_end.processes import (
    ROOT,
    SEED_FLOW,
    STUDIO_FLOW,
    Client,
    GatewayProcess,
    SandboxThread,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("default::ResourceWarning")


@asynccontextmanager
async def running(folder: Path, duration: float = 0.5) -> AsyncIterator[tuple[GatewayProcess, Client]]:
    """Runs a gateway with its sandbox, and calls it."""
    async with (
        SandboxThread(folder, duration=duration) as sandbox,
        GatewayProcess(folder, sandbox) as gateway,
        Client(gateway.address) as client,
    ):
        yield gateway, client


def command(gateway: GatewayProcess, *words: str) -> tuple[list[str], dict[str, str]]:
    """Returns a real process's command and environment."""
    environment = {**os.environ, "STARTFLOW_ADDRESS": gateway.address, "TERM": "xterm", "NO_COLOR": "1"}
    return [sys.executable, "-m", "gateway", *words], {**environment, "PYTHONPATH": f"{ROOT}:{ROOT / 'generated'}"}


@contextmanager
def piped(gateway: GatewayProcess, folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[bytes], Path, Path]]:
    """Runs a command with its output in files; ends it when the block is left."""
    words, environment = command(gateway, *words)
    out, err = folder / "watch.out", folder / "watch.err"
    with (
        out.open("wb") as output,
        err.open("wb") as said,
        subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=said) as process,
    ):
        try:
            yield process, out, err
        finally:
            if process.poll() is None:
                process.kill()


async def until(is_so: Any, seconds: float = 30) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(seconds):
        while not is_so():  # noqa: ASYNC110 -- a file tells nobody that it has grown
            await asyncio.sleep(0.02)


def changes_in(lines: str) -> list[tuple[int, str, str]]:
    """Reads the revision, id and state of each change that was printed; the last line must be whole."""
    messages = [json.loads(line) for line in lines.splitlines()]
    return [
        (int(message["revision"]), message["changed"]["id"], message["changed"]["state"])
        for message in messages
        if "changed" in message
    ]


async def recorded(client: Client, *ids: str) -> list[tuple[int, str, str]]:
    """Reads from the gateway every change there was of some starts."""
    found = []
    for start_id in ids:
        answer = await client.stub.ListChanges(pb.ListChangesRequest(id=start_id, page_size=1_000))
        states = [change.changed for change in answer.changes if change.HasField("changed")]
        found += [(each.revision, each.id, pb.FlowStart.State.Name(each.state)) for each in states]
    return sorted(found)


async def test_every_change_is_printed_once_though_the_gateway_is_killed_and_drained(tmp_path: Path) -> None:
    """Killed and started on its port again, then drained and started again: what is printed is what is recorded."""
    async with running(tmp_path) as (gateway, client):
        with piped(gateway, tmp_path, "watch", "--after-revision", "0") as (process, out, err):
            await until(lambda: "heartbeat" in out.read_text())
            ids = []
            for number, end in enumerate((gateway.kill, gateway.stop, None)):
                flow, urn = (SEED_FLOW, "tel:+12065551212") if number % 2 else (STUDIO_FLOW, f"tel:+1800123000{number}")
                for _ in range(2):
                    ids.append((await client.start(flow=flow, urns=[urn])).flow_start.id)
                    urn = urn[:-2] + "9" + urn[-1]
                await until(lambda: ids[-1] in out.read_text())
                if end is not None:
                    await end()
                    said = len(err.read_text())
                    await until(lambda said=said: "resuming after revision" in err.read_text()[said - 200 :])
                    await gateway.start()
            await client.finished(*ids)
            expected = await recorded(client, *ids)
            await until(lambda: len(changes_in(out.read_text())) >= len(expected))
            process.send_signal(signal.SIGINT)
            process.wait(timeout=10)

        assert expected == changes_in(out.read_text())
        assert 130 == process.returncode
        said = err.read_text()
        assert "no connection to the gateway; resuming after revision" in said
        assert "(waiting since " in said
        assert "the gateway answered DRAINING; resuming after revision" in said
        assert 2 == said.count("the gateway answers again\n")
        last = json.loads(out.read_text().splitlines()[-1])
        assert f"--after-revision {last['revision']} --epoch {last['epoch']}\n" in said


async def test_a_restored_store_begins_anew_and_says_so(tmp_path: Path) -> None:
    """Its epoch is another one: the watcher is told how things stand, and standard error that there was a break."""
    async with running(tmp_path) as (gateway, client):
        first = (await client.start(flow=SEED_FLOW, urns=["tel:+12065551212"])).flow_start.id
        await client.finished(first)
        with piped(gateway, tmp_path, "watch") as (_process, out, err):
            await until(lambda: "snapshotEnd" in out.read_text())
            await gateway.stop()
            for file in (gateway.store, *gateway.folder.glob("startflow.db-*")):
                file.unlink(missing_ok=True)
            await gateway.start()
            second = (await client.start(flow=SEED_FLOW, urns=["tel:+12065551212"])).flow_start.id
            await until(lambda: second in (said := out.read_text()) and said.count("snapshotEnd") == 2)

        assert 1 == err.read_text().count("Beginning again with the current state of every start")


async def test_ctrl_c_while_the_gateway_is_away_ends_the_watch_at_once(tmp_path: Path) -> None:
    """It does not wait for the pause to pass."""
    async with running(tmp_path) as (gateway, _client):
        with piped(gateway, tmp_path, "watch") as (process, out, err):
            await until(lambda: "snapshotEnd" in out.read_text())
            await gateway.kill()
            await until(lambda: err.read_text().count("waiting since") == 4)  # the pause after it is of two seconds
            process.send_signal(signal.SIGINT)
            assert 130 == process.wait(timeout=30)
            assert 4 == err.read_text().count("waiting since"), "it has waited, and tried once more"
        assert "Stopped watching; the starts continue." in err.read_text()


async def test_a_reader_that_leaves_a_watch_early_gets_no_traceback(tmp_path: Path) -> None:
    """As `startflow watch | head -1` does."""
    async with running(tmp_path) as (gateway, client):
        words, environment = command(gateway, "watch")
        pipe = subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*words, env=environment, stdout=pipe, stderr=pipe)
        assert process.stdout is not None
        assert process.stderr is not None
        json.loads(await process.stdout.readline())
        process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        await client.start(flow=SEED_FLOW, urns=["tel:+12065551212"])
        said = await process.stderr.read()

        assert (-signal.SIGPIPE, b"") == (await process.wait(), said)


async def test_a_table_of_many_fits_its_terminal_and_survives_a_kill_and_a_resize(tmp_path: Path) -> None:
    """The latest first, the others counted; while the gateway is away the last line says so."""
    async with running(tmp_path) as (gateway, client):
        ids = [(await client.start(flow=SEED_FLOW, urns=[f"tel:+120655512{n:02}"])).flow_start.id for n in range(30)]
        await client.finished(*ids)
        with on_screen(*command(gateway, "watch"), columns=100, lines=12) as (screen, process):
            done = "30\N{NO-BREAK SPACE}starts · completed\N{NO-BREAK SPACE}30"
            shown = await asyncio.to_thread(screen.until, lambda lines: lines[-1] == done)
            assert 11 == len(shown)
            assert ["ID", "BACKEND", "FLOW", "STATE", "TO", "PROGRESS", "UPDATED"] == shown[0].split()
            assert "… and 22 more" == shown[-2]

            await gateway.kill()
            shown = await asyncio.to_thread(screen.until, lambda lines: "waiting since" in lines[-1])
            assert "no connection to the gateway; resuming after revision" in " ".join(shown[-2:])
            assert len(shown) <= 11

            await gateway.start()
            await asyncio.to_thread(screen.until, lambda lines: lines[-1] == done)
            screen.resize(40, 9)
            shown = await asyncio.to_thread(screen.until, lambda lines: lines[0].split() == ["ID", "STATE", "TO"])
            last = (await client.start(flow=SEED_FLOW, urns=["tel:+12065551299"])).flow_start.id
            done = "31\N{NO-BREAK SPACE}starts · completed\N{NO-BREAK SPACE}31"
            shown = await asyncio.to_thread(screen.until, lambda lines: lines[-1] == done)
            assert f"{last} COMPLETED 1" == shown[1]
            assert 8 == len(shown)
            assert all(len(line) <= 40 for line in shown)

            process.send_signal(signal.SIGINT)
            assert 130 == await asyncio.to_thread(process.wait, 10)
        assert "Stopped watching; the starts continue. To resume: repeat the command with" in screen.raw
        assert "\x1b[3" not in screen.raw  # NO_COLOR
        assert screen.raw.rfind("\x1b[?25h") > screen.raw.rfind("\x1b[?25l")  # the cursor is back


async def test_one_start_has_bars_and_ends_with_how_it_went(tmp_path: Path) -> None:
    """The exit code tells the same."""
    async with running(tmp_path) as (gateway, client):
        urns = [f"tel:+120655512{n:02}" for n in range(20)]
        start_id = (await client.start(flow=SEED_FLOW, urns=urns)).flow_start.id
        with on_screen(*command(gateway, "watch", start_id, "--until-done"), columns=80) as (screen, process):
            assert 0 == await asyncio.to_thread(process.wait, 30)
        shown = [line for line in screen.shown if line]

        assert shown[0].startswith(f"{start_id}  rapidpro  {SEED_FLOW}")
        assert shown[1].startswith("COMPLETED  ━━━━━━━━━━━━━━")
        assert "20 of 20 ended" in shown[1]
        assert ["completed", "20"] == [shown[2].split()[0], shown[2].split()[-1]]
        assert "\n".join(shown).endswith("everyone has entered the flow; conversations may continue.")
