"""What passes between the HTTP listeners and the simulated backends."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, Protocol
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime, timedelta


VERBS = {  # what is asked of each backend, as faults name it
    "rapidpro": ("any", "create", "list", "fetch", "flows", "workspace", "other"),
    "twilio": ("any", "create", "list", "fetch", "end", "delete", "context", "steps", "flows", "other"),
}
DEEPEST = 200  # levels of arrays and objects: whatever walks them here stays within Python's own limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request as it arrived. `n` is its number in the journal; header names are case-insensitive."""

    n: int
    at: datetime
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def base_url(self) -> str:
        """Names this server as the client does: the backends build their absolute links from Host."""
        return f"http://{self.headers.get('Host', 'localhost')}"

    def parameters(self) -> dict[str, list[str]]:
        """Decodes the query string."""
        return parse_qs(self.query, keep_blank_values=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One HTTP answer."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Effect(Protocol):
    """A request that was found good and would change something.

    `commit=True` makes the change and answers. `commit=False` only answers as if it had.
    """

    def __call__(self, *, commit: bool) -> Answer:
        """Answers, having made the change or not."""


class Refused(Exception):
    """A request the backend refuses; each backend turns it into an answer in its own style."""

    def __init__(self, status: int, document: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        super().__init__(status, document)
        self.status = status
        self.document = document
        self.headers = headers or {}


class Backend(Protocol):
    """A simulated backend: no sockets, no waiting."""

    name: str

    def verb(self, request: Received) -> str:
        """Names what the request asks for (`create`, `list`, …), whether or not it is good."""

    def answer(self, request: Received, lag: timedelta) -> Answer | Effect:
        """Answers, or hands back what would change something. Reads do not see rows younger than `lag`."""

    def force(self, external_id: str, change: dict[str, Any]) -> None:
        """Makes a start be as `change` says (`status`, `hold`). Raises KeyError if there is no such start."""

    def configure(self, data: object) -> dict[str, Any]:
        """Changes how the backend behaves, and returns all that can be changed. Raises ValueError with a sentence."""

    def rebuild(self, entry: dict[str, Any]) -> None:
        """Takes back what a journal entry of an earlier run says was created or changed."""

    def summary(self) -> dict[str, Any]:
        """Counts what there is."""


def compact(document: object) -> bytes:
    """Writes JSON without spaces, in UTF-8. What that cannot hold, lone surrogates, is escaped."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")


def parse(text: str | bytes, *, number: Callable[[str], float] | None = None) -> Any:  # noqa: ANN401 - any JSON
    """Reads JSON, strictly; `number` reads its decimals.

    Raises ValueError for what is not JSON or not finite, and RecursionError for what nests deeper than `DEEPEST`.
    """
    document = json.loads(text, parse_constant=_not_finite, parse_float=number or _finite)
    level = [document]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in _inside(outer) if isinstance(inner, (dict, list))]
        if not level:
            return document
    raise RecursionError(f"JSON may nest {DEEPEST} levels deep.")


def _inside(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _not_finite(text)


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"Out of range float values are not JSON compliant: {text!r}")
