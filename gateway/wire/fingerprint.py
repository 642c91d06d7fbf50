"""What a request said, as a short text that can be stored and compared.

`1;flow=<digest>;urns=<digest>`: a version, then each field that was set in the request as sent, with a digest of its
canonical form. The form is our own, so that a new protobuf does not turn an honest retry into a reused request id:

1. Text is a JSON string in ASCII, lists are in the caller's order with duplicates, objects in the order of their keys.
2. A number is written as `params.py` reads it, a time as `seconds.nanos`, a flag as `true` or `false`.
3. What cannot be recorded has a form that nothing recorded has: it begins with `!`.

Changing any of this needs a new version, and the old one kept for the records that have it.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from google.protobuf.timestamp_pb2 import Timestamp

    from gateway.model import Json

VERSION = "1"
REFUSED = "!"
DIGEST_SIZE = 16  # bytes; two requests of one id meet by chance once in 2^64

# In the order of the proto, without `request_id` (it names the request) and `validate_only` (it records nothing).
FIELDS = (
    "backend",
    "flow",
    "urns",
    "contacts",
    "groups",
    "params",
    "sender",
    "restart_participants",
    "exclude_active",
    "schedule_time",
    "expire_time",
    "labels",
)

text_form = encode_basestring_ascii
_object_form = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode


def list_form(texts: Iterable[str]) -> str:
    """Writes texts in the order given."""
    return f"[{','.join(map(text_form, texts))}]"


def labels_form(labels: Mapping[str, str]) -> str:
    """Writes labels whose keys are sorted already, as `object_form` does, without the cost of a JSON encoder."""
    return f"{{{','.join([f'{text_form(key)}:{text_form(value)}' for key, value in labels.items()])}}}"


def object_form(value: Mapping[str, Json]) -> str:
    """Writes an object whose keys are sorted already."""
    return _object_form(value)


def flag_form(value: bool) -> str:  # noqa: FBT001 - the flag is the subject
    """Writes an optional bool that is set."""
    return "true" if value else "false"


def time_form(stamp: Timestamp) -> str:
    """Writes a time as sent, whether or not there is such a time."""
    return f"{stamp.seconds}.{stamp.nanos:09d}"


def fingerprint(forms: Mapping[str, str]) -> str:
    """Makes a fingerprint of the canonical form of each field that was set, by its name, in the order of `FIELDS`."""
    digests = [f"{name}={blake2b(form.encode(), digest_size=DIGEST_SIZE).hexdigest()}" for name, form in forms.items()]
    return ";".join((VERSION, *digests))


def differing(a: str, b: str) -> list[str]:
    """Names the fields in which two requests differ, in the order of the proto.

    Fingerprints of two versions cannot be compared: then every field set in either is named.
    """
    if a == b:
        return []
    (version, ours), (other, theirs) = _digests(a), _digests(b)
    return [
        name
        for name in FIELDS
        if ours.get(name) != theirs.get(name) or (version != other and (name in {*ours, *theirs}))
    ]


def _digests(text: str) -> tuple[str, dict[str, str]]:
    version, *pairs = text.split(";")
    return version, dict(pair.split("=", 1) for pair in pairs if "=" in pair)
