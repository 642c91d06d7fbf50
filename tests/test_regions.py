"""A region of Twilio keeps its own executions, so what was sent in one is not looked for in another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.adapters.base import Accepted, Reply, Sweep
from gateway.config.settings import BackendSettings
from gateway.errors import Reason
from gateway.lanes.lanes import make_backend
from gateway.model import Identity
from gateway.store import Terms
from tests.builders import NOON, again, claim_ids, create, unsure, warned
from tests.cases.twilio import ACCOUNT, DISPATCH, ONE_FLOW, ROW
from tests.contract.test_adapters import drive

if TYPE_CHECKING:
    from gateway.adapters.base import Adapter
    from gateway.store import Store

TWILIO = "https://studio.twilio.com"
IRELAND = "https://studio.dublin.ie1.twilio.com"
STUDIO = "studio"


def adapter_at(url: str) -> Adapter:
    """Makes the adapter of a backend that is configured so."""
    credentials = {"account_sid": ACCOUNT, "auth_token": "s3cr3t", "sender": "+18007654321"}
    return make_backend(STUDIO, BackendSettings.model_validate({"kind": "twilio", "url": url, **credentials})).adapter


def identity_at(url: str) -> Identity:
    """Returns whose account one says that it is."""
    _, identity = drive(adapter_at(url).identify(), [Reply(status=200, body=ONE_FLOW)])
    assert isinstance(identity, Identity)
    return identity


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (TWILIO, ACCOUNT),
        ("https://studio.us1.twilio.com", ACCOUNT),
        ("https://studio.ashburn.us1.twilio.com", ACCOUNT),
        ("https://twilio-proxy.ie1.example.com", ACCOUNT),
        ("http://127.0.0.1:4010", ACCOUNT),
        (IRELAND, f"{ACCOUNT}/ie1"),
        ("https://Studio.Dublin.IE1.Twilio.com.:443/", f"{ACCOUNT}/ie1"),
        ("https://studio.ie1.twilio.com", f"{ACCOUNT}/ie1"),
        ("https://studio.sydney.au1.twilio.com", f"{ACCOUNT}/au1"),
    ],
)
def test_a2_an_account_is_known_with_its_region(url: str, expected: str) -> None:
    """By one name in all that it shows; in the region that is Twilio's first, by the name that it always had."""
    adapter = adapter_at(url)
    _, sent = drive(adapter.send(DISPATCH), [Reply(status=201, body=ROW)])
    _, listed = drive(adapter.sweep(None, ()), [])

    assert isinstance(sent, Accepted)
    assert isinstance(listed, Sweep)
    assert [expected] * 3 == [identity_at(url).account, sent.account, listed.account]
    assert frozenset() == identity_at(url).aliases


async def test_a2_what_is_in_doubt_in_one_region_is_held_in_another(store: Store) -> None:
    """It is neither looked for nor sent there, and says why; back in its region it is looked for again."""
    here, there = identity_at(TWILIO), identity_at(IRELAND)
    in_doubt, waits = [await create(store, backend=STUDIO, terms=Terms(account=here.account)) for _ in range(2)]
    number = await store.begin_attempt((await claim_ids(store, 1, STUDIO))[0], account=here.account, since=NOON)
    assert number is not None
    await store.record(f"{in_doubt.asked.id}-1", number, unsure())

    held = await store.hold(STUDIO, there)
    sought = await store.sought(STUDIO, there.account)
    told = [warned(await again(store, each)) for each in (in_doubt, waits)]

    assert (2, (), []) == (held, sought, await claim_ids(store, 50, STUDIO))
    assert [{Reason.BACKEND_CHANGED: {"account": ACCOUNT}}] * 2 == told

    assert 0 == await store.hold(STUDIO, here)
    assert [f"{in_doubt.asked.id}-1"] == [each.id for each in await store.sought(STUDIO, here.account)]
    assert [f"{waits.asked.id}-1"] == await claim_ids(store, 50, STUDIO)
