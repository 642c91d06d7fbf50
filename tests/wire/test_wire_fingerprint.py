import random
from hashlib import blake2b
from typing import Any

import pytest
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.model import Json
from gateway.wire import differing, read_start, write_params
from gateway.wire.fingerprint import FIELDS, labels_form, list_form, object_form

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def fingerprint(**fields: Any) -> str:
    """Makes the fingerprint of a request of these fields."""
    return read_start(pb.StartFlowRequest(**fields)).fingerprint


def number(value: float) -> Struct:
    """Makes params of one number."""
    return Struct(fields={"n": Value(number_value=value)})


WHOLE = pb.StartFlowRequest(
    backend="textit",
    flow="welcome",
    urns=["tel:+12065551212", "tel:+12065551212"],
    contacts=["c"],
    groups=["Ärzte"],
    params=write_params({"b": [1, 2.5, None, True, {"z": "ü", "a": -0.0}], "a": "x"}),
    sender="+18007654321",
    restart_participants=False,
    exclude_active=True,
    request_id="one",
    schedule_time=Timestamp(seconds=1_700_000_000, nanos=5),
    expire_time=Timestamp(seconds=1_800_000_000),
    labels={"b": "2", "a": "1"},
    validate_only=True,
)


def test_a_fingerprint_never_changes() -> None:
    """It is stored, so the one that is made tomorrow must be the one that was made today."""
    # fmt: off
    forms = {
        "backend":              '"textit"',
        "flow":                 '"welcome"',
        "urns":                 '["tel:+12065551212","tel:+12065551212"]',
        "contacts":             '["c"]',
        "groups":               r'["\u00c4rzte"]',
        "params":               r'{"a":"x","b":[1,2.5,null,true,{"a":0,"z":"\u00fc"}]}',
        "sender":               '"+18007654321"',
        "restart_participants": "false",
        "exclude_active":       "true",
        "schedule_time":        "1700000000.000000005",
        "expire_time":          "1800000000.000000000",
        "labels":               '{"a":"1","b":"2"}',
    }
    # fmt: on
    digests = [f"{name}={blake2b(form.encode(), digest_size=16).hexdigest()}" for name, form in forms.items()]

    assert ";".join(["1", *digests]) == read_start(WHOLE).fingerprint
    assert fingerprint(flow="welcome") == "1;flow=71153c328efbfcf8f9bbd5267beb7c77"


# fmt: off
SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"request_id": "a"},                        {"request_id": "b"}),
    ({"validate_only": True},                    {}),
    ({"flow": ""},                               {}),
    ({"params": number(5.0)},                    {"params": write_params({"n": 5})}),
    ({"params": number(-0.0)},                   {"params": number(0.0)}),
    ({"labels": {"a": "1", "b": "2"}},           {"labels": {"b": "2", "a": "1"}}),
]

DIFFERENT: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    ({"backend": "a"},                           {},                                         ["backend"]),
    ({"flow": "a"},                              {"flow": "b"},                              ["flow"]),
    ({"urns": ["tel:+1", "tel:+2"]},             {"urns": ["tel:+2", "tel:+1"]},             ["urns"]),
    ({"urns": ["tel:+1", "tel:+1"]},             {"urns": ["tel:+1"]},                       ["urns"]),
    ({"urns": ["a", "b"]},                       {"urns": ['a","b']},                        ["urns"]),
    ({"contacts": ["x"]},                        {"groups": ["x"]},                          ["contacts", "groups"]),
    ({"params": Struct()},                       {},                                         ["params"]),
    ({"params": number(1)},                      {"params": number(1.5)},                    ["params"]),
    ({"params": number(1)},                      {"params": write_params({"n": "1"})},       ["params"]),
    ({"params": number(1)},                      {"params": write_params({"n": True})},      ["params"]),
    ({"params": Struct(fields={"n": Value()})},  {"params": write_params({"n": None})},      ["params"]),
    ({"restart_participants": True},             {},                                         ["restart_participants"]),
    ({"restart_participants": False},            {},                                         ["restart_participants"]),
    ({"exclude_active": True},                   {"exclude_active": False},                  ["exclude_active"]),
    ({"schedule_time": Timestamp()},             {},                                         ["schedule_time"]),
    ({"expire_time": Timestamp(nanos=1)},        {"expire_time": Timestamp(seconds=1)},      ["expire_time"]),
    ({"labels": {"a": "b"}},                     {"labels": {"a": "c"}},                     ["labels"]),
    ({"labels": {"a": "b"}, "sender": "x"},      {},                                         ["sender", "labels"]),
]
# fmt: on


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_does_not_matter_does_not_count(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Two ways of saying one thing have one fingerprint."""
    assert fingerprint(**one) == fingerprint(**other)
    assert differing(fingerprint(**one), fingerprint(**other)) == []


@pytest.mark.parametrize(("one", "other", "fields"), DIFFERENT)
def test_the_fields_that_differ_are_named(one: dict[str, Any], other: dict[str, Any], fields: list[str]) -> None:
    """In the order of the proto, whichever comes first."""
    assert fields == differing(fingerprint(**one), fingerprint(**other))
    assert fields == differing(fingerprint(**other), fingerprint(**one))


def test_fingerprints_of_two_versions_name_all_that_was_set() -> None:
    """They cannot be compared, and must not pass for equal."""
    assert differing("1;flow=a;urns=b", "2;flow=a;groups=c") == ["flow", "urns", "groups"]


def test_every_field_of_the_request_is_known() -> None:
    """A new field of the proto must not be forgotten here: two different requests would pass for one."""
    fields = [field.name for field in pb.StartFlowRequest.DESCRIPTOR.fields]

    assert set(fields) == {*FIELDS, "request_id", "validate_only"}
    assert [name for name in fields if name in FIELDS] == list(FIELDS)
    assert [pair.split("=")[0] for pair in read_start(WHOLE).fingerprint.split(";")[1:]] == list(FIELDS)


def test_what_is_refused_equals_nothing_that_was_recorded() -> None:
    """A request that cannot be recorded has a fingerprint too, and never that of one that can."""
    crowd, labels = ["tel:+1"] * 10_001, {f"x{n}": "" for n in range(33)}
    deep = Value(bool_value=True)
    for _ in range(40):
        deep = Value(list_value=ListValue(values=[deep]))

    assert differing(fingerprint(urns=crowd), fingerprint(urns=crowd[1:])) == ["urns"]
    assert differing(fingerprint(labels=labels), fingerprint()) == ["labels"]
    assert differing(fingerprint(params=Struct(fields={"a": deep})), fingerprint(params=Struct())) == ["params"]


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(texts, st.integers(-9, 9) | texts, max_size=5), st.dictionaries(texts, texts, max_size=5))
def test_order_on_the_wire_does_not_count(params: dict[str, Json], labels: dict[str, str]) -> None:
    """Maps have no order: whoever encodes them may choose one."""
    shuffled, relabelled = list(params.items()), list(labels.items())
    random.Random(1).shuffle(shuffled)
    random.Random(2).shuffle(relabelled)

    one = fingerprint(params=write_params(params), labels=labels)
    other = fingerprint(params=write_params(dict(shuffled)), labels=dict(relabelled))

    assert one == other


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(texts, texts, max_size=4), st.lists(texts, max_size=4))
def test_the_short_cuts_write_json(labels: dict[str, str], names: list[str]) -> None:
    """What is written by hand is what the JSON encoder writes."""
    assert object_form(dict(labels)) == labels_form(labels)
    assert object_form({"names": list(names)}) == f'{{"names":{list_form(names)}}}'
