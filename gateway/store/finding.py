"""What backends show of our dispatches, and what follows for those whose answer is not known.

Rules:

1. What is shown is believed, and moves forward only. What is not shown is not believed to be absent: `tracker.py` says
   when that is proved.
2. A correlation key finds its dispatch only on the same flow: somebody's flow may hand its params on to another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from gateway.errors import Reason
from gateway.model import NEXT, TERMINAL, Cause, Notice, OutcomeKind, State
from gateway.store.claiming import is_cancelled
from gateway.store.giving_up import give_up
from gateway.store.looking import WATCHED_FOR
from gateway.store.moves import CANCELLED, REPLACED, Move, move, start_id_of, warn
from gateway.store.rows import MICROSECOND, SCHEDULE
from gateway.store.sending import Acceptance, accept, duplicate
from gateway.store.states import Ending

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.sightings import Sighting, Sought
    from gateway.store.connection import Connection
    from gateway.store.transaction import Transaction

ROUNDS = 3  # of a 5xx and a proof of absence, after which it is the dispatch that the backend cannot take
MOST_ROUNDS = 10  # of no answer and a proof of absence, while others are taken: then somebody has to look
DOUBLINGS = 16  # of the pause between such rounds, and
LONGEST_PAUSE = timedelta(minutes=15)  # which is as long as it gets
LOOKED_AT = 100  # of the latest dispatches that were accepted, to see whether one of them was by an answer

_COUNT = (
    "with counted(id text, contacts bigint, started bigint) as ($rows)"
    " update dispatches set contact_count = counted.contacts,"
    " contact_started_count = counted.started from counted where dispatches.id = counted.id"
)
_AFTER_ERROR = Notice(
    reason=Reason.ADOPTED_AFTER_ERROR,
    message="The backend answered with an error but has it. After an error it may never run: if its state does not"
    " change, look on the backend.",
)
_POISON = Notice(
    reason=Reason.BACKEND_FAILED,
    message="The backend answered with an error three times and never carried it out: something about this request"
    " breaks it. Look at its params and recipients.",
)
_TOO_OFTEN = Notice(
    reason=Reason.OUTCOME_UNKNOWN,
    message="The backend accepted it or did not answer, several times, but does not show it: people may have been"
    " reached, so it is not sent again. Look on the backend, and settle it with ResolveFlowStart.",
)
_AT_REST = Notice(
    reason=Reason.OUTCOME_UNKNOWN,
    message="The backend may have carried it out; the gateway could not find out. Look there for its `startflow_id`,"
    " and settle it with ResolveFlowStart. The gateway never sends it again by itself.",
)
_NOT_AGAIN = Notice(
    reason=Reason.OUTCOME_UNKNOWN,
    message="Two complete scans of the backend did not show it, so it was very probably not carried out. Because of"
    " `on_absent` it is not sent again by itself: ResolveFlowStart with `was_not_sent` sends it.",
)

_ANSWERED = (Cause.UNREADABLE, Cause.NAMED)  # with a success: somebody took it

_Verdict: TypeAlias = "tuple[State, Notice | None]"


def tells(sighting: Sighting, recorded: Sequence[Any]) -> bool:
    """Whether a sighting may tell something new of a dispatch: `recorded` is its state and its two counts."""
    state, *counts_before = recorded
    if State(state) in TERMINAL:
        return False
    moves = sighting.state is not None and sighting.state in NEXT[State(state)]
    return moves or bool(sighting.warnings) or _counted(sighting, counts_before) != counts_before


def _counted(sighting: Sighting, before: list[int | None]) -> list[int | None]:
    """Returns the counts as they are after a sighting: they never go back."""
    shown = (sighting.contact_count, sighting.contact_started_count)
    return [earlier if now is None else max(now, earlier or 0) for earlier, now in zip(before, shown, strict=True)]


@dataclass(frozen=True, slots=True)
class Sight:
    """What an account of a backend shows of our dispatches."""

    backend: str
    sightings: Sequence[Sighting]
    account: str

    def __call__(self, transaction: Transaction) -> int:
        """Records what a backend shows of our dispatches; returns how many had moved."""
        moved, left = 0, self.sightings
        while left:
            first: dict[str, Sighting] = {}
            for each in left:
                first.setdefault(each.external_id, each)  # what is shown again has its turn after this
            moved += _sight_each_once(transaction, self.backend, first, self.account)
            left = [each for each in left if first[each.external_id] is not each]
        return moved


def _sight_each_once(transaction: Transaction, backend: str, shown: Mapping[str, Sighting], account: str) -> int:
    recorded = {
        external_id: row
        for external_id, *row in transaction.conn.over(
            "with shown(id text, backend text) as ($rows)"
            " select d.external_id, d.id, d.state, d.ending, d.contact_count,"
            " d.contact_started_count from shown /*first*/ join dispatches d"
            " on d.external_id = shown.id and d.backend = shown.backend",
            [(external_id, backend) for external_id in shown],
        )
    }
    moves: list[Move] = []
    counted: list[tuple[Any, ...]] = []
    for external_id, sighting in shown.items():
        if (row := recorded.get(external_id)) is None:
            continue
        dispatch_id, state, ending, *counts = row
        if State(state) in TERMINAL:
            continue
        now = _counted(sighting, counts)
        after, failure = _follow(State(state), ending, sighting)
        if after is State(state) and now == counts:
            if sighting.warnings:
                warn(transaction, start_id_of(dispatch_id), *sighting.warnings)
            continue
        if now != counts:
            counted.append((dispatch_id, *now))
        more = [None if n is None else n - (earlier or 0) for earlier, n in zip(counts, now, strict=True)]
        moves.append(Move(dispatch_id, after, failure, sighting.warnings, counts=more))
    transaction.conn.over(_COUNT, counted)
    move(transaction, *moves)
    found = [
        _adopt(transaction, backend, sighting, account)
        for external_id, sighting in shown.items()
        if external_id not in recorded and sighting.correlation_key is not None
    ]
    return len(moves) + sum(found)


def _follow(before: State, ending: int, sighting: Sighting) -> tuple[State, Notice | None]:
    """Tells where an accepted dispatch goes that is shown, and why."""
    after, failure = sighting.state or before, sighting.failure
    if ending in (Ending.ASKED, Ending.REPLACING) and after in TERMINAL:
        after, failure = State.INTERRUPTED, REPLACED if ending == Ending.REPLACING else CANCELLED
    if after is not before and after not in NEXT[before]:
        return before, failure  # an older row, from a replica that lags: nothing goes back
    return after, failure


def _adopt(transaction: Transaction, backend: str, sighting: Sighting, account: str) -> bool:
    """Adopts a dispatch whose answer never came; tells of one that was carried out twice, or though it had ended."""
    row = transaction.conn.row(
        "select id, state, external_id, attempts from dispatches where id = $1 and backend = $2"
        " and lower(flow) = lower($3) and attempts > 0",
        sighting.correlation_key,
        backend,
        sighting.flow,
    )
    if row is None:
        return False
    dispatch_id, state, external_id, attempts = row
    start_id = start_id_of(dispatch_id)
    if external_id is not None:
        warn(transaction, start_id, duplicate(transaction.conn, dispatch_id, external_id, sighting.external_id))
        return False
    if State(state) in TERMINAL:
        warn(transaction, start_id, _found_after_end(dispatch_id, sighting.external_id))
        return False
    (cause,) = transaction.conn.one(
        "select cause from attempts where dispatch_id = $1 and number = $2", dispatch_id, attempts
    )
    accept(transaction, Acceptance(dispatch_id, sighting.external_id, sighting.created_at, account or None))
    adopted = Move(
        dispatch_id,
        sighting.state or State.QUEUED,
        sighting.failure,
        warnings=(*sighting.warnings, *((_AFTER_ERROR,) if cause == Cause.SERVER_ERROR else ())),
        external_id=sighting.external_id,
        counts=(sighting.contact_count, sighting.contact_started_count),
    )
    move(transaction, adopted)
    transaction.conn.over(_COUNT, [(dispatch_id, sighting.contact_count, sighting.contact_started_count)])
    return True


def _found_after_end(dispatch_id: str, external_id: str) -> Notice:
    return Notice(
        reason=Reason.FOUND_AFTER_END,
        message="The backend carried a request out though it had been given up, or proved absent, before. The metadata"
        " has the external id of each dispatch.",
        metadata={dispatch_id: external_id},
    )


@dataclass(frozen=True, slots=True)
class Absent:
    """That a dispatch was proved absent, and what becomes of it then."""

    sought: Sought
    on_absent: State
    pause: timedelta

    def __call__(self, transaction: Transaction) -> None:
        """Settles a dispatch that was proved absent. It is looked for a while longer all the same.

        Each proof that follows another one puts the next attempt off for twice as long. How often it is sent at all is
        bounded: `_verdict`.
        """
        row = _uncertain(transaction, self.sought)
        if row is None:
            return
        proofs, counted, rounds = row.proofs + 1, row.counted, row.rounds
        if row.cause in _ANSWERED or _accepts_others(transaction.conn, self.sought):
            counted += 1
            rounds += row.cause is Cause.SERVER_ERROR
        transaction.conn.run(
            "update dispatches set proofs = $1, counted = $2, rounds = $3 where id = $4",
            proofs,
            counted,
            rounds,
            self.sought.id,
        )
        if is_cancelled(transaction.conn, self.sought.id):
            verdict: _Verdict = State.INTERRUPTED, CANCELLED
        elif row.expire_at <= transaction.now_micros and (ends := give_up(transaction, [self.sought.id])):
            verdict = State.FAILED, ends[self.sought.id]
        else:
            verdict = _verdict(row.cause, counted, rounds, self.on_absent)
        state, failure = verdict
        if state is State.UNCERTAIN:
            _leave(transaction, self.sought, failure)
            return
        wait = min(self.pause * (2 ** min(proofs - 1, DOUBLINGS) - 1), LONGEST_PAUSE) // MICROSECOND
        transaction.conn.run(  # a copy is doubted before its schedule is due
            "update dispatches set sought_until = $1,"
            f" due_at = greatest($2, coalesce((select {SCHEDULE} from starts s where s.id = start_id), 0))"
            f" where id = $3",
            transaction.now_micros + WATCHED_FOR,
            transaction.now_micros + wait,
            self.sought.id,
        )
        move(transaction, Move(self.sought.id, state, failure))


def _verdict(cause: Cause | None, counted: int, rounds: int, on_absent: State) -> _Verdict:
    """Says what becomes of what was proved absent: PENDING, or an end, or UNCERTAIN at rest with its reason.

    An outage counts for nothing: only rounds in which the backend took something else, or answered with a success.
    """
    if rounds >= ROUNDS:
        return State.FAILED, _POISON
    if cause is Cause.NAMED or (cause is Cause.UNREADABLE and counted >= ROUNDS) or counted >= MOST_ROUNDS:
        return State.UNCERTAIN, _TOO_OFTEN
    if on_absent is State.UNCERTAIN:
        return State.UNCERTAIN, _NOT_AGAIN
    return State.PENDING, None


def _accepts_others(conn: Connection, sought: Sought) -> bool:
    """Whether the backend has answered that it took something else since this was first sent, as far as is known."""
    row = conn.row(
        "select 1 from (select id, attempts from dispatches"
        " where backend = (select backend from dispatches where id = $1) and account is not distinct from $2"
        " and accepted_at >= (select min(since) from attempts where dispatch_id = $1)"
        " order by accepted_at desc limit $3) d"
        " join attempts a on a.dispatch_id = d.id and a.number = d.attempts where a.outcome = $4 limit 1",
        sought.id,
        sought.account or None,
        LOOKED_AT,
        OutcomeKind.ACCEPTED,
    )
    return row is not None


@dataclass(frozen=True, slots=True)
class Rest:
    """That it cannot be found out what became of a dispatch."""

    sought: Sought

    def __call__(self, transaction: Transaction) -> None:
        """Leaves a dispatch uncertain for good; only the backend showing it, or somebody's word, moves it."""
        if _uncertain(transaction, self.sought) is not None:
            _leave(transaction, self.sought, _AT_REST)


def _leave(transaction: Transaction, sought: Sought, why: Notice | None) -> None:
    transaction.conn.run("update dispatches set sought_from = null where id = $1", sought.id)
    move(transaction, Move(sought.id, State.UNCERTAIN, why))


@dataclass(frozen=True, slots=True)
class _Uncertain:
    """What is known of a dispatch that is looked for.

    `counted` are the proofs that say something of this dispatch, `rounds` those of them that followed an error of the
    server.
    """

    expire_at: int
    proofs: int
    counted: int
    rounds: int
    cause: Cause | None


def _uncertain(transaction: Transaction, sought: Sought) -> _Uncertain | None:
    """Reads a dispatch that is looked for, unless something has become of it since."""
    row = transaction.conn.row(
        "select d.expire_at, d.proofs, d.counted, d.rounds, a.cause from dispatches d"
        " join attempts a on a.dispatch_id = d.id and a.number = d.attempts"
        " where d.id = $1 and d.state = UNCERTAIN and d.attempts = $2 and d.sought_from is not null",
        sought.id,
        sought.attempts,
    )
    if row is None:
        return None
    expire_at, proofs, counted, rounds, cause = row
    return _Uncertain(expire_at, proofs, counted, rounds, None if cause is None else Cause(cause))
