"""Who is told that something was recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

log = structlog.get_logger()


class Listeners:
    """Functions that are called with the newest revision after commits that made one. On the event loop."""

    def __init__(self) -> None:
        self._listeners: list[tuple[str | None, Callable[[int], None]]] = []

    def add(self, listener: Callable[[int], None], backend: str | None) -> None:
        """Calls it from here on; if a backend is named, only after commits that recorded or moved a start there."""
        self._listeners.append((backend, listener))

    def notify(self, head: int, backends: Collection[str] | None) -> None:
        """Calls those for which there is something new, all of them if backends are None; whatever one raises."""
        for backend, listener in self._listeners:
            if backend is None or backends is None or backend in backends:
                try:
                    listener(head)
                except Exception as error:
                    log.error("listener_failed", exc_info=error)
