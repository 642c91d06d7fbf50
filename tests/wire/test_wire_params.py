import json
import math

import pytest
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import Violation
from gateway.model import CORRELATION_KEY, Json
from gateway.wire import write_params
from gateway.wire.params import EXACT, LEVELS, VALUES, read_params

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
numbers = st.integers(-EXACT, EXACT) | st.floats(allow_nan=False, allow_infinity=False).filter(
    lambda number: abs(number) <= EXACT
)
values: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def read(struct: Struct) -> tuple[dict[str, Json], list[Violation]]:
    """Reads params, with what was wrong."""
    violations: list[Violation] = []
    return read_params(struct, violations), violations


def struct_of(**fields: Value) -> Struct:
    """Makes a Struct of protobuf values, so that one can be what JSON has no word for."""
    return Struct(fields=fields)


@settings(deadline=None)
@given(st.dictionaries(texts.filter(lambda key: key != CORRELATION_KEY), values, max_size=5))
def test_params_come_back_as_they_went(params: dict[str, Json]) -> None:
    """Whatever JSON is allowed survives the way through a Struct and through bytes."""
    struct = Struct.FromString(write_params(params).SerializeToString())

    assert (params, []) == read(struct)


# fmt: off
NUMBERS = [
    (5.0,             5,         int),
    (-0.0,            0,         int),
    (1e3,             1000,      int),
    (float(EXACT),    EXACT,     int),
    (float(-EXACT),   -EXACT,    int),
    (0.5,             0.5,       float),
    (-1e-7,           -1e-7,     float),
]
# fmt: on


@pytest.mark.parametrize(("sent", "expected", "kind"), NUMBERS)
def test_integral_numbers_are_read_as_integers(sent: float, expected: float, kind: type) -> None:
    """What is integral is written without a fraction later; what is not stays a float."""
    params, violations = read(struct_of(n=Value(number_value=sent)))

    assert violations == []
    assert expected == params["n"]
    assert kind is type(params["n"])
    assert math.copysign(1, expected) == math.copysign(1, float(params["n"] or 0))


def write_value(value: Json) -> Value:
    """Writes one value."""
    return write_params({"value": value}).fields["value"]


def chain(levels: int) -> Value:
    """Nests lists so many levels deep."""
    value = Value(string_value="bottom")
    for _ in range(levels):
        value = Value(list_value=ListValue(values=[value]))
    return value


def nan() -> Value:
    """Makes a value that JSON has no word for."""
    return Value(number_value=math.nan)


# fmt: off
REFUSED = [
    ("NaN",            {"a": nan()},                                  "params.a",                "as a string"),
    ("infinity",       {"a": Value(number_value=-math.inf)},          "params.a",                "as a string"),
    ("2^53",           {"a": Value(number_value=2.0**53)},            "params.a",                "as a string"),
    ("below -2^53",    {"a": Value(number_value=-(2.0**53) - 2)},     "params.a",                "as a string"),
    ("huge",           {"a": Value(number_value=-1e300)},             "params.a",                "as a string"),
    ("unset",          {"a": Value()},                                "params.a",                "unset"),
    ("NUL in text",    {"a": Value(string_value="x\0y")},             "params.a",                "NUL"),
    ("NUL in a key",   {"x\0y": Value(bool_value=True)},              'params["x\\u0000y"]',     "NUL"),
    ("our own key",    {"startflow_id": Value(string_value="x")},     "params.startflow_id",     "rename"),
    ("an odd key",     {"a b": nan()},                                'params["a b"]',           "as a string"),
    ("no key",         {"": nan()},                                   'params[""]',              "as a string"),
    ("a phone number", {"+1 206 555-1212": nan()},                    'params["+# ### ###-####"]', "as a string"),
    ("a number named", {"tel12065551212": nan()},                     'params["tel###########"]', "as a string"),
    ("a long key",     {"k" * 99: nan()},                             f'params["{"k" * 40}…"]',  "as a string"),
    ("in an object",   {"a": write_value({"b": {"c": math.nan}})},    "params.a.b.c",            "as a string"),
    ("in a list",      {"a": write_value([1, {"b": [0, math.nan]}])}, "params.a[1].b[1]",        "as a string"),
    ("too deep",       {"a": chain(LEVELS)},                          "params.a" + "[0]" * 15,   "deeper"),
    ("far too deep",   {"a": chain(40)},                              "params.a" + "[0]" * 15,   "deeper"),
]
# fmt: on


@pytest.mark.parametrize(("label", "fields", "path", "word"), REFUSED, ids=[row[0] for row in REFUSED])
def test_what_json_or_a_backend_cannot_hold_is_refused(
    label: str, fields: dict[str, Value], path: str, word: str
) -> None:
    """The path leads to the bad value, and the sentence says what to do."""
    _, violations = read(Struct(fields=fields))

    assert [path] == [violation.field for violation in violations], label
    assert word in violations[0].description
    assert violations[0].description.startswith(path)


def test_c13_only_integers_that_no_other_is_mistaken_for_are_taken() -> None:
    """2^53 + 1 arrives as 2^53, so neither can be believed; 2^53 - 1 is only itself."""
    largest: dict[str, Json] = {"n": 9007199254740991, "m": -9007199254740991}
    mistaken = {name: Value(number_value=float(n)) for name, n in (("n", 2**53 + 1), ("m", -(2**53) - 1))}
    _, violations = read(Struct(fields=mistaken))

    assert (largest, []) == read(write_params(largest))
    assert ["params.m", "params.n"] == [violation.field for violation in violations]


def test_sixteen_levels_are_taken() -> None:
    """The object itself is the first level."""
    _, violations = read(struct_of(a=chain(LEVELS - 1)))

    assert violations == []


def test_our_key_is_free_below_the_top() -> None:
    """Only at the top does the gateway put its own."""
    inner: dict[str, Json] = {"deeper": {"startflow_id": "x"}}

    assert (inner, []) == read(write_params(inner))


def test_every_bad_value_is_named() -> None:
    """One refusal does not hide the next."""
    _, violations = read(struct_of(b=Value(), a=Value(number_value=math.nan), c=Value(bool_value=True)))

    assert [violation.field for violation in violations] == ["params.a", "params.b"]


def test_too_many_values_are_not_read() -> None:
    """The work is bounded, and the refusal is said once."""
    many = Value(list_value=ListValue(values=[Value()] * VALUES))
    _, violations = read(struct_of(a=many, b=many, c=many))

    assert [violation.field for violation in violations] == ["params"]


def test_keys_are_sorted_at_every_level() -> None:
    """So that the same params are always the same text."""
    params, _ = read(write_params({"b": {"z": 1, "y": [{"d": 1, "c": 2}]}, "a": None}))

    assert json.dumps(params, separators=(",", ":")) == '{"a":null,"b":{"y":[{"c":2,"d":1}],"z":1}}'


def test_protobuf_refuses_lone_surrogates_itself() -> None:
    """The reader relies on it."""
    with pytest.raises((UnicodeEncodeError, ValueError)):
        Value(string_value="\ud800")
