from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import StringIO
from threading import Semaphore
from typing import Any

import grpc
import pytest
from google.protobuf import timestamp_pb2
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.cli.asking import Asking
from gateway.cli.board import Board
from gateway.cli.client import CallFailed, Problem, WatchTimedOut
from gateway.cli.console import Console
from gateway.cli.session import INTERRUPTED, NOT_CLEAN, OK, Session, shortfall
from tests.cli.stub_gateway import STATE, changed, flow_start, heartbeat

ANEW = object()  # laid out in a stream: the gateway cannot go on, and it begins anew
STARTED = pb.StartFlowResponse(flow_start=flow_start(state=STATE.STATE_PENDING), backend_request_count=1)


class Calls:
    """A client whose answers are laid out: values to return, exceptions to raise, streams of both."""

    def __init__(self, *, start: object = STARTED, get: object = None, starts: tuple = (), stream: tuple = ()) -> None:
        self._start, self._get, self._starts, self.stream = start, get, starts, stream
        self.asked = Semaphore(0)
        self.watched: list[pb.WatchFlowStartsRequest] = []

    def start(self, _request: pb.StartFlowRequest) -> pb.StartFlowResponse:
        """Answers or raises."""
        if isinstance(self._start, BaseException):
            raise self._start
        return self._start

    def get(self, _start_id: str) -> pb.GetFlowStartResponse:
        """Answers."""
        self.asked.release()
        return self._get

    def list_starts(self, _selection: pb.FlowStartFilter, limit: int) -> list[pb.FlowStart]:
        """Answers."""
        return list(self._starts[:limit])

    def list_backends(self) -> list[pb.Backend]:
        """Answers."""
        return [pb.Backend(name="textit", kind="rapidpro")]

    def watch(
        self, request: pb.WatchFlowStartsRequest, *, seconds: float | None, begin_anew: Callable[[], None]
    ) -> Iterator[pb.WatchFlowStartsResponse]:
        """Streams."""
        self.watched.append(request)
        assert seconds is None or seconds > 0
        for message in self.stream:
            if isinstance(message, BaseException):
                raise message
            if message is ANEW:
                begin_anew()
                continue
            yield message


class Room:
    """A session with its files in sight."""

    def __init__(self, calls: Calls, *, readable: bool = False, **options: object) -> None:
        self.out, self.err = StringIO(), StringIO()
        console = Console(self.out, self.err, readable=readable, now=lambda: datetime.fromtimestamp(1_010, UTC))
        self.session = Session(calls, console, **options)


@pytest.mark.parametrize(("state", "progress", "says"), [
    ("COMPLETED",   {"completed": 3},                    ""),
    ("COMPLETED",   {"completed": 2, "failed": 1},       "s1 completed, but of 3 recipients: 1 failed."),
    ("COMPLETED",   {"completed": 2, "skipped": 1},      "1 skipped"),
    ("COMPLETED",   {"completed": 2, "interrupted": 1},  "1 interrupted"),
    ("COMPLETED",   {"completed": 1, "uncertain": 2},    "2 uncertain"),
    ("COMPLETED",   {"completed": 3, "contact_count": 5, "contact_started_count": 5}, ""),
    ("COMPLETED",   {"completed": 3, "contact_count": 5, "contact_started_count": 3}, "2 contacts were not started"),
    ("FAILED",      {"failed": 3},                       "s1 ended FAILED: R: why"),
    ("INTERRUPTED", {"interrupted": 3},                  "s1 ended INTERRUPTED: R: why"),
    ("UNCERTAIN",   {"uncertain": 3},                    "may have been carried out"),
    ("STARTED",     {"started": 3},                      "has not ended: it is STARTED"),
])  # fmt: skip
def test_only_a_start_that_completed_with_nobody_missed_is_clean(
    state: str, progress: dict[str, int], says: str
) -> None:
    """Only a start that completed with nobody missed is clean."""
    failure = pb.Failure(reason="R", message="why") if state in {"FAILED", "INTERRUPTED"} else None
    start = flow_start(state=STATE.Value(f"STATE_{state}"), progress=pb.Progress(**progress), failure=failure)

    sentence = shortfall(start)

    assert says in sentence
    assert bool(says) is bool(sentence)


def test_a_start_in_a_pipe_is_the_answer_and_then_every_message() -> None:
    """A start in a pipe is the answer and then every message."""
    done = changed(9, flow_start(progress=pb.Progress(completed=3)))
    calls = Calls(stream=(heartbeat(7), done))
    room = Room(calls)

    assert OK == room.session.start(pb.StartFlowRequest(request_id="r1"), watch=True)

    kinds = [line.split('"')[1] for line in room.out.getvalue().splitlines()]
    assert ["flowStart", "revision", "revision"] == kinds
    assert [pb.WatchFlowStartsRequest(ids=["s1"], until_done=True)] == calls.watched
    assert "" == room.err.getvalue()


def test_a_start_that_is_not_clean_says_why_and_exits_1() -> None:
    """A start that is not clean says why and exits 1."""
    done = changed(9, flow_start(progress=pb.Progress(completed=2, failed=1)))
    room = Room(Calls(stream=(done,)))

    assert NOT_CLEAN == room.session.start(pb.StartFlowRequest(request_id="r1"), watch=True)
    assert "s1 completed, but of 3 recipients: 1 failed.\n" == room.err.getvalue()


def test_a_start_on_a_terminal_leaves_its_last_picture() -> None:
    """A start on a terminal leaves its last picture."""
    done = changed(9, flow_start(progress=pb.Progress(completed=3)))
    room = Room(Calls(stream=(heartbeat(7), done)), readable=True)

    assert OK == room.session.start(pb.StartFlowRequest(request_id="r1"), watch=True)
    assert "COMPLETED" in room.out.getvalue()
    assert "3 of 3 ended" in room.out.getvalue()
    assert "Recorded. It takes one backend request." in room.err.getvalue()


def test_a_start_without_watch_tells_how_to_follow_it_on_this_gateway() -> None:
    """A start without watch tells how to follow it on this gateway."""
    room = Room(Calls(), readable=True, flags=" --address there:1")

    assert OK == room.session.start(pb.StartFlowRequest(request_id="r1"), watch=False)
    assert "startflow watch s1 --until-done --address there:1" in room.err.getvalue()


def test_a_replayed_start_says_so() -> None:
    """A replayed start says so."""
    room = Room(Calls(start=pb.StartFlowResponse(flow_start=flow_start(), replayed=True)), readable=True)

    room.session.start(pb.StartFlowRequest(request_id="r1"), watch=False)

    assert "This request id was used before" in room.err.getvalue()


def test_a_validated_start_says_what_it_would_take() -> None:
    """A validated start says what it would take."""
    room = Room(Calls(start=pb.StartFlowResponse(flow_start=flow_start(""), backend_request_count=3)), readable=True)

    room.session.start(pb.StartFlowRequest(request_id="r1", validate_only=True), watch=False)

    assert "Valid; nothing was recorded. It takes 3 backend requests." in room.err.getvalue()


def test_a_start_that_may_be_recorded_tells_how_to_repeat_it_safely() -> None:
    """A start that may be recorded tells how to repeat it safely."""
    lost = CallFailed(problem=Problem(code=grpc.StatusCode.UNAVAILABLE, message="gone"))
    room = Room(Calls(start=lost))

    with pytest.raises(CallFailed) as failed:
        room.session.start(pb.StartFlowRequest(request_id="r1"), watch=False)
    assert "--request-id r1" in failed.value.advice


def test_ctrl_c_before_the_answer_tells_how_to_repeat_it_safely() -> None:
    """Ctrl-C before the answer tells how to repeat it safely."""
    room = Room(Calls(start=KeyboardInterrupt()))

    assert INTERRUPTED == room.session.start(pb.StartFlowRequest(request_id="r1"), watch=True)
    assert "--request-id r1" in room.err.getvalue()


@pytest.mark.parametrize("readable", [True, False])
def test_ctrl_c_while_a_start_is_watched_tells_how_to_watch_on(readable: bool) -> None:  # noqa: FBT001 - a column
    """Ctrl-C while a start is watched tells how to watch on."""
    room = Room(Calls(stream=(heartbeat(7), KeyboardInterrupt())), readable=readable)

    assert INTERRUPTED == room.session.start(pb.StartFlowRequest(request_id="r1"), watch=True)
    assert "the starts continue. To resume: startflow watch s1 --until-done" in room.err.getvalue()


def test_ctrl_c_while_everything_is_watched_tells_from_where_to_watch_on() -> None:
    """Ctrl-C while everything is watched tells from where to watch on."""
    room = Room(Calls(stream=(heartbeat(7), KeyboardInterrupt())))

    assert INTERRUPTED == room.session.watch(pb.WatchFlowStartsRequest())
    assert "--after-revision 7 --epoch e1" in room.err.getvalue()


def test_ctrl_c_before_anything_came_cannot_tell_from_where() -> None:
    """Ctrl-C before anything came cannot tell from where."""
    room = Room(Calls(stream=(KeyboardInterrupt(),)))

    assert INTERRUPTED == room.session.watch(pb.WatchFlowStartsRequest())
    assert "To resume: repeat the command\n" in room.err.getvalue()


def test_a_wait_that_takes_too_long_is_not_clean() -> None:
    """A wait that takes too long is not clean."""
    running = changed(7, flow_start(state=STATE.STATE_STARTED))
    room = Room(Calls(stream=(running, WatchTimedOut())), timeout=5)

    assert NOT_CLEAN == room.session.watch(pb.WatchFlowStartsRequest(ids=["s1"], until_done=True))
    assert [
        "Not done after 5 s. To resume: startflow watch s1 --until-done",
        "s1 has not ended: it is STARTED.",
    ] == room.err.getvalue().splitlines()


def test_a_plain_watch_may_simply_end_with_its_time() -> None:
    """A plain watch may simply end with its time."""
    room = Room(Calls(stream=(heartbeat(7), WatchTimedOut())), timeout=5)

    assert OK == room.session.watch(pb.WatchFlowStartsRequest())
    assert "" == room.err.getvalue()


def test_a_start_that_ended_before_the_watch_resumed_is_looked_up() -> None:
    """A start that ended before the watch resumed is looked up."""
    room = Room(Calls(get=pb.GetFlowStartResponse(flow_start=flow_start(state=STATE.STATE_FAILED))))

    assert NOT_CLEAN == room.session.watch(pb.WatchFlowStartsRequest(ids=["s1"], until_done=True, after_revision=99))
    assert "s1 ended FAILED" in room.err.getvalue()


def test_watching_many_on_a_terminal_is_a_table_of_the_latest() -> None:
    """Watching many on a terminal is a table of the latest."""
    messages = [changed(n, flow_start(f"s{n}")) for n in range(1, 60)]
    room = Room(Calls(stream=(*messages, changed(60, flow_start("s1", STATE.STATE_FAILED)))), readable=True)

    assert OK == room.session.watch(pb.WatchFlowStartsRequest())
    rows = [line.split()[0] for line in room.out.getvalue().splitlines() if " rapidpro " in line]
    assert ["s1", "s59", "s58"] == rows[:3]
    assert len(rows) < 59


def test_a_watch_that_begins_anew_shows_nothing_of_before() -> None:
    """What a restored store does not have is not shown beside what it has."""
    before, after = changed(7, flow_start("s1")), changed(2, flow_start("s2"))
    room = Room(Calls(stream=(before, ANEW, after)), readable=True)

    assert OK == room.session.watch(pb.WatchFlowStartsRequest())
    assert "s2 rapidpro" in room.out.getvalue()
    assert "s1 rapidpro" not in room.out.getvalue()
    assert "1\N{NO-BREAK SPACE}start ·" in room.out.getvalue()


def test_a_person_who_waited_is_told_how_it_went() -> None:
    """Of one start how long it took; of several how many were clean, and of each other what it lacks."""
    done = [changed(n, flow_start(f"s{n}", end_time=timestamp_pb2.Timestamp(seconds=1_005))) for n in (1, 2)]
    failed = changed(3, flow_start("s3", STATE.STATE_FAILED))
    one = Room(Calls(stream=(done[0],)), readable=True)
    three = Room(Calls(stream=(*done, failed)), readable=True)

    assert OK == one.session.watch(pb.WatchFlowStartsRequest(ids=["s1"], until_done=True))
    assert NOT_CLEAN == three.session.watch(pb.WatchFlowStartsRequest(ids=["s1", "s2", "s3"], until_done=True))

    assert "s1 completed in 5 s.\n" == one.err.getvalue()
    said = three.err.getvalue().splitlines()
    assert [
        "s3 ended FAILED",
        "2 of 3 starts completed, with nothing failed, skipped, interrupted or uncertain.",
    ] == said


@pytest.mark.parametrize(("meaning", "says"), [
    ("RECIPIENTS_ENTERED", "everyone has entered the flow; conversations may continue"),
    ("EXECUTIONS_ENDED",   "every execution is over; whether it succeeded is not known"),
])  # fmt: skip
def test_what_completed_means_is_said_and_no_more(meaning: str, says: str) -> None:
    """No backend tells that anybody was reached: a message that is undelivered lets the flow complete all the same."""
    ended = timestamp_pb2.Timestamp(seconds=1_005)
    means = pb.CompletionMeaning.Value(f"COMPLETION_MEANING_{meaning}")
    room = Room(Calls(stream=(changed(1, flow_start(end_time=ended, completion_meaning=means)),)), readable=True)

    assert OK == room.session.watch(pb.WatchFlowStartsRequest(ids=["s1"], until_done=True))
    assert f"s1 completed in 5 s: {says}.\n" == room.err.getvalue()


@pytest.mark.parametrize(("code", "request_", "advice"), [
    ("UNAUTHENTICATED",    {},                                     "--after-revision 7 --epoch e1"),
    ("RESOURCE_EXHAUSTED", {"ids": ["s1"], "until_done": True},    "startflow watch s1 --until-done"),
    ("NOT_FOUND",          {"ids": ["s1"], "until_done": True},    ""),
])  # fmt: skip
def test_a_watch_that_is_ended_tells_how_to_watch_on(code: str, request_: dict[str, Any], advice: str) -> None:
    """Unless what was asked for is not there."""
    refused = CallFailed(problem=Problem(code=grpc.StatusCode[code], message="no", reason="R"))
    room = Room(Calls(stream=(heartbeat(7), refused)))

    with pytest.raises(CallFailed) as failed:
        room.session.watch(pb.WatchFlowStartsRequest(**request_))

    assert advice in failed.value.advice
    assert bool(advice) is bool(failed.value.advice)


def test_a_list_on_a_terminal_says_that_there_are_more() -> None:
    """A list on a terminal says that there are more."""
    room = Room(Calls(starts=tuple(flow_start(f"s{n}") for n in range(5))), readable=True)

    assert OK == room.session.list(pb.FlowStartFilter(), 2)
    assert "s1" in room.out.getvalue()
    assert "s2 " not in room.out.getvalue()
    assert "There are more: --limit 4" in room.err.getvalue()


def test_an_empty_list_says_so_to_a_person_and_nothing_to_a_pipe() -> None:
    """An empty list says so to a person and nothing to a pipe."""
    person, pipe = Room(Calls(), readable=True), Room(Calls())

    assert [OK, OK] == [person.session.list(pb.FlowStartFilter(), 2), pipe.session.list(pb.FlowStartFilter(), 2)]
    assert "No starts match." in person.err.getvalue()
    assert "" == pipe.out.getvalue() + pipe.err.getvalue()


def test_a_list_in_a_pipe_is_a_start_a_line() -> None:
    """A list in a pipe is a start a line."""
    room = Room(Calls(starts=(flow_start("s1"), flow_start("s2"), flow_start("s3"))))

    assert OK == room.session.list(pb.FlowStartFilter(), 2)
    assert ['{"id":"s1"', '{"id":"s2"'] == [line[:10] for line in room.out.getvalue().splitlines()]


def test_a_start_and_the_backends_are_shown_to_a_person() -> None:
    """A start and the backends are shown to a person."""
    room = Room(Calls(get=pb.GetFlowStartResponse(flow_start=flow_start())), readable=True)

    assert [OK, OK] == [room.session.get("s1"), room.session.backends()]
    assert "COMPLETED" in room.out.getvalue()
    assert "textit" in room.out.getvalue()


def told_that_it_waits(start: pb.FlowStart) -> pb.GetFlowStartResponse:
    """Answers what the gateway knows of a start where it is asked."""
    shown = pb.FlowStart()
    shown.CopyFrom(start)
    shown.warnings.add(reason="WAITING", message="The backend asked to wait.")
    shown.next_attempt_time.FromSeconds(1_040)
    return pb.GetFlowStartResponse(flow_start=shown)


def until_asked(calls: Calls, *messages: pb.WatchFlowStartsResponse) -> Iterator[pb.WatchFlowStartsResponse]:
    """Streams these and then nothing, as where a start waits, until the start was asked for twice."""
    yield from messages
    for _ in range(2):
        assert calls.asked.acquire(timeout=30)


@pytest.mark.parametrize("ids", [["s1"], []])
def test_c6_a_watch_says_why_a_start_waits(ids: list[str]) -> None:
    """Asked for while the stream stands still, whether it is of one start or of everything."""
    waiting = flow_start("s1", state=STATE.STATE_STARTED, progress=pb.Progress(started=1))
    others = [changed(n, flow_start(f"t{n}", state=STATE.STATE_COMPLETED)) for n in range(10, 50 if not ids else 10)]
    calls = Calls(get=told_that_it_waits(waiting))
    calls.stream = until_asked(calls, changed(9, waiting), *others)
    room = Room(calls, readable=True, patience=0.01)

    assert OK == room.session.watch(pb.WatchFlowStartsRequest(ids=ids))
    assert "The backend asked to wait." in room.out.getvalue()
    assert "ext attempt in 30 s" in room.out.getvalue()


def test_c6_beside_a_pipe_it_is_said_once_why_a_start_waits() -> None:
    """And again where the time is up; the lines of the pipe have what the gateway sent, and nothing else."""
    waiting = flow_start("s1", state=STATE.STATE_PENDING)
    calls = Calls(get=told_that_it_waits(waiting))
    calls.stream = until_asked(calls, changed(9, waiting))
    room = Room(calls, patience=0.01)

    assert NOT_CLEAN == room.session.watch(pb.WatchFlowStartsRequest(ids=["s1"], until_done=True))
    assert [
        "Waiting: The backend asked to wait. Next attempt in 30 s.",
        "s1 has not ended: it is PENDING, waiting: The backend asked to wait.",
    ] == room.err.getvalue().splitlines()
    assert "WAITING" not in room.out.getvalue()


def test_c6_what_waits_is_asked_for_less_and_less_often() -> None:
    """A start may wait for days; whatever moves is asked for soon."""
    board, pauses = Board(), []
    board.take(changed(9, flow_start("s1", state=STATE.STATE_PENDING)))
    calls = Calls(get=told_that_it_waits(flow_start("s1", state=STATE.STATE_PENDING)))
    asking = Asking(calls, board, lambda: None)

    def wait(pause: float) -> bool:
        pauses.append(pause)
        if len(pauses) == 7:
            board.take(changed(10, flow_start("s1", state=STATE.STATE_PENDING, revision=8)))
        return len(pauses) == 9

    asking._ended.wait = wait
    asking._ask()

    assert [2, 2, 4, 8, 16, 20, 20, 2, 4] == pauses
