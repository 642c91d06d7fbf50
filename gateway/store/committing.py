"""The one thread that writes: takes everything that waits and commits it in one transaction (group commit).

Rules:

1. One operation that fails does not undo its neighbours: all are undone, and run again with a savepoint each; and if
   what they come to together cannot be written, each in a transaction of its own. So an operation changes nothing but
   its transaction.
2. What a transaction does to one start is one change, written when all its operations have run.
3. Results are handed over after the commit, never before it, and only if the store is still the one that was opened.
4. If nobody knows whether something is committed, that is found out before anything else is written. Who waited is
   told so, and not that nothing was recorded.
5. What the event loop submits without a break is handed in together: a commit costs as much as many operations.
6. The thread outlives every bug. If it ends all the same, every future that waits for it fails, and so does each later
   submission.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import structlog

from gateway.errors import Reason, Unavailable
from gateway.store.batches import Results, Waiting, attempt_all, moves, numbered, unanswered
from gateway.store.engine import Unanswered
from gateway.store.sending import take_back
from gateway.store.settling import settle
from gateway.store.stepping import Steps
from gateway.store.transaction import Transaction
from gateway.store.words import PROGRESS_PAUSE_SECONDS
from gateway.tenants.loop_time import account

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from datetime import datetime

    from gateway.store.engine import Commits
    from gateway.store.transaction import Later
    from gateway.store.words import Claims

T = TypeVar("T")
log = structlog.get_logger()

TURNS = 4  # of the event loop in which nothing was submitted; a call takes three from its arrival to here
ASK_AGAIN = 1.0  # seconds between two looks what became of a commit whose answer is missing
COST = 0.001  # seconds that an operation takes of the threads that write, and that tell watchers of it
LINGER = 0.020  # seconds for which what was submitted waits for more, at the most
_PROGRESS_PAUSE = timedelta(seconds=PROGRESS_PAUSE_SECONDS)

Timed: TypeAlias = "Callable[[float, int, Mapping[str, int]], None]"
"""Is told, on the writer's thread, of a commit: its seconds, its operations, and by backend what was sent twice."""


def untimed(_seconds: float, _operations: int, _duplicates: Mapping[str, int]) -> None:
    """Does nothing with it."""


@dataclass(frozen=True, slots=True)
class _Tried:
    """Something that was committed, or may be."""

    transaction: Transaction
    batch: list[Waiting]
    due: list[str]
    results: Results
    stepped: Callable[[], None]
    began: float  # by `time.perf_counter`


class Writer:
    """The thread that writes. Operations are functions of a `Transaction`; their results come as futures."""

    def __init__(
        self,
        commits: Commits,
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], datetime],
        head: int,
        incarnation: int,
        behind: Mapping[str, datetime],
        committed: Callable[[int, Collection[str]], None],
        timed: Timed,
        died: Callable[[str], None],
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        self._commits = commits
        self._steps = Steps(monotonic)
        self._loop = loop
        self._clock = clock
        self._head = head
        self._incarnation = incarnation
        self._committed = committed
        self._timed = timed
        self._died = died
        self._submitted: list[Waiting] = []  # and not handed in yet
        self._queue: queue.SimpleQueue[list[Waiting] | None] = queue.SimpleQueue()
        commits.woken = lambda: self._queue.put([])
        self._in_hand: list[Waiting] = []
        self._unanswered: list[Claims | tuple[str, int]] = []  # committed when the store was lost: nobody knows of it
        self._open: _Tried | None = None  # of which it is not known whether it is committed
        self._behind = dict(behind)
        self._stopped = False
        self._busy_since: float | None = None
        self._again: float | None = None  # seconds until the engine has something to do between transactions
        self._why_dead = ""
        self.is_well = True  # whether the last commit worked
        self.failed = ""  # the engine's name of the error that the last one failed with
        self._ended = asyncio.Event()  # waited for without a pool: others may hold all threads of one
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, operation: Callable[[Transaction], T | Later[T]]) -> asyncio.Future[T]:
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
        self._submitted.append(Waiting(operation, future))
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
        await self._ended.wait()

    def _run(self) -> None:
        try:
            while self._commit_next():
                pass
        except BaseException as error:  # noqa: BLE001 -- whatever ends the thread, nobody waits for it in vain
            self._die(error)
        finally:
            self._commits.end()
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._ended.set)

    def _die(self, error: BaseException) -> None:
        self.is_well = False
        self._why_dead = f"the thread that writes has ended ({type(error).__name__})"
        log.critical("writer_died", exc_info=error)
        with suppress(Exception):
            self._commits.roll_back()
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
        if self._open is not None and not batch:
            self._ask_again()
        self._again = self._commits.between() if self._open is None else ASK_AGAIN
        self._busy_since = None
        return going_on

    def _pause(self) -> float | None:
        """How many seconds to wait for work: until the first progress that was held back may be told."""
        if self._again is not None:
            return self._again
        if not self._behind:
            return None
        left = (min(self._behind.values()) - self._clock()).total_seconds()
        return min(max(0.0, left), PROGRESS_PAUSE_SECONDS)  # whatever the clock does

    def _due(self) -> list[str]:
        """Lists the starts whose progress was held back for long enough. Never for longer, if the clock goes back."""
        now = self._clock()
        return [each for each, at in self._behind.items() if at <= now or at - now > _PROGRESS_PAUSE]

    def _commit(self, batch: list[Waiting], due: list[str], *, again: bool = False) -> None:
        """Commits operations, and the progress of starts that were held back."""
        if not batch and not due:
            return
        commits, began = self._commits, time.perf_counter()
        results: Results = []
        before: int | None = None
        try:
            self._find_out()
            moving = moves(batch) or bool(due or self._unanswered) or self._steps.has_stepped(self._clock())
            conn = commits.begin(moves=moving)
            transaction = Transaction(conn, self._clock(), self._incarnation)
            if self._unanswered:
                take_back(transaction, self._unanswered)
            stepped = self._steps.notice(transaction, moves=moving)
            results = attempt_all(transaction, batch, commits.is_own)
            settle(transaction, due)
            tried = _Tried(transaction, batch, due, results, stepped, began)
            before = commits.commit(transaction.tail)
            stepped()
            self._unanswered = []
            commits.confirm()
        except Unanswered as error:
            self._open = tried
            self._refuse(batch, due, error)
        except Exception as error:  # noqa: BLE001 -- the thread outlives every bug: without it nobody is answered
            commits.roll_back()
            if before is not None:
                self._unanswered += unanswered(batch, results)
                self._hand_over([], before + transaction.tail.count, transaction.backends())
            elif commits.is_conflict(error) and not again:
                self._commit(batch, due, again=True)
                return
            elif (commits.is_conflict(error) or commits.is_own(error)) and len(batch) + len(due) > 1:
                self._commit_singly(batch, due)
                return
            self._refuse(batch, due, error)
        else:
            self._finish(tried, before, numbered(results, before))

    def _finish(self, tried: _Tried, before: int, results: Results) -> None:
        """Tells of what is committed: whoever waits for it, watchers, and who counts."""
        self.is_well = True
        transaction = tried.transaction
        for start_id in tried.due:
            self._behind.pop(start_id, None)
        self._behind.update(transaction.behind)
        self._hand_over(results, before + transaction.tail.count, transaction.backends())
        try:
            self._timed(time.perf_counter() - tried.began, len(tried.batch), transaction.duplicates)
        except Exception as error:
            log.error("not_counted", exc_info=error)

    def _find_out(self) -> None:
        """Finds out what became of a commit, if that is open; raises what `down` knows if that cannot be known yet."""
        if (tried := self._open) is None:
            return
        before = self._commits.became()
        self._open = None
        if before is not None:
            tried.stepped()
            self._unanswered = unanswered(tried.batch, tried.results)  # what was before, it has taken back itself
            self._finish(tried, before, [])

    def _ask_again(self) -> None:
        """Finds out what became of a commit while there is nothing to be written."""
        try:
            self._find_out()
        except Exception as error:  # noqa: BLE001 -- as in `_commit`
            self._commits.roll_back()
            self._refuse([], [], error)

    def _commit_singly(self, batch: list[Waiting], due: list[str]) -> None:
        """Commits each by itself: something about one of them cannot be written."""
        for waiting in batch:
            self._commit([waiting], [])
        for start_id in due:
            self._commit([], [start_id])

    def _refuse(self, batch: list[Waiting], due: list[str], error: Exception) -> None:
        """Answers operations with an error."""
        down = self._commits.down(error)
        self.is_well = down is None
        self.failed = "" if down is None else down.name
        if down is None and due:
            log.error("progress_not_recorded", starts=due, exc_info=error)
        later = self._clock() + _PROGRESS_PAUSE
        self._behind.update(dict.fromkeys(due, later))  # not at once: the disk may stay full
        self._hand_over(
            [(waiting.future, None, error if down is None else down.error) for waiting in batch], self._head, ()
        )

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


def closed() -> Unavailable:
    """Says that the store takes nothing more."""
    return Unavailable(reason=Reason.DRAINING, message="The gateway is shutting down. Try again in a moment.")


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
