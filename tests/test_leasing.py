"""Which lanes a gateway works beside others: what it takes, what it gives up and when, and how long it believes it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from gateway.errors import Reason, Unavailable
from gateway.lanes.leasing import Lease, Leases, share
from gateway.store import LANE, Held, Life

if TYPE_CHECKING:
    from collections.abc import Collection

ME, OTHER, THIRD = 1, 2, 3
LASTS = 8.0


def life(*backends: str) -> Life:
    """What a gateway says of itself."""
    return Life(at="there:1", backends=frozenset(backends))


@dataclass
class Rows:
    """A store of leases, as all gateways see it."""

    lease: timedelta | None = timedelta(seconds=LASTS)
    lives: dict[int, Life] = field(default_factory=dict)
    owners: dict[tuple[str, str], int | None] = field(default_factory=dict)
    left: set[str] = field(default_factory=set)  # backends of which something is not over
    is_down: bool = False
    renewals: int = 0

    async def backends(self) -> frozenset[str]:
        """Names those."""
        return frozenset(self.left)

    async def standing(self) -> Held:
        """Reads the rows."""
        return Held(me=ME, lives=dict(self.lives), owners=dict(self.owners))

    async def take(self, kind: str, name: str, *, runs_on: timedelta) -> int | None:
        """Takes what nobody has."""
        assert runs_on == timedelta(seconds=5)
        if self.owners.get((kind, name)) not in (None, ME):
            return None
        self.owners[kind, name] = ME
        return 1

    async def renew(self, life: Life) -> frozenset[tuple[str, str]]:
        """Says what is ours."""
        if self.is_down:
            raise Unavailable(reason=Reason.STORE_UNAVAILABLE, message="down")
        self.renewals += 1
        self.lives[ME] = life
        return frozenset(key for key, owner in self.owners.items() if owner == ME)

    async def give_up(self, kind: str, names: Collection[str]) -> None:
        """Has nobody have them."""
        for name in names:
            self.owners[kind, name] = None


@dataclass
class Gateway:
    """A gateway with a clock that moves when it is told to; `works` are the lanes that it works, with their leases."""

    rows: Rows
    now: float = 1_000.0
    works: dict[str, Lease] = field(default_factory=dict)
    may_end: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        """Makes its leases."""
        self.may_end.set()
        self.leases = Leases(
            self.rows,
            life("a", "b"),
            dict.fromkeys("ab", timedelta(seconds=5)),
            begin=self._begin,
            end=self._end,
            monotonic=lambda: self.now,
        )

    async def _begin(self, name: str, lease: Lease) -> None:
        self.works[name] = lease

    async def _end(self, name: str) -> None:
        await self.may_end.wait()
        self.works.pop(name, None)

    async def look(self, seconds: float = 1.0) -> None:
        """Lets time pass, then looks."""
        self.now += seconds
        await self.leases.look()
        await asyncio.sleep(0)

    async def ends(self) -> None:
        """Lets what is being given up be given up."""
        self.may_end.set()
        for _ in range(5):
            await asyncio.sleep(0)


LANES = "abcd"


@pytest.mark.parametrize(
    ("lives", "owners", "whose"),
    [
        pytest.param({ME: "abcd"}, {}, "1111", id="alone"),
        pytest.param({ME: "abcd", OTHER: "abcd"}, {}, "1212", id="two"),
        pytest.param({ME: "abcd", OTHER: "abcd"}, {"a": 2, "b": 2}, "2211", id="who has goes on"),
        pytest.param({ME: "abcd", OTHER: "abcd"}, dict.fromkeys("abcd", 2), "2211", id="up to its share"),
        pytest.param({ME: "abcd", OTHER: "abcd"}, {"a": 9, "b": 9}, "1212", id="who is gone has nothing"),
        pytest.param({ME: "abcd", OTHER: "ab"}, {}, "1211", id="only who has the backend"),
        pytest.param({ME: "abcd", OTHER: ""}, {"a": 2}, "1111", id="who drains leaves what it has"),
        pytest.param({1: "abcd", 2: "abcd", 3: "abcd"}, dict.fromkeys("abcd", 3), "3312", id="three"),
    ],
)
def test_lanes_are_shared(lives: dict[int, str], owners: dict[str, int], whose: str) -> None:
    """The same at every gateway, whoever works it out."""
    said = {number: life(*names) for number, names in lives.items()}
    rows = {(LANE, name): owner for name, owner in owners.items()}
    for me in lives:
        found = share(Held(me=me, lives=said, owners={**rows}), said[me])
        assert whose == "".join(str(found[name]) for name in LANES)


async def test_one_that_is_alone_has_everything() -> None:
    """From its first look on, and what is done for all backends."""
    gateway = Gateway(Rows())
    await gateway.look()

    assert {"a", "b"} == {*gateway.works}
    assert gateway.leases.has_everything()
    assert "" == gateway.leases.elsewhere("a")


async def test_a_lane_of_another_is_taken_when_nobody_has_it() -> None:
    """Until then it says who works it, or that nobody does."""
    rows = Rows(lives={OTHER: life("a", "b")}, owners={(LANE, "a"): OTHER, (LANE, "b"): OTHER})
    gateway = Gateway(rows)
    await gateway.look()
    before = {*gateway.works}, gateway.leases.elsewhere("a")
    rows.owners = dict.fromkeys(rows.owners)
    rows.lives.pop(OTHER)
    said = gateway.leases.elsewhere("a")
    await gateway.look()

    assert (set(), True) == (before[0], "listens on there:1" in before[1])
    assert "there:1" in said
    assert {"a", "b"} == {*gateway.works}


async def test_a_lease_is_over_here_before_it_is_for_others() -> None:
    """It counts from before the renewal, and lasts no longer because the store does not answer."""
    rows = Rows()
    gateway = Gateway(rows)
    await gateway.look()
    lease = gateway.works["a"]
    left = [lease.left]
    await gateway.look(1.0)
    left.append(lease.left)
    await gateway.look(1.0)
    left.append(lease.left)
    rows.is_down = True
    with pytest.raises(Unavailable):
        await gateway.look(7.0)
    left.append(lease.left)
    with pytest.raises(Unavailable):
        await gateway.look(2.0)
    left.append(lease.left)

    assert [8.0, 7.0, 8.0, 1.0, -1.0] == left
    assert 2 == rows.renewals


async def test_what_was_lost_is_ended_and_its_lease_stays_over() -> None:
    """Even where the lane is had again: what began under the first lease begins nothing under the second."""
    rows = Rows()
    gateway = Gateway(rows)
    await gateway.look()
    first = gateway.works["a"]
    rows.owners[LANE, "a"] = OTHER
    rows.lives[OTHER] = life("a", "b")
    await gateway.look(9.0)
    await gateway.ends()
    lost = first.left, {*gateway.works}
    rows.owners[LANE, "a"] = None
    rows.lives.pop(OTHER)
    await gateway.look()

    assert lost == (float("-inf"), {"b"})
    assert gateway.works["a"] is not first
    assert float("-inf") == first.left


async def test_what_is_above_the_share_is_given_up_once_the_last_answer_is_in() -> None:
    """To one that has been there for as long as a lease lasts; until then the lease is renewed."""
    rows = Rows()
    gateway = Gateway(rows)
    await gateway.look()
    rows.lives[OTHER] = life("a", "b")
    await gateway.look()
    await gateway.ends()
    at_first = {*gateway.works}
    gateway.may_end.clear()
    await gateway.look(LASTS + 1)
    await gateway.look(3.0)
    while_it_ends = rows.owners[LANE, "b"], gateway.works["b"].left
    await gateway.ends()
    await gateway.look()

    assert {"a", "b"} == at_first
    assert (ME, 8.0) == while_it_ends
    assert {"a"} == {*gateway.works}
    assert rows.owners[LANE, "b"] is None


async def test_a_draining_gateway_takes_nothing_and_leaves_all() -> None:
    """It says so before: others know that what it gives up is theirs."""
    rows = Rows()
    gateway = Gateway(rows)
    await gateway.look()
    await gateway.leases.drain()
    said = rows.lives[ME].backends, rows.owners[LANE, "a"]
    await gateway.leases.give_up()
    await gateway.look()

    assert (frozenset(), ME) == said
    assert {None} == {*rows.owners.values()}


async def test_a_lane_that_no_gateway_has_is_kept_by_one() -> None:
    """At once by one that is alone, at second sight beside others; and given up to whoever has it again."""
    rows = Rows(left={"a", "gone"})
    gateway = Gateway(rows)
    await gateway.look()
    alone = await gateway.leases.adopt(rows.left)
    rows.lives[OTHER] = life("gone")
    await gateway.look(LASTS)
    await gateway.look(LASTS)
    await gateway.ends()
    given_up = rows.owners[LANE, "gone"]
    rows.lives[OTHER] = life()
    await gateway.look()
    beside = [await gateway.leases.adopt(rows.left) for _ in range(2)]

    assert ["gone"] == alone
    assert given_up is None
    assert [[], ["gone"]] == beside


async def test_where_leases_have_no_end_they_are_taken_once() -> None:
    """Nothing is renewed, and nothing given up."""
    rows = Rows(lease=None)
    gateway = Gateway(rows)
    await gateway.leases.run()
    await gateway.leases.drain()
    await gateway.leases.give_up()

    assert {"a", "b"} == {*gateway.works}
    assert float("inf") == gateway.works["a"].left
    assert 0 == rows.renewals
    assert ME == rows.owners[LANE, "a"]
