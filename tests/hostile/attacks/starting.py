"""What a tenant can do with what it may write: each attack is a coroutine that runs until it is cancelled."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Any

from startflow.v1 import start_flow_service_pb2 as pb

from tests.end_to_end.processes import SEED_FLOW, STUDIO_FLOW
from tests.hostile.caller import at_once, calling, flood

if TYPE_CHECKING:
    from tests.hostile.caller import Aim

END_OF_TIME = 253_402_300_799  # 9999-12-31T23:59:59Z
HOUR = 3_600
BUSY = "tel:+12065550000"
WALL, POISON = "behind-the-wall", "poison"  # what a firewall, and a backend, cannot bear in a request
POISONED = 20.0  # such starts a second
MANY = 100  # tenants
THINKS = 0.5  # seconds between two starts of each
LARGE = 10_000  # recipients
COSTLY = 250_000  # entries of a map that fit into the largest request
TOO_LARGE = 5 * 1024 * 1024  # bytes: more than the gateway takes, less than gRPC does


def start(number: int, *, urns: list[str] | None = None, studio: bool = False, **fields: Any) -> pb.StartFlowRequest:
    """Asks for a start, of a number of its own unless told."""
    return pb.StartFlowRequest(
        backend="twilio" if studio else "rapidpro",
        flow=STUDIO_FLOW if studio else SEED_FLOW,
        urns=urns or [f"tel:+1206{number % 10**7:07}"],
        **fields,
    )


def in_an_hour() -> dict[str, int]:
    """Returns a time that is far enough away."""
    return {"seconds": int(time.time()) + HOUR}


async def end_of_time(aim: Aim) -> None:
    """Schedules starts for the last moment there is, and some for now, all for one number on Twilio."""

    def make(number: int) -> pb.StartFlowRequest:
        late = {"schedule_time": {"seconds": END_OF_TIME}} if number % 2 == 0 else {}
        return start(number, urns=[BUSY], studio=True, **late)

    await flood(aim, "StartFlow", make, 2)


async def one_number_scheduled(aim: Aim) -> None:
    """Schedules as many starts as it can for one number in an hour, and some for now."""

    def make(number: int) -> pb.StartFlowRequest:
        late = {} if number % 50 == 0 else {"schedule_time": in_an_hour()}
        return start(number, urns=[BUSY], studio=True, **late)

    await flood(aim, "StartFlow", make, 16)


async def one_number_due(aim: Aim) -> None:
    """Starts a flow that never ends, and then as many as it can for the same number."""

    def make(number: int) -> pb.StartFlowRequest:
        return start(number, urns=[BUSY], studio=True, params={"sandbox": "stick"})

    await flood(aim, "StartFlow", make, 16)


async def _steadily(aim: Aim, params: dict[str, str]) -> None:
    """Makes starts at a steady rate, on both backends."""
    async with calling(aim) as caller, asyncio.TaskGroup() as group:
        number = 0
        while True:
            number += 1
            group.create_task(caller.ask("StartFlow", start(number, studio=number % 2 == 0, params=params)))
            await asyncio.sleep(1 / POISONED)


async def behind_a_wall(aim: Aim) -> None:
    """Makes starts that a firewall before the backend refuses with 403 and a page of HTML."""
    await _steadily(aim, {"note": WALL})


async def poison(aim: Aim) -> None:
    """Makes starts that the backend always answers with 500."""
    await _steadily(aim, {"note": POISON})


async def at_its_quota(aim: Aim) -> None:
    """Makes starts without pause as a tenant that may make ten a second."""
    await flood(aim, "StartFlow", start, 16, tenant="limited")


async def starts(aim: Aim) -> None:
    """Makes starts without pause that are due at once, on both backends."""
    await flood(aim, "StartFlow", lambda n: start(n, studio=n % 2 == 0), 16)


async def large_starts(aim: Aim) -> None:
    """Makes starts of 10,000 recipients, one after the other."""

    def make(number: int) -> pb.StartFlowRequest:
        return start(number, urns=[f"tel:+1207{(number * LARGE + n) % 10**7:07}" for n in range(LARGE)])

    await flood(aim, "StartFlow", make, 2)


async def cancels(aim: Aim) -> None:
    """Makes large starts and cancels each at once, twice."""
    async with calling(aim) as caller:

        async def each(number: int) -> None:
            urns = [f"tel:+1208{(number * LARGE + n) % 10**7:07}" for n in range(LARGE)]
            answer = await caller.ask("StartFlow", start(number, urns=urns, schedule_time=in_an_hour()))
            if answer is not None:
                made = pb.StartFlowResponse.FromString(answer).flow_start.id
                for _ in range(2):
                    await caller.ask("CancelFlowStart", pb.CancelFlowStartRequest(id=made))

        await at_once(4, each)


async def replays(aim: Aim) -> None:
    """Repeats a few request ids, now and then with other content."""

    def make(number: int) -> pb.StartFlowRequest:
        return start(number % 2 if number % 10 == 0 else 0, request_id=f"again-{number % 7}")

    await flood(aim, "StartFlow", make, 32)


async def labels(aim: Aim) -> None:
    """Makes starts with as many and as long labels as may be, and asks for them by all of these."""
    most = {f"{n:02}" + "k" * 61: "ä" * 220 for n in range(32)}
    wanted = pb.ListFlowStartsRequest(filter={"labels": most}, page_size=500)
    async with asyncio.TaskGroup() as group:
        group.create_task(flood(aim, "StartFlow", lambda n: start(n, labels=most, schedule_time=in_an_hour()), 4))
        group.create_task(flood(aim, "ListFlowStarts", lambda _: wanted, 4))


async def validate_only(aim: Aim) -> None:
    """Has starts checked that are not to be recorded, for flows that may not be there."""

    def make(number: int) -> pb.StartFlowRequest:
        request = start(number, validate_only=True, request_id=f"never-{number}")
        if number % 4 == 0:
            request.flow = f"{number:08x}-ba76-4003-9c62-72fdacc1b7b7"
        return request

    await flood(aim, "StartFlow", make, 32)


async def costly_messages(aim: Aim) -> None:
    """Sends up to 4 MiB of what takes long to parse or to read: maps, lists in lists, empty names, long ones."""
    wide = start(0)
    wide.params.update({f"{n}": [[[n]]] for n in range(60_000)})
    many = {f"{n:x}": "" for n in range(COSTLY)}
    data = [
        ("StartFlow", wide.SerializeToString()),
        ("StartFlow", start(0, labels=many).SerializeToString()),
        ("ListFlowStarts", pb.ListFlowStartsRequest(filter={"labels": many}).SerializeToString()),
        ("StartFlow", start(0, urns=[""] * COSTLY).SerializeToString()),
        ("StartFlow", start(0, urns=["tel:" + "9" * 4_000_000]).SerializeToString()),
        ("StartFlow", start(0, contacts=["c" * 300] * LARGE).SerializeToString()),
        ("CancelFlowStart", pb.CancelFlowStartRequest(id="i" * 4_000_000).SerializeToString()),
    ]
    async with calling(aim) as caller:
        await at_once(2, lambda n: caller.ask(*data[n % len(data)]))


async def too_large(aim: Aim) -> None:
    """Sends messages that are larger than they may be."""
    data = bytes(TOO_LARGE)
    await flood(aim, "StartFlow", lambda _: data, 4)


async def many_tenants(aim: Aim) -> None:
    """Makes starts as a hundred tenants, two a second each; one in forty is due."""
    # A hundred that flood would be more than one core can serve, whoever has which share of it.

    async def one(tenant: int) -> None:
        def make(number: int) -> pb.StartFlowRequest:
            turn = number + tenant  # all at once would be more than the backends take, and each would wait for a round
            late = {"schedule_time": in_an_hour()} if turn % 40 else {}
            return start(number + tenant * LARGE, studio=turn % 80 == 0, **late)

        async with calling(aim, f"t{tenant}") as caller:
            await asyncio.sleep(THINKS * tenant / MANY)  # not all in one moment
            for number in itertools.count():
                await caller.ask("StartFlow", make(number))
                await asyncio.sleep(THINKS)

    async with asyncio.TaskGroup() as group:
        for tenant in range(MANY):
            group.create_task(one(tenant))
