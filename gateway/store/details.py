"""What can be read of one start: its recipients, and its history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.model import (
    Attempt,
    Change,
    RecipientKind,
    Recipients,
    RecipientStanding,
    State,
)
from gateway.store.reads import decode_change
from gateway.store.rows import (
    REACHED,
    START_COLUMNS,
    decode,
    decode_standing,
    from_micros,
    moment,
    to_micros,
    unpack_notice,
    unpack_recipients,
)
from gateway.store.tally import Tally
from gateway.store.words import HistoryPage, RecipientsPage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.store.connection import Connection
    from gateway.store.words import HistoryPosition

DISPATCHES = 100  # read at a time while recipients are listed
BEGINNING: HistoryPosition = (0, -1, "", 0)


def recipients(
    conn: Connection, tenant: str | None, start_id: str, after: tuple[int, int], limit: int
) -> RecipientsPage | None:
    """Reads recipients behind a position: the number of a dispatch, and the index of a recipient in it."""
    row = conn.row(f"select tally from starts s where id = $1 and {REACHED}", start_id, tenant)
    if row is None:
        return None
    dispatch_count = sum(Tally.decode(row[0]).dispatches.values())
    first, index = after
    found: list[RecipientStanding] = []
    last = after
    for number in range(max(first, 1), dispatch_count + 1, DISPATCHES):  # a position may be anything
        numbers = range(number, min(number + DISPATCHES, dispatch_count + 1))
        for each, standings in _recipients_of(conn, start_id, numbers):
            for place, standing in enumerate(standings):
                if (each, place) <= (first, index):
                    continue
                if len(found) == limit:
                    return RecipientsPage(recipients=tuple(found), next_position=last)
                found.append(standing)
                last = (each, place)
    return RecipientsPage(recipients=tuple(found), next_position=None)


def _recipients_of(conn: Connection, start_id: str, numbers: range) -> Iterator[tuple[int, list[RecipientStanding]]]:
    """Reads the recipients of some dispatches of a start, those that were not written out yet too."""
    written = {
        number: row
        for number, *row in conn.over(
            "with named(id text) as ($rows) select d.number, d.recipients, d.state, d.external_id, d.failure from named"
            " /*first*/ join dispatches d on d.id = named.id",
            [(f"{start_id}-{number}",) for number in numbers],
        )
    }
    for number in numbers:
        body, state, external_id, failure = written.get(number) or (
            _unwritten(conn, start_id, number),
            State.PENDING,
            None,
            None,
        )
        yield number, _standings(f"{start_id}-{number}", body, State(state), external_id or "", failure)


def _unwritten(conn: Connection, start_id: str, number: int) -> list[list[str]]:
    first_number, body = conn.one(
        "select first_number, body from recipients where start_id = $1 and first_number <= $2"
        " order by block desc limit 1",
        start_id,
        number,
    )
    block: list[list[list[str]]] = decode(body)
    return block[number - first_number]


def _standings(
    dispatch_id: str, body: str | list[list[str]], state: State, external_id: str, failure: str | None
) -> list[RecipientStanding]:
    named: Recipients = unpack_recipients(decode(body) if isinstance(body, str) else body)
    kinds = (
        (RecipientKind.URN, named.urns),
        (RecipientKind.CONTACT, named.contacts),
        (RecipientKind.GROUP, named.groups),
    )
    return [
        RecipientStanding(
            recipient=recipient,
            kind=kind,
            state=state,
            dispatch_id=dispatch_id,
            external_id=external_id,
            failure=unpack_notice(decode(failure)) if failure else None,
        )
        for kind, recipients_of_kind in kinds
        for recipient in recipients_of_kind
    ]


def history(
    conn: Connection, tenant: str | None, start_id: str, after: HistoryPosition, limit: int
) -> HistoryPage | None:
    """Reads changes by revision and attempts by the time they began, and merges them by time."""
    start = conn.row(f"select {START_COLUMNS} from starts s where s.id = $1 and {REACHED}", start_id, tenant)
    if start is None:
        return None
    revision, begun, dispatch_id, number = after
    changes = conn.rows(
        "select revision, standing, state_before from changes where start_id = $1 and revision > $2"
        " order by revision limit $3",
        start_id,
        revision,
        limit + 1,
    )
    attempts = conn.rows(
        "select begun_at, dispatch_id, number, ended_at, outcome, detail from attempts where start_id = $1"
        " and (begun_at, dispatch_id, number) > ($2, $3, $4) order by begun_at, dispatch_id, number limit $5",
        start_id,
        begun,
        dispatch_id,
        number,
        limit + 1,
    )
    entries: list[Change | Attempt] = []
    position = after
    while (changes or attempts) and len(entries) < limit:
        if changes and (not attempts or _changed_at(changes[0]) <= attempts[0][0]):
            change = changes.pop(0)
            entries.append(decode_change((*start, *change)))
            position = (change[0], *position[1:])
        else:
            attempt = attempts.pop(0)
            entries.append(_attempt(attempt))
            position = (position[0], *attempt[:3])
    return HistoryPage(entries=tuple(entries), next_position=position if changes or attempts else None)


def _changed_at(change: tuple[Any, ...]) -> int:
    return to_micros(decode_standing(change[1]).updated_at) or 0


def _attempt(row: tuple[Any, ...]) -> Attempt:
    begun_at, dispatch_id, number, ended_at, outcome, detail = row
    return Attempt(
        dispatch_id=dispatch_id,
        number=number,
        begun_at=moment(begun_at),
        ended_at=from_micros(ended_at),
        outcome=outcome or "",
        detail=detail or "",
    )
