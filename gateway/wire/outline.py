"""What a large message consists of, seen before it is parsed.

The parser takes seconds for a map of 300,000 entries, which fits into 4 MiB, and nobody is served meanwhile. So of what
is larger than small only the texts of repeated fields may be much; all that can hold a map is bounded.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

SMALL = 160 * 1024  # bytes: labels and params at their limits take 130,000, whatever is in them
TEXTS = 20_000  # in repeated fields; no request takes more than half of that
OTHERS = 1_000  # further fields; no request takes more than a tenth of that

VARINT, DELIMITED = 0, 2  # wire types; those of groups are left out
FIXED = {1: 8, 5: 4}  # bytes of those that have always as many
LONGEST = 10  # bytes of a varint


class Unreadable(Exception):
    """The bytes are not a message."""


class TooHeavy(Exception):
    """The message holds more than it may. `field` names where the most of it is."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(rule)
        self.field = field
        self.rule = rule


def weigh(message_class: type[Message], data: bytes) -> None:
    """Looks through the fields of a message. Raises `TooHeavy` or `Unreadable`, or finds nothing to say."""
    if len(data) <= SMALL:
        return
    names, texts = _fields(message_class.DESCRIPTOR)
    at, end, count, others, weight = 0, len(data), 0, 0, 0
    while at < end:
        begin = at
        number, kind, at = _skip(data, at)
        name = names.get(number, f"field {number}")
        if number in texts and kind == DELIMITED:
            count += 1
            if count > TEXTS:
                raise TooHeavy(name, f"holds more than {TEXTS:,} values, more than any request takes: send fewer.")
        else:
            others, weight = others + 1, weight + at - begin
            if others > OTHERS or weight > SMALL:
                rule = (
                    f"makes the request too large: everything except lists of strings may have {SMALL:,} bytes in all."
                )
                raise TooHeavy(name, rule)
    if at != end:
        raise Unreadable


def _skip(data: bytes, at: int) -> tuple[int, int, int]:
    """Returns the number and the wire type of the field that begins there, and where it ends."""
    tag, at = _varint(data, at)
    kind = tag & 7
    if kind == DELIMITED:
        size, at = _varint(data, at)
        at += size
    elif kind == VARINT:
        _, at = _varint(data, at)
    elif kind in FIXED:
        at += FIXED[kind]
    else:
        raise Unreadable
    return tag >> 3, kind, at


@cache
def _fields(descriptor: Descriptor) -> tuple[dict[int, str], frozenset[int]]:
    """Returns the names of the fields of a message, and which of them are lists of texts."""
    fields = descriptor.fields
    texts = (each.number for each in fields if each.is_repeated and each.type == each.TYPE_STRING)
    return {each.number: each.name for each in fields}, frozenset(texts)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Reads a number; returns it and where it ends."""
    try:
        value = data[at]
        if value < 128:  # noqa: PLR2004 -- more bytes follow
            return value, at + 1
        value &= 127
        for place in range(1, LONGEST):
            byte = data[at + place]
            value |= (byte & 127) << (7 * place)
            if byte < 128:  # noqa: PLR2004
                return value, at + place + 1
    except IndexError:
        pass
    raise Unreadable
