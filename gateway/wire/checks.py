"""The rules for single values of a request, and the sentences that say which one was broken.

Each check adds to the `violations` it is handed. Paths are made only once something is wrong.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from gateway.errors import Violation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.timestamp_pb2 import Timestamp

TEXT = 255  # characters; longer than any address, name or id of either backend
BACKEND_NAME = 63
LABELS = 32
LABELS_SIZE = 16_384  # bytes of UTF-8, all keys and values together: every message about a start carries them

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_SECOND, LAST_SECOND = -62_135_596_800, 253_402_300_799  # years 1 to 9999: the range of a Timestamp
NANOS = 1_000_000_000

SHOWN = 40  # characters of a key that a path shows
PHONE_DIGITS = 7  # as many digits may be somebody's number

_control = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]").search
_request_id = re.compile(r"[!-~](?:[ -~]{0,126}[!-~])?").fullmatch
_label_key = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}").fullmatch
_digit = re.compile(r"\d")


def broken(field: str, rule: str) -> Violation:
    """Says that `field` breaks a rule. `rule` goes on where the field's path stops."""
    return Violation(field=field, description=f"{field} {rule}")


def quoted(key: str) -> str:
    """Shows a caller's key in a path: shortened, escaped, and with its digits hidden if it may be a phone number."""
    hidden = _digit.sub("#", key) if len(_digit.findall(key)) >= PHONE_DIGITS else key
    return json.dumps(hidden if len(hidden) <= SHOWN else f"{hidden[:SHOWN]}…", ensure_ascii=False)


def check_text(field: str, text: str, most: int, violations: list[Violation]) -> None:
    """Refuses over-long text and control characters. Empty text is unset, and is fine."""
    if len(text) > most:
        violations.append(broken(field, f"is longer than {most} characters: shorten it."))
    elif not text.isprintable() and _control(text):  # the first is fast, and also refuses what emoji are joined with
        violations.append(broken(field, "holds control characters: remove them."))


def check_name(field: str, text: str, most: int, violations: list[Violation]) -> None:
    """Refuses what `check_text` refuses, and blank text."""
    if text.strip():
        check_text(field, text, most, violations)
    else:
        violations.append(broken(field, "is blank: fill it in or leave it out."))


def check_request_id(field: str, text: str, violations: list[Violation]) -> None:
    """Refuses whatever is not 1 to 128 printable ASCII characters that neither begin nor end with a space."""
    if not _request_id(text):
        violations.append(
            broken(
                field,
                "is not 1 to 128 printable ASCII characters without a space at either end: send a key such as a UUID.",
            )
        )


def read_labels(field: str, labels: Mapping[str, str], violations: list[Violation]) -> dict[str, str]:
    """Reads labels in the order of their keys. Too many are not read at all."""
    if len(labels) > LABELS:
        violations.append(broken(field, f"holds more than {LABELS} labels: leave some out."))
        return {}
    read = {key: labels[key] for key in sorted(labels)}
    for key, value in read.items():
        if not _label_key(key):
            rule = "has a key that is not 1 to 63 of a-z A-Z 0-9 . _ / - beginning with a letter or digit: rename it."
            violations.append(broken(f"{field}[{quoted(key)}]", rule))
        if len(value) > TEXT or not value.isprintable():
            check_text(f"{field}[{quoted(key)}]", value, TEXT, violations)
    return read


def check_labels_size(field: str, labels: Mapping[str, str], violations: list[Violation]) -> None:
    """Refuses labels that take too many bytes together, which only those beyond ASCII can."""
    size = sum(len(text.encode()) for pair in labels.items() for text in pair)
    if size > LABELS_SIZE:
        rule = f"take {size:,} bytes as UTF-8, and {LABELS_SIZE:,} is the limit: shorten some or leave them out."
        violations.append(broken(field, rule))


def read_time(field: str, stamp: Timestamp, violations: list[Violation]) -> datetime | None:
    """Reads a timestamp, cut to microseconds. One that no clock shows is refused and read as None."""
    seconds, nanos = stamp.seconds, stamp.nanos
    if FIRST_SECOND <= seconds <= LAST_SECOND and 0 <= nanos < NANOS:
        return EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1000)
    rule = "is not a time: its seconds must lie in the years 1 to 9999 and its nanos in 0 to 999999999."
    violations.append(broken(field, rule))
    return None
