"""How the value of a setting is written, and what it means. Each error is what is wrong with it and what to write."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    SecretStr,
    ValidationInfo,
)

from gateway.adapters import ADAPTERS
from gateway.config import small_files
from gateway.config.variables import is_quoted
from gateway.tenants.clients import Scope

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)$")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_RETENTION = re.compile(r"^(\d+(?:\.\d+)?)(?:(d|h)|\s+(day|hour|minute|second)s?)$")
_WORDS = {"day": 86_400.0, "hour": 3600.0, "minute": 60.0, "second": 1.0}
_RATE = re.compile(r"^(\d+)\s*/\s*(second|minute|hour|day)$")
_PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0}
_URL = re.compile(r"(?P<scheme>https?)://(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]+))?/?")
_PUBLIC_URL = re.compile(_URL.pattern.removesuffix("/?") + r"(?:/[A-Za-z0-9._~-]+)*/?")
_PROXY = re.compile(_URL.pattern.replace("://", r"://(?:[^\s@/?#]+@)?", 1))
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_WORD = re.compile(r"[a-zA-Z]{1,12}")
KINDS = " or ".join(f'"{kind}"' for kind in ADAPTERS)
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")

SHORTEST_KEPT = 86_400.0  # seconds; less is accepted only with the unit written out
SHORTEST_TRIED = 3600.0  # seconds, likewise
SHORTEST_QUIET = 1.0  # seconds; a request in flight would be sent again
LONGEST = 366 * 86_400.0  # seconds; a longer duration is a mistake
FASTEST = 1_000_000  # requests in a period; each is remembered until it is over
SIMULATED = frozenset({"rapidpro", "twilio"})  # the names of the sandbox's backends
ENVIRONMENT = "environment"  # as a proxy: what the usual variables say
CREDENTIALS = ("token", "account_sid", "auth_token", "api_key", "api_secret", "shared_key")
PUBLIC = ("account_sid", "api_key")  # names: worth nothing without the secret that belongs to them


def _duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    found = _DURATION.match(value.strip()) if isinstance(value, str) else None
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 0 < seconds <= LONGEST:
        msg = f'"{value}" is not a duration; write a number and a unit, such as "35s", "500ms", "2m" or "1h"'
        raise ValueError(msg)
    return timedelta(seconds=seconds)


def _retention(value: object) -> object:
    """Reads how long finished starts are kept. What is erased cannot be recovered, so nothing is guessed."""
    if isinstance(value, timedelta):
        return value
    found = _RETENTION.match(value.strip()) if isinstance(value, str) else None
    seconds = float(found[1]) * (_UNITS[found[2]] if found[2] else _WORDS[found[3]]) if found else 0.0
    if not found or not 0 < seconds <= LONGEST:
        months = ': "m" may be months or minutes' if isinstance(value, str) and value.strip().endswith("m") else ""
        msg = f'"{value}" is not a time to keep starts{months}; write days, such as "90d", at most "366d"'
        raise ValueError(msg)
    if seconds < SHORTEST_KEPT and found[2]:
        msg = (
            f'"{value}" is less than a day, after which finished starts are erased and their request ids are free;'
            f' if you mean that, write the unit out: "{found[1]} hours"'
        )
        raise ValueError(msg)
    return timedelta(seconds=seconds)


def _giving_up(value: object) -> object:
    """Reads after how long unsent starts fail for good. A slip here loses starts in the next short outage."""
    found = _RETENTION.match(value.strip()) if isinstance(value, str) else None
    if found and found[3] and 0 < (seconds := float(found[1]) * _WORDS[found[3]]) <= LONGEST:
        return timedelta(seconds=seconds)
    tried = _duration(value)
    if value is not tried and isinstance(tried, timedelta) and tried.total_seconds() < SHORTEST_TRIED:
        msg = (
            f'"{value}" is less than an hour, after which starts that a backend does not accept fail for good;'
            ' if you mean that, write the unit out: "30 minutes"'
        )
        raise ValueError(msg)
    return tried


def _quiet(value: object) -> object:
    quiet = _duration(value)
    if isinstance(quiet, timedelta) and quiet.total_seconds() < SHORTEST_QUIET:
        msg = f'"{value}" is less than "1s", so what is still being carried out would be sent again'
        raise ValueError(msg)
    return quiet


def _kind(value: object) -> object:
    if not isinstance(value, str) or value not in ADAPTERS:
        msg = f'"{value}" is not a kind of backend; write {KINDS}'
        raise ValueError(msg)
    return value


def _rate(value: object) -> object:
    found = _RATE.match(value.strip()) if isinstance(value, str) else None
    if not found or not 0 < int(found[1]) <= FASTEST:
        msg = f'"{value}" is not a rate; write it as "2500/hour" or "20/second"'
        raise ValueError(msg)
    return int(found[1]), _PERIODS[found[2]]


def _secret(value: object) -> object:
    """Reads a secret from where it is kept. What is wrong with it is not quoted."""
    secret, place = _kept(value) if isinstance(value, dict) else (value, "its value")
    if isinstance(secret, str) and is_quoted(secret):
        msg = f"{place} has quotation marks around the secret, and they would be sent with it; remove them"
        raise ValueError(msg)
    if isinstance(secret, str) and len(secret.splitlines()) > 1:
        msg = f"{place} has more than one line; it must hold the secret and nothing else"
        raise ValueError(msg)
    return secret


def _kept(value: dict[Any, Any]) -> tuple[str, str]:
    """Returns a secret that is kept in a variable or a file, and which one that is."""
    if set(value) == {"env"}:
        found, place = os.environ.get(str(value["env"])), f"the environment variable {value['env']}"
        if found is None:
            msg = f"{place} is not set"
            raise ValueError(msg)
        return _filled(found, place)
    if set(value) == {"file"}:
        try:
            text, place = small_files.read(Path(str(value["file"]))).decode("utf-8-sig"), f"the file {value['file']}"
        except OSError as error:
            msg = f"the file {value['file']} cannot be read: {error.strerror}"
            raise ValueError(msg) from error
        except UnicodeDecodeError:
            msg = f"the file {value['file']} is not text in UTF-8"
            raise ValueError(msg) from None
        return _filled(text, place)
    msg = 'a secret is { env = "NAME" }, { file = "/path" } or text'
    raise ValueError(msg)


def _filled(text: str, place: str) -> tuple[str, str]:
    """Returns a secret without the space around it, and its place. Raises `ValueError` if nothing is left."""
    if secret := text.strip():
        return secret, place
    msg = f"{place} is empty; write the secret there"
    raise ValueError(msg)


def _address(value: object) -> object:
    host, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if colon and host and port.isascii() and port.isdigit() and not _is_port(port):
        msg = f'"{value}": {port} is not a port from 0 to 65535; write host:port, such as "127.0.0.1:50051"'
        raise ValueError(msg)
    if not colon or not host or not _is_port(port):
        msg = f'"{value}" is not an address to listen on; write host:port, such as "127.0.0.1:50051"'
        raise ValueError(msg)
    return value


def _is_port(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and int(text) <= 65_535  # noqa: PLR2004 -- the last port


def _url(value: object, info: ValidationInfo) -> object:
    """Credentials go to the root of a server, over TLS, or stay on this machine. What is wrong is not quoted."""
    found = _URL.fullmatch(value) if isinstance(value, str) else None
    if not found or (found["port"] and not _is_port(found["port"])):
        msg = 'is not the root of a server; write it as "https://textit.com", without credentials, path or query'
        raise ValueError(msg)
    if found["scheme"] == "http" and not is_loopback(f"{found['host']}:80") and not info.data.get("plain_http"):
        msg = (
            "would send the credentials in the clear; write https:// instead, or plain_http = true beside it if you"
            " trust the network in between"
        )
        raise ValueError(msg)
    return value


def _proxy(value: object) -> object:
    """Reads a proxy, which may need a name and a password. What is wrong is not quoted."""
    value = _secret(value)
    if value != ENVIRONMENT and not (isinstance(value, str) and _PROXY.fullmatch(value)):
        msg = (
            'is not a proxy; write it as "http://proxy.example:3128", with name:password@ before the host if it needs'
            f' them, or "{ENVIRONMENT}" to take HTTPS_PROXY, HTTP_PROXY and NO_PROXY'
        )
        raise ValueError(msg)
    return value


def _public_url(value: object) -> object:
    found = _PUBLIC_URL.fullmatch(value) if isinstance(value, str) else None
    if not found or (found["port"] and not _is_port(found["port"])):
        msg = 'is not the address of a gateway; write it as "https://gw.example.org", and the path that a proxy removes'
        raise ValueError(msg)
    return value


def _tenant(value: object) -> object:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        msg = "is not a name; use at most 63 of a-z, 0-9, _ and -"
        raise ValueError(msg)
    return value


def _hashes(value: object) -> object:
    """Reads one hash, or a list of them. What is wrong is not quoted: people put the token itself there."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, (list, tuple)) or not values:
        msg = "is not the hash of a token; `startflow token` makes a token and prints its hash"
        raise ValueError(msg)
    if not all(isinstance(each, str) and _SHA256.fullmatch(each) for each in values):
        msg = "is not 64 hexadecimal digits; `startflow token` makes a token and prints its hash"
        raise ValueError(msg)
    return tuple(bytes.fromhex(each) for each in values)


def _scopes(value: object) -> object:
    known = ", ".join(f'"{scope}"' for scope in Scope)
    if not isinstance(value, (list, tuple)) or not value:
        msg = f"is not a list of scopes; write some of {known}"
        raise ValueError(msg)
    for each in value:
        if each not in list(Scope):
            shown = f'"{each}"' if isinstance(each, str) and _WORD.fullmatch(each) else "an entry"  # it may be a token
            near = [f'; did you mean "{scope}"?' for scope in difflib.get_close_matches(str(each), list(Scope), n=1)]
            msg = f"{shown} is not a scope{''.join(near) or '.'} Write some of {known}"
            raise ValueError(msg)
    if set(value) == {Scope.OPERATOR}:
        msg = '"operator" alone allows nothing: add what the client may do, such as ["read", "operator"]'
        raise ValueError(msg)
    return frozenset(map(Scope, value))


def _moment(value: object) -> object:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            value = None
    if not isinstance(value, datetime) or value.tzinfo is None:
        msg = "is not a moment with its time zone; write it as 2027-12-31T00:00:00Z"
        raise ValueError(msg)
    return value


Kind = Annotated[str, BeforeValidator(_kind)]
Duration = Annotated[timedelta, BeforeValidator(_duration)]
Retention = Annotated[timedelta, BeforeValidator(_retention)]
GivingUp = Annotated[timedelta, BeforeValidator(_giving_up)]
Quiet = Annotated[timedelta, BeforeValidator(_quiet)]
Rate = Annotated[tuple[int, float], BeforeValidator(_rate)]
Secret = Annotated[SecretStr, BeforeValidator(_secret)]
Address = Annotated[str, BeforeValidator(_address)]
Url = Annotated[str, BeforeValidator(_url)]
Proxy = Annotated[SecretStr, BeforeValidator(_proxy)]
PublicUrl = Annotated[str, BeforeValidator(_public_url)]
Tenant = Annotated[str, BeforeValidator(_tenant)]
Hashes = Annotated[tuple[bytes, ...], BeforeValidator(_hashes)]
Scopes = Annotated[frozenset[Scope], BeforeValidator(_scopes)]
Moment = Annotated[datetime, BeforeValidator(_moment)]


def is_name(text: str) -> bool:
    """Whether a tenant or a backend can have this name."""
    return _NAME.fullmatch(text) is not None


def is_loopback(address: str) -> bool:
    """Whether a host:port can be reached from this machine only."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
