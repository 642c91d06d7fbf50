"""Mistakes planted in gateways on PostgreSQL, which the judge must find: `python -m tests.chaos_postgres.planted`.

Each is a patch of the gateway's process, never of the product, and a short run in which it shows.
`python -m tests.chaos_postgres.planted NAME serve --config …` is a gateway with one of them.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.chaos.judge import judge
from tests.chaos.plan import Options, draw
from tests.chaos.planted import replace

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """One mistake: how it is made, and the run that meets it."""

    patch: Callable[[], None]
    run: dict[str, Any]
    breaks: tuple[str, ...] = ()  # what breaks at PostgreSQL meanwhile, in turns
    every: float = 3.0  # seconds between two of those
    gateways: int = 1


def _believe_a_read() -> None:
    """A commit without an answer is looked for by a read that waits for nobody, and counts as undone if not found."""
    from gateway.store.postgres.commits import PostgresCommits  # noqa: PLC0415 -- only the gateway's process has it

    def take_number(_self: Any, conn: Any, wait: str = "") -> bool:  # noqa: ARG001
        conn.raw.execute("begin")
        return True

    def ask(self: Any, tail: Any) -> int | None:
        self._conn.raw.close()
        conn = self._conn = self._connect()
        found = conn.row(
            "select head from commits where incarnation = $1 and batch = $2", self._incarnation, self._batch + 1
        )
        return None if found is None else int(found[0]) - tail.count

    replace(PostgresCommits, "_take_number", take_number)
    replace(PostgresCommits, "_ask", ask)


SHORT = {
    "starts": 120, "kills": 12, "seconds": 60.0, "swept": 0, "floors": False, "outages": 0.0, "mix": "many",
    "pauses": 0.5, "pause": (2.0, 2.8), "patience": 4.0,
}  # fmt: skip
PLANTS = {
    "commits looked for by a read": Plant(patch=_believe_a_read, run={}, breaks=("frozen",), every=2.0),
}


def main() -> int:
    """Runs each plant, or those that are named; 1 if the judge has missed one."""
    missed = [name for name in sys.argv[1:] or list(PLANTS) if not _found(name)]
    print(f"MISSED: {', '.join(missed)}" if missed else "FOUND: all", flush=True)
    return int(bool(missed))


def _found(name: str) -> bool:
    from tests.chaos_postgres.run import run  # noqa: PLC0415 -- a gateway needs none of it

    plant = PLANTS[name]
    plan = draw(Options(**{**SHORT, **plant.run, "plant": name}))
    folder = Path(tempfile.mkdtemp(prefix="planted-"))
    outcome = asyncio.run(run(plan, plant.gateways, plant.every, folder, lambda _text: None, plant.breaks))
    found = [*map(str, judge(outcome.evidence)), *outcome.wrong]
    print(f"{name}: {len(found)} found", flush=True)
    for each in found[:3]:
        print(f"  {each[:300]}", flush=True)
    if found:
        shutil.rmtree(folder)
    else:
        print(f"  what the processes left behind is in {folder}", flush=True)
    return bool(found)


if __name__ == "__main__":
    if sys.argv[2:3] == ["serve"]:
        from gateway.__main__ import main as serve

        PLANTS[sys.argv.pop(1)].patch()
        serve()
    else:
        sys.exit(main())
