import dataclasses
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.model import Asked, Change, CompletionMeaning, FlowStart, Notice, Progress, Standing, State
from gateway.wire import write_flow_start, write_heartbeat, write_snapshot_end, write_time, write_watch_changed

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)


def at(minutes: int) -> Timestamp:
    """Writes a time so many minutes after `WHEN`."""
    return Timestamp(seconds=1_767_323_045 + 60 * minutes, nanos=678_901_000)


ASKED = Asked(
    id="01jz",
    tenant="acme",
    backend="textit",
    flow="f5901b62-ba76-4003-9c62-72fdacc1b7b7",
    recipient_count=3,
    params={"secret": "x"},
    sender="+18007654321",
    restart_participants=True,
    exclude_active=False,
    request_id="order 66",
    labels={"team": "blue"},
    schedule_at=WHEN + timedelta(minutes=1),
    expire_at=WHEN + timedelta(minutes=2),
    created_at=WHEN,
    completion_meaning=CompletionMeaning.RECIPIENTS_ENTERED,
)
STANDING = Standing(
    state=State.UNCERTAIN,
    failure=Notice(reason="OUTCOME_UNKNOWN", message="It may have been sent.", metadata={"code": "504"}),
    progress=Progress(
        queued=1, started=2, completed=3, failed=4, interrupted=5, skipped=6, uncertain=7, contact_count=0
    ),
    external_id="FN1",
    stalled=True,
    warnings=(Notice(reason="DUPLICATES_REMOVED", message="Two.", metadata={"urns": "2"}),),
    updated_at=WHEN + timedelta(minutes=3),
    next_attempt_at=WHEN + timedelta(minutes=4),
    cancel_requested_at=WHEN + timedelta(minutes=5),
    ended_at=WHEN + timedelta(minutes=6),
)
WHOLE = FlowStart(asked=ASKED, standing=STANDING, revision=2**40)

WRITTEN = pb.FlowStart(
    id="01jz",
    tenant="acme",
    backend="textit",
    flow="f5901b62-ba76-4003-9c62-72fdacc1b7b7",
    recipient_count=3,
    labels={"team": "blue"},
    request_id="order 66",
    state=pb.FlowStart.STATE_UNCERTAIN,
    failure=pb.Failure(reason="OUTCOME_UNKNOWN", message="It may have been sent.", metadata={"code": "504"}),
    progress=pb.Progress(
        queued=1, started=2, completed=3, failed=4, interrupted=5, skipped=6, uncertain=7, contact_count=0
    ),
    external_id="FN1",
    stalled=True,
    warnings=[pb.Warning(reason="DUPLICATES_REMOVED", message="Two.", metadata={"urns": "2"})],
    create_time=at(0),
    update_time=at(3),
    schedule_time=at(1),
    expire_time=at(2),
    next_attempt_time=at(4),
    cancel_requested_time=at(5),
    end_time=at(6),
    revision=2**40,
    completion_meaning=pb.COMPLETION_MEANING_RECIPIENTS_ENTERED,
)


def small(**changed: object) -> FlowStart:
    """Makes a start of which little is known."""
    asked = Asked(
        tenant="default",
        backend="textit",
        flow="f",
        recipient_count=1,
        params={},
        created_at=WHEN,
        completion_meaning=CompletionMeaning.EXECUTIONS_ENDED,
    )
    standing = Standing(updated_at=WHEN)
    return FlowStart(asked=asked, standing=dataclasses.replace(standing, **changed), revision=1)  # type: ignore[arg-type]


def test_a_whole_start_is_written() -> None:
    """Every field of the message is filled, and nothing that only GetFlowStart may tell."""
    assert write_flow_start(WHOLE) == WRITTEN
    assert len(WRITTEN.ListFields()) == len(pb.FlowStart.DESCRIPTOR.fields)


def test_what_is_not_known_is_unset() -> None:
    """Unset times are not the year 1970, and unknown counts are not zero."""
    written = write_flow_start(small())

    for name in ("schedule_time", "expire_time", "next_attempt_time", "cancel_requested_time", "end_time", "failure"):
        assert not written.HasField(name), name
    assert not written.progress.HasField("contact_count")
    assert written.id == ""


def test_states_and_meanings_have_the_numbers_of_the_proto() -> None:
    """The model's numbers are written as they are."""
    assert {f"STATE_{state.name}": int(state) for state in State if state is not State.SKIPPED} == {
        name: number for name, number in pb.FlowStart.State.items() if number
    }
    assert {f"STATE_{state.name}": int(state) for state in State} == {
        name: number for name, number in pb.Recipient.State.items() if number
    }
    assert {f"COMPLETION_MEANING_{meaning.name}": int(meaning) for meaning in CompletionMeaning} == {
        name: number for name, number in pb.CompletionMeaning.items() if number
    }


def test_what_a_backend_said_never_breaks_a_record() -> None:
    """Its JSON may hold lone surrogates and any number; the start must stay readable."""
    notice = Notice(reason="BACKEND_REJECTED", message="\ud800!", metadata={"\udfff": "ü\ud800"})
    progress = Progress(contact_count=2**40, contact_started_count=-(2**40))
    written = write_flow_start(small(failure=notice, warnings=(notice,), external_id="\ud800", progress=progress))

    assert written.failure.message == "?!"
    assert dict(written.warnings[0].metadata) == {"?": "ü?"}
    assert written.external_id == "?"
    assert written.progress.contact_count == 2**31 - 1
    assert pb.FlowStart.FromString(written.SerializeToString()) == written


# fmt: off
TIMES = [
    (datetime(1970, 1, 1, tzinfo=UTC),                    0,                 0),
    (datetime(1969, 12, 31, 23, 59, 59, 1, tzinfo=UTC),   -1,                1_000),
    (datetime.min.replace(tzinfo=UTC),                    -62_135_596_800,   0),
    (datetime.max.replace(tzinfo=UTC),                    253_402_300_799,   999_999_000),
]
# fmt: on


@pytest.mark.parametrize(("moment", "seconds", "nanos"), TIMES)
def test_times_are_written_to_the_microsecond(moment: datetime, seconds: int, nanos: int) -> None:
    """Without a detour by floats."""
    assert Timestamp(seconds=seconds, nanos=nanos) == write_time(moment)


def test_no_time_is_no_timestamp() -> None:
    """None stays unset."""
    assert write_time(None) is None


def test_watch_responses_are_written() -> None:
    """Each is a whole message with the place to resume from."""
    changed = write_watch_changed(Change(flow_start=WHOLE, state_before=State.PENDING), "e1")

    assert pb.WatchFlowStartsResponse.FromString(changed) == pb.WatchFlowStartsResponse(
        revision=2**40, epoch="e1", changed=WRITTEN
    )
    assert pb.WatchFlowStartsResponse.FromString(write_snapshot_end(7, "e1")) == pb.WatchFlowStartsResponse(
        revision=7, epoch="e1", snapshot_end=pb.SnapshotEnd()
    )
    assert pb.WatchFlowStartsResponse.FromString(write_heartbeat(7, "e1")) == pb.WatchFlowStartsResponse(
        revision=7, epoch="e1", heartbeat=pb.Heartbeat()
    )
