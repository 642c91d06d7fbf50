"""What a lane reads: what runs, what is looked for, and what is known of what its backend shows."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from gateway.model import Dispatch, OutcomeKind, State
from gateway.sightings import Control, Sought, Window
from gateway.store.finding import tells
from gateway.store.looking import passed
from gateway.store.rows import (
    MICROSECOND,
    decode,
    from_micros,
    moment,
    to_micros,
    unpack_recipients,
)
from gateway.store.unreadable import readable

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from gateway.model import Json
    from gateway.sightings import Sighting
    from gateway.store.connection import Connection

RUNS_ON = 900.0  # seconds for which a request may, at the most: a clock that was put back says more
GAP = timedelta(hours=1)  # in which no dispatch of a flow that runs was accepted: what is before it is stragglers
DISPATCH_COLUMNS = "o.id, o.flow, o.recipients, o.state, o.external_id, o.accepted_at, o.attempts"
"""What `decode_dispatch` reads, of `dispatches o`."""


def decode_dispatch(row: tuple[Any, ...]) -> Dispatch:
    """Reads an accepted dispatch from `DISPATCH_COLUMNS`; what it was sent with is not read."""
    dispatch_id, flow, recipients, state, external_id, accepted_at, attempts = row
    return Dispatch(
        id=dispatch_id,
        flow=flow,
        recipients=unpack_recipients(decode(recipients)),
        params={},
        state=State(state),
        external_id=external_id,
        accepted_at=from_micros(accepted_at),
        attempts=attempts,
    )


def sends(
    conn: Connection, backend: str, now: datetime, within: timedelta, limit: int
) -> tuple[tuple[float, str], ...]:
    """Reads how many seconds ago the latest attempts began, the latest first, and whose each was."""
    moment_now = to_micros(now) or 0
    rows = conn.rows(
        "select a.begun_at, s.tenant from attempts a /*first*/ join starts s on s.id = a.start_id"
        " where a.backend = $1 and a.begun_at > $2 order by a.begun_at desc limit $3",
        backend,
        moment_now - within // MICROSECOND,
        limit,
    )
    return tuple((max(0, moment_now - begun_at) / 1e6, tenant) for begun_at, tenant in rows)


_RUN = (  # as an index says
    "from dispatches where backend = $1 and account is not distinct from $2 and state in (QUEUED, STARTED)"
)


def windows(conn: Connection, backend: str, account: str) -> tuple[Window, ...]:
    """Reads when an account accepted the running dispatches of each flow: since the last gap, and before it.

    It goes by steps through an index, and reads a few rows however many run.
    """
    found: list[Window] = []
    whose = (backend, account or None)
    flow = ""
    while row := conn.row(f"select flow {_RUN} and flow > $3 order by flow limit 1", *whose, flow):
        (flow,) = row
        of_flow = f"select accepted_at, tenant {_RUN} and flow = $3 and accepted_at is not null"
        earliest = conn.row(f"{of_flow} order by accepted_at limit 1", *whose, flow)
        if earliest is None:  # as nothing but damage leaves it
            continue
        first, *tenants = earliest
        newest, latest = conn.one(f"{of_flow} order by accepted_at desc limit 1", *whose, flow)
        oldest, before = newest, None
        while oldest != before:  # a step goes back to the earliest within a gap's length
            before = oldest
            since = before - GAP // MICROSECOND
            (oldest, _) = conn.one(f"{of_flow} and accepted_at >= $4 order by accepted_at limit 1", *whose, flow, since)
        stragglers = moment(first) if first < oldest else None
        found.append(
            Window(
                flow=flow,
                oldest=moment(oldest),
                newest=moment(newest),
                stragglers=stragglers,
                tenants=frozenset((*tenants, latest)),
            )
        )
    return tuple(found)


def unseen(conn: Connection, backend: str, account: str, shown: Collection[str]) -> frozenset[str]:
    """Reads the external ids of what runs, row by row, and returns those that are not shown."""
    return frozenset(
        external_id
        for (external_id,) in conn.each(f"select external_id {_RUN}", backend, account or None)
        if external_id not in shown
    )


def running(conn: Connection, backend: str, external_ids: Sequence[str]) -> tuple[Dispatch, ...]:
    """Reads the running dispatches that have these external ids."""
    rows = conn.over(
        f"with named(external_id text, backend text) as ($rows) select {DISPATCH_COLUMNS} from named"
        " /*first*/ join dispatches o on o.external_id = named.external_id and o.backend = named.backend"
        " where o.state in (QUEUED, STARTED)",
        [(each, backend) for each in sorted(external_ids)],
    )
    return tuple(readable("dispatch", rows, decode_dispatch))


def news(conn: Connection, backend: str, sightings: Sequence[Sighting]) -> tuple[Sighting, ...]:
    """Returns those sightings that may move something; most show what is known, or what is nobody's."""
    known = {
        external_id: recorded
        for external_id, *recorded in conn.over(
            "with shown(external_id text, backend text) as ($rows)"
            " select d.external_id, d.state, d.contact_count, d.contact_started_count from shown"
            " /*first*/ join dispatches d on d.external_id = shown.external_id and d.backend = shown.backend",
            [(each, backend) for each in dict.fromkeys(each.external_id for each in sightings)],
        )
    }
    keys = {each.correlation_key for each in sightings if each.correlation_key and each.external_id not in known}
    sent = set(
        conn.over(
            "with named(id text, backend text) as ($rows) select d.id from named"
            " /*first*/ join dispatches d on d.id = named.id and d.backend = named.backend where d.attempts > 0",
            [(each, backend) for each in sorted(keys)],
        )
    )

    def is_news(row: tuple[Sighting, str]) -> bool:
        each, external_id = row
        return tells(each, known[external_id]) if external_id in known else (each.correlation_key,) in sent

    named = ((each, each.external_id) for each in sightings)
    return tuple(each for row in named for each in row[:1] if any(readable("dispatch", [row], is_news, name=1)))


def endings(conn: Connection, backend: str, account: str, limit: int) -> tuple[Dispatch, ...]:
    """Reads dispatches that are to be ended."""
    rows = conn.rows(
        f"select {DISPATCH_COLUMNS} from dispatches o"
        " where backend = $1 and account is not distinct from $2 and ending in (TO_END, ASKED)"
        " and state in (QUEUED, STARTED) limit $3",
        backend,
        account or None,
        limit,
    )
    return tuple(readable("dispatch", rows, decode_dispatch))


def sought(conn: Connection, backend: str, account: str, now: int) -> tuple[Sought, ...]:
    """Reads what an account may have though its answer is not known."""
    rows = conn.rows(
        "select id, flow, state, attempts, sought_from, recipient,"
        " (select a.ended_at from attempts a where a.dispatch_id = dispatches.id and a.number = dispatches.attempts)"
        " from dispatches where backend = $1"
        " and account is not distinct from $2"
        " and sought_from is not null and (sought_until is null or sought_until > $3)"
        " and exists (select 1 from starts s where s.id = start_id and s.erased = 0) order by id",
        backend,
        account or None,
        passed(conn, now),
    )

    def decode_sought(row: tuple[Any, ...]) -> Sought:
        dispatch_id, flow, state, attempts, since, recipient, ended_at = row
        return Sought(
            id=dispatch_id,
            flow=flow,
            state=State(state),
            attempts=attempts,
            since=moment(since),
            account=account,
            recipient=recipient or "",
            runs_on=min(max(0, (ended_at or 0) - now) / 1e6, RUNS_ON),
        )

    return tuple(readable("dispatch", rows, decode_sought))


def controls(conn: Connection, backend: str, account: str, before: datetime, limit: int) -> tuple[Control, ...]:
    """Reads the latest dispatches an account accepted before a moment, the latest first."""
    return _controls(
        conn,
        "select id from dispatches where backend = $2 and account is not distinct from $3 and accepted_at < $4"
        " order by accepted_at desc limit $5",
        (backend, account or None, to_micros(before), limit),
    )


def running_controls(conn: Connection, backend: str, account: str, limit: int) -> tuple[Control, ...]:
    """Reads the running dispatches of an account that moved last, by our clock: also if the backend's was put back."""
    return _controls(
        conn,
        "select id from dispatches where backend = $2 and state in (QUEUED, STARTED) and stalled = 0"
        " and account is not distinct from $3"
        " order by moved_at desc limit $4",
        (backend, account or None, limit),
    )


def _controls(conn: Connection, chosen: str, values: tuple[Any, ...]) -> tuple[Control, ...]:
    """Reads those whose ids a query chooses, the latest first.

    When one was sent is known where the last attempt was accepted by its own answer, or was the only one. What a list
    showed may be of an earlier one.
    """
    rows = conn.rows(
        "select d.id, d.flow, d.external_id, d.accepted_at,"
        " case when d.attempts = 1 or a.outcome = $1 then a.since end"
        " from dispatches d left join attempts a on a.dispatch_id = d.id and a.number = d.attempts"
        f" where d.id in ({chosen}) order by d.accepted_at desc",
        OutcomeKind.ACCEPTED,
        *values,
    )

    def decode_control(row: tuple[Any, ...]) -> Control:
        each, flow, name, at, since = row
        return Control(
            dispatch_id=each, flow=flow, external_id=name, accepted_at=moment(at), sent_at=from_micros(since)
        )

    return tuple(readable("dispatch", rows, decode_control))


def params(conn: Connection, dispatch_ids: Sequence[str]) -> dict[str, dict[str, Json]]:
    """Reads the params of the starts of some dispatches, those that can be read."""
    rows = conn.over(
        "with wanted(id text) as ($rows) select d.id, s.params from wanted"
        " /*first*/ join dispatches d on d.id = wanted.id join starts s on s.id = d.start_id",
        [(each,) for each in dispatch_ids],
    )
    return dict(readable("dispatch", rows, lambda row: (row[0], decode(row[1]))))


def unknown(conn: Connection, backend: str, external_ids: Sequence[str]) -> frozenset[str]:
    """Returns those external ids that are of no dispatch."""
    known = conn.over(
        "with named(external_id text, backend text) as ($rows) select d.external_id from named"
        " /*first*/ join dispatches d on d.external_id = named.external_id and d.backend = named.backend",
        [(each, backend) for each in sorted(external_ids)],
    )
    return frozenset(external_ids) - {external_id for (external_id,) in known}


def backends(conn: Connection) -> frozenset[str]:
    """Returns the backends that have dispatches which are not over."""
    rows = conn.rows(
        "select backend from totals where unsent > 0"
        " union select distinct backend from dispatches where state in (QUEUED, STARTED)"
        " union select distinct backend from dispatches where sought_from is not null"
    )
    return frozenset(name for (name,) in rows)
