"""A version with another schema, beside gateways of an older one: what it does, and for what it waits.

The newer version is this one with a step more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from gateway.errors import Unavailable
from gateway.store import Life
from gateway.store.engine import StoreInUse, StoreUnusable
from gateway.store.postgres import migrations
from gateway.store.postgres.engine import open_postgres
from gateway.store.postgres.migrations import STEPS, Step
from gateway.store.postgres.trying import tried
from tests.builders import TENANT, create
from tests.places import FIRST, Schemas

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.builders import Clock
    from tests.places import EngineStore

ADDS = Step("create table later (id text primary key); alter table attempts add column later text", only_adds=True)
CHANGES = Step("drop index attempts_sent")


@pytest.fixture
def engine() -> str:
    """Names the engine of the stores of this test."""
    return "postgres"


def done(url: str) -> list[str]:
    """Reads the steps that a database has."""
    with psycopg.connect(url, autocommit=True) as conn:
        return [name for (name,) in conn.execute("select name from steps order by name")]


async def test_a_step_that_only_adds_is_done_beside_older_gateways(
    reopen: Callable[..., EngineStore], place: Schemas, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go on, with the newer one and without it, and start again."""
    older = reopen()
    with monkeypatch.context() as newer_version:
        newer_version.setattr(migrations, "STEPS", {**STEPS, "p999_later": ADDS})
        newer = reopen()
        shared = await create(older)
    await newer.close()
    await older.close()
    again = reopen()

    assert [*STEPS, "p999_later"] == done(place.url(FIRST))
    assert await again.get(TENANT, shared.asked.id) is not None
    assert shared.revision + 1 == (await create(again)).revision
    tried(place.url(FIRST), clock())  # nor does `check` refuse it


async def test_a_step_that_changes_waits_for_older_gateways(
    reopen: Callable[..., EngineStore], place: Schemas, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says for which; a step beside it that only adds is not done either. Older ones are refused from then on."""
    older, url = reopen(), place.url(FIRST)
    await older.renew(Life(at="gateway-1.example:50051", backends=frozenset()))
    with monkeypatch.context() as newer_version:
        newer_version.setattr(migrations, "STEPS", {**STEPS, "p998_more": ADDS, "p999_later": CHANGES})
        with pytest.raises(StoreInUse) as refused:
            open_postgres(url, clock)
        with pytest.raises(StoreInUse) as foretold:
            tried(url, clock())
        before, start = done(url), await create(older)
        await older.close()
        await reopen().close()

    assert list(STEPS) == before
    assert (
        "in a way that older gateways do not know (p999_later), and 1 of those may still run: on"
        " gateway-1.example:50051. Stop them, then start this version." in str(refused.value)
    )
    assert str(refused.value).split(" counts ")[0] == str(foretold.value).split(" counts ")[0]
    assert [*STEPS, "p998_more", "p999_later"] == done(url)
    assert 1 == start.revision
    with pytest.raises(StoreUnusable, match="it has p999_later"):
        open_postgres(url, clock)


async def test_a_gateway_that_stood_still_during_a_change_records_nothing_more(
    reopen: Callable[..., EngineStore], place: Schemas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease is over, so nobody waits for it; what it would write then is for a schema that is gone."""
    older = reopen()
    await create(older)
    with psycopg.connect(place.url(FIRST), autocommit=True) as conn:
        conn.execute("update leases set until = 0")
    monkeypatch.setattr(migrations, "STEPS", {**STEPS, "p999_later": CHANGES})
    newer = reopen()

    with pytest.raises(Unavailable, match="Restart this one"):
        await create(older)
    assert not older.is_well
    assert 2 == (await create(newer)).revision


async def test_what_reads_a_table_for_long_holds_no_gateway_up(
    reopen: Callable[..., EngineStore], place: Schemas, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that would wait for pg_dump is given up soon, for those that live would wait behind it."""
    older, url = reopen(), place.url(FIRST)
    monkeypatch.setattr(migrations, "STEPS", {**STEPS, "p999_later": ADDS})
    monkeypatch.setattr(migrations, "HELD_UP", "50ms")
    with psycopg.connect(url) as conn:
        conn.execute("lock table attempts in access share mode")
        with pytest.raises(StoreUnusable, match=r"\(p999_later\) while something else reads them, such as pg_dump"):
            open_postgres(url, clock)
        conn.rollback()

    assert list(STEPS) == done(url)
    assert 1 == (await create(older)).revision
