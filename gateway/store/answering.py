"""What came of attempts.

An answer is a fact: it is recorded by the number of its attempt, whoever works the lane now. Where the attempt was
closed meanwhile, because its gateway was taken for gone, it is taken for what a list would have shown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gateway.errors import Reason
from gateway.model import Cause, Notice, OutcomeKind, State
from gateway.sightings import Sighting
from gateway.store.claiming import release
from gateway.store.finding import Sight
from gateway.store.moves import Move, move, start_id_of, warn
from gateway.store.rows import to_micros
from gateway.store.sending import Acceptance, accept, duplicate, seek

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from gateway.store.transaction import Transaction
    from gateway.store.words import Settlement

_ANOTHERS = Notice(
    reason=Reason.OUTCOME_UNKNOWN,
    message="The backend answered with the id of another dispatch, as a cache in front of it would: it may have carried"
    " this one out. It is being looked for while next_attempt_time is set; after that only the backend showing it, or"
    " ResolveFlowStart, settles it.",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an attempt."""

    dispatch_id: str
    attempt: int
    settlement: Settlement

    def __call__(self, transaction: Transaction) -> None:
        """Closes the attempt and moves its dispatch."""
        record(transaction, [self])


def record(transaction: Transaction, answers: Sequence[Answer]) -> list[None]:
    """Closes attempts and moves their dispatches. An answer counts once."""
    first: dict[tuple[str, int], Settlement] = {}
    for each in answers:
        first.setdefault((each.dispatch_id, each.attempt), each.settlement)
    first = _without_others_names(transaction, first)
    closed = _close(transaction, first)
    before = {
        dispatch_id: (state, external_id)
        for dispatch_id, state, external_id in transaction.conn.over(
            "with ended(id text) as ($rows) select d.id, d.state, d.external_id"
            " from ended /*first*/ join dispatches d on d.id = ended.id",
            [(dispatch_id,) for dispatch_id, _ in closed],
        )
    }
    accepted: list[Acceptance] = []
    moves: list[Move] = []
    for attempt, settled in first.items():
        if attempt not in closed:
            continue
        dispatch_id, _ = attempt
        state, external_id = before[dispatch_id]
        if state != State.PENDING:  # a list showed it while this answer was on its way
            if settled.external_id and settled.external_id != external_id:
                told = duplicate(transaction.conn, dispatch_id, external_id, settled.external_id)
                warn(transaction, start_id_of(dispatch_id), told)
            continue
        if settled.state is State.PENDING:
            warn(transaction, start_id_of(dispatch_id), *settled.warnings)
            release(transaction, dispatch_id, settled.due_at)
            continue
        if settled.state is State.UNCERTAIN:
            seek(transaction, dispatch_id, closed[attempt], to_micros(settled.due_at) or transaction.now_micros)
        elif settled.external_id:
            accepted.append(Acceptance(dispatch_id, settled.external_id, settled.accepted_at, settled.account or None))
        moves.append(
            Move(dispatch_id, settled.state, settled.failure, settled.warnings, external_id=settled.external_id)
        )
    accept(transaction, *accepted)
    move(transaction, *moves)
    _sight_late(transaction, {attempt: first[attempt] for attempt in first.keys() - closed.keys()})
    return [None] * len(answers)


def _sight_late(transaction: Transaction, answers: Mapping[tuple[str, int], Settlement]) -> None:
    """Takes acceptances for sightings whose attempts were closed because their gateway was taken for gone."""
    rows = transaction.conn.over(
        "with late(id text, number bigint) as ($rows) select d.id, a.number, d.backend, d.flow from late"
        " /*first*/ join attempts a on a.dispatch_id = late.id and a.number = late.number"
        f" /*first*/ join dispatches d on d.id = late.id where a.outcome = 'UNSURE' and a.cause = '{Cause.STOPPED}'",
        sorted(attempt for attempt, settled in answers.items() if settled.external_id),
    )
    for dispatch_id, number, backend, flow in rows:
        settled = answers[dispatch_id, number]
        shown = Sighting(
            external_id=settled.external_id,
            flow=flow,
            state=settled.state,
            created_at=settled.accepted_at,
            correlation_key=dispatch_id,
            warnings=settled.warnings,
        )
        Sight(backend, [shown], settled.account)(transaction)


def _close(transaction: Transaction, answers: Mapping[tuple[str, int], Settlement]) -> dict[tuple[str, int], int]:
    """Closes those attempts that are open; returns from when on (their clock) each may be seen on the backend."""
    rows = transaction.conn.over(
        "with ended(id text, number bigint, at bigint, outcome text, cause text, detail text) as ($rows)"
        " update attempts set ended_at = ended.at, outcome = ended.outcome, cause = ended.cause, detail = ended.detail"
        " from ended where dispatch_id = ended.id and attempts.number = ended.number and attempts.outcome is null"
        " returning dispatch_id, attempts.number, since",
        [
            (*attempt, transaction.now_micros, settled.outcome, settled.cause, settled.detail)
            for attempt, settled in answers.items()
        ],
    )
    return {(dispatch_id, number): since for dispatch_id, number, since in rows}


def _without_others_names(
    transaction: Transaction, answers: Mapping[tuple[str, int], Settlement]
) -> dict[tuple[str, int], Settlement]:
    """Doubts an acceptance under an external id that another dispatch of the backend has: it is that one's answer."""
    named = [(dispatch_id, it.external_id) for (dispatch_id, _), it in answers.items() if it.external_id]
    taken = set(
        transaction.conn.over(
            "with named(id text, external_id text) as ($rows) select named.id, named.external_id from named"
            " /*first*/ join dispatches d on d.id = named.id"
            " /*first*/ join dispatches o on o.external_id = named.external_id"
            " and o.backend = d.backend where o.id <> d.id",
            named,
        )
    )
    of: dict[str, str] = {}
    taken |= {each for each in named if of.setdefault(each[1], each[0]) != each[0]}
    return {
        attempt: _doubted(settled, transaction.now) if (attempt[0], settled.external_id) in taken else settled
        for attempt, settled in answers.items()
    }


def _doubted(settled: Settlement, now: datetime) -> Settlement:
    return replace(
        settled,
        outcome=OutcomeKind.UNSURE,
        cause=Cause.NAMED,
        detail="the answer names what another dispatch is",
        state=State.UNCERTAIN,
        due_at=now,
        external_id="",
        failure=_ANOTHERS,
    )
