"""File and environment → frozen settings; the only reader of either.

A setting comes from, the first that has it: an environment variable `STARTFLOW_…`, the TOML file, the default. A secret
is `{ env = "NAME" }`, `{ file = "/path" }`, or the literal itself.
"""

from __future__ import annotations

import codecs
import difflib
import ipaddress
import os
import re
import stat
import tomllib
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.request import getproxies_environment, proxy_bypass

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from gateway.adapters import ADAPTERS
from gateway.config import small_files
from gateway.config.variables import is_quoted, mistakes, not_json, paths, variable
from gateway.tenants.clients import Client, Limits, Scope

if TYPE_CHECKING:
    from collections.abc import Mapping

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
_KINDS = " or ".join(f'"{kind}"' for kind in ADAPTERS)
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


class ConfigError(Exception):
    """The configuration cannot be used. Says every setting that is wrong, and what to do."""


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
        msg = f'"{value}" is not a kind of backend; write {_KINDS}'
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


class BackendSettings(BaseModel):
    """One account on a backend."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    plain_http: bool = False  # `url` may be http:// and not on this machine; read before it
    url: Url
    proxy: Proxy | None = Field(default=None, repr=False)  # may hold a password
    token: Secret | None = Field(default=None, repr=False)
    account_sid: Secret | None = Field(default=None, repr=False)
    auth_token: Secret | None = Field(default=None, repr=False)
    api_key: Secret | None = Field(default=None, repr=False)
    api_secret: Secret | None = Field(default=None, repr=False)
    shared_key: Secret | None = Field(default=None, repr=False)
    sender: str = ""
    public_url: PublicUrl = ""  # where the backend reaches this gateway; unless set, where a request says it came to
    flows: dict[str, str] = {}
    formerly: list[str] = []  # names that the same account had before, such as an old RapidPro's `1`
    rate: Rate | None = None
    timeout: Duration = timedelta(seconds=35)
    quiet_window: Quiet | None = None  # of the kind, unless set
    find_for: Duration = timedelta(hours=1)
    on_absent: Literal["resend", "uncertain"] = "resend"
    give_up_after: GivingUp = timedelta(days=1)
    schedule_ahead: Duration = timedelta(days=365)
    stalled_after: Duration = timedelta(days=1)
    backlog: int = Field(default=100_000, ge=1, le=100_000_000)
    in_flight: int = Field(default=8, ge=1, le=256)
    sweep_interval: Duration = timedelta(seconds=10)

    def proxy_url(self) -> str:
        """Returns the proxy by which the backend is reached; empty if by none."""
        chosen = self.proxy.get_secret_value() if self.proxy else ""
        if chosen != ENVIRONMENT:
            return chosen
        scheme, _, host = self.url.rstrip("/").partition("://")
        return "" if proxy_bypass(host) else getproxies_environment().get(scheme, "")

    def credentials(self) -> dict[str, str]:
        """Returns the secrets that are set, by their names here."""
        return {name: value.get_secret_value() for name in CREDENTIALS if (value := getattr(self, name)) is not None}


class ClientSettings(BaseModel):
    """Who may call: one tenant's token or tokens, and what they allow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: Annotated[str, BeforeValidator(_tenant)]
    token_sha256: Annotated[tuple[bytes, ...], BeforeValidator(_hashes)] = Field(repr=False)
    backends: tuple[str, ...] | None = None  # all
    scopes: Annotated[frozenset[Scope], BeforeValidator(_scopes)] = frozenset({Scope.START, Scope.READ})
    expires: Annotated[datetime, BeforeValidator(_moment)] | None = None
    starts_per_second: float | None = Field(default=None, gt=0, le=1_000_000, allow_inf_nan=False)
    streams: int | None = Field(default=None, ge=1, le=1_000_000)

    def client(self) -> Client:
        """Returns it as those know it who ask."""
        return Client(
            tenant=self.tenant,
            hashes=self.token_sha256,
            scopes=self.scopes,
            backends=None if self.backends is None else frozenset(self.backends),
            expires_at=self.expires,
            limits=Limits(starts_per_second=self.starts_per_second, streams=self.streams),
        )


class TlsSettings(BaseModel):
    """The certificate that the gateway shows, followed by those between it and its root, and the key; both PEM."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    certificate: Path
    key: Path


class Settings(BaseSettings):
    """Everything the gateway can be told."""

    model_config = SettingsConfigDict(
        env_prefix="STARTFLOW_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        nested_model_default_partial_update=True,
    )

    listen: Address = "127.0.0.1:50051"
    http_listen: Address = "127.0.0.1:8080"
    store: str = "sqlite:///var/startflow.db"  # with the sandbox: var/sandbox.db
    retention: Retention | None = None  # unless set, everything is kept
    backends: dict[str, BackendSettings] = {}
    streams: int = Field(default=20_000, ge=1, le=1_000_000)  # watches of one tenant at a time
    stream_age: Duration = timedelta(hours=1)
    starts_per_second: float | None = Field(default=None, gt=0, le=1_000_000, allow_inf_nan=False)  # of one tenant
    clients: tuple[ClientSettings, ...] = ()
    tls: TlsSettings | None = None
    open_services: bool = True  # health and reflection need no credential
    plain_http: bool = False  # http_listen may be wider than loopback; says nothing of `listen`
    insecure: bool = False  # listens wider than loopback, whatever there is of clients and TLS
    sandbox: bool = False

    @property
    def store_path(self) -> Path:
        """Where the SQLite file is."""
        return Path(self.store.removeprefix("sqlite:///"))

    @model_validator(mode="after")
    def _is_usable(self) -> Settings:
        if not self.store.startswith("sqlite:///") or self.store == "sqlite:///":
            msg = (
                "store: is not supported; write sqlite:///PATH (sqlite:////PATH if absolute)"  # it may hold a password
            )
            raise ValueError(msg)
        if ":memory:" in self.store or "?" in self.store:
            msg = (
                "store: is not a file; write sqlite:///PATH, without ?parameters. A store in memory would lose every"
                " start at a restart"
            )
            raise ValueError(msg)
        for name in self.backends:
            if not _NAME.fullmatch(name):
                msg = f'backends: "{name}" is not a name; use at most 63 of a-z, 0-9, _ and -'
                raise ValueError(msg)
        self._check_clients()
        return self

    def _check_clients(self) -> None:
        whose: dict[bytes, int] = {}
        limits: dict[tuple[str, str], float] = {}
        for place, client in enumerate(self.clients):
            for known in client.token_sha256:
                if whose.setdefault(known, place) != place:
                    msg = f"clients.{place}.token_sha256: clients.{whose[known]} has the same token; make another one"
                    raise ValueError(msg)
            for name in ("starts_per_second", "streams"):
                limit = getattr(client, name)
                if limit is not None and limits.setdefault((client.tenant, name), limit) != limit:
                    msg = (
                        f"clients.{place}.{name}: is the tenant's, and another entry of {client.tenant} has another one"
                    )
                    raise ValueError(msg)

    @property
    def limits(self) -> Limits:
        """What every tenant may have, unless its own entry says otherwise."""
        return Limits(starts_per_second=self.starts_per_second, streams=self.streams)

    def exposed(self) -> list[str]:
        """Lists what is wrong with listening where these settings say; how wide it is, unless they say `insecure`."""
        if self.insecure:
            return []
        problems = []
        if self.listen == self.http_listen and not self.listen.endswith(":0"):
            problems.append(f"http_listen: {self.http_listen} is taken by `listen`. Give them two ports")
        if not is_loopback(self.listen) and not (self.clients and self.tls):
            missing = " and ".join(
                name for name, there in (("[tls]", self.tls), ("[[clients]]", self.clients)) if not there
            )
            problems.append(
                f"listen: {self.listen} would let anybody on the network start flows or read along. Configure {missing}"
                ", or listen on 127.0.0.1 behind a proxy that authenticates; insecure = true (--insecure) waives this."
                " `startflow token` makes a token, with the lines of [[clients]]"
            )
        if not (is_loopback(self.http_listen) or self.plain_http):
            problems.append(
                f"http_listen: {self.http_listen} would serve probes, metrics and events to the network, without TLS"
                " and without credentials. Listen on 127.0.0.1 behind a proxy that ends TLS; or, where only your own"
                " probes reach this port, plain_http = true allows it and leaves `listen` as strict as it is"
            )
        return problems

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 -- given by pydantic-settings
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, which comes in as the arguments."""
        return env_settings, init_settings


def load(path: Path | None, *, sandbox: bool = False, insecure: bool = False, needs_backend: bool = True) -> Settings:
    """Reads the settings. `sandbox` asks for both simulated backends beside the configured ones.

    Raises `ConfigError`.
    """
    with small_files.together():
        settings = _settings(path)
    asked = {name: True for name, wanted in (("sandbox", sandbox), ("insecure", insecure)) if wanted}
    settings = settings.model_copy(update=asked)
    if settings.sandbox:
        settings = _beside_the_sandbox(settings)
    if needs_backend and not settings.backends and not settings.sandbox:
        msg = "No backend is configured. Add a [backends.NAME] table to the file given with --config, or use --sandbox."
        raise ConfigError(msg)
    if problems := settings.exposed() + _unknown_backends(settings):
        raise ConfigError("\n  ".join([_heading(path), *problems]))
    return settings


def _settings(path: Path | None) -> Settings:
    """Reads the file and the environment."""
    values = {} if path is None else _read_toml(path)
    unknown = sorted(key for key in values if key.startswith("_"))  # pydantic-settings would take them for its own
    if unknown:
        msg = f"The configuration in {path} cannot be used:\n  {unknown[0]}: {_no_such_setting((unknown[0],))}"
        raise ConfigError(msg)
    if wrong := mistakes(os.environ, Settings.model_fields, _variables_of_secrets(values)):
        raise ConfigError("\n  ".join([_heading(path), *wrong]))
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigError(_sentence(error, path, values)) from None
    except SettingsError:
        named = " and ".join(not_json(os.environ, ("backends", "clients", "tls"))) or "A variable STARTFLOW_…"
        msg = f"{named} is not the JSON that its setting takes. Write it as JSON, or in the file."
        raise ConfigError(msg) from None


def _variables_of_secrets(values: object) -> set[str]:
    """Returns the variables that a file reads its secrets from."""
    match values:
        case {"env": str() as name}:
            return {name}
        case dict():
            return set().union(*map(_variables_of_secrets, values.values()))
        case _:
            return set()


def _unknown_backends(settings: Settings) -> list[str]:
    known = set(settings.backends) | (SIMULATED if settings.sandbox else set())
    return [
        f"clients.{place}.backends: there is no backend {name}; there are: {', '.join(sorted(known))}"
        for place, client in enumerate(settings.clients)
        for name in client.backends or ()
        if name not in known
    ]


def _heading(path: Path | None) -> str:
    """Names everything that the settings were read from: what is wrong may come of either, or of both."""
    read = ", ".join(sorted(paths(os.environ, Settings.model_fields).values()))
    file = f"in {path} " if path else ""
    return f"The configuration {file}{f'with the variables {read} ' if read else ''}cannot be used:"


def _beside_the_sandbox(settings: Settings) -> Settings:
    """Keeps simulated starts apart from real ones: by backend, and unless told otherwise by file."""
    if taken := sorted(SIMULATED & set(settings.backends)):
        msg = (
            f"backends.{taken[0]}: the sandbox has a backend of this name. Give yours another one, or leave --sandbox"
            " (STARTFLOW_SANDBOX) out."
        )
        raise ConfigError(msg)
    if "store" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"store": "sqlite:///var/sandbox.db"})


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        written = small_files.read(path)
        return tomllib.loads(written.decode("utf-8-sig"))  # editors on Windows begin a file with a mark
    except OSError as error:
        msg = f"The configuration file {path} cannot be read: {error.strerror}."
        raise ConfigError(msg) from None
    except UnicodeDecodeError:
        wide = written.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        msg = f"The configuration file {path} is {'UTF-16' if wide else 'not UTF-8'}: save it as UTF-8."
        raise ConfigError(msg) from None
    except tomllib.TOMLDecodeError as error:
        msg = f"The configuration file {path} is not TOML: {error}.{_why_not_toml(str(error))}"
        raise ConfigError(msg) from None


def _why_not_toml(said: str) -> str:
    """Returns what to do where one list or table is written in both of TOML's forms."""
    found = _TWO_FORMS.search(said)
    if found is None:
        return ""
    return (
        f" `{found[1]} = …` and a table [{found[1]}] or [[{found[1]}]] cannot stand in one file: write all of it as"
        f" {'[[clients]]' if found[1] == 'clients' else f'[{found[1]}]'}, as docs/configuration.md does."
    )


_TWO_FORMS = re.compile(r"(?:immutable namespace|Cannot declare) \('(clients|tls|backends)'")
_TEXTS = {
    "bool_parsing": "is neither true nor false",
    "bool_type": "is neither true nor false",
    "missing": "is missing",  # and `_WHAT_TO_WRITE`
    "string_type": 'is not text; write it as "…"',
    "dict_type": "is not a table",
    "tuple_type": "is not a list",
    "model_type": "is not a table",
}

_WHAT_TO_WRITE: dict[int | str, str] = {
    "kind": f"; write {_KINDS}",
    "url": '; write the root of its server, such as "https://textit.com" or "https://studio.twilio.com"',
    "token_sha256": "; `startflow token` makes a token and prints its hash",
    "tenant": '; write a name for this client, such as "clinic"',
}


def _sentence(error: ValidationError, path: Path | None, values: dict[str, Any]) -> str:
    """Names every setting that is wrong, or its variable; never shows a value that pydantic was given."""
    lines = [_heading(path)]
    variables = paths(os.environ, Settings.model_fields)
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        if invented := _invented(problem["loc"], variables, values.get("backends")):
            lines += [line for line in invented if line not in lines]
            continue
        place = _named(problem["loc"], variables)
        text = _TEXTS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            text += _WHAT_TO_WRITE.get(problem["loc"][-1], "")
        if problem["type"] == "extra_forbidden":
            text = _no_such_setting(problem["loc"])
        lines.append(f"  {place}: {text}" if place else f"  {text}")
    return "\n".join(lines)


def _named(place: tuple[int | str, ...], variables: Mapping[tuple[str, ...], str]) -> str:
    """Returns what a setting is called where it was read: the variable, or its place in the file."""
    texts = tuple(str(part) for part in place)
    for length in range(len(texts), 0, -1):
        if name := variables.get(texts[:length]):
            return ".".join((name, *texts[length:]))
    return ".".join(texts)


def _invented(place: tuple[int | str, ...], variables: Mapping[tuple[str, ...], str], written: object) -> list[str]:
    """Returns what to say of a backend that only variables name, and incompletely: most likely its name is misspelt."""
    known = list(written) if isinstance(written, dict) else []
    if len(place) < len(("backends", "NAME", "kind")) or place[0] != "backends" or place[1] in known:
        return []
    near = difflib.get_close_matches(str(place[1]), known, n=1)
    needed = " and ".join(variable((*place[:2], name)) for name in ("kind", "url"))
    meant = f"; did you mean {variable(('backends', near[0]))}__…?" if near else f"; alone, it takes {needed} as well"
    return [
        f"  {name}: no backend is called {place[1]} in the file{meant}"
        for where, name in sorted(variables.items())
        if where[:2] == place[:2]
    ]


def _no_such_setting(place: tuple[int | str, ...]) -> str:
    """Says that there is none of this name, and which one may have been meant."""
    tables: dict[object, type[BaseModel]] = {"clients": ClientSettings, "tls": TlsSettings, "backends": BackendSettings}
    if len(place) > 1 and place[-1] in Settings.model_fields:
        return f"{place[-1]} is a setting of the gateway: write it at the top of the file, above the first [table]"
    known: list[str] = list((Settings if len(place) == 1 else tables[place[0]]).model_fields)
    near = difflib.get_close_matches(str(place[-1]).lower(), known, n=1)
    return f"there is no such setting{f'; did you mean {near[0]}?' if near else ''}"


def literal_secrets(path: Path | None) -> list[str]:
    """Lists the settings whose secret stands in the file itself, by their path."""
    backends = {} if path is None else _read_toml(path).get("backends", {})
    return [
        f"backends.{name}.{credential}"
        for name, values in backends.items()
        for credential in CREDENTIALS
        if credential not in PUBLIC and isinstance(values.get(credential), str)
    ]


def open_secrets(path: Path | None) -> list[tuple[str, str]]:
    """Lists the settings whose secret is in a file that everybody on this machine can read, with that file."""
    backends = {} if path is None else _read_toml(path).get("backends", {})
    named = [
        (f"backends.{name}.{credential}", str(values[credential]["file"]))
        for name, values in backends.items()
        for credential in CREDENTIALS
        if credential not in PUBLIC and isinstance(values.get(credential), dict) and "file" in values[credential]
    ]
    return [(setting, file) for setting, file in named if _is_open(file)]


def _is_open(file: str) -> bool:
    try:
        return bool(small_files.answered(Path(file), lambda: Path(file).stat().st_mode) & stat.S_IROTH)
    except OSError:
        return False  # it was read before: it is gone now


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
