"""Builds and tries each caller, and prints a table."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.end_to_end.processes import ROOT, SEED_FLOW, Client, GatewayProcess, SandboxProcess
from tests.interop.callers import CALLERS, ENVIRONMENT, Caller, NotThere, run
from tests.interop.tools import TOOLS, Tool

if TYPE_CHECKING:
    from collections.abc import Sequence

    Trial = Tool | Caller

PATIENCE = 120  # seconds until a caller that says nothing is taken to hang


class Output:
    """What a caller has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Reads from a caller."""
        assert process.stdout is not None
        self._stdout = process.stdout
        self.revisions: list[int] = []
        self.ends: list[str] = []

    async def line(self) -> list[str]:
        """Returns the next line, as words."""
        text = (await self._stdout.readline()).decode()
        assert text, f"the caller ended after {len(self.revisions)} changes and {self.ends}"
        return text.split()

    async def until(self, revision: int) -> None:
        """Reads until the caller has a change with this revision or a later one."""
        while not self.revisions or self.revisions[-1] < revision:
            word, value = await self.line()
            if word == "changed":
                self.revisions.append(int(value))
            else:
                self.ends.append(value.upper())


async def attempt(command: Sequence[str | Path]) -> None:
    """Runs a caller against a gateway of its own; raises what is wrong."""
    with tempfile.TemporaryDirectory() as name:
        async with SandboxProcess(Path(name)) as sandbox, GatewayProcess(Path(name), sandbox) as gateway:
            process = await asyncio.create_subprocess_exec(
                *(*command, gateway.address, SEED_FLOW, "interop-1"),
                cwd=ROOT,
                env=ENVIRONMENT,
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                async with asyncio.timeout(PATIENCE), Client(gateway.address) as client:
                    await judge(Output(process), gateway, client)
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()
        assert not gateway.bugs(), gateway.bugs()


async def ask(tool: Tool) -> None:
    """Runs a tool against a gateway of its own; raises what is wrong."""
    with tempfile.TemporaryDirectory() as name:
        async with SandboxProcess(Path(name)) as sandbox, GatewayProcess(Path(name), sandbox) as gateway:
            said = await run(*(word.format(address=gateway.address) for word in tool.command), folder=ROOT)
        assert all(part in said for part in tool.expected), said[-1000:]
        assert not gateway.bugs(), gateway.bugs()


async def judge(output: Output, gateway: GatewayProcess, client: Client) -> None:
    """Compares what a caller prints with what the gateway has recorded, over a stop and a kill."""
    *started, revision = await output.line()
    assert started == ["started", "false", "true", "true"], started
    refused = await output.line()
    assert refused == ["refused", "VALIDATION_FAILED", "urns[1]"], refused
    for end in (gateway.stop, gateway.kill):
        start = await client.start(flow=SEED_FLOW, urns=["tel:+12065551213"])
        await output.until(start.flow_start.revision)
        await end()
        await gateway.start()
    last = await client.start(flow=SEED_FLOW, urns=["tel:+12065551214"])
    (done,) = await client.finished(last.flow_start.id)
    recorded = await changes(client, int(revision), done.revision)
    await output.until(recorded[-1])
    assert output.revisions == recorded, f"recorded were the changes {recorded}, the caller had {output.revisions}"
    assert len(output.ends) >= 2, f"the gateway ended twice, the streams with {output.ends}"
    assert output.ends[0] == "UNAVAILABLE", f"the gateway was stopped, the stream ended with {output.ends[0]}"


async def changes(client: Client, after: int, until: int) -> list[int]:
    """Returns the revisions of all changes in this range."""
    found = []
    async for message in client.watch(after_revision=after):
        if message.HasField("changed"):
            found.append(message.revision)
        if message.revision >= until:
            break
    return found


async def tried(trial: Trial) -> bool | None:
    """Prints a row of the table; returns whether it went well, or None where it cannot be had here."""
    if missing := await trial.missing():
        show(trial, "-", f"skipped: no {missing}")
        return None
    version = "?"
    try:
        command = await trial.built()
        version = (await run(*trial.version, folder=ROOT)).strip().splitlines()[0]
        await (attempt(command) if isinstance(trial, Caller) else ask(trial))
    except NotThere as error:
        show(trial, version, f"not there: {error}")
        return None
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this row's result
        show(trial, version, f"FAILED: {str(error) or type(error).__name__}")
        return False
    show(trial, version, "ok")
    return True


def show(trial: Trial, version: str, result: str) -> None:
    """Prints a row of the table."""
    print(f"{trial.name:18} {version[:32]:32} {trial.tried:64} {result}", flush=True)


async def main(names: Sequence[str]) -> int:
    """Tries what has one of these names, or everything; returns the exit code."""
    print(f"{'tool':18} {'version':32} {'what was tried':64} result")
    chosen = [trial for trial in (*TOOLS, *CALLERS) if not names or trial.name in names]
    assert chosen, f"nothing has one of these names: {names}"
    results = [await tried(trial) for trial in chosen]
    return int(False in results or all(result is None for result in results))


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1:])))
