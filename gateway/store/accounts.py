"""Whose account a dispatch belongs to, and by which names that is known.

Rules:

1. Nothing is sent to another account than a dispatch was recorded for, and no other account's lists prove anything.
2. A name is one account's, that which first had it on this backend, unless an operator says otherwise: an old
   RapidPro's `1` names the first workspace of every server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.errors import Reason
from gateway.model import Notice, State
from gateway.store.moves import Move, changed, move, start_id_of, warn
from gateway.store.states import HELD

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from gateway.model import Identity
    from gateway.store.connection import Connection
    from gateway.store.transaction import Transaction

AT_ONCE = 500  # dispatches settled in one step
PAGE = 10_000  # dispatches that are read at once

_NOWHERE = Notice(
    reason=Reason.OUTCOME_UNKNOWN,
    message="The backend may have carried it out, for an account that is not known. Look there for its `startflow_id`,"
    " and settle it with ResolveFlowStart. The gateway never sends it again by itself.",
)
_OTHERS = "(account is distinct from $2 or $2 is null)"
_UNSETTLED = (  # each as an index has it; what is held is looked at whoever's it is: it may be this account's again
    ("dispatches_waiting", f"state = PENDING and claimed_by is null and {_OTHERS}"),
    ("dispatches_held", "claimed_by = HELD"),
    ("dispatches_running", f"state in (QUEUED, STARTED) and {_OTHERS}"),
    ("dispatches_sought", f"sought_from is not null and state = UNCERTAIN and {_OTHERS}"),
)


@dataclass(frozen=True, slots=True)
class Names:
    """The names by which the account that a backend is now is known."""

    backend: str
    identity: Identity | None
    formerly: Collection[str]

    def __call__(self, transaction: Transaction) -> frozenset[str]:
        """Records by which names an account is known on a backend, and returns all of them."""
        if self.identity is None:
            return frozenset()
        conn, account = transaction.conn, self.identity.account
        aliases = "aliases (backend, alias, account)"
        conn.insert(
            aliases, [(self.backend, each, account) for each in self.identity.aliases], "on conflict do nothing"
        )
        conn.insert(
            aliases,
            [(self.backend, each, account) for each in self.formerly],
            "on conflict (backend, alias) do update set account = excluded.account",
        )
        rows = conn.rows("select alias from aliases where backend = $1 and account = $2", self.backend, account)
        return frozenset(alias for (alias,) in rows) - {account}


def strangers(conn: Connection, backend: str, account: str | None, after: str) -> list[str]:
    """Reads the next dispatches of a backend, by id, that are not over and held, or not known to be this account's."""
    parts = " union ".join(
        f"select id from dispatches /*by {index}*/ where backend = $1 and {which} and id > $3"
        for index, which in _UNSETTLED
    )
    rows = conn.rows(f"select id from ({parts}) rows order by id limit $4", backend, account, after, PAGE)
    return [dispatch_id for (dispatch_id,) in rows]


@dataclass(frozen=True, slots=True)
class SettleAccount:
    """Dispatches of which some are not known to be of the account that their backend is now."""

    account: str | None
    known_as: Collection[str]
    dispatches: Sequence[str]

    def __call__(self, transaction: Transaction) -> frozenset[str]:
        """Gives dispatches that are this account's its name, and holds the others; returns the starts of these.

        What was recorded while it was not known whose account it was is this one's from here on. If it may have been
        sent then, it rests.
        """
        rows = transaction.conn.over(
            "with wanted(id text) as ($rows) select d.id, d.account, d.state, d.claimed_by, d.sought_from is not null"
            " from wanted /*first*/ join dispatches d on d.id = wanted.id",
            [(each,) for each in self.dispatches],
        )
        ours: list[str] = []
        others: list[tuple[str, str]] = []
        for dispatch_id, recorded_for, state, claimed_by, is_sought in rows:
            if state == State.PENDING and claimed_by not in (None, HELD):
                continue  # it is being sent
            if recorded_for is None and self.account is not None and state == State.UNCERTAIN and is_sought:
                transaction.conn.run("update dispatches set sought_from = null where id = $1", dispatch_id)
                move(transaction, Move(dispatch_id, State.UNCERTAIN, _NOWHERE))
            if self.account is not None and (recorded_for is None or recorded_for in {self.account, *self.known_as}):
                ours.append(dispatch_id)
            else:
                others.append((dispatch_id, recorded_for or ""))
        transaction.conn.over(
            "with ours(id text, account text) as ($rows) update dispatches set account = ours.account,"
            " claimed_by = nullif(claimed_by, HELD) from ours where dispatches.id = ours.id",
            [(each, self.account) for each in ours],
        )
        transaction.conn.over(
            "with others(id text) as ($rows) update dispatches set claimed_by = HELD from others"
            " where dispatches.id = others.id and state = PENDING"
            " and not exists (select 1 from starts s where s.id = start_id and s.cancelling = 1)",
            [(each,) for each, _ in others],
        )
        for dispatch_id, recorded_for in others:
            warn(transaction, start_id_of(dispatch_id), changed(recorded_for))
        return frozenset(start_id_of(each) for each, _ in others)
