"""Why a PostgreSQL store cannot be used, in a sentence, and what to do then. No password and no row is in it."""

from __future__ import annotations

import psycopg
from psycopg import errors

from gateway.errors import Reason, Unavailable
from gateway.store.engine import Down, Unanswered
from gateway.store.transaction import RolledBack

OLDEST = 14  # of PostgreSQL
POOLED = {"26000", "42P05"}  # a prepared statement that is not there, or twice: another connection's server process
_SETTING = "`store` (STARTFLOW_STORE)"


class StoreLost(Exception):
    """The database is not the one that was opened any more, or another gateway has taken it over."""


def named(url: str) -> str:
    """Names a store without its password."""
    try:
        params = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        return "PostgreSQL"
    host, port = params.get("host") or "localhost", params.get("port") or "5432"
    return f"postgresql://{host}:{port}/{params.get('dbname') or params.get('user') or ''}"


def _role(url: str) -> str:
    try:
        return str(psycopg.conninfo.conninfo_to_dict(url).get("user") or "of this user")
    except psycopg.ProgrammingError:
        return "of this name"


def why_not_connected(url: str, error: Exception) -> str:
    """Says why nothing came of connecting, and what to do."""
    said, store = str(error), named(url)
    for words, advice in (
        ("password authentication failed", "The password or the user is wrong: set PGPASSWORD, or a password file."),
        ("no password supplied", "It asks for a password: set PGPASSWORD, or a password file (PGPASSFILE)."),
        ("no pg_hba.conf entry", "Its pg_hba.conf lets this user in from here by no line: add one."),
        ("too many clients", "It is out of connections: raise its max_connections, or end others."),
        ("remaining connection slots", "It is out of connections: raise its max_connections, or end others."),
        ("too many connections", "It is out of connections: raise the limit of the role or of the database."),
        ("the database system is", "It is starting up or shutting down: wait until it is there."),
        ('database "', f"There is no such database: make it with `createdb`, or name another in {_SETTING}."),
        ('role "', f"There is no role {_role(url)}: make it with `createuser`, or name another in {_SETTING}."),
        ("SSL", "Its TLS and ours do not agree: see `sslmode` and `sslrootcert` in the address."),
        ("certificate", "Its TLS and ours do not agree: see `sslmode` and `sslrootcert` in the address."),
        ("invalid", f"{_SETTING} is no address as libpq has them: postgresql://USER@HOST:PORT/DATABASE."),
    ):
        if words in said:
            return f"The store {store} refused the connection. {advice}"
    return f"The store {store} cannot be reached. Look whether it runs, and whether its host and port are right."


def why_unfit(conn: psycopg.Connection[tuple[object, ...]], url: str) -> str:
    """Says why a server that answers is none to store in; nothing if it is one."""
    store, version = named(url), conn.info.server_version
    if version < OLDEST * 10_000:
        return (
            f"The store {store} is PostgreSQL {version // 10_000}, and {OLDEST} or newer is needed. Upgrade it, or set"
            f" {_SETTING} to another one."
        )
    asked = "select pg_is_in_recovery(), current_setting('transaction_read_only'), current_setting('server_encoding')"
    is_standby, read_only, encoding = conn.execute(asked).fetchone() or (False, "off", "")
    if is_standby:
        return (
            f"The store {store} is a standby, which takes no writes. Name the primary in {_SETTING}, or several hosts"
            " and `target_session_attrs=read-write`."
        )
    if read_only == "on":
        return (
            f"The store {store} takes no writes from this role or in this database: set"
            " `default_transaction_read_only` to off there."
        )
    if encoding != "UTF8":
        return (
            f"The store {store} is encoded in {encoding}, and UTF8 is needed. Make a database with"
            f" `createdb --encoding=UTF8 --template=template0`, and name it in {_SETTING}."
        )
    return ""


def why_not_made(url: str, error: psycopg.Error) -> str:
    """Says why the schema could not be read or made."""
    if isinstance(error, errors.InsufficientPrivilege | errors.InvalidSchemaName):
        return not_granted(url)
    return f"The store {named(url)} cannot be used ({name_of(error)}). PostgreSQL's log has the whole error."


def not_granted(url: str) -> str:
    """Says that the schema cannot be made."""
    return (
        f"The role has no right to make tables in the store {named(url)}. Grant it: `grant create, usage on schema"
        " public to ROLE`, or have it own the database."
    )


def name_of(error: psycopg.Error) -> str:
    """Returns PostgreSQL's code for an error, or what kind of an error it is where it has none."""
    return error.sqlstate or type(error).__name__


def down(error: Exception) -> Down | None:
    """Says what is wrong with the store, without what was being stored or read; None if it is no error of it."""
    if isinstance(error, StoreLost):
        return Down("", Unavailable(reason=Reason.STORE_UNAVAILABLE, message=str(error)))
    if isinstance(error, Unanswered):
        cause = error.__cause__
        name = name_of(cause) if isinstance(cause, psycopg.Error) else ""
        return _down(
            name,
            f"The connection to the store broke while it committed ({name}), and PostgreSQL does not answer since: it"
            " is not known yet whether this was recorded. Ask again, with the same request_id if there is one.",
        )
    if isinstance(error, RolledBack) and isinstance(error.__cause__, Exception):
        return down(error.__cause__)
    if not isinstance(error, psycopg.Error):
        return None
    name = name_of(error)
    what = "put the pooler before it in session mode" if name in POOLED else "check PostgreSQL"
    message = f"The store does not work ({name}); nothing was recorded. Try again; if it persists, {what}."
    return _down(name, message)


def _down(name: str, message: str) -> Down:
    metadata = {"postgres_error": name}
    return Down(name, Unavailable(reason=Reason.STORE_UNAVAILABLE, message=message, metadata=metadata))
