"""What can be read: each is a function of a connection, in one view of the whole.

Every page is bounded by the rows it reads, not only by those it returns.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from gateway.errors import RevisionNotAvailable
from gateway.model import (
    Attempt,
    Change,
    Control,
    Dispatch,
    OutcomeKind,
    RecipientKind,
    Recipients,
    RecipientStanding,
    Sought,
    State,
    Window,
)
from gateway.store.connection import Values
from gateway.store.finding import tells
from gateway.store.looking import passed
from gateway.store.rows import (
    ASKED_WIDTH,
    MICROSECOND,
    REACHED,
    START_COLUMNS,
    decode,
    decode_standing,
    decode_start,
    from_micros,
    moment,
    to_micros,
    unpack_notice,
    unpack_recipients,
)
from gateway.store.tally import Tally
from gateway.store.unreadable import readable
from gateway.store.words import Changes, HistoryPage, Page, RecipientsPage, Undone

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from datetime import datetime

    from gateway.model import Filter, FlowStart, Json, Sighting
    from gateway.store.connection import Connection
    from gateway.store.words import HistoryPosition

SCANNED = 5_000  # rows read for one page at the most: a filter that matches nothing costs no more
DISPATCHES = 100  # read at a time while recipients are listed
GAP = timedelta(hours=1)  # in which no dispatch of a flow that runs was accepted: what is before it is stragglers
BEGINNING: HistoryPosition = (0, -1, "", 0)


def head(conn: Connection) -> int:
    """Reads the newest revision ever given."""
    (newest,) = conn.one("select head from commits order by head desc limit 1")
    return int(newest)


def oldest(conn: Connection) -> int:
    """Reads the revision up to which changes were purged."""
    (purged,) = conn.one("select value from meta where key = 'purged_through'")
    return int(purged)


def changes(conn: Connection, after: int, limit: int) -> Changes:
    """Reads changes after a revision; raises `RevisionNotAvailable` if they are not kept or not there yet."""
    purged, newest = oldest(conn), head(conn)
    if not purged <= after <= newest:
        raise RevisionNotAvailable(
            message=f"Revision {after} is not available: {purged} to {newest} are kept. Watch again without"
            " after_revision to begin with a snapshot.",
            metadata={"oldest_revision": str(purged), "newest_revision": str(newest)},
        )
    read: list[Change] = []
    while len(read) < limit:  # what is set aside makes no page short: a short one is the last
        rows = conn.rows(
            f"select {START_COLUMNS}, c.revision, c.standing, c.state_before from changes c"
            " join starts s on s.id = c.start_id where c.revision > $1 order by c.revision limit $2",
            after,
            limit - len(read),
        )
        if not rows:
            return Changes(changes=tuple(read), through=newest)
        after = rows[-1][-3]
        is_last = len(rows) < limit - len(read)
        read += readable("change", rows, _change, name=-3)
        if is_last:
            return Changes(changes=tuple(read), through=newest)
    return Changes(changes=tuple(read), through=after)


def _change(row: tuple[Any, ...]) -> Change:
    *start, revision, standing, before = row
    flow_start = decode_start((*start[:-2], revision, standing))
    return Change(flow_start=flow_start, state_before=None if before is None else State(before))


def start(conn: Connection, tenant: str | None, start_id: str) -> FlowStart | None:
    """Reads a start, params included."""
    row = conn.row(f"select {START_COLUMNS}, s.params from starts s where s.id = $1 and {REACHED}", start_id, tenant)
    return None if row is None else decode_start(row, row[-1])


def carries(conn: Connection, start_id: str, external_id: str) -> bool:
    """Tells whether a start has a dispatch with an external id."""
    row = conn.row(
        "select 1 from dispatches d join starts s on s.id = d.start_id"
        " where d.external_id = $1 and d.start_id = $2 and s.erased = 0",
        external_id,
        start_id,
    )
    return row is not None


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
        "select id, flow, state, attempts, sought_from, recipient from dispatches where backend = $1"
        " and account is not distinct from $2"
        " and sought_from is not null and (sought_until is null or sought_until > $3)"
        " and exists (select 1 from starts s where s.id = start_id and s.erased = 0) order by id",
        backend,
        account or None,
        passed(conn, now),
    )

    def decode_sought(row: tuple[Any, ...]) -> Sought:
        dispatch_id, flow, state, attempts, since, recipient = row
        return Sought(
            id=dispatch_id,
            flow=flow,
            state=State(state),
            attempts=attempts,
            since=moment(since),
            account=account,
            recipient=recipient or "",
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


def page(
    conn: Connection,
    tenant: str | None,
    selected: Filter,
    ids: frozenset[str],
    bound: tuple[str, int, str],
    limit: int,
) -> Page:
    """Reads a page in revision order; a page may be short where few of many rows match."""
    comparison, revision, direction = bound
    values = Values()
    where: str = "s.erased = 0" if tenant is None else f"s.tenant = {values.put(tenant)}"
    # These have an index; the rest is matched row by row, so that a page is bounded.
    if selected.request_id and tenant is not None:
        where += f" and s.request_id = {values.put(selected.request_id)}"
    if selected.external_id:
        where += (
            f" and s.id in (select start_id from dispatches where external_id = {values.put(selected.external_id)})"
        )
    if ids:
        where += f" and s.id in ({values.put([*ids])}...)"
    # Else an engine may go through all revisions of the tenant where a few ids are told.
    unled = "/*unled*/ " if ids or selected.external_id else ""
    matching = _matching(selected, values)
    rows = (
        f"from starts s where {unled}{where} and {unled}s.revision {comparison} {values.put(revision)}"
        f" order by {unled}s.revision {direction} limit {values.put(SCANNED if matching else limit)}"
    )
    if matching:  # of so many rows and no more
        statement = f"select * from (select {START_COLUMNS}, s.state {rows}) rows where {matching}"
        read = conn.rows(f"{statement} limit {values.next}", *values.all, limit)
    else:
        read = conn.rows(f"select {START_COLUMNS} {rows}", *values.all)
    found = tuple(readable("start", read, decode_start))
    last = int(read[-1][ASKED_WIDTH]) if len(read) == limit else None
    if matching and last is None:  # where it ends that was gone through, if there may be more behind it
        through = f"select revision from (select s.revision {rows}) rows limit 1 offset {values.next}"
        row = conn.row(through, *values.all, SCANNED - 1)
        last = None if row is None else int(row[0])
    return Page(flow_starts=found, head=head(conn), next_position=last)


_IS_DONE = (
    "(s.state in (COMPLETED, FAILED, INTERRUPTED) or (s.state = UNCERTAIN"
    " and field_of(s.standing, 'state') is not null and field_of(s.standing, 'next') is null))"
)
"""What `Standing.is_done` says, of rows. What cannot be read is not done."""


def undone(conn: Connection, tenant: str | None, ids: Collection[str], since: int) -> Undone:
    """Reads which of these starts do not exist, and which are not done or have changed since a revision.

    Reads no start as a whole, and returns one row: each row costs a reader a wait for the interpreter.
    """
    missing, moving = conn.one(
        "select list_of(wanted.value) filter (where s.id is null), list_of(s.id)"
        f" filter (where s.revision > $2 or not {_IS_DONE}) from each_of($1) wanted"
        " left join starts s on s.id = wanted.value and s.erased = 0 and s.tenant = coalesce($3, s.tenant)",
        [*ids],
        since,
        tenant,
    )
    moving = frozenset(decode(moving or "[]"))
    return Undone(missing=frozenset(decode(missing or "[]")), undone=frozenset(each for each in ids if each in moving))


def _matching(selected: Filter, values: Values) -> str:
    """Says what `Filter.selects` does, of rows: an engine goes through thousands of them much faster than this does."""
    conditions: list[str] = []
    if selected.backends:
        conditions.append(f"backend in ({values.put(sorted(selected.backends))}...)")
    if selected.flow:
        conditions.append(f"flow = {values.put(selected.flow)}")
    if selected.states:
        conditions.append(f"state in ({values.put(sorted(selected.states))}...)")
    if selected.request_id:
        conditions.append(f"request_id = {values.put(selected.request_id)}")
    for key, value in selected.labels.items():
        conditions.append(f"label_of(asked, {values.put(key)}) = {values.put(value)}")
    if selected.created_from is not None:
        conditions.append(f"created_at >= {values.put(to_micros(selected.created_from))}")
    if selected.created_to is not None:
        conditions.append(f"created_at < {values.put(to_micros(selected.created_to))}")
    return " and ".join(conditions)


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
            entries.append(_change((*start, *change)))
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
