"""What is recorded → messages for callers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.timestamp_pb2 import Timestamp
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.model import Attempt
from gateway.wire.checks import EPOCH

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.model import Asked, Change, FlowStart, Notice, Progress, RecipientStanding, Standing

INT32 = 2**31 - 1
_COUNTS = ("queued", "started", "completed", "failed", "interrupted", "skipped", "uncertain")
SECONDS_PER_DAY = 86_400


def write_time(at: datetime | None) -> Timestamp | None:
    """Writes a time to the microsecond; None stays unset."""
    return None if at is None else _timestamp(at)


def _timestamp(at: datetime) -> Timestamp:
    since = at - EPOCH
    return Timestamp(seconds=since.days * SECONDS_PER_DAY + since.seconds, nanos=since.microseconds * 1000)


def write_flow_start(flow_start: FlowStart) -> pb.FlowStart:
    """Writes a start as it stood at its revision."""
    asked, standing = flow_start.asked, flow_start.standing
    message = pb.FlowStart(
        id=asked.id,
        tenant=asked.tenant,
        backend=asked.backend,
        flow=asked.flow,
        recipient_count=asked.recipient_count,
        labels=asked.labels,
        request_id=asked.request_id,
        state=pb.FlowStart.State.ValueType(standing.state),
        progress=_write_progress(standing.progress),
        create_time=write_time(asked.created_at),
        update_time=write_time(standing.updated_at),
        revision=flow_start.revision,
        completion_meaning=pb.CompletionMeaning.ValueType(asked.completion_meaning),
    )
    _write_rest(asked, standing, message)
    return message


def _write_rest(asked: Asked, standing: Standing, message: pb.FlowStart) -> None:
    """Writes what few starts have: what is unset costs as much to write as what is not."""
    if standing.external_id:
        message.external_id = _encodable(standing.external_id)
    if standing.stalled:
        message.stalled = True
    if standing.failure:
        message.failure.CopyFrom(_write_failure(standing.failure))
    if standing.warnings:
        message.warnings.extend(_write_warning(notice) for notice in standing.warnings)
    for name, at in (
        ("schedule_time", asked.schedule_at),
        ("expire_time", asked.expire_at),
        ("next_attempt_time", standing.next_attempt_at),
        ("cancel_requested_time", standing.cancel_requested_at),
        ("end_time", standing.ended_at),
    ):
        if at is not None:
            getattr(message, name).CopyFrom(_timestamp(at))


def add_wait(message: pb.FlowStart, warning: Notice, next_attempt_at: datetime | None) -> None:
    """Adds to a start that is written why it waits, and until when."""
    message.warnings.append(_write_warning(warning))
    if next_attempt_at is not None:
        message.next_attempt_time.CopyFrom(_timestamp(next_attempt_at))


def write_watch_changed(change: Change, epoch: str) -> bytes:
    """Writes the watch response for one change, encoded once for everyone who watches."""
    changed = write_flow_start(change.flow_start)
    return pb.WatchFlowStartsResponse(revision=change.revision, epoch=epoch, changed=changed).SerializeToString()


def write_recipient(standing: RecipientStanding) -> pb.Recipient:
    """Writes what became of a recipient."""
    return pb.Recipient(
        recipient=standing.recipient,
        kind=pb.Recipient.Kind.ValueType(standing.kind),
        state=pb.Recipient.State.ValueType(standing.state),
        dispatch_id=standing.dispatch_id,
        external_id=_encodable(standing.external_id),
        failure=_write_failure(standing.failure) if standing.failure else None,
    )


def write_history(entry: Change | Attempt) -> pb.Change:
    """Writes one entry of a start's history."""
    if isinstance(entry, Attempt):
        return pb.Change(change_time=write_time(entry.begun_at), attempt=_write_attempt(entry))
    changed = write_flow_start(entry.flow_start)
    return pb.Change(change_time=changed.update_time, changed=changed)


def _write_attempt(attempt: Attempt) -> pb.Attempt:
    outcome = f"OUTCOME_{attempt.outcome}" if attempt.outcome else "OUTCOME_UNSPECIFIED"
    return pb.Attempt(
        dispatch_id=attempt.dispatch_id,
        number=attempt.number,
        begin_time=write_time(attempt.begun_at),
        end_time=write_time(attempt.ended_at),
        outcome=pb.Attempt.Outcome.Value(outcome),
        detail=_encodable(attempt.detail),
    )


def write_snapshot_end(revision: int, epoch: str) -> bytes:
    """Writes the watch response that ends a snapshot."""
    end = pb.SnapshotEnd()
    return pb.WatchFlowStartsResponse(revision=revision, epoch=epoch, snapshot_end=end).SerializeToString()


def write_heartbeat(revision: int, epoch: str) -> bytes:
    """Writes the watch response that shows a stream alive."""
    beat = pb.Heartbeat()
    return pb.WatchFlowStartsResponse(revision=revision, epoch=epoch, heartbeat=beat).SerializeToString()


def _write_progress(progress: Progress) -> pb.Progress:
    counts = {name: count for name in _COUNTS if (count := getattr(progress, name))}
    return pb.Progress(
        **counts,
        contact_count=_int32(progress.contact_count),
        contact_started_count=_int32(progress.contact_started_count),
    )


def _write_failure(notice: Notice) -> pb.Failure:
    return pb.Failure(reason=notice.reason, message=_encodable(notice.message), metadata=_encodable_metadata(notice))


def _write_warning(notice: Notice) -> pb.Warning:
    return pb.Warning(reason=notice.reason, message=_encodable(notice.message), metadata=_encodable_metadata(notice))


def _encodable_metadata(notice: Notice) -> dict[str, str]:
    return {_encodable(key): _encodable(value) for key, value in notice.metadata.items()}


def _encodable(text: str) -> str:
    """Replaces lone surrogates: a backend's JSON may hold them, and protobuf would refuse the whole message."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _int32(count: int | None) -> int | None:
    return None if count is None else max(-INT32, min(count, INT32))  # a backend's own count may be anything
