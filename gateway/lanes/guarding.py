"""Believes of an adapter only what is of its type.

An adapter that returns something else, or raises, is at fault, and not the loop that asked it. What it says then counts
as `Unsure`, and the log names the backend, the verb and what was wrong, by types alone: values may be personal.

The types are those of `adapters/base.py`, read from its annotations: a field that is added there is checked here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from functools import cache, partial
from itertools import islice
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, TypeAlias, Union, cast, get_args, get_origin, get_type_hints

import structlog

from gateway import errors, model, sightings
from gateway.adapters import base
from gateway.adapters.base import Adapter, Canceller, Flows, KeyReader, Listener, Lister, Request, Sweep, Unsure
from gateway.model import Cause, Recipients

if TYPE_CHECKING:
    from gateway.adapters.base import Exchange, Failed, Reply
    from gateway.model import Asked

log = structlog.get_logger()

Check: TypeAlias = Callable[[object], str]
"""Says what is wrong with a value, by types alone; empty if nothing is."""

LOOKED_AT = 50  # of the items of a list, which may be 100,000: an adapter that is wrong is wrong from the first row on
YEARS = range(1900, 9000)  # sums with a moment of these cannot overflow
NAMES = {
    **vars(errors),
    **vars(model),
    **vars(sightings),
    **vars(base),
    **{each.__name__: each for each in (datetime, timedelta, Collection, Mapping, Sequence)},
    "Json": object,
}
"""What the annotations of the interface name."""


class _Guarded:
    """An adapter of which only what is of its type is believed. Has the verbs that it has, and no others."""


def guarded(adapter: Adapter, backend: str) -> Adapter:
    """Returns the adapter with each of its verbs checked. `backend` is its name, for the log."""
    guard: Any = _Guarded()
    for name in dir(adapter):
        if not name.startswith("_"):
            setattr(guard, name, getattr(adapter, name))
    if (plan := getattr(adapter, "plan", None)) is not None:
        guard.plan = partial(_plan, plan, log.bind(backend=backend, verb="plan"))
    for name, expected in _verbs().items():
        if (method := getattr(adapter, name, None)) is not None:
            ask = _hear if name == "hear" else _ask
            setattr(guard, name, partial(ask, method, expected, log.bind(backend=backend, verb=name)))
    return cast("Adapter", guard)


@cache
def _verbs() -> dict[str, Any]:
    """Returns what each verb must conclude."""
    found: dict[str, Any] = {}
    for protocol in (Adapter, Lister, KeyReader, Canceller):
        for name, method in vars(protocol).items():
            hint = get_type_hints(method, NAMES).get("return") if callable(method) and name[0] != "_" else None
            if get_origin(hint) is Generator:
                found[name] = get_args(hint)[2]
    return {**found, "hear": get_type_hints(Listener.hear, NAMES)["return"]}


def _ask(method: Callable[..., Exchange[Any]], expected: Any, told: Any, *args: Any, **named: Any) -> Exchange[Any]:  # noqa: ANN401
    """Goes on with an exchange, and returns what it concludes if that is of its type."""
    try:
        exchange = method(*args, **named)
        answer: Reply | Failed | None = None
        while True:
            request = next(exchange) if answer is None else exchange.send(answer)
            if not isinstance(request, Request):
                return _unsure(expected, told, f"asks for {_name(request)}, which is no Request")
            answer = yield request
    except StopIteration as end:
        return _believed(end.value, expected, told)
    except Exception as error:  # noqa: BLE001 -- whatever it is, it is the adapter's
        return _unsure(expected, told, f"raises {type(error).__name__}", error)


def _hear(method: Callable[..., object], expected: Any, told: Any, *args: Any, **named: Any) -> object:  # noqa: ANN401
    """Returns what was heard if that is of its type."""
    try:
        heard = method(*args, **named)
    except Exception as error:  # noqa: BLE001
        return _unsure(expected, told, f"raises {type(error).__name__}", error)
    return _believed(heard, expected, told)


def _plan(method: Callable[..., object], told: Any, asked: Asked, recipients: Recipients) -> list[Recipients]:  # noqa: ANN401
    """Returns the plan of an adapter if it names each recipient once; raises otherwise, so that nothing is recorded."""
    plan = method(asked, recipients)
    parts = plan if isinstance(plan, list) and all(isinstance(each, Recipients) for each in plan) else []
    if all(each.count for each in parts) and _named(parts) == _named([recipients]):
        return parts
    wrong = "plans requests that do not name each recipient once" if parts else f"returns {_name(plan)} for a plan"
    told.error("adapter_wrong", wrong=wrong)
    raise TypeError(wrong)


def _named(parts: Sequence[Recipients]) -> list[list[str]]:
    return [sorted(each for part in parts for each in getattr(part, kind)) for kind in ("urns", "contacts", "groups")]


def _believed(value: object, expected: Any, told: Any) -> object:  # noqa: ANN401
    wrong = check_of(expected)(value)
    return _unsure(expected, told, wrong) if wrong else value


def _unsure(expected: Any, told: Any, wrong: str, error: Exception | None = None) -> Sweep | Flows | Unsure:  # noqa: ANN401
    told.error("adapter_wrong", wrong=wrong, exc_info=error)
    unsure = Unsure(reason=f"the adapter {wrong}", cause=Cause.BUG)
    if expected is Sweep:
        return Sweep(sightings=(), trouble=unsure)
    return Flows(flows=(), trouble=unsure) if expected is Flows else unsure


@cache
def check_of(hint: Any) -> Check:  # noqa: ANN401 -- an annotation is anything
    """Makes the check of an annotation."""
    origin, inner = get_origin(hint), [each for each in get_args(hint) if each is not ...]
    if origin in (Union, UnionType):
        return partial(_check_any, {get_origin(each) or each: check_of(each) for each in inner})
    if origin in (tuple, frozenset):
        return partial(_check_items, origin, check_of(inner[0]))
    if origin is Mapping:
        return partial(_check_mapping, check_of(inner[0]), check_of(inner[1]))
    if isinstance(hint, type) and is_dataclass(hint):
        hints = get_type_hints(hint, NAMES)
        return partial(_check_fields, hint, [(each.name, check_of(hints[each.name])) for each in fields(hint)])
    return partial(_check_plain, hint)


def _check_any(checks: Mapping[type, Check], value: object) -> str:
    found = [check for kind, check in checks.items() if isinstance(value, kind)]
    if not found and float in checks and isinstance(value, int):
        found = [checks[float]]
    return min((check(value) for check in found), default=f"returns {_name(value)}", key=len)


def _check_items(kind: type, check: Check, value: object) -> str:
    if not isinstance(value, kind) or not isinstance(value, tuple | frozenset):
        return f"returns {_name(value)} for a {kind.__name__}"
    return next((wrong for each in islice(value, LOOKED_AT) if (wrong := check(each))), "")


def _check_mapping(key: Check, item: Check, value: object) -> str:
    if not isinstance(value, Mapping):
        return f"returns {_name(value)} for a mapping"
    return next((wrong for pair in value.items() if (wrong := key(pair[0]) or item(pair[1]))), "")


def _check_fields(kind: type, checks: list[tuple[str, Check]], value: object) -> str:
    if not isinstance(value, kind):
        return f"returns {_name(value)} for a {kind.__name__}"
    for name, check in checks:
        if wrong := check(getattr(value, name)):
            return f"{wrong} ({kind.__name__}.{name})"
    return ""


def _check_plain(kind: Any, value: object) -> str:  # noqa: ANN401
    if kind in (object, Any):
        return ""
    is_number = kind in (int, float) and isinstance(value, int | float) and not isinstance(value, bool)
    if kind in (int, float) and not (is_number and (kind is float or isinstance(value, int))):
        return f"returns {_name(value)} for a number"
    if isinstance(value, float) and not math.isfinite(value):
        return "returns a number that is not finite"
    if isinstance(value, datetime) and (value.tzinfo is None or value.year not in YEARS):
        return "returns a moment without its time zone, or of a year that no clock shows"
    wanted = NoneType if kind is None else kind
    return (
        "" if kind in (int, float) or isinstance(value, wanted) else f"returns {_name(value)} for a {wanted.__name__}"
    )


def _name(value: object) -> str:
    return f"a {type(value).__name__}"
