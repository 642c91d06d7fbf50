"""One transaction of the store: what its operations do, and what that comes to, as one change for each start.

`settling.py` ends it, and `committing.py` has the thread that runs them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Generic, TypeVar

from gateway.errors import Reason
from gateway.model import FlowStart, Standing, State, state_of
from gateway.store.rows import decode_standing, encode_standing, from_micros, to_micros
from gateway.store.tally import Tally, only_progress_moved, stand
from gateway.store.unreadable import unreadable
from gateway.store.words import PROGRESS_PAUSE_SECONDS, Recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from datetime import datetime

    from gateway.model import Asked
    from gateway.store.connection import Connection, Row

T = TypeVar("T")
MOST = 10_000  # dispatches of a start
_PROGRESS_PAUSE = timedelta(seconds=PROGRESS_PAUSE_SECONDS)
NEWEST = "(select head from commits order by head desc limit 1)"
"""The newest revision, within a statement. In those of a `Tail` it is the one before its transaction."""

_NEW = f"""with new(place bigint, id text, tenant text, backend text, flow text, request_id text, fingerprint text,
    created_at bigint, expire_at bigint, give_up_at bigint, scheduled bigint, due_at bigint, asked text, params text,
    standing text, tally text) as ($rows)
insert into starts (id, tenant, backend, flow, request_id, fingerprint, created_at, expire_at, give_up_at, scheduled,
    due_at, asked, params, standing, tally, state, revision, recorded)
select id, tenant, backend, flow, request_id, fingerprint, created_at, expire_at, give_up_at, scheduled,
    due_at, asked, params, standing, tally, PENDING, {NEWEST} + place, {NEWEST} + place from new"""
_UNLESS_KNOWN = "where true on conflict (tenant, request_id) where request_id is not null do nothing"
_TOLD = f"""with moved(id text, state bigint, place bigint, standing text, tally text) as ($rows)
update starts set state = moved.state, revision = {NEWEST} + moved.place, behind = 0, standing = moved.standing,
    tally = moved.tally from moved where starts.id = moved.id"""
_QUIET = """with moved(id text, tally text, behind bigint) as ($rows)
update starts set tally = moved.tally, behind = moved.behind from moved where starts.id = moved.id"""
_CHANGES = f"""with told(place bigint, start_id text, state_before bigint, standing text) as ($rows)
insert into changes (revision, start_id, state_before, standing)
select {NEWEST} + place, start_id, state_before, standing from told"""


class RolledBack(Exception):
    """The store has taken the whole transaction back, as when its disk or its memory is full: see the cause."""


@dataclass(frozen=True, slots=True)
class Later(Generic[T]):
    """The result of an operation that has a revision in it: made once the newest one before it is known."""

    of: Callable[[int], T]


@dataclass(frozen=True, slots=True)
class Tail:
    """The last statements of a transaction: those that give revisions.

    They run when no other transaction gives any until this one is committed. So revisions are in commit order, however
    many gateways write.
    """

    count: int = 0  # of revisions that it gives
    statements: tuple[tuple[str, Sequence[Row]], ...] = ()  # for `Connection.over`


@dataclass(frozen=True, slots=True, kw_only=True)
class NewStart:
    """A start that is recorded: its row without revisions, and what its caller is told."""

    asked: Asked
    standing: Standing
    text: str  # of its standing
    fingerprint: str
    row: Row

    @property
    def key(self) -> tuple[str, str]:
        """By what it is known within a transaction: its tenant and request id, or else its own id."""
        return (self.asked.tenant, self.asked.request_id) if self.asked.request_id else ("", self.asked.id)

    def recorded(self, place: int, *, replayed: bool) -> Later[Recorded]:
        """Makes what its caller is told, once it is known from where on its transaction counts."""
        return Later(
            lambda head: Recorded(
                flow_start=FlowStart(asked=self.asked, standing=self.standing, revision=head + place),
                fingerprint=self.fingerprint,
                replayed=replayed,
            )
        )


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

    def __init__(self, conn: Connection, now: datetime, incarnation: int) -> None:
        self.conn = conn
        self.now = now
        self.now_micros = to_micros(now) or 0
        self.incarnation = incarnation
        self.tail = Tail()  # of what it comes to, once that is settled
        self.behind: dict[str, datetime] = {}  # starts whose progress is told later, and when
        self.duplicates: Counter[str] = Counter()  # dispatches found to have been carried out twice, by backend
        self._touched: dict[str, _Touched] = {}
        self._backlogs: dict[tuple[str, str, int], int] = {}  # what is to be added
        self._new: dict[tuple[str, str], NewStart] = {}  # by their keys, in the order of their revisions
        self._waiting: list[Row] = []  # of new starts that the tail is to write

    def attempt(self, operation: Callable[[Transaction], T]) -> T:
        """Runs one operation in a savepoint; if it raises, nothing of it remains.

        Raises `RolledBack` if nothing of the others does either.
        """
        touched, backlogs = dict(self._touched), dict(self._backlogs)
        new, waiting = len(self._new), len(self._waiting)
        self.conn.run("savepoint operation")
        try:
            result = operation(self)
        except BaseException as error:
            if not self.conn.in_transaction:
                raise RolledBack from error
            self.conn.run("rollback to operation")
            self.conn.run("release operation")
            self._touched, self._backlogs = touched, backlogs
            while len(self._new) > new:
                self._new.popitem()
            del self._waiting[waiting:]
            raise
        self.conn.run("release operation")
        return result

    def may_work(self, lane: str) -> bool:
        """Whether no other gateway has a lane. Nobody takes one beside a transaction that moves what is there."""
        others = "select 1 from leases where kind = 'lane' and name = $1 and owner <> $2"
        return self.conn.row(others, lane, self.incarnation) is None

    def record(self, new: Sequence[NewStart]) -> list[Later[Recorded]] | None:
        """Records new starts, at once or when it ends: whatever reads them has to run before.

        Returns None if a request id was used before, or is that of two of them: then nothing of it may stay. An
        operation that fails takes its own back.
        """
        first = len(self._new) + 1
        rows = [(place, *each.row) for place, each in enumerate(new, first)]
        inserted = self.conn.at_once(_NEW, rows, _UNLESS_KNOWN)
        if inserted is None:
            if self._are_known(new):
                return None
            self._waiting += rows
        elif inserted < len(rows):
            return None
        self._new |= {each.key: each for each in new}
        return [each.recorded(place, replayed=False) for place, each in enumerate(new, first)]

    def _are_known(self, new: Sequence[NewStart]) -> bool:
        """Whether a request id was used before, or is that of two of them."""
        keys = [each.key for each in new if each.asked.request_id]
        if len(set(keys)) < len(keys) or any(key in self._new for key in keys):
            return True
        found = self.conn.over(
            "with named(tenant text, request_id text) as ($rows) select 1 from named /*first*/ join starts s"
            " on s.tenant = named.tenant and s.request_id = named.request_id",
            keys,
        )
        return bool(found)

    def is_new(self, key: tuple[str, str]) -> bool:
        """Whether a start is recorded in it, by its tenant and request id."""
        return key in self._new

    def recorded(self, key: tuple[str, str]) -> Later[Recorded]:
        """Returns a start that is recorded in it, to another who asked for the same."""
        return self._new[key].recorded(list(self._new).index(key) + 1, replayed=True)

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

    def runs(self, start_id: str) -> bool:
        """Whether the backend has accepted something of a start that is not over; so it is if that cannot be read."""
        touched = self._touch(start_id)
        return touched is None or any(touched.tally.dispatches.get(each) for each in (State.QUEUED, State.STARTED))

    def dispatches(self, start_id: str) -> int:
        """Counts the dispatches of a start, those that are not written out too."""
        touched = self._touch(start_id)
        return MOST if touched is None else sum(touched.tally.dispatches.values())

    def backlog(self, tenant: str, backend: str, *, scheduled: bool) -> int:
        """Counts the dispatches of a tenant that a backend has not accepted yet."""
        key = (tenant, backend, int(scheduled))
        row = self.conn.row("select unsent from backlogs where tenant = $1 and backend = $2 and scheduled = $3", *key)
        return (0 if row is None else int(row[0])) + self._backlogs.get(key, 0)

    def add_to_backlog(self, tenant: str, backend: str, *, scheduled: bool, count: int) -> None:
        """Counts dispatches that were recorded."""
        self._add_unsent((tenant, backend, int(scheduled)), count)

    def _add_unsent(self, key: tuple[str, str, int], count: int) -> None:
        self._backlogs[key] = self._backlogs.get(key, 0) + count

    def backends(self) -> frozenset[str]:
        """Names the backends of the starts that were recorded or have moved."""
        moved = {touched.backlog[1] for touched in self._touched.values()}
        return frozenset(moved | {backend for _, backend, _ in self._backlogs})

    def may_have_blocks(self) -> list[str]:
        """Lists the starts that have moved and of which some dispatches may not be written out yet."""
        return [each for each, touched in self._touched.items() if touched.may_have_blocks]

    def write(self) -> None:
        """Writes what has moved, and lays out one change for each start as its tail. It is the last that it does."""
        told: list[Row] = []
        quiet: list[Row] = []
        changes: list[Row] = [(place, new.asked.id, None, new.text) for place, new in enumerate(self._new.values(), 1)]
        for start_id, touched in self._touched.items():
            self._add_unsent(touched.backlog, touched.tally.dispatches.get(State.PENDING, 0) - touched.unsent)
            after, tally = self._stand(start_id, touched), touched.tally.encode()
            if self._is_told(touched, after):
                place, text = 1 + len(changes), encode_standing(after)
                told.append((start_id, after.state, place, text, tally))
                changes.append((place, start_id, touched.standing.state, text))
                continue
            if behind := after.progress != touched.standing.progress:
                self.behind[start_id] = min(touched.standing.updated_at, self.now) + _PROGRESS_PAUSE
            quiet.append((start_id, tally, int(behind)))
        self.conn.over(_QUIET, quiet)
        self.conn.insert(
            "backlogs (tenant, backend, scheduled, unsent)",
            [(*key, count) for key, count in sorted(self._backlogs.items()) if count],
            "on conflict (tenant, backend, scheduled) do update set unsent = backlogs.unsent + excluded.unsent",
        )
        if changes:
            self.tail = Tail(len(changes), ((_NEW, self._waiting), (_TOLD, told), (_CHANGES, changes)))

    def read(self, start_ids: Collection[str]) -> None:
        """Reads starts that are about to move, by few statements. One that was erased, or cannot be read, does not."""
        rows = self.conn.over(
            "with moved(id text) as ($rows) select s.id, s.standing, s.tally, s.tenant, s.backend, s.scheduled"
            " from moved /*first*/ join starts s on s.id = moved.id where s.erased = 0",
            [(start_id,) for start_id in start_ids if start_id not in self._touched],
        )
        for start_id, encoded, text, *backlog in rows:
            try:
                before, tally = decode_standing(encoded), Tally.decode(text)
            except Exception as error:  # noqa: BLE001 -- what is wrong with one start keeps no other one from moving
                unreadable.note("start", start_id, error)
                continue
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
        return after.progress != before.progress and abs(self.now - before.updated_at) >= _PROGRESS_PAUSE

    def _next_attempt_at(self, start_id: str, touched: _Touched) -> datetime | None:
        """Tells when the next request is due, if everything waits for it; None for what is uncertain at rest."""
        state = state_of(touched.tally.dispatches)
        if state not in (State.PENDING, State.UNCERTAIN):
            return None
        (due,) = self.conn.one(
            "select min(due_at) from (select min(due_at) as due_at from dispatches where start_id = $1"
            " and state = PENDING and claimed_by is null union all"
            " select min(due_at) from dispatches /*by dispatches_pursued*/"
            " where start_id = $1 and state = UNCERTAIN and sought_from is not null) rows",
            start_id,
        )
        if due is None:
            sending = state is State.UNCERTAIN and touched.tally.dispatches.get(State.PENDING)
            return touched.standing.next_attempt_at or self.now if sending else None
        return None if state is State.PENDING and due <= self.now_micros else from_micros(due)


def _sent_twice(standing: Standing) -> frozenset[str]:
    """Returns the dispatches that a start warns of because they were carried out twice."""
    told = (frozenset(each.metadata) for each in standing.warnings if each.reason == Reason.DUPLICATE_SENT)
    return next(told, frozenset())
