"""What can be changed on a running RapidPro through the control port, read and checked.

| field             | means                                                                                          |
|-------------------|------------------------------------------------------------------------------------------------|
| `generation`      | `new` or `old`: the server is upgraded, with the rows that are there and the same workspace    |
| `names_workspace` | false: a proxy drops `X-Temba-Workspace` and `X-Temba-Org` from every answer                   |
| `country`         | of the workspace, two letters: how a telephone number without its country is read              |
| `page_size`       | rows on a page, 1 to 250                                                                       |
| `replicas`        | seconds that each read replica is behind; `[]` reads the primary                               |
| `pick`            | `alternate` between the replicas, or a `random` one for each read                              |
| `transaction`     | seconds from the begin of a transaction (`modified_on`) to its commit, or `[least, most]`      |
| `ahead`           | seconds that the database's clock is ahead of the `Date` header; negative: behind              |
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from gateway.sandbox.faults import is_seconds
from gateway.sandbox.rapidpro.database import MOST_ROWS
from gateway.sandbox.rapidpro.generations import GENERATIONS

if TYPE_CHECKING:
    from collections.abc import Callable

COUNTRY = 2  # letters


def read_changes(data: object) -> dict[str, Any]:
    """Reads changes. Raises ValueError with a sentence naming the field that is wrong."""
    if not isinstance(data, dict):
        raise ValueError('Changes are a JSON object, for example {"replicas": [0, 2]}.')  # noqa: TRY004 - the caller's, answered 400
    for name, value in data.items():
        if name not in CHECKS:
            raise ValueError(f"`{name}` cannot be changed: use {', '.join(CHECKS)}.")
        if not CHECKS[name][0](value):
            raise ValueError(f"`{name}` must be {CHECKS[name][1]}, not {value!r}.")
    changes = dict(data)
    if "replicas" in changes:
        changes["replicas"] = tuple(map(float, changes["replicas"]))
    if "transaction" in changes:
        given = changes["transaction"]
        changes["transaction"] = tuple(map(float, given)) if isinstance(given, list) else (float(given), float(given))
    return changes


def read_touch(data: object) -> tuple[int, list[str], timedelta]:
    """Reads how many rows are to be touched, or which, and how long ago. Raises ValueError with a sentence."""
    if not isinstance(data, dict) or data.keys() - {"count", "ids", "ago"}:
        raise ValueError('Say `count` or `ids`, and `ago` if you like: {"count": 501} or {"ids": [ID], "ago": 60}.')
    count, ids, ago = data.get("count", 0), data.get("ids", []), data.get("ago", 0)
    if not isinstance(ids, list) or not all(isinstance(each, str) for each in ids):
        raise ValueError("`ids` must be a list of external ids.")
    if type(count) is not int or count < 0 or bool(count) == bool(ids):
        raise ValueError("Say `count`, a whole number of the rows that were made last, or `ids`, and not both.")
    if not is_seconds(ago):
        raise ValueError("`ago` must be a number of seconds.")
    return count, ids, timedelta(seconds=ago)


def _is_span(value: object) -> bool:
    if not isinstance(value, list):
        return is_seconds(value)
    return len(value) == 2 and all(map(is_seconds, value)) and value[0] <= value[1]  # noqa: PLR2004 - least, most


CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "generation": (lambda value: value in (*GENERATIONS,), "new or old"),
    "names_workspace": (lambda value: isinstance(value, bool), "true or false"),
    "country": (
        lambda value: isinstance(value, str) and len(value) == COUNTRY and value.isascii() and value.isupper(),
        "two capital letters",
    ),
    "page_size": (lambda value: type(value) is int and 0 < value <= MOST_ROWS, f"a whole number from 1 to {MOST_ROWS}"),
    "replicas": (
        lambda value: isinstance(value, list) and all(map(is_seconds, value)),
        "a list of numbers of seconds",
    ),
    "pick": (lambda value: value in ("alternate", "random"), "alternate or random"),
    "transaction": (_is_span, "a number of seconds, or [least, most]"),
    "ahead": (
        lambda value: type(value) in (int, float) and is_seconds(abs(value)),
        "a number of seconds",
    ),
}
