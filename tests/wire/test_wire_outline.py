"""What is refused before it is parsed, because parsing it would take too long."""

from __future__ import annotations

import gc
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.errors import InvalidRequest
from gateway.wire import parse
from gateway.wire.outline import OTHERS, SMALL, TEXTS

if TYPE_CHECKING:
    from google.protobuf.message import Message

MANY = 300_000  # entries of a map; the parser takes seconds for them
START, LIST, WATCH = pb.StartFlowRequest, pb.ListFlowStartsRequest, pb.WatchFlowStartsRequest
CROWD = [f"tel:+1{number:010}" for number in range(10_000)]


def entries(prefix: bytes, count: int = MANY) -> bytes:
    """Writes entries of a map with a key of three bytes each, as the wire has them."""
    return b"".join(prefix + b"\x05\x0a\x03" + number.to_bytes(3) for number in range(0x303030, 0x303030 + count))


def most_params() -> dict[str, Any]:
    """Makes the params that take most bytes here for what they take on a backend."""
    return {"a": [1] * 8_180}


@pytest.mark.parametrize(
    ("message", "data", "field"),
    [
        (START, entries(b"\x6a"), "labels"),
        (START, b"\x32" + b"\xc0\x8d\xb7\x01" + bytes(3_000_000), "params"),
        (START, b"\x12" + b"\xc0\x8d\xb7\x01" + bytes(3_000_000), "flow"),
        (START, b"\x1a\0" * 2_000_000, "urns"),
        (START, b"\xf8\x3f\x01" * 500_000, "field 1023"),
        (LIST, b"\x0a" + b"\xc0\x8d\xb7\x01" + bytes(3_000_000), "filter"),
        (WATCH, b"\x0a\0" * 2_000_000, "ids"),
    ],
)
def test_what_would_keep_others_waiting_is_refused_unread(message: type[Message], data: bytes, field: str) -> None:
    """What can hold a map is bounded, and so is the number of all fields; the violation names where the most is."""
    with pytest.raises(InvalidRequest) as caught:
        parse(message, data)

    assert [field] == [violation.field for violation in caught.value.violations]


def test_a_refusal_leaves_nothing_for_the_collector() -> None:
    """Its traceback holds the bytes of the request: in a cycle with it they would stay until the collector runs."""
    gc.collect()
    gc.disable()
    try:
        for data in (entries(b"\x6a"), b"\xff" * 2 * SMALL, b"\xff"):
            with suppress(InvalidRequest):
                parse(START, data)
        left = gc.collect()
    finally:
        gc.enable()

    assert 0 == left


@pytest.mark.parametrize(
    "data",
    [
        b"\x0b" + bytes(SMALL),  # a group
        b"\x1a\x05" * (SMALL // 7) + b"\x80" * 20 + bytes(SMALL),  # a number without an end
        b"\x1a\x10" + b"u" * 16 + b"\x1a\xff\xff\x7f" + bytes(SMALL),  # cut short
        b"\x1a\x10" + b"u" * 16 + b"\x09" + bytes(SMALL) + b"\x1a",  # the same
    ],
)
def test_what_is_large_and_no_message(data: bytes) -> None:
    """It is refused as the parser would."""
    with pytest.raises(InvalidRequest, match=r"cannot be read|makes the request too large"):
        parse(START, data)


def test_the_largest_request_that_is_valid_passes() -> None:
    """With as many recipients, params and labels as there may be, and fields that a later version may have."""
    labels = {f"{number:02}": "ä" * 250 for number in range(32)}
    largest = START(flow="f" * 255, contacts=["c" * 255] * 10_000, labels=labels, request_id="r" * 128)
    largest.params.update(most_params())
    later = b"\xf8\x3f\x01" * (OTHERS // 2)

    assert largest == START.FromString(
        parse(START, largest.SerializeToString() + later).SerializeToString()[: largest.ByteSize()]
    )
    assert TEXTS >= len(parse(WATCH, WATCH(ids=["a" * 64] * 10_000).SerializeToString()).ids)


def test_how_large_params_can_be_at_their_limit() -> None:
    """What has 16 KiB as JSON, Twilio's limit, takes less here than is small, with all labels beside it."""
    request = START(labels={f"{number:02}" + "k" * 61: "ä" * 255 for number in range(32)})
    request.params.update(most_params())

    assert request.ByteSize() < SMALL
