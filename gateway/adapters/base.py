"""The interface of an adapter, and the values it speaks in.

Rules:

1. An adapter translates and does nothing else: no HTTP, no clock, no log, no database. Each verb is a generator that
   yields a `Request` and is sent what came of it; `transport.py` is the one loop that makes the requests.
2. A reader never raises, whatever the body: what makes no sense is `Unsure`, and is never believed.
3. The backend's own words (`uuid`, `sid`) stay in its adapter's file.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar, runtime_checkable

from gateway.model import Cause

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime, timedelta

    from gateway.errors import Violation
    from gateway.model import (
        Asked,
        CompletionMeaning,
        Dispatch,
        Flow,
        Identity,
        Json,
        Notice,
        RecipientKind,
        Recipients,
        State,
    )
    from gateway.sightings import Sighting, Window

T = TypeVar("T")

DISPATCH_ID_SIZE = 32
"""The length of the longest id of a dispatch, in characters: what a size check must leave room for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One HTTP request. `query` and `body` are encoded already; `path` begins with a slash.

    `creates` marks the one request that must never be repeated blindly.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(repr=False)  # holds the credentials
    body: bytes = field(default=b"", repr=False)  # holds personal data
    creates: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole HTTP answer. The names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """No whole answer came. `sent` is False only when nothing of the request can have left this machine.

    `reason` is for people.
    """

    sent: bool
    reason: str
    cause: Cause


Exchange: TypeAlias = Generator[Request, Reply | Failed, T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The backend has it. `accepted_at` is by the backend's clock; `account` is whose account it says it was."""

    external_id: str
    state: State
    account: str
    accepted_at: datetime | None
    warnings: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The backend refused this request for good; nothing was created."""

    failure: Notice


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """The backend refused it because the recipient is in something else; nothing was created.

    `external_id` is that of what keeps them busy; empty if the backend does not say.
    """

    failure: Notice
    external_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttled:
    """The backend asks to wait; nothing was created. `seconds` is None when it does not say how long."""

    seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSent:
    """Nothing left this machine."""

    reason: str
    cause: Cause = Cause.UNREACHABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """By the backend's own words the account takes nothing until somebody acts. `notice` says who and what."""

    notice: Notice


@dataclass(frozen=True, slots=True, kw_only=True)
class Barred:
    """Something that is not the backend refused the request: a firewall, a proxy, another host. Nothing was created.

    One such answer does not show whether it refuses this request alone or every request.
    """

    notice: Notice


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsure:
    """It may have been carried out. `reason` is for people."""

    reason: str
    cause: Cause


Outcome: TypeAlias = Accepted | Refused | Busy | Throttled | NotSent | Blocked | Barred | Unsure
"""What came of sending a dispatch."""

Trouble: TypeAlias = Throttled | NotSent | Blocked | Barred | Unsure
"""Why something could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """The backend answered properly that it has no such thing. Whether that means anything is not the adapter's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """The correlation key that one carries, and the params beside it; empty if it carries none, and so is not ours.

    Where `is_hidden`, it shows no params at all: it may have begun with none, or something emptied them.
    """

    correlation_key: str
    is_hidden: bool = False
    params: Mapping[str, Json] | None = field(default=None, repr=False, compare=False)  # personal data


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What one scan showed.

    `trouble` is set when it could not be read to its end; what was read is still true. `unread` are flows whose part
    could not be read for a reason that is theirs alone, such as having been deleted. `account` is whose account
    answered, by any of its names; empty if the answers do not say.

    `since` is the moment (by the backend's clock) from which on it lists what has moved; None if it lists all that was
    created in the windows. `newest` is the latest moment that a next scan need not look behind (less its overlap); None
    when the scan shows no such moment. `began` is when it began, by the backend's clock; None if that did not say.

    What a scan does not show is not there only if it `is_gapless`. One of several pages whose rows can move between
    them `needs_closing`: what moved meanwhile is shown by another one, that reaches back to where this one began.
    """

    sightings: tuple[Sighting, ...]
    account: str = ""
    since: datetime | None = None
    newest: datetime | None = None
    began: datetime | None = None
    trouble: Trouble | None = None
    unread: frozenset[str] = frozenset()
    is_gapless: bool = True
    needs_closing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Flows:
    """The flows a backend showed. `trouble` is set when they could not be read to their end; what was read is true."""

    flows: tuple[Flow, ...]
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """A post that says it is the backend's. `url` is the whole one it was sent to, as its sender knows it.

    The names of `headers` are in lower case. `body` is None while nothing of it was read.
    """

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)  # holds personal data


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What a push tells of one dispatch.

    `id` is the same however often that is told, and differs from that of anything else; empty if it has none.
    """

    id: str
    sighting: Sighting


@dataclass(frozen=True, slots=True, kw_only=True)
class Distrusted:
    """A push that may be anybody's, so nothing in it was looked at. `why` is for the log: what to set.

    `may_be_ours` says that it looks like the backend's, so that it could be believed once a setting is corrected.
    """

    why: str
    may_be_ours: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a kind of backend can do. An empty `urn_schemes` means any."""

    recipient_kinds: tuple[RecipientKind, ...]
    urn_schemes: tuple[str, ...]
    sender: bool
    restart_participants: bool
    exclude_active: bool
    cancel: bool
    one_at_a_time: bool  # whether a recipient may have one running dispatch of a flow at the most
    recipients_per_dispatch: int
    params_size: int
    completion_meaning: CompletionMeaning
    rate: tuple[int, float]  # requests, seconds: what the backend allows an account by default
    quiet_window: timedelta  # within which the backend carries out or drops a request whose answer nobody got
    rate_counts_reads: bool  # whether reading spends the same rate as sending
    lists_by_flow: bool = False  # whether a sweep lists each flow by itself, so that several can be listed at once
    request_id: str = ""  # the header in which it names a request, by which its support finds it; in lower case


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A configured account. `credentials` are by the names in the configuration, such as `token`."""

    credentials: Mapping[str, str] = field(repr=False)
    sender: str = ""
    url: str = ""


class Adapter(Protocol):
    """The code that speaks to one kind of backend, for one account.

    Made by calling the class with an `Account`; raises `Misconfigured` if the credentials do not suffice.
    """

    capabilities: Capabilities

    def offers(self, flow: str) -> bool:
        """Whether `flow` has the form of this backend's flow ids."""

    def external_id(self, said: str) -> str:
        """Returns an external id that a person wrote in the spelling that this adapter reads from answers.

        It is "" where what they wrote has not the form of one.
        """

    def same_as(self, kind: RecipientKind, recipient: str, country: str = "") -> str:
        """Returns the canonical form of a recipient: two with the same form are one to this backend.

        `recipient` may be any text; `country` (ISO 3166) completes phone numbers, and is empty while it is not known.
        """

    def objections(self, asked: Asked, recipients: Recipients, country: str = "") -> list[Violation]:
        """Lists what this backend cannot express, or what is sure to break it. No two recipients are the same."""

    def plan(self, asked: Asked, recipients: Recipients) -> list[Recipients]:
        """Splits the recipients into those of each dispatch. The request has no objections."""

    def send(self, dispatch: Dispatch) -> Exchange[Outcome]:
        """Sends one dispatch, with one POST."""

    def sweep(self, since: datetime | None, windows: Sequence[Window], sought: Collection[str] = ()) -> Exchange[Sweep]:
        """Scans for what moved since then (None: as far back as `windows`) among what was accepted in `windows`.

        Where lists show params, it keeps those of the dispatches that are `sought`, by their correlation keys.
        """

    def look(self, dispatch: Dispatch) -> Exchange[Sighting | Missing | Trouble]:
        """Reads one accepted dispatch by its external id."""

    def identify(self) -> Exchange[Identity | Trouble]:
        """Asks whose account answers. `Accepted` and `Sweep` call it by its lasting name or by one of the aliases.

        The account is empty where the backend cannot tell: then nothing keeps two accounts apart.
        """


@runtime_checkable
class Lister(Protocol):
    """An adapter whose backend tells which flows it has."""

    def flows(self, flow: str = "") -> Exchange[Flows]:
        """Reads the flow with this id, which there may not be; without one, all that there are."""


@runtime_checkable
class KeyReader(Protocol):
    """An adapter whose lists do not show correlation keys: they are read one by one."""

    def key(self, flow: str, external_id: str) -> Exchange[Key | Missing | Trouble]:
        """Reads the correlation key of one."""


@runtime_checkable
class Canceller(Protocol):
    """An adapter whose backend can end what runs."""

    def cancel(self, dispatch: Dispatch) -> Exchange[Sighting | Missing | Trouble]:
        """Ends one accepted dispatch, and shows it as it is then. Ending what has ended is no trouble."""


@runtime_checkable
class Listener(Protocol):
    """An adapter whose backend tells by itself what moved, in posts that only it can make."""

    def hear(self, push: Push) -> tuple[Heard, ...] | Distrusted | Unsure:
        """Reads a push. Without its body nothing is heard yet, and the answer is whether that is worth reading."""


class Misconfigured(Exception):
    """The settings of a backend do not suffice. Says which one and what to set."""
