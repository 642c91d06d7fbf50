from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from gateway.errors import GatewayError, NotAllowed, Unauthenticated
from gateway.tenants.clients import ANYBODY, NO_LIMITS, Client, Clients, Limits, Scope, hash_token, make_token
from tests.builders import NOON

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.builders import Clock

TOKEN, OTHER = "sf_t0ps3cret", "sf_an0ther"


def client(*tokens: str, tenant: str = "clinic", scopes: Sequence[str] = ("start", "read"), **more: object) -> Client:
    """A client with these tokens."""
    hashes = tuple(map(hash_token, tokens))
    return Client(tenant=tenant, hashes=hashes, scopes=frozenset(map(Scope, scopes)), **more)  # type: ignore[arg-type]


def refused(clients: Clients, *credentials: str, scope: Scope = Scope.READ) -> GatewayError:
    """Asks for what is refused; the token is not in what is said."""
    with pytest.raises(GatewayError) as caught:
        clients.admit(credentials, scope)
    assert "t0ps3cret" not in repr(caught.value)
    return caught.value


@pytest.mark.parametrize("given", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER  {TOKEN} "])
def test_a_known_token_is_its_client(clock: Clock, given: str) -> None:
    """However the scheme is written."""
    known = client(OTHER, TOKEN)

    assert known is Clients([client("x", tenant="b"), known], clock=clock).admit([given], Scope.READ)


@pytest.mark.parametrize(
    ("credentials", "reason", "advice"),
    [
        ((), "CREDENTIALS_MISSING", "Send the header `authorization: Bearer TOKEN`"),
        (("",), "CREDENTIALS_MISSING", "no credential that can be read"),
        (("Bearer",), "CREDENTIALS_MISSING", "no credential that can be read"),
        (("Bearer ",), "CREDENTIALS_MISSING", "no credential that can be read"),
        ((TOKEN,), "CREDENTIALS_MISSING", "no credential that can be read"),
        ((f"Basic {TOKEN}",), "CREDENTIALS_MISSING", "no credential that can be read"),
        ((f"Bearer {TOKEN} {TOKEN}",), "CREDENTIALS_MISSING", "no credential that can be read"),
        ((f"Bearer {TOKEN}", f"Bearer {TOKEN}"), "CREDENTIALS_MISSING", "no credential that can be read"),
        ((f"Bearer {TOKEN}x",), "CREDENTIALS_INVALID", "ask its operator"),
        ((f"Bearer {TOKEN[:-1]}",), "CREDENTIALS_INVALID", "ask its operator"),
        (("Bearer \udcff",), "CREDENTIALS_INVALID", "ask its operator"),
        ((f"Bearer {hash_token(TOKEN).hex()}",), "CREDENTIALS_INVALID", "ask its operator"),
    ],
    ids=ascii,
)
def test_what_is_no_known_token_is_refused(
    clock: Clock, credentials: tuple[str, ...], reason: str, advice: str
) -> None:
    """It is told what to do; whoever has read the configuration has no token yet."""
    error = refused(Clients([client(TOKEN)], clock=clock), *credentials)

    assert isinstance(error, Unauthenticated)
    assert reason == error.reason
    assert advice in error.message


def test_hashes_that_begin_alike_are_told_apart(clock: Clock) -> None:
    """What chooses whom to compare with decides nothing."""
    wanted = hash_token(TOKEN)
    near = Client(tenant="near", hashes=(wanted[:8] + bytes(24),))
    known = client(TOKEN)

    assert known is Clients([near, known, near], clock=clock).identify([f"Bearer {TOKEN}"])
    assert "CREDENTIALS_INVALID" == refused(Clients([near], clock=clock), f"Bearer {TOKEN}").reason


def test_a_token_expires(clock: Clock) -> None:
    """At its moment, not before."""
    clients = Clients([client(TOKEN, expires_at=NOON + timedelta(seconds=60))], clock=clock)
    clock.tick(59)
    clients.admit([f"Bearer {TOKEN}"], Scope.READ)
    clock.tick(1)
    error = refused(clients, f"Bearer {TOKEN}")

    assert ("CREDENTIALS_EXPIRED", "UNAUTHENTICATED") == (error.reason, error.code)
    assert "expired at 2026-03-01T12:01:00Z" in error.message


@pytest.mark.parametrize("had", [["start"], ["read"], ["admin"], ["read", "operator"], ["start", "read", "admin"]])
@pytest.mark.parametrize("scope", Scope)
def test_no_scope_includes_another(clock: Clock, had: list[str], scope: Scope) -> None:
    """Each is there or it is not; the one that lacks is named."""
    clients = Clients([client(TOKEN, scopes=had)], clock=clock)
    if scope in had:
        clients.admit([f"Bearer {TOKEN}"], scope)
        return
    error = refused(clients, f"Bearer {TOKEN}", scope=scope)

    assert isinstance(error, NotAllowed)
    assert {"scope": scope} == error.metadata
    assert f"the scope `{scope}`" in error.message


def test_without_clients_everybody_is_the_default_tenant(clock: Clock) -> None:
    """With or without a credential, and with every scope but the one that spans tenants."""
    clients = Clients(clock=clock)

    assert ANYBODY is clients.admit([], Scope.ADMIN)
    assert ANYBODY is clients.admit(["Bearer whatever"], Scope.START)
    assert {Scope.OPERATOR} == set(Scope) - ANYBODY.scopes


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        ([client(TOKEN)], None),
        ([client(TOKEN, expires_at=NOON + timedelta(hours=1))], None),
        ([client(OTHER)], "CREDENTIALS_INVALID"),
        ([client(TOKEN, expires_at=NOON)], "CREDENTIALS_EXPIRED"),
        ([client(TOKEN, scopes=["start"])], "NOT_ALLOWED"),
        ([client(TOKEN, tenant="other")], "CREDENTIALS_INVALID"),
        ([client(TOKEN, scopes=["read", "operator"])], "CREDENTIALS_INVALID"),
        ([], "CREDENTIALS_INVALID"),
    ],
    ids=["same", "later expiry", "other token", "expired", "fewer scopes", "other tenant", "spans tenants", "none"],
)
def test_a_stream_goes_on_as_long_as_its_caller_is_who_it_was(
    clock: Clock, after: list[Client], reason: str | None
) -> None:
    """Whatever the clients are replaced by."""
    clients = Clients([client(TOKEN)], clock=clock)
    ended = clients.lasting([f"Bearer {TOKEN}"], Scope.READ)
    assert ended() is None
    clients.replace(after, NO_LIMITS)
    errors = [ended(), ended()]

    assert [reason] * 2 == [error and error.reason for error in errors]


def test_a_stream_ends_when_its_credential_expires_later_than_it_did_first(clock: Clock) -> None:
    """The moment is that of the clients that there are now."""
    clients = Clients([client(TOKEN, expires_at=NOON + timedelta(seconds=10))], clock=clock)
    ended = clients.lasting([f"Bearer {TOKEN}"], Scope.READ)
    clients.replace([client(TOKEN, expires_at=NOON + timedelta(seconds=20))], NO_LIMITS)
    clock.tick(15)
    assert ended() is None
    clock.tick(5)
    error = ended()

    assert error is not None
    assert "CREDENTIALS_EXPIRED" == error.reason


def test_a_stream_of_anybody_ends_when_there_are_clients(clock: Clock) -> None:
    """It has no credential."""
    clients = Clients(clock=clock)
    ended = clients.lasting([], Scope.READ)
    assert ended() is None
    clients.replace([client(TOKEN)], NO_LIMITS)
    error = ended()

    assert error is not None
    assert "CREDENTIALS_MISSING" == error.reason


def test_limits_are_the_tenants(clock: Clock) -> None:
    """Whichever of its entries says them; what none says is what everybody has."""
    clients = Clients(
        [client(TOKEN), client(OTHER, limits=Limits(streams=3)), client("x", tenant="b")],
        clock=clock,
        limits=Limits(starts_per_second=7.0, streams=20),
    )

    assert Limits(starts_per_second=7.0, streams=3) == clients.limits("clinic")
    assert Limits(starts_per_second=7.0, streams=20) == clients.limits("b") == clients.limits("nobody")


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], False),
        ([("a", None)], False),
        ([("a", None), ("a", {"it"})], False),
        ([("a", {"it"}), ("b", {"other"})], False),
        ([("a", {"it"}), ("b", set())], False),
        ([("a", None), ("b", None)], True),
        ([("a", {"it"}), ("b", {"it"})], True),
        ([("a", {"it"}), ("b", None)], True),
    ],
    ids=str,
)
def test_f2_whether_tenants_share_a_backend(
    clock: Clock,
    entries: list[tuple[str, set[str] | None]],
    expected: bool,  # noqa: FBT001
) -> None:
    """Counts tenants that may start something there, not tokens, and not those who only read."""
    several = [client(tenant=tenant, backends=None if names is None else frozenset(names)) for tenant, names in entries]
    clients = Clients([*several, client(tenant="reader", scopes=["read"])], clock=clock)

    assert expected is clients.are_several("it")


def test_tokens_are_long_and_never_the_same() -> None:
    """Whoever tries a billion a second has tried nothing."""
    made = {make_token() for _ in range(100)}

    assert 100 == len(made)
    assert {True} == {token.startswith("sf_") and len(token) == 46 for token in made}


def test_nothing_shows_a_hash() -> None:
    """A client that is logged says whose it is, and not how to find its token."""
    assert "\\x" not in repr(client(TOKEN))
    assert hash_token(TOKEN).hex() not in repr(client(TOKEN))
