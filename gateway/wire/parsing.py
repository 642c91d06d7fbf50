"""Bytes → message."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from gateway.errors import InvalidRequest
from gateway.wire.checks import broken
from gateway.wire.outline import TooHeavy, Unreadable, weigh
from gateway.wire.status import invalid

M = TypeVar("M", bound=Message)


def parse(message_class: type[M], data: bytes) -> M:
    """Reads `data` as a `message_class`.

    Raises `InvalidRequest` for whatever is not one: cut short, text that is not UTF-8, nested too deep, or so much that
    parsing it would keep everybody else waiting. The RPC methods take bytes and parse here because gRPC's own
    deserializer answers UNKNOWN with the parser's words.
    """
    too_heavy = None
    try:
        weigh(message_class, data)
        return message_class.FromString(data)
    except TooHeavy as error:
        too_heavy = broken(error.field, error.rule)
    except (Unreadable, DecodeError, ValueError, RecursionError):  # the last two by protobuf's pure Python parser only
        pass
    if too_heavy is not None:
        raise invalid([too_heavy])  # kept in no variable: its traceback would keep itself, and the data, in memory
    raise InvalidRequest(
        message=f"The request cannot be read: these bytes are not a {message_class.DESCRIPTOR.full_name}. They are cut"
        " short, hold text that is not UTF-8, or nest too deep. Send the message as the published proto encodes it."
    )
