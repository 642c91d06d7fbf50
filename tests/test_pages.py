"""The README is short, every link leads somewhere, and what the pages say of settings and commands is so."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic_core import PydanticUndefined
from typer.main import get_command
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.config import loading, settings
from gateway.sandbox.presets import PRESETS
from gateway.tenants.clients import Scope

if TYPE_CHECKING:
    from pydantic import BaseModel

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PAGES = sorted([README, CONTRIBUTING, *(ROOT / "docs").glob("*.md")])
TABLES: list[tuple[str, type[BaseModel]]] = [
    ("The gateway", settings.Settings),
    ("A backend", settings.BackendSettings),
    ("Who may call", settings.ClientSettings),
]
PARTS = {"tls": settings.TlsSettings}
ANY_COMMAND = {"startflow COMMAND --help", "startflow --install-completion"}
OF_THE_KIND = {"rate", "quiet_window"}  # the page gives a default for each kind


def text(page: Path) -> str:
    """Returns a page as it is."""
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """Returns a page without its examples."""
    return re.sub(r"^```.*?^```", "", text(page), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Names the headings as GitHub does: lower case, no punctuation, hyphens for spaces, a number for the second."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def blocks(language: str) -> list[str]:
    """Returns every example in a language, of all pages."""
    return [block for page in PAGES for block in re.findall(rf"```{language}\n(.*?)```", text(page), flags=re.DOTALL)]


def settings_of(heading: str) -> dict[str, str]:
    """Returns the settings in the table below a heading of configuration.md, each with its default as written."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text(CONFIGURATION), flags=re.DOTALL | re.MULTILINE)
    assert section
    rows = re.findall(r"^\| (`[^|]*)\|([^|]*)\|.*\|$", section[1], flags=re.MULTILINE)
    return {name: default.strip() for names, default in rows for name in re.findall(r"`([\w.]+)`", names)}


def fields_of(kind: type[BaseModel]) -> dict[str, object]:
    """Returns the defaults of all settings, those of a part under `part.name`."""
    found = {}
    for name, field in kind.model_fields.items():
        if name in PARTS:
            found |= {f"{name}.{inner}": None for inner in PARTS[name].model_fields}
        elif name != "backends" or kind is not settings.Settings:  # a table of its own
            found[name] = field.default
    return found


def test_the_readme_can_be_read() -> None:
    """It is shorter than 150 lines, and leads to every page."""
    assert len(text(README).splitlines()) < 150
    pages = {str(page.relative_to(ROOT)) for page in PAGES if page != README}
    assert pages <= set(re.findall(r"\]\(([^)#]*)\)", text(README)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """To a heading that there is, or to a file of the repository."""
    for target in re.findall(r"\]\(([^)]*)\)", prose(page)):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        there = page.parent / file if file else page
        assert there.exists(), target
        assert not heading or heading in anchors(there), target


@pytest.mark.parametrize(("heading", "kind"), TABLES, ids=lambda it: it if isinstance(it, str) else "")
def test_every_setting_is_described(heading: str, kind: type[BaseModel]) -> None:
    """Each has a row in the table of its part, and no row is of a setting that is not there."""
    assert set(fields_of(kind)) == set(settings_of(heading))


@pytest.mark.parametrize(
    ("heading", "kind", "name"),
    [
        (heading, kind, name)
        for heading, kind in TABLES
        for name, default in settings_of(heading).items()
        if default.startswith("`") and name not in OF_THE_KIND
    ],
)
def test_a_default_is_what_the_page_says(heading: str, kind: type[BaseModel], name: str, tmp_path: Path) -> None:
    """Writing the default into the file changes nothing."""
    written = settings_of(heading)[name].strip("`")
    value = written if re.fullmatch(r"true|false|\d+|\{\}|\[.*\]", written) else f'"{written}"'
    required = {
        settings.Settings: "",
        settings.BackendSettings: '[backends.x]\nkind = "rapidpro"\nurl = "https://example.org"\ntoken = "a"\n',
        settings.ClientSettings: f'[[clients]]\ntenant = "x"\ntoken_sha256 = "{"a" * 64}"\n',
    }[kind]
    file = tmp_path / "startflow.toml"
    file.write_text(f"{required}{name} = {value}\n", encoding="utf-8")
    loaded = loading.load(file, needs_backend=False)
    part = {
        settings.BackendSettings: loaded.backends.get("x"),
        settings.ClientSettings: next(iter(loaded.clients), None),
    }
    default = kind.model_fields[name].default

    assert default is not PydanticUndefined
    assert default == getattr(part.get(kind) or loaded, name)


@pytest.mark.parametrize("example", blocks("toml"), ids=lambda example: example.split("\n", 1)[0])
def test_an_example_of_settings_can_be_loaded(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an account, hashes and files in the place of what is left out."""
    secret = tmp_path / "secret"
    secret.write_text("0" * 32, encoding="utf-8")
    for name in re.findall(r'env = "(\w+)"', example):
        monkeypatch.setenv(name, "a" * 40)
    given = example.replace("AC…", f"AC{'0' * 32}").replace("/run/secrets/twilio", str(secret))
    for place in range(given.count('"…"')):
        given = given.replace('"…"', f'"{place:064x}"', 1)
    if "[backends." not in given:
        given += '\n[backends.textit]\nkind = "rapidpro"\nurl = "https://textit.com"\ntoken = "a"\n'
    file = tmp_path / "startflow.toml"
    file.write_text(given, encoding="utf-8")

    assert "textit" in loading.load(file).backends


def test_every_scope_is_described() -> None:
    """configuration.md names each that there is."""
    assert all(f"`{scope}`" in text(CONFIGURATION) for scope in Scope)


def commands() -> list[str]:
    """Returns every `startflow …` of the pages' examples and prose, without what follows it in a shell."""
    found = [
        re.split(r"\s#|\s*[|<>;]", line.strip())[0]
        for page in PAGES
        for block in re.findall(r"```(?:console|sh)?\n(.*?)```", text(page), flags=re.DOTALL)
        for line in re.findall(r"^(?:\$ )?(?:\w+=\S+ )?(?:\S*/)?(startflow .*)$", block, flags=re.MULTILINE)
    ]
    return sorted({*found, *re.findall(r"`(startflow [a-z].*?)`", "\n".join(prose(page) for page in PAGES))})


@pytest.mark.parametrize("line", commands())
def test_every_command_exists(line: str) -> None:
    """With each option that the pages give it."""
    command = whole = get_command(app)
    for word in shlex.split(line)[1:]:
        inner = getattr(command, "commands", {})  # of a group
        if word in inner:
            command = inner[word]
        elif word.startswith("--"):
            assert word.partition("=")[0] in {name for it in command.params for name in (*it.opts, *it.secondary_opts)}
    assert line in ANY_COMMAND or command is not whole


def test_a_token_is_printed_as_shown() -> None:
    """configuration.md shows what `startflow token` prints, its random parts aside."""
    (shown,) = re.findall(r"startflow token --tenant clinic.*\n((?:(?!```).*\n)*)", text(CONFIGURATION))
    printed = CliRunner().invoke(app, ["token", "--tenant", "clinic"]).output
    left_out = re.sub(r"[0-9a-f]{64}", "<64 hexadecimal digits>", re.sub(r"\bsf_\S+", "sf_…", printed))

    assert shown.split() == left_out.split()


@pytest.mark.parametrize("preset", sorted(set(re.findall(r'"preset": "(\w+)"', "".join(map(text, PAGES))))))
def test_every_preset_exists(preset: str) -> None:
    """The sandbox makes each fault that the pages ask it for."""
    assert preset in PRESETS


def test_every_make_target_exists() -> None:
    """A `make …` of the pages is in the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", text(ROOT / "Makefile"), flags=re.MULTILINE))

    assert {name for page in PAGES for name in re.findall(r"(?:`|\$ )make ([a-z-]+)", text(page))} <= targets
