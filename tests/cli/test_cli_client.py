from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from queue import SimpleQueue
from typing import Any

import grpc
import grpc_testing
import pytest
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.cli.client import (
    ATTEMPTS,
    CallFailed,
    Client,
    Problem,
    WatchTimedOut,
    can_resume,
    connect,
    resume,
)
from tests.cli.stub_gateway import EPOCH, STATE, StubGateway, changed, flow_start, heartbeat, status

SERVICE = pb.DESCRIPTOR.services_by_name["StartFlowService"]
Aside = Callable[..., Future[Any]]
UNAVAILABLE, OUT_OF_RANGE = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.OUT_OF_RANGE


class Clock:
    """Tells the time that sleeping has made pass, and remembers every pause."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        """Passes at once."""
        self.pauses.append(seconds)

    def __call__(self) -> float:
        """Tells how long all the pauses took."""
        return sum(self.pauses)


class Fake:
    """A client on grpcio-testing's channel: the test takes each call and answers it."""

    def __init__(self) -> None:
        self.channel = grpc_testing.channel([SERVICE], grpc_testing.strict_real_time())
        self.clock, self.said, self.waits, self.anew, self.seen = Clock(), [], [], [], SimpleQueue()
        self.client = Client(
            self.channel,
            say=self.said.append,
            wait=self.waits.append,
            sleep=self.clock.sleep,
            clock=self.clock,
            jitter=lambda: 0.0,
        )

    def watch(self, **asked: object) -> list[pb.WatchFlowStartsResponse]:
        """Watches to the end; with `count`, to that many messages. Each is told to `take_stream` as it comes."""
        count, seconds = asked.pop("count", None), asked.pop("seconds", None)
        messages = []
        watch = self.client.watch(
            pb.WatchFlowStartsRequest(**asked), seconds=seconds, begin_anew=lambda: self.anew.append(len(messages))
        )
        for message in islice(watch, count):
            messages.append(message)
            self.seen.put(message)
        return messages

    def take(self, method: str, answer: object) -> object:
        """Waits for the next unary call, answers it with a message or a status, and returns the request."""
        _, request, call = self.channel.take_unary_unary(SERVICE.methods_by_name[method])
        if isinstance(answer, pb.StartFlowResponse | pb.ListFlowStartsResponse | pb.ListBackendsResponse):
            call.terminate(answer, (), grpc.StatusCode.OK, "")
        else:
            rich = rpc_status.to_status(answer)
            call.terminate(None, rich.trailing_metadata, rich.code, rich.details)
        return request

    def take_stream(self, *answers: object) -> pb.WatchFlowStartsRequest:
        """Waits for the next watch, streams the messages, ends it with the status or OK, and returns the request."""
        _, request, call = self.channel.take_unary_stream(SERVICE.methods_by_name["WatchFlowStarts"])
        for answer in answers:
            if not isinstance(answer, pb.WatchFlowStartsResponse):
                rich = rpc_status.to_status(answer)
                call.terminate(rich.trailing_metadata, rich.code, rich.details)
                return request
            call.send_response(answer)
            self.seen.get(timeout=10)  # the fake channel drops what was not read when a call ends
        call.terminate((), grpc.StatusCode.OK, "")
        return request


@pytest.fixture
def fake() -> Fake:
    """Gives a client on a fake channel."""
    return Fake()


@pytest.fixture
def aside() -> Iterator[Aside]:
    """Runs the client while the test plays the gateway."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        yield pool.submit


def test_a_start_that_may_have_been_lost_is_asked_for_again_with_the_same_request(fake: Fake, aside: Aside) -> None:
    """A start that may have been lost is asked for again with the same request."""
    asked = pb.StartFlowRequest(flow="f", request_id="r1")
    answer = pb.StartFlowResponse(flow_start=flow_start(), replayed=True)

    response = aside(fake.client.start, asked)
    requests = [
        fake.take("StartFlow", status(UNAVAILABLE, "gone")),
        fake.take("StartFlow", status(grpc.StatusCode.DEADLINE_EXCEEDED)),
        fake.take("StartFlow", answer),
    ]

    assert answer == response.result()
    assert [asked] * 3 == requests
    assert [0.25, 0.5] == fake.clock.pauses
    assert fake.said == [
        "no connection to the gateway; trying again in 0.2 s, with the same request id",
        "no answer in time; trying again in 0.5 s, with the same request id",
    ]


def test_a_start_waits_as_long_as_the_gateway_asks(fake: Fake, aside: Aside) -> None:
    """A start waits as long as the gateway asks."""
    response = aside(fake.client.start, pb.StartFlowRequest(request_id="r1"))
    fake.take("StartFlow", status(UNAVAILABLE, "draining", reason="DRAINING", retry_after=7.5))
    fake.take("StartFlow", pb.StartFlowResponse())

    assert pb.StartFlowResponse() == response.result()
    assert [7.5] == fake.clock.pauses
    assert ["the gateway answered DRAINING; trying again in 7.5 s, with the same request id"] == fake.said


def test_a_start_does_not_wait_for_longer_than_a_minute(fake: Fake, aside: Aside) -> None:
    """A start does not wait for longer than a minute."""
    response = aside(fake.client.start, pb.StartFlowRequest(request_id="r1"))
    fake.take("StartFlow", status(UNAVAILABLE, "later", reason="STORE_UNAVAILABLE", retry_after=3_600))

    with pytest.raises(CallFailed) as failed:
        response.result()

    assert 3_600 == failed.value.problem.retry_after
    assert [] == fake.clock.pauses


def test_a_start_is_given_up_after_a_few_attempts(fake: Fake, aside: Aside) -> None:
    """A start is given up after a few attempts."""
    response = aside(fake.client.start, pb.StartFlowRequest(request_id="r1"))
    for _ in range(ATTEMPTS):
        fake.take("StartFlow", status(UNAVAILABLE, "gone"))

    with pytest.raises(CallFailed):
        response.result()


def test_a_refused_start_is_not_repeated_and_tells_everything(fake: Fake, aside: Aside) -> None:
    """A refused start is not repeated and tells everything."""
    response = aside(fake.client.start, pb.StartFlowRequest(request_id="r1"))
    refusal = status(
        grpc.StatusCode.INVALID_ARGUMENT,
        "2 fields are wrong",
        reason="VALIDATION_FAILED",
        metadata={"count": "2"},
        violations={"urns[3]": "no scheme", "flow": "needed"},
        retry_after=0.25,
    )
    fake.take("StartFlow", refusal)

    with pytest.raises(CallFailed) as failed:
        response.result()

    expected = Problem(
        code=grpc.StatusCode.INVALID_ARGUMENT,
        message="2 fields are wrong",
        reason="VALIDATION_FAILED",
        metadata={"count": "2"},
        violations=(("urns[3]", "no scheme"), ("flow", "needed")),
        retry_after=0.25,
    )
    assert expected == failed.value.problem


def test_listing_reads_pages_until_the_limit(fake: Fake, aside: Aside) -> None:
    """Listing reads pages until the limit."""
    starts = aside(lambda: [each.id for each in fake.client.list_starts(pb.FlowStartFilter(flow="f"), 600)])
    pages = [
        pb.ListFlowStartsResponse(flow_starts=[flow_start(f"a{n}") for n in range(500)], next_page_token="t1"),
        pb.ListFlowStartsResponse(next_page_token="t2"),
        pb.ListFlowStartsResponse(flow_starts=[flow_start(f"b{n}") for n in range(100)], next_page_token="t3"),
    ]
    requests = [fake.take("ListFlowStarts", page) for page in pages]

    assert 600 == len(starts.result())
    assert [(500, ""), (100, "t1"), (100, "t2")] == [(each.page_size, each.page_token) for each in requests]
    assert all(each.filter.flow == "f" for each in requests)


def test_listing_ends_with_the_last_page(fake: Fake, aside: Aside) -> None:
    """Listing ends with the last page."""
    starts = aside(lambda: list(fake.client.list_starts(pb.FlowStartFilter(), 50)))
    fake.take("ListFlowStarts", pb.ListFlowStartsResponse(flow_starts=[flow_start()]))

    assert [flow_start()] == starts.result()


def test_a_broken_watch_goes_on_after_the_last_message(fake: Fake, aside: Aside) -> None:
    """A broken watch goes on after the last message."""
    messages = aside(fake.watch, ids=["s1"], until_done=True)
    first, second, third = changed(7, flow_start()), heartbeat(9), changed(12, flow_start())

    requests = [
        fake.take_stream(first, second, status(UNAVAILABLE, "draining", reason="DRAINING", retry_after=3)),
        fake.take_stream(status(UNAVAILABLE, "connection reset")),
        fake.take_stream(status(grpc.StatusCode.UNKNOWN, "Stream removed")),
        fake.take_stream(third),
    ]

    assert [first, second, third] == messages.result()
    after_9 = pb.WatchFlowStartsRequest(ids=["s1"], until_done=True, after_revision=9, epoch=EPOCH)
    assert [pb.WatchFlowStartsRequest(ids=["s1"], until_done=True), after_9, after_9, after_9] == requests
    assert [3.0, 0.5, 1.0] == fake.clock.pauses
    assert [
        "the gateway answered DRAINING; resuming after revision 9 in 3.0 s",
        "no connection to the gateway; resuming after revision 9 in 0.5 s",
        "no connection to the gateway; resuming after revision 9 in 1.0 s",
        "",
    ] == fake.waits


def test_a_message_makes_the_pauses_short_again(fake: Fake, aside: Aside) -> None:
    """A message makes the pauses short again."""
    messages = aside(fake.watch, ids=["s1"], until_done=True)
    lost = status(UNAVAILABLE, "gone")
    for answers in ([heartbeat(1), lost], [lost], [lost], [heartbeat(2), lost], [heartbeat(3)]):
        fake.take_stream(*answers)

    assert [heartbeat(1), heartbeat(2), heartbeat(3)] == messages.result()
    assert [0.25, 0.5, 1.0, 0.25] == fake.clock.pauses


def test_a_watch_without_an_end_outlives_a_stream_that_ends(fake: Fake, aside: Aside) -> None:
    """A watch without an end outlives a stream that ends."""
    messages = aside(fake.watch, count=2)
    fake.take_stream(heartbeat(1))
    resumed = fake.take_stream(heartbeat(2))

    assert [heartbeat(1), heartbeat(2)] == messages.result()
    assert 1 == resumed.after_revision


def test_a_watch_that_was_never_answered_is_given_up(fake: Fake, aside: Aside) -> None:
    """A watch that was never answered is given up."""
    messages = aside(fake.watch)
    for _ in range(ATTEMPTS):
        fake.take_stream(status(UNAVAILABLE, "refused"))

    with pytest.raises(CallFailed):
        messages.result()


def test_a_watch_of_a_gateway_that_has_answered_is_never_given_up(fake: Fake, aside: Aside) -> None:
    """Not even before its first message: the start that it follows is recorded. The pauses grow to ten seconds."""
    start = aside(fake.client.start, pb.StartFlowRequest(request_id="r1"))
    fake.take("StartFlow", pb.StartFlowResponse())
    start.result()

    messages = aside(fake.watch, ids=["s1"], until_done=True)
    for _ in range(3 * ATTEMPTS):
        fake.take_stream(status(UNAVAILABLE, "refused"))
    fake.take_stream(heartbeat(3))

    assert [heartbeat(3)] == messages.result()
    assert [0.25, 0.5, 1.0, 2.0, 4.0, *[5.0] * 7] == fake.clock.pauses  # half of it, and as much again by chance


@pytest.mark.parametrize("after", [None, 3])
def test_a_place_that_is_gone_on_the_way_begins_anew_and_says_so(fake: Fake, aside: Aside, after: int | None) -> None:
    """The store was restored, or the watcher was away for too long: how the starts are now is what can be told."""
    messages = aside(fake.watch, ids=["s1"], until_done=True, after_revision=after)
    gone = status(OUT_OF_RANGE, "The store was restored.", reason="REVISION_NOT_AVAILABLE")

    fake.take_stream(changed(7, flow_start()), status(UNAVAILABLE, "gone"))
    resumed = fake.take_stream(gone)
    anew = [fake.take_stream(status(UNAVAILABLE, "gone")) for _ in range(ATTEMPTS)]
    anew.append(fake.take_stream(changed(2, flow_start())))

    assert [changed(7, flow_start()), changed(2, flow_start())] == messages.result()
    assert (7, EPOCH) == (resumed.after_revision, resumed.epoch)
    assert [pb.WatchFlowStartsRequest(ids=["s1"], until_done=True)] * (ATTEMPTS + 1) == anew
    assert [1] == fake.anew  # between the first message and the second
    (said,) = fake.said
    assert "cannot resume after revision 7. Beginning again" in said
    assert said.endswith("It said: The store was restored.")


def test_a_watch_that_is_put_off_waits_as_long_as_the_gateway_asks(fake: Fake, aside: Aside) -> None:
    """Too many streams for now, with a time to come back, is no refusal."""
    messages = aside(fake.watch, ids=["s1"], until_done=True)
    fake.take_stream(status(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many", reason="STREAM_LIMIT", retry_after=12))
    fake.take_stream(heartbeat(3))

    assert [heartbeat(3)] == messages.result()
    assert [12.0] == fake.clock.pauses
    assert ["the gateway answered STREAM_LIMIT; trying again in 12.0 s", ""] == fake.waits


@pytest.mark.parametrize(("code", "reason"), [
    ("NOT_FOUND",          "FLOW_START_NOT_FOUND"),
    ("INVALID_ARGUMENT",   "VALIDATION_FAILED"),
    ("UNAUTHENTICATED",    "CREDENTIALS_EXPIRED"),
    ("PERMISSION_DENIED",  "NOT_ALLOWED"),
    ("RESOURCE_EXHAUSTED", "STREAM_LIMIT"),
    ("INTERNAL",           "INTERNAL"),
])  # fmt: skip
def test_what_is_final_ends_a_watch_at_once_resumed_or_not(fake: Fake, aside: Aside, code: str, reason: str) -> None:
    """Nothing is tried again."""
    messages = aside(fake.watch)
    fake.take_stream(heartbeat(1), status(UNAVAILABLE, "gone"))
    fake.take_stream(status(grpc.StatusCode[code], "no", reason=reason))

    with pytest.raises(CallFailed) as failed:
        messages.result()

    assert reason == failed.value.problem.reason
    assert 1 == len(fake.clock.pauses)


def test_a_revision_that_is_not_kept_ends_a_watch(fake: Fake, aside: Aside) -> None:
    """A revision that is not kept ends a watch."""
    messages = aside(fake.watch, after_revision=3)
    fake.take_stream(status(OUT_OF_RANGE, "revision 3 is not kept", reason="REVISION_NOT_AVAILABLE"))

    with pytest.raises(CallFailed) as failed:
        messages.result()

    assert "REVISION_NOT_AVAILABLE" == failed.value.problem.reason


def test_a_watch_ends_when_its_time_is_up_while_it_waits_to_resume(fake: Fake, aside: Aside) -> None:
    """A watch ends when its time is up while it waits to resume."""
    messages = aside(fake.watch, seconds=5)
    fake.take_stream(heartbeat(1), status(UNAVAILABLE, "draining", reason="DRAINING", retry_after=20))

    with pytest.raises(WatchTimedOut):
        messages.result()
    assert [5.0] == fake.clock.pauses


def test_a_watch_ends_when_its_time_is_up_on_the_wire(fake: Fake, aside: Aside) -> None:
    """A watch ends when its time is up on the wire."""
    messages = aside(fake.watch, seconds=5)
    fake.take_stream(heartbeat(1), status(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))

    with pytest.raises(WatchTimedOut):
        messages.result()


@pytest.mark.parametrize(("code", "reason", "expected"), [
    ("UNAVAILABLE",        "",             True),
    ("UNAVAILABLE",        "DRAINING",     True),
    ("UNKNOWN",            "",             True),
    ("INTERNAL",           "",             True),
    ("CANCELLED",          "",             True),
    ("INTERNAL",           "INTERNAL",     False),
    ("RESOURCE_EXHAUSTED", "STREAM_LIMIT", False),
    ("OUT_OF_RANGE",       "",             False),
    ("UNIMPLEMENTED",      "",             False),
    ("UNAUTHENTICATED",    "",             False),
])  # fmt: skip
def test_only_a_lost_connection_is_resumed(code: str, reason: str, expected: bool) -> None:  # noqa: FBT001 - a column
    """Only a lost connection is resumed."""
    problem = Problem(code=grpc.StatusCode[code], message="", reason=reason)

    assert expected is can_resume(problem)


def test_a_first_request_is_sent_as_asked() -> None:
    """A first request is sent as asked."""
    asked = pb.WatchFlowStartsRequest(ids=["s1"], after_revision=0, epoch="e0")

    assert asked == resume(asked, None)


def test_a_snapshot_that_had_nothing_begins_again() -> None:
    """After revision 0 would mean every change ever recorded, which a snapshot did not ask for."""
    assert pb.WatchFlowStartsRequest() == resume(pb.WatchFlowStartsRequest(), heartbeat(0))


def test_after_revision_0_stays_asked_for() -> None:
    """After revision 0 stays asked for."""
    asked = pb.WatchFlowStartsRequest(after_revision=0)

    assert pb.WatchFlowStartsRequest(after_revision=0, epoch=EPOCH) == resume(asked, heartbeat(0))


@given(
    starts=st.lists(st.sampled_from("abc"), min_size=1, max_size=12),
    cuts=st.lists(st.integers(0, 5), max_size=8),
    begin=st.none() | st.integers(0, 12),
)
def test_no_change_is_lost_or_repeated_however_often_the_connection_breaks(
    starts: list[str], cuts: list[int], begin: int | None
) -> None:
    """The model: changes 1…n, a gateway that keeps its promises, and connections cut after so many messages."""
    changes = [changed(n, flow_start(each, revision=n)) for n, each in enumerate(starts, start=1)]
    latest = {each.changed.id: each for each in changes}.values()
    asked = pb.WatchFlowStartsRequest() if begin is None else pb.WatchFlowStartsRequest(after_revision=begin)

    def gateway(request: pb.WatchFlowStartsRequest) -> list[pb.WatchFlowStartsResponse]:
        resumed = request.HasField("after_revision")
        later = [each for each in changes if each.revision > request.after_revision] if resumed else list(latest)
        return [heartbeat(request.after_revision), *sorted(later, key=lambda each: each.revision)]

    seen, last = [], None
    for cut in chain(cuts, [len(changes) + 1]):
        for message in gateway(resume(asked, last))[:cut]:
            seen.append(message)
            last = message

    revisions = [each.revision for each in seen if each.HasField("changed")]
    assert sorted(set(revisions)) == revisions
    assert {each.revision for each in gateway(asked)[1:]} <= set(revisions)
    if begin is not None:  # a snapshot leaves out what was overtaken; resumed in its midst, it need not
        assert list(range(begin + 1, len(changes) + 1)) == revisions


def test_a_stream_on_a_real_connection_is_resumed_with_revision_and_epoch() -> None:
    """A stream on a real connection is resumed with revision and epoch."""
    with StubGateway() as gateway, connect(gateway.address) as channel:
        clock = Clock()
        done = changed(8, flow_start(state=STATE.STATE_COMPLETED))
        gateway.streams.append([heartbeat(5), status(UNAVAILABLE, "bye", reason="DRAINING", retry_after=4)])
        gateway.streams.append([done])
        client = Client(channel, say=lambda _: None, sleep=clock.sleep, jitter=lambda: 0.0)

        messages = list(client.watch(pb.WatchFlowStartsRequest(ids=["s1"], until_done=True)))

        assert [heartbeat(5), done] == messages
        assert [4.0] == clock.pauses
        assert (5, EPOCH) == (gateway.requests[1].after_revision, gateway.requests[1].epoch)
