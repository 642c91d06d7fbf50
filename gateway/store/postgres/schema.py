"""The statements of the steps that build the schema in PostgreSQL. `migrations.py` runs them, in order.

What the columns mean is said in `gateway/store/schema.py`. Texts are compared byte by byte, as SQLite does, whatever
the database sorts by. A released step never changes.

PostgreSQL chooses plans by its statistics, which are old while much is recorded at once. So an index that only helps
statements that name a start or a tenant has that as its condition, and no other statement can be led by it.
"""

from __future__ import annotations

TABLES = """
create table meta (
    key text collate "C" primary key,
    value text collate "C" not null
);
create table starts (
    id text collate "C" primary key,
    tenant text collate "C" not null,
    backend text collate "C" not null,
    flow text collate "C" not null,
    request_id text collate "C",
    fingerprint text collate "C" not null,
    created_at bigint not null,
    expire_at bigint,
    state bigint not null,
    revision bigint not null,
    behind bigint not null default 0,
    asked text collate "C" not null,
    params text collate "C" not null,
    standing text collate "C" not null,
    tally text collate "C" not null,
    give_up_at bigint,
    cancel_at bigint,
    ends bigint not null default 0,
    cancelling bigint not null default 0,
    scheduled bigint not null default 0,
    marked bigint,
    due_at bigint,
    recorded bigint not null default 0,
    erased bigint not null default 0
);
create table recipients (
    start_id text collate "C" not null,
    block bigint not null,
    first_number bigint not null,
    body text collate "C" not null,
    primary key (start_id, block)
);
create table dispatches (
    id text collate "C" primary key,
    start_id text collate "C" not null,
    number bigint not null,
    backend text collate "C" not null,
    flow text collate "C" not null,
    state bigint not null,
    recipient_count bigint not null,
    recipients text collate "C" not null,
    due_at bigint not null,
    expire_at bigint,
    claimed_by bigint,
    attempts bigint not null default 0,
    external_id text collate "C",
    account text collate "C",
    accepted_at bigint,
    contact_count bigint,
    contact_started_count bigint,
    failure text collate "C",
    tenant text collate "C" not null default '',
    recipient text collate "C",
    sought_from bigint,
    sought_until bigint,
    rounds bigint not null default 0,
    ending bigint not null default 0,
    moved_at bigint,
    stalled bigint not null default 0,
    proofs bigint not null default 0,
    counted bigint not null default 0,
    in_line bigint not null default 0
);
create table attempts (
    dispatch_id text collate "C" not null,
    number bigint not null,
    start_id text collate "C" not null,
    incarnation bigint not null,
    begun_at bigint not null,
    ended_at bigint,
    outcome text collate "C",
    detail text collate "C",
    since bigint,
    cause text collate "C",
    primary key (dispatch_id, number)
);
create table changes (
    revision bigint primary key,
    start_id text collate "C" not null,
    state_before bigint,
    standing text collate "C" not null
);
create table backlogs (
    tenant text collate "C" not null,
    backend text collate "C" not null,
    scheduled bigint not null,
    unsent bigint not null,
    primary key (tenant, backend, scheduled)
);
create table aliases (
    backend text collate "C" not null,
    alias text collate "C" not null,
    account text collate "C" not null,
    primary key (backend, alias)
);
create table totals (
    backend text collate "C" not null,
    scheduled bigint not null,
    unsent bigint not null,
    primary key (backend, scheduled)
);
create table lines (
    backend text collate "C" not null,
    recipient text collate "C" not null,
    waiting bigint not null,
    primary key (backend, recipient)
);
create table turns (
    backend text collate "C" not null,
    tenant text collate "C" not null,
    turn bigint not null default 0,
    ready bigint not null default 0,
    due_at bigint,
    primary key (backend, tenant)
);

-- The newest commits that made revisions, at the least one: batch is that of its life.
create table commits (
    head bigint primary key,
    incarnation bigint not null,
    batch bigint not null default 0
);
create index commits_batch on commits (incarnation, batch);
insert into commits (head, incarnation) values (0, 0);

-- The lives of gateways, and the newest batch that each has committed. A batch takes its number first of all, so
-- whoever takes the same one again waits until it is known whether the first was committed.
create table lives (
    incarnation bigint primary key,
    batch bigint not null
);

-- One row, which is only locked: whoever has it gives revisions.
create table turnstile (one bigint primary key);
insert into turnstile values (1);

create unique index starts_request on starts (tenant, request_id) where request_id is not null;
create unique index starts_revision on starts (tenant, revision);
create index starts_behind on starts (id) where behind = 1;
create index dispatches_expiring on dispatches (backend, expire_at)
    where state = 1 and claimed_by is null and expire_at is not null;
create index dispatches_waiting on dispatches (start_id, due_at)
    where state = 1 and claimed_by is null and start_id is not null;
create index dispatches_claimed on dispatches (claimed_by) where claimed_by is not null;
create index dispatches_external on dispatches (external_id, backend) where external_id is not null;
create index attempts_start on attempts (start_id, begun_at, dispatch_id, number);
create index attempts_open on attempts (incarnation) where outcome is null;
create index changes_start on changes (start_id, revision);
create index starts_cancelling on starts (backend) where cancelling = 1;
create index dispatches_running on dispatches (backend, coalesce(account, ''), flow, accepted_at) where state in (2, 3);
create index dispatches_sought on dispatches (backend, coalesce(account, '')) where sought_from is not null;
create index dispatches_unsure on dispatches (start_id, due_at) where state = 7;
create index dispatches_accepted on dispatches (backend, coalesce(account, ''), accepted_at)
    where accepted_at is not null;
create index dispatches_ending on dispatches (backend, coalesce(account, ''))
    where ending in (1, 2) and state in (2, 3);
create index dispatches_moved on dispatches (backend, moved_at) where state in (2, 3) and stalled = 0;
create index dispatches_stalled on dispatches (start_id) where stalled = 1;
create index dispatches_start on dispatches (start_id);
create index starts_newest on starts (revision);
create index dispatches_line on dispatches (backend, recipient, in_line, due_at, start_id, number)
    where recipient is not null and state = 1 and claimed_by is null;
create index dispatches_sending on dispatches (backend, recipient)
    where recipient is not null and state = 1 and claimed_by > 0;
create index dispatches_seeking on dispatches (backend, recipient)
    where recipient is not null and state = 7 and sought_from is not null;
create index dispatches_pursued on dispatches (start_id, due_at) where state = 7 and sought_from is not null;
create index dispatches_due on dispatches (backend, tenant, due_at, start_id, number)
    where state = 1 and claimed_by is null and in_line = 0 and tenant is not null;
create index dispatches_watched on dispatches (backend, sought_until)
    where sought_from is not null and sought_until is not null;
create index starts_scheduled on starts (backend, due_at) where scheduled = 1 and state not in (4, 5, 6);
create index lines_full on lines (backend, recipient) where waiting >= 1000;
create index turns_ready on turns (backend, ready, turn, due_at, tenant);
create index turns_due on turns (backend, due_at) where ready = 0 and due_at is not null;
create index starts_erased on starts (erased) where erased = 1;
create index dispatches_held on dispatches (start_id, number) where claimed_by = 0;
"""

WORDS = r"""
create function field_of(document text, path text) returns bigint language plpgsql immutable parallel safe as $$
begin
    return (document::jsonb #>> string_to_array(replace(path, '"', ''), '.'))::bigint;
exception when others then return null;
end $$;

create function label_of(document text, label text) returns text language plpgsql immutable parallel safe as $$
begin
    return document::jsonb -> 'labels' ->> label;
exception when others then return null;
end $$;

create function length_of(document text) returns bigint language plpgsql immutable parallel safe as $$
begin
    return case when jsonb_typeof(document::jsonb) = 'array' then jsonb_array_length(document::jsonb) else 0 end;
exception when others then return null;
end $$;

create function texts_in(document text) returns bigint language plpgsql immutable parallel safe as $$
begin
    return (select count(*) from jsonb_path_query(document::jsonb, 'strict $.**') v where jsonb_typeof(v) = 'string');
exception when others then return null;
end $$;

create function entries_of(document text, field text) returns table (key text, value bigint)
language plpgsql immutable parallel safe as $$
begin
    return query select e.key, e.value::bigint from jsonb_each_text(document::jsonb -> field) e;
exception when others then return;
end $$;
"""
"""What operations say beside SQL; see `gateway/store/connection.py`."""

TRIGGERS = """
create function line_is_busy(of_backend text, of_recipient text) returns boolean language sql stable as $$
    select exists (select 1 from dispatches where backend = of_backend and recipient = of_recipient
            and recipient is not null and state = 1 and claimed_by > 0)
        or exists (select 1 from dispatches where backend = of_backend and recipient = of_recipient
            and recipient is not null and state = 7 and sought_from is not null)
$$;

create function align_line(of_backend text, of_recipient text) returns void language plpgsql as $$
declare
    busy boolean := line_is_busy(of_backend, of_recipient);
    first_one text;
begin
    select id into first_one from dispatches where backend = of_backend and recipient = of_recipient
        and recipient is not null and state = 1 and claimed_by is null order by due_at, start_id, number limit 1;
    update dispatches set in_line = 1 where backend = of_backend and recipient = of_recipient
        and recipient is not null and state = 1 and claimed_by is null and in_line = 0 and (busy or id <> first_one);
    update dispatches set in_line = 0 where id = first_one and in_line = 1 and not busy;
end $$;

create function lines_joined() returns trigger language plpgsql as $$
begin
    insert into lines (backend, recipient, waiting) values (new.backend, new.recipient, 1)
    on conflict (backend, recipient) do update set waiting = lines.waiting + 1;
    perform align_line(new.backend, new.recipient);
    return null;
end $$;
create trigger lines_joined after insert on dispatches
    for each row when (new.recipient is not null and new.state = 1) execute function lines_joined();

create function lines_moved() returns trigger language plpgsql as $$
declare
    waited boolean := old.state = 1 and old.claimed_by is null;
    waits boolean := new.state = 1 and new.claimed_by is null;
begin
    if waits and not waited then
        insert into lines (backend, recipient, waiting) values (new.backend, new.recipient, 1)
        on conflict (backend, recipient) do update set waiting = lines.waiting + 1;
    elsif waited and not waits then
        update lines set waiting = waiting - 1 where backend = new.backend and recipient = new.recipient;
        delete from lines where backend = new.backend and recipient = new.recipient and waiting <= 0;
    end if;
    perform align_line(new.backend, new.recipient);
    return null;
end $$;
create trigger lines_moved after update of state, claimed_by, due_at, sought_from on dispatches
    for each row when (new.recipient is not null and (old.state in (1, 7) or new.state in (1, 7)))
    execute function lines_moved();

create function turns_come() returns trigger language plpgsql as $$
begin
    insert into turns (backend, tenant, due_at) values (new.backend, new.tenant, new.due_at)
    on conflict (backend, tenant) do update set due_at = excluded.due_at
    where turns.ready = 0 and (turns.due_at is null or turns.due_at > excluded.due_at);
    return null;
end $$;
create trigger turns_joined after insert on dispatches
    for each row when (new.state = 1 and new.claimed_by is null and new.in_line = 0) execute function turns_come();
create trigger turns_moved after update of state, claimed_by, due_at, in_line on dispatches
    for each row when (new.state = 1 and new.claimed_by is null and new.in_line = 0) execute function turns_come();

create function totals_add() returns trigger language plpgsql as $$
begin
    if tg_op <> 'INSERT' then
        update totals set unsent = unsent - old.unsent where backend = old.backend and scheduled = old.scheduled;
    end if;
    if tg_op <> 'DELETE' then
        insert into totals (backend, scheduled, unsent) values (new.backend, new.scheduled, new.unsent)
        on conflict (backend, scheduled) do update set unsent = totals.unsent + excluded.unsent;
    end if;
    return null;
end $$;
create trigger totals_moved after insert or delete or update of unsent on backlogs
    for each row execute function totals_add();
"""
"""What keeps lines, turns and totals; see `gateway/store/schema.py`."""

LEASES = """
create table leases (
    kind text not null,
    name text not null,
    owner bigint not null,
    fence bigint not null,
    until bigint,
    says text not null default '{}',
    primary key (kind, name)
);
-- The second turnstile: whoever moves what is there.
insert into turnstile values (2);
"""
"""Who works what; see `gateway/store/leases.py`."""

RATES = """
alter table attempts add column backend text collate "C";
update attempts set backend = (select d.backend from dispatches d where d.id = dispatch_id)
    where begun_at > (extract(epoch from now() - interval '1 day') * 1000000)::bigint;
create index attempts_sent on attempts (backend, begun_at);
-- Whether a gateway that does not know a step goes on beside it.
alter table steps add column only_adds boolean not null default false;
"""
"""What a backend's rate has left when another gateway takes its lane, and whether a step only adds."""
