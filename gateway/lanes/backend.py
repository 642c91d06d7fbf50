"""One backend account as its lane has it: its adapter, its transport, and what the settings say of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from gateway.adapters.base import Barred
from gateway.lasting import Lasting
from gateway.model import Identity, State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.adapters.base import Adapter
    from gateway.lanes.transport import Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A configured account: its adapter, and the transport that reaches it."""

    name: str
    kind: str
    adapter: Adapter
    transport: Transport
    sender: str = ""
    public_url: str = ""  # what the URL begins with to which it pushes; empty: what the request says
    flow_aliases: Mapping[str, str] = field(default_factory=dict)
    formerly: frozenset[str] = frozenset()  # other names of its account, by the operator's word
    sweep_interval: timedelta
    in_flight: int
    quiet_window: timedelta
    find_for: timedelta = timedelta(hours=1)
    on_absent: State = State.PENDING  # or UNCERTAIN: what is proved absent is not sent again either
    give_up_after: timedelta = timedelta(days=1)
    schedule_ahead: timedelta = timedelta(days=365)  # how far ahead a start may be scheduled, or expire
    stalled_after: timedelta = timedelta(days=1)
    backlog: int = 100_000
    unread: Lasting = field(default_factory=lambda: Lasting("sweep_unread", is_grave=False), compare=False, repr=False)

    async def examine(self) -> None:
        """Asks whose account answers, because something in front of the backend refused a request.

        If it refuses this too, nothing gets through, and the lane waits; if not, it has something against that request.
        Does so every half a minute at the most.
        """
        transport = self.transport
        if not transport.may_examine():
            return
        answer = await transport.run(self.adapter.identify())
        if isinstance(answer, Barred):
            transport.circuit.blocked(answer.notice)
        elif not isinstance(answer, Identity):
            transport.note(answer)

    def named(self, account: str) -> str:
        """Returns the lasting name of the account that an answer calls so."""
        identity = self._identity
        return identity.named(account) if identity else account

    @property
    def account(self) -> str:
        """Whose account it is; empty while that is not known."""
        identity = self._identity
        return identity.account if identity else ""

    @property
    def country(self) -> str:
        """By which country it completes phone numbers; empty while that is not known, and if there is none."""
        identity = self._identity
        return identity.country if identity else ""

    @property
    def _identity(self) -> Identity | None:
        return self.transport.identity or self.transport.met
