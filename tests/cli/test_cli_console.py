import json
from datetime import UTC, datetime
from io import StringIO

import grpc
import pytest
from google.protobuf import json_format, struct_pb2
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.cli.client import CallFailed, Problem
from gateway.cli.console import Console, json_line, problem_lines
from tests.cli.stub_gateway import changed, flow_start


class TerminalFile(StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        """Says so."""
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a terminal of any developer's, or none, the same."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def test_a_message_is_one_compact_line_of_protobuf_json() -> None:
    """A message is one compact line of protobuf JSON."""
    message = changed(7, flow_start(labels={"b": "1", "a": "2"}, request_id="r\n1"))

    line = json_line(message)

    assert message == json_format.Parse(line, pb.WatchFlowStartsResponse())
    assert line.startswith('{"revision":"7","epoch":"e1","changed":{"id":"s1","backend":"rapidpro",')
    assert '"labels":{"a":"2","b":"1"}' in line
    assert "\n" not in line


def test_integral_params_are_written_as_integers_in_sorted_order() -> None:
    """Integral params are written as integers in sorted order."""
    params = struct_pb2.Struct()
    params.update({"b": [5, 1.5, None], "a": {"d": 1, "c": True}})

    line = json_line(pb.GetFlowStartResponse(params=params))

    assert '{"params":{"a":{"c":true,"d":1},"b":[5,1.5,null]}}' == line


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.floats(allow_nan=False, allow_infinity=False)))
def test_params_survive_the_way_to_json(params: dict[str, float]) -> None:
    """Params survive the way to JSON."""
    struct = struct_pb2.Struct()
    struct.update(params)

    line = json_line(pb.GetFlowStartResponse(params=struct))

    assert params == json.loads(line).get("params", {})
    assert line.isascii()


def test_a_problem_shows_every_bad_field_the_reason_what_is_known_and_when_to_return() -> None:
    """A problem shows every bad field, the reason, what is known and when to return."""
    problem = Problem(
        code=grpc.StatusCode.INVALID_ARGUMENT,
        message="2 fields are wrong.",
        reason="VALIDATION_FAILED",
        metadata={"first_id": "s9", "count": "2"},
        violations=(("urns[3]", "no scheme"), ("flow", "needed")),
        retry_after=2.5,
    )
    err = StringIO()
    Console(StringIO(), err).fail(CallFailed(problem=problem, advice="Do this."), "there:1")

    assert [
        "error: 2 fields are wrong. [VALIDATION_FAILED]",
        "  urns[3]: no scheme",
        "  flow: needed",
        "  first_id: s9",
        "  Try again in 2.5 s.",
        "  Do this.",
    ] == err.getvalue().splitlines()


@pytest.mark.parametrize(("code", "reason", "says"), [
    ("UNAVAILABLE",       "",                       "the gateway at there:1 cannot be reached: m [UNAVAILABLE]"),
    ("UNAVAILABLE",       "",                       "A proxy is in between"),
    ("UNAVAILABLE",       "STORE_UNAVAILABLE",      "m [STORE_UNAVAILABLE]"),
    ("DEADLINE_EXCEEDED", "",                       "did not answer in time"),
    ("OUT_OF_RANGE",      "REVISION_NOT_AVAILABLE", "Watch again without --after-revision and --epoch"),
    ("UNIMPLEMENTED",     "",                       "m [UNIMPLEMENTED]"),
])  # fmt: skip
def test_a_problem_says_what_a_person_can_do(code: str, reason: str, says: str) -> None:
    """A problem says what a person can do."""
    lines = problem_lines(Problem(code=grpc.StatusCode[code], message="m", reason=reason), "there:1")

    assert says in "\n".join(lines)


def test_a_problem_says_nothing_twice() -> None:
    """What the sentence has told is not repeated below it."""
    problem = Problem(
        code=grpc.StatusCode.INVALID_ARGUMENT,
        message="urns[3]: no scheme. s9 was first.",
        reason="R",
        metadata={"violation_count": "1", "first_id": "s9"},
        violations=(("urns[3]", "no scheme"),),
    )

    assert ["urns[3]: no scheme. s9 was first. [R]"] == problem_lines(problem, "there:1")


def test_a_field_that_its_sentence_names_is_not_named_twice() -> None:
    """The sentence is the gateway's, and begins with the field where that reads better."""
    problem = Problem(
        code=grpc.StatusCode.INVALID_ARGUMENT,
        message="2 fields are wrong.",
        violations=(("backend", "backend: the flow does not say which."), ("flow", "must be a UUID.")),
    )

    assert ["  backend: the flow does not say which.", "  flow: must be a UUID."] == problem_lines(problem, "there:1")[
        1:
    ]


def test_a_problem_with_more_fields_than_are_listed_says_how_many() -> None:
    """The gateway lists the first 20 and counts them all."""
    problem = Problem(
        code=grpc.StatusCode.INVALID_ARGUMENT,
        message="wrong",
        metadata={"violation_count": "31"},
        violations=(("flow", "needed"),),
    )

    assert "  violation_count: 31" == problem_lines(problem, "there:1")[-1]


def test_a_terminal_gets_colours() -> None:
    """A terminal gets colours."""
    out = TerminalFile()
    Console(out, StringIO()).show(Text("hello", style="red"))

    assert "\x1b[31m" in out.getvalue()


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR is respected."""
    monkeypatch.setenv("NO_COLOR", "1")
    out, err = TerminalFile(), TerminalFile()
    console = Console(out, err)
    console.show(Text("hello", style="red"))
    console.fail(CallFailed(problem=Problem(code=grpc.StatusCode.INTERNAL, message="m")), "there:1")

    assert "hello\n" == out.getvalue()
    assert "31m" not in err.getvalue()


def test_a_pipe_gets_neither_colours_nor_pictures() -> None:
    """A pipe gets neither colours nor pictures."""
    out, err = StringIO(), StringIO()
    console = Console(out, err)
    console.fail(CallFailed(problem=Problem(code=grpc.StatusCode.INTERNAL, message="m")), "there:1")

    assert not console.readable
    assert "error: m [INTERNAL]\n" == err.getvalue()


def test_a_notice_goes_above_a_live_picture() -> None:
    """A notice goes above a live picture."""
    out, err = TerminalFile(), TerminalFile()
    console = Console(out, err)
    with console.live(lambda _width, _height: Text("picture")):
        console.say("resuming")
    console.say("stopped")

    assert "resuming" in out.getvalue()
    assert "resuming" not in err.getvalue()
    assert "stopped" in err.getvalue()


def test_what_is_waited_for_is_a_line_of_the_live_picture_while_it_lasts() -> None:
    """With the time it began; it leaves nothing behind, and leaves the picture that much less room."""
    out, heights = TerminalFile(), []
    console = Console(out, TerminalFile(), now=lambda: datetime.fromtimestamp(3_661, UTC))

    def picture(_width: int, height: int) -> Text:
        heights.append(height)
        return Text("picture")

    with console.live(picture):
        console.wait("no connection")
    console.wait("")
    with console.live(picture):
        pass

    assert "no connection (waiting since 01:01:01 UTC)" in out.getvalue()
    assert heights[-1] == heights[0] == max(heights)
    assert max(heights) - 1 in heights
    assert not out.getvalue().rstrip("\n\x1b[?25h").endswith("UTC)")


def test_what_is_waited_for_is_a_notice_beside_a_pipe() -> None:
    """Each attempt with when the waiting began, and its end once."""
    err = StringIO()
    times = iter(datetime.fromtimestamp(seconds, UTC) for seconds in range(100))
    console = Console(StringIO(), err, now=lambda: next(times))
    for sentence in ("one", "two", "", "", "three"):
        console.wait(sentence)

    assert [
        "one (waiting since 00:00:01 UTC)",
        "two (waiting since 00:00:01 UTC)",
        "the gateway answers again",
        "three (waiting since 00:00:02 UTC)",
    ] == err.getvalue().splitlines()


def test_a_long_notice_stays_on_one_line() -> None:
    """A long notice stays on one line."""
    err = StringIO()
    Console(StringIO(), err).say("word " * 60)

    assert 1 == len(err.getvalue().splitlines())
