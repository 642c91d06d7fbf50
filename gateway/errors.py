"""Every failure a caller can see: the reasons, and the errors that end an RPC.

Rules:

1. An error carries its gRPC code and its reason; `interceptors.py` turns it into a status, nobody else does.
2. Whatever is not a `GatewayError` is a bug: INTERNAL, logged with an incident id, and nothing else is told.
3. Each message names the field or setting, what was wrong, and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping


class Reason(StrEnum):
    """What callers branch on: of an RPC's status, of a start's failure, or of a warning."""

    # of an RPC's status
    VALIDATION_FAILED = "VALIDATION_FAILED"
    UNSUPPORTED_BY_BACKEND = "UNSUPPORTED_BY_BACKEND"
    RECIPIENTS_MAY_OVERLAP = "RECIPIENTS_MAY_OVERLAP"
    BACKEND_NOT_FOUND = "BACKEND_NOT_FOUND"
    FLOW_START_NOT_FOUND = "FLOW_START_NOT_FOUND"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    ALREADY_TERMINAL = "ALREADY_TERMINAL"
    NOT_UNCERTAIN = "NOT_UNCERTAIN"
    CREDENTIALS_MISSING = "CREDENTIALS_MISSING"
    CREDENTIALS_INVALID = "CREDENTIALS_INVALID"
    CREDENTIALS_EXPIRED = "CREDENTIALS_EXPIRED"
    NOT_ALLOWED = "NOT_ALLOWED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    BACKLOG_FULL = "BACKLOG_FULL"
    REVISION_NOT_AVAILABLE = "REVISION_NOT_AVAILABLE"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    BACKEND_UNAVAILABLE = "BACKEND_UNAVAILABLE"
    DRAINING = "DRAINING"
    STREAM_LIMIT = "STREAM_LIMIT"
    STREAM_AGED = "STREAM_AGED"
    INTERNAL = "INTERNAL"
    # of a start's failure
    BACKEND_REJECTED = "BACKEND_REJECTED"
    FLOW_NOT_FOUND = "FLOW_NOT_FOUND"
    RECIPIENT_NOT_FOUND = "RECIPIENT_NOT_FOUND"
    ADDRESS_INVALID = "ADDRESS_INVALID"
    RECIPIENT_BUSY = "RECIPIENT_BUSY"
    BACKEND_FAILED = "BACKEND_FAILED"
    BACKEND_INTERRUPTED = "BACKEND_INTERRUPTED"
    BACKEND_GONE = "BACKEND_GONE"
    REPLACED = "REPLACED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    # of a backend, and then a warning of the starts that wait for it
    BACKEND_CREDENTIALS_REJECTED = "BACKEND_CREDENTIALS_REJECTED"
    BACKEND_SUSPENDED = "BACKEND_SUSPENDED"
    BACKEND_MISCONFIGURED = "BACKEND_MISCONFIGURED"
    BACKEND_CHANGED = "BACKEND_CHANGED"
    # of a warning
    DUPLICATES_REMOVED = "DUPLICATES_REMOVED"
    NO_ONE_STARTED = "NO_ONE_STARTED"
    PARTLY_FAILED = "PARTLY_FAILED"
    PARAMS_ALTERED = "PARAMS_ALTERED"
    STATUS_UNKNOWN = "STATUS_UNKNOWN"
    ADOPTED_AFTER_ERROR = "ADOPTED_AFTER_ERROR"
    DUPLICATE_SENT = "DUPLICATE_SENT"
    FOUND_AFTER_END = "FOUND_AFTER_END"
    CANNOT_CANCEL = "CANNOT_CANCEL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One bad field of a request: its path as in the proto (`urns[3]`), what is wrong and what to do."""

    field: str
    description: str
    reason: Reason = Reason.VALIDATION_FAILED


@dataclass(kw_only=True)
class GatewayError(Exception):
    """The root of the family. `code` is the name of a gRPC status code."""

    code: ClassVar[str] = "INTERNAL"
    reason: Reason = Reason.INTERNAL
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[Violation, ...] = ()
    retry_after: timedelta | None = None

    def __str__(self) -> str:
        """Returns the sentence for a person."""
        return self.message


@dataclass(kw_only=True)
class InvalidRequest(GatewayError):
    """A request that is wrong in itself. `violations` holds every bad field."""

    code: ClassVar[str] = "INVALID_ARGUMENT"
    reason: Reason = Reason.VALIDATION_FAILED


@dataclass(kw_only=True)
class NotFound(GatewayError):
    """A backend, a flow or a start that is not there, or not the caller's."""

    code: ClassVar[str] = "NOT_FOUND"


@dataclass(kw_only=True)
class RequestIdReused(GatewayError):
    """A request id that was used with other content."""

    code: ClassVar[str] = "ALREADY_EXISTS"
    reason: Reason = Reason.REQUEST_ID_REUSED


@dataclass(kw_only=True)
class Unauthenticated(GatewayError):
    """A credential that is missing, unknown or over. None of it is shown."""

    code: ClassVar[str] = "UNAUTHENTICATED"
    reason: Reason = Reason.CREDENTIALS_INVALID


@dataclass(kw_only=True)
class NotAllowed(GatewayError):
    """Something that a known caller may not do."""

    code: ClassVar[str] = "PERMISSION_DENIED"
    reason: Reason = Reason.NOT_ALLOWED


@dataclass(kw_only=True)
class NotPossible(GatewayError):
    """What was asked for does not go with how a start stands now."""

    code: ClassVar[str] = "FAILED_PRECONDITION"


@dataclass(kw_only=True)
class Exhausted(GatewayError):
    """A limit of the caller's. Nothing was recorded."""

    code: ClassVar[str] = "RESOURCE_EXHAUSTED"


@dataclass(kw_only=True)
class RevisionNotAvailable(GatewayError):
    """A place to resume from that is not kept, not reached yet, or of another epoch."""

    code: ClassVar[str] = "OUT_OF_RANGE"
    reason: Reason = Reason.REVISION_NOT_AVAILABLE


@dataclass(kw_only=True)
class Unavailable(GatewayError):
    """The gateway cannot answer now. Nothing was recorded."""

    code: ClassVar[str] = "UNAVAILABLE"
    reason: Reason = Reason.STORE_UNAVAILABLE
    retry_after: timedelta | None = timedelta(seconds=1)
