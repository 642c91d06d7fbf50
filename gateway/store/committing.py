"""The one thread that writes: takes everything that waits and commits it in one transaction (group commit).

Rules:

1. One operation that fails does not undo its neighbours: all are undone, and run again with a savepoint each; and if
   what they come to together cannot be written, each in a transaction of its own. So an operation changes nothing but
   its transaction.
2. What a transaction does to one start is one change, written when all its operations have run.
3. Results are handed over after the commit, never before it, and only if the files are still those that were opened.
4. What the event loop submits without a break is handed in together: a commit costs as much as many operations.
5. The thread outlives every bug. If it ends all the same, every future that waits for it fails, and so does each later
   submission.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import structlog

from gateway.errors import Reason, Unavailable
from gateway.store.creating import Creation, create
from gateway.store.files import StoreLost
from gateway.store.sending import Answer, Beginning, begin, record, take_back
from gateway.store.settling import settle
from gateway.store.stepping import Steps
from gateway.store.transaction import Transaction
from gateway.store.words import PROGRESS_PAUSE_SECONDS, Claims
from gateway.tenants.loop_time import account

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from gateway.store.files import Files
    from gateway.store.gate import Gate

T = TypeVar("T")
log = structlog.get_logger()

TURNS = 4  # of the event loop in which nothing was submitted; a call takes three from its arrival to here
COST = 0.001  # seconds that an operation takes of the threads that write, and that tell watchers of it
LINGER = 0.020  # seconds for which what was submitted waits for more, at the most
LOG_BOUND = 16 * 1024 * 1024  # bytes of the log, above which readers leave a gap in which it begins anew
CLOSED_PAUSE = 0.1  # seconds between looks whether the readers have left
_PROGRESS_PAUSE = timedelta(seconds=PROGRESS_PAUSE_SECONDS)

_TOGETHER: Mapping[type, Callable[[Transaction, Sequence[Any]], Sequence[Any]]] = {
    Creation: create,
    Beginning: begin,
    Answer: record,
}
"""Operations of which a commit has many, and what runs them as one."""

Results: TypeAlias = "list[tuple[asyncio.Future[Any], Any, BaseException | None]]"
"""What operations have come to: whose futures wait, and a result or an error for each."""

Timed: TypeAlias = "Callable[[float, int, Mapping[str, int]], None]"
"""Is told, on the writer's thread, of a commit: its seconds, its operations, and by backend what was sent twice."""


def untimed(_seconds: float, _operations: int, _duplicates: Mapping[str, int]) -> None:
    """Does nothing with it."""


@dataclass(slots=True)
class _Waiting:
    operation: Callable[[Transaction], Any]
    future: asyncio.Future[Any]


class Writer:
    """The thread that writes. Operations are functions of a `Transaction`; their results come as futures."""

    def __init__(
        self,
        conn: sqlite3.Connection,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], datetime],
        head: int,
        incarnation: int,
        behind: Mapping[str, datetime],
        committed: Callable[[int, Collection[str]], None],
        timed: Timed,
        files: Files,
        gate: Callable[[Callable[[], None]], Gate],
        died: Callable[[str], None],
        log_bound: int = LOG_BOUND,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self._conn = conn
        self._steps = Steps(monotonic)
        self._loop = loop
        self._clock = clock
        self._head = head
        self._incarnation = incarnation
        self._committed = committed
        self._timed = timed
        self._files = files
        self._died = died
        self._log_least = self._log_bound = log_bound
        self._log_size = 0
        self._submitted: list[_Waiting] = []  # and not handed in yet
        self._queue: queue.SimpleQueue[list[_Waiting] | None] = queue.SimpleQueue()
        self.gate = gate(lambda: self._queue.put([]))  # wakes the thread: the readers have left
        self._in_hand: list[_Waiting] = []
        self._unanswered: list[Claims | tuple[str, int]] = []  # committed when the files were lost: nobody knows of it
        self._behind = dict(behind)
        self._stopped = False
        self._busy_since: float | None = None
        self._why_dead = ""
        self.is_well = True  # whether the last commit worked
        self.failed = ""  # SQLite's name of the error that the last one failed with
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, operation: Callable[[Transaction], T]) -> asyncio.Future[T]:
        """Queues an operation. The future holds its result once that is on the disk."""
        if self._why_dead:
            raise _dead(self._why_dead)
        if self._stopped:
            raise closed()
        if (whose := account()) is not None:
            whose.charge(COST)
        future: asyncio.Future[T] = self._loop.create_future()
        if not self._submitted:
            self._loop.call_soon(self._linger, self._loop.time() + LINGER, 0, 0)
        self._submitted.append(_Waiting(operation, future))
        return future

    def busy_seconds(self) -> float:
        """Returns for how long the commit has been going on that is going on."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def is_busy(self) -> bool:
        """Whether something is to be written, or being written."""
        return self._busy_since is not None or bool(self._submitted)

    def _linger(self, until: float, known: int, turns: int) -> None:
        """Hands in what was submitted once nothing has been for some turns; `known` of it was there in the last one."""
        count = len(self._submitted)
        turns = turns + 1 if count == known else 0
        if turns < TURNS and self._loop.time() < until and not self._stopped:
            self._loop.call_soon(self._linger, until, count, turns)
            return
        submitted, self._submitted = self._submitted, []
        self._queue.put(submitted)

    async def stop(self) -> None:
        """Takes nothing more, commits what waits, then ends the thread."""
        self._stopped = True
        self._loop.call_soon(self._queue.put, None)  # behind what was submitted before
        await self._loop.run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        try:
            while self._commit_next():
                pass
        except BaseException as error:  # noqa: BLE001 -- whatever ends the thread, nobody waits for it in vain
            self._die(error)
        finally:
            self.gate.open()

    def _die(self, error: BaseException) -> None:
        self.is_well = False
        self._why_dead = f"the thread that writes has ended ({type(error).__name__})"
        log.critical("writer_died", exc_info=error)
        if self._conn.in_transaction:
            with suppress(sqlite3.Error):
                self._conn.execute("rollback")
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._abandon)

    def _abandon(self) -> None:
        """Fails whatever waits for a thread that has ended."""
        waiting = [*self._in_hand, *self._submitted]
        self._submitted = []
        with suppress(queue.Empty):
            while True:
                waiting += self._queue.get_nowait() or []
        self._deliver([(each.future, None, _dead(self._why_dead)) for each in waiting], None, ())
        self._died(self._why_dead)

    def _commit_next(self) -> bool:
        """Waits for work and commits all of it; False when it was told to stop."""
        batch = self._in_hand = []
        going_on = True
        try:
            waiting = self._queue.get(timeout=self._pause())
            while waiting is not None:
                batch += waiting
                waiting = self._queue.get_nowait()
            going_on = False
        except queue.Empty:
            pass
        self._busy_since = time.monotonic()
        if batch or self._behind:
            self._commit(batch, self._due())
        self._bound_log()
        self._busy_since = None
        return going_on

    def _pause(self) -> float | None:
        """How many seconds to wait for work: until the first progress that was held back may be told."""
        if self.gate.is_closed:
            return CLOSED_PAUSE
        if not self._behind:
            return None
        left = (min(self._behind.values()) - self._clock()).total_seconds()
        return min(max(0.0, left), PROGRESS_PAUSE_SECONDS)  # whatever the clock does

    def _due(self) -> list[str]:
        """Lists the starts whose progress was held back for long enough. Never for longer, if the clock goes back."""
        now = self._clock()
        return [each for each, at in self._behind.items() if at <= now or at - now > _PROGRESS_PAUSE]

    def _commit(self, batch: list[_Waiting], due: list[str]) -> None:
        """Commits operations, and the progress of starts that were held back."""
        if not batch and not due:
            return
        conn, now = self._conn, self._clock()
        transaction = Transaction(conn, now, self._head, self._incarnation)
        results: Results = []
        began, is_committed = time.perf_counter(), False
        try:
            self._files.check()
            conn.execute("begin immediate")
            self._refuse_if_taken()
            if self._unanswered:
                take_back(transaction, self._unanswered)
            stepped = self._steps.notice(transaction)
            results = _attempt_all(transaction, batch)
            settle(transaction, due)
            conn.execute("commit")
            is_committed = True
            stepped()
            self._unanswered = []
            self._log_size = self._files.check()
        except Exception as error:  # noqa: BLE001 -- the thread outlives every bug: without it nobody is answered
            if conn.in_transaction:
                conn.execute("rollback")
            if is_committed:
                self._unanswered += _unanswered(batch, results)
                self._head = transaction.head
            elif not isinstance(error, sqlite3.Error | StoreLost) and len(batch) + len(due) > 1:
                self._commit_singly(batch, due)
                return
            self._refuse(batch, due, error)
            return
        self.is_well = True
        for start_id in due:
            self._behind.pop(start_id, None)
        self._behind.update(transaction.behind)
        self._hand_over(results, transaction.head, transaction.backends())
        try:
            self._timed(time.perf_counter() - began, len(batch), transaction.duplicates)
        except Exception as error:
            log.error("not_counted", exc_info=error)

    def _commit_singly(self, batch: list[_Waiting], due: list[str]) -> None:
        """Commits each by itself: something about one of them cannot be written."""
        for waiting in batch:
            self._commit([waiting], [])
        for start_id in due:
            self._commit([], [start_id])

    def _refuse(self, batch: list[_Waiting], due: list[str], error: Exception) -> None:
        """Answers operations with an error."""
        self.is_well = not isinstance(error, sqlite3.Error | StoreLost)
        self.failed = ""
        down: Exception = error
        if isinstance(error, sqlite3.Error):
            self.failed = name_of(error)
            down = unavailable(error)
        elif isinstance(error, StoreLost):
            down = lost(error)
        elif due:
            log.error("progress_not_recorded", starts=due, exc_info=error)
        later = self._clock() + _PROGRESS_PAUSE
        self._behind.update(dict.fromkeys(due, later))  # not at once: the disk may stay full
        self._hand_over([(waiting.future, None, down) for waiting in batch], self._head, ())

    def _refuse_if_taken(self) -> None:
        """Gives the store up if another gateway has had it: a lock that was removed holds nobody off."""
        (incarnation,) = self._conn.execute("select value from meta where key = 'incarnation'").fetchone()
        if incarnation != str(self._incarnation):
            self._files.condemn("another gateway has opened it since")

    def _bound_log(self) -> None:
        """Begins the log anew if it is long, as soon as the readers have left it."""
        if self._log_size <= self._log_bound or not self.gate.close():
            return
        busy = 1
        try:
            self._conn.execute("pragma busy_timeout = 0")  # another process that reads is not waited for
            (busy, _, _) = self._conn.execute("pragma wal_checkpoint(truncate)").fetchone()
            self._conn.execute("pragma busy_timeout = 5000")
        except sqlite3.Error as error:
            log.warning("log_not_folded", error=getattr(error, "sqlite_errorname", ""), bytes=self._log_size)
        finally:
            self.gate.open()
        self._log_bound = self._log_size + self._log_least if busy else self._log_least
        self._log_size = self._log_size if busy else 0

    def _hand_over(self, results: Results, head: int, backends: Collection[str]) -> None:
        advanced, self._head = head > self._head, head
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, results, head if advanced else None, backends)

    def _deliver(self, results: Results, head: int | None, backends: Collection[str]) -> None:
        for future, result, error in results:
            if future.done():  # its caller has gone; what it asked for is done all the same
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
        if head is not None:
            self._committed(head, backends)


def _unanswered(batch: Sequence[_Waiting], results: Results) -> list[Claims | tuple[str, int]]:
    """Returns what was claimed and begun, and will not be known to whoever wanted to send it."""
    found: list[Claims | tuple[str, int]] = []
    for waiting, (_, result, _) in zip(batch, results, strict=True):
        if isinstance(result, Claims):
            found.append(result)
        elif isinstance(waiting.operation, Beginning) and result is not None:
            found.append((waiting.operation.dispatch_id, result))
    return found


def _attempt_all(transaction: Transaction, batch: list[_Waiting]) -> Results:
    """Runs operations: all in one savepoint, and if any of them fails, once more and each in its own."""
    if len(batch) > 1:
        results, error = _attempt(transaction, lambda t: _run_together(t, batch))
        if error is None:
            return [(waiting.future, result, None) for waiting, result in zip(batch, results, strict=True)]
    return [(waiting.future, *_attempt(transaction, waiting.operation)) for waiting in batch]


def _run_together(transaction: Transaction, batch: list[_Waiting]) -> list[Any]:
    """Runs operations in their order, then those of each kind in `_TOGETHER` that there are, as few statements."""
    results: list[Any] = [None] * len(batch)
    alike: dict[type, list[int]] = {kind: [] for kind in _TOGETHER}
    for place, waiting in enumerate(batch):
        if (kind := type(waiting.operation)) in alike:
            alike[kind].append(place)
        else:
            results[place] = waiting.operation(transaction)
    for kind, places in alike.items():
        if places:
            operations = [batch[place].operation for place in places]
            for place, result in zip(places, _TOGETHER[kind](transaction, operations), strict=True):
                results[place] = result
    return results


def _attempt(transaction: Transaction, operation: Callable[[Transaction], Any]) -> tuple[Any, BaseException | None]:
    """Runs an operation. What is wrong with it alone is its own error; what is wrong with the store ends the batch."""
    try:
        return transaction.run(operation), None
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError) as error:
        return None, error
    except sqlite3.Error:
        raise
    except Exception as error:  # noqa: BLE001 -- it is handed to whoever asked
        return None, error


def closed() -> Unavailable:
    """Says that the store takes nothing more."""
    return Unavailable(reason=Reason.DRAINING, message="The gateway is shutting down. Try again in a moment.")


def name_of(error: sqlite3.Error) -> str:
    """Returns what SQLite calls an error."""
    return str(getattr(error, "sqlite_errorname", "SQLITE_ERROR"))


def unavailable(error: sqlite3.Error) -> Unavailable:
    """Says what is wrong with the store, without what was being stored or read."""
    name = name_of(error)
    return Unavailable(
        reason=Reason.STORE_UNAVAILABLE,
        message=f"The store does not work ({name}); nothing was recorded. Try again; if it persists, check the disk.",
        metadata={"sqlite_error": name},
    )


def lost(error: StoreLost) -> Unavailable:
    """Says that the files of the store are gone, or are others."""
    return Unavailable(reason=Reason.STORE_UNAVAILABLE, message=str(error))


def too_long() -> Unavailable:
    """Says that a read was ended because others waited for it."""
    return Unavailable(
        reason=Reason.STORE_UNAVAILABLE, message="The read took too long, and was ended. Ask for less, or try again."
    )


def _dead(why: str) -> Unavailable:
    return Unavailable(
        reason=Reason.STORE_UNAVAILABLE,
        message=f"The store does not work: {why}. The gateway ends so that it is restarted. Try again.",
    )
