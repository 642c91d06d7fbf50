"""The model as text and integers in rows, and back. The short keys are stored: they never change."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.model import (
    Asked,
    CompletionMeaning,
    FlowStart,
    Notice,
    Progress,
    Recipients,
    Standing,
    State,
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
decode = json.loads


EARLIEST = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) // MICROSECOND
LATEST = (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC) - _EPOCH) // MICROSECOND

UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What reading a damaged row raises: text that is no JSON, or is other JSON than ours."""


def to_micros(at: datetime | None) -> int | None:
    """Turns a moment into microseconds since 1970."""
    return None if at is None else (at - _EPOCH) // MICROSECOND


def from_micros(micros: int | None) -> datetime | None:
    """Turns microseconds since 1970 into a moment."""
    return None if micros is None else moment(micros)


def moment(micros: int) -> datetime:
    """Turns microseconds since 1970, which are there, into a moment: the nearest that there is."""
    return _EPOCH + timedelta(microseconds=min(max(micros, EARLIEST), LATEST))


def encode(value: object) -> str:
    """Turns plain values into compact JSON."""
    return _encode(value)


def _set(**fields: object) -> dict[str, object]:
    """Keeps what says something: empty fields are not stored."""
    return {key: value for key, value in fields.items() if value not in (None, "", (), {}, False)}


def encode_asked(asked: Asked) -> str:
    """Turns what was asked into text, params and what has a column of its own left out."""
    return encode(
        _set(
            n=asked.recipient_count,
            sender=asked.sender,
            restart=None if asked.restart_participants is None else int(asked.restart_participants) + 1,
            exclude=None if asked.exclude_active is None else int(asked.exclude_active) + 1,
            labels=dict(asked.labels),
            schedule=to_micros(asked.schedule_at),
            meaning=int(asked.completion_meaning),
        )
    )


SCHEDULE = (  # of `starts s`, null if there is none; stores of the first version have no due_at
    "coalesce(s.due_at, field_of(s.asked, 'schedule'))"
)
REACHED = "s.erased = 0 and s.tenant = coalesce($2, s.tenant)"
"""Whether a start is the tenant's in `$2`; where that is null, anybody's: what is being erased is nobody's."""

ASKED_COLUMNS = "s.id, s.tenant, s.backend, s.flow, s.request_id, s.created_at, s.expire_at, s.asked"
"""What `decode_asked` reads, of `starts s`."""
ASKED_WIDTH = 8


def decode_asked(columns: tuple[Any, ...], params: str = "{}") -> Asked:
    """Reads what was asked from `ASKED_COLUMNS`."""
    start_id, tenant, backend, flow, request_id, created_at, expire_at, text = columns[:ASKED_WIDTH]
    if isinstance(flow, bytes) or isinstance(request_id, bytes):
        msg = "it is not text"
        raise TypeError(msg)
    rest = decode(text)
    return Asked(
        id=start_id,
        tenant=tenant,
        backend=backend,
        flow=flow,
        recipient_count=rest["n"],
        params=decode(params),
        sender=rest.get("sender", ""),
        restart_participants=None if "restart" not in rest else rest["restart"] == 2,  # noqa: PLR2004 -- 1 is false
        exclude_active=None if "exclude" not in rest else rest["exclude"] == 2,  # noqa: PLR2004 -- 1 is false
        request_id=request_id or "",
        labels=rest.get("labels", {}),
        schedule_at=from_micros(rest.get("schedule")),
        expire_at=from_micros(expire_at),
        created_at=moment(created_at),
        completion_meaning=CompletionMeaning(rest["meaning"]),
    )


def pack_notice(notice: Notice | None) -> list[Any] | None:
    """Turns a notice into plain values."""
    return None if notice is None else [str(notice.reason), notice.message, dict(notice.metadata)]


def unpack_notice(packed: list[Any] | None) -> Notice | None:
    """Turns plain values into a notice."""
    return None if packed is None else Notice(reason=packed[0], message=packed[1], metadata=packed[2])


def unpack_notices(packed: list[list[Any]]) -> tuple[Notice, ...]:
    """Turns plain values into notices."""
    return tuple(Notice(reason=reason, message=message, metadata=metadata) for reason, message, metadata in packed)


_NONE = Standing(updated_at=_EPOCH).progress  # what none is given has
_COUNTS = ("contact_count", "contact_started_count")  # 0 is not None
_PROGRESS = tuple(name for name in Progress.__slots__ if name not in _COUNTS)


def encode_standing(standing: Standing) -> str:
    """Turns where a start stands into text."""
    progress = standing.progress
    if progress is _NONE and standing == Standing(updated_at=standing.updated_at):  # as most starts begin
        return f'{{"state":{int(State.PENDING)},"updated":{to_micros(standing.updated_at)}}}'
    return encode(
        _set(
            state=int(standing.state),
            failure=pack_notice(standing.failure),
            progress={name: n for name in _PROGRESS if (n := getattr(progress, name))}
            | {name: n for name in _COUNTS if (n := getattr(progress, name)) is not None},
            external=standing.external_id,
            stalled=standing.stalled,
            warnings=tuple(pack_notice(warning) for warning in standing.warnings),
            updated=to_micros(standing.updated_at),
            next=to_micros(standing.next_attempt_at),
            cancel=to_micros(standing.cancel_requested_at),
            ended=to_micros(standing.ended_at),
        )
    )


def decode_standing(text: str) -> Standing:
    """Reads where a start stands."""
    row = decode(text)
    return Standing(
        state=State(row["state"]),
        failure=unpack_notice(row.get("failure")),
        progress=Progress(**row.get("progress", {})),
        external_id=row.get("external", ""),
        stalled=row.get("stalled", False),
        warnings=unpack_notices(row.get("warnings", [])),
        updated_at=moment(row["updated"]),
        next_attempt_at=from_micros(row.get("next")),
        cancel_requested_at=from_micros(row.get("cancel")),
        ended_at=from_micros(row.get("ended")),
    )


START_COLUMNS = f"{ASKED_COLUMNS}, s.revision, s.standing"
"""What `decode_start` reads, of `starts s`."""


def decode_start(columns: tuple[Any, ...], params: str = "{}") -> FlowStart:
    """Reads a start from `START_COLUMNS`."""
    revision, standing = columns[ASKED_WIDTH : ASKED_WIDTH + 2]
    return FlowStart(asked=decode_asked(columns, params), standing=decode_standing(standing), revision=revision)


def pack_recipients(recipients: Recipients) -> list[list[str]]:
    """Turns recipients into plain values."""
    return [list(recipients.urns), list(recipients.contacts), list(recipients.groups)]


def unpack_recipients(packed: list[list[str]]) -> Recipients:
    """Turns plain values into recipients."""
    urns, contacts, groups = packed
    return Recipients(urns=tuple(urns), contacts=tuple(contacts), groups=tuple(groups))
