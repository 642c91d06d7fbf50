"""File and environment → frozen settings; the only reader of either.

A setting comes from, the first that has it: an environment variable `STARTFLOW_…`, the TOML file, the default. A secret
is `{ env = "NAME" }`, `{ file = "/path" }`, or the literal itself.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from gateway.adapters import ADAPTERS

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)$")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_RATE = re.compile(r"^(\d+)\s*/\s*(second|minute|hour|day)$")
_PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0}
_URL = re.compile(r"(?P<scheme>https?)://(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]+))?/?")
_BACKEND_NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,62}$")

LONGEST = 366 * 86_400.0  # seconds; a longer duration is a mistake
FASTEST = 1_000_000  # requests in a period; each is remembered until it is over
SIMULATED = frozenset({"rapidpro", "twilio"})  # the names of the sandbox's backends
ADDRESS_VARIABLE = "STARTFLOW_ADDRESS"  # the command line's own
CREDENTIALS = ("token", "account_sid", "auth_token", "api_key", "api_secret")


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


def _kind(value: object) -> object:
    if not isinstance(value, str) or value not in ADAPTERS:
        kinds = " or ".join(f'"{kind}"' for kind in ADAPTERS)
        msg = f'"{value}" is no kind of backend; write {kinds}'
        raise ValueError(msg)
    return value


def _rate(value: object) -> object:
    found = _RATE.match(value.strip()) if isinstance(value, str) else None
    if not found or not 0 < int(found[1]) <= FASTEST:
        msg = f'"{value}" is not a rate; write it as "2500/hour" or "20/second"'
        raise ValueError(msg)
    return int(found[1]), _PERIODS[found[2]]


def _secret(value: object) -> object:
    """Reads a secret from where it is kept."""
    if not isinstance(value, dict):
        return value
    if set(value) == {"env"}:
        found = os.environ.get(str(value["env"]))
        if not found:
            msg = f"the environment variable {value['env']} is not set"
            raise ValueError(msg)
        return found.strip()
    if set(value) == {"file"}:
        try:
            return Path(str(value["file"])).read_text(encoding="utf-8").strip()
        except OSError as error:
            msg = f"the file {value['file']} cannot be read: {error.strerror}"
            raise ValueError(msg) from error
    msg = 'a secret is { env = "NAME" }, { file = "/path" } or text'
    raise ValueError(msg)


def _address(value: object) -> object:
    host, colon, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not colon or not host or not _is_port(port):
        msg = f'"{value}" is not an address to listen on; write host:port, such as "127.0.0.1:50051"'
        raise ValueError(msg)
    return value


def _is_port(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and int(text) <= 65_535  # noqa: PLR2004 -- the last port


def _url(value: object) -> object:
    """Credentials go to the root of a server, over TLS, or stay on this machine. What is wrong is not quoted."""
    found = _URL.fullmatch(value) if isinstance(value, str) else None
    if not found or (found["port"] and not _is_port(found["port"])):
        msg = 'is not the root of a server; write it as "https://textit.com", without credentials, path or query'
        raise ValueError(msg)
    if found["scheme"] == "http" and not is_loopback(f"{found['host']}:80"):
        msg = "would send the credentials in the clear; write https:// instead"
        raise ValueError(msg)
    return value


Kind = Annotated[str, BeforeValidator(_kind)]
Duration = Annotated[timedelta, BeforeValidator(_duration)]
Rate = Annotated[tuple[int, float], BeforeValidator(_rate)]
Secret = Annotated[SecretStr, BeforeValidator(_secret)]
Address = Annotated[str, BeforeValidator(_address)]
Url = Annotated[str, BeforeValidator(_url)]


class BackendSettings(BaseModel):
    """One account on a backend."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    url: Url
    token: Secret | None = Field(default=None, repr=False)
    account_sid: Secret | None = Field(default=None, repr=False)
    auth_token: Secret | None = Field(default=None, repr=False)
    api_key: Secret | None = Field(default=None, repr=False)
    api_secret: Secret | None = Field(default=None, repr=False)
    sender: str = ""
    flows: dict[str, str] = {}
    rate: Rate | None = None
    timeout: Duration = timedelta(seconds=35)
    quiet_window: Duration | None = None  # of the kind, unless set
    find_for: Duration = timedelta(hours=1)
    on_absent: Literal["resend", "uncertain"] = "resend"
    give_up_after: Duration = timedelta(days=1)
    stalled_after: Duration = timedelta(days=1)
    backlog: int = Field(default=100_000, ge=1, le=100_000_000)
    in_flight: int = Field(default=8, ge=1, le=256)
    sweep_interval: Duration = timedelta(seconds=10)

    def credentials(self) -> dict[str, str]:
        """Returns the secrets that are set, by their names here."""
        return {name: value.get_secret_value() for name in CREDENTIALS if (value := getattr(self, name)) is not None}


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
    backends: dict[str, BackendSettings] = {}
    streams: int = Field(default=20_000, ge=1, le=1_000_000)  # watches of one tenant at a time
    stream_age: Duration = timedelta(hours=1)
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
        for name in self.backends:
            if not _BACKEND_NAME.match(name):
                msg = f'backends: "{name}" is not a name; use at most 63 of a-z, 0-9, _ and -'
                raise ValueError(msg)
        for setting in ("listen", "http_listen"):
            if not is_loopback(getattr(self, setting)):
                msg = (
                    f"{setting} = {getattr(self, setting)} would let anybody on the network start flows: this version "
                    "has no TLS and no client credentials yet. Listen on 127.0.0.1, behind a proxy that authenticates"
                )
                raise ValueError(msg)
        return self

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


def load(path: Path | None, *, sandbox: bool = False, needs_backend: bool = True) -> Settings:
    """Reads the settings. `sandbox` asks for both simulated backends beside the configured ones.

    Raises `ConfigError`.
    """
    values = {} if path is None else _read_toml(path)
    unknown = sorted(key for key in values if key.startswith("_"))  # pydantic-settings would take them for its own
    if unknown:
        msg = f"The configuration in {path} cannot be used:\n  {unknown[0]}: {_no_such_setting((unknown[0],))}"
        raise ConfigError(msg)
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise ConfigError(_sentence(error, path)) from None
    except SettingsError:
        msg = "A variable STARTFLOW_… is not the JSON that its setting takes. Write it as JSON, or in the file."
        raise ConfigError(msg) from None
    if sandbox:
        settings = settings.model_copy(update={"sandbox": True})
    if settings.sandbox:
        settings = _beside_the_sandbox(settings)
    if needs_backend and not settings.backends and not settings.sandbox:
        msg = "No backend is configured. Add a [backends.NAME] table to the file given with --config, or use --sandbox."
        raise ConfigError(msg)
    return settings


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
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        msg = f"The configuration file {path} cannot be read: {error.strerror}."
        raise ConfigError(msg) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"The configuration file {path} is not TOML: {error}."
        raise ConfigError(msg) from None


_TEXTS = {
    "missing": "is missing",
    "string_type": 'is not text; write it as "…"',
    "dict_type": "is not a table",
    "model_type": "is not a table",
}


def _sentence(error: ValidationError, path: Path | None) -> str:
    """Names every setting that is wrong; never shows a value that pydantic was given."""
    lines = [f"The configuration {f'in {path} ' if path else ''}cannot be used:"]
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        place = ".".join(str(part) for part in problem["loc"])
        text = _TEXTS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            text = _no_such_setting(problem["loc"])
        lines.append(f"  {place}: {text}" if place else f"  {text}")
    return "\n".join(lines)


def _no_such_setting(place: tuple[int | str, ...]) -> str:
    """Says that there is none of this name, and which one may have been meant."""
    known: list[str] = list(Settings.model_fields) if len(place) == 1 else list(BackendSettings.model_fields)
    near = difflib.get_close_matches(str(place[-1]).lower(), known, n=1)
    return f"there is no such setting{f'; did you mean {near[0]}?' if near else ''}"


def literal_secrets(path: Path | None) -> list[str]:
    """Lists the settings whose secret stands in the file itself, by their path."""
    backends = {} if path is None else _read_toml(path).get("backends", {})
    return [
        f"backends.{name}.{credential}"
        for name, values in backends.items()
        for credential in CREDENTIALS
        if isinstance(values.get(credential), str)
    ]


def unknown_variables() -> list[str]:
    """Lists the environment variables that look like settings of ours and are none."""
    known = {f"STARTFLOW_{name}".upper() for name in Settings.model_fields} | {ADDRESS_VARIABLE}
    named = (name for name in os.environ if name.upper().startswith("STARTFLOW_"))
    return sorted(name for name in named if name.upper().partition("__")[0] not in known)


def is_loopback(address: str) -> bool:
    """Whether a host:port can be reached from this machine only."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
