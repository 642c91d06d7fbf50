"""The gateway, profiled while it serves: `python -m tests.bench.profiled FILE serve --config …`.

From when it is ready until it is told to stop. Writes FILE.loop and FILE.writer, of the event loop's thread and of the
store's writer, for `python -m pstats`. Needs Python 3.11: later ones profile one thread at a time.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
from io import StringIO
from typing import TYPE_CHECKING

from gateway.__main__ import main
from gateway.server import building as server
from gateway.store.committing import Writer

if TYPE_CHECKING:
    from pathlib import Path

SHOWN = 40  # lines of each list
loop_profile, writer_profile = cProfile.Profile(), cProfile.Profile()
tune, commit_next = server.tune_collector, Writer._commit_next
begun = {"loop": False, "writer": False}


def tune_and_begin() -> None:
    """Does what comes last before it is ready, and begins with the loop's thread."""
    tune()
    begun["loop"] = True
    loop_profile.enable()


def begin_and_commit_next(writer: Writer) -> bool:
    """Begins with the writer's thread, once the loop's has begun, and commits."""
    if begun["loop"] and not begun["writer"]:
        begun["writer"] = True
        writer_profile.enable()
    return commit_next(writer)


def show(file: Path, what: str) -> str:
    """Lists where the time of both threads went, without the paths of a machine."""
    text = StringIO()
    for thread in ("loop", "writer"):
        text.write(f"The thread of the {thread}, {what}\n")
        stats = pstats.Stats(f"{file}.{thread}", stream=text).strip_dirs()
        stats.files = []  # it would tell where it is
        stats.sort_stats("tottime").print_stats(SHOWN).sort_stats("cumulative").print_stats(SHOWN)
    return text.getvalue()


if __name__ == "__main__":
    file = sys.argv.pop(1)
    server.tune_collector = tune_and_begin
    Writer._commit_next = begin_and_commit_next  # type: ignore[method-assign]
    try:
        main()
    finally:
        loop_profile.disable()
        loop_profile.dump_stats(f"{file}.loop")
        writer_profile.dump_stats(f"{file}.writer")
