"""File and environment → frozen settings; the only reader of either.

A setting comes from, the first that has it: an environment variable `STARTFLOW_…`, the TOML file, the default. A secret
is `{ env = "NAME" }`, `{ file = "/path" }`, or the literal itself.
"""

from __future__ import annotations

import codecs
import difflib
import os
import re
import stat
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import (
    BaseModel,
    ValidationError,
)
from pydantic_settings import SettingsError

from gateway.config import small_files
from gateway.config.settings import BackendSettings, ClientSettings, Settings, TlsSettings
from gateway.config.values import CREDENTIALS, KINDS, PUBLIC, SIMULATED, is_name
from gateway.config.variables import mistakes, not_json, paths, variable

if TYPE_CHECKING:
    from collections.abc import Mapping


class ConfigError(Exception):
    """The configuration cannot be used. Says every setting that is wrong, and what to do."""


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
        msg = (
            "No backend is configured. Add a [backends.NAME] table to the file given with --config, or set"
            " STARTFLOW_SANDBOX=true (`startflow serve --sandbox`)."
        )
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
    there = ", ".join(sorted(known))
    return [
        f"clients.{place}.backends: there is no backend {name}; there are: {there} (tenant {client.tenant})"
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


_NEAR = 0.7  # of the letters; `sqlite` is not `listen`
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
    "kind": f"; write {KINDS}",
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
        text = text.replace("Input should be", "must be")
        if problem["type"] == "missing":
            text += _WHAT_TO_WRITE.get(problem["loc"][-1], "")
        if problem["type"] == "extra_forbidden":
            text = _no_such_setting(problem["loc"])
        text += _whose(problem["loc"], values)
        lines.append(f"  {place}: {text}" if place else f"  {text}")
    return "\n".join(lines)


def _named(place: tuple[int | str, ...], variables: Mapping[tuple[str, ...], str]) -> str:
    """Returns what a setting is called where it was read: the variable, or its place in the file."""
    texts = tuple(str(part) for part in place)
    for length in range(len(texts), 0, -1):
        if name := variables.get(texts[:length]):
            return ".".join((name, *texts[length:]))
    return ".".join(texts)


def _whose(place: tuple[int | str, ...], values: dict[str, Any]) -> str:
    """Returns the tenant of an entry of [[clients]], which nobody finds by its number; empty if it has none."""
    match place, values.get("clients"):
        case ("clients", int() as number, _, *_), [*entries] if number < len(entries):
            tenant = entries[number].get("tenant") if isinstance(entries[number], dict) else None
            return f" (tenant {tenant})" if isinstance(tenant, str) and is_name(tenant) else ""
    return ""


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
    if len(place) == 1 and place[0] in BackendSettings.model_fields:
        return "is a setting of a backend: write it below its [backends.NAME]"
    written = str(place[-1]).lower()
    near = difflib.get_close_matches(written, known, n=1, cutoff=_NEAR) or list(filter(written.startswith, known))
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
