"""Whether a store on PostgreSQL keeps what always holds of it: for an operator. Gateways may be serving from it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg

from gateway.store.checking import REFERENCES
from gateway.store.engine import StoreUnusable
from gateway.store.invariants import check, violations
from gateway.store.postgres.engine import reach
from gateway.store.postgres.migrations import refuse_others
from gateway.store.postgres.refusals import why_not_made

if TYPE_CHECKING:
    from gateway.store.invariants import Violation

_ORPHANS = " union all ".join(
    f"select '{table} ' || {key} from {table} of where not exists (select 1 from {to} t where t.id = of.{by})"
    for table, key, to, by in (
        ("dispatches", "of.id", "starts", "start_id"),
        ("recipients", "of.start_id", "starts", "start_id"),
        ("changes", "of.start_id", "starts", "start_id"),
        ("attempts", "of.dispatch_id", "dispatches", "dispatch_id"),
    )
)
SOUNDNESS = (replace(REFERENCES, find=_ORPHANS),)
"""What SQLite keeps by itself, and PostgreSQL is not asked to."""


def check_url(url: str) -> list[Violation]:
    """Returns what breaks an invariant in a store.

    Raises `StoreUnusable` if there is none, or if another version of the gateway has made it.
    """
    conn = reach(url)
    with closing(conn.raw):
        try:
            refuse_others(conn, url)
            conn.say("set statement_timeout = 0")
            conn.say("begin isolation level repeatable read read only")  # one view, whatever gateways write meanwhile
            return check(conn) + [violation for each in SOUNDNESS for violation in violations(conn, each)]
        except psycopg.Error as error:
            raise StoreUnusable(why_not_made(url, error)) from error
