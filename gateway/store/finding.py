"""What backends show of our dispatches, and what follows for those whose answer is not known.

Rules:

1. What is shown is believed, and moves forward only. What is not shown is not believed to be absent: `tracker.py` says
   when that is proved.
2. A correlation key finds its dispatch only on the same flow: somebody's flow may hand its params on to another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.errors import Reason
from gateway.model import NEXT, TERMINAL, Notice, State
from gateway.store.claiming import is_cancelled
from gateway.store.moves import CANCELLED, CHANGED, EXPIRED, GAVE_UP, REPLACED, Move, move, start_id_of, warn
from gateway.store.rows import over, to_micros
from gateway.store.sending import HELD, WATCHED_FOR, Acceptance, accept, duplicate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from gateway.model import Sighting, Sought
    from gateway.store.writer import Transaction

ROUNDS = 3  # of a 5xx and a proof of absence, after which it is the dispatch that the backend cannot take
ASKED, REPLACING = 2, 3  # values of `ending`

_COUNT = (
    "with counted(id, contacts, started) as (values $rows) update dispatches set contact_count = counted.contacts,"
    " contact_started_count = counted.started from counted where dispatches.id = counted.id"
)
_AFTER_ERROR = Notice(
    reason=Reason.ADOPTED_AFTER_ERROR,
    message="The backend answered with an error and has it all the same; RapidPro may leave such a start pending for"
    " ever. If it does not move, see to it there.",
)
_POISON = Notice(
    reason=Reason.BACKEND_FAILED,
    message="The backend answered with an error three times and never carried it out: something about this request"
    " breaks it. Look at its params and recipients.",
)
_AT_REST = Notice(
    reason=Reason.OUTCOME_UNKNOWN,
    message="The backend may have carried it out, and that could not be found out. Look for its `startflow_id` there,"
    " and settle it with ResolveFlowStart. It is never sent again by itself.",
)
_NOT_AGAIN = Notice(
    reason=Reason.OUTCOME_UNKNOWN,
    message="The backend does not show it, so it was not carried out, as far as can be known. `on_absent` says not to"
    " send it again: settle it with ResolveFlowStart.",
)


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


def sight(transaction: Transaction, backend: str, sightings: Sequence[Sighting], account: str) -> int:
    """Records what a backend shows of our dispatches; returns how many had moved."""
    moved = 0
    while sightings:
        first: dict[str, Sighting] = {}
        for each in sightings:
            first.setdefault(each.external_id, each)  # what is shown again has its turn after this
        moved += _sight_each_once(transaction, backend, first, account)
        sightings = [each for each in sightings if first[each.external_id] is not each]
    return moved


def _sight_each_once(transaction: Transaction, backend: str, shown: Mapping[str, Sighting], account: str) -> int:
    recorded = {
        external_id: row
        for external_id, *row in over(
            transaction.conn,
            "with shown(id, backend) as (values $rows) select d.external_id, d.id, d.state, d.ending, d.contact_count,"
            " d.contact_started_count from shown cross join dispatches d"
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
    over(transaction.conn, _COUNT, counted)
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
    if ending in (ASKED, REPLACING) and after in TERMINAL:
        after, failure = State.INTERRUPTED, REPLACED if ending == REPLACING else CANCELLED
    if after is not before and after not in NEXT[before]:
        return before, failure  # an older row, from a replica that lags: nothing goes back
    return after, failure


def _adopt(transaction: Transaction, backend: str, sighting: Sighting, account: str) -> bool:
    """Adopts a dispatch whose answer never came; tells of one that was carried out twice, or though it had ended."""
    row = transaction.conn.execute(
        "select id, state, external_id, attempts from dispatches where id = ? and backend = ?"
        " and lower(flow) = lower(?) and attempts > 0",
        (sighting.correlation_key, backend, sighting.flow),
    ).fetchone()
    if row is None:
        return False
    dispatch_id, state, external_id, attempts = row
    start_id = start_id_of(dispatch_id)
    if external_id is not None:
        warn(transaction, start_id, duplicate(dispatch_id, external_id, sighting.external_id))
        return False
    if State(state) in TERMINAL:
        warn(transaction, start_id, _found_after_end(dispatch_id, sighting.external_id))
        return False
    (detail,) = transaction.conn.execute(
        "select coalesce(detail, '') from attempts where dispatch_id = ? and number = ?", (dispatch_id, attempts)
    ).fetchone()
    accept(transaction, Acceptance(dispatch_id, sighting.external_id, sighting.created_at, account or None))
    adopted = Move(
        dispatch_id,
        sighting.state or State.QUEUED,
        sighting.failure,
        warnings=(*sighting.warnings, *((_AFTER_ERROR,) if _is_error(detail) else ())),
        external_id=sighting.external_id,
        counts=(sighting.contact_count, sighting.contact_started_count),
    )
    move(transaction, adopted)
    over(transaction.conn, _COUNT, [(dispatch_id, sighting.contact_count, sighting.contact_started_count)])
    return True


def _is_error(detail: str) -> bool:
    return detail.startswith("HTTP 5")


def _found_after_end(dispatch_id: str, external_id: str) -> Notice:
    return Notice(
        reason=Reason.FOUND_AFTER_END,
        message="The backend carried a request out though it had been given up, or proved absent, before. The metadata"
        " has the external id of each dispatch.",
        metadata={dispatch_id: external_id},
    )


def absent(transaction: Transaction, sought: Sought, on_absent: State, due_at: datetime) -> None:
    """Settles a dispatch that was proved absent. It is looked for a while longer all the same."""
    row = _uncertain(transaction, sought)
    if row is None:
        return
    expire_at, rounds, expires, detail = row
    rounds += _is_error(detail)
    state, failure = State.PENDING, None
    if is_cancelled(transaction.conn, sought.id):
        state, failure = State.INTERRUPTED, CANCELLED
    elif expire_at <= transaction.now_micros:
        state, failure = State.FAILED, EXPIRED if expires else GAVE_UP
    elif rounds >= ROUNDS:
        state, failure = State.FAILED, _POISON
    elif on_absent is State.UNCERTAIN:
        _leave(transaction, sought, _NOT_AGAIN)
        return
    transaction.conn.execute(
        "update dispatches set rounds = ?, sought_until = ?, due_at = ? where id = ?",
        (rounds, transaction.now_micros + WATCHED_FOR, to_micros(due_at), sought.id),
    )
    move(transaction, Move(sought.id, state, failure))


def rest(transaction: Transaction, sought: Sought) -> None:
    """Leaves a dispatch uncertain for good; only the backend showing it, or somebody's word, moves it."""
    if _uncertain(transaction, sought) is not None:
        _leave(transaction, sought, _AT_REST)


def _leave(transaction: Transaction, sought: Sought, why: Notice) -> None:
    transaction.conn.execute("update dispatches set sought_from = null where id = ?", (sought.id,))
    move(transaction, Move(sought.id, State.UNCERTAIN, why))


def _uncertain(transaction: Transaction, sought: Sought) -> tuple[int, int, bool, str] | None:
    """Reads a dispatch that is looked for, unless something has become of it since."""
    row: tuple[int, int, bool, str] | None = transaction.conn.execute(
        "select d.expire_at, d.rounds, s.expire_at is not null, coalesce(a.detail, '') from dispatches d"
        " join starts s on s.id = d.start_id join attempts a on a.dispatch_id = d.id and a.number = d.attempts"
        " where d.id = ? and d.state = 7 and d.attempts = ? and d.sought_from is not null",
        (sought.id, sought.attempts),
    ).fetchone()
    return row


_OTHERS = "(?2 is null or account <> ?2)"
_OPEN = (  # each as an index has it
    "state = 1 and claimed_by is null",
    f"claimed_by = {HELD}",
    "state in (2, 3)",
    "sought_from is not null and state = 7",
)


def hold(transaction: Transaction, backend: str, account: str | None) -> int:
    """Keeps back what is not this account's until the next incarnation looks again; returns of how many starts."""
    conn = transaction.conn
    rows = conn.execute(
        " union ".join(
            f"select start_id from dispatches where backend = ?1 and {each} and {_OTHERS}" for each in _OPEN
        ),
        (backend, account),
    ).fetchall()
    conn.execute(
        f"update dispatches set claimed_by = {HELD} where backend = ?1 and state = 1 and claimed_by is null"
        f" and {_OTHERS} and not exists (select 1 from starts s where s.id = start_id and s.cancelling = 1)",
        (backend, account),
    )
    for (start_id,) in rows:
        warn(transaction, start_id, CHANGED)
    return len(rows)
