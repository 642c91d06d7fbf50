"""Which database this is, and what a gateway does when it is an earlier state of the one it knew.

Rules:

1. A promoted standby begins a new timeline; another server has another system identifier; a database that was dropped
   and restored has another oid. Each may lack commits that callers and watchers were answered with.
2. The gateway that first takes such a database over gives it a new epoch and puts what is unsent in doubt, in the
   transaction of the take-over, as after `restore`. Other gateways start after it, and find that done.
3. Each new connection is looked at before it is used. A gateway that is on the wrong one ends, and is started again:
   everything that it has in memory is of the database that is gone. So no lease of such a database is anybody's.
4. Where replication was synchronous when the store was last taken over, a promoted standby lacks nothing: it keeps its
   epoch. The timeline is that of the WAL: `pg_control_checkpoint()` still names the old one for a while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.store import restoring

if TYPE_CHECKING:
    from gateway.store.postgres.connecting import PostgresConnection

IDENTITY, SYNCHRONOUS = "database", "synchronous"  # in `meta`
WENT_BACK = (
    "PostgreSQL is not the one that was opened any more: a standby was promoted, or a backup restored. The gateway ends"
    " so that it is restarted, and takes the new one over"
)
_IDENTITY = (
    "select (select system_identifier::text from pg_control_system()),"
    " (select oid::text from pg_database where datname = current_database()),"
    " left(pg_walfile_name(pg_current_wal_lsn()), 8)"
)
_IS_SYNCHRONOUS = (
    "select current_setting('synchronous_standby_names') <> ''"
    " and current_setting('synchronous_commit') in ('on', 'remote_apply')"
)


def identity_of(conn: PostgresConnection) -> str:
    """Returns the server, the database and the timeline, as one text. Raises an error on a standby."""
    return "/".join(str(part) for part in conn.one(_IDENTITY))


def take_over(conn: PostgresConnection) -> str:
    """Notes which database this is; marks it as a copy if it is an earlier state of the one that was noted."""
    identity = identity_of(conn)
    noted: dict[str, str] = dict(conn.rows("select key, value from meta where key in ($1, $2)", IDENTITY, SYNCHRONOUS))
    before = noted.get(IDENTITY, identity)
    is_promoted = before.rpartition("/")[0] == identity.rpartition("/")[0]
    if before != identity:
        conn.run("update leases set until = now_of_store() where until is not null")  # rule 3
        if not (is_promoted and noted.get(SYNCHRONOUS) == "yes"):
            restoring.mark_found(conn)
    (is_synchronous,) = conn.one(_IS_SYNCHRONOUS)
    for key, value in ((IDENTITY, identity), (SYNCHRONOUS, "yes" if is_synchronous else "no")):
        conn.run("insert into meta values ($1, $2) on conflict (key) do update set value = excluded.value", key, value)
    return identity
