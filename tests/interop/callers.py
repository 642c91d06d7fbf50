"""Builds the callers: each from its folder and protos/, in a folder that git ignores."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import google.rpc

from tests.end_to_end.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SOURCES = Path(__file__).parent
CACHE = ROOT / ".interop"
PROTO = "startflow/v1/start_flow_service.proto"
COMMON = Path(next(iter(google.rpc.__path__))).parents[1]  # where google/rpc/status.proto is
ENVIRONMENT = {**os.environ, "PROTOS": f"{ROOT / 'protos'}:{COMMON}"}


async def run(*command: str | Path, folder: Path, **environment: str) -> str:
    """Runs a command and returns what it prints; an error has its last lines."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**ENVIRONMENT, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()
    if process.returncode:
        message = f"{command[0]} ended with {process.returncode}: {said[-1000:]}"
        raise RuntimeError(message)
    return said


@dataclass(frozen=True)
class Caller:
    """A caller in one language."""

    name: str
    needs: str  # the program without which it cannot be built
    version: tuple[str, ...]  # the command that prints the version of the toolchain
    build: Callable[[Path], Awaitable[tuple[str | Path, ...]]]  # returns the command that runs it
    tried: str = "start, replay, read; error details; watch over SIGTERM, SIGKILL"

    @property
    def missing(self) -> bool:
        """Whether its toolchain is not on this machine."""
        return shutil.which(self.needs) is None

    async def built(self) -> tuple[str | Path, ...]:
        """Builds it and returns the command that runs it."""
        folder = CACHE / self.name.lower()
        shutil.copytree(SOURCES / self.name.lower(), folder, dirs_exist_ok=True)
        return await self.build(folder)


async def _go(folder: Path) -> tuple[str | Path, ...]:
    plugins = (
        "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12",
        "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2",
    )
    for plugin in plugins:
        await run("go", "install", plugin, folder=folder, GOBIN=str(folder / "bin"))
    mapped = [f"--{kind}_opt=module=interop,M{PROTO}=interop/startflowv1" for kind in ("go", "go-grpc")]
    await run(
        *(sys.executable, "-m", "grpc_tools.protoc", "-I", ROOT / "protos", "--go_out=.", "--go-grpc_out=."),
        *(*mapped, PROTO),
        folder=folder,
        PATH=f"{folder / 'bin'}:{os.environ['PATH']}",
    )
    await run("go", "build", "-mod=mod", "-o", "caller", ".", folder=folder)
    return (folder / "caller",)


async def _node(folder: Path) -> tuple[str | Path, ...]:
    await run("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", folder=folder)
    return ("node", folder / "main.js")


CALLERS = (
    Caller("Go", "go", ("go", "version"), _go),
    Caller("Node", "npm", ("node", "--version"), _node),
)
