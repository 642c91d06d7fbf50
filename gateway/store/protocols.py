"""What the gateway asks of a store, by who asks: each depends on what it uses, and no more.

Every method raises `Unavailable` when the store cannot answer. A tenant of None, where it may be that, stands for all
of them. `operations.py` has what they do, as methods and not as values that are handed to one door: some are several
transactions, and whoever calls them need not know which. Within, each transaction is a value (`claiming.Claim`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from gateway.store.words import NO_LIMITS

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime, timedelta

    from gateway.model import Asked, Dispatch, Filter, FlowStart, Identity, Json, Notice, Recipients, Resolution, State
    from gateway.sightings import Control, Sighting, Sought, Window
    from gateway.store.words import (
        Changes,
        Claims,
        Held,
        HeldPosition,
        HistoryPage,
        HistoryPosition,
        Kept,
        Life,
        Measures,
        Page,
        RecipientsPage,
        Recorded,
        Settlement,
        Terms,
        Undone,
    )


class Listening(Protocol):
    """What tells that something was recorded."""

    def listen(self, listener: Callable[[int], None], backend: str | None = None) -> None:
        """Calls `listener` on the event loop with the newest revision after each commit that made one.

        If a backend is named, only after those that recorded or moved a start there.
        """


class Recording(Protocol):
    """What callers have done: starts are recorded, cancelled and resolved."""

    async def create(
        self, asked: Asked, plan: Sequence[Recipients], *, fingerprint: str, warnings: tuple[Notice, ...], terms: Terms
    ) -> Recorded:
        """Records a start, or returns the one of the tenant that already has its request id, whatever it asked.

        Raises `Exhausted` if the tenant's backlog on the backend is full.
        """

    async def find_request(self, tenant: str, request_id: str) -> Recorded | None:
        """Returns the tenant's start with this request id."""

    async def cancel(self, tenant: str | None, start_id: str, *, can_end: bool) -> FlowStart | None:
        """Stops what is unsent of a start, and marks what runs to be ended if its backend can; None if there is none.

        Raises `NotPossible` if the start has ended without having been cancelled.
        """

    async def resolve(self, tenant: str | None, start_id: str, resolution: Resolution) -> FlowStart | None:
        """Settles what is uncertain or stalled of a start by an operator's word; None if there is no such start.

        Raises `NotPossible` if nothing is uncertain or stalled, `NotFound` if the start has no such dispatch, and
        `InvalidRequest` if an external id does not say which of several dispatches it is, or is another one's.
        """


class Reading(Listening, Protocol):
    """What callers read of starts, and watchers of changes."""

    epoch: str
    """Of the revisions: one of another epoch says nothing here."""

    async def get(self, tenant: str | None, start_id: str) -> FlowStart | None:
        """Returns a start of the tenant, params included."""

    async def list(self, tenant: str | None, selected: Filter, *, before: int | None, limit: int) -> Page:
        """Reads starts, the most recently changed first, with a revision below `before`."""

    async def recipients(
        self, tenant: str | None, start_id: str, *, after: tuple[int, int] | None, limit: int
    ) -> RecipientsPage | None:
        """Reads what became of the recipients of a start, in the order of the request; None if there is no start."""

    async def history(
        self, tenant: str | None, start_id: str, *, after: HistoryPosition | None, limit: int
    ) -> HistoryPage | None:
        """Reads the changes and attempts of a start, the oldest first; None if there is no start."""

    async def count_pending(self, backend: str) -> int:
        """Counts the dispatches of a backend that are due and not being sent, those that are put off included."""

    async def head(self) -> int:
        """Returns the newest revision."""

    async def oldest(self) -> int:
        """Returns the oldest revision that one can go on from; every start that is kept has changed since."""

    async def changes(self, after: int, limit: int, *, asker: str | None = None) -> Changes:
        """Reads the changes of all tenants after a revision; raises `RevisionNotAvailable` if they are not kept.

        `asker` is the tenant that waits for it, and takes turns with others; None: the watchers of all of them.
        """

    async def snapshot(
        self, tenant: str | None, selected: Filter, ids: frozenset[str], *, after: int, limit: int
    ) -> Page:
        """Reads starts in ascending order of their current revision, with one above `after`."""

    async def undone(self, tenant: str | None, ids: frozenset[str], *, since: int) -> Undone:
        """Returns which of these starts do not exist, and which are not done or have changed since a revision."""

    async def carries(self, start_id: str, external_id: str, *, asker: str | None) -> bool:
        """Tells whether a start has a dispatch with an external id. `asker` is the tenant that waits for it."""


class Serving(Recording, Reading, Protocol):
    """What the service uses."""


class Queue(Listening, Protocol):
    """What is sent of a backend, and what came of it."""

    async def claim(
        self,
        backend: str,
        limit: int,
        limits: Mapping[str, int] = NO_LIMITS,
        *,
        slow: Collection[str] = (),
        slow_limit: int = 0,
        ends: bool = True,
    ) -> Claims:
        """Takes due dispatches of a backend, the longest due first; ends those that have expired or were cancelled.

        It ends a bounded number of them. What is over and not ended yet is not taken; without `ends` it stays, and is
        not told as due.

        Of a tenant in `limits` it takes no more than that, of all tenants in `slow` together no more than `slow_limit`.
        What it leaves because of this is not told as due.

        Of two for one recipient, where only one may run, the second is not taken while the first is being sent or
        looked for.
        """

    async def release(self, dispatch_id: str, due_at: datetime | None) -> None:
        """Gives a claimed dispatch back without having sent it, due then; None: in the place that it had."""

    async def begin_attempt(self, dispatch_id: str, *, account: str, since: datetime) -> int | None:
        """Records that a claimed dispatch is about to be sent to an account; None if it may not be sent any more.

        `since` is the moment by the backend's clock, or an earlier one.
        """

    async def record(self, dispatch_id: str, attempt: int, settlement: Settlement) -> None:
        """Records what came of an attempt."""

    async def sends(self, backend: str, within: timedelta, limit: int) -> tuple[tuple[float, str], ...]:
        """Returns the latest attempts of any gateway: how many seconds ago each began, and whose it was.

        One that began at a moment still to come, by our clock, has begun just now.
        """


class Finding(Listening, Protocol):
    """What backends show, what is looked for there, and what is ended there."""

    async def hold(self, backend: str, identity: Identity | None, formerly: Collection[str] = ()) -> int:
        """Holds what was recorded for another account than this backend now is; returns of how many starts.

        What was recorded under another name of the same account, one of its aliases or of those it had `formerly` by an
        operator's word, has the lasting name from here on, and is held no longer. None stands for a backend that is not
        configured any more.
        """

    async def news(self, backend: str, sightings: Sequence[Sighting]) -> tuple[Sighting, ...]:
        """Returns those sightings that may move something: `sight` records nothing of the others."""

    async def sight(self, backend: str, sightings: Sequence[Sighting], *, account: str) -> int:
        """Records what an account of a backend shows of our dispatches; returns how many had moved.

        A correlation key tells which dispatch a sighting is of, where there is one: what was uncertain is found by it,
        and what was sent twice.
        """

    async def running(self, backend: str, external_ids: Sequence[str]) -> tuple[Dispatch, ...]:
        """Returns the running dispatches that have these external ids."""

    async def unseen(self, backend: str, account: str, shown: Collection[str]) -> frozenset[str]:
        """Returns the external ids of an account's running dispatches that are not among those shown."""

    async def windows(self, backend: str, account: str) -> tuple[Window, ...]:
        """Returns when an account accepted the running dispatches of each flow: since the last gap, and before it."""

    async def sought(self, backend: str, account: str) -> tuple[Sought, ...]:
        """Returns what an account may have though its answer is not known."""

    async def absent(self, sought: Sought, *, on_absent: State, pause: timedelta) -> None:
        """Settles a dispatch that was proved absent: PENDING sends it again, UNCERTAIN leaves it at rest.

        It is sent again at once the first time, then after `pause`, and after twice as long each time after that.
        """

    async def rest(self, sought: Sought) -> None:
        """Leaves a dispatch that cannot be found out about uncertain, until somebody resolves it or it shows up."""

    async def controls(self, backend: str, account: str, before: datetime) -> tuple[Control, ...]:
        """Returns the latest dispatches an account accepted before a moment (their clock), the latest first."""

    async def running_controls(self, backend: str, account: str) -> tuple[Control, ...]:
        """Returns those dispatches of an account that moved last (our clock) and run."""

    async def params(self, dispatch_ids: Collection[str]) -> Mapping[str, Mapping[str, Json]]:
        """Returns the params of the starts of some dispatches, by dispatch."""

    async def unknown(self, backend: str, external_ids: Collection[str]) -> frozenset[str]:
        """Returns those external ids that are of no dispatch."""

    async def endings(self, backend: str, account: str, limit: int) -> tuple[Dispatch, ...]:
        """Returns dispatches that are to be ended because their start was cancelled."""

    async def ending(self, dispatch_id: str) -> bool:
        """Records that the backend is about to be asked to end a dispatch; False if it need not be any more."""

    async def spare(self, dispatch_id: str) -> None:
        """Takes it back that the backend was asked to end a dispatch: the request never got there."""

    async def replaceable(self, dispatch_id: str, external_id: str) -> Dispatch | Kept | None:
        """Returns the dispatch of the same tenant with this external id, marked as about to be replaced if it runs.

        Or why it is kept; None if it is not the tenant's, or there were too many rounds.
        """

    async def mark_stalled(self, backend: str, before: datetime) -> int:
        """Marks the running dispatches of which nothing has moved since a moment; returns how many."""


class Lane(Queue, Finding, Protocol):
    """What one backend's sending and following use."""


class Leasing(Protocol):
    """Who works what, where several gateways have one store."""

    lease: timedelta | None
    """How long a lease lasts unless it is renewed; None: for as long as this process has the store."""

    async def backends(self) -> frozenset[str]:
        """Returns the backends that have dispatches which are not over."""

    async def standing(self) -> Held:
        """Returns which gateways live, and which of them has what."""

    async def take(self, kind: str, name: str, *, runs_on: timedelta) -> int | None:
        """Takes a lease that nobody has; returns its number, one more each time; None if another gateway has it.

        What was left of a lane is settled: what its owner was sending is in doubt, and may run on for as long.
        """

    async def renew(self, life: Life) -> frozenset[tuple[str, str]]:
        """Says that this gateway lives; returns what it has for another `lease` from now on, by kind and name."""

    async def give_up(self, kind: str, names: Collection[str]) -> None:
        """Leaves leases of this gateway to whoever comes first."""


class Working(Lane, Leasing, Protocol):
    """What all lanes of a gateway use."""


class Keeping(Queue, Protocol):
    """How the store is, and what it does beside all calls: counting, expiring and forgetting."""

    broken: asyncio.Event
    """Set once it will never work again in this process."""

    async def follow(self) -> None:
        """Hears of what other gateways record, until it is cancelled; returns at once where there are none."""

    @property
    def is_well(self) -> bool:
        """Whether the last write worked, no read has failed since the last check, and no thread hangs."""

    @property
    def trouble(self) -> str:
        """Says what is wrong with it; nothing while it is well."""

    async def look(self) -> None:
        """Looks whether it is still the store that was opened; what is wrong is `trouble` then."""

    async def check(self) -> None:
        """Writes and reads a little; raises `Unavailable` if that does not work."""

    async def measure(self) -> Measures:
        """Counts what waits, what is uncertain and what stands still; what may be many, up to a bound."""

    async def expire_held(self, after: HeldPosition | None = None) -> HeldPosition | None:
        """Ends those of the next held dispatches that have expired; returns where to go on, None at the end."""

    async def tell_behind(self) -> None:
        """Tells of progress that was held back, by whichever gateway: it may not live to tell it itself."""

    async def purge(self, before: datetime) -> int:
        """Takes one small step of forgetting what is older than a moment; returns how many rows it went through.

        0 says that there is nothing left to forget. Changes go in the order of their revisions, and those not older end
        it. A start whose newest change goes is erased with all that belongs to it, and its request id is free; one that
        is not over is recorded anew instead, as it stands.
        """


class Store(Serving, Working, Keeping, Protocol):
    """All of it, as whoever opens a store has it."""
