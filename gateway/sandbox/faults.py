"""Faults on demand: what to do to a request instead of answering it properly.

A rule is a JSON object. Every field but `backend` may be left out; the first rule that matches a request applies.

| field         | means                                                                                      |
|---------------|--------------------------------------------------------------------------------------------|
| `backend`     | `rapidpro` or `twilio`                                                                     |
| `verb`        | `create` `list` `fetch` `flows` …; Twilio also `context` `steps` `end` `delete`; `any`     |
| `times`       | applies to so many requests, then never again; null (default) for ever                     |
| `seconds`     | applies for so many seconds from when it was added, then never again; null (default) for   |
|               | ever: an outage                                                                            |
| `probability` | 0 to 1; drawn for each matching request from the seeded generator                          |
| `match`       | only requests with this text in their path, query or raw body                              |
| `commit`      | true (default) makes the change, false does not, a number makes it so many seconds after   |
|               | the request arrived, even if the caller has hung up by then                                |
| `answer`      | `"real"` (default) · `"reset"` the connection · `"hang"` until the caller hangs up, or     |
|               | reset after `delay` · `"truncated"` real headers, half the body, closed ·                  |
|               | `"another"` what the request of this kind before was answered, as by a cache (the real     |
|               | answer while there was none) ·                                                             |
|               | `{"status": 500, "headers": {…}, "body": "text or JSON"}` ·                                |
|               | `{"patch": {…}, "omit": […], "drop": […]}` the real answer with fields replaced, fields    |
|               | left out (in each row if it is a list), headers dropped; any of the three                  |
| `delay`       | seconds to wait before answering                                                           |
| `list_lag`    | alone with `backend`: reads show everything as it was so many seconds ago                  |

Presets are rules with a name: `{"preset": "throttled", "backend": "twilio", "times": 3}`. Fields beside the
name replace the preset's.

| preset                          | verb          | commit   | answer                                        |
|---------------------------------|---------------|----------|-----------------------------------------------|
| `500_after_commit`              | create        | true     | the backend's own 500                         |
| `500_before_commit`             | create        | false    | the same                                      |
| `reset_after_commit`            | create        | true     | reset                                         |
| `reset_before_commit`           | create        | false    | reset                                         |
| `late_commit`                   | create        | 2        | reset at once; the row appears 2 seconds later|
| `hang`                          | create        | true     | none                                          |
| `hang_before_commit`            | create        | false    | none                                          |
| `truncated_201`                 | create        | true     | truncated                                     |
| `html_502`                      | any           | false    | a proxy's page                                |
| `mailroom_down`                 | create        | false    | the backend's own 500: nothing is taken, while|
|                                 |               |          | all can be read                               |
| `firewall`                      | create        | false    | a firewall's 403 page; `match` one flow's id  |
| `without_params`                | any           | true     | real, without `params` and `extra`; Twilio's  |
|                                 |               |          | without `context`                             |
| `blank_params`                  | any           | true     | real, with those empty                        |
| `another_201`                   | create        | true     | what the create before was answered           |
| `unnamed_workspace`             | any           | true     | real, without the `X-Temba-…` headers         |
| `throttled`                     | any           | false    | 429 with `Retry-After: 1`                     |
| `throttled_for_long`            | any           | false    | 429 with `Retry-After: 2099`                  |
| `throttled_without_retry_after` | any           | false    | 429                                           |
| `unauthorized`                  | any           | false    | 403 on RapidPro, 401 on Twilio                |
| `suspended`                     | create        | false    | 400 workspace suspended; 403 on Twilio        |
| `null_status`                   | any           | true     | real, `status` null                           |
| `lag`                           |               |          | `list_lag` 5                                  |
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from gateway.sandbox.exchange import VERBS
from gateway.sandbox.presets import PRESETS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from datetime import datetime

    from gateway.sandbox.exchange import Received

BACKENDS = ("rapidpro", "twilio")
YEAR = 366 * 24 * 60 * 60
STATUSES = range(200, 600)  # one that begins with 1 announces an answer, and is none
FRAMING = {"content-length", "transfer-encoding"}  # the server writes these itself: they follow from the body
ALTERING = {"patch", "omit", "drop"}  # what is done to the real answer
HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+: [\t\x20-\x7e\x80-\uffff]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One fault, as the module's table describes it."""

    backend: str
    verb: str = "any"
    times: int | None = None
    seconds: float | None = None
    probability: float = 1.0
    match: str | None = None
    commit: bool | float = True
    answer: Literal["real", "reset", "hang", "truncated", "another"] | dict[str, Any] = "real"
    delay: float = 0.0
    list_lag: float | None = None


class Faults:
    """The rules in force, each with an id and a count of how often it fired."""

    def __init__(self, *, rng: random.Random, clock: Callable[[], datetime]) -> None:
        self._rng = rng
        self._clock = clock
        self._until: dict[int, datetime] = {}
        self._rules: dict[int, Rule] = {}
        self._fired: dict[int, int] = {}
        self._last_id = 0

    def add(self, data: object) -> int:
        """Adds a rule or a preset, and returns its id. Raises ValueError with a sentence naming the field."""
        rule = read_rule(data)
        self._last_id += 1
        self._rules[self._last_id] = rule
        self._fired[self._last_id] = 0
        if rule.seconds is not None:
            self._until[self._last_id] = self._clock() + timedelta(seconds=rule.seconds)
        return self._last_id

    def remove(self, rule_id: int) -> None:
        """Removes one rule. Raises KeyError if there is none with that id."""
        del self._rules[rule_id]

    def clear(self) -> None:
        """Removes every rule."""
        self._rules.clear()

    def listing(self) -> list[dict[str, Any]]:
        """Shows the rules in force, in the order they are tried."""
        return [{"id": rule_id, **asdict(rule), "fired": self._fired[rule_id]} for rule_id, rule in self._rules.items()]

    def fired(self, rule_id: int) -> int:
        """Says how often a rule fired, also after it was removed."""
        return self._fired[rule_id]

    def pick(self, backend: str, verb: str, request: Received) -> tuple[int, Rule] | None:
        """Chooses the rule for a request and counts it as fired."""
        for rule_id, rule in self._rules.items():
            if rule.list_lag is None and self._applies(rule_id, rule, backend, verb, request):
                self._fired[rule_id] += 1
                return rule_id, rule
        return None

    def lag(self, backend: str) -> timedelta:
        """Says how far reads are behind, and counts the rule that says so as fired."""
        lagging = [
            (rule.list_lag, rule_id)
            for rule_id, rule in self._rules.items()
            if rule.list_lag is not None and rule.backend == backend
        ]
        if not lagging:
            return timedelta()
        seconds, rule_id = max(lagging)
        self._fired[rule_id] += 1
        return timedelta(seconds=seconds)

    def _applies(self, rule_id: int, rule: Rule, backend: str, verb: str, request: Received) -> bool:
        if rule.backend != backend or rule.verb not in ("any", verb):
            return False
        if rule.times is not None and self._fired[rule_id] >= rule.times:
            return False
        if rule_id in self._until and request.at >= self._until[rule_id]:
            return False
        if rule.match is not None and rule.match.encode() not in (
            b"%s?%s\n%s" % (request.path.encode(), request.query.encode(), request.body)
        ):
            return False
        return rule.probability >= 1 or self._rng.random() < rule.probability


def read_rule(data: object) -> Rule:
    """Reads one rule or preset. Raises ValueError with a sentence naming the field that is wrong."""
    if not isinstance(data, dict):
        raise ValueError('A rule is a JSON object, for example {"preset": "throttled", "backend": "twilio"}.')  # noqa: TRY004 - the caller's, answered 400
    given = dict(data)
    backend = given.get("backend")
    if backend not in BACKENDS:
        raise ValueError(f"`backend` must be one of {', '.join(BACKENDS)}, not {backend!r}.")
    preset = given.pop("preset", None)
    if preset is not None:
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ValueError(f"`preset` must be one of {', '.join(PRESETS)}, not {preset!r}.")
        given = PRESETS[preset](backend) | given
    for name, value in given.items():
        if name not in CHECKS:
            raise ValueError(f"`{name}` is not a field of a rule: use {', '.join(CHECKS)}.")
        if not CHECKS[name][0](value):
            raise ValueError(f"`{name}` must be {CHECKS[name][1]}, not {value!r}.")
    if given.get("verb", "any") not in VERBS[backend]:
        raise ValueError(f"`verb` must be one of {', '.join(VERBS[backend])}, not {given['verb']!r}.")
    if given.get("list_lag") is not None and given.keys() - {"backend", "list_lag"}:
        raise ValueError("`list_lag` can be combined only with `backend`: add another rule for anything else.")
    return Rule(**given)


def is_seconds(value: object) -> bool:
    """Says whether something is a number of seconds that can be waited, or counted back from now."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= YEAR


def _answer(value: object) -> bool:
    if not isinstance(value, dict):
        return value in ("real", "reset", "hang", "truncated", "another")
    if value.keys() & ALTERING:
        lists = [value.get("omit", []), value.get("drop", [])]
        return (
            value.keys() <= ALTERING
            and isinstance(value.get("patch", {}), dict)
            and all(isinstance(each, list) and all(isinstance(name, str) for name in each) for each in lists)
        )
    headers = value.get("headers", {})
    return (
        type(value.get("status")) is int
        and value["status"] in STATUSES
        and value.keys() <= {"status", "headers", "body"}
        and isinstance(headers, dict)
        and FRAMING.isdisjoint(name.lower() for name in headers)
        and all(isinstance(text, str) and HEADER.fullmatch(f"{name}: {text}") for name, text in headers.items())
    )


CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "backend": (lambda value: value in BACKENDS, "a backend"),
    "verb": (lambda value: isinstance(value, str), "a string"),
    "times": (lambda value: value is None or (type(value) is int and value > 0), "a positive integer or null"),
    "seconds": (lambda value: value is None or is_seconds(value), "a number of seconds or null"),
    "probability": (lambda value: is_seconds(value) and value <= 1, "a number from 0 to 1"),
    "match": (lambda value: value is None or isinstance(value, str), "a string or null"),
    "commit": (lambda value: isinstance(value, bool) or is_seconds(value), "true, false or a number of seconds"),
    "answer": (
        _answer,
        "real, reset, hang, truncated, another, an object with `status`, or one of `patch`, `omit` and `drop`",
    ),
    "delay": (is_seconds, "a number of seconds"),
    "list_lag": (lambda value: value is None or is_seconds(value), "a number of seconds or null"),
}
