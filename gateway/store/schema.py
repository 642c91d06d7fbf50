"""The statements of the steps that build the schema of the SQLite store. `migrations.py` runs them, in order.

A released one never changes.
"""

from __future__ import annotations

# `state = 1` is PENDING; 2 and 3 are QUEUED and STARTED. A partial index is used only where a query repeats its words.
TABLES = """
create table meta (
    key text primary key,
    value text not null
) strict;

-- What was asked once (asked), where it stands (standing, as of revision), and what that follows from (tally).
-- behind = 1 while the tally has moved and the standing has not been written yet.
create table starts (
    id text primary key,
    tenant text not null,
    backend text not null,
    flow text not null,
    request_id text,
    fingerprint text not null,
    created_at integer not null,
    expire_at integer,
    state integer not null,
    revision integer not null,
    behind integer not null default 0,
    asked text not null,
    params text not null,
    standing text not null,
    tally text not null
) strict;
create unique index starts_request on starts (tenant, request_id) where request_id is not null;
create unique index starts_revision on starts (tenant, revision);
create index starts_behind on starts (id) where behind = 1;

-- Recipients whose dispatches have not been written out yet, about a hundred to a block. While a start has blocks, one
-- of its dispatches waits unclaimed; when the last of these is claimed or ends, the next block is written out.
create table recipients (
    start_id text not null references starts (id),
    block integer not null,
    first_number integer not null,
    body text not null,
    primary key (start_id, block)
) strict, without rowid;

create table dispatches (
    id text primary key,
    start_id text not null references starts (id),
    number integer not null,
    backend text not null,
    flow text not null,
    state integer not null,
    recipient_count integer not null,
    recipients text not null,
    due_at integer not null,
    expire_at integer,
    claimed_by integer,
    attempts integer not null default 0,
    external_id text,
    account text,
    accepted_at integer,
    contact_count integer,
    contact_started_count integer,
    failure text
) strict;
create index dispatches_due on dispatches (backend, due_at, start_id, number) where state = 1 and claimed_by is null;
create index dispatches_expiring on dispatches (backend, expire_at)
    where state = 1 and claimed_by is null and expire_at is not null;
create index dispatches_waiting on dispatches (start_id, due_at) where state = 1 and claimed_by is null;
create index dispatches_claimed on dispatches (claimed_by) where claimed_by is not null;
create index dispatches_running on dispatches (backend, flow, accepted_at) where state in (2, 3);
create index dispatches_external on dispatches (external_id, backend) where external_id is not null;

-- One row before every POST; outcome is null while it is open.
create table attempts (
    dispatch_id text not null references dispatches (id),
    number integer not null,
    start_id text not null,
    incarnation integer not null,
    begun_at integer not null,
    ended_at integer,
    outcome text,
    detail text,
    primary key (dispatch_id, number)
) strict, without rowid;
create index attempts_start on attempts (start_id, begun_at, dispatch_id, number);
create index attempts_open on attempts (incarnation) where outcome is null;

-- One row for every recorded move of a start. AUTOINCREMENT: a revision is never given twice, even after a purge.
create table changes (
    revision integer primary key autoincrement,
    start_id text not null references starts (id),
    state_before integer,
    standing text not null
) strict;
create index changes_start on changes (start_id, revision);
"""


# Looking for what may have been sent, cancelling, one running dispatch per recipient, backlogs, what stands still.
# `state = 7` is UNCERTAIN. Moments called `their` are by the backend's clock.
FINDING = """
-- give_up_at: when unsent dispatches give up, where expire_at says nothing. cancel_at: cancelling was asked for.
-- ends = 1: what runs is to be ended then. cancelling = 1 while unsent dispatches are still to be ended.
-- scheduled = 1: counts in the backlog of scheduled starts.
alter table starts add column give_up_at integer;
alter table starts add column cancel_at integer;
alter table starts add column ends integer not null default 0;
alter table starts add column cancelling integer not null default 0;
alter table starts add column scheduled integer not null default 0;
create index starts_cancelling on starts (backend) where cancelling = 1;

-- recipient: set where a recipient may have one running dispatch of a flow at the most.
-- sought_from: nothing older (their) can be it; null while nothing is sought. sought_until: ours; null while UNCERTAIN.
-- rounds: how often a 5xx was followed by a proof of absence.
-- ending: 1 to be ended, 2 asked to end, 3 asked to end for another one. moved_at: when anything of it last moved.
alter table dispatches add column tenant text not null default '';
alter table dispatches add column recipient text;
alter table dispatches add column sought_from integer;
alter table dispatches add column sought_until integer;
alter table dispatches add column rounds integer not null default 0;
alter table dispatches add column ending integer not null default 0;
alter table dispatches add column moved_at integer;
alter table dispatches add column stalled integer not null default 0;
update dispatches set tenant = (select s.tenant from starts s where s.id = start_id);
drop index dispatches_due;
create index dispatches_due on dispatches (backend, tenant, due_at, start_id, number)
    where state = 1 and claimed_by is null;
drop index dispatches_running;
create index dispatches_running on dispatches (backend, account, flow, accepted_at) where state in (2, 3);
create index dispatches_sought on dispatches (backend, account) where sought_from is not null;
create index dispatches_unsure on dispatches (start_id, due_at) where state = 7;
create index dispatches_recipient on dispatches (recipient) where recipient is not null and state in (1, 7);
create index dispatches_accepted on dispatches (backend, account, accepted_at) where accepted_at is not null;
create index dispatches_ending on dispatches (backend, account) where ending in (1, 2) and state in (2, 3);
create index dispatches_moved on dispatches (backend, moved_at) where state in (2, 3) and stalled = 0;
update starts set give_up_at = max(created_at, coalesce(json_extract(asked, '$.schedule'), 0)) + 86400000000;
update dispatches set expire_at = due_at + 86400000000 where expire_at is null and state in (1, 7);
update dispatches set moved_at = accepted_at where state in (2, 3);
create index dispatches_stalled on dispatches (start_id) where stalled = 1;

-- since: the moment before it was sent (their).
alter table attempts add column since integer;

-- How many dispatches of a tenant a backend has not accepted yet, those that are not written out too. turn counts
-- up whenever one has had its turn, where there are others.
create table backlogs (
    tenant text not null,
    backend text not null,
    scheduled integer not null,
    unsent integer not null,
    turn integer not null default 0,
    primary key (tenant, backend, scheduled)
) strict, without rowid;
insert into backlogs (tenant, backend, scheduled, unsent)
    select tenant, backend, 0, sum(coalesce(json_extract(tally, '$.d."1"'), 0)) from starts
    group by tenant, backend;
"""

# Erasing what is old: the dispatches of a start, which the foreign key looks for too when its start goes.
PURGING = """
create index dispatches_start on dispatches (start_id);
"""

# What those read who span tenants: the starts of all of them by revision.
SPANNING = """
create index starts_newest on starts (revision);
"""

# Whether any dispatch of a start is held (claimed by 0), because its backend is another account now. A start that has
# blocks has one that waits unclaimed, or one that is held: then its blocks stay where they are.
HOLDING = """
create index dispatches_held on dispatches (start_id) where claimed_by = 0;
"""

# What decisions are made by, apart from the words for people; by which other names an account is known.
CAUSES = """
-- cause: why it came to nothing certain; model.Cause.
alter table attempts add column cause text;
update attempts set cause = case
    when detail like 'HTTP %' then 'SERVER_ERROR'
    when detail = 'timeout' then 'TIMEOUT'
    when detail = 'the gateway stopped while sending' then 'STOPPED'
    when detail like 'sent, perhaps, after the copy %' then 'RESTORED'
    when detail like 'a bug of the gateway%' then 'BUG'
    when detail like '%answer%' or detail like 'the recipient is busy%' then 'UNREADABLE'
    else 'BROKEN' end
    where outcome = 'UNSURE';
update attempts set cause = 'BUSY' where outcome = 'REFUSED' and detail = 'RECIPIENT_BUSY';

-- proofs: how often it was proved absent. counted: those of them that say something of this dispatch.
alter table dispatches add column proofs integer not null default 0;
alter table dispatches add column counted integer not null default 0;

create table aliases (
    backend text not null,
    alias text not null,
    account text not null,
    primary key (backend, alias)
) strict, without rowid;
"""

# Where a recipient may have one running dispatch of a flow at the most (dispatches.recipient is set), those that wait
# for one stand in line. Between any two statements it holds, for each backend and recipient:
#   - while a dispatch of theirs is being sent (claimed by a life) or looked for, each that waits has in_line = 1;
#   - else the one that is due first has in_line = 0, and all others have in_line = 1.
#   - `lines.waiting` is how many wait, those in line and the one at the front.
# Claims read in_line = 0 alone, so what stands in line costs them nothing. Expiry and cancelling reach all.
# Triggers keep it, each with a few look-ups: no way of moving a dispatch can forget it.
LINES = """
alter table dispatches add column in_line integer not null default 0;
drop index dispatches_recipient;
create index dispatches_line on dispatches (backend, recipient, in_line, due_at, start_id, number)
    where recipient is not null and state = 1 and claimed_by is null;
create index dispatches_sending on dispatches (backend, recipient)
    where recipient is not null and state = 1 and claimed_by > 0;
create index dispatches_seeking on dispatches (backend, recipient)
    where recipient is not null and state = 7 and sought_from is not null;
create index dispatches_pursued on dispatches (start_id, due_at) where state = 7 and sought_from is not null;
drop index dispatches_due;
create index dispatches_due on dispatches (backend, tenant, due_at, start_id, number)
    where state = 1 and claimed_by is null and in_line = 0;
create index dispatches_watched on dispatches (backend, sought_until)
    where sought_from is not null and sought_until is not null;

-- marked: up to which number the dispatches that run are marked to be ended; null: all of them, or nothing is to end.
alter table starts add column marked integer;

-- due_at: when a scheduled start is due.
alter table starts add column due_at integer;
create index starts_scheduled on starts (backend, due_at) where scheduled = 1 and state not in (4, 5, 6);

-- How many dispatches a backend has not accepted yet: the sums of its backlogs.
create table totals (
    backend text not null,
    scheduled integer not null,
    unsent integer not null,
    primary key (backend, scheduled)
) strict, without rowid;

create table lines (
    backend text not null,
    recipient text not null,
    waiting integer not null,
    primary key (backend, recipient)
) strict, without rowid;
create index lines_full on lines (backend, recipient) where waiting >= 1000;

-- Who has something to send to a backend. ready = 1: perhaps now; turn counts up whenever one has had its turn.
-- due_at, where ready = 0: not before then; null: nothing waits. It may be too early, never too late. Where ready = 1:
-- since when it waits for its turn.
create table turns (
    backend text not null,
    tenant text not null,
    turn integer not null default 0,
    ready integer not null default 0,
    due_at integer,
    primary key (backend, tenant)
) strict, without rowid;
create index turns_ready on turns (backend, ready, turn, due_at, tenant);
create index turns_due on turns (backend, due_at) where ready = 0 and due_at is not null;

insert into lines (backend, recipient, waiting)
    select backend, recipient, count(*) from dispatches
    where recipient is not null and state = 1 and claimed_by is null group by 1, 2;
"""

_BUSY = (
    "(exists (select 1 from dispatches o where o.backend = new.backend and o.recipient = new.recipient"
    " and o.recipient is not null and o.state = 1 and o.claimed_by > 0)"
    " or exists (select 1 from dispatches o where o.backend = new.backend and o.recipient = new.recipient"
    " and o.recipient is not null and o.state = 7 and o.sought_from is not null))"
)
_OTHERS = (  # that wait for the same recipient, in line (1) or not (0)
    "from dispatches e where e.backend = new.backend and e.recipient = new.recipient and e.recipient is not null"
    " and e.state = 1 and e.claimed_by is null and e.in_line = "
)
_EARLIER = f"""exists (
        select 1 from (select e.due_at, e.start_id, e.number {_OTHERS}{{}}
            order by e.due_at, e.start_id, e.number limit 1) f
        where (f.due_at, f.start_id, f.number) < (dispatches.due_at, dispatches.start_id, dispatches.number)
    )"""
_ALIGN = f"""
    update dispatches set in_line = 1
    where backend = new.backend and recipient = new.recipient and recipient is not null
    and state = 1 and claimed_by is null and in_line = 0
    and ({_BUSY} or {_EARLIER.format(0)} or {_EARLIER.format(1)});
    update dispatches set in_line = 0
    where id = (select e.id {_OTHERS}1 order by e.due_at, e.start_id, e.number limit 1)
    and not exists (select 1 {_OTHERS}0) and not {_BUSY};
"""
_WAITED, _WAITS = (f"({row}.state = 1 and {row}.claimed_by is null)" for row in ("old", "new"))
_COME = """
    insert into turns (backend, tenant, due_at) values (new.backend, new.tenant, new.due_at)
    on conflict (backend, tenant) do update set due_at = excluded.due_at
    where ready = 0 and (due_at is null or due_at > excluded.due_at);
"""
_TOTAL = """
    insert into totals (backend, scheduled, unsent) values (new.backend, new.scheduled, {})
    on conflict do update set unsent = unsent + excluded.unsent;
"""
TRIGGERS = (
    f"""create trigger lines_joined after insert on dispatches when new.recipient is not null and new.state = 1
begin
    insert into lines (backend, recipient, waiting) values (new.backend, new.recipient, 1)
    on conflict do update set waiting = waiting + 1;{_ALIGN}end""",
    f"""create trigger lines_moved after update of state, claimed_by, due_at, sought_from on dispatches
when new.recipient is not null and (old.state in (1, 7) or new.state in (1, 7))
begin
    insert into lines (backend, recipient, waiting)
    select new.backend, new.recipient, 1 where {_WAITS} and not {_WAITED}
    on conflict do update set waiting = waiting + 1;
    update lines set waiting = waiting - 1
    where backend = new.backend and recipient = new.recipient and {_WAITED} and not {_WAITS};
    delete from lines where backend = new.backend and recipient = new.recipient and waiting <= 0;{_ALIGN}end""",
    f"""create trigger turns_joined after insert on dispatches when {_WAITS} and new.in_line = 0
begin{_COME}end""",
    f"""create trigger turns_moved after update of state, claimed_by, due_at, in_line on dispatches
when {_WAITS} and new.in_line = 0
begin{_COME}end""",
    f"""create trigger totals_new after insert on backlogs
begin{_TOTAL.format("new.unsent")}end""",
    f"""create trigger totals_moved after update of unsent on backlogs
begin{_TOTAL.format("new.unsent - old.unsent")}end""",
    """create trigger totals_gone after delete on backlogs
begin
    update totals set unsent = unsent - old.unsent where backend = old.backend and scheduled = old.scheduled;
end""",
)
ALIGN_ALL = """
update starts set due_at = case when json_valid(asked) then coalesce(json_extract(asked, '$.schedule'), 0) else 0 end
    where scheduled = 1;
insert into totals (backend, scheduled, unsent) select backend, scheduled, sum(unsent) from backlogs group by 1, 2;
update dispatches set in_line = 1 where recipient is not null and state = 1 and claimed_by is null and (
    exists (select 1 from dispatches o where o.backend = dispatches.backend and o.recipient = dispatches.recipient
        and o.recipient is not null and o.state = 1 and o.claimed_by > 0)
    or exists (select 1 from dispatches o where o.backend = dispatches.backend and o.recipient = dispatches.recipient
        and o.recipient is not null and o.state = 7 and o.sought_from is not null)
    or id in (select id from (select id, row_number() over (
        partition by backend, recipient order by due_at, start_id, number) as place
        from dispatches where recipient is not null and state = 1 and claimed_by is null) where place > 1)
);
insert into turns (backend, tenant, due_at)
    select backend, tenant, min(due_at) from dispatches
    where state = 1 and claimed_by is null and in_line = 0 group by 1, 2;
alter table backlogs drop column turn;
"""

# What SQLite knew by itself, and other engines do not: the newest revision ever given, and the order of rows; and what
# an empty tenant said before.
COMMITS = """
-- The newest commit that made a revision, and its life. Never empty.
create table commits (
    head integer primary key,
    incarnation integer not null
) strict;
insert into commits (head, incarnation) select coalesce((select seq from sqlite_sequence where name = 'changes'), 0), 0;

-- recorded: the first revision of a start; of one that is older than this column, a number below those of all later
-- ones, in the order in which they were recorded.
alter table starts add column recorded integer not null default 0;
-- erased = 1: nobody sees it any more, and what belongs to it is being erased.
alter table starts add column erased integer not null default 0;
update starts set recorded = rowid, erased = tenant = '';
create index starts_erased on starts (erased) where erased = 1;

-- number: the place from which held dispatches are gone through.
drop index dispatches_held;
create index dispatches_held on dispatches (start_id, number) where claimed_by = 0;
"""

# Who works what, where several gateways may: see `leases.py`.
LEASES = """
-- kind: 'life' (of a gateway; its name and its owner are its number), 'lane' (of a backend), 'upkeep'.
-- fence: how often it was taken. until: its end, by the clock of the store; null: it has none. says: what a life is, as
-- JSON: where its gateway listens, and which backends it has.
create table leases (
    kind text not null,
    name text not null,
    owner integer not null,
    fence integer not null,
    until integer,
    says text not null default '{}',
    primary key (kind, name)
) strict;
"""

# What a backend's rate has left over a restart, and when another gateway takes its lane.
RATES = """
-- backend: to which it was sent; null: a day before there was this column, or earlier.
alter table attempts add column backend text;
update attempts set backend = (select d.backend from dispatches d where d.id = dispatch_id)
    where begun_at > (cast(strftime('%s', 'now') as integer) - 86400) * 1000000;
create index attempts_sent on attempts (backend, begun_at);
"""
