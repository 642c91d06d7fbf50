"""Mistakes planted in gateways on PostgreSQL, which the judge must find: `python -m tests.chaos_postgres.planted`.

Each is a patch of the gateway's process, never of the product, and a short run in which it shows.
`python -m tests.chaos_postgres.planted NAME serve --config …` is a gateway with one of them.
"""

from __future__ import annotations

import asyncio
import inspect
import shutil
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.chaos.judge import judge
from tests.chaos.plan import Options, draw
from tests.chaos.planted import replace

if TYPE_CHECKING:
    from collections.abc import Callable

SLOWLY = 0.6  # seconds in which a stop comes at the worst moment


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """One mistake: how it is made, and the run that meets it."""

    patch: Callable[[], None]
    run: dict[str, Any] = field(default_factory=dict)
    breaks: tuple[str, ...] = ()  # what breaks at PostgreSQL meanwhile, in turns
    every: float = 2.0  # seconds between two of those
    gateways: int = 2
    duel: str = ""  # one of `duel.py`


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


def _draw_revisions() -> None:
    """Revisions come from a sequence: they are given in the order of drawing, and seen in that of committing."""
    from gateway.store.postgres import commits  # noqa: PLC0415
    from gateway.store.transaction import NEWEST  # noqa: PLC0415

    written = _rewritten(
        commits.ended,
        {
            "select from turnstile where one = 1 for update": "select nextval('planted')",
            "select {NEWEST}": "select currval('planted')",
            "values ({NEWEST} +": "values (currval('planted') +",
            'f"insert into commits': '"select pg_sleep(random() * 0.1)", f"insert into commits',
        },
    )
    replace(commits, "ended", lambda *args: written(*args).replace(NEWEST, "currval('planted')"))


def _without_fences() -> None:
    """An attempt begins whoever has the lane and the claim by now, and whatever else is open.

    Its clock has stood still, as that of a machine that was suspended: it is what a fence is for.
    """
    from gateway.store import batches, sending  # noqa: PLC0415

    fences = (" and claimed_by = begun.incarnation", " and {_OURS}", " and {NONE_OPEN}")
    begin = _rewritten(sending.begin, dict.fromkeys(fences, ""))
    replace(sending, "begin", begin)
    together: dict[type, Any] = batches._TOGETHER  # type: ignore[assignment]
    assert sending.Beginning in together
    together[sending.Beginning] = begin
    _begin_slowly(before=SLOWLY)
    _stand_still()


def _without_locks() -> None:
    """Whose lane it is is read while others may take it: nobody waits for whoever else moves what is there."""
    from gateway.store.postgres.commits import PostgresCommits  # noqa: PLC0415

    begin = PostgresCommits.begin
    replace(PostgresCommits, "begin", lambda self, *, moves: begin(self, moves=False))  # noqa: ARG005
    seen = {'else "commit"': 'else f"/*{self._batch}*/ commit"'}  # by the proxy: what is said alike is prepared
    replace(PostgresCommits, "commit", _rewritten(PostgresCommits.commit, seen))
    _begin_slowly(before=SLOWLY / 4)


def _never_look_at_leases() -> None:
    """Whoever had a lane goes on as if it still had it, and writes what it had begun."""
    _begin_slowly(after=SLOWLY)
    _stand_still()


def _stand_still() -> None:
    from gateway.lanes import leasing  # noqa: PLC0415

    replace(leasing.Lease, "left", property(lambda _lease: float("inf")))


def _end_at_once() -> None:
    """What a lane's last owner was sending counts as ended when the next one comes, though it may still be running."""
    from gateway.store import leases  # noqa: PLC0415

    recover = vars(leases)["recover"]
    replace(leases, "recover", lambda transaction, lane, _runs_on: recover(transaction, lane, 0))


def _begin_slowly(before: float = 0.0, after: float = 0.0) -> None:
    """Has an attempt wait before it is recorded, or after: that alone is no mistake."""
    from gateway.store import operations  # noqa: PLC0415

    begin = operations.Operations.begin_attempt

    async def slowly(self: Any, dispatch_id: str, **said: Any) -> int | None:
        await asyncio.sleep(before)
        number = await begin(self, dispatch_id, **said)
        await asyncio.sleep(after)
        return number

    replace(operations.Operations, "begin_attempt", slowly)


def _rewritten(function: Callable[..., Any], texts: dict[str, str]) -> Callable[..., Any]:
    """Returns a function with other texts in it: what is planted is what the product says, but for those."""
    source = textwrap.dedent(inspect.getsource(function))
    for text, other in texts.items():
        if text not in source:
            msg = f"there is no {text!r} any more: plant it where that is done today"
            raise LookupError(msg)
        source = source.replace(text, other)
    names = dict(function.__globals__)
    exec(compile(source, "planted", "exec"), names)  # noqa: S102 -- annotations stay texts, as in this file
    made: Callable[..., Any] = names[function.__name__]
    return made


SHORT = {"starts": 120, "kills": 12, "seconds": 60.0, "swept": 0, "floors": False, "outages": 0.0, "mix": "many",
         "pauses": 0.5, "pause": (2.0, 2.8), "patience": 4.0}  # fmt: skip
DUEL = {"starts": 60, "kills": 2, "lives": 6.0, "calm": True, "mix": "one", "resolves": False,
        "page_size": 200, "every": 5.0}  # fmt: skip
PLANTS = {
    "no fence": Plant(patch=_without_fences, duel="before", run={**DUEL, "timeout": 2.0, "latency": 1.2}),
    "a fence read without a lock": Plant(patch=_without_locks, duel="uncommitted", run=DUEL),
    "leases never looked at": Plant(patch=_never_look_at_leases, duel="after", run=DUEL),
    "open attempts ended at once": Plant(patch=_end_at_once, duel="open", run={**DUEL, "timeout": 12.0, "kills": 1}),
    "commits looked for by a read": Plant(patch=_believe_a_read, breaks=("frozen",), gateways=1),
    "revisions from a sequence": Plant(patch=_draw_revisions, run={"kills": 3, "calm": True}, gateways=3),
}


def main() -> int:
    """Runs each plant, or those that are named, and prints a table; 1 if the judge has missed one."""
    names = sys.argv[1:] or list(PLANTS)
    found = {name: _found(name) for name in names}
    print(f"\n{'planted':30} {'found':>6} {'seconds':>8}  for example")
    for name, (seconds, violations) in found.items():
        print(f"{name:30} {len(violations):6} {seconds:8.0f}  {violations[0][:150] if violations else 'MISSED'}")
    missed = [name for name, (_, violations) in found.items() if not violations]
    print(f"MISSED: {', '.join(missed)}" if missed else "FOUND: all", flush=True)
    return int(bool(missed))


def _found(name: str) -> tuple[float, list[str]]:
    """Returns how long the run of a plant took, and what was found wrong."""
    from tests.chaos_postgres.run import reported, run  # noqa: PLC0415 -- a gateway needs none of it

    plant, begun = PLANTS[name], time.monotonic()
    plan = draw(Options(**{**SHORT, **plant.run, "plant": name}))
    folder = Path(tempfile.mkdtemp(prefix="planted-"))
    outcome = asyncio.run(run(plan, plant.gateways, plant.every, folder, lambda _text: None, plant.breaks, plant.duel))
    found = [*map(str, judge(outcome.evidence)), *outcome.wrong]
    print(f"{name}: {len(found)} found", flush=True)
    for each in found[:3]:
        print(f"  {each[:300]}", flush=True)
    if found:
        shutil.rmtree(folder)
    else:
        reported(plan, plant.gateways, outcome, print)
        print(f"  {outcome.counts['duels']} duels; what the processes left behind is in {folder}", flush=True)
    return time.monotonic() - begun, found


if __name__ == "__main__":
    if sys.argv[2:3] == ["serve"]:
        from gateway.__main__ import main as serve

        PLANTS[sys.argv.pop(1)].patch()
        serve()
    else:
        sys.exit(main())
