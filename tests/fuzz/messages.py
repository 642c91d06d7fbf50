"""Requests of every RPC: valid, mutated, random, and bytes that are no message. A seed makes the same ones again."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format, message_factory, struct_pb2
from google.protobuf.descriptor import FieldDescriptor

from gateway.doors.grpc.interceptors import SERVICE
from gateway.doors.grpc.receiving import LARGEST, LARGEST_READ
from tests.end_to_end.processes import FAR, SEED_FLOW, STUDIO_FLOW
from tests.wire.test_wire_page_token import forged

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

NULL = struct_pb2.DESCRIPTOR.enum_types_by_name["NullValue"]
METHODS = {method.name: message_factory.GetMessageClass(method.input_type) for method in SERVICE.methods}
STEPS = ["0", "1", "7", "-1", "-2", str(2**63 - 1), str(2**63), str(-(2**63)), "9" * 400, "true", "null", "1.5"]
STEPS += ['""', '"x"', '"\\ud800"', '"\\u0000"', f'"{"a" * 300}"', "[]", "{}"]
"""Parts of a position, as JSON."""
NEVER = "06gvf2u2r5l7j5mbcd4fak4dt8"  # an id that no start ever had
KINDS = {"valid": 15, "mutated": 38, "random": 20, "spoilt": 26, "huge": 1}
DEEPEST = 1_200  # levels; parsers stop at 100
REMEMBERED = 300  # ids and page tokens that the gateway has told

TEXTS = [
    "", " ", "\0", "a\0b", "\r\n", "\x7f", "\u2028", "\u202e", "\ufeff", "\ufffd", "\U0010ffff", "é" * 300, "💥" * 90,
    "x" * 256, "x" * 9_000, "../..", "' or 1=1 --", "%00%ff", "{}", "null", "-1", "9" * 400, "tel:", ":", "tel:+12065",
    "\t", "_", "a/b", "a-1", "NaN", "Ω≈ç", "tel:+1206555" + "0" * 600, "*", "\\", '"', "`", "${x}", "{0}", "%s",
]  # fmt: skip
NUMBERS = [0, 1, -1, 2, 7, 8, 50, 1_001, 2**31 - 1, -(2**31), 2**32, 2**53 + 1, 2**63 - 1, -(2**63), 253_402_300_800]
DOUBLES = [0.0, -0.0, 1.5, 1e308, 5e-324, float("nan"), float("inf"), float("-inf"), 2.0**53, 2.0**53 + 2, 2.0**63]
URNS = ["tel:+12065551212", "tel:+12065551213", "whatsapp:+12065551212", "twitter:sirmixalot", "sip:a@b", "client:joe"]


@dataclass(frozen=True, slots=True)
class Made:
    """A request, and how it was made."""

    rpc: str
    kind: str
    data: bytes = field(repr=False)


class Maker:
    """Makes requests. `known` has, by the names of fields, what may be meant; the gateway's answers add to it."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.known: dict[str, deque[Any]] = {
            "id": deque([NEVER], REMEMBERED),
            "ids": deque([NEVER], REMEMBERED),
            "page_token": deque([""], REMEMBERED),
            "epoch": deque([""], 3),
            "after_revision": deque([0, 1, 5], 20),
            "dispatch_id": deque([f"{NEVER}-0"], REMEMBERED),
            "backend": deque(["rapidpro", "twilio", ""]),
            "backends": deque(["rapidpro", "twilio"]),
            "flow": deque([SEED_FLOW, STUDIO_FLOW, "thrift", "f5901b62-ba76-4003-9c62-72fdacc1b7b8"]),
            "urns": deque(URNS),
            "contacts": deque(["c1", "c2"]),
            "groups": deque(["g1"]),
            "sender": deque(["", "+18007654321"]),
            "request_id": deque([f"r{number}" for number in range(40)]),
            "external_id": deque(["FN" + "a" * 32, "x"]),
            "page_size": deque([0, 1, 1, 2, 2, 7, 7, 500]),
            "seconds": deque([1, 1_700_000_000, 4_000_000_001]),
            "nanos": deque([0, 999_999_999]),
        }

    def make(self) -> Made:
        """Makes a request of any RPC, in any way."""
        rpc = self.random.choice((*METHODS, "StartFlow", "StartFlow", "StartFlow"))
        (kind,) = self.random.choices(list(KINDS), KINDS.values())
        return Made(rpc, kind, getattr(self, f"_{kind}")(rpc))

    def valid(self, rpc: str) -> Any:
        """Makes a request that may be answered with OK. What it starts is mostly only tried, or far in the future."""
        request: Any = METHODS[rpc]()
        for name in request.DESCRIPTOR.fields_by_name:
            if name in ("id", "backend", "flow", "page_size") or (name == "request_id" and self.random.random() < 0.3):
                setattr(request, name, self._pick(name))
        if rpc == "StartFlow":
            request.backend, request.flow = self.random.choice((("rapidpro", SEED_FLOW), ("twilio", STUDIO_FLOW)))
            request.urns.extend(self.random.sample(URNS[:3], self.random.randint(1, 3)))
            request.params.update({"first_name": "Ryan", "n": [1, 2.5, None, True]})
            request.validate_only = self.random.random() < 0.6
            if self.random.random() < 0.8:
                request.schedule_time.FromSeconds(FAR)
        elif rpc == "WatchFlowStarts":
            request.ids.extend(self.random.sample(list(self.known["ids"]), self.random.random() < 0.8))
        elif rpc == "ResolveFlowStart":
            getattr(request, self.random.choice(("was_not_sent", "give_up"))).SetInParent()
        elif "page_token" in request.DESCRIPTOR.fields_by_name and self.random.random() < 0.3:
            request.page_token = self._pick("page_token") if self.random.random() < 0.5 else self._forged(rpc, request)
        return request

    def mutated(self, rpc: str) -> Any:
        """Makes a valid request in which something is odd."""
        request = self.valid(rpc)
        for _ in range(self.random.randint(1, 2)):
            if request.DESCRIPTOR.fields:
                self._set(request, self.random.choice(request.DESCRIPTOR.fields), 0)
        return request

    def arbitrary(self, descriptor: Descriptor, depth: int = 0) -> Message:
        """Makes a message of which each field may be there."""
        message = message_factory.GetMessageClass(descriptor)()
        for each in descriptor.fields:
            if self.random.random() < (0.4 if depth < 4 else 0.1):
                self._set(message, each, depth)
        return message

    def json(self, rpc: str) -> str:
        """Makes a request as JSON, or nearly."""
        try:
            text = json_format.MessageToJson(self.mutated(rpc), indent=None)
        except json_format.SerializeToJsonError:  # a time, or a number, that JSON does not have
            text = json_format.MessageToJson(self.valid(rpc), indent=None)
        if self.random.random() < 0.5:
            return text
        at = self.random.randint(0, len(text))
        junk = ["", "null", "[]", "{", '"', "1e999", "\\u0000", "\\ud800", '{"@type":"x"}', "[" * 300, "Ω", ',"x":1']
        return text[:at] + self.random.choice(junk) + text[at + self.random.randint(0, 9) :]

    def _valid(self, rpc: str) -> bytes:
        return self.valid(rpc).SerializeToString()

    def _mutated(self, rpc: str) -> bytes:
        return self.mutated(rpc).SerializeToString()

    def _random(self, rpc: str) -> bytes:
        return self.arbitrary(METHODS[rpc].DESCRIPTOR).SerializeToString()

    def _spoilt(self, rpc: str) -> bytes:
        whole = self.random.choice((self._valid, self._mutated, self._random))(rpc)
        for _ in range(self.random.randint(1, 3)):
            whole = self.random.choice(SPOIL)(self, whole)
        return whole

    def _huge(self, rpc: str) -> bytes:
        sizes = [LARGEST - 100, LARGEST + 1, LARGEST_READ + 1] if self.random.random() < 0.1 else [100_000, 400_000]
        size, number = self.random.choice(sizes), self.random.choice(METHODS[rpc].DESCRIPTOR.fields or [None])
        if rpc == "StartFlow" and self.random.random() < 0.4:
            return held(2, SEED_FLOW.encode()) + crowd(self.random.choice((9_999, 10_001, 40_000)))
        return held(1 if number is None else number.number, b"x" * size)

    def _forged(self, rpc: str, request: Any) -> str:
        """Makes a page token that fits the list of some tenant, with a position of any kind."""
        whose = self.random.choice(("a", "b", "*"))
        if rpc == "ListFlows":
            scope = f"{rpc} {whose} {request.backend}".encode()
        else:
            start_id = "" if rpc == "ListFlowStarts" else request.id
            scope = f"{rpc} {self._pick('epoch')} {whose} {start_id}".encode()
        if rpc == "ListFlowStarts":
            scope += request.filter.SerializeToString(deterministic=True)
        steps = self.random.choices(STEPS, k=self.random.choice((1, 2, 4)))
        place = steps[0] if len(steps) == 1 and self.random.random() < 0.5 else f"[{','.join(steps)}]"
        return forged(place.encode(), scope)

    def _pick(self, name: str) -> Any:
        return self.random.choice(self.known[name])

    def _set(self, message: Any, each: FieldDescriptor, depth: int) -> None:
        if each.message_type and each.message_type.GetOptions().map_entry:
            value = each.message_type.fields_by_name["value"]
            for _ in range(self.random.choice((0, 1, 1, 3, 33))):
                key = self.random.choice((*TEXTS, "a", "b", "startflow_id"))
                if value.message_type:
                    getattr(message, each.name)[key].CopyFrom(self.arbitrary(value.message_type, depth + 1))
                else:
                    getattr(message, each.name)[key] = self._scalar(value)
        elif each.is_repeated:
            count = self.random.choice((0, 1, 1, 1, 2, 5, 101, 1_001) if depth == 0 else (0, 1, 2))
            values = getattr(message, each.name)
            values.extend(self._value(each, depth) for _ in range(min(count, 2) if each.message_type else count))
        elif each.message_type:
            getattr(message, each.name).CopyFrom(self._value(each, depth))
        else:
            setattr(message, each.name, self._value(each, depth))

    def _value(self, each: FieldDescriptor, depth: int) -> Any:
        if each.message_type:
            return self.arbitrary(each.message_type, depth + 1)
        if each.name in self.known and self.random.random() < 0.5:
            return self._pick(each.name)
        return self._scalar(each)

    def _scalar(self, each: FieldDescriptor) -> Any:
        match each.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING:
                return self.random.choice(TEXTS)
            case FieldDescriptor.CPPTYPE_BOOL:
                return self.random.random() < 0.5
            case FieldDescriptor.CPPTYPE_DOUBLE:
                return self.random.choice(DOUBLES)
            case FieldDescriptor.CPPTYPE_INT64:
                return self.random.choice([number for number in NUMBERS if -(2**63) <= number < 2**63])
            case _:  # INT32 and enums
                if each.enum_type is NULL:
                    return 0
                return self.random.choice([number for number in NUMBERS if -(2**31) <= number < 2**31])


# --- bytes that are no message


def varint(number: int) -> bytes:
    """Writes a number as protobuf does."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*written, number])


def held(number: int, data: bytes) -> bytes:
    """Writes a field that has a length."""
    return varint(number << 3 | 2) + varint(len(data)) + data


@cache
def crowd(count: int) -> bytes:
    """Writes so many URNs."""
    return b"".join(held(3, b"tel:+1206%07d" % number) for number in range(count))


@cache
def deep(levels: int, kind: str) -> bytes:
    """Nests params, or groups that nobody knows, so deep."""
    if kind == "groups":
        return b"\xa3\x06" * levels + b"\xa4\x06" * levels  # field 100 begins and ends
    value = b""
    for _ in range(levels):
        inner = held(1, held(1, b"k") + held(2, value)) if kind == "objects" else held(1, value)
        value = held(5 if kind == "objects" else 6, inner)
    return held(6, held(1, held(1, b"k") + held(2, value)))


def _truncate(maker: Maker, data: bytes) -> bytes:
    return data[: maker.random.randint(0, len(data))]


def _flip(maker: Maker, data: bytes) -> bytes:
    flipped = bytearray(data)
    for _ in range(maker.random.randint(1, 4) if data else 0):
        flipped[maker.random.randrange(len(data))] ^= 1 << maker.random.randrange(8)
    return bytes(flipped)


def _insert(maker: Maker, data: bytes) -> bytes:
    at = maker.random.randint(0, len(data))
    return data[:at] + maker.random.randbytes(maker.random.randint(1, 20)) + data[at:]


def _cut_out(maker: Maker, data: bytes) -> bytes:
    at = maker.random.randint(0, len(data))
    return data[:at] + data[at + maker.random.randint(1, 9) :]


def _repeat(maker: Maker, data: bytes) -> bytes:
    return data * maker.random.randint(2, 4) if len(data) < 100_000 else data


def _splice(maker: Maker, data: bytes) -> bytes:
    return data + maker._valid(maker.random.choice(list(METHODS)))


def _wrong_type(maker: Maker, data: bytes) -> bytes:
    tag = varint(maker.random.randint(1, 15) << 3 | maker.random.randrange(8))
    return data + tag + maker.random.choice((varint(2**63), b"\0" * 8, held(1, b"x")[1:], b"\xff" * 10, b""))


def _unknown(maker: Maker, data: bytes) -> bytes:
    number = maker.random.choice((0, 16, 100, 19_000, 2**29 - 1, 2**29))
    return data + held(number, maker.random.randbytes(maker.random.randint(0, 2_000)))


def _bad_text(maker: Maker, data: bytes) -> bytes:
    bad = maker.random.choice((b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\x80", b"tel:\xe2\x82"))
    return data + held(maker.random.randint(1, 13), bad)


def _deep(maker: Maker, data: bytes) -> bytes:
    levels = maker.random.choice((15, 16, 17, 40, 95, 101, 300, DEEPEST))
    return data + deep(levels, maker.random.choice(("objects", "lists", "groups")))


def _beyond(maker: Maker, data: bytes) -> bytes:
    length = maker.random.choice((2**31 - 1, 2**31, 2**32, 2**63, len(data) + 1))
    return data + varint(maker.random.randint(1, 15) << 3 | 2) + varint(length) + b"x"


def _noise(maker: Maker, _data: bytes) -> bytes:
    return maker.random.randbytes(maker.random.choice((0, 1, 5, 100, 5_000)))


SPOIL: tuple[Callable[[Maker, bytes], bytes], ...] = (
    _truncate, _flip, _insert, _cut_out, _repeat, _splice, _wrong_type, _unknown, _bad_text, _deep, _beyond, _noise,
)  # fmt: skip
