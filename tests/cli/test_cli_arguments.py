import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.cli import arguments
from tests.lengths import size

NOW = datetime(2026, 1, 31, 9, 0, tzinfo=UTC)


@pytest.mark.parametrize(("text", "ago", "expected"), [
    ("2026-01-31T09:00:00Z",         False, "2026-01-31T09:00:00Z"),
    ("2026-01-31T11:00:00+02:00",    False, "2026-01-31T09:00:00Z"),
    ("2026-01-31T09:00:00.250Z",     False, "2026-01-31T09:00:00.250Z"),
    ("+10m",                         False, "2026-01-31T09:10:00Z"),
    ("10m",                          False, "2026-01-31T09:10:00Z"),
    ("10m",                          True,  "2026-01-31T08:50:00Z"),
    ("-10m",                         True,  "2026-01-31T08:50:00Z"),
    ("+1h30m",                       True,  "2026-01-31T10:30:00Z"),
    ("1.5s",                         False, "2026-01-31T09:00:01.500Z"),
    ("2d",                           True,  "2026-01-29T09:00:00Z"),
])  # fmt: skip
def test_a_time_is_rfc_3339_or_a_duration_from_now(text: str, ago: bool, expected: str) -> None:  # noqa: FBT001 - a column
    """A time is RFC 3339 or a duration from now."""
    moment = arguments.read_time("--since", text, NOW, ago=ago)

    assert moment is not None
    assert expected == moment.ToJsonString()


@pytest.mark.parametrize(("text", "says"), [
    ("soon",                 "is not a time"),
    ("",                     "is not a time"),
    ("10",                   "is not a time"),
    ("2026-01-31",           "no time zone"),
    ("2026-01-31T09:00:00",  "no time zone"),
    ("9999999999d",          "outside the years"),
    ("-10m",                 "is in the past. Write [+]10m for that long from now"),  # newcomer 10: it sent at once
    ("-1h30m",               "is in the past"),
])  # fmt: skip
def test_a_time_that_cannot_be_read_names_its_option(text: str, says: str) -> None:
    """A time that cannot be read names its option."""
    with pytest.raises(ValueError, match=rf"^--since: .*{says}"):
        arguments.read_time("--since", text, NOW)


def test_no_time_stays_none() -> None:
    """No time stays none."""
    assert arguments.read_time("--since", None, NOW) is None


def test_the_value_of_a_pair_may_hold_an_equals_sign() -> None:
    """The value of a pair may hold an equals sign."""
    assert {"a": "b=c", "d": ""} == arguments.read_pairs("--label", ["a=b=c", "d="])


@pytest.mark.parametrize("pairs", [["a"], ["=b"], ["a=1", "a=2"]])
def test_a_pair_without_a_key_or_with_one_given_before_is_refused(pairs: list[str]) -> None:
    """A pair without a key or with one given before is refused."""
    with pytest.raises(ValueError, match=r"^--label: "):
        arguments.read_pairs("--label", pairs)


@pytest.mark.parametrize(("text", "says"), [
    ("[1]",                          "must be a JSON object"),
    ("{",                            "is not JSON"),
    ('{"a": NaN}',                   "NaN is not a JSON number"),
    ('{"a": -Infinity}',             "-Infinity is not a JSON number"),
    ('{"a": 1e999}',                 "params.a: the number is too large"),
    ('{"a": [{"b": 9007199254740993}]}', r"params.a\[0\].b: 9007199254740993 .* send it as a string"),
    ('{"a": -9007199254740993}',     "send it as a string"),
    ('{"a": 9007199254740992}',      "send it as a string"),
    ('{"a": 9007199254740994.0}',    "send it as a string"),
    ('{"a": ' + "9" * 400 + "}",     "send it as a string"),
    ('{"a": ' + "9" * 5000 + "}",    "5000 digits; send it as a string"),
    ('{"a": "\\ud800"}',             "params.a: the string holds half of a surrogate pair"),
    ('{"\\ud800": 1}',               "the key .* holds half of a surrogate pair"),
    ('{"a": 1, "a": 2}',             "the key 'a' comes twice"),
    ('{"a": ' * 200 + "1" + "}" * 200, "nested too deep"),
    ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deep"),
])  # fmt: skip
def test_params_that_would_be_lost_or_rounded_are_refused(text: str, says: str) -> None:
    """Params that would be lost or rounded are refused."""
    with pytest.raises(ValueError, match=says):
        arguments.read_params(text, [])


def test_integers_that_are_only_themselves_are_sent() -> None:
    """Up to two to the 53, that itself left out."""
    params = arguments.read_params('{"a": 9007199254740991, "b": -9007199254740991}', [])

    assert params is not None
    assert {"a": 2**53 - 1, "b": -(2**53 - 1)} == dict(params)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53 - 1), 2**53 - 1) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=size(100, quick=40))
@given(st.dictionaries(st.text(st.characters(codec="utf-8")), JSON, max_size=3))
def test_params_arrive_as_they_were_typed(params: dict[str, object]) -> None:
    """Params arrive as they were typed."""
    read = arguments.read_params(json.dumps(params), [])

    assert read is not None
    assert params == json_format.MessageToDict(read)


def test_single_params_are_strings_added_to_the_object() -> None:
    """Single params are strings added to the object."""
    params = arguments.read_params('{"a": 1}', ["zip=01234"])

    assert params is not None
    assert {"a": 1, "zip": "01234"} == dict(params)


def test_a_single_param_does_not_replace_one_of_the_object() -> None:
    """A single param does not replace one of the object."""
    with pytest.raises(ValueError, match="'a' is in --params too"):
        arguments.read_params('{"a": 1}', ["a=2"])


def test_no_params_are_not_empty_params() -> None:
    """No params are not empty params."""
    assert arguments.read_params(None, []) is None
    assert arguments.read_params("{}", []) is not None


def test_params_come_from_a_file_or_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Params come from a file or from standard input."""
    file = tmp_path / "params.json"
    file.write_text('{"name": "Ærø"}', encoding="utf-8")
    monkeypatch.setattr("sys.stdin", io.StringIO('{"name": "Bo"}'))

    assert '{"name": "Ærø"}' == arguments.read_source("--params", f"@{file}")
    assert '{"name": "Bo"}' == arguments.read_source("--params", "-")


def test_a_file_that_cannot_be_read_is_wrong_usage(tmp_path: Path) -> None:
    """A file that cannot be read is wrong usage."""
    (tmp_path / "latin").write_bytes(b'{"a": "\xe9"}')

    with pytest.raises(ValueError, match=r"cannot read .*nowhere"):
        arguments.read_source("--params", f"@{tmp_path}/nowhere")
    with pytest.raises(ValueError, match="not UTF-8"):
        arguments.read_source("--params", f"@{tmp_path}/latin")


@pytest.mark.parametrize("word", ["failed", "FAILED", "STATE_FAILED", "State_Failed"])
def test_a_state_is_read_however_it_is_written(word: str) -> None:
    """A state is read however it is written."""
    assert [pb.FlowStart.STATE_FAILED] == arguments.read_states([word])


@pytest.mark.parametrize("word", ["done", "unspecified", ""])
def test_an_unknown_state_is_refused_with_those_there_are(word: str) -> None:
    """An unknown state is refused with those there are."""
    with pytest.raises(ValueError, match="There are: pending, queued"):
        arguments.read_states([word])
