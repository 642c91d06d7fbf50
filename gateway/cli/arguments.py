"""What was typed on a command line, read into requests.

Rules:

1. Everything here is pure but for `read_source`, which opens the file or the pipe that was named.
2. A word that cannot be read raises ValueError with a sentence that names the option and says what to write.
3. Nothing is rounded or dropped silently: what JSON or protobuf would lose is refused before it is sent.
"""

from __future__ import annotations

import json
import math
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from google.protobuf import json_format, struct_pb2, timestamp_pb2
from startflow.v1 import start_flow_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

LARGEST_INTEGER = 2**53 - 1  # `params` carries numbers as doubles; beyond this two integers can be the same one
STATES = {
    name.removeprefix("STATE_").lower(): number for name, number in pb.FlowStart.State.items() if number
}  # STATE_UNSPECIFIED selects nothing

_DURATION = re.compile(r"([+-]?)((?:\d+(?:\.\d+)?[smhd])+)")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def read_time(option: str, text: str | None, now: datetime, *, ago: bool = False) -> timestamp_pb2.Timestamp | None:
    """Reads an RFC 3339 time, or a duration from now such as `+10m` or `-1h30m`.

    A duration without a sign is in the past if `ago` is set, else in the future, and then none may be in the past. None
    stays None.
    """
    if text is None:
        return None
    moment = timestamp_pb2.Timestamp()
    duration = _DURATION.fullmatch(text.strip())
    try:
        if duration:
            seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(duration[2]))
            past = duration[1] == "-" or (ago and not duration[1])
            if past and not ago:
                raise ValueError(f"{option}: {text!r} is in the past. Write +{duration[2]} for that long from now.")
            moment.FromDatetime(now + timedelta(seconds=-seconds if past else seconds))
        else:
            moment.FromDatetime(_rfc3339(option, text.strip(), "24h, which is 24 hours ago" if ago else "+10m"))
    except OverflowError:
        raise ValueError(f"{option}: {text!r} is outside the years 1 to 9999.") from None
    return moment


def _rfc3339(option: str, text: str, duration: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{option}: {text!r} is not a time. Write RFC 3339 (2026-01-31T09:00:00Z) or a duration ({duration})."
        ) from None
    if at.tzinfo is None:
        raise ValueError(f"{option}: {text!r} has no time zone. Add one: 2026-01-31T09:00:00Z or …+02:00.")
    return at.astimezone(UTC)


def read_pairs(option: str, pairs: Iterable[str]) -> dict[str, str]:
    """Reads `key=value` words. A value may hold `=`; a key may not come twice."""
    read: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"{option}: {pair!r} is not key=value.")
        if key in read:
            raise ValueError(f"{option}: {key!r} is given twice.")
        read[key] = value
    return read


def read_source(option: str, word: str) -> str:
    """Returns the text that a word stands for: `-` is standard input, `@path` a file, anything else itself."""
    try:
        if word == "-":
            return sys.stdin.read().removeprefix("\ufeff")
        if word.startswith("@"):
            return Path(word[1:]).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{option}: {word} is not UTF-8.") from None
    except OSError as error:
        raise ValueError(f"{option}: cannot read {word[1:]}: {error.strerror}.") from None
    return word


def read_urns(words: Sequence[str]) -> list[str]:
    """Returns the URNs that words stand for: `-` and `@path` have one on each line. Empty lines and `# …` are none."""
    urns: list[str] = []
    for word in words:
        if word != "-" and not word.startswith("@"):
            urns.append(word)
            continue
        lines = [line.strip() for line in read_source("URN", word).splitlines()]
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise ValueError(
                f"URN: {'standard input' if word == '-' else word[1:]} has no URN in it, one on each line."
            )
        urns += found
    return urns


def read_params(text: str | None, pairs: Sequence[str]) -> struct_pb2.Struct | None:
    """Reads the JSON object that `--params` stands for and adds the strings of `--param`. None if there is neither."""
    if text is None and not pairs:
        return None
    params: object = {} if text is None else _parse(read_source("--params", text))
    if not isinstance(params, dict):
        raise ValueError(  # noqa: TRY004 - what was typed has a wrong value; its type is text
            '--params must be a JSON object, such as {"first_name": "Ryan"}.'
        )
    for key, value in read_pairs("--param", pairs).items():
        if key in params:
            raise ValueError(f"--param: {key!r} is in --params too.")
        params[key] = value
    try:
        for complaint in _losses("params", params):
            raise ValueError(f"{complaint}.")
        return json_format.ParseDict(params, struct_pb2.Struct())
    except (json_format.ParseError, RecursionError):
        raise ValueError("--params are nested too deep; at most 16 levels are allowed.") from None


def _parse(text: str) -> object:
    try:
        return json.loads(
            text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant, parse_int=_read_integer
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"--params is not JSON: {error}.") from None
    except RecursionError:
        raise ValueError("--params are nested too deep; at most 16 levels are allowed.") from None


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    read = dict(pairs)
    if len(read) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"--params: the key {twice!r} comes twice in one object.")
    return read


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"--params: {name} is not a JSON number.")


def _read_integer(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:  # Python reads 4,300 digits
        raise ValueError(f"--params: a number has {len(digits)} digits; send it as a string.") from None


def _losses(path: str, value: object) -> Iterator[str]:
    """Yields what a protobuf Struct would refuse or round, with its path."""
    match value:
        case int() | float():  # a bool too; it is small
            yield from _number_losses(path, value)
        case str() if not _is_text(value):
            yield f"{path}: the string holds half of a surrogate pair"
        case dict():
            for key, inner in value.items():
                yield from _losses(f"{path}: the key {key!r}", key)
                yield from _losses(f"{path}.{key}", inner)
        case list():
            for index, inner in enumerate(value):
                yield from _losses(f"{path}[{index}]", inner)
        case _:
            pass


def _number_losses(path: str, value: float) -> Iterator[str]:
    if isinstance(value, float) and math.isinf(value):
        yield f"{path}: the number is too large; send it as a string"
    elif abs(value) > LARGEST_INTEGER:  # such a double has no fraction
        yield f"{path}: {value} is beyond ±(2^53 - 1), where numbers are rounded; send it as a string"


def _is_text(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)


def read_states(words: Iterable[str]) -> list[pb.FlowStart.State.ValueType]:
    """Reads states as people write them: `failed`, `FAILED` and `STATE_FAILED` are one."""
    states = []
    for word in words:
        number = STATES.get(word.lower().removeprefix("state_"))
        if number is None:
            raise ValueError(f"--state: {word!r} is not a state. There are: {', '.join(STATES)}.")
        states.append(number)
    return states


def read_filter(
    *,
    backends: Sequence[str],
    flow: str,
    states: Sequence[str],
    labels: Sequence[str],
    request_id: str,
    external_id: str,
    since: str | None,
    until: str | None,
    now: datetime,
) -> pb.FlowStartFilter:
    """Reads the options that select starts."""
    return pb.FlowStartFilter(
        backends=backends,
        flow=flow,
        states=read_states(states),
        labels=read_pairs("--label", labels),
        request_id=request_id,
        external_id=external_id,
        create_time_from=read_time("--since", since, now, ago=True),
        create_time_to=read_time("--until", until, now, ago=True),
    )
