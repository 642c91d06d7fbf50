import contextlib

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given, settings
from hypothesis import strategies as st
from startflow.v1 import start_flow_service_pb2 as pb

import gateway.wire
from gateway.errors import InvalidRequest, Reason
from gateway.wire import parse


def nested(levels: int) -> bytes:
    """Encodes params of so many levels by hand, because protobuf would not."""
    value = b""
    for _ in range(levels):  # Value.struct_value { fields { key: "a" value: … } }
        entry = b"\x0a\x01a\x12" + length(value) + value
        struct = b"\x0a" + length(entry) + entry
        value = b"\x2a" + length(struct) + struct
    entry = b"\x0a\x01a\x12" + length(value) + value
    struct = b"\x0a" + length(entry) + entry
    return b"\x32" + length(struct) + struct


def length(data: bytes) -> bytes:
    """Encodes a length as a varint."""
    size, digits = len(data), b""
    while size >= 128:
        digits += bytes([size & 127 | 128])
        size >>= 7
    return digits + bytes([size])


# fmt: off
NOT_A_REQUEST = [
    ("truncated",          pb.StartFlowRequest(flow="secret-flow").SerializeToString()[:-3]),
    ("bad UTF-8",          b"\x12\x02\xff\xfe"),
    ("a lone surrogate",   b"\x12\x03\xed\xa0\x80"),
    ("nested too deep",    nested(500)),
    ("an open group",      b"\x0b"),
    ("JSON",               b'{"flow": "secret-flow"}'),
]
# fmt: on


@pytest.mark.parametrize(("label", "data"), NOT_A_REQUEST, ids=[label for label, _ in NOT_A_REQUEST])
def test_what_is_not_the_message_is_refused_without_repeating_it(label: str, data: bytes) -> None:
    """Bytes that are not the message get one sentence that holds none of them."""
    with pytest.raises(InvalidRequest) as refused:
        parse(pb.StartFlowRequest, data)

    assert refused.value.reason is Reason.VALIDATION_FAILED, label
    assert "these bytes are not a startflow.v1.StartFlowRequest" in refused.value.message
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None


def test_a_message_is_read() -> None:
    """What was encoded comes back, unknown fields and all."""
    request = pb.StartFlowRequest(flow="welcome", urns=["tel:+1"], params=Struct())

    assert request == parse(pb.StartFlowRequest, request.SerializeToString())
    assert pb.StartFlowRequest() == parse(pb.StartFlowRequest, b"")
    assert parse(pb.GetFlowStartRequest, request.SerializeToString()) is not None


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    """Nothing but `InvalidRequest` comes out, whatever goes in."""
    with contextlib.suppress(InvalidRequest):
        parse(pb.StartFlowRequest, data)


def test_every_public_name_is_described() -> None:
    """The package lists its names in order, and each that can be has a docstring."""
    assert sorted(gateway.wire.__all__) == gateway.wire.__all__
    for name in gateway.wire.__all__:
        assert getattr(gateway.wire, name).__doc__, name
