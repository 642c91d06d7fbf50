"""`google.protobuf.Struct` ⇄ plain JSON values.

Struct numbers are doubles. Integral ones up to 2^53 - 1 are read as integers, because a flow that is sent `5.0` for `5`
shows `5.0`. Larger ones are refused: 2^53 is also what 2^53 + 1 becomes on the way here.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, TypeAlias

from google.protobuf.struct_pb2 import NULL_VALUE, ListValue, Struct, Value

from gateway.model import CORRELATION_KEY, Json
from gateway.wire.checks import broken, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.errors import Violation

LEVELS = 16
VALUES = 10_000  # more cannot be encoded within any backend's limit, so they are not even read
EXACT = 2**53 - 1  # up to here no two integers are the same double
ONCE_TAKEN = 2**53  # was taken by earlier versions

Where: TypeAlias = "tuple[Where, str | int] | None"
"""The way to a value, from the inside out: cheap to carry, made into text only for a violation."""

_plain_key = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*").fullmatch


def read_params(struct: Struct, violations: list[Violation], bounds: list[Violation] | None = None) -> dict[str, Json]:
    """Reads params with their keys in sorted order at every level. What is refused is read as null.

    What earlier versions took is read as they did, and goes to `bounds` if that is given.
    """
    return _Reader(violations, violations if bounds is None else bounds).read_object(struct, None, 1)


def write_params(params: Mapping[str, Json]) -> Struct:
    """Writes params as a Struct."""
    return Struct(fields={key: _write_value(value) for key, value in params.items()})


class _Reader:
    """One reading of one Struct."""

    __slots__ = ("bounds", "left", "violations")

    def __init__(self, violations: list[Violation], bounds: list[Violation]) -> None:
        self.violations = violations
        self.bounds = bounds
        self.left = VALUES

    def read_object(self, struct: Struct, where: Where, level: int) -> dict[str, Json]:
        fields = struct.fields
        if not self.may_read(len(fields), where, level):
            return {}
        read: dict[str, Json] = {}
        for key in sorted(fields):
            here = (where, key)
            if "\0" in key:
                self.refuse(here, "has a NUL character in its key, which the backends cannot store: rename it.")
            if level == 1 and key == CORRELATION_KEY:
                self.refuse(here, "is the gateway's own key: rename it.")
            read[key] = self.read_value(fields[key], here, level)
        return read

    def read_list(self, values: ListValue, where: Where, level: int) -> list[Json]:
        if not self.may_read(len(values.values), where, level):
            return []
        return [self.read_value(value, (where, index), level) for index, value in enumerate(values.values)]

    def read_value(self, value: Value, where: Where, level: int) -> Json:
        kind = value.WhichOneof("kind")
        read: Json = None
        if kind == "string_value":
            read = value.string_value
            if "\0" in read:  # lone surrogates cannot get here: protobuf refuses them
                self.refuse(where, "holds a NUL character, which the backends cannot store: remove it.")
        elif kind == "number_value":
            read = self.read_number(value.number_value, where)
        elif kind == "bool_value":
            read = value.bool_value
        elif kind == "struct_value":
            read = self.read_object(value.struct_value, where, level + 1)
        elif kind == "list_value":
            read = self.read_list(value.list_value, where, level + 1)
        elif kind is None:
            self.refuse(where, "is unset: send null, or leave it out.")
        return read

    def read_number(self, number: float, where: Where) -> Json:
        if number.is_integer():
            if -EXACT <= number <= EXACT:
                return int(number)
            rule = "is an integer beyond 2^53 - 1, which a double cannot hold exactly: send it as a string."
            if abs(number) == ONCE_TAKEN:
                self.bounds.append(broken(_path(where), rule))
                return int(number)
            self.refuse(where, rule)
        elif math.isfinite(number):
            return number
        else:
            self.refuse(where, "is not a valid JSON number: send it as a string.")
        return None

    def may_read(self, count: int, where: Where, level: int) -> bool:
        if level > LEVELS:
            self.refuse(where, f"is nested deeper than {LEVELS} levels: flatten it, or send it as a string of JSON.")
            return False
        if self.left < 0:
            return False  # said once
        self.left -= count
        if self.left < 0:
            self.refuse(None, f"hold more than {VALUES:,} values, more than any backend takes: send fewer.")
            return False
        return True

    def refuse(self, where: Where, rule: str) -> None:
        self.violations.append(broken(_path(where), rule))


def _path(where: Where) -> str:
    steps = []
    while where:
        where, step = where
        if isinstance(step, int):
            steps.append(f"[{step}]")
        else:
            shown = quoted(step)
            steps.append(f".{step}" if _plain_key(step) and shown == f'"{step}"' else f"[{shown}]")
    return "params" + "".join(reversed(steps))


def _write_value(value: Json) -> Value:
    match value:
        case None:
            return Value(null_value=NULL_VALUE)
        case bool():
            return Value(bool_value=value)
        case int() | float():
            return Value(number_value=value)
        case str():
            return Value(string_value=value)
        case list():
            return Value(list_value=ListValue(values=map(_write_value, value)))
        case dict():
            return Value(struct_value=write_params(value))
