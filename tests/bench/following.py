"""What following 100,000 running starts on each backend costs: `python -m tests.bench.following [--starts N]`.

A real sandbox and a real gateway, each a process of its own, on a real store. Requests are counted from the sandbox's
journal. First nothing changes; then 1,000 starts of each backend do, of RapidPro's one half in a way that its lists
show only to whoever reads old rows again, which is asked for at the end. Prints PASS or FAIL for each target.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp

from gateway.sandbox import SANDBOX_RAPIDPRO_TOKEN, SANDBOX_TWILIO_ACCOUNT_SID, SANDBOX_TWILIO_AUTH_TOKEN
from tests.bench.crowd import FLOWS, OLD, Running, crowd, fill, write_journal
from tests.end_to_end.processes import ROOT, GatewayProcess, SandboxProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

STARTS = 100_000
CHANGED = 1_000
SWEEPS = 3  # in which everything that lists can show must be recorded
QUIET_SWEEPS = 3  # measured while nothing changes
INTERVAL = "1s"  # between sweeps, at the least
PAGE = {"rapidpro": 250, "twilio": 1_000}
CONFIG = """
listen = "{listen}"
http_listen = "127.0.0.1:0"
store = "sqlite:///{store}"

[backends.rapidpro]
kind = "rapidpro"
url = "{rapidpro}"
token = "{token}"
rate = "10000/second"
timeout = "60s"
sweep_interval = "{interval}"

[backends.twilio]
kind = "twilio"
url = "{twilio}"
account_sid = "{sid}"
auth_token = {{ env = "TEST_TWILIO_TOKEN" }}
sender = "+18007654321"
timeout = "60s"
sweep_interval = "{interval}"
"""
PATIENCE = 300.0  # seconds for any one thing
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Gateway(GatewayProcess):
    """A gateway that is watched from outside and tells how long its loop was held."""

    interval: str = INTERVAL

    @property
    def holds(self) -> Path:
        """Where it writes that."""
        return self.folder / "holds"

    def longest_hold(self, since: int) -> float:
        """For how long the loop was held at the most, from a line on."""
        return max(map(float, self.holds.read_text().split()[since:]), default=0.0)

    async def launch(self) -> None:
        """Starts it and does not wait."""
        config = self.folder / "startflow.toml"
        urls = {name: self.sandbox.urls[name] for name in FLOWS}
        login = {"token": SANDBOX_RAPIDPRO_TOKEN, "sid": SANDBOX_TWILIO_ACCOUNT_SID}
        told = {"listen": self.address, "store": self.store, "interval": self.interval}
        config.write_text(CONFIG.format(**told, **urls, **login))
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.bench.follower", str(self.holds), "serve", "--config", str(config)),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "TEST_TWILIO_TOKEN": SANDBOX_TWILIO_AUTH_TOKEN},
            )

    def cpu_seconds(self) -> float:
        """Tells how much processor time it has taken."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self, name: str) -> float:
        """Tells its memory in MiB: `VmRSS` now, `VmHWM` at the most."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


@dataclass
class Sweeps:
    """The sweeps of one backend, read from the sandbox's journal: the requests of each, and when it began."""

    began: list[float] = field(default_factory=list)
    requests: list[int] = field(default_factory=list)

    def read(self, backend: str, entries: list[dict[str, Any]]) -> None:
        """Takes in requests."""
        for entry in entries:
            if begins_sweep(backend, entry):
                self.began.append(datetime.fromisoformat(entry["at"]).timestamp())
                self.requests.append(0)
            if self.requests:
                self.requests[-1] += 1


def begins_sweep(backend: str, entry: dict[str, Any]) -> bool:
    """Tells whether a request is the first of a sweep."""
    if backend == "rapidpro":
        return entry["path"].endswith("/flow_starts.json") and "after=" in entry["query"] and not has_cursor(entry)
    return entry["path"].endswith(f"{FLOWS['twilio'][0]}/Executions") and not (
        "PageToken" in entry["query"] or "status=" in entry["query"]
    )


def has_cursor(entry: dict[str, Any]) -> bool:
    """Tells whether a request asks for a further page."""
    return "cursor=" in entry["query"]


@dataclass
class Bench:
    """What is measured with."""

    sandbox: SandboxProcess
    gateway: Gateway
    head: int
    passed: bool = True

    def target(self, what: str, is_met: bool) -> None:  # noqa: FBT001  read as a sentence
        """Prints whether a target is met."""
        self.passed &= is_met
        print(f"{'PASS' if is_met else 'FAIL'}  {what}", flush=True)

    async def sweeps(self, backend: str, after: int) -> Sweeps:
        """Reads the sweeps that began after an entry of the journal; the last one may go on."""
        found = Sweeps()
        found.read(backend, await self.sandbox.journal(after=str(after), kind="request", backend=backend))
        return found

    async def now(self) -> int:
        """Tells the newest entry of the journal."""
        entries = await self.sandbox.journal(after=str(self.head))
        self.head = entries[-1]["n"] if entries else self.head
        return self.head

    async def until(self, what: str, is_so: Callable[[], Any]) -> None:
        """Waits until something is so."""
        end = time.monotonic() + PATIENCE
        while not await is_so():
            if time.monotonic() > end:
                raise TimeoutError(f"{what}\n{self.gateway.log.read_text()[-2000:]}")
            await asyncio.sleep(0.1)

    async def whole_sweeps(self, backend: str, after: int, count: int) -> Sweeps:
        """Waits until so many sweeps that began after an entry are over; returns them."""
        found = Sweeps()

        async def enough() -> bool:
            nonlocal found
            found = await self.sweeps(backend, after)
            return len(found.began) > count

        await self.until(f"{count} sweeps of {backend}", enough)
        return Sweeps(began=found.began[: count + 1], requests=found.requests[:count])

    def ended(self, backend: str) -> int:
        """Counts what the gateway has recorded as over."""
        with sqlite3.connect(f"file:{self.gateway.store}?mode=ro", uri=True) as conn:
            (count,) = conn.execute(
                "select count(*) from dispatches where backend = ? and state not in (2, 3)", (backend,)
            ).fetchone()
        conn.close()
        return int(count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiet:
    """What sweeps took while nothing changed; `allowed` is how many requests a sweep of Twilio's may take."""

    sweeps: dict[str, Sweeps]
    allowed: int
    cpu: float
    lasted: float

    @property
    def of_twilio(self) -> int:
        """The requests of the largest sweep of Twilio's."""
        return max(self.sweeps["twilio"].requests)


async def rest(bench: Bench, crowds: dict[str, list[Running]]) -> Quiet:
    """Measures sweeps while nothing changes."""
    for backend in FLOWS:
        await bench.whole_sweeps(backend, bench.head, 1)  # the first one finds its feet; RapidPro's reads everything
    since, cpu, began = await bench.now(), bench.gateway.cpu_seconds(), time.monotonic()
    found = {backend: await bench.whole_sweeps(backend, since, QUIET_SWEEPS) for backend in reversed(FLOWS)}
    of_flow = Counter(each.flow for each in crowds["twilio"])
    return Quiet(
        sweeps=found,
        allowed=sum(-(-count // PAGE["twilio"]) for count in of_flow.values()),
        cpu=bench.gateway.cpu_seconds() - cpu,
        lasted=time.monotonic() - began,
    )


async def quiet(bench: Bench, crowds: dict[str, list[Running]]) -> None:
    """Measures sweeps while nothing changes, and tells."""
    line = len(bench.gateway.holds.read_text().split())
    found = await rest(bench, crowds)
    for backend, sweeps in found.sweeps.items():
        apart = (sweeps.began[-1] - sweeps.began[0]) / QUIET_SWEEPS
        print(f"{backend}: {sweeps.requests} requests a sweep, sweeps {apart:.2f} s apart", flush=True)
    each = found.cpu / QUIET_SWEEPS
    print(f"gateway: {found.cpu:.2f} CPU s in {found.lasted:.1f} s; {each:.2f} a sweep of Twilio, all else included")
    print(f"gateway: {bench.gateway.memory('VmRSS'):.0f} MiB, {bench.gateway.memory('VmHWM'):.0f} at the most")
    print(f"gateway: its loop was held for {bench.gateway.longest_hold(line) * 1000:.0f} ms at the longest")
    bench.target("RapidPro: 1 request a sweep", set(found.sweeps["rapidpro"].requests) == {1})
    bench.target(
        f"Twilio: at most {found.allowed} requests a sweep, 1 per 1,000 on each of {len(FLOWS['twilio'])} flows",
        found.of_twilio <= found.allowed,
    )


async def change(bench: Bench, crowds: dict[str, list[Running]]) -> None:
    """Changes starts, and counts sweep by sweep what is recorded of that."""
    changed: dict[str, dict[str, list[Running]]] = {}
    for backend, runs in crowds.items():
        some = runs[len(runs) // 3 :: max(1, len(runs) // 2 // CHANGED)][:CHANGED]
        changed[backend] = (
            {"ended": some} if backend == "twilio" else {"completed": some[::2], "interrupted": some[1::2]}
        )
    for by_status in changed.values():
        for status, runs in by_status.items():
            for each in runs:
                await bench.sandbox._post(f"/starts/{each.external_id}", {"status": status})
    since = await bench.now()
    shown = {"rapidpro": len(changed["rapidpro"]["completed"]), "twilio": len(changed["twilio"]["ended"])}
    for backend, count in shown.items():
        recorded = []
        for sweep in range(1, SWEEPS + 1):
            await bench.whole_sweeps(backend, since, sweep)
            recorded.append(min(bench.ended(backend), count))
        print(f"{backend}: {recorded} of {count:,} changes that lists show are recorded after 1, 2, 3 sweeps")
        bench.target(f"{backend}: all of them within {SWEEPS} sweeps", recorded[-1] == count)
    interrupted = len(changed["rapidpro"]["interrupted"])
    before = bench.ended("rapidpro") - shown["rapidpro"]
    print(f"rapidpro: {before} of {interrupted} interrupts are recorded without reading everything again")
    since = await bench.now()
    os.kill(bench.gateway.pid, signal.SIGUSR1)
    total = shown["rapidpro"] + interrupted

    async def all_recorded() -> bool:
        return bench.ended("rapidpro") == total

    await bench.until("every interrupt", all_recorded)
    await bench.whole_sweeps("rapidpro", since, 2)
    found = await bench.sweeps("rapidpro", since)
    bench.target(
        f"rapidpro: {interrupted} interrupts, in {max(found.requests)} requests that read all again", is_met=True
    )


@asynccontextmanager
async def following(
    folder: Path, starts: int, interval: str = INTERVAL
) -> AsyncIterator[tuple[Bench, dict[str, list[Running]]]]:
    """Builds everything up, and has a gateway follow it."""
    now = datetime.now(UTC)
    crowds = crowd(starts, now)
    head = write_journal(folder / "journal.jsonl", crowds, now)
    for runs in crowds.values():
        await fill(folder / "startflow.db", runs)
    async with SandboxProcess(folder) as sandbox:
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with aiohttp.request("GET", f"{sandbox.urls['control']}/state", timeout=timeout) as answer:
            state = json.loads(await answer.read())
        assert state["rapidpro"]["statuses"] == {"started": starts}, state
        async with Gateway(folder, sandbox, interval=interval) as gateway:
            yield Bench(sandbox, gateway, head), crowds


async def measure(folder: Path, starts: int) -> bool:
    """Builds everything up and measures it; returns whether all targets are met."""
    began = time.monotonic()
    async with following(folder, starts) as (bench, crowds):
        print(f"{starts:,} starts on each backend, {OLD} more old ones on each Twilio flow:", end=" ")
        print(f"built up in {time.monotonic() - began:.0f} s", flush=True)
        await quiet(bench, crowds)
        await change(bench, crowds)
        print(f"gateway: {bench.gateway.memory('VmHWM'):.0f} MiB at the most, after reading everything again")
        bench.target("gateway: nothing went wrong in it", not bench.gateway.bugs())
    return bench.passed


def main() -> int:
    """Prints a line for each figure; returns 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.following", description=__doc__)
    parser.add_argument("--starts", type=int, default=STARTS, metavar="N", help="running starts on each backend")
    with tempfile.TemporaryDirectory(prefix="following-") as folder:
        return 0 if asyncio.run(measure(Path(folder), parser.parse_args().starts)) else 1


if __name__ == "__main__":
    sys.exit(main())
