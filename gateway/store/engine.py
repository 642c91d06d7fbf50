"""What a store's operations run on: SQLite, and whatever keeps the same promises.

Rules:

1. `write` returns when it is on the disk. What was written is one transaction with what others wrote at that moment.
2. `read` is one view of the whole, and no read transaction outlives it.
3. Who reads takes turns with others in the same room, and rooms do not wait for one another.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable
    from datetime import datetime, timedelta

    from gateway.errors import Unavailable
    from gateway.store.connection import Connection
    from gateway.store.transaction import Later, Tail, Transaction

T = TypeVar("T")


class StoreUnusable(Exception):
    """The store cannot be opened. Says why, and what to do."""


class StoreInUse(StoreUnusable):
    """Another process owns the store."""


class Room(Enum):
    """Whose reads wait for one another: each room has threads of its own."""

    OWN = auto()  # what the gateway reads for itself: no caller holds up a lane, and no sweep a watcher
    POINT = auto()  # what a caller reads by an id
    SCAN = auto()  # what a caller lists
    STREAM = auto()  # what a watcher is behind of


class Engine(Protocol):
    """What an engine offers. `sqlite.py` is one."""

    epoch: str
    incarnation: int
    """The number of this life."""
    lease: timedelta | None
    """As in `Leasing`."""
    broken: asyncio.Event
    """Set once it will never work again in this process."""

    @property
    def trouble(self) -> str:
        """Says what is wrong with it; nothing while it is well."""

    @property
    def is_writing(self) -> bool:
        """Whether something is to be written, or being written."""

    def now(self) -> datetime:
        """Returns the time by our clock."""

    def write(self, operation: Callable[[Transaction], T | Later[T]]) -> Awaitable[T]:
        """Queues an operation; its result comes once it is on the disk. Raises `Unavailable` if it takes none."""

    async def read(self, read: Callable[[Connection], T], room: Room, asker: str) -> T:
        """Reads when it is the asker's turn in a room. Raises `Exhausted` if too much of it waits."""

    def listen(self, listener: Callable[[int], None], backend: str | None = None) -> None:
        """Calls `listener` as `Listening.listen` says."""

    async def follow(self) -> None:
        """Hears of what other gateways record, until it is cancelled; returns at once where there are none."""

    async def look(self) -> None:
        """Looks whether it is still the store that was opened; what is wrong is `trouble` then."""

    async def check(self) -> None:
        """Writes and reads a little; raises `Unavailable` if that does not work."""

    async def close(self) -> None:
        """Writes what waits, and gives the store up."""


class Unanswered(Exception):
    """Whether it is committed is not known yet: its answer is missing, and who could say does not answer either."""


class Commits(Protocol):
    """What an engine does around each transaction, on the thread of the writer, one after the other."""

    woken: Callable[[], None]
    """Is called, on any thread, when `between` has something to do. The writer sets it."""

    def begin(self, *, moves: bool) -> Connection:
        """Begins a transaction. One that `moves` what is there is not beside any other that does.

        So what they do is done one after the other, whatever each of them reads. Raises what `down` knows if the store
        is not ours any more, or cannot be written.
        """

    def commit(self, tail: Tail) -> int:
        """Ends it with the statements that give revisions, and commits it; returns the newest one before those.

        Raises `Unanswered` if nobody knows whether it did.
        """

    def became(self) -> int | None:
        """Finds out what became of the commit that was `Unanswered`; returns what it would have, or None: nothing.

        Raises what `down` knows as long as that cannot be found out.
        """

    def confirm(self) -> None:
        """Raises what `down` knows if what was committed is not in the store that was opened."""

    def roll_back(self) -> None:
        """Takes back what was not committed, if there is something."""

    def end(self) -> None:
        """Is called when the writer has ended."""

    def is_own(self, error: Exception) -> bool:
        """Whether an error is that of the operation that raised it, and says nothing about the store."""

    def is_conflict(self, error: Exception, /) -> bool:
        """Whether an error comes of what others wrote meanwhile: the same may work when it is tried again."""

    def down(self, error: Exception) -> Down | None:
        """Says what is wrong with the store, if an error is one of it."""

    def between(self) -> float | None:
        """Does what is to be done between two transactions; returns after how many seconds again, None: when woken."""


@dataclass(frozen=True, slots=True)
class Down:
    """What is wrong with the store: the engine's name for it, which may be empty, and what callers are told."""

    name: str
    error: Unavailable
