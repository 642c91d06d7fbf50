"""The wheel, installed where nothing else is, serves and starts flows without the repository."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.processes import READY, ROOT, SEED_FLOW

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PATIENCE = 30.0  # seconds, for what takes one or two

# What would lead into this checkout, or another configuration; how packages are fetched stays as it is.
_ENVIRONMENT = {
    name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "STARTFLOW_", "VIRTUAL_ENV"))
}


def _pip(*words: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", *words],
        cwd=ROOT,
        env=_ENVIRONMENT,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert 0 == done.returncode, done.stdout


def _wheel(source: str | Path, folder: Path) -> Path:
    """Builds a wheel of the repository or of a source distribution."""
    _pip("wheel", "--no-deps", "--wheel-dir", folder, source)
    (built,) = folder.glob("*.whl")
    return built


def _names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def _sources(folder: str) -> set[str]:
    """Returns the files of a folder that are not ignored, by their paths in it; a new one counts before it is added."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", "."]
    found = subprocess.run(listing, cwd=ROOT / folder, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {name for name in found.split("\0") if name and (ROOT / folder / name).exists()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds the wheel as an installation from the repository does."""
    return _wheel(".", tmp_path_factory.mktemp("wheel"))


def _install(wheel: Path, folder: Path) -> Path:
    """Installs it with its dependencies into an environment of its own, and returns the command."""
    venv.create(folder, with_pip=False, symlinks=True)
    _pip("--python", folder / "bin" / "python", "install", wheel)
    return folder / "bin" / "startflow"


@asynccontextmanager
async def _running(*command: str | Path, cwd: Path, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs a command away from the repository; nothing of it is left at the end."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
        env={**_ENVIRONMENT, **variables},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def test_the_wheel_holds_the_gateway_the_stubs_and_the_proto(wheel: Path) -> None:
    """Nothing of the sources is left out, nothing else is in it, and the proto is the one the stubs are made from."""
    proto = "startflow/v1/start_flow_service.proto"
    stubs = {f"startflow/v1/start_flow_service_pb2{end}" for end in (".py", ".pyi", "_grpc.py", "_grpc.pyi")}
    expected = {f"gateway/{name}" for name in _sources("gateway")}
    expected |= {f"startflow/{name}" for part in ("generated", "protos") for name in _sources(f"{part}/startflow")}
    about = {name for name in _names(wheel) if ".dist-info/" in name}

    assert {proto} | stubs <= expected
    assert expected == _names(wheel) - about
    assert {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "LICENSE"} == {name.split("/")[-1] for name in about}
    with zipfile.ZipFile(wheel) as archive:
        assert (ROOT / "protos" / proto).read_bytes() == archive.read(proto)


def test_d19_an_old_pip_names_python_and_no_dependency(wheel: Path) -> None:
    """It reads `Requires-Python` after the dependencies, so none of them is wanted by a Python that is too old."""
    with zipfile.ZipFile(wheel) as archive:
        (about,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        lines = archive.read(about).decode().split("\n\n")[0].splitlines()
    needs = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]

    assert "Requires-Python: >=3.11" in lines
    extras = [need for need in needs if "extra ==" in need]  # which are wanted by name
    assert ["psycopg[binary]"] == [need.partition("==")[0] for need in extras]
    assert len(PROJECT["project"]["dependencies"]) == len(needs) - len(extras)
    assert [] == [need for need in needs if need not in extras and not need.endswith("; python_version >= '3.11'")]


@pytest.mark.longer  # it builds twice
def test_the_source_distribution_is_enough_to_build_the_wheel(wheel: Path, tmp_path: Path) -> None:
    """A wheel built from it holds the same files."""
    python = tmp_path / "builder" / "bin" / "python"
    venv.create(tmp_path / "builder", with_pip=False, symlinks=True)
    _pip("--python", python, "install", *PROJECT["build-system"]["requires"])
    build = [python, "-m", "hatchling", "build", "--target", "sdist", "--directory", tmp_path]
    subprocess.run(build, cwd=ROOT, env=_ENVIRONMENT, check=True, capture_output=True)
    (source,) = tmp_path.glob("*.tar.gz")

    assert _names(wheel) == _names(_wheel(source, tmp_path))


@pytest.mark.longer  # it installs every dependency
async def test_the_installed_gateway_does_the_main_job(wheel: Path, tmp_path: Path) -> None:
    """It says its version and serves; its command starts a flow and follows it to the end; SIGTERM ends it with 0."""
    installed = _install(wheel, tmp_path / "installed")
    async with asyncio.timeout(PATIENCE), _running(installed, "--version", cwd=tmp_path) as process:
        told, complaints = await process.communicate()
    assert (f"startflow {PROJECT['project']['version']}\n", b"") == (told.decode(), complaints)

    anywhere = {"STARTFLOW_LISTEN": "127.0.0.1:0", "STARTFLOW_HTTP_LISTEN": "127.0.0.1:0"}
    async with (
        asyncio.timeout(PATIENCE),
        _running(installed, "serve", "--sandbox", cwd=tmp_path, **anywhere) as gateway,
    ):
        assert gateway.stdout is not None
        ready = READY.search((await gateway.stdout.readline()).decode())
        assert ready, (await gateway.communicate())[1].decode()
        words = ("start", SEED_FLOW, "tel:+12065551212", "--watch", "--address", ready[1])
        async with _running(installed, *words, cwd=tmp_path) as start:
            told, complaints = await start.communicate()
        gateway.terminate()
        _, log = await gateway.communicate()

    assert 0 == start.returncode, complaints.decode()
    assert "STATE_COMPLETED" == json.loads(told.splitlines()[-1])["changed"]["state"]
    assert 0 == gateway.returncode, log.decode()
    assert b"Traceback" not in log
    assert (tmp_path / "var" / "sandbox.db").exists()
