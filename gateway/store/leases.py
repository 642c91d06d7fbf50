"""Who works what, where several gateways have one store: rows with an end by the store's clock.

Rules:

1. One gateway at a time has a lease. Whoever takes one writes its row first, with the next fence, and looks for what
   was left only then: whatever an owner began before is seen, and it begins nothing any more.
2. What only its owner may do, claiming and beginning an attempt, looks at the row in its own transaction
   (`Transaction.may_work`). Nobody takes it before that is committed: of transactions that move what is there, one is
   after the other (`Commits.begin`).
3. A life is a lease on a number. Numbers only grow, so an owner is never taken for another one.
4. A lease without an end is that of an engine which lets in one gateway at a time: whoever is in has it. A lane that
   nobody has ever taken is everybody's: a gateway takes each before it works it.
5. What was being sent when a lease is taken may be on its way for as long as a request takes. It counts as ended then.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.store.recovering import recover
from gateway.store.rows import MICROSECOND
from gateway.store.words import LANE, Held, Life

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import timedelta

    from gateway.store.connection import Connection
    from gateway.store.transaction import Transaction

LIFE = "life"
REMEMBERED = 86_400_000_000  # microseconds after its end: a process that was paused for less goes on with its life
NOBODY = 0  # as an owner: lives have numbers from 1 on
_ENDED = "(leases.until is null or leases.until <= now_of_store())"


@dataclass(frozen=True, slots=True)
class Take:
    """That this gateway wants a lease for so long; `runs_on` is how long what another one has begun may still run."""

    kind: str
    name: str
    lasts: timedelta | None
    runs_on: timedelta

    def __call__(self, transaction: Transaction) -> int | None:
        """Takes it if nobody has it, and settles what was left of a lane; returns its fence, None if another has it."""
        conn = transaction.conn
        before = conn.row("select until from leases where kind = $1 and name = $2", self.kind, self.name)
        taken = conn.row(
            "insert into leases (kind, name, owner, fence, until) values ($1, $2, $3, 1, now_of_store() + $4)"
            " on conflict (kind, name) do update set owner = excluded.owner, fence = leases.fence + 1,"
            f" until = excluded.until where leases.owner = excluded.owner or {_ENDED} returning fence",
            self.kind,
            self.name,
            transaction.incarnation,
            _micros(self.lasts),
        )
        if taken is None:
            return None
        if self.kind == LANE:
            may_run = before is not None and before[0] is not None
            recover(transaction, self.name, self.runs_on // MICROSECOND if may_run else 0)
        return int(taken[0])


@dataclass(frozen=True, slots=True)
class Renew:
    """That this gateway lives on for so long, with what it has; `life` is what it says of itself."""

    lasts: timedelta | None
    life: Life

    def __call__(self, transaction: Transaction) -> frozenset[tuple[str, str]]:
        """Puts the ends off; returns what it has."""
        rows = transaction.conn.rows(
            "update leases set until = now_of_store() + $1, says = case when kind = 'life' then $2 else says end"
            " where owner = $3 returning kind, name",
            _micros(self.lasts),
            json.dumps({"at": self.life.at, "backends": sorted(self.life.backends)}),
            transaction.incarnation,
        )
        return frozenset((kind, name) for kind, name in rows if kind != LIFE)


@dataclass(frozen=True, slots=True)
class GiveUp:
    """That this gateway no longer works what it has of a kind, by names; a life keeps its number when it ends."""

    kind: str
    names: Collection[str]

    def __call__(self, transaction: Transaction) -> None:
        """Leaves it to whoever comes first."""
        for name in self.names:
            transaction.conn.run(
                "update leases set owner = case when kind = 'life' then owner else $1 end, until = now_of_store()"
                " where kind = $2 and name = $3 and owner = $4",
                NOBODY,
                self.kind,
                name,
                transaction.incarnation,
            )


def standing(conn: Connection, me: int) -> Held:
    """Reads which gateways live, and who has what."""
    lives: dict[int, Life] = {}
    owners: dict[tuple[str, str], int | None] = {}
    for kind, name, owner, says, lasts in conn.rows(
        f"select kind, name, owner, says, not {_ENDED} or until is null from leases"
    ):
        if kind != LIFE:
            owners[kind, name] = owner if lasts and owner != NOBODY else None
        elif lasts:
            said = json.loads(says)
            lives[owner] = Life(at=said.get("at", ""), backends=frozenset(said.get("backends", ())))
    return Held(me=me, lives=lives, owners=owners)


def is_alone(conn: Connection, me: int = NOBODY) -> bool:
    """Whether no gateway lives, but for this one."""
    others = "select 1 from leases where kind = 'life' and until > now_of_store() and owner <> $1 limit 1"
    return conn.row(others, me) is None


def begin(transaction: Transaction, lasts: timedelta | None) -> None:
    """Begins a life, and forgets those that have ended long ago and left nothing behind."""
    conn = transaction.conn
    conn.run(
        "delete from leases where kind = 'life' and (until is null or until < now_of_store() - $1)"
        " and not exists (select 1 from dispatches where claimed_by = owner)"
        " and not exists (select 1 from attempts where incarnation = owner and outcome is null)",
        REMEMBERED,
    )
    conn.run("update leases set owner = $1 where kind <> 'life' and until is null", transaction.incarnation)
    conn.run(
        "insert into leases (kind, name, owner, fence, until) values ('life', $1, $2, 1, now_of_store() + $3)",
        str(transaction.incarnation),
        transaction.incarnation,
        _micros(lasts),
    )


def _micros(lasts: timedelta | None) -> int | None:
    return None if lasts is None else lasts // MICROSECOND
