"""Proves that a watcher that stops reading costs nothing and loses nothing: `python -m tests.chaos.slow_reader`.

Two watchers of everything, each in a process of its own. One stops reading, so that its HTTP/2 window fills, while
changes are made; the other one reads on, and tells how late they come. Then the first reads on as well, and must get
every change in order. The gateway's memory is read every second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import shutil
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from startflow.v1 import start_flow_service_pb2 as pb

from tests.chaos.memory import resident
from tests.chaos.record import read_record
from tests.chaos.watched import Judge, Told, Watching
from tests.end_to_end.processes import FAR, ROOT, SEED_FLOW, Client, GatewayProcess, SandboxProcess

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

CACHED = 10_000  # changes after which the gateway has begun to forget the oldest of its recent ones
MOST_GROWTH = 20 * 2**20  # bytes: between 5,000 and 10,000 changes are held, so their memory moves by 15 MB
PER_START = 2  # changes: it is recorded for much later, and cancelled
AT_ONCE = 16
LABELS = {f"label-{n}": f"{n}" * 200 for n in range(4)}  # so that a change is about 1 kB
MEGABYTE = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How much passes a watcher that does not read, and how fast."""

    changes: int = 50_000
    seconds: float = 60.0
    before: int = 25_000  # changes that are read by both first; more than `CACHED` for memory to be flat


@dataclass(slots=True)
class Findings:
    """What a run measured."""

    memory: dict[str, list[int]] = field(default_factory=dict)  # of the gateway, each second, by what happened
    healthy: dict[str, dict[str, float]] = field(default_factory=dict)  # the healthy watcher, the same
    slow: dict[str, dict[str, float]] = field(default_factory=dict)  # the slow one, when it stopped, and so on
    paused: float = 0.0  # seconds
    caught_up: float = 0.0  # seconds
    wrong: dict[str, Counter[str]] = field(default_factory=dict)  # by watcher
    changes: int = 0  # in the record
    bugs: list[str] = field(default_factory=list)

    @property
    def growth(self) -> int:
        """How much memory the gateway has taken on top of what it had before the pause."""
        return max(self.memory["paused"] + self.memory["catching up"]) - max(self.memory["before"])

    @property
    def waiting(self) -> float:
        """How many bytes of changes the slow watcher had not read when it read on."""
        healthy = self.healthy["paused"]
        return healthy["size"] - self.slow["read on"]["size"]

    @property
    def is_complete(self) -> bool:
        """Whether both watchers got every change, in order."""
        return not any(wrong.total() for wrong in self.wrong.values()) and not self.bugs

    @property
    def is_flat(self) -> bool:
        """Whether the gateway's memory did not follow what waited; if too little waited, nothing is proved."""
        return self.growth <= MOST_GROWTH and 2 * MOST_GROWTH <= self.waiting


class _Reader:
    """A watcher in a process of its own."""

    def __init__(self, result: Path) -> None:
        self._result = result
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, address: str, after: int) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.chaos.reader", address, str(after), str(self._result)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        return self

    async def ask(self, word: str) -> dict[str, float]:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{word}\n".encode())
        line = await self._process.stdout.readline()
        assert line, "the watcher has ended"
        told: dict[str, float] = json.loads(line)
        return told

    def seen(self) -> tuple[int, ...]:
        return tuple(json.loads(self._result.read_text()))

    async def stop(self) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


async def stop_reading(options: Options, folder: Path, say: Callable[[str], None]) -> Findings:
    """Makes one run and judges it."""
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(SandboxProcess(folder))
        gateway = await stack.enter_async_context(GatewayProcess(folder, sandbox))
        client = await stack.enter_async_context(Client(gateway.address))
        healthy, slow = _Reader(folder / "healthy.json"), _Reader(folder / "slow.json")
        for reader in (healthy, slow):
            stack.push_async_callback(reader.stop)
            await reader.start(gateway.address, 0)
        return await _Run(options, gateway, client, healthy, slow, say).run()


class _Run:
    def __init__(
        self,
        options: Options,
        gateway: GatewayProcess,
        client: Client,
        healthy: _Reader,
        slow: _Reader,
        say: Callable[[str], None],
    ) -> None:
        self._options, self._gateway, self._client = options, gateway, client
        self._healthy, self._slow, self._say = healthy, slow, say
        self._rate = 1.05 * options.changes / options.seconds
        self._findings = Findings()

    async def run(self) -> Findings:
        options, findings, say = self._options, self._findings, self._say
        self._enter("filling")
        measuring = asyncio.create_task(self._measure())
        await self._make(options.before - options.before // 5)
        await self._healthy.ask("tell")
        self._enter("before")
        await self._make(options.before // 5)
        findings.healthy["before"] = await self._healthy.ask("tell")
        findings.slow["stops"] = await self._slow.ask("pause")
        say(f"one watcher stops reading after {findings.slow['stops']['changes']:,.0f} changes")
        self._enter("paused")
        begun = time.monotonic()
        await self._make(options.changes)
        await asyncio.sleep(max(0.0, begun + options.seconds - time.monotonic()))
        findings.paused = time.monotonic() - begun
        findings.healthy["paused"] = await self._healthy.ask("tell")
        self._enter("catching up")
        begun = time.monotonic()
        findings.slow["read on"] = await self._slow.ask("go")
        say(f"it reads on after {findings.paused:.0f} s and {options.changes:,} changes")
        record = read_record(self._gateway.store)
        findings.slow["end"] = await self._slow.ask(f"end {record[-1].revision}")
        findings.caught_up = time.monotonic() - begun
        findings.healthy["end"] = await self._healthy.ask(f"end {record[-1].revision}")
        measuring.cancel()
        await asyncio.wait([measuring])
        assert measuring.cancelled(), measuring.exception()
        judge, findings.changes = Judge(record), len(record)
        for name, reader in (("slow", self._slow), ("healthy", self._healthy)):
            findings.wrong[name] = judge.judge(Told(watching=Watching(after=0), seen=reader.seen()))
        findings.bugs = self._gateway.bugs()
        return findings

    def _enter(self, phase: str) -> None:
        self._phase = phase
        self._findings.memory[phase] = [resident(self._gateway.pid)]

    async def _measure(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self._options.seconds / 10))
            self._findings.memory[self._phase].append(resident(self._gateway.pid))

    async def _make(self, changes: int) -> None:
        """Makes so many changes, no faster than the pause is to last."""
        begun, starts = time.monotonic(), iter(range(math.ceil(changes / PER_START)))

        async def make() -> None:
            for number in starts:
                due = begun + number * PER_START / self._rate
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                response = await self._client.start(
                    flow=SEED_FLOW,
                    urns=["tel:+12065551212"],
                    labels=LABELS,
                    schedule_time={"seconds": FAR},
                )
                await self._client.stub.CancelFlowStart(pb.CancelFlowStartRequest(id=response.flow_start.id))

        await asyncio.gather(*(make() for _ in range(AT_ONCE)))


def report(findings: Findings, say: Callable[[str], None]) -> None:
    """Prints what was measured."""
    memory = findings.memory
    before, paused = findings.healthy["before"], findings.healthy["paused"]
    passed = paused["changes"] - before["changes"]
    say(f"  passed        {passed:,.0f} changes in {findings.paused:.0f} s: {passed / findings.paused:,.0f}/s")
    more = findings.slow["read on"]["changes"] - findings.slow["stops"]["changes"]
    say(f"  unread        {findings.waiting / MEGABYTE:.0f} MB when it read on; {more:,.0f} came after it had stopped")
    for phase, samples in memory.items():
        first, most, last = (value / MEGABYTE for value in (samples[0], max(samples), samples[-1]))
        say(f"  gateway       {first:.1f} MB, at most {most:.1f}, then {last:.1f} ({phase})")
    say(f"  growth        {findings.growth / MEGABYTE:.1f} MB; allowed are {MOST_GROWTH / MEGABYTE:.0f}")
    if findings.waiting < 2 * MOST_GROWTH:
        say(f"  TOO LITTLE    was unread to prove that memory does not follow it: {2 * MOST_GROWTH / MEGABYTE:.0f} MB")
    slow = " → ".join(f"{findings.slow[when]['memory'] / MEGABYTE:.1f}" for when in ("stops", "read on", "end"))
    say(f"  slow client   {slow} MB when it stopped, read on, had caught up")
    for when, delays in (("before", before), ("paused", paused)):
        figures = ", ".join(f"{name} {delays[name] * 1_000:.0f} ms" for name in ("p50", "p99", "max"))
        say(f"  healthy       {figures} ({when})")
    say(f"  caught up     in {findings.caught_up:.1f} s")
    for name, wrong in findings.wrong.items():
        say(f"  {name:<13} {findings.changes:,} changes recorded; {dict(wrong) or 'every one came, in order'}")
    for line in findings.bugs[:5]:
        say(f"  BUG {line[:400]}")


def main() -> int:
    """Makes one run; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.slow_reader", description=__doc__)
    parser.add_argument("--changes", type=int, default=50_000, metavar="N")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="N", help="at least")
    given = parser.parse_args()
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begun:5.1f}] {text}", flush=True)

    folder = Path(tempfile.mkdtemp(prefix="slow-"))
    findings = asyncio.run(stop_reading(Options(changes=given.changes, seconds=given.seconds), folder, say))
    report(findings, say)
    passed = findings.is_complete and findings.is_flat
    if passed:
        shutil.rmtree(folder)
    else:
        say(f"what the processes left behind is in {folder}")
    say("PASSED" if passed else "FAILED")
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main())
