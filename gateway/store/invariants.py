"""What always holds of the store between two transactions, as one list, and the function that checks it.

Each invariant is a sentence, the query that finds what breaks it, and what to do then. docs/guarantees.md has the list,
and a test keeps the two equal. `healing.py` mends at the start of the gateway what can be mended.

Rules:

1. A query returns ids of starts or dispatches, or names a table. No address, no param and no label is in a violation.
2. A row that cannot be read breaks `rows_can_be_read`, and no query fails because of it.
3. A start that is being erased is only half there, and is judged by no query.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from gateway.store.misfits import misplaced_starts, unreadable_rows
from gateway.store.rows import EARLIEST, LATEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeAlias

    from gateway.store.connection import Connection

    Find: TypeAlias = "str | Callable[[Connection], Iterable[str]]"

T = TypeVar("T")

MOST = 100  # violations of one invariant that are listed; a store that is broken throughout needs no longer list

RESTORE = "Keep this file, and put the last good backup in its place with `startflow restore`."
_REPORT = "Make a backup (`startflow backup`) and report this: it is a bug of the gateway."
_SETTLE = "Look for it on the backend, and settle it with `startflow resolve` or `startflow cancel`."
_RESTART = "Restart the gateway, which heals this when it starts."

_LIVES = "(select owner from leases where kind = 'life')"
_PURGED = "(select cast(value as bigint) from meta where key = 'purged_through')"
_HEAD = "(select max(head) from commits)"
_VISIBLE = "exists (select 1 from starts v where v.id = {} and v.erased = 0)"
_OF_VISIBLE = _VISIBLE.format("d.start_id")
_WAITS = "exists (select 1 from dispatches w where w.start_id = {} and w.state = PENDING and w.claimed_by is null)"
_HELD = "exists (select 1 from dispatches h where h.start_id = {} and h.claimed_by = HELD)"
_HAS_BLOCKS = "exists (select 1 from recipients b where b.start_id = {})"
BLOCKED = (  # the starts that have blocks, one step each: not through all blocks
    "blocked(id) as (select min(start_id) from recipients union all select (select min(r.start_id)"
    " from recipients r where r.start_id > blocked.id) from blocked where blocked.id is not null)"
)
_TIMES = (
    ("starts", "id", ("created_at", "expire_at", "give_up_at", "cancel_at")),
    ("dispatches", "id", ("due_at", "expire_at", "accepted_at", "moved_at", "sought_from", "sought_until")),
    ("attempts", "dispatch_id", ("begun_at", "ended_at", "since")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Invariant:
    """Something that always holds. `find` yields the ids of what breaks it; `heals` says how the gateway mends it."""

    name: str
    sentence: str
    find: Find
    advice: str
    heals: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One start, dispatch or table that breaks an invariant."""

    invariant: Invariant
    id: str

    def __str__(self) -> str:
        """Says what is broken, by which row, and what to do."""
        return f"{self.id} breaks `{self.invariant.name}`: {self.invariant.sentence} {self.invariant.advice}"


def check(conn: Connection) -> list[Violation]:
    """Returns what breaks an invariant, at most `MOST` for each. The caller decides of which view."""
    return [violation for invariant in INVARIANTS for violation in violations(conn, invariant)]


def violations(conn: Connection, invariant: Invariant, *, most: int = MOST) -> list[Violation]:
    """Returns what breaks one invariant; all of it if `most` is -1."""
    if isinstance(invariant.find, str):
        found: Iterable[str] = [
            str(each)
            for (each,) in conn.each(
                f"select distinct * from ({invariant.find}) found limit {most if most >= 0 else 2**62}"
            )
        ]
    else:
        found = islice(dict.fromkeys(invariant.find(conn)), None if most < 0 else most)
    return [Violation(invariant=invariant, id=each) for each in found]


def backlog_id(tenant: str, backend: str, scheduled: int) -> str:
    """Names a backlog."""
    return f"backlog {tenant}/{backend}{' (scheduled)' if scheduled else ''}"


BLOCKS = Invariant(
    name="blocks_have_a_dispatch_ahead",
    sentence="A start with recipients that are not written out has a dispatch that waits or is held.",
    find=f"with recursive {BLOCKED} select id from blocked where id is not null and {_VISIBLE.format('blocked.id')}"
    f" and not {_WAITS.format('blocked.id')} and not {_HELD.format('blocked.id')}",
    advice=_RESTART,
    heals="the next block is written out, and is sent or ends like any other; the start gets the warning `HEALED`",
)

UNSENT = Invariant(
    name="backlogs_count_the_unsent",
    sentence="The backlog of a tenant on a backend is the number of its dispatches there that are pending.",
    find="select 'backlog ' || tenant || '/' || backend || case scheduled when 1 then ' (scheduled)' else '' end"
    " from (select tenant, backend, scheduled, unsent as n from backlogs"
    " union all select s.tenant, s.backend, s.scheduled, -field_of(s.tally, 'd.\"1\"') from starts s"
    " where s.erased = 0) counted"
    " group by tenant, backend, scheduled having coalesce(sum(n), 0) <> 0",
    advice=_RESTART,
    heals="it is counted again: one that is too small is never served, one that is too large refuses starts",
)

LOOKING = Invariant(
    name="looking_ends",
    sentence="A dispatch that is looked for though it is not uncertain is looked for until a moment.",
    find="select d.id from dispatches d where d.sought_from is not null and d.state <> UNCERTAIN"
    f" and d.sought_until is null and {_OF_VISIBLE}",
    advice=_RESTART,
    heals="it is looked for one more hour",
)

INVARIANTS: tuple[Invariant, ...] = (
    # --- large starts
    BLOCKS,
    Invariant(
        name="dispatches_are_numbered_through",
        sentence="The dispatches of a start are numbered from 1 without a gap, and its blocks continue where they end.",
        find="with written as (select start_id, count(*) as n, min(number) as low, max(number) as high from dispatches"
        " group by start_id)"
        " select s.id from starts s left join written w on w.start_id = s.id where s.erased = 0"
        " and (w.n is null or w.low <> 1 or w.high <> w.n)"
        " union all select r.start_id from (select start_id, block, first_number, lag(block) over places as before,"
        " lag(first_number + length_of(body)) over places as expected from recipients where length_of(body) is not null"
        " window places as (partition by start_id order by block)) r left join written w on w.start_id = r.start_id"
        f" where {_VISIBLE.format('r.start_id')} and case when r.before is null then r.first_number is distinct"
        f" from w.high + 1"
        " else r.block <> r.before + 1 or r.first_number <> r.expected end",
        advice=_REPORT,
    ),
    Invariant(
        name="dispatches_are_of_their_start",
        sentence="A dispatch has the tenant, the backend, the flow and the id of its start, and counts its recipients.",
        find="select d.id from dispatches d join starts s on s.id = d.start_id where s.erased = 0"
        " and ((d.tenant, d.backend, d.flow) is distinct from (s.tenant, s.backend, s.flow)"
        " or d.id <> s.id || '-' || d.number"
        " or d.recipient_count <> texts_in(d.recipients))",
        advice=_REPORT,
    ),
    # --- counts
    Invariant(
        name="tallies_count_dispatches",
        sentence="The tally of a start has as many dispatches in each state as there are rows, and blocks as pending.",
        find="select start_id from (select start_id, state, count(*) as n from dispatches group by start_id, state"
        " union all select start_id, PENDING, length_of(body) from recipients"
        " union all select s.id, cast(j.key as bigint), -j.value from starts s, entries_of(s.tally, 'd') j"
        " where s.erased = 0) counted"
        f" where {_VISIBLE.format('start_id')} group by start_id, state having sum(n) <> 0",
        advice=_REPORT,
    ),
    Invariant(
        name="tallies_count_recipients",
        sentence="The tally of a start has as many recipients in each state as its dispatches and blocks name.",
        find="select start_id from (select start_id, state, sum(recipient_count) as n from dispatches"
        " group by start_id, state"
        " union all select start_id, PENDING, texts_in(body) from recipients"
        " union all select s.id, cast(j.key as bigint), -j.value from starts s, entries_of(s.tally, 'r') j"
        " where s.erased = 0) counted"
        f" where {_VISIBLE.format('start_id')} group by start_id, state having sum(n) <> 0",
        advice=_REPORT,
    ),
    Invariant(
        name="tallies_count_contacts",
        sentence="The tally of a start adds up what the backend counts of its dispatches, and those that are stalled.",
        find="select s.id from starts s left join (select start_id, sum(contact_count) as contacts,"
        " sum(contact_started_count) as started, sum(stalled) as stalled from dispatches group by start_id) d"
        " on d.start_id = s.id where s.erased = 0 and length_of(s.tally) is not null"
        " and (coalesce(field_of(s.tally, 'c'), 0) <> coalesce(d.contacts, 0)"
        " or coalesce(field_of(s.tally, 's'), 0) <> coalesce(d.started, 0)"
        " or coalesce(field_of(s.tally, 'x'), 0) <> coalesce(d.stalled, 0))",
        advice=_REPORT,
    ),
    Invariant(
        name="starts_stand_by_their_tally",
        sentence="The state, the progress, the end and `stalled` of a start follow from its tally; progress alone may"
        " be a second late.",
        find=misplaced_starts,
        advice=_REPORT,
    ),
    UNSENT,
    # --- sending
    Invariant(
        name="only_the_unsent_are_claimed",
        sentence="A dispatch that is claimed is pending, and was claimed by a gateway that lives or is held.",
        find=f"select d.id from dispatches d where d.claimed_by is not null and {_OF_VISIBLE}"
        f" and (d.state <> PENDING or (d.claimed_by <> HELD and d.claimed_by not in {_LIVES}))",
        advice=_RESTART,
        heals="every claim of an earlier process is given back",
    ),
    Invariant(
        name="a_recipient_is_claimed_once",
        sentence="Of the dispatches of one flow to a recipient who may have one at a time, at most one is claimed.",
        find="select max(d.id) from dispatches d where d.recipient is not null and d.state = PENDING and"
        " d.claimed_by > HELD"
        f" and {_OF_VISIBLE} group by d.backend, d.recipient having count(*) > 1",
        advice=_REPORT,
    ),
    Invariant(
        name="a_recipient_has_one_at_the_front",
        sentence="Of the dispatches that wait for a recipient who may have one at a time, the one that is due first is"
        " not in line, and all are while another one is being sent or looked for.",
        find="select id from (select d.id, d.in_line, d.backend, d.recipient, row_number() over (partition by"
        " d.backend, d.recipient order by d.due_at, d.start_id, d.number) as place from dispatches d"
        " where d.recipient is not null and d.state = PENDING and d.claimed_by is null) w where (in_line = 1) ="
        " (place = 1"
        " and not exists (select 1 from dispatches o where o.backend = w.backend and o.recipient = w.recipient"
        " and ((o.state = PENDING and o.claimed_by > HELD) or (o.state = UNCERTAIN and o.sought_from is not null))))",
        advice=_REPORT,
    ),
    Invariant(
        name="lines_count_who_waits",
        sentence="Of each recipient who may have one at a time it is counted how many dispatches wait.",
        find="select backend from (select backend, recipient, waiting from lines union all select backend, recipient,"
        " -count(*) from dispatches where recipient is not null and state = PENDING and claimed_by is null group"
        " by 1, 2) counted"
        " group by backend, recipient having sum(waiting) <> 0",
        advice=_REPORT,
    ),
    Invariant(
        name="tenants_have_their_turn",
        sentence="A tenant with something to send to a backend has its turn when that is due, or before.",
        find="select d.id from dispatches d join starts s on s.id = d.start_id and s.tenant = d.tenant"
        " where d.state = PENDING and d.claimed_by is null and d.in_line = 0"
        " and not exists (select 1 from turns t where t.backend = d.backend and t.tenant = d.tenant"
        " and (t.ready = 1 or t.due_at <= d.due_at))",
        advice=_REPORT,
    ),
    Invariant(
        name="totals_add_up_backlogs",
        sentence="What is unsent on a backend is the sum of the backlogs of its tenants.",
        find="select backend from (select backend, scheduled, unsent from totals union all"
        " select backend, scheduled, -unsent from backlogs) counted"
        " group by backend, scheduled having sum(unsent) <> 0",
        advice=_REPORT,
    ),
    Invariant(
        name="attempts_are_numbered_through",
        sentence="The attempts of a dispatch are numbered from 1 without a gap, and it says how many there are.",
        find="select d.id from dispatches d left join (select dispatch_id, count(*) as n, min(number) as low,"
        " max(number) as high from attempts group by dispatch_id) a on a.dispatch_id = d.id"
        f" where {_OF_VISIBLE} and (d.attempts <> coalesce(a.n, 0) or a.low <> 1 or a.high <> a.n)",
        advice=_REPORT,
    ),
    Invariant(
        name="open_attempts_are_being_sent",
        sentence="An open attempt is the last one of its dispatch and of a gateway that lives, which has claimed the"
        " dispatch if it is pending.",
        find="select d.id from attempts a join dispatches d on d.id = a.dispatch_id where a.outcome is null"
        f" and {_OF_VISIBLE} and (a.number <> d.attempts or a.incarnation not in {_LIVES}"
        " or a.start_id <> d.start_id or (d.state = PENDING and d.claimed_by is distinct from a.incarnation))",
        advice=_RESTART,
        heals="what an earlier process was sending is in doubt and looked for, before anything of it is sent again",
    ),
    # --- what was sent
    Invariant(
        name="what_runs_can_be_followed",
        sentence="A dispatch that is queued or started has an external id, and the moments since when it runs.",
        find=f"select d.id from dispatches d where d.state in (QUEUED, STARTED) and {_OF_VISIBLE}"
        " and (coalesce(d.external_id, '') = '' or d.accepted_at is null or d.moved_at is null)",
        advice=_SETTLE,
    ),
    Invariant(
        name="external_ids_are_of_one_dispatch",
        sentence="No two dispatches of a backend have the same external id.",
        find="select max(d.id) from dispatches d where d.external_id is not null"
        f" and {_OF_VISIBLE} group by d.external_id, d.backend having count(*) > 1",
        advice="Look on the backend which of the two has it: the other was not carried out under this id.",
    ),
    Invariant(
        name="doubt_is_of_what_was_sent",
        sentence="An uncertain dispatch was sent, and is looked for without an end or rests.",
        find=f"select d.id from dispatches d where d.state = UNCERTAIN and {_OF_VISIBLE}"
        " and (d.attempts = 0 or d.sought_until is not null)",
        advice=_SETTLE,
    ),
    LOOKING,
    Invariant(
        name="only_what_runs_stalls",
        sentence="A dispatch that is stalled is queued or started.",
        find=f"select d.id from dispatches d where d.stalled = 1 and d.state not in (QUEUED, STARTED) and"
        f" {_OF_VISIBLE}",
        advice=_REPORT,
    ),
    # --- ends
    Invariant(
        name="what_is_open_gives_up",
        sentence="A start that is not over has a time at which it gives up, and so has each dispatch that is pending"
        " or uncertain.",
        find="select s.id from starts s where s.erased = 0 and s.state not in (COMPLETED, FAILED, INTERRUPTED)"
        " and s.give_up_at is null"
        f" union all select d.id from dispatches d where d.state in (PENDING, UNCERTAIN) and d.expire_at is null"
        f" and {_OF_VISIBLE}",
        advice="It may wait for ever: end it with `startflow cancel`, and report it.",
    ),
    Invariant(
        name="cancelled_starts_end",
        sentence="Nothing of a cancelled start waits or is held, and no block of it is left, unless it is being ended.",
        find="select s.id from starts s where s.erased = 0 and s.cancel_at is not null"
        f" and ({_HELD.format('s.id')} or (s.cancelling = 0"
        f" and ({_HAS_BLOCKS.format('s.id')} or {_WAITS.format('s.id')})))",
        advice="Cancel it again: `startflow cancel` ends what is left.",
    ),
    # --- changes
    Invariant(
        name="revisions_are_given_once",
        sentence="Each revision after the last purged one belongs to one change, up to the newest, and a start has the"
        " revision of its newest change.",
        find=f"select 'changes' from (select count(*) as n, min(revision) as low, max(revision) as high from"
        f" changes) kept"
        f" where n <> {_HEAD} - {_PURGED} or (n > 0 and (low <> {_PURGED} + 1 or high <> {_HEAD}))"
        " union all select s.id from starts s left join changes c on c.revision = s.revision where s.erased = 0"
        " and (c.start_id is distinct from s.id or c.standing is distinct from s.standing"
        " or exists (select 1 from changes n where n.start_id = s.id and n.revision > s.revision))",
        advice=_REPORT,
    ),
    Invariant(
        name="changes_follow_one_another",
        sentence="The state before a change is the state after the previous change of that start, and no state follows"
        " a terminal one.",
        find="with told as (select revision, start_id, state_before, field_of(standing, 'state') as state"
        " from changes where field_of(standing, 'state') is not null),"
        " chain as (select *, lag(state) over places as led_to, row_number() over places as place from told"
        " window places as (partition by start_id order by revision))"
        f" select start_id from chain where {_VISIBLE.format('start_id')} and case when place > 1"
        " then state_before is distinct from led_to or (led_to in (COMPLETED, FAILED, INTERRUPTED) and state <> led_to)"
        f" else state_before is not null and {_PURGED} = 0 end",
        advice=_REPORT,
    ),
    # --- rows
    Invariant(
        name="times_can_be_read",
        sentence="Every time that is recorded lies in the years 1 to 9999.",
        find=" union all ".join(
            f"select {row} from {table} where "
            + " or ".join(f"{at} not between {EARLIEST} and {LATEST}" for at in times)
            for table, row, times in _TIMES
        ),
        advice=RESTORE,
    ),
    Invariant(
        name="rows_can_be_read",
        sentence="What is kept as text in a row can be decoded.",
        find=unreadable_rows,
        advice=RESTORE,
    ),
)
"""What always holds between any two transactions."""
