"""Rows that cannot be read: each is set aside, named in the log once, and counted, and everything else goes on."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
log = structlog.get_logger()

NAMED = 10_000  # rows at the most that are remembered, so that each is named once


class Unreadable:
    """The rows that were set aside in this process. Any thread may add one."""

    def __init__(self) -> None:
        self._known: set[tuple[str, object]] = set()
        self._guard = threading.Lock()

    def __len__(self) -> int:
        """Returns how many there are."""
        return len(self._known)

    def note(self, kind: str, name: object, error: Exception) -> None:
        """Names a row, unless it was named before. What is in it is nobody's business."""
        with self._guard:
            is_new = (kind, name) not in self._known and len(self._known) < NAMED
            if is_new:
                self._known.add((kind, name))
        if is_new:
            log.error("row_set_aside", row=kind, id=name, error=type(error).__name__)


unreadable = Unreadable()


def readable(
    kind: str, rows: Iterable[tuple[Any, ...]], decode: Callable[[tuple[Any, ...]], T], name: int = 0
) -> Iterator[T]:
    """Decodes rows, and sets aside those that cannot be; `name` is the column that says which one it is."""
    for row in rows:
        try:
            yield decode(row)
        except Exception as error:  # noqa: BLE001 -- whatever is wrong with one row, the others are read
            unreadable.note(kind, row[name], error)
