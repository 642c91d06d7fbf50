import sys
from datetime import UTC, datetime
from io import StringIO

import pytest
from google.protobuf import timestamp_pb2
from rich.console import Console
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.cli.board import KEPT, Board
from tests.cli.stub_gateway import EPOCH, STATE, changed, flow_start, heartbeat
from tests.lengths import size

NOW = datetime.fromtimestamp(1_010, UTC)
SNAPSHOT_END = pb.WatchFlowStartsResponse(revision=1, epoch=EPOCH, snapshot_end=pb.SnapshotEnd())


def at(seconds: int) -> timestamp_pb2.Timestamp:
    """Builds a time."""
    return timestamp_pb2.Timestamp(seconds=seconds)


def start(number: int, state: STATE.ValueType, **fields: object) -> pb.WatchFlowStartsResponse:
    """Builds the change of a start whose id is as long as they are."""
    return changed(number, flow_start(f"06h022rjohu90b28sfu1{number:06}", state, **fields))


def lines(board: Board, width: int = 100, height: int = 24) -> list[str]:
    """Returns what is drawn, a line each."""
    console = Console(file=StringIO(), width=width)
    console.print(board.picture(width, height, NOW))
    return console.file.getvalue().splitlines()


def rows(board: Board, width: int = 100, height: int = 24) -> list[str]:
    """Returns the last digits of the ids that are drawn."""
    return [line.split()[0][-6:].lstrip("0") for line in lines(board, width, height) if line.startswith("06h")]


@pytest.mark.parametrize("height", [4, 5, 10, 24])
def test_the_latest_are_drawn_first_and_never_more_than_fit(height: int) -> None:
    """The rest is counted, each state in the last line."""
    board = Board()
    for number in range(1, 31):
        board.take(start(number, STATE.STATE_STARTED))
    board.take(start(3, STATE.STATE_FAILED))

    drawn = lines(board, height=height)

    assert height == len(drawn)
    assert ["3", *(str(30 - n) for n in range(height - 4))] == rows(board, height=height)
    assert f"… and {30 - (height - 3)} more" == drawn[-2]
    assert "30\N{NO-BREAK SPACE}starts · started\N{NO-BREAK SPACE}29 · failed\N{NO-BREAK SPACE}1" == drawn[-1]


@pytest.mark.parametrize("height", [4, 5, 24])
def test_why_starts_wait_is_drawn_where_there_is_room(height: int) -> None:
    """It leaves room for the headings, a start and the sum; a change of the start takes it away."""
    board = Board()
    for number in range(1, 31):
        board.take(start(number, STATE.STATE_PENDING))
    (asked,) = board.unsent(1)
    told = pb.FlowStart()
    told.CopyFrom(asked)
    told.warnings.add(reason="WAITING", message="The backend asked to wait.")
    board.learn([told])

    drawn = lines(board, height=height)
    assert height == len(drawn)
    assert (height > 4) is ("Waiting: The backend asked to wait." in drawn)

    board.take(start(30, STATE.STATE_QUEUED))
    assert not [line for line in lines(board, height=height) if "Waiting" in line]


def test_what_fits_is_drawn_whole() -> None:
    """Then nothing is left over to count."""
    board = Board()
    for number in (1, 2, 3):
        board.take(start(number, STATE.STATE_QUEUED))

    assert ["3", "2", "1"] == rows(board, height=5)
    assert "more" not in "".join(lines(board, height=5))


@pytest.mark.parametrize("width", [10, 26, 40, 60, 80, 200])
def test_every_line_fits_however_narrow_the_terminal_is(width: int) -> None:
    """Long cells are cut; columns that there is no room for are left out; id and state come first."""
    board = Board()
    progress = pb.Progress(queued=1_000, started=2_000, completed=3_000, failed=4_000)
    for number in range(1, 5):
        state = list(STATE.values())[number]
        board.take(start(number, state, recipient_count=10_000, progress=progress, flow="f" * 60, backend="日本" * 10))

    drawn = lines(board, width)

    assert max(Console().measure(line).maximum if line else 0 for line in drawn) <= width
    assert 4 == sum(line.startswith("06h") for line in drawn)
    if width >= 40:
        assert any(line.startswith("06h022rjohu90b28sfu1000003 ") and " STARTED" in line for line in drawn)
    assert (width >= 60) is any("queued 1,000" in line for line in drawn)


def test_the_counts_are_those_of_every_start_and_memory_is_not() -> None:
    """100,000 starts: a few remembered, those that still move known by their state alone, all of them counted."""
    board, count = Board(), size(100_000, quick=20_000)
    for number in range(count):
        board.take(start(number, STATE.STATE_COMPLETED if number % 100 else STATE.STATE_QUEUED, end_time=at(1_005)))
    board.take(SNAPSHOT_END)
    board.take(start(0, STATE.STATE_COMPLETED, end_time=at(1_005)))

    assert KEPT == len(board._latest)
    moving = count // 100 - 1
    assert moving == len(board._moving)
    assert f"{count:,} starts · queued {moving:,} · completed {count - moving:,}" == lines(board)[-1].replace(
        "\N{NO-BREAK SPACE}", " "
    )


def test_a_change_costs_the_same_among_many_as_among_few() -> None:
    """Counted in the steps that Python makes, which no other program slows down."""

    def steps(board: Board) -> int:
        made = 0

        def count(*_: object) -> object:
            nonlocal made
            made += 1
            return count

        message = start(7, STATE.STATE_STARTED)
        sys.settrace(count)
        try:
            board.take(message)
        finally:
            sys.settrace(None)
        return made

    few, many = Board(), Board()
    for number in range(10):
        few.take(start(number, STATE.STATE_QUEUED))
    for number in range(20_000):
        many.take(start(number, STATE.STATE_QUEUED))

    assert steps(many) <= steps(few) + 2


def test_a_late_warning_is_not_one_more_start() -> None:
    """It had ended, was counted, and is forgotten among those that came after it."""
    board = Board()
    board.take(start(0, STATE.STATE_COMPLETED, end_time=at(1_005)))
    board.take(SNAPSHOT_END)
    for number in range(1, KEPT + 1):
        board.take(start(number, STATE.STATE_QUEUED))
    board.take(start(0, STATE.STATE_COMPLETED, end_time=at(1_004)))  # and changed a second later

    assert lines(board)[-1].startswith("1,001\N{NO-BREAK SPACE}starts")


def test_what_begins_anew_forgets() -> None:
    """The snapshot that follows tells everything again."""
    board = Board()
    board.take(start(1, STATE.STATE_QUEUED))
    board.clear()

    assert [] == lines(board)


def test_that_there_are_no_starts_is_said_once_it_is_known() -> None:
    """Where no gateway answers, or lets nobody in, there may be any number of them."""
    board = Board()

    assert [] == lines(board)
    board.take(pb.WatchFlowStartsResponse(snapshot_end=pb.SnapshotEnd()))
    assert ["No starts yet."] == lines(board)


def test_one_start_has_bars_and_no_table() -> None:
    """From its first word on."""
    board = Board(one=True)
    board.take(heartbeat(1))
    assert [] == lines(board)

    board.take(start(1, STATE.STATE_STARTED, progress=pb.Progress(started=2)))
    assert ["pending", "started"] == [line.split()[0] for line in lines(board)[2:4]]


@pytest.mark.parametrize("width", [78, 100])
def test_the_table_says_why_a_start_failed(width: int) -> None:
    """In a word, before how far it got, so that a narrow terminal has it too."""
    board = Board()
    board.take(
        start(1, STATE.STATE_FAILED, failure=pb.Failure(reason="ADDRESS_INVALID"), progress=pb.Progress(failed=3))
    )

    assert "ADDRESS_IN" in next(line for line in lines(board, width) if line.startswith("06h"))
