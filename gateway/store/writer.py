"""The one writer: takes everything that waits and commits it in one transaction (group commit).

Rules:

1. One operation that fails does not undo its neighbours: all are undone, and run again with a savepoint each. So an
   operation changes nothing but its transaction.
2. What a transaction does to one start is one change, written when all its operations have run.
3. Results are handed over after the commit, never before it.
4. What the event loop submits without a break is handed in together: a commit costs as much as many operations.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from gateway.errors import Reason, Unavailable
from gateway.model import Standing, State, state_of
from gateway.store import PROGRESS_PAUSE_SECONDS
from gateway.store.claiming import write_out_stranded
from gateway.store.creating import Creation, create
from gateway.store.rows import decode_standing, encode_standing, from_micros, insert, over, to_micros
from gateway.store.sending import Answer, Beginning, begin, record
from gateway.store.tally import Tally, only_progress_moved, stand

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Collection, Sequence
    from datetime import datetime

T = TypeVar("T")
TURNS = 4  # of the event loop in which nothing was submitted; a call takes three from its arrival to here
LINGER = 0.020  # seconds for which what was submitted waits for more, at the most
_PROGRESS_PAUSE = timedelta(seconds=PROGRESS_PAUSE_SECONDS)

_TOGETHER: Mapping[type, Callable[[Transaction, Sequence[Any]], Sequence[Any]]] = {
    Creation: create,
    Beginning: begin,
    Answer: record,
}
"""Operations of which a commit has many, and what runs them as one."""

Results: TypeAlias = "list[tuple[asyncio.Future[Any], Any, BaseException | None]]"
"""What operations have come to: whose futures wait, and a result or an error for each."""

Timed: TypeAlias = Callable[[float, int, Mapping[str, int]], None]
"""Is told, on the writer's thread, of a commit: its seconds, its operations, and by backend what was sent twice."""


def untimed(_seconds: float, _operations: int, _duplicates: Mapping[str, int]) -> None:
    """Does nothing with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Touched:
    """A start that operations of this transaction move."""

    standing: Standing
    tally: Tally
    external_id: str
    backlog: tuple[str, str, int]  # tenant, backend, whether it is scheduled
    unsent: int  # dispatches, before this transaction
    cancel_requested_at: datetime | None = None
    anew: bool = False  # a change is written even if nothing has moved

    @property
    def may_have_blocks(self) -> bool:
        """Whether some of its dispatches may not be written out yet: those count as PENDING, and are never alone."""
        dispatches = self.tally.dispatches
        return dispatches.get(State.PENDING, 0) > 0 and sum(dispatches.values()) > 1


class Transaction:
    """One transaction in the making, as its operations see it."""

    def __init__(self, conn: sqlite3.Connection, now: datetime, head: int, incarnation: int) -> None:
        self.conn = conn
        self.now = now
        self.now_micros = to_micros(now) or 0
        self.head = head
        self.incarnation = incarnation
        self.behind: dict[str, datetime] = {}  # starts whose progress is told later, and when
        self.duplicates: Counter[str] = Counter()  # dispatches found to have been carried out twice, by backend
        self._touched: dict[str, _Touched] = {}
        self._backlogs: dict[tuple[str, str, int], int] = {}  # what is to be added

    def run(self, operation: Callable[[Transaction], T]) -> T:
        """Runs one operation in a savepoint; if it raises, nothing of it remains."""
        touched, backlogs, head = dict(self._touched), dict(self._backlogs), self.head
        self.conn.execute("savepoint operation")
        try:
            result = operation(self)
        except BaseException:
            if self.conn.in_transaction:  # a full disk has rolled everything back already
                self.conn.execute("rollback to operation")
                self.conn.execute("release operation")
            self._touched, self._backlogs, self.head = touched, backlogs, head
            raise
        self.conn.execute("release operation")
        return result

    def add_changes(self, changes: Sequence[tuple[int, str, State | None, str]]) -> None:
        """Writes changes: their revisions, which go on from the newest one, their starts, the states before, standings.

        An operation that fails takes its revisions back with it.
        """
        insert(self.conn, "changes (revision, start_id, state_before, standing)", changes)
        self.head = changes[-1][0]

    def move(self, start_id: str, change: Callable[[Tally], Tally], *, external_id: str | None = None) -> None:
        """Applies a change to the tally of a start. `external_id` is that of a start that is one dispatch."""
        touched = self._touch(start_id)
        if touched is None:
            return
        if external_id is None:
            external_id = touched.external_id
        self._touched[start_id] = replace(touched, tally=change(touched.tally), external_id=external_id)

    def request_cancel(self, start_id: str) -> None:
        """Notes that cancelling a start was asked for now."""
        if touched := self._touch(start_id):
            self._touched[start_id] = replace(touched, cancel_requested_at=self.now)

    def record_anew(self, start_id: str) -> None:
        """Has a change written for a start, whether it moves or not."""
        if touched := self._touch(start_id):
            self._touched[start_id] = replace(touched, anew=True)

    def moves(self, start_id: str) -> bool:
        """Whether an operation of this transaction has moved a start."""
        return start_id in self._touched

    def backlog(self, tenant: str, backend: str, *, scheduled: bool) -> int:
        """Counts the dispatches of a tenant that a backend has not accepted yet."""
        key = (tenant, backend, int(scheduled))
        row = self.conn.execute(
            "select unsent from backlogs where tenant = ? and backend = ? and scheduled = ?", key
        ).fetchone()
        return (0 if row is None else int(row[0])) + self._backlogs.get(key, 0)

    def tenants(self, backend: str) -> list[str]:
        """Lists the tenants that may have something to send there, whoever has waited longest for a turn first."""
        rows = self.conn.execute(
            "select tenant from backlogs where backend = ? and unsent > 0 group by tenant order by max(turn), tenant",
            (backend,),
        )
        known = [tenant for (tenant,) in rows]
        return known + sorted({tenant for tenant, of, _ in self._backlogs if of == backend} - set(known))

    def serve(self, backend: str, tenants: Sequence[str]) -> None:
        """Notes that these tenants have had their turn, in this order."""
        self.conn.executemany(
            "update backlogs set turn = (select max(turn) + 1 from backlogs where backend = ?1)"
            " where backend = ?1 and tenant = ?2",
            [(backend, tenant) for tenant in tenants],
        )

    def add_to_backlog(self, tenant: str, backend: str, *, scheduled: bool, count: int) -> None:
        """Counts dispatches that were recorded."""
        self._add_unsent((tenant, backend, int(scheduled)), count)

    def _add_unsent(self, key: tuple[str, str, int], count: int) -> None:
        self._backlogs[key] = self._backlogs.get(key, 0) + count

    def backends(self) -> frozenset[str]:
        """Names the backends of the starts that were recorded or have moved."""
        moved = {touched.backlog[1] for touched in self._touched.values()}
        return frozenset(moved | {backend for _, backend, _ in self._backlogs})

    def settle(self, told_anyway: Collection[str]) -> None:
        """Writes one change for each start that has moved; `told_anyway` names those whose pause is over."""
        self.read(told_anyway)
        write_out_stranded(self, [each for each, touched in self._touched.items() if touched.may_have_blocks])
        told: list[tuple[Any, ...]] = []
        quiet: list[tuple[Any, ...]] = []
        changes: list[tuple[int, str, State | None, str]] = []
        for start_id, touched in self._touched.items():
            self._add_unsent(touched.backlog, touched.tally.dispatches.get(State.PENDING, 0) - touched.unsent)
            after, tally = self._stand(start_id, touched), touched.tally.encode()
            if self._is_told(touched, after):
                revision, text = self.head + 1 + len(changes), encode_standing(after)
                told.append((start_id, after.state, revision, text, tally))
                changes.append((revision, start_id, touched.standing.state, text))
                continue
            if behind := after.progress != touched.standing.progress:
                self.behind[start_id] = touched.standing.updated_at + _PROGRESS_PAUSE
            quiet.append((start_id, tally, behind))
        over(
            self.conn,
            "with moved(id, state, revision, standing, tally) as (values $rows) update starts set state = moved.state,"
            " revision = moved.revision, behind = 0, standing = moved.standing, tally = moved.tally"
            " from moved where starts.id = moved.id",
            told,
        )
        over(
            self.conn,
            "with moved(id, tally, behind) as (values $rows) update starts set tally = moved.tally,"
            " behind = moved.behind from moved where starts.id = moved.id",
            quiet,
        )
        if changes:
            self.add_changes(changes)
        self.conn.executemany(
            "insert into backlogs (tenant, backend, scheduled, unsent) values (?, ?, ?, ?)"
            " on conflict do update set unsent = unsent + excluded.unsent",
            [(*key, count) for key, count in self._backlogs.items() if count],
        )

    def read(self, start_ids: Collection[str]) -> None:
        """Reads starts that are about to move, by few statements. One that was erased moves no more."""
        rows = over(
            self.conn,
            "with moved(id) as (values $rows) select s.id, s.standing, s.tally, s.tenant, s.backend, s.scheduled"
            " from moved cross join starts s on s.id = moved.id where s.tenant <> ''",
            [(start_id,) for start_id in start_ids if start_id not in self._touched],
        )
        for start_id, encoded, text, *backlog in rows:
            before, tally = decode_standing(encoded), Tally.decode(text)
            self._touched[start_id] = _Touched(
                standing=before,
                tally=tally,
                external_id=before.external_id,
                backlog=(backlog[0], backlog[1], backlog[2]),
                unsent=tally.dispatches.get(State.PENDING, 0),
            )

    def _touch(self, start_id: str) -> _Touched | None:
        """Returns a start that moves; None if it was erased: then nothing moves any more."""
        if start_id not in self._touched:
            self.read([start_id])
        return self._touched.get(start_id)

    def _stand(self, start_id: str, touched: _Touched) -> Standing:
        """Tells where a start stands after this transaction."""
        after = stand(
            touched.tally,
            touched.standing,
            external_id=touched.external_id,
            next_attempt_at=self._next_attempt_at(start_id, touched),
            now=self.now,
            cancel_requested_at=touched.cancel_requested_at,
        )
        if (twice := _sent_twice(after)) and (new := twice - _sent_twice(touched.standing)):
            self.duplicates[touched.backlog[1]] += len(new)
        return after

    def _is_told(self, touched: _Touched, after: Standing) -> bool:
        """Whether a change is written: not if nothing has moved, and not at once if only its progress has."""
        before = touched.standing
        if touched.anew or not only_progress_moved(before, after):
            return True
        return after.progress != before.progress and self.now >= before.updated_at + _PROGRESS_PAUSE

    def _next_attempt_at(self, start_id: str, touched: _Touched) -> datetime | None:
        """Tells when the next request is due, if everything waits for it; None for what is uncertain at rest."""
        state = state_of(touched.tally.dispatches)
        if state not in (State.PENDING, State.UNCERTAIN):
            return None
        (due,) = self.conn.execute(
            "select min(due_at) from (select min(due_at) as due_at from dispatches where start_id = ?1 and state = 1"
            " and claimed_by is null union all select min(due_at) from dispatches where start_id = ?1 and state = 7"
            " and sought_from is not null)",
            (start_id,),
        ).fetchone()
        if due is None:
            sending = state is State.UNCERTAIN and touched.tally.dispatches.get(State.PENDING)
            return touched.standing.next_attempt_at or self.now if sending else None
        return None if state is State.PENDING and due <= self.now_micros else from_micros(due)


def _sent_twice(standing: Standing) -> frozenset[str]:
    """Returns the dispatches that a start warns of because they were carried out twice."""
    told = (frozenset(each.metadata) for each in standing.warnings if each.reason == Reason.DUPLICATE_SENT)
    return next(told, frozenset())


@dataclass(slots=True)
class _Waiting:
    operation: Callable[[Transaction], Any]
    future: asyncio.Future[Any]


class Writer:
    """The thread that writes. Operations are functions of a `Transaction`; their results come as futures."""

    def __init__(
        self,
        connect: Callable[[], sqlite3.Connection],
        *,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], datetime],
        head: int,
        incarnation: int,
        behind: Mapping[str, datetime],
        committed: Callable[[int, Collection[str]], None],
        timed: Timed,
    ) -> None:
        self._conn = connect()  # here, so that a file that cannot be opened is told to whoever opens it
        self._loop = loop
        self._clock = clock
        self._head = head
        self._incarnation = incarnation
        self._committed = committed
        self._timed = timed
        self._submitted: list[_Waiting] = []  # and not handed in yet
        self._queue: queue.SimpleQueue[list[_Waiting] | None] = queue.SimpleQueue()
        self._behind = dict(behind)
        self._stopped = False
        self.is_well = True  # whether the last commit worked
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, operation: Callable[[Transaction], T]) -> asyncio.Future[T]:
        """Queues an operation. The future holds its result once that is on the disk."""
        if self._stopped:
            raise closed()
        future: asyncio.Future[T] = self._loop.create_future()
        if not self._submitted:
            self._loop.call_soon(self._linger, self._loop.time() + LINGER, 0, 0)
        self._submitted.append(_Waiting(operation, future))
        return future

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
        finally:
            self._conn.close()

    def _commit_next(self) -> bool:
        """Waits for work and commits all of it; False when it was told to stop."""
        batch: list[_Waiting] = []
        going_on = True
        try:
            waiting = self._queue.get(timeout=self._pause())
            while waiting is not None:
                batch += waiting
                waiting = self._queue.get_nowait()
            going_on = False
        except queue.Empty:
            pass
        if batch or self._behind:
            self._commit(batch)
        return going_on

    def _pause(self) -> float | None:
        """How many seconds to wait for work: until the first progress that was held back may be told."""
        if not self._behind:
            return None
        return max(0.0, (min(self._behind.values()) - self._clock()).total_seconds())

    def _commit(self, batch: list[_Waiting]) -> None:
        conn, now = self._conn, self._clock()
        due = [start_id for start_id, at in self._behind.items() if at <= now]
        if not batch and not due:
            return
        transaction = Transaction(conn, now, self._head, self._incarnation)
        began = time.perf_counter()
        try:
            conn.execute("begin immediate")
            results = _attempt_all(transaction, batch)
            transaction.settle(due)
            conn.execute("commit")
        except Exception as error:  # noqa: BLE001 -- the thread outlives every bug: without it nobody is answered
            if conn.in_transaction:
                conn.execute("rollback")
            self.is_well = not isinstance(error, sqlite3.Error)
            down = unavailable(error) if isinstance(error, sqlite3.Error) else error
            self._behind.update(dict.fromkeys(due, now + _PROGRESS_PAUSE))  # not at once: the disk may stay full
            self._hand_over([(waiting.future, None, down) for waiting in batch], self._head, ())
            return
        self.is_well = True
        for start_id in due:
            self._behind.pop(start_id, None)
        self._behind.update(transaction.behind)
        self._hand_over(results, transaction.head, transaction.backends())
        self._timed(time.perf_counter() - began, len(batch), transaction.duplicates)

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


def unavailable(error: sqlite3.Error) -> Unavailable:
    """Says what is wrong with the store, without what was being stored or read."""
    name = getattr(error, "sqlite_errorname", "SQLITE_ERROR")
    return Unavailable(
        reason=Reason.STORE_UNAVAILABLE,
        message=f"The store does not work ({name}); nothing was recorded. Try again; if it stays, see to the disk.",
        metadata={"sqlite_error": name},
    )
