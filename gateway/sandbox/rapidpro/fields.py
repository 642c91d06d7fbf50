"""The fields of a flow start as RapidPro checks them: every error body is byte for byte its own.

All fields are checked and reported together, in the order of `READERS`, `extra` and `params` last;
whether anyone was named at all is looked at only if every field is good.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from gateway.sandbox.exchange import Refused
from gateway.sandbox.rapidpro.catalogue import FLOWS, Flow, find_contact, find_group
from gateway.sandbox.rapidpro.params import Unstorable, normalised, stored

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.sandbox.rapidpro.generations import Ways

MAX_RECIPIENTS = 100  # of each kind
MISSING = object()
TRUE = ("t", "T", "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON", "1")
FALSE = ("f", "F", "n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF", "0")


# What the path of a URN must be. A telephone number is looked at after all but its digits and letters are gone.
URN_PATHS = {
    "tel": r"[0-9]{7,15}",
    "whatsapp": r"[0-9]+|[A-Z]{2}\.[0-9]+",  # a number, or since v26.3.33 a business-scoped id
    "telegram": r"[0-9]+",
    "twitter": r"[a-zA-Z0-9_]{1,15}",
    "twitterid": r"[0-9]+",
    "facebook": r"[0-9]+|ref:\S+",
    "instagram": r"[0-9]+",
    "viber": r"[a-zA-Z0-9_=/+]{1,24}",
    "mailto": r"[^@\s]+@[^@\s]+\.[^@\s]+",
    **dict.fromkeys(
        (
            "discord", "ext", "fcm", "freshchat", "jiochat", "line",
            "rocketchat", "slack", "vk", "webchat", "wechat",
        ),
        r"\S+",
    ),
}  # fmt: skip


class Invalid(Exception):
    """A field that is refused, with RapidPro's messages: a list, or for URNs a list for each bad index."""

    def __init__(self, errors: list[str] | dict[str, list[str]]) -> None:
        super().__init__(errors)
        self.errors = errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A start that was found good. Contacts and groups are (uuid, name)."""

    flow: Flow
    contacts: list[tuple[str, str]]
    groups: list[tuple[str, str]]
    urns: list[str]
    restart_participants: bool
    exclude_active: bool
    params: dict[str, Any]


def read_start(body: Mapping[str, Any], ways: Ways) -> Wanted:
    """Checks a request body. Raises Refused with RapidPro's errors, or Unstorable where it answers 500."""
    read_object = partial(_read_object, longest=ways.params_size)
    values: dict[str, Any] = {}
    errors: dict[str, Any] = {}
    for name, read in (READERS | {"extra": read_object, "params": read_object}).items():
        try:
            values[name] = read(body.get(name, MISSING))
        except Invalid as invalid:
            errors[name] = invalid.errors
    if errors:
        raise Refused(400, errors)
    if not (values["groups"] or values["contacts"] or values["urns"]):
        raise Refused(400, {"non_field_errors": ["Must specify at least one group, contact or URN"]})
    for name in ("contacts", "groups"):
        merged = sorted(set(values[name]))
        if len(merged) < len(values[name]) and not ways.merges_duplicates:
            raise Unstorable  # the same one twice violates a unique constraint
        values[name] = merged
    extra = values.pop("extra")
    params = values["params"] if ways.keeps_params else normalised(values["params"])
    values["params"] = params or normalised(extra)
    kept = stored(values["params"])
    return Wanted(**values | ({"params": kept} if ways.keeps_params else {}))


def _named(value: Any, find: Callable[[str], tuple[str, str] | None]) -> tuple[str, str]:  # noqa: ANN401 - any JSON
    if value is None or value == "":
        raise Invalid(["This field may not be null."])
    if not isinstance(value, (str, int)):
        raise Invalid(["Must be a string or integer"])
    found = find(str(value))
    if found is None:
        raise Invalid([f"No such object: {value}"])
    return found


def _find_flow(text: str) -> tuple[str, str] | None:
    return (text, FLOWS[text].name) if text in FLOWS else None


def _read_flow(value: Any) -> Flow:  # noqa: ANN401 - any JSON
    if value is MISSING:
        raise Invalid(["This field is required."])
    return FLOWS[_named(value, _find_flow)[0]]


def _list(value: Any) -> list[Any]:  # noqa: ANN401 - any JSON
    if value is MISSING:
        return []
    if value is None:
        raise Invalid(["This field may not be null."])
    if not isinstance(value, list):
        raise Invalid([f'Expected a list of items but got type "{type(value).__name__}".'])
    return value


def _at_most_100(values: list[Any]) -> None:
    if len(values) > MAX_RECIPIENTS:
        raise Invalid([f"Ensure this field has no more than {MAX_RECIPIENTS} elements."])


def _read_all_named(value: Any, *, find: Callable[[str], tuple[str, str] | None]) -> list[tuple[str, str]]:  # noqa: ANN401 - any JSON
    values = _list(value)
    _at_most_100(values)
    return sorted(_named(item, find) for item in values)  # not in the caller's order, as on RapidPro


def _read_urns(value: Any) -> list[str]:  # noqa: ANN401 - any JSON
    urns: list[str] = []
    errors: dict[str, list[str]] = {}
    for index, item in enumerate(_list(value)):
        urn, error = str(item), urn_error(item)
        urns.append(urn)
        if error:
            errors[str(index)] = [error]
    if errors:
        raise Invalid(errors)
    _at_most_100(urns)
    return urns


def urn_error(item: Any) -> str | None:  # noqa: ANN401 - any JSON
    """Says what RapidPro has against a URN, if anything."""
    if item is None:
        return "This field may not be null."
    if item == "":
        return "This field may not be blank."
    scheme, _, path = str(item).partition(":")
    path = path.partition("#")[0]  # the rest is for display
    if scheme == "tel":
        path = re.sub(r"[^0-9a-z]", "", path.lower())
    if scheme in URN_PATHS and re.fullmatch(URN_PATHS[scheme], path):
        return None
    return f"Invalid URN: {item}. Ensure phone numbers contain country codes."


def _read_bool(value: Any, *, default: bool) -> bool:  # noqa: ANN401 - any JSON
    if value is MISSING:
        return default
    if value is None:
        raise Invalid(["This field may not be null."])
    if value in (True, *TRUE):
        return True
    if value in (False, *FALSE):
        return False
    raise Invalid(["Must be a valid boolean."])


def _read_object(value: Any, *, longest: int | None) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    if value is MISSING:
        return {}
    if value is None:
        raise Invalid(["This field may not be null."])
    if not isinstance(value, dict):
        raise Invalid(["Must be a valid JSON object"])
    if _has_infinity(value):
        raise Invalid(["Value must be valid JSON."])
    if longest is not None and len(json.dumps(value)) > longest:
        raise Invalid([f"Cannot exceed {longest:,} characters encoded."])
    return value


def _has_infinity(value: Any) -> bool:  # noqa: ANN401 - any JSON
    if isinstance(value, (dict, list)):
        return any(map(_has_infinity, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and math.isinf(value)


READERS: dict[str, Callable[[Any], Any]] = {
    "flow": _read_flow,
    "contacts": partial(_read_all_named, find=find_contact),
    "groups": partial(_read_all_named, find=find_group),
    "urns": _read_urns,
    "restart_participants": partial(_read_bool, default=True),
    "exclude_active": partial(_read_bool, default=False),
}
