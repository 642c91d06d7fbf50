import re
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.errors import Reason
from gateway.model import Recipients
from gateway.wire import StartRequest, distinct, invalid, read_start, write_status
from gateway.wire.checks import TEXT

LAST = Timestamp(seconds=253_402_300_799, nanos=999_999_999)


def request(**fields: Any) -> pb.StartFlowRequest:
    """Makes a good request, changed by `fields`."""
    return pb.StartFlowRequest(**{"flow": "welcome", "urns": ["tel:+12065551212"]} | fields)


def bad_fields(read: StartRequest) -> list[str]:
    """Lists the paths of what was refused."""
    return [violation.field for violation in read.violations]


def test_a_whole_request_is_read() -> None:
    """Every field arrives, in our own words."""
    read = read_start(
        pb.StartFlowRequest(
            backend="textit",
            flow="welcome",
            urns=["tel:+12065551212", "twitter:sirmixalot"],
            contacts=["f5901b62-ba76-4003-9c62-72fdacc1b7b7"],
            groups=["Doctors"],
            params=Struct(fields={"first": Value(string_value="Bob")}),
            sender="+18007654321",
            restart_participants=False,
            exclude_active=True,
            request_id="order 66",
            labels={"team": "blue", "campaign": "spring"},
            schedule_time=Timestamp(seconds=1_700_000_000, nanos=123_456_789),
            expire_time=LAST,
            validate_only=True,
        )
    )

    assert read.violations == ()
    assert (read.backend, read.flow, read.sender, read.request_id) == ("textit", "welcome", "+18007654321", "order 66")
    assert read.recipients == Recipients(
        urns=("tel:+12065551212", "twitter:sirmixalot"),
        contacts=("f5901b62-ba76-4003-9c62-72fdacc1b7b7",),
        groups=("Doctors",),
    )
    assert read.params == {"first": "Bob"}
    assert (read.restart_participants, read.exclude_active, read.validate_only) == (False, True, True)
    assert list(read.labels.items()) == [("campaign", "spring"), ("team", "blue")]
    assert read.schedule_at == datetime(2023, 11, 14, 22, 13, 20, 123_456, tzinfo=UTC)
    assert read.expire_at == datetime.max.replace(tzinfo=UTC)


def test_what_is_unset_stays_unset() -> None:
    """No default is made up here."""
    read = read_start(request())

    assert read.violations == ()
    assert (read.restart_participants, read.exclude_active) == (None, None)
    assert (read.schedule_at, read.expire_at) == (None, None)
    assert (read.backend, read.sender, read.request_id, read.validate_only) == ("", "", "", False)
    assert (read.params, read.labels) == ({}, {})


# fmt: off
URNS = [
    ("tel:+12065551212",         True),
    ("whatsapp:12065551212",     True),
    ("sip:name@example.com",     True),
    ("a.b+c-1:x",                True),
    ("ext:a b",                  True),
    ("ext:zoë",                  True),
    ("x:" + "a" * 253,           True),
    ("",                         False),
    ("+12065551212",             False),
    ("tel:",                     False),
    (":+12065551212",            False),
    ("TEL:+12065551212",         False),
    ("1tel:+12065551212",        False),
    ("tel :+12065551212",        False),
    ("tel: +12065551212",        False),
    ("tel:+12065551212 ",        False),
    ("tel:+12065551212\n",       False),
    ("tel:+1206\x00555",         False),
    ("tel:\u202a+12065551212",   False),  # as copied from an address book
    ("ext:zoë\u00a0",            False),
    ("x:" + "a" * 254,           False),
    ("x" * 300,                  False),
]
# fmt: on


@pytest.mark.parametrize(("urn", "good"), URNS)
def test_urns_are_scheme_and_address(urn: str, good: bool) -> None:  # noqa: FBT001 - a column of the table
    """A bad one is refused by its position, and never repeated."""
    read = read_start(request(urns=["tel:+1", urn]))

    assert bad_fields(read) == ([] if good else ["urns[1]"])
    assert all(not re.search(r"\d{3,}", v.description.replace("255", "")) for v in read.violations)


WHEN = Timestamp(seconds=1_700_000_000)

# fmt: off
REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    ({"flow": ""},                                                            ["flow"]),
    ({"flow": "x" * 256},                                                     ["flow"]),
    ({"flow": "x\n"},                                                         ["flow"]),
    ({"backend": "x" * 64},                                                   ["backend"]),
    ({"backend": "x\0"},                                                      ["backend"]),
    ({"urns": []},                                                            ["urns"]),
    ({"contacts": ["x", ""]},                                                 ["contacts[1]"]),
    ({"contacts": ["x" * 256, "y\x7f"]},                                      ["contacts[0]", "contacts[1]"]),
    ({"groups": [" ", "x" * 255]},                                            ["groups[0]"]),
    ({"groups": ["a\u2028b"]},                                                ["groups[0]"]),
    ({"sender": "x" * 256},                                                   ["sender"]),
    ({"sender": "+1800\r\nFrom: x"},                                          ["sender"]),
    ({"request_id": "x" * 129},                                               ["request_id"]),
    ({"request_id": " x"},                                                    ["request_id"]),
    ({"request_id": "x "},                                                    ["request_id"]),
    ({"request_id": "x\n"},                                                   ["request_id"]),
    ({"request_id": "é"},                                                     ["request_id"]),
    ({"labels": {"": "x"}},                                                   ['labels[""]']),
    ({"labels": {"-x": "x"}},                                                 ['labels["-x"]']),
    ({"labels": {"x" * 64: "x"}},                                             [f'labels["{"x" * 40}…"]']),
    ({"labels": {"+12065551212": "x"}},                                       ['labels["+###########"]']),
    ({"labels": {"x": "y" * 256}},                                            ['labels["x"]']),
    ({"labels": {"x": "y\0"}},                                                ['labels["x"]']),
    ({"labels": {f"x{n}": "" for n in range(33)}},                            ["labels"]),
    ({"schedule_time": Timestamp(nanos=-1)},                                  ["schedule_time"]),
    ({"schedule_time": Timestamp(nanos=1_000_000_000)},                       ["schedule_time"]),
    ({"expire_time": Timestamp(seconds=253_402_300_800)},                     ["expire_time"]),
    ({"expire_time": Timestamp(seconds=-62_135_596_801)},                     ["expire_time"]),
    ({"expire_time": Timestamp(seconds=2**63 - 1, nanos=2**31 - 1)},          ["expire_time"]),
    ({"schedule_time": WHEN, "expire_time": WHEN},                            ["expire_time"]),
    ({"schedule_time": LAST, "expire_time": WHEN},                            ["expire_time"]),
    ({"params": Struct(fields={"b": Value(), "a": Value()})},                 ["params.a", "params.b"]),
    ({"flow": "", "urns": ["x"], "request_id": "é", "sender": "\n"},       ["flow", "urns[0]", "sender", "request_id"]),
]

TAKEN: list[dict[str, Any]] = [
    {"flow": "x" * 255, "backend": "x" * 63, "sender": "x" * 255},
    {"urns": [], "groups": ["Doctors \N{WOMAN}\N{ZERO WIDTH JOINER}\N{STETHOSCOPE}"]},
    {"request_id": "x" * 128},
    {"request_id": "~ !"},
    {"labels": {"0": "", "a.b_c/d-e": "ü" * 255, "x" * 63: "y"}},
    {"labels": {f"x{n}": "" for n in range(32)}},
    {"schedule_time": Timestamp(seconds=-62_135_596_800), "expire_time": LAST},
    {"schedule_time": WHEN, "expire_time": Timestamp(seconds=WHEN.seconds, nanos=1000)},
    {"params": Struct()},
]
# fmt: on


@pytest.mark.parametrize(("fields", "expected"), REFUSED)
def test_every_bad_field_is_named(fields: dict[str, Any], expected: list[str]) -> None:
    """All of them by their paths, each with a sentence that begins with it."""
    read = read_start(request(**fields))

    assert expected == bad_fields(read)
    assert all(v.description.startswith(v.field) and v.description.endswith(".") for v in read.violations)
    assert {v.reason for v in read.violations} == {Reason.VALIDATION_FAILED}


def test_b1_labels_that_take_too_many_bytes_are_beyond_a_bound() -> None:
    """Every message about a start carries them; the largest of ASCII are fine."""
    largest = {f"{n:02}" + "x" * 61: "y" * 255 for n in range(32)}
    larger = dict.fromkeys(largest, "😀" * 255)
    taken, read = read_start(request(labels=largest)), read_start(request(labels=larger))

    assert ((), ()) == (taken.violations, taken.bounds)
    assert [()] == [read.violations]
    assert ["labels"] == [bound.field for bound in read.bounds]
    assert "16,384" in read.bounds[0].description
    assert larger == read.labels  # so that a start that was recorded with them is still found


@pytest.mark.parametrize("fields", TAKEN)
def test_what_is_just_allowed_is_taken(fields: dict[str, Any]) -> None:
    """The bounds themselves are inside."""
    assert read_start(request(**fields)).violations == ()


def test_too_many_recipients_are_refused_as_one_thing() -> None:
    """They are counted as sent, and not checked one by one."""
    crowd = read_start(request(urns=["bad"] * 6_000, contacts=[""] * 4_001))
    most = read_start(request(urns=["tel:+1"] * 6_000, groups=["x"] * 4_000))

    assert bad_fields(crowd) == ["urns"]
    assert "10,001" in crowd.violations[0].description
    assert crowd.recipients == Recipients()
    assert most.violations == ()


async def test_duplicates_are_removed_and_counted() -> None:
    """The caller's order stays, and the warning holds none of the values."""
    read = read_start(request(urns=["tel:+2", "tel:+1", "tel:+2", "tel:+2"], groups=["b", "a", "b"], contacts=["c"]))
    kept, warnings = await distinct(read.recipients, lambda kind, recipient: f"{kind} {recipient}")

    assert read.recipients.count == 8
    assert kept == Recipients(urns=("tel:+2", "tel:+1"), contacts=("c",), groups=("b", "a"))
    [warning] = warnings
    assert warning.reason == Reason.DUPLICATES_REMOVED
    assert warning.metadata == {"urns": "2", "groups": "1"}
    assert "2 of urns and 1 of groups" in warning.message
    assert "tel:" not in warning.message


def test_a_request_shows_no_personal_data_when_printed() -> None:
    """So that a log line about it is harmless."""
    read = read_start(request(params=Struct(fields={"name": Value(string_value="Sir Mix")})))

    assert "2065551212" not in repr(read)
    assert "Sir Mix" not in repr(read)


proto_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
instants = st.builds(
    Timestamp,
    seconds=st.integers(-(2**63), 2**63 - 1) | st.integers(-(10**11), 10**11),
    nanos=st.integers(-(2**31), 2**31 - 1) | st.integers(0, 10**9),
)
struct_values = st.recursive(
    st.builds(Value)
    | st.builds(Value, null_value=st.just(0) | st.integers(-5, 5))
    | st.builds(Value, number_value=st.floats())
    | st.builds(Value, string_value=proto_text)
    | st.builds(Value, bool_value=st.booleans()),
    lambda inner: (
        st.builds(Value, list_value=st.builds(ListValue, values=st.lists(inner, max_size=3)))
        | st.builds(Value, struct_value=st.builds(Struct, fields=st.dictionaries(proto_text, inner, max_size=3)))
    ),
    max_leaves=8,
)
requests = st.builds(
    pb.StartFlowRequest,
    backend=proto_text,
    flow=proto_text,
    urns=st.lists(proto_text, max_size=3),
    contacts=st.lists(proto_text, max_size=3),
    groups=st.lists(proto_text, max_size=3),
    params=st.none() | st.builds(Struct, fields=st.dictionaries(proto_text, struct_values, max_size=3)),
    sender=proto_text,
    restart_participants=st.none() | st.booleans(),
    exclude_active=st.none() | st.booleans(),
    request_id=proto_text,
    schedule_time=st.none() | instants,
    expire_time=st.none() | instants,
    labels=st.dictionaries(proto_text, proto_text, max_size=3),
    validate_only=st.booleans(),
)


@settings(deadline=None, max_examples=150)
@given(requests)
def test_any_message_is_read(message: pb.StartFlowRequest) -> None:
    """Reading never raises, always the same, and what it refuses can be told to the caller."""
    read = read_start(message)

    assert read == read_start(pb.StartFlowRequest.FromString(message.SerializeToString()))
    if read.violations:
        assert len(write_status(invalid(read.violations)).SerializeToString()) < 4096


def test_what_is_too_long_is_cut_and_refused() -> None:
    """A text of 4 MB is not worked on any further, whatever comes after."""
    long = "9" * 4_000_000
    read = read_start(pb.StartFlowRequest(flow="f", urns=[f"tel:{long}"], contacts=[long], groups=[long]))

    assert ["urns[0]", "contacts[0]", "groups[0]"] == [violation.field for violation in read.violations]
    assert TEXT + 1 == max(map(len, (*read.recipients.urns, *read.recipients.contacts, *read.recipients.groups)))
