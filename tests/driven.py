"""Everything a store does, in every way that has statements of its own: for tests of what is said to the database."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from gateway.errors import Exhausted, GatewayError
from gateway.model import Filter, FlowStart, Identity, Notice, Recipients, Resolution, State, Verdict
from gateway.store import LANE, Life, Terms
from gateway.store.expiring import Expire
from gateway.store.giving_up import TRIES
from gateway.store.sending import take_back
from gateway.store.stepping import STEP, moved
from tests.builders import (
    ACCOUNT,
    BACKEND,
    FLOW,
    TENANT,
    accepted,
    begin,
    claim_ids,
    create,
    create_or_find,
    put_off,
    run_to,
    seen,
    settle,
    singly,
    unsure,
)

if TYPE_CHECKING:
    from tests.builders import Clock

STUDIO = "twilio"  # where a recipient may have one running dispatch, and what runs can be ended
LARGE = "large"  # where nothing else is
ALONE = Terms(account=ACCOUNT, one_at_a_time=True)
HEARD = Notice(reason="STATUS_UNKNOWN", message="an unknown word")
DAY = timedelta(days=1)


@dataclass
class Driven:
    """A store that remembers which of its operations were called."""

    store: Any
    called: set[str] = field(default_factory=set)

    def __getattr__(self, name: str) -> Any:
        self.called.add(name)
        return getattr(self.store, name)


async def drive(store: Any, clock: Clock) -> None:
    """Calls every operation. What it leaves is for the next life to settle."""
    start = await record(store, clock)
    await send(store, clock, start)
    await wait_in_a_backlog(store, clock)
    await look_for(store, clock)
    await adopt(store, clock)
    await stop(store, clock)
    await read(store, start)
    await watch_over(store, clock)
    await line_up(store, clock)
    await damage(store, clock)
    await lease(store)
    await leave(store, clock)


async def record(store: Any, clock: Clock) -> FlowStart:
    """Records a start that has a twin, a large one of which most is not written out, and one that is scheduled."""
    start, _, _ = [
        await create(store, singly(150), request_id="r1", expire_at=clock() + DAY, created_at=clock()),
        await create(store, singly(150), tenant="another", created_at=clock()),
        await create(store, schedule_at=clock() + DAY, created_at=clock()),
    ]
    await store.recipients(TENANT, start.asked.id, after=None, limit=120)  # of some in a block
    assert (await create_or_find(store, request_id="r1", created_at=clock())).replayed
    assert await store.find_request(TENANT, "r1") is not None
    return start


async def send(store: Any, clock: Clock, start: FlowStart) -> None:
    """Sends some of it: accepted, put off, given back; one expires."""
    await create(store, expire_at=clock() + timedelta(seconds=1), created_at=clock())
    await run_to(store, start, accepted("x1", State.STARTED), put_off(clock() + DAY, HEARD))
    alone = await create(store, created_at=clock())
    await run_to(store, alone, put_off(clock() + DAY))
    await create(store, expire_at=clock() + timedelta(seconds=1), created_at=clock())
    clock.tick(2)
    await store.record(f"{start.asked.id}-1", 1, accepted("x1"))  # once more: it has been recorded
    await store.release(f"{start.asked.id}-3", clock())
    await store.news(BACKEND, [seen("x1", State.COMPLETED), seen("nobody's", correlation_key="nobody-1")])
    await store.sight(BACKEND, [seen("x1", None, contact_count=1)], account=ACCOUNT)
    await store.sight(BACKEND, [seen("x1", State.COMPLETED, warnings=(HEARD,))], account=ACCOUNT)
    await store.claim(BACKEND, 10)
    await store.sends(BACKEND, timedelta(minutes=1), 100)


async def wait_in_a_backlog(store: Any, clock: Clock) -> None:
    """Puts off the giving up of what waits for an account that accepts, known or not."""
    late = [
        await create(
            store, terms=Terms(account=account, give_up_after=timedelta(seconds=3)), tenant="late", created_at=clock()
        )
        for account in (ACCOUNT, ACCOUNT, "")
    ]
    taken, tried, _ = (f"{start.asked.id}-1" for start in late)
    clock.tick(2)
    for attempt in range(TRIES):
        claimed = await claim_ids(store, 100)
        if not attempt:
            await settle(store, taken, accepted("late", accepted_at=clock()))
        await settle(store, tried, put_off(clock()))
        for dispatch_id in claimed:
            await store.release(dispatch_id, clock())
    clock.tick(2)
    await store.claim(BACKEND, 10)


async def look_for(store: Any, clock: Clock) -> None:
    """Looks for what is unsure, and finds it, or proves it absent, or leaves it."""
    await create(store, singly(21), terms=ALONE, backend=STUDIO, created_at=clock())
    await create(store, singly(3), terms=ALONE, backend=STUDIO, created_at=clock())
    ids = await claim_ids(store, 20, STUDIO)
    for number, dispatch_id in enumerate(ids[:12]):
        await settle(store, dispatch_id, accepted(f"t{number}") if number < 6 else unsure())
    sought = await store.sought(STUDIO, ACCOUNT)
    await store.controls(STUDIO, ACCOUNT, clock())
    await store.running_controls(STUDIO, ACCOUNT)
    await store.unknown(STUDIO, {"t1", "t2", "nobody's"})
    for number in (1, 6):
        shown = seen(f"u{number}", State.QUEUED, correlation_key=ids[number], flow=FLOW)
        await store.sight(STUDIO, [shown], account=ACCOUNT)
    await store.absent(sought[1], on_absent=State.PENDING, pause=timedelta())
    await store.absent(sought[2], on_absent=State.UNCERTAIN, pause=timedelta())
    await store.rest(sought[3])
    await begin(store, ids[12])
    assert await store.begin_attempt(ids[13], account="other", since=clock()) is None
    for external_id in ("t1", "nobody's"):
        await store.replaceable(ids[12], external_id)
    await resolve(store, sought[2].id)


async def adopt(store: Any, clock: Clock) -> None:
    """Finds the only dispatch that waits of a start whose last block is not written out."""
    blocks = [Recipients(urns=tuple(f"tel:+1206{block:03}{each:04}" for each in range(100))) for block in range(3)]
    await create(store, blocks, backend=LARGE, created_at=clock())
    (first,) = await claim_ids(store, 1, LARGE)
    await settle(store, first, unsure())
    (sought,) = await store.sought(LARGE, ACCOUNT)
    await store.absent(sought, on_absent=State.PENDING, pause=timedelta())
    await claim_ids(store, 1, LARGE)
    await store.release(first, clock() + timedelta(seconds=1))
    await claim_ids(store, 1, LARGE)
    await store.sight(LARGE, [seen("l1", State.QUEUED, correlation_key=first, flow=FLOW)], account=ACCOUNT)


async def resolve(store: Any, dispatch_id: str) -> None:
    """Settles by an operator's word, one and all."""
    start_id, _, _ = dispatch_id.rpartition("-")
    for named in (dispatch_id, ""):
        for verdict in Verdict:
            with suppress(GatewayError):
                word = Resolution(verdict=verdict, dispatch_id=named, external_id=f"v-{named}")
                await store.resolve(TENANT, start_id, word)
    with suppress(GatewayError):
        await store.resolve(None, start_id, Resolution(verdict=Verdict.GIVE_UP))


async def stop(store: Any, clock: Clock) -> None:
    """Cancels what runs and what waits; spares what the backend was not asked to end after all."""
    for backend, can_end in ((BACKEND, False), (STUDIO, True)):
        start = await create(store, singly(2, 5_000), backend=backend, terms=ALONE, created_at=clock())
        for dispatch_id in await claim_ids(store, 1_000, backend):
            await settle(store, dispatch_id, accepted(f"w-{dispatch_id}"))
            if dispatch_id.startswith(start.asked.id):
                break
        await store.cancel(TENANT, start.asked.id, can_end=can_end)
    for dispatch in await store.endings(STUDIO, ACCOUNT, 10):
        if await store.ending(dispatch.id):
            await store.spare(dispatch.id)
    waits = await create(store, singly(3, 6_000), created_at=clock())
    await store.cancel(None, waits.asked.id, can_end=False)


async def read(store: Any, start: FlowStart) -> None:
    """Reads pages by every filter that is looked up and one that is not, forwards, backwards, and by names."""
    filters = [Filter(), Filter(request_id="r1"), Filter(external_id="x1"), Filter(labels={"of": "nothing"})]
    for tenant in (TENANT, "another", "nobody", None):
        for selected in filters:
            await store.list(tenant, selected, before=None, limit=10)
            await store.list(tenant, selected, before=1_000, limit=10)
            await store.snapshot(tenant, selected, frozenset(), after=0, limit=10)
            for count in (1, 30, 1_000):
                named = frozenset(f"start{number}" for number in range(count)) | {start.asked.id}
                await store.snapshot(tenant, selected, named, after=0, limit=10)
                await store.undone(tenant, named, since=0)
        await store.get(tenant, start.asked.id)
        await store.recipients(tenant, start.asked.id, after=None, limit=120)
        await store.history(tenant, start.asked.id, after=None, limit=2)
    await store.params([f"{start.asked.id}-1"])
    head = await store.head()
    await store.changes(head - 20, 10)
    await store.carries(start.asked.id, "x1", asker=None)


async def watch_over(store: Any, clock: Clock) -> None:
    """Does what goes on by itself: following, counting, ageing, holding back, forgetting."""
    for backend in (BACKEND, STUDIO):
        await store.windows(backend, ACCOUNT)
        await store.unseen(backend, ACCOUNT, frozenset())
        await store.running(backend, ["x1", "x2"])
        await store.count_pending(backend)
    await store.mark_stalled(STUDIO, clock() + timedelta(seconds=1))
    await store.tell_behind()
    await store.measure()
    await store.backends()
    await store.oldest()
    await store.check()
    await store.look()
    await store.engine.writer.submit(lambda t: take_back(t, [("a dispatch", 1)]))
    store.listen(lambda _revision: None)
    nobodys = await create(store, terms=Terms(), backend=STUDIO, created_at=clock())
    assert f"{nobodys.asked.id}-1" in await claim_ids(store, 50, STUDIO)
    attempt = await store.begin_attempt(f"{nobodys.asked.id}-1", account="", since=clock())
    await store.record(f"{nobodys.asked.id}-1", attempt, unsure())
    other, ours = Identity(account="other", aliases=frozenset({"1"})), Identity(account=ACCOUNT)
    for identity in (other, None, ours, other):
        await store.hold(STUDIO, identity, ["2"])
        await store.expire_held()
    await store.engine.writer.submit(Expire(["a dispatch"]))
    await store.engine.writer.submit(lambda t: moved(t, t.now_micros + 2 * STEP))
    for _ in range(4):
        await store.purge(clock())


async def line_up(store: Any, clock: Clock) -> None:
    """Lets as many wait for one recipient as may, and one more."""
    first = singly(1, 9_000)
    for result in await asyncio.gather(
        *(create(store, first, terms=ALONE, backend=STUDIO, created_at=clock()) for _ in range(1_001)),
        return_exceptions=True,
    ):
        assert isinstance(result, FlowStart | Exhausted), result


async def damage(store: Any, clock: Clock) -> None:
    """Has a dispatch, and a block of another start, that cannot be read."""
    first, second = [await create(store, singly(250), backend="damaged", created_at=clock()) for _ in range(2)]
    with closing(sqlite3.connect(store.store.engine._path)) as conn, conn:
        conn.execute("update dispatches set recipients = '?' where id = ?", (f"{first.asked.id}-1",))
        conn.execute("update recipients set body = '?' where start_id = ?", (second.asked.id,))
    while await claim_ids(store, 1_000, "damaged"):
        pass


async def lease(store: Any) -> None:
    """Takes a lane, goes on with it, and leaves it to others."""
    await store.take(LANE, "elsewhere", runs_on=DAY)
    await store.renew(Life(at="", backends=frozenset({BACKEND})))
    await store.standing()
    await store.give_up(LANE, ["elsewhere"])
    await store.follow()


async def leave(store: Any, clock: Clock) -> None:
    """Leaves an attempt that is open, a claim, progress that is still to be told, and a start that is under way."""
    start = await create(store, singly(250), created_at=clock())
    claimed = await claim_ids(store, 1_000)
    first, second, third = [each for each in claimed if each.startswith(start.asked.id)][:3]
    await begin(store, first)
    await settle(store, second, accepted("y1", State.STARTED))
    await settle(store, third, accepted("y2", State.STARTED))
