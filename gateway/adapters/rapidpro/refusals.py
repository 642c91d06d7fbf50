"""How RapidPro says no: the bodies of its errors, read into our fields and reasons.

A body is `{field: [words]}`, for some fields `{field: {index: [words]}}`, `{"non_field_errors": [words]}` or
`{"detail": words}`. Whatever else it is, it is a proxy's or another host's.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from gateway.adapters import reading
from gateway.errors import Reason
from gateway.model import Notice

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gateway.adapters.base import Reply

FIELDS = {
    "flow": "flow",
    "contacts": "contacts",
    "groups": "groups",
    "urns": "urns",
    "restart_participants": "restart_participants",
    "exclude_active": "exclude_active",
    "extra": "params",
    "params": "params",
    "non_field_errors": "",
    "detail": "",
}
"""Where an error body holds its complaints, in RapidPro's own order, and the field of ours that each is about."""

UNKNOWN = "No such object: "
UNKNOWN_REASONS = {
    "flow": Reason.FLOW_NOT_FOUND,
    "contacts": Reason.RECIPIENT_NOT_FOUND,
    "groups": Reason.RECIPIENT_NOT_FOUND,
}
REFUSALS = {
    Reason.FLOW_NOT_FOUND: "RapidPro has no such flow in this workspace",
    Reason.RECIPIENT_NOT_FOUND: "RapidPro has no such contact or group in this workspace",
    Reason.ADDRESS_INVALID: "RapidPro does not accept this address",
    Reason.BACKEND_REJECTED: "RapidPro refused the request",
}
"""What a refusal says first. Of several reasons, the one that comes first here is given."""

OTHERS = (
    ". All {} recipients of that request were refused with it; against those that are not named RapidPro says nothing:"
    " start the flow for them again without the others"
)
STATUS_HINTS = {413: "it is too large for the server: send fewer recipients or params"}
MAX_COMPLAINTS = 300  # one for each recipient of a dispatch
QUOTED_COMPLAINTS = 5
SUSPENDED = re.compile(r"workspace is currently (suspended|flagged)")
INDEX = re.compile(r"[0-9]{1,4}")


def is_own(reply: Reply) -> bool:
    """Whether the body of an error is RapidPro's."""
    return any(isinstance(value, list | dict | str) for _, value in _complaining(reply))


def is_suspended(reply: Reply) -> bool:
    """Whether RapidPro says that the workspace is suspended or flagged, which is nothing against the request."""
    complaints = reading.object_in(reply.body).get("non_field_errors")
    return isinstance(complaints, list) and any(isinstance(it, str) and SUSPENDED.search(it) for it in complaints)


def read(reply: Reply, sent: Mapping[str, Sequence[str]], first: int = 0) -> Notice:
    """Says what RapidPro complains of. Recipients are named by their place, never by their address.

    `first` is the place in the start of those that are `sent` first.
    """
    complaints = list(islice(_complaints(reply, sent, first), MAX_COMPLAINTS))
    reason = min((each.reason for each in complaints), key=list(REFUSALS).index, default=Reason.BACKEND_REJECTED)
    details = "; ".join(f"{each.path}: {each.words}".strip(": ") for each in complaints[:QUOTED_COMPLAINTS])
    details = details or STATUS_HINTS.get(reply.status, "it does not say why")
    paths = dict.fromkeys(each.path for each in complaints if each.path)
    count = sum(map(len, sent.values()))
    others = OTHERS.format(count) if paths and len(paths) < count and all("[" in path for path in paths) else ""
    return Notice(
        reason=reason,
        message=f"{REFUSALS[reason]} (HTTP {reply.status}): {details}{others}",
        metadata=reading.listed(paths),
    )


class _Complaint(NamedTuple):
    path: str  # our field, with the index if there is one; empty if it is about the whole request
    reason: Reason
    words: str


def _complaining(reply: Reply) -> list[tuple[str, object]]:
    body = reading.object_in(reply.body)
    return [(field, body[name]) for name, field in FIELDS.items() if name in body]


def _complaints(reply: Reply, sent: Mapping[str, Sequence[str]], first: int) -> Iterator[_Complaint]:
    for field, value in _complaining(reply):
        for index, texts in value.items() if isinstance(value, dict) else [("", value)]:
            path = f"{field}[{first + int(index)}]" if INDEX.fullmatch(index) else field
            for words in texts if isinstance(texts, list) else [texts]:
                yield _complaint(field, path, words, sent, first)


def _complaint(field: str, path: str, words: object, sent: Mapping[str, Sequence[str]], first: int) -> _Complaint:
    if field in UNKNOWN_REASONS and isinstance(words, str) and words.startswith(UNKNOWN):
        named, value = sent.get(field, ()), words.removeprefix(UNKNOWN)
        path = f"{field}[{first + named.index(value)}]" if value in named else field
        return _Complaint(path, UNKNOWN_REASONS[field], UNKNOWN.strip(": "))
    reason = Reason.ADDRESS_INVALID if path.startswith("urns[") else Reason.BACKEND_REJECTED
    return _Complaint(path, reason, reading.quotation(words, (each for named in sent.values() for each in named)))
