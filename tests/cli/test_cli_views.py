from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2
from rich.console import Console
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.cli import views
from gateway.cli.board import latest_table
from tests.cli.stub_gateway import STATE, flow_start

NOW = datetime.fromtimestamp(1_010, UTC)


def render(renderable: object, width: int = 140) -> str:
    """Returns a picture as a terminal of this width shows it."""
    console = Console(file=StringIO(), width=width, force_terminal=False)
    console.print(renderable, crop=False)
    return console.file.getvalue()


@pytest.mark.parametrize(("seconds", "expected"), [
    (-3, "0 s"), (0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3_660, "1 h 1 min"), (200_000, "2 d"),
])  # fmt: skip
def test_how_long_a_start_takes_is_short_to_read(seconds: int, expected: str) -> None:
    """How long a start takes is short to read."""
    assert expected == views.age(flow_start(), datetime.fromtimestamp(1_000, UTC) + timedelta(seconds=seconds))


def test_a_start_that_has_ended_grows_no_older() -> None:
    """A start that has ended grows no older."""
    start = flow_start(end_time=timestamp_pb2.Timestamp(seconds=1_004))

    assert "4 s" == views.age(start, NOW)


def test_counts_leave_out_what_is_none_and_add_what_is_pending() -> None:
    """Counts leave out what is none and add what is pending."""
    start = flow_start(progress=pb.Progress(started=1, failed=1, contact_count=0, contact_started_count=0))

    assert "pending 1 · started 1 · failed 1 · contacts 0/0" == views.counts_text(start)


def test_a_live_start_shows_state_progress_time_warnings_and_failure() -> None:
    """A live start shows state, progress, time, warnings and failure."""
    start = flow_start(
        state=STATE.STATE_STARTED,
        stalled=True,
        progress=pb.Progress(started=1, completed=1, failed=1),
        next_attempt_time=timestamp_pb2.Timestamp(seconds=1_040),
        warnings=[pb.Warning(reason="DUPLICATES_REMOVED", message="1 was named twice")],
        failure=pb.Failure(reason="BACKEND_REJECTED", message="no such number"),
    )

    shown = render(views.start_view(start, NOW))

    for part in (
        "s1  rapidpro  f5901b62",
        "STARTED (stalled)",
        "2 of 3 ended",
        "10 s",
        "next attempt in 30 s",
        "BACKEND_REJECTED: no such number",
        "DUPLICATES_REMOVED: 1 was named twice",
    ):
        assert part in shown
    bars = [line.split() for line in shown.splitlines()[2:5]]
    assert [["started", "1"], ["completed", "1"], ["failed", "1"]] == [[name, number] for name, _, number in bars]
    assert {10} == {len(bar) for _, bar, _ in bars}  # a third of 30


@pytest.mark.parametrize("width", [40, 18])
def test_the_bars_of_a_start_fit_a_narrow_terminal(width: int) -> None:
    """They get shorter, and are left out where they would tell nothing."""
    start = flow_start(state=STATE.STATE_STARTED, recipient_count=10_000, progress=pb.Progress(started=9_000))

    lines = render(views.start_view(start, NOW, width), width=width).splitlines()

    assert all(len(line) <= width for line in lines)
    counts = lines[-2:]
    assert [("pending", "1,000"), ("started", "9,000")] == [(line.split()[0], line.split()[-1]) for line in counts]
    assert (width > 30) is ("━" in counts[1])


def test_a_cancelled_start_that_runs_on_says_so() -> None:
    """A cancelled start that runs on says so."""
    start = flow_start(state=STATE.STATE_STARTED, cancel_requested_time=timestamp_pb2.Timestamp(seconds=1_001))

    assert "STARTED (cancelling)" == views.state_text(start).plain


def test_a_state_of_a_newer_gateway_is_shown_as_its_number() -> None:
    """A state of a newer gateway is shown as its number."""
    assert "99" == views.state_name(flow_start(state=99))


def test_a_list_has_a_row_for_each_start() -> None:
    """A list has a row for each start."""
    starts = [flow_start("s1"), flow_start("s2", STATE.STATE_FAILED, progress=pb.Progress(failed=3))]

    shown = render(latest_table(starts, 140, NOW)).splitlines()

    flow = "f5901b62-ba76-4003-9c62-72fdacc1b7b7"
    assert ["ID", "BACKEND", "FLOW", "STATE", "TO", "PROGRESS", "UPDATED"] == shown[0].split()
    assert f"s1 rapidpro {flow} COMPLETED 3 pending 3 5s ago" == " ".join(shown[1].split())
    assert f"s2 rapidpro {flow} FAILED 3 failed 3 5s ago" == " ".join(shown[2].split())


def test_a_narrow_terminal_keeps_ids_states_and_times_whole() -> None:
    """A narrow terminal keeps ids, states and times whole."""
    now = NOW + timedelta(hours=5)
    for width in (80, 60):  # D10
        shown = render(latest_table([flow_start("01jabcdefghijklmnopqrstuvw")], width, now), width=width)

        assert "01jabcdefghijklmnopqrstuvw" in shown
        assert " COMPLETED " in shown
        assert " 5h ago" in shown
        assert 2 == len(shown.splitlines())


def test_a_list_on_a_narrow_terminal_cuts_no_state_and_no_progress() -> None:
    """Newcomer 24: `completed 4…` says nothing; what is drawn anew all the time is still cut."""
    progress = pb.Progress(completed=4_000, failed=12)
    busy = flow_start("01jabcdefghijklmnopqrstuvw", STATE.STATE_STARTED, progress=progress, recipient_count=4_500)

    wrapped = render(latest_table([busy], 60, NOW, wraps=True), width=60)
    cut = render(latest_table([busy], 60, NOW), width=60)

    assert "…" not in wrapped
    for part in ("4,000", "completed", "failed", "12", "pending", "488"):
        assert part in wrapped
    assert ("…", 2) == ("…" if "…" in cut else "", len(cut.splitlines()))


def test_an_operator_sees_whose_the_starts_are() -> None:
    """They are of several tenants; whoever sees those of one knows whose they are."""
    several = [flow_start("s1", tenant="clinic"), flow_start("s2", tenant="school")]

    assert ["ID", "TENANT", "BACKEND"] == render(latest_table(several, 140, NOW)).split()[:3]
    assert "clinic" in render(latest_table(several, 80, NOW), width=80)
    assert "TENANT" not in render(latest_table(several[:1], 140, NOW))


DISPATCH, RUN, FLOW = "06h23b8vjosjgo4kqmjqvhkdrg-1", "bc6b5a7e-457f-4b5e-8c6c-30b4a1b1d3c4", "f5901b62-ba76-4003-9c62"
REASON = "BACKEND_CREDENTIALS_REFUSED"
WIDE: list[tuple[Any, tuple[str, ...]]] = [
    (
        lambda width: views.recipients_table(
            [
                pb.Recipient(
                    recipient="whatsapp:+12065550100200300",
                    dispatch_id=DISPATCH,
                    external_id=RUN,
                    failure=pb.Failure(reason=REASON, message="It is so."),
                )
            ],
            width,
        ),
        ("whatsapp:+12065550100200300", DISPATCH, RUN, REASON),
    ),
    (
        lambda width: views.changes_table(
            [pb.Change(attempt=pb.Attempt(number=1, dispatch_id=DISPATCH, detail="HTTP 400"))], width
        ),
        (DISPATCH,),
    ),
    (
        lambda width: views.backends_table(
            [pb.Backend(name="textit", health=pb.Backend.Health(reason=REASON), flow_aliases={"registration": FLOW})],
            width,
        ),
        (f"registration={FLOW}", REASON),
    ),
    (lambda width: views.flows_table([pb.Flow(id=RUN, name="A long name", aliases=["registration"])], width), (RUN,)),
    (
        lambda width: views.findings_table([("backends.textit.flows.registration", "OK", "/var/lib/gw/s.db")], width),
        ("backends.textit.flows.registration", "/var/lib/gw/s.db"),
    ),
]


@pytest.mark.parametrize("width", [200, 100, 80, 60, 30])
@pytest.mark.parametrize(("view", "wholes"), WIDE)
def test_what_is_to_be_copied_is_never_cut(view: Any, wholes: tuple[str, ...], width: int) -> None:
    """Nor broken over lines, however narrow the terminal is: it wraps what is too long for it by itself."""
    shown = render(view(width), width=width)

    assert [] == [whole for whole in wholes if whole not in shown]
    assert "…" not in shown


def test_details_show_what_is_set_and_params_as_they_were_sent() -> None:
    """Details show what is set and params as they were sent."""
    params = struct_pb2.Struct()
    params.update({"b": 5, "a": {"x": 1.5}})
    start = flow_start(
        labels={"z": "1", "a": "2"},
        external_id="abc",
        end_time=timestamp_pb2.Timestamp(seconds=1_005),
        completion_meaning=pb.COMPLETION_MEANING_RECIPIENTS_ENTERED,
    )

    shown = render(views.start_details(pb.GetFlowStartResponse(flow_start=start, params=params), NOW))

    assert "a=2, z=1" in shown
    assert "1970-01-01 00:16:45 UTC" in shown
    assert "everyone has entered the flow" in shown
    assert shown.endswith('params\n{\n  "a": {\n    "x": 1.5\n  },\n  "b": 5\n}\n')
    assert "request id" not in shown


def test_backends_show_health_lane_limits_and_aliases() -> None:
    """Backends show health, lane, limits and aliases."""
    health = pb.Backend.Health(state=pb.Backend.Health.STATE_BLOCKED, reason="BACKEND_SUSPENDED", message="pay them")
    backend = pb.Backend(
        name="textit",
        kind="rapidpro",
        health=health,
        lane=pb.Backend.Lane(pending=1_200, in_flight=2, estimated_drain=duration_pb2.Duration(seconds=90)),
        limits=pb.Backend.Limits(
            recipients_per_dispatch=100,
            params_size=10_000,
            rate=2_500,
            rate_period=duration_pb2.Duration(seconds=3_600),
        ),
        quota_left=17,
        flow_aliases={"registration": "f59", "alarm": "a01"},
    )

    shown = render(views.backends_table([backend, pb.Backend(name="studio", kind="twilio")], 200), width=200)

    for part in (
        "BLOCKED",
        "\ntextit: BACKEND_SUSPENDED: pay them\n",
        "1,200 pending, 2 in flight, about 1 min 30 s",
        "2,500 per hour, 17 left",
        "alarm=a01",
        "not used yet",
    ):
        assert part in shown


def test_what_came_from_elsewhere_cannot_steer_the_terminal() -> None:
    """What came from elsewhere cannot steer the terminal."""
    start = flow_start("\x1b[2Js1", failure=pb.Failure(reason="R", message="[red]x[/red]\r\x9b1A"))

    shown = render(views.start_view(start, NOW))

    assert "\x1b" not in shown
    assert "\\x1b[2Js1" in shown
    assert "[red]x[/red]\\r\\x9b1A" in shown


def test_c6_a_list_says_why_starts_wait() -> None:
    """A line for each reason, with how many and until when."""
    waiting = pb.FlowStart(id="a", warnings=[pb.Warning(reason="WAITING", message="The backend asked to wait.")])
    waiting.next_attempt_time.FromDatetime(NOW + timedelta(seconds=90))
    queue = pb.FlowStart(id="b", warnings=[pb.Warning(reason="WAITING", message="Others are sent first.")])

    assert [
        "2 waiting: The backend asked to wait. Next attempt in 1 min 30 s.",
        "1 waiting: Others are sent first.",
    ] == [line.plain for line in views.waits([waiting, queue, pb.FlowStart(id="c"), waiting], NOW)]


def test_newcomer_10_what_is_uncertain_at_rest_is_shown_with_the_command_that_settles_it() -> None:
    """Its message has the names of the API; and a history says why, each time."""
    failure = pb.Failure(reason="OUTCOME_UNKNOWN", message="Two scans did not show it.")
    resting = flow_start(state=pb.FlowStart.STATE_UNCERTAIN, failure=failure)
    sought = flow_start(state=pb.FlowStart.STATE_UNCERTAIN, next_attempt_time=timestamp_pb2.Timestamp(seconds=2_000))

    assert "`startflow resolve s1 --help` says how" in render(
        views.start_details(pb.GetFlowStartResponse(flow_start=resting), NOW)
    )
    assert "startflow resolve" not in render(views.start_details(pb.GetFlowStartResponse(flow_start=sought), NOW))
    assert "OUTCOME_UNKNOWN: Two scans did not show it." in render(
        views.changes_table([pb.Change(changed=resting)], 200), width=200
    )


def test_newcomer_10_what_cannot_be_cancelled_is_not_shown_as_if_it_were_being() -> None:
    """RapidPro has accepted it, and it runs on: nothing is being cancelled."""
    asked = timestamp_pb2.Timestamp(seconds=1_001)
    going = flow_start(state=STATE.STATE_STARTED, cancel_requested_time=asked)
    runs_on = flow_start(
        state=STATE.STATE_STARTED, cancel_requested_time=asked, warnings=[pb.Warning(reason="CANNOT_CANCEL")]
    )

    assert "STARTED (cancelling)" == views.state_text(going).plain
    assert "STARTED (cannot cancel)" == views.state_text(runs_on).plain
