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
    """What callers branch on: of an RPC's status, of a start's failure, of a backend, or of a warning.

    Below each stands where it appears (the gRPC codes, `failure`, `warning`, `backend`), what it means, and what to do.
    docs/errors.md is made from that: run make generate.
    """

    # --- of an RPC's status
    VALIDATION_FAILED = "VALIDATION_FAILED"
    """INVALID_ARGUMENT: a field, a filter or a page token is wrong, or the bytes are not the message.

    Correct the fields that `BadRequest` lists. The same request always fails."""
    UNSUPPORTED_BY_BACKEND = "UNSUPPORTED_BY_BACKEND"
    """INVALID_ARGUMENT: the backend has no way to express this field, such as a group on Twilio.

    Leave the field out, or name another backend. `ListBackends` shows what each can do."""
    RECIPIENTS_MAY_OVERLAP = "RECIPIENTS_MAY_OVERLAP"
    """INVALID_ARGUMENT: the start needs more than one request, and somebody could be in two of them.

    Split it as the message says: only URNs, or only contacts, in each start. Write numbers with their country code."""
    BACKEND_NOT_FOUND = "BACKEND_NOT_FOUND"
    """NOT_FOUND: there is no backend of this name that the credential may use.

    Name one of those in the message."""
    FLOW_START_NOT_FOUND = "FLOW_START_NOT_FOUND"
    """NOT_FOUND: no start of this tenant has this id; or it was erased, or has no such dispatch.

    Use an id as `StartFlow` or `ListFlowStarts` returned it."""
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    """ALREADY_EXISTS: the `request_id` belongs to a start with other content. `fields` names what differs.

    Use a new `request_id` for a new start; for a retry send the same content."""
    ALREADY_TERMINAL = "ALREADY_TERMINAL"
    """FAILED_PRECONDITION: the start to be cancelled has ended.

    Nothing: read how it ended with `GetFlowStart`."""
    NOT_UNCERTAIN = "NOT_UNCERTAIN"
    """FAILED_PRECONDITION: nothing of the start is uncertain or stalled.

    Read its state with `ListRecipients`."""
    CREDENTIALS_MISSING = "CREDENTIALS_MISSING"
    """UNAUTHENTICATED: the call has no credential, or one that cannot be read.

    Send the header `authorization: Bearer TOKEN`, once."""
    CREDENTIALS_INVALID = "CREDENTIALS_INVALID"
    """UNAUTHENTICATED: the credential is unknown or was withdrawn.

    Ask the operator for a valid one."""
    CREDENTIALS_EXPIRED = "CREDENTIALS_EXPIRED"
    """UNAUTHENTICATED: the credential has expired.

    Use a newer one."""
    NOT_ALLOWED = "NOT_ALLOWED"
    """PERMISSION_DENIED: the credential does not have the scope that this RPC takes. `scope` names it.

    Use a credential that has it, or have the operator add it."""
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    """RESOURCE_EXHAUSTED: the tenant makes more starts a second than it may.

    Try again after `RetryInfo`, with the same `request_id`."""
    READ_LIMIT = "READ_LIMIT"
    """RESOURCE_EXHAUSTED: too many reads of this tenant are waiting.

    Wait for answers before you ask for more. Try again after `RetryInfo`."""
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    """RESOURCE_EXHAUSTED: the request has more than 4 MiB.

    Send less, or split it. The same request always fails."""
    MESSAGE_TOO_SLOW = "MESSAGE_TOO_SLOW"
    """RESOURCE_EXHAUSTED: the request took more than 30 s to arrive, or too many arrived slowly at once.

    Try again after `RetryInfo`, with the same `request_id`."""
    BACKLOG_FULL = "BACKLOG_FULL"
    """RESOURCE_EXHAUSTED: too many of this tenant's starts wait for this backend, or for one recipient.

    Try again after `RetryInfo`, with the same `request_id`."""
    STREAM_LIMIT = "STREAM_LIMIT"
    """RESOURCE_EXHAUSTED: the tenant has as many watches open as it may.

    End some, or watch several starts in one stream. Try again after `RetryInfo`."""
    REVISION_NOT_AVAILABLE = "REVISION_NOT_AVAILABLE"
    """OUT_OF_RANGE: the revision to resume from is no longer kept, not reached yet, or of another epoch.

    Watch again without `after_revision`: the stream begins with a snapshot."""
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    """UNAVAILABLE: the gateway cannot record or read: its disk is full, locked or gone. Nothing was recorded.

    Try again after `RetryInfo`, with the same `request_id`. If it lasts, the operator must repair the disk."""
    BACKEND_UNAVAILABLE = "BACKEND_UNAVAILABLE"
    """UNAVAILABLE: the backend's flows could not be read.

    Try again after `RetryInfo`."""
    DRAINING = "DRAINING"
    """UNAVAILABLE: the gateway is shutting down. Nothing was recorded.

    Try again after `RetryInfo`: with the same `request_id`, or with the last revision and epoch of the stream."""
    STREAM_AGED = "STREAM_AGED"
    """UNAVAILABLE: the stream has reached its maximum age.

    Watch again after `RetryInfo`, with its last revision and epoch."""
    INTERNAL = "INTERNAL"
    """INTERNAL: a bug of the gateway. `incident_id` is in its log as well.

    Tell the operator the incident id. A retry with the same `request_id` is safe."""

    # --- of a start's failure
    BACKEND_REJECTED = "BACKEND_REJECTED"
    """failure: the backend refused the request. `metadata` names the fields as the API does.

    Correct them and make a new start."""
    FLOW_NOT_FOUND = "FLOW_NOT_FOUND"
    """NOT_FOUND, failure: the backend has no such flow, or it is archived there.

    Use another flow: `ListFlows` lists them."""
    RECIPIENT_NOT_FOUND = "RECIPIENT_NOT_FOUND"
    """failure: the backend has no such contact or group, which is named in `metadata`.

    Correct those that are named and make a new start, for the others too: they were refused with them."""
    ADDRESS_INVALID = "ADDRESS_INVALID"
    """failure: the backend refuses the address of a recipient or of the sender, or cannot reach it.

    Correct the addresses that `metadata` names; the same ones fail again. RapidPro refuses all recipients of a request
    (up to 100) for one: start the flow again for those that are not named."""
    RECIPIENT_BUSY = "RECIPIENT_BUSY"
    """failure, warning: the recipient has an active execution, of any flow, and Twilio allows one at a time.

    Wait until that has ended, or send `restart_participants`: true to end it, or `exclude_active` to skip it. As a
    warning: the start waits for another one of the same recipient whose answer is not known, and then ends it."""
    BACKEND_FAILED = "BACKEND_FAILED"
    """failure: the backend reports that the start failed, or answers this request with an error each time.

    Look on the backend for the cause, then make a new start."""
    BACKEND_INTERRUPTED = "BACKEND_INTERRUPTED"
    """failure: somebody interrupted the start on the backend.

    Nothing, or make a new start."""
    BACKEND_GONE = "BACKEND_GONE"
    """failure: the backend no longer has it: it was deleted there, or its retention is over.

    Nothing, or make a new start."""
    REPLACED = "REPLACED"
    """failure: a later start of the same recipient, with `restart_participants`, has ended it; or it was to replace
    another one, and a later start had already taken its place.

    Nothing: follow the later one."""
    EXPIRED = "EXPIRED"
    """failure: it was not accepted before `expire_time`, or within `give_up_after` (a day, which begins anew while
    others are accepted), so nothing more is sent.

    Make a new start if it is still wanted. `warnings` and `ListChanges` say what it waited for."""
    CANCELLED = "CANCELLED"
    """failure: it was cancelled before it was over.

    Nothing."""
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
    """failure: the request may have been carried out, and the backend does not say whether.

    With a `next_attempt_time` the gateway is still looking for it. Without, look on the backend and call
    `ResolveFlowStart`."""

    # --- of a backend, and then a warning of the starts that wait for it
    BACKEND_CREDENTIALS_REJECTED = "BACKEND_CREDENTIALS_REJECTED"
    """UNAVAILABLE, backend, warning: the backend rejects the credentials that are configured for it.

    The operator corrects them; then the starts that wait are sent. As a status: try again after `RetryInfo`."""
    BACKEND_SUSPENDED = "BACKEND_SUSPENDED"
    """UNAVAILABLE, backend, warning: the backend has suspended or flagged the account.

    The operator asks the backend's support; once it is resolved, the starts that wait are sent."""
    BACKEND_MISCONFIGURED = "BACKEND_MISCONFIGURED"
    """UNAVAILABLE, backend, warning: a wrong host, a proxy or a firewall answers in the place of the backend's API.

    The operator corrects the `url` or what stands between; then the starts that wait are sent."""
    BACKEND_CHANGED = "BACKEND_CHANGED"
    """warning: the start is for a backend that is no longer configured, or is another account or region now.

    The operator configures that one again, says with `formerly` that it is the same account, or settles the start with
    `ResolveFlowStart` or `CancelFlowStart`."""

    # --- of a warning
    WAITING = "WAITING"
    """warning: it has not been sent yet: its backend takes nothing now, or others are sent first.

    `next_attempt_time` is when it may be sent. If somebody must act, the message says what to do."""
    DUPLICATES_REMOVED = "DUPLICATES_REMOVED"
    """warning: a recipient was named more than once, in one spelling or in several, and is started once.

    Nothing."""
    NO_ONE_STARTED = "NO_ONE_STARTED"
    """warning: the start is over, and nobody has entered the flow.

    Check whether the groups are empty, or everybody was excluded or busy."""
    PARTLY_FAILED = "PARTLY_FAILED"
    """warning: the start is over, and some of its recipients were not reached.

    `ListRecipients` says which, and why."""
    PARAMS_ALTERED = "PARAMS_ALTERED"
    """warning: the backend changed some of the params. `metadata` has their paths.

    Check whether the flow reads them. RapidPro before v10.1 rewrites nulls, lists and keys with other characters than
    letters, digits and `_`, cuts strings to 640 characters, and drops what is beyond 256 values."""
    STATUS_UNKNOWN = "STATUS_UNKNOWN"
    """warning: the backend reports a state that the gateway does not know. The start keeps its state.

    Look on the backend, and report it to the makers of this gateway."""
    ADOPTED_AFTER_ERROR = "ADOPTED_AFTER_ERROR"
    """warning: the backend answered with an error but has the start.

    Watch it: the backend may never run it."""
    DUPLICATE_SENT = "DUPLICATE_SENT"
    """warning: the backend has this twice: it was carried out after `quiet_window`, or something else repeated it.

    Look on the backend. If a gateway serves from a copy of the store, stop it; if not, the message says what else."""
    FOUND_AFTER_END = "FOUND_AFTER_END"
    """warning: the backend shows it although it had ended here.

    Look on the backend for its outcome."""
    CANNOT_CANCEL = "CANNOT_CANCEL"
    """warning: the backend cannot cancel what it has accepted, so that runs on.

    Interrupt it on the backend itself."""
    HEALED = "HEALED"
    """warning: the gateway found a contradiction in its store about this start, and repaired it.

    Follow it with `ListRecipients`, and report it to the makers of this gateway."""
    SET_ASIDE = "SET_ASIDE"
    """warning: a part of the start cannot be read from the store, and is not sent.

    The operator examines the log and the store file; `CancelFlowStart` ends it."""


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
