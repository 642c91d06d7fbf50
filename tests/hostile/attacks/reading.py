"""What a tenant can do with what it may read: each attack is a coroutine that runs until it is cancelled."""

from __future__ import annotations

import asyncio
from itertools import count, cycle
from typing import TYPE_CHECKING, Any

from startflow.v1 import start_flow_service_pb2 as pb

from gateway.wire.page_token import write_page_token
from tests.bench.grown import RARE
from tests.builders import TENANT as GROWN  # of which there are many starts
from tests.hostile.attacks.frames import OURS, message
from tests.hostile.attacks.starting import LARGE, in_an_hour, start
from tests.hostile.caller import at_once, calling, flood, hold, token

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from tests.hostile.attacks.frames import Peer
    from tests.hostile.caller import Aim, Caller

IDS = 1_000  # in one watch
STREAMS = 2_000
SMALLEST = 10  # bytes that a window lets through, so that the first message of a stream begins and does not end
FAN, CHANGING = 400, 5  # watches, and starts a second
UNREAD = 40  # connections
CALLS = 50  # on each
FAR = 2**63 - 1
NOWHERE: list[Any] = [
    -FAR,
    FAR,
    0,
    10**400,
    -1,
    True,
    None,
    1.5,
    [],
    ["a"],
    {"a": 1},
    "x",
    [0, 0],
    [-FAR, 0],
    [FAR, FAR],
]
NOWHERE += [[-1, -1], [1, FAR], [FAR, FAR, "", FAR], [-FAR, -FAR, "x", -FAR], [0, 0, "a\0b", 0], [10**30, 0, "x", 0]]


async def filters(aim: Aim) -> None:
    """Lists with filters that match nearly nothing, 32 times at once."""
    wanted = [
        pb.FlowStartFilter(labels=RARE),
        pb.FlowStartFilter(states=[pb.FlowStart.STATE_FAILED], labels=RARE),
        pb.FlowStartFilter(flow="f5901b62-ba76-4003-9c62-000000000000"),
        pb.FlowStartFilter(backends=["rapidpro"], labels={"no": "such"}),
    ]
    requests = cycle(pb.ListFlowStartsRequest(filter=each, page_size=500) for each in wanted)
    await flood(aim, "ListFlowStarts", lambda _: next(requests), 32, GROWN)


async def overlapping_lists(aim: Aim) -> None:
    """Lists four times at once, so that one of them always reads, while starts are made."""
    wanted = pb.ListFlowStartsRequest(filter=pb.FlowStartFilter(labels=RARE), page_size=500)
    async with asyncio.TaskGroup() as group:
        group.create_task(flood(aim, "ListFlowStarts", lambda _: wanted, 4, GROWN))
        group.create_task(flood(aim, "StartFlow", start, 16))


async def pages(aim: Aim) -> None:
    """Reads the largest pages, each after the one before."""

    async def read(caller: Caller) -> None:
        wanted = pb.ListFlowStartsRequest(page_size=500)
        while (answer := await caller.ask("ListFlowStarts", wanted)) is not None:
            wanted.page_token = pb.ListFlowStartsResponse.FromString(answer).next_page_token

    async with calling(aim, GROWN) as caller:
        await at_once(8, lambda _: read(caller))


async def huge_start(aim: Aim) -> None:
    """Reads recipients and history of a start of 10,000 recipients, from deep inside."""
    async with calling(aim) as caller:
        huge, tokens, asked = await _made_huge(caller), [""], pb.ListRecipientsRequest(page_size=1_000)
        asked.id = huge
        while (answer := await caller.ask("ListRecipients", asked)) is not None:
            asked.page_token = pb.ListRecipientsResponse.FromString(answer).next_page_token
            if not asked.page_token:
                break
            tokens.append(asked.page_token)

        async def each(number: int) -> None:
            if number % 2:
                await caller.ask("ListChanges", pb.ListChangesRequest(id=huge, page_size=1_000))
            else:
                token = tokens[number // 2 % len(tokens)]
                await caller.ask("ListRecipients", pb.ListRecipientsRequest(id=huge, page_size=1_000, page_token=token))

        await at_once(16, each)


async def _made_huge(caller: Caller) -> str:
    """Makes a start of 10,000 recipients, and returns its id."""
    answer = await caller.ask("StartFlow", start(0, urns=[f"tel:+1209{n:07}" for n in range(LARGE)]))
    assert answer is not None, caller.aim.counts
    return pb.StartFlowResponse.FromString(answer).flow_start.id


async def forged_tokens(aim: Aim) -> None:
    """Pages from places that never were, with checksums that are right."""
    async with calling(aim) as caller:
        own = await _made_huge(caller)
        answer = await caller.ask("ListFlowStarts", b"")
        assert answer is not None, aim.counts
        epoch = pb.ListFlowStartsResponse.FromString(answer).epoch

        def forge(method: str, about: str, place: Any) -> str:
            when = "" if method == "ListFlows" else f"{epoch} "  # as the gateway describes the list of a token
            return write_page_token(f"{method} {when}loud {about}", place)

        requests: list[tuple[str, Message]] = []
        for place in NOWHERE:
            requests += [
                ("ListFlowStarts", pb.ListFlowStartsRequest(page_token=forge("ListFlowStarts", "", place))),
                (
                    "ListFlows",
                    pb.ListFlowsRequest(backend="rapidpro", page_token=forge("ListFlows", "rapidpro", place)),
                ),
                ("ListRecipients", pb.ListRecipientsRequest(id=own, page_token=forge("ListRecipients", own, place))),
                ("ListChanges", pb.ListChangesRequest(id=own, page_token=forge("ListChanges", own, place))),
            ]
        await at_once(16, lambda n: caller.ask(*requests[n % len(requests)]))


async def wide_watches(aim: Aim) -> None:
    """Opens watches of 1,000 ids each, until it may not."""
    async with calling(aim) as caller:
        made: list[str] = []

        async def record(number: int) -> None:
            answer = await caller.ask("StartFlow", start(number, schedule_time=in_an_hour()))
            if answer is not None:
                made.append(pb.StartFlowResponse.FromString(answer).flow_start.id)

        async with asyncio.TaskGroup() as group:
            for n in range(IDS):
                group.create_task(record(n))
        wanted = pb.WatchFlowStartsRequest(ids=made)

        async def each(_: int) -> None:
            await caller.watch(wanted)
            await asyncio.sleep(1)

        await at_once(STREAMS, each)


async def fan_out(aim: Aim) -> None:
    """Opens hundreds of watches of everything, and starts a little: each change is for all of them."""
    async with calling(aim) as caller:

        async def begin() -> None:
            for number in count():
                await caller.ask("StartFlow", start(number))
                await asyncio.sleep(1 / CHANGING)

        async with asyncio.TaskGroup() as group:
            group.create_task(begin())
            for _ in range(FAN):
                group.create_task(caller.watch(pb.WatchFlowStartsRequest()))


async def subscriptions(aim: Aim) -> None:
    """Opens watches and leaves after the first message, or before."""
    everything = pb.WatchFlowStartsRequest()
    async with calling(aim, GROWN) as caller:
        await at_once(64, lambda n: caller.watch(everything, n % 2))


async def catalogue(aim: Aim) -> None:
    """Asks for backends and flows."""
    requests = [("ListBackends", b""), ("ListFlows", pb.ListFlowsRequest(backend="rapidpro", page_size=1_000))]
    async with calling(aim) as caller:
        await at_once(32, lambda n: caller.ask(*requests[n % 2]))


async def unread_answers(aim: Aim) -> None:
    """Calls everything that answers much, and reads none of it."""
    extra = token("default")
    asked = [
        (f"{OURS}ListFlowStarts", pb.ListFlowStartsRequest(page_size=500).SerializeToString()),
        (f"{OURS}WatchFlowStarts", b""),
        (f"{OURS}WatchFlowStarts", pb.WatchFlowStartsRequest(after_revision=0).SerializeToString()),
        (f"{OURS}ListBackends", b""),
    ]

    async def each(peer: Peer) -> None:
        for n in range(CALLS):
            path, data = asked[n % len(asked)]
            peer.call(path, message(data), extra)
        await peer.drain()
        await peer.closed.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(hold(aim, UNREAD // 2, each))
        group.create_task(hold(aim, UNREAD // 2, each, window=SMALLEST))
