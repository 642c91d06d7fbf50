"""The environment variables named `STARTFLOW_…`: which of them are a mistake.

Rules:

1. A variable that nothing reads is refused, because its author believes that it works.
2. What Kubernetes and Docker set by themselves for a service named `startflow` is no mistake.
3. A value is never quoted: it may be a secret.
"""

from __future__ import annotations

import difflib
import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

PREFIX = "STARTFLOW_"
COMMAND_LINE = frozenset({"STARTFLOW_ADDRESS", "STARTFLOW_TOKEN", "STARTFLOW_CA"})  # read by the commands that call

# https://kubernetes.io/docs/concepts/containers/container-environment/: {SVCNAME}_SERVICE_HOST and Docker's links
_SERVICE_LINK = re.compile(r"\w+_SERVICE_HOST|\w+_SERVICE_PORT(_\w+)?|\w+_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?")
_LINKED = re.compile(r"(tcp|udp|sctp)://")
_QUOTES = ("'", '"')
_NEAR = 0.7  # of the letters; `LISTN` is `LISTEN`, `TOKEN_FILE` is not `TOKEN`


def is_quoted(value: str) -> bool:
    """Says whether quotation marks stand around a value, as `docker run --env-file` leaves them."""
    return len(value) > 1 and value[0] == value[-1] and value[0] in _QUOTES


def mistakes(environment: Mapping[str, str], settings: Iterable[str], named: Collection[str]) -> list[str]:
    """Lists what is wrong with the variables of ours, a sentence each.

    `settings` are the settings' names; `named` are variables that the configuration reads secrets from.
    """
    known = {f"{PREFIX}{name}".upper() for name in settings} | COMMAND_LINE
    ours = {name: value for name, value in environment.items() if name.upper().startswith(PREFIX)}
    wrong = []
    for name, value in sorted(ours.items()):
        if name.upper().partition("__")[0] not in known:
            referred = name in named or any(name in other for other in ours.values())
            if not referred and not _is_service_link(name, value):
                wrong.append(_unknown(name, known))
        elif is_quoted(value.strip()):
            wrong.append(f"{name}: has quotation marks around its value, and they are read as part of it; remove them")
    return wrong


def mistyped(environment: Mapping[str, str]) -> list[str]:
    """Lists the variables that look like one of the command line's, a sentence each."""
    names = {name for name in environment if name.startswith(PREFIX)} - COMMAND_LINE
    return [_unknown(name, COMMAND_LINE) for name in sorted(names) if _near(name, COMMAND_LINE, 0.75)]


def paths(environment: Mapping[str, str], settings: Iterable[str]) -> dict[tuple[str, ...], str]:
    """Returns the variables that settings are read from, by the place of the setting: `("backends", "x", "rate")`."""
    known = set(settings)
    found = {}
    for name in environment:
        place = tuple(name.lower().removeprefix(PREFIX.lower()).split("__"))
        if name.upper().startswith(PREFIX) and place[0] in known:
            found[place] = name
    return found


def variable(place: tuple[int | str, ...]) -> str:
    """Returns the name of the variable for a setting."""
    return PREFIX + "__".join(map(str, place)).upper()


def not_json(environment: Mapping[str, str], settings: Iterable[str]) -> list[str]:
    """Lists the variables of tables and lists whose value is no JSON."""
    wrong = []
    for place, name in paths(environment, settings).items():
        if len(place) > 1 and environment[name].lstrip()[:1] not in {"{", "["}:
            continue
        try:
            json.loads(environment[name])
        except ValueError:
            wrong.append(name)
    return sorted(wrong)


def _unknown(name: str, known: Iterable[str]) -> str:
    near = _near(name, known, _NEAR)
    return f"{name}: there is no such setting; {f'did you mean {near}?' if near else 'correct it, or unset it'}"


def _near(name: str, known: Iterable[str], cutoff: float) -> str:
    """Returns the known variable that is spelled most alike; empty if none is."""
    rests = [each.removeprefix(PREFIX) for each in known]
    head, separator, tail = name.upper().removeprefix(PREFIX).partition("__")
    found = difflib.get_close_matches(head, sorted(rests), n=1, cutoff=cutoff)
    return f"{PREFIX}{found[0]}{separator}{tail}" if found else ""


def _is_service_link(name: str, value: str) -> bool:
    return _SERVICE_LINK.fullmatch(name) is not None or (name.endswith("_PORT") and _LINKED.match(value) is not None)
