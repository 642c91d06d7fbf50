"""What the Dockerfile says, as far as it can be held against the repository without building an image."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DOCKERFILE = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
INSTRUCTIONS = [line.split(maxsplit=1) for line in DOCKERFILE.replace("\\\n", " ").splitlines() if line]


def _arguments(instruction: str) -> list[str]:
    """Returns what stands behind each instruction of a kind."""
    return [rest for name, rest in INSTRUCTIONS if name == instruction]


def test_the_base_image_has_a_python_that_will_do() -> None:
    """Both stages come from it, and pip would not refuse it."""
    (image,) = _arguments("ARG")
    base = re.fullmatch(r"PYTHON_IMAGE=python:(\d+)\.(\d+)-slim", image)
    required = re.fullmatch(r">=(\d+)\.(\d+)", PROJECT["project"]["requires-python"])

    assert base
    assert required
    assert [int(part) for part in base.groups()] >= [int(part) for part in required.groups()]
    assert ["${PYTHON_IMAGE} AS build", "${PYTHON_IMAGE}"] == _arguments("FROM")


def test_everything_copied_is_there_and_nothing_else_is_sent() -> None:
    """.dockerignore lets through exactly what is copied, with all that building the wheel reads."""
    copied = [name for rest in _arguments("COPY") if "--from" not in rest for name in rest.split()[:-1]]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    read = [PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]]
    read += PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]

    assert [] == [name for name in copied if not (ROOT / name).exists()]
    assert "*" in ignored
    assert set(copied) == {line[1:] for line in ignored if line.startswith("!")}
    assert {path.split("/")[0] for path in read} <= set(copied)


def test_the_image_runs_our_command_and_not_as_root() -> None:
    """The entry point is a script of the project; the user is a number, so that it can be checked not to be 0."""
    (entry,), (user,), stop = _arguments("ENTRYPOINT"), _arguments("USER"), _arguments("STOPSIGNAL")
    (command,), (health,) = _arguments("CMD"), _arguments("HEALTHCHECK")
    asked = json.loads(health.split("CMD ")[1])

    assert json.loads(entry)[0] in PROJECT["project"]["scripts"]
    assert asked[0] in PROJECT["project"]["scripts"]
    assert json.loads(command)[1:] == asked[-2:], "health is asked of another configuration"
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert ["SIGTERM"] == stop


def test_the_labels_are_the_projects() -> None:
    """A new version or licence is not forgotten in the image."""
    (labels,) = _arguments("LABEL")
    project = PROJECT["project"]
    expected = {"title": project["name"], "licenses": project["license"]}
    expected |= {name: project[name] for name in ("description", "version")}

    assert expected == dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', labels))
