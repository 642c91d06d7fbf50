"""Who may call: tokens, and what each of them allows. Knows neither gRPC nor the configuration.

Rules:

1. A token is known by its SHA-256 only. It is random and long, so that nothing slower is needed to guard it.
2. The time that a look-up takes tells nothing of the tokens there are.
3. Nothing that is raised or shown here contains a token or its hash.
4. Clients can be replaced at any time; a stream asks again and again whether it may go on.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING

from gateway.errors import GatewayError, NotAllowed, Reason, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

DEFAULT_TENANT = "default"
PREFIX = "sf_"  # so that scanners of repositories, and people, know what it is
RANDOM_BYTES = 32
_INDEXED = 8  # bytes of a hash that choose whom to compare with; the others are compared in constant time


class Scope(StrEnum):
    """What a client may do. None of them includes another one."""

    START = "start"  # StartFlow, CancelFlowStart
    READ = "read"  # everything that changes nothing
    ADMIN = "admin"  # ResolveFlowStart
    OPERATOR = "operator"  # what the others allow, with every tenant's starts


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a tenant may have: starts a second, and watches at a time. None: no limit of its own."""

    starts_per_second: float | None = None
    streams: int | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """What a token allows. `hashes` are the SHA-256 of its tokens, `backends` those it may use (None: all).

    `limits` are the tenant's, whichever token it uses.
    """

    tenant: str
    hashes: tuple[bytes, ...] = field(default=(), repr=False)
    scopes: frozenset[Scope] = frozenset({Scope.START, Scope.READ})
    backends: frozenset[str] | None = None
    expires_at: datetime | None = None
    limits: Limits = NO_LIMITS

    @property
    def spans_tenants(self) -> bool:
        """Whether it reaches every tenant's starts."""
        return Scope.OPERATOR in self.scopes


ANYBODY = Client(tenant=DEFAULT_TENANT, scopes=frozenset({Scope.START, Scope.READ, Scope.ADMIN}))
"""Whoever calls where no clients are configured."""


class Clients:
    """The clients there are; where there are none, everybody is `ANYBODY`. `limits` are those of every tenant."""

    def __init__(
        self, clients: Sequence[Client] = (), *, clock: Callable[[], datetime], limits: Limits = NO_LIMITS
    ) -> None:
        self._clock = clock
        self.replace(clients, limits)

    def replace(self, clients: Sequence[Client], limits: Limits) -> None:
        """Takes these clients instead of those before."""
        self._index: dict[bytes, list[tuple[bytes, Client]]] = {}
        self._limits: dict[str, Limits] = {}
        self._limits_of_all = limits
        self._anybody = None if clients else ANYBODY
        self._starters: dict[str | None, set[str]] = {None: set()}  # tenants by backend; of None: of every one
        for client in clients:
            if Scope.START in client.scopes:
                for backend in (None,) if client.backends is None else client.backends:
                    self._starters.setdefault(backend, set()).add(client.tenant)
            for known in client.hashes:
                self._index.setdefault(known[:_INDEXED], []).append((known, client))
            before, own = self._limits.get(client.tenant, limits), client.limits
            self._limits[client.tenant] = Limits(
                starts_per_second=own.starts_per_second or before.starts_per_second,
                streams=own.streams or before.streams,
            )

    def limits(self, tenant: str) -> Limits:
        """Returns the limits of a tenant."""
        return self._limits.get(tenant, self._limits_of_all)

    def are_several(self, backend: str) -> bool:
        """Whether more than one tenant may start flows on a backend."""
        of_all, own = self._starters[None], self._starters.get(backend, set())
        return max(len(of_all), len(own)) > 1 or len(of_all | own) > 1

    def identify(self, credentials: Sequence[str]) -> Client:
        """Tells who calls with these values of `authorization`. Raises `Unauthenticated`."""
        return self._anybody or self._known(_hash(credentials))

    def admit(self, credentials: Sequence[str], scope: Scope) -> Client:
        """Tells who calls, if they have a scope. Raises `Unauthenticated` or `NotAllowed`."""
        client = self.identify(credentials)
        _require(client, scope)
        return client

    def lasting(self, credentials: Sequence[str], scope: Scope) -> Callable[[], GatewayError | None]:
        """Returns what tells, while a stream of an admitted client goes on, why it may not any more; None while it may.

        It is asked at every turn of every stream, and costs nothing as long as no clients were replaced.
        """
        given = None if self._anybody else _hash(credentials)
        client, asked_of = self.admit(credentials, scope), self._index

        def ended() -> GatewayError | None:
            nonlocal client, asked_of
            if asked_of is self._index and (client.expires_at is None or client.expires_at > self._clock()):
                return None
            try:
                now = self._anybody or self._known(given)
                _require(now, scope)
            except GatewayError as error:
                return error
            if (now.tenant, now.spans_tenants) != (client.tenant, client.spans_tenants):
                return _invalid()
            client, asked_of = now, self._index
            return None

        return ended

    def _known(self, given: bytes | None) -> Client:
        if given is None:
            raise _missing("")
        found = None
        for known, client in self._index.get(given[:_INDEXED], ()):
            if hmac.compare_digest(known, given):
                found = client
        if found is None:
            raise _invalid()
        if found.expires_at is not None and found.expires_at <= self._clock():
            raise Unauthenticated(
                reason=Reason.CREDENTIALS_EXPIRED,
                message=f"The credential expired at {found.expires_at:%Y-%m-%dT%H:%M:%SZ}. Use a newer one.",
            )
        return found


def make_token() -> str:
    """Makes a token that nobody can guess."""
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def hash_token(token: str) -> bytes:
    """Returns what a token is known by."""
    return sha256(token.encode(errors="replace")).digest()


def _hash(credentials: Sequence[str]) -> bytes:
    """Reads the one token of a call. Raises `Unauthenticated` if there is none, or what is there cannot be one."""
    if len(credentials) == 1:
        scheme, _, token = credentials[0].partition(" ")
        token = token.strip()
        if scheme.lower() == "bearer" and token and " " not in token:
            return hash_token(token)
    raise _missing(" that can be read" if credentials else "")


def _require(client: Client, scope: Scope) -> None:
    if scope not in client.scopes:
        raise NotAllowed(
            message=f"This credential does not have the scope `{scope}`. Use one that has it, or have it added to"
            " `scopes` of its [[clients]] entry.",
            metadata={"scope": scope},
        )


def _missing(qualified: str) -> Unauthenticated:
    return Unauthenticated(
        reason=Reason.CREDENTIALS_MISSING,
        message=f"The call has no credential{qualified}. Send the header `authorization: Bearer TOKEN`.",
    )


def _invalid() -> Unauthenticated:
    return Unauthenticated(
        reason=Reason.CREDENTIALS_INVALID,
        message="The credential is not known here. It may have been replaced, or be another gateway's: ask its operator"
        " for a valid one.",
    )
