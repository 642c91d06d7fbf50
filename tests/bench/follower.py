"""The gateway, watched while it serves: `python -m tests.bench.follower FILE serve --config …`.

Every second it appends to FILE a line of how late the event loop was, in seconds, at each look in that second. SIGUSR1
has everything read again, as happens every few hours by itself.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import Any

from gateway.__main__ import main
from gateway.lanes.tracker import Tracker
from gateway.server import building as server

LOOK = 0.005  # seconds between looks at the loop
trackers: list[Tracker] = []
serve, make = server._serve, Tracker.__init__


def remember(tracker: Tracker, *args: Any, **named: Any) -> None:
    """Makes a tracker, and keeps it at hand."""
    make(tracker, *args, **named)
    trackers.append(tracker)


def read_again() -> None:
    """Has every tracker read everything again."""
    for tracker in trackers:
        tracker._reread_at = 0.0


async def watch(path: Path) -> None:
    """Writes down, second by second, how late the loop was."""
    with path.open("a") as file:
        while True:
            late, end = [], time.monotonic() + 1
            while (before := time.monotonic()) < end:
                await asyncio.sleep(LOOK)
                late.append(time.monotonic() - before - LOOK)
            file.write(" ".join(f"{each:.4f}" for each in late) + "\n")
            file.flush()


async def watched(*args: Any) -> None:
    """Serves, and is watched."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, read_again)
    watcher = asyncio.create_task(watch(holds))
    await serve(*args)
    watcher.cancel()


if __name__ == "__main__":
    holds = Path(sys.argv.pop(1))
    Tracker.__init__ = remember  # type: ignore[method-assign]
    server._serve = watched
    main()
