"""Proves that watchers of several gateways miss nothing: `python -m tests.chaos_postgres.storm`.

It is the storm of `make storm`, with watchers spread over the gateways, which are killed in turn. PostgreSQL is killed
twice, and all the while a `pg_dump` runs and a long transaction is open.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from tests.chaos.record import read_postgres
from tests.chaos.storm import Findings, Options, Storm, report
from tests.chaos_postgres.house import House
from tests.end_to_end.processes import SandboxProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.postgres_server import Server

GATEWAYS = 3
DUMP_PAUSES = 0.1  # seconds between two parts of a dump: it is open all the while, and takes no processor
AWAY = 1.0  # seconds for which PostgreSQL is away, beside its own start


class Ballast:
    """A `pg_dump` after another, and a transaction that stays open: what others do to a database all day."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.dumps = 0

    async def run(self) -> None:
        """Goes on until cancelled; begins anew whenever the server was killed."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._dump())
            group.create_task(self._stay())

    async def _dump(self) -> None:
        while True:
            self.dumps += await asyncio.to_thread(self._server.dump, DUMP_PAUSES)
            await asyncio.sleep(0.2)

    async def _stay(self) -> None:
        while True:
            with suppress(psycopg.OperationalError):
                async with await psycopg.AsyncConnection.connect(self._server.url()) as conn:
                    await conn.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
                    while True:
                        await conn.execute("select count(*) from changes")
                        await asyncio.sleep(1)
            await asyncio.sleep(0.2)


async def storm(options: Options, count: int, folder: Path, say: Callable[[str], None]) -> Findings:
    """Raises a storm over so many gateways, and judges it."""
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(SandboxProcess(folder))
        house = await stack.enter_async_context(House(count, folder, sandbox, direct=True))

        async def lose() -> None:
            await asyncio.to_thread(house.server.kill)
            await asyncio.sleep(AWAY)
            await asyncio.to_thread(house.server.start)

        ballast = Ballast(house.server)
        loading = asyncio.create_task(ballast.run())
        raised = Storm(options, folder, house.gateways, house.client, stack, say, lose_store=lose)
        findings = await raised.run(lambda: read_postgres(house.server.url()))
        loading.cancel()
        await asyncio.wait([loading])
        say(f"{ballast.dumps} dumps were made meanwhile")
        return findings


def main() -> int:
    """Raises one storm; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos_postgres.storm", description=__doc__)
    parser.add_argument("--watchers", type=int, default=5_000, metavar="N")
    parser.add_argument("--kills", type=int, default=6, metavar="N")
    parser.add_argument("--gateways", type=int, default=GATEWAYS, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    given = parser.parse_args()
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begun:5.1f}] {text}", flush=True)

    folder = Path(tempfile.mkdtemp(prefix="storm-postgres-"))
    options = Options(watchers=given.watchers, kills=given.kills, seed=given.seed)
    findings = asyncio.run(storm(options, given.gateways, folder, say))
    report(findings, given.watchers, say)
    if findings.is_proof:
        shutil.rmtree(folder)
    else:
        say(f"what the processes left behind is in {folder}")
    say("PASSED" if findings.is_proof else "FAILED")
    return int(not findings.is_proof)


if __name__ == "__main__":
    sys.exit(main())
