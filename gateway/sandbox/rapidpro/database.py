"""The database behind the sandbox's RapidPro: a primary that is written, and replicas that are read.

1. `modified_on` is the moment at which the transaction that moved a row began; the move is visible when it commits.
   So a row can appear behind one that was read already, and a row that two transactions move can go backwards.
2. Lists and look-ups are read from a replica, where there are any. Each shows the database as it was some time ago,
   old states and places of rows included, and never goes back in time.
3. Its clock need not agree with that of the server in front of it, which writes the `Date` header.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import random
    from datetime import datetime

    from gateway.sandbox.settings import SandboxSettings

MOST_ROWS = 250  # RapidPro's own page size


@dataclass(slots=True, kw_only=True)
class Database:
    """How the database behaves, in seconds; all of it can change at any time.

    `replicas` is how far each read replica is behind; without any, the primary is read. `pick` says whether reads
    alternate between them or each goes to one drawn by seed. `transaction` is how long a transaction takes from its
    begin to its commit, drawn between two bounds. `ahead` is how far its clock is ahead of the `Date` header.
    """

    rng: random.Random
    page_size: int = MOST_ROWS
    replicas: tuple[float, ...] = ()
    pick: Literal["alternate", "random"] = "alternate"
    transaction: tuple[float, float] = (0.0, 0.0)
    ahead: float = 0.0
    _reads: int = 0
    _shown: dict[int, datetime] = field(default_factory=dict)  # by replica: as of when it was last read

    def read_as_of(self, now: datetime) -> datetime:
        """Picks a replica for one read, and returns the moment whose state it shows."""
        if not self.replicas:
            return now
        count = len(self.replicas)
        number = self.rng.randrange(count) if self.pick == "random" else self._reads % count
        self._reads += 1
        shown = max(now - timedelta(seconds=self.replicas[number]), self._shown.get(number, now - timedelta(days=366)))
        self._shown[number] = shown
        return shown

    def written(self, at: datetime) -> datetime:
        """Returns a moment by the database's clock."""
        return at + timedelta(seconds=self.ahead)

    def lasts(self) -> timedelta:
        """Draws how long one transaction takes."""
        least, most = self.transaction
        return timedelta(seconds=least if least == most else self.rng.uniform(least, most))

    def settings(self) -> dict[str, Any]:
        """Shows what can be changed, as it is."""
        return {
            "page_size": self.page_size,
            "replicas": list(self.replicas),
            "pick": self.pick,
            "transaction": list(self.transaction),
            "ahead": self.ahead,
        }


def database(settings: SandboxSettings, rng: random.Random) -> Database:
    """Builds the database that a sandbox's settings ask for."""
    return Database(
        rng=rng,
        page_size=settings.rapidpro_page_size,
        replicas=settings.rapidpro_replicas,
        transaction=settings.rapidpro_transaction,
        ahead=settings.rapidpro_ahead,
    )
