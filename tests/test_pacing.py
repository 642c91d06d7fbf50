from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.lanes.pacing import LONGEST_PAUSE, STUMBLES, Circuit, HealthState, Limiter, Quota
from gateway.model import Notice
from tests.fakes import Ticks, settled

NOTICE = Notice(reason="BACKEND_SUSPENDED", message="ask its support")
STEPS = st.lists(st.tuples(st.booleans(), st.floats(0.0, 3.0)), min_size=1, max_size=60)


@given(rate=st.integers(1, 12), steps=STEPS)
@settings(deadline=None, max_examples=150)
def test_no_window_ever_holds_more_than_the_rate(rate: int, steps: list[tuple[bool, float]]) -> None:
    """Whatever comes when: in no span of `seconds` do more than `count` go, and everything goes in the end."""

    async def play() -> list[float]:
        ticks, went = Ticks(), list[float]()
        limiter = Limiter(rate, 5.0, clock=ticks, sleep=ticks.sleep)

        async def go(*, sends: bool) -> None:
            await limiter.acquire(sends=sends)
            went.append(ticks())

        tasks = []
        for sends, pause in steps:
            tasks.append(asyncio.create_task(go(sends=sends)))
            await ticks.pass_by(pause)
        await ticks.pass_by(5.0 * (len(steps) + 1) * 2)
        assert all(task.done() for task in tasks)
        return went

    went = asyncio.run(play())
    for first in range(len(went) - rate):
        assert went[first + rate] - went[first] >= 5.0 - 1e-6


@pytest.mark.parametrize("rate", [2, 3, 5, 10, 100])
async def test_reads_keep_their_share_while_sends_wait(rate: int) -> None:
    """However many sends wait, a fifth of the rate, and at least one request, is left for reading."""
    ticks = Ticks()
    limiter = Limiter(rate, 60.0, clock=ticks, sleep=ticks.sleep)
    sends = [asyncio.create_task(limiter.acquire(sends=True)) for _ in range(3 * rate)]
    shares = []
    for _ in range(3):
        await settled(10 * rate)
        share = limiter.left(sends=False)
        for _ in range(share):
            await limiter.acquire(sends=False)
        shares.append(share)
        await ticks.pass_by(60.0)
    for task in sends:
        task.cancel()

    assert [max(1, rate // 5)] * 3 == shares


async def test_one_request_at_a_time_is_a_rate_too() -> None:
    """A rate of one is shared by turns: neither sends nor reads starve."""
    ticks = Ticks()
    limiter = Limiter(1, 1.0, clock=ticks, sleep=ticks.sleep)
    order: list[str] = []

    async def go(name: str, *, sends: bool) -> None:
        await limiter.acquire(sends=sends)
        order.append(name)

    tasks = [asyncio.create_task(go("send", sends=True)) for _ in range(6)]
    tasks += [asyncio.create_task(go("read", sends=False)) for _ in range(2)]
    await ticks.pass_by(20.0)

    assert 8 == len(order)
    assert all(task.done() for task in tasks)


async def test_who_came_first_goes_first() -> None:
    """Sends wait in line, and one that gives up does not hold up those behind it."""
    ticks = Ticks()
    limiter = Limiter(1, 10.0, clock=ticks, sleep=ticks.sleep)
    order: list[int] = []

    async def go(number: int) -> None:
        await limiter.acquire(sends=True)
        order.append(number)

    tasks = [asyncio.create_task(go(number)) for number in range(6)]
    await settled()
    tasks[1].cancel()
    tasks[3].cancel()
    await ticks.pass_by(60.0)

    assert [0, 2, 4, 5] == order


async def test_how_long_to_wait_is_told() -> None:
    """Until what is in the way is out of the window, for a send a send of the whole share; nothing while one may go."""
    ticks = Ticks()
    limiter = Limiter(5, 60.0, clock=ticks)
    waits = [limiter.wait_seconds(sends=True)]
    await limiter.acquire(sends=False)
    for _ in range(4):
        ticks.tick(10)
        await limiter.acquire(sends=True)
    waits += [limiter.wait_seconds(sends=True), limiter.wait_seconds(sends=False)]
    ticks.tick(20)
    waits += [limiter.wait_seconds(sends=True), limiter.wait_seconds(sends=False)]

    assert [0.0, 30.0, 20.0, 10.0, 0.0] == waits
    assert 1 == limiter.left(sends=False)


# --- a window that tenants share


def shared(count: int, ticks: Ticks, *, seconds: float = 3600.0, is_shared: bool = True) -> Limiter:
    """Makes a limiter that several tenants use; four fifths of `count` are for sends."""
    return Limiter(count, seconds, clock=ticks, is_shared=lambda: is_shared)


def spend(limiter: Limiter, tenant: str) -> int:
    """Sends for a tenant until it may not; returns how many went."""
    sent = 0
    while limiter.take(sends=True, tenant=tenant):
        sent += 1
    return sent


@pytest.mark.parametrize(
    ("ages", "waiting", "expected"),
    [
        ([], 0, 0.0),
        ([], 400, 720.0),  # they go at once, and the rate has to hold for longer than that
        ([25] * 2_000, 423, 3_575.0),  # nothing goes before the oldest is an hour old
        ([25] * 2_000, 2_001, 7_175.0),
        ([1_800] * 1_000 + [25] * 1_000, 1_001, 3_575.0),
    ],
)
def test_f2_a_window_that_is_used_up_is_in_the_estimate(ages: list[float], waiting: int, expected: float) -> None:
    """Of 2,500 in an hour 2,000 are for sending."""
    ticks = Ticks()
    limiter = Limiter(2_500, 3_600.0, clock=ticks)
    for age in ages:
        ticks.now = -age
        assert limiter.take(sends=True)
    ticks.now = 0.0

    assert expected == pytest.approx(limiter.drain_seconds(waiting))


def test_f2_the_estimate_knows_of_a_greedy_tenant_and_of_reads() -> None:
    """What it may not have of the window is not free to it."""
    ticks = Ticks()
    shared = Limiter(10, 60.0, clock=ticks, is_shared=lambda: True)
    while shared.take(sends=True, tenant="loud"):
        pass
    read = Limiter(10, 60.0, clock=ticks)
    while read.take(sends=False):
        pass

    assert shared.left(sends=True)
    assert [60.0, 67.5] == [shared.drain_seconds(1), read.drain_seconds(1)]


def test_f2_one_tenant_leaves_a_fifth_of_a_long_window() -> None:
    """Those who have taken little of it can still send, one after another, whoever came before them."""
    limiter = shared(2500, Ticks())
    went = {tenant: spend(limiter, tenant) for tenant in ("loud", "quiet", "third")}

    assert {"loud": 1600, "quiet": 320, "third": 64} == went


@pytest.mark.parametrize("tenants", [1, 2, 3, 10, 100])
def test_f2_however_many_are_loud_something_is_left_for_a_newcomer(tenants: int) -> None:
    """They take turns until none of them may send."""
    limiter = shared(2500, Ticks())
    going = [f"loud{number}" for number in range(tenants)]
    while going:
        going = [each for each in going if limiter.take(sends=True, tenant=each)]

    assert limiter.left(sends=True) >= 2000 // (4 * tenants + 1) - tenants
    assert limiter.take(sends=True, tenant="quiet")


@pytest.mark.parametrize(
    ("is_shared", "seconds"), [(False, 3600.0), (True, 1.0)], ids=["one tenant only", "a short window"]
)
def test_f2_else_the_whole_rate_is_used(is_shared: bool, seconds: float) -> None:  # noqa: FBT001
    """Nothing is kept for tenants that do not exist, or of a window that is over at once."""
    limiter = shared(2500, Ticks(), seconds=seconds, is_shared=is_shared)

    assert 2000 == spend(limiter, "loud")
    assert {} == limiter.limits()


@pytest.mark.parametrize("count", range(1, 12))
def test_f2_no_rate_is_too_small_for_one_tenant(count: int) -> None:
    """A fifth of a few is none: then what is left is not kept."""
    sends = max(1, count - max(1, count // 5))
    limiter = shared(count, Ticks())

    assert sends - sends // 5 == spend(limiter, "loud")


def test_f2_what_a_tenant_may_still_send_is_what_it_then_can() -> None:
    """For every state of the window: `left` and `limits` promise no more and no less than `take` allows."""
    for already in range(0, 80, 7):
        for others in range(0, 70, 9):
            limiter = shared(100, Ticks())
            for tenant, count in (("loud", already), ("other", others)):
                for _ in range(count):
                    limiter.take(sends=True, tenant=tenant)
            most = limiter.left(sends=True, tenant="loud")
            limits = limiter.limits()

            assert most == limits.get("loud", limiter.left(sends=True)) or not already
            assert most == spend(limiter, "loud")


def test_f2_who_waits_for_its_share_knows_until_when() -> None:
    """Until so much has left the window that it may send, and then it may."""
    ticks = Ticks()
    limiter = shared(50, ticks, seconds=100.0)
    while limiter.take(sends=True, tenant="loud"):
        ticks.tick(1)
    waits = [limiter.wait_seconds(sends=True, tenant=each) for each in ("loud", "quiet")]
    for _ in range(5):
        limiter.take(sends=True, tenant="quiet")
    waits.append(limiter.wait_seconds(sends=True, tenant="loud"))
    until = limiter.until_tenant()
    ticks.tick(until - 0.5)
    before = limiter.take(sends=True, tenant="loud")
    ticks.tick(0.5)

    assert [68.0, 0.0, 72.0, 72.0] == [*waits, until]
    assert (False, True) == (before, limiter.take(sends=True, tenant="loud"))


# --- the circuit


def circuit(ticks: Ticks, jitter: float = 1.0) -> Circuit:
    """Makes a circuit whose jitter is known."""
    return Circuit(clock=ticks, jitter=lambda: jitter)


def test_pauses_grow_and_are_bounded() -> None:
    """Each outage in a row waits twice as long as the one before, up to a minute, less a random part of half."""
    for jitter, expected in ((1.0, [1, 2, 4, 8, 16, 32, 60, 60]), (0.0, [0.5, 1, 2, 4, 8, 16, 30, 30])):
        ticks = Ticks()
        lane, pauses = circuit(ticks, jitter), []
        for _ in range(8):
            lane.unreachable("refused")
            pauses.append(round(lane.wait_seconds(), 9))
            ticks.tick(lane.wait_seconds())

        assert expected == pauses
        assert max(pauses) <= LONGEST_PAUSE


def test_one_outage_counts_once() -> None:
    """However many requests were in flight when it began."""
    ticks = Ticks()
    lane = circuit(ticks)
    for _ in range(50):
        lane.unreachable("refused")
    first = lane.wait_seconds()
    ticks.tick(first)
    lane.unreachable("refused")

    assert (1.0, 2.0) == (first, lane.wait_seconds())


def test_only_an_answer_after_the_pause_ends_an_outage() -> None:
    """An answer to what was asked before says nothing of now."""
    ticks = Ticks()
    lane = circuit(ticks)
    lane.unreachable("refused")
    lane.answered()
    during = (lane.state, lane.wait_seconds())
    ticks.tick(1)
    lane.answered()
    after = (lane.state, lane.detail, lane.wait_seconds())
    lane.unreachable("refused")

    assert (HealthState.UNREACHABLE, 1.0) == during
    assert (HealthState.OK, "", 0.0) == after
    assert 1.0 == lane.wait_seconds()  # it begins anew


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [((7.0,), 7.0), ((7.0, 3.0), 7.0), ((3.0, 7.0), 7.0), ((None,), 1.0), ((0.0,), 1.0), ((90.0,), 90.0)],
    ids=str,
)
def test_a_backend_that_asks_to_wait_is_obeyed(seconds: tuple[float | None, ...], expected: float) -> None:
    """For the longest time it named; one that names none, or no time at all, is backed off from."""
    lane = circuit(Ticks())
    for each in seconds:
        lane.throttled(each)

    assert (HealthState.THROTTLED, expected) == (lane.state, lane.wait_seconds())


def test_a_backend_that_asks_for_no_wait_again_and_again_is_not_hammered() -> None:
    """`Retry-After: 0` is what a server sends that rounds half a second down."""
    ticks = Ticks()
    lane, pauses = circuit(ticks), []
    for _ in range(4):
        lane.throttled(0.0)
        pauses.append(lane.wait_seconds())
        ticks.tick(lane.wait_seconds())

    assert [1.0, 2.0, 4.0, 8.0] == pauses


def test_a_blocked_account_is_probed_slowly_and_says_why() -> None:
    """The notice stays until it is answered properly; that it can be read says nothing of sending."""
    ticks = Ticks()
    lane = circuit(ticks)
    lane.blocked(NOTICE)
    blocked = (lane.state, lane.notice, lane.wait_seconds())
    ticks.tick(31)
    lane.readable()
    readable = (lane.state, lane.notice)
    lane.answered()

    assert (HealthState.BLOCKED, NOTICE, 30.0) == blocked
    assert (HealthState.BLOCKED, NOTICE) == readable
    assert (HealthState.OK, None) == (lane.state, lane.notice)


def test_an_account_that_can_be_read_again_is_not_refused_any_more() -> None:
    """Credentials that were put right are noticed by the next sweep, though nothing is to be sent."""
    ticks = Ticks()
    lane = circuit(ticks)
    lane.blocked(Notice(reason="BACKEND_CREDENTIALS_REJECTED", message="m"))
    ticks.tick(31)
    lane.readable()

    assert (HealthState.OK, None) == (lane.state, lane.notice)


def test_unanswered_sends_of_two_tenants_open_the_circuit() -> None:
    """Two may be chance; the third makes the lane wait, and so does every further one until there is an answer."""
    ticks = Ticks()
    lane, waits = circuit(ticks), []
    for number in range(STUMBLES + 1):
        ticks.tick(lane.wait_seconds())
        lane.stumbled("HTTP 502", f"s-{number}", "ab"[number % 2])
        waits.append(lane.wait_seconds())
    ticks.tick(lane.wait_seconds())
    lane.answered("a")
    lane.stumbled("HTTP 502", "s-1", "b")

    assert [0.0, 0.0, 1.0, 2.0] == waits
    assert 0.0 == lane.wait_seconds()


def test_b4_unanswered_sends_of_one_tenant_hold_up_this_tenant_alone() -> None:
    """It waits longer each time and sends one at a time; the lane is shown as it is and goes on for all others."""
    ticks = Ticks()
    lane, waits, others = circuit(ticks), [], []
    for number in range(STUMBLES + 3):
        ticks.tick(lane.wait_seconds("a"))
        lane.stumbled("HTTP 500", f"s-{number}", "a")
        waits.append(lane.wait_seconds("a"))
        others.append((lane.wait_seconds(), lane.wait_seconds("b"), lane.is_probing))
    shown = lane.state
    resting, until = lane.limits(()), lane.until_probe()
    lane.answered("b")
    still = lane.limits(())
    ticks.tick(until)
    probing, sent = lane.limits(()), lane.limits({"a"})
    lane.answered("a")

    assert [0.0, 0.0, 1.0, 2.0, 4.0, 8.0] == waits
    assert [(0.0, 0.0, False)] * (STUMBLES + 3) == others
    assert (HealthState.UNREACHABLE, 8.0) == (shown, until)
    assert [{"a": 0}, {"a": 0}, {"a": 1}, {"a": 0}] == [resting, still, probing, sent]
    assert ({}, math.inf, HealthState.OK) == (lane.limits(()), lane.until_probe(), lane.state)


def test_stumbles_count_distinct_dispatches() -> None:
    """One that its backend cannot take, sent again and again, holds nobody up; two of them neither."""
    ticks = Ticks()
    lane, waits = circuit(ticks), []
    for dispatch_id in ("poison", "other") * STUMBLES:
        lane.stumbled("HTTP 500", dispatch_id, dispatch_id)
        waits.append((lane.wait_seconds(), lane.is_probing))
    lane.stumbled("HTTP 500", "third", "third")
    opened = lane.wait_seconds()
    ticks.tick(opened)
    lane.stumbled("HTTP 500", "poison", "poison")  # from now on it is the backend: the probe counts, whatever it is of

    assert [(0.0, False)] * 2 * STUMBLES == waits
    assert (1.0, 2.0) == (opened, lane.wait_seconds())
    assert lane.is_probing


def test_a_backend_that_stumbles_is_probed_one_at_a_time() -> None:
    """After the pause one send goes, and the others follow when it was answered."""
    ticks = Ticks()
    lane = circuit(ticks)
    probing = [lane.is_probing]
    for number in range(STUMBLES):
        lane.stumbled("HTTP 502", f"s-{number}", "ab"[number % 2])
    probing.append(lane.is_probing)
    ticks.tick(lane.wait_seconds())
    lane.readable()  # lists are served although starts are not
    probing.append(lane.is_probing)
    lane.answered()
    probing.append(lane.is_probing)

    assert [False, True, True, False] == probing


# --- what a tenant may start in a second


@pytest.mark.parametrize(
    ("rate", "at_once", "wait"), [(3.0, 3, 1 / 3), (1.0, 1, 1.0), (0.5, 1, 2.0), (2.5, 2, 0.2), (1000.0, 1000, 0.001)]
)
def test_a_second_may_be_used_at_once(rate: float, at_once: int, wait: float) -> None:
    """Then one after the other, as they come in again."""
    ticks = Ticks()
    quota = Quota(clock=ticks)
    assert [0.0] * at_once == [quota.take("a", rate) for _ in range(at_once)]
    assert pytest.approx(wait) == quota.take("a", rate)
    ticks.tick(wait / 2)
    assert pytest.approx(wait / 2) == quota.take("a", rate)
    ticks.tick(wait / 2)

    assert 0.0 == quota.take("a", rate)
    assert quota.take("a", rate) > 0


def test_a_quota_is_a_tenants_own_and_is_not_saved_up() -> None:
    """Who was silent for an hour may start no more at once than who was for a second."""
    ticks = Ticks()
    quota = Quota(clock=ticks)
    assert [0.0, 0.0] == [quota.take("a", 2.0) for _ in range(2)]
    assert 0.0 == quota.take("b", 2.0)
    ticks.tick(3600)

    assert [0.0, 0.0, 0.5] == pytest.approx([quota.take("a", 2.0) for _ in range(3)])


def test_what_was_given_back_can_be_taken() -> None:
    """A start that was there already does not count."""
    quota = Quota(clock=Ticks())
    assert 0.0 == quota.take("a", 1.0)
    quota.give_back("a", 1.0)

    assert 0.0 == quota.take("a", 1.0)
    assert quota.take("a", 1.0) > 0
