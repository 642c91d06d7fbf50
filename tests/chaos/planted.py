"""Mistakes that are planted in a gateway, to see that the judge finds them: `python -m tests.chaos.planted`.

Each is a patch of the test's process, never of the product, and a short run in the weather in which it shows.
`python -m tests.chaos.planted NAME serve --config …` is a gateway with one of them.
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
from tests.chaos.run import run

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """One mistake: how it is made, the run that meets it, and what the judge calls it."""

    patch: Callable[[], None]
    kinds: tuple[str, ...]
    run: dict[str, Any]


def replace(owner: object, name: str, replacement: object) -> None:
    """Puts something else in the place of what is there: a plant in a place that is gone would break nothing."""
    if name not in vars(owner):
        msg = f"there is no {name} any more: plant it where that is done today"
        raise LookupError(msg)
    setattr(owner, name, replacement)


def _leave_blocks() -> None:
    from gateway.store import settling  # noqa: PLC0415 -- only the gateway's process has it

    replace(settling, "write_out_stranded", lambda _transaction, _start_ids: [])


def _believe_hidden_params() -> None:
    _scan_as(hiding=(), lists_keys=False)


def _count_outages() -> None:
    from gateway.store import finding  # noqa: PLC0415

    replace(finding, "_accepts_others", lambda _conn, _sought: True)


def _take_spellings_for_people() -> None:
    from gateway.adapters.rapidpro import adapter as rapidpro  # noqa: PLC0415

    replace(rapidpro.RapidPro, "same_as", lambda _self, _kind, recipient, country="": recipient)  # noqa: ARG005


def _believe_open_scans() -> None:
    _scan_as(needs_closing=False)


def _scan_as(**believed: object) -> None:
    """Has every scan weighed as if it were so, whatever was shown."""
    from gateway.lanes import tracker  # noqa: PLC0415

    scan = tracker.Scan
    replace(tracker, "Scan", lambda **fields: scan(**{**fields, **believed}))


AT_ONCE = 2  # runs: they wait for most of their time
SHORT = {"starts": 60, "kills": 3, "seconds": 45.0, "swept": 0, "floors": False, "outages": 0.0}
PLANTS = {
    "blocks left": Plant(
        patch=_leave_blocks, kinds=("lost", "broken"),  # what is healed at the next start is broken before
        run={  # a lane so slow that a block waits longer than a proof of absence takes
            "mix": "large", "calm": True, "late": 4.0, "often": 1.1, "in_flight": 1, "latency": 0.25, "kills": 1,
            "lives": 35.0, "starts": 90, "page_size": 200, "every": 5.0,
        },
    ),
    "hidden params believed": Plant(
        patch=_believe_hidden_params, kinds=("twice",),
        run={  # lists alone: an answer that names a start is never followed by another one, so it must be lost
            "mix": "one", "calm": True, "outages": 0.97, "only": "without_params", "verb": "list", "stretch": 3.0,
            "often": 15.0, "kills": 1, "lives": 32.0, "starts": 160, "resolves": False, "page_size": 200,
            "every": 5.0,
        },
    ),
    "outages counted": Plant(
        patch=_count_outages, kinds=("wrong",),
        run={  # so long that three rounds fit in, in spite of the circuit
            "mix": "one", "calm": True, "outages": 0.9, "only": "mailroom_down", "kills": 1, "lives": 80.0,
            "starts": 8, "stretch": 4.0, "seconds": 90.0,
        },
    ),
    "spellings taken for people": Plant(
        patch=_take_spellings_for_people, kinds=("twice",),
        run={"mix": "spelled", "calm": True, "starts": 20, "kills": 1},
    ),
    "open scans believed": Plant(
        patch=_believe_open_scans, kinds=("twice",),
        run={  # what comes late moves all the time, so that a page of one replica or another lacks it
            "mix": "one", "calm": True, "starts": 120, "kills": 1, "lives": 60.0, "late": 0.98, "often": 12.0,
            "page_size": 4, "every": 0.2, "restless": True,
        },
    ),
}  # fmt: skip


def main() -> int:
    """Runs each plant, or those that are named; 1 if the judge has missed one."""
    names = sys.argv[1:] or list(PLANTS)
    missed = asyncio.run(_missed(names))
    print(f"MISSED: {', '.join(missed)}" if missed else "FOUND: all", flush=True)
    return int(bool(missed))


async def _missed(names: list[str]) -> list[str]:
    """Returns which of them the judge does not find."""
    free = asyncio.Semaphore(AT_ONCE)

    async def found(name: str) -> bool:
        async with free:
            return await _found(name)

    return [
        name for name, is_found in zip(names, await asyncio.gather(*map(found, names)), strict=True) if not is_found
    ]


async def _found(name: str) -> bool:
    plant = PLANTS[name]
    options = Options(**{**SHORT, **plant.run, "plant": name})
    folder = Path(tempfile.mkdtemp(prefix="planted-"))
    evidence = await run(draw(options), folder, lambda _text: None)
    violations = judge(evidence, kept=options.is_kept, may_repeat=not options.is_kept)
    found = [each for each in violations if each.kind in plant.kinds]
    print(f"{name}: {len(found)} found of kind {' or '.join(plant.kinds)}, {len(violations)} in all", flush=True)
    for each in found[:3]:
        print(f"  {each}", flush=True)
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
