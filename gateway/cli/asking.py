"""Asks, while a watch lasts, why starts wait: a watch has changes, and waiting is none.

Rules:

1. It asks in a thread of its own, because a watch stands still exactly where there is something to say.
2. It asks for few starts at once, and less and less often while they stay as they are.
"""

from __future__ import annotations

from threading import Event, Thread
from typing import TYPE_CHECKING, Self

from gateway.cli.client import CallFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.cli.board import Board
    from gateway.cli.client import Client

AT_ONCE = 10  # starts of which something is not sent, of those that are watched
FIRST_PAUSE = 2.0  # seconds; a start that nothing hinders is sent within them
LONGEST_PAUSE = 20.0  # seconds


class Asking:
    """Asks until the block ends. `learned` is called after each time, from its thread, unless the block has ended."""

    def __init__(
        self, client: Client, board: Board, learned: Callable[[], None], *, first_pause: float = FIRST_PAUSE
    ) -> None:
        self._client, self._board, self._learned, self._first_pause = client, board, learned, first_pause
        self._ended = Event()
        self._thread = Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()  # not waited for: Ctrl-C ends a watch at once, also while a call is open

    def _ask(self) -> None:
        pause, before = self._first_pause, [("", 0)]
        while not self._ended.wait(pause):
            unsent = self._board.unsent(AT_ONCE)
            now = [(start.id, start.revision) for start in unsent]
            pause = min(pause * 2, LONGEST_PAUSE) if unsent and now == before else self._first_pause
            before = now
            try:
                self._board.learn([self._client.get(start.id).flow_start for start in unsent])
            except (CallFailed, ValueError):  # the latter is gRPC's for a channel that was closed; the watch itself ...
                continue  # ... says what is wrong, if anything is
            if not self._ended.is_set():
                self._learned()
