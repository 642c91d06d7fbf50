"""An error → `google.rpc.Status`, small enough for any proxy's limit on headers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from google.rpc import code_pb2, error_details_pb2, status_pb2

from gateway.errors import GatewayError, InvalidRequest, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.errors import Violation

DOMAIN = "startflow.v1"
LARGEST = 4095  # bytes, encoded: headers are often limited to 8 KiB, and base64 adds a third
SHOWN = 20  # violations
LONGEST_DELAY = timedelta(days=1)  # far beyond any real one, and within the range of a Duration

RESOURCES = {
    Reason.FLOW_START_NOT_FOUND: ("startflow.v1.FlowStart", "id"),
    Reason.BACKEND_NOT_FOUND: ("startflow.v1.Backend", "backend"),
    Reason.FLOW_NOT_FOUND: ("startflow.v1.Flow", "flow"),
}
"""What was not found, and which key of the error's metadata names it."""

QUOTA_SUBJECT = "quota_subject"
"""The key of the metadata that says whose limit was reached, such as `backend:textit`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Room:
    """How many bytes the texts of a status may have, and how many entries its metadata."""

    message: int
    path: int
    description: int
    entries: int
    entry: int


ROOMS = (
    _Room(message=1024, path=256, description=1024, entries=32, entry=1024),
    _Room(message=512, path=128, description=256, entries=32, entry=1024),
    _Room(message=256, path=64, description=96, entries=32, entry=1024),
    _Room(message=256, path=48, description=60, entries=16, entry=96),
    _Room(message=192, path=48, description=60, entries=6, entry=32),
)
"""From generous to what always fits: descriptions are cut first, then metadata."""


def invalid(violations: Sequence[Violation]) -> InvalidRequest:
    """Makes the error for these bad fields, of which there is at least one."""
    first = violations[0]
    same = all(violation.reason == first.reason for violation in violations)
    count = len(violations)
    named = first.description.startswith(first.field)
    said = first.description if named else f"{first.field} {first.description}"
    return InvalidRequest(
        message=said if count == 1 else f"{count} fields are wrong. The first: {said}",
        reason=first.reason if same else Reason.VALIDATION_FAILED,
        violations=tuple(violations),
    )


def write_status(error: GatewayError) -> status_pb2.Status:
    """Writes the status of an RPC that ended with this error, below 4 KiB encoded whatever the error holds."""
    status = _write(error, ROOMS[0])
    for room in ROOMS[1:]:
        if status.ByteSize() <= LARGEST:
            break
        status = _write(error, room)
    return status


def _write(error: GatewayError, room: _Room) -> status_pb2.Status:
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code), message=_cut(error.message, room.message))
    if len(error.violations) > SHOWN:
        status.message += f" ({SHOWN} of {len(error.violations)} bad fields are listed.)"
    status.details.add().Pack(_write_info(error, room))
    if error.violations:
        status.details.add().Pack(_write_bad_request(error, room))
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromTimedelta(max(timedelta(), min(error.retry_after, LONGEST_DELAY)))
        status.details.add().Pack(retry)
    kind, key = RESOURCES.get(error.reason, ("", ""))
    if name := error.metadata.get(key):
        resource = error_details_pb2.ResourceInfo(resource_type=kind, resource_name=_cut(name, room.path))
        status.details.add().Pack(resource)
    if error.code == "RESOURCE_EXHAUSTED" and (subject := error.metadata.get(QUOTA_SUBJECT)):
        violation = error_details_pb2.QuotaFailure.Violation(
            subject=_cut(subject, room.path), description=_cut(error.message, room.description)
        )
        status.details.add().Pack(error_details_pb2.QuotaFailure(violations=[violation]))
    return status


def _write_info(error: GatewayError, room: _Room) -> error_details_pb2.ErrorInfo:
    metadata = {
        _cut(key, room.entry): _cut(error.metadata[key], room.entry) for key in list(error.metadata)[: room.entries]
    }
    if error.violations:
        metadata["violation_count"] = str(len(error.violations))
    return error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)


def _write_bad_request(error: GatewayError, room: _Room) -> error_details_pb2.BadRequest:
    return error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(
                field=_cut(violation.field, room.path),
                description=_cut(violation.description, room.description),
                reason=violation.reason,
            )
            for violation in error.violations[:SHOWN]
        ]
    )


def _cut(text: str, most: int) -> str:
    """Cuts text to `most` bytes of UTF-8, between characters, and replaces what UTF-8 cannot hold."""
    data = text[: most + 1].encode(errors="replace")
    if len(data) <= most:
        return data.decode()
    return data[: most - 3].decode(errors="ignore") + "…"
