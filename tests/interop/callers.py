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


class NotThere(RuntimeError):
    """What a toolchain needs cannot be fetched from here: nothing is known of the tool or the caller."""


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


async def fetch(*command: str | Path, folder: Path, **environment: str) -> None:
    """Runs a command that gets what is not ours; raises NotThere with its last line."""
    try:
        await run(*command, folder=folder, **environment)
    except RuntimeError as error:
        raise NotThere(f"{' '.join(map(str, command))}: {str(error).strip().splitlines()[-1]}") from error


@dataclass(frozen=True)
class Caller:
    """A caller in one language."""

    name: str
    needs: tuple[str, ...]  # the programs without which it cannot be built
    version: tuple[str, ...]  # the command that prints the version, and fails where a library is missing
    get: str  # what to install where something is missing
    build: Callable[[Path], Awaitable[tuple[str | Path, ...]]]  # returns the command that runs it
    tried: str = "start, replay, read; error details; watch over SIGTERM, SIGKILL"

    async def missing(self) -> str:
        """Returns what is not on this machine and how to get it; nothing where all is."""
        for program in self.needs:
            if shutil.which(program) is None:
                return f"{program} (install {self.get})"
        try:
            await run(*self.version, folder=ROOT)
        except RuntimeError:
            return f"library for {self.needs[0]} (install {self.get})"
        return ""

    async def built(self) -> tuple[str | Path, ...]:
        """Builds it and returns the command that runs it."""
        name = self.name.lower().replace("+", "p")
        folder = CACHE / name
        shutil.copytree(SOURCES / name, folder, dirs_exist_ok=True)
        return await self.build(folder)


async def _go(folder: Path) -> tuple[str | Path, ...]:
    plugins = (
        "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12",
        "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2",
    )
    for plugin in plugins:
        await fetch("go", "install", plugin, folder=folder, GOBIN=str(folder / "bin"))
    await fetch("go", "mod", "download", folder=folder)
    module = [f"--{kind}_opt=module=startflow.example/api" for kind in ("go", "go-grpc")]
    await run(
        *(sys.executable, "-m", "grpc_tools.protoc", "-I", ROOT / "protos", "--go_out=api", "--go-grpc_out=api"),
        *(*module, PROTO),
        folder=folder,
        PATH=f"{folder / 'bin'}:{os.environ['PATH']}",
    )
    await run("go", "build", "-mod=mod", "-o", "caller", ".", folder=folder)
    return (folder / "caller",)


async def _node(folder: Path) -> tuple[str | Path, ...]:
    await fetch("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", folder=folder)
    return ("node", folder / "main.js")


async def _cpp(folder: Path) -> tuple[str | Path, ...]:
    plugin = f"--plugin=protoc-gen-grpc={shutil.which('grpc_cpp_plugin')}"
    details = ("google/rpc/status.proto", "google/rpc/error_details.proto")
    await run(
        *("protoc", "-I", ROOT / "protos", "-I", COMMON, plugin, "--cpp_out=.", "--grpc_out=.", PROTO, *details),
        folder=folder,
    )
    made = [name.replace(".proto", ".pb.cc") for name in (PROTO, *details)] + [PROTO.replace(".proto", ".grpc.pb.cc")]
    flags = (await run("pkg-config", "--cflags", "--libs", "grpc++", "protobuf", folder=folder)).split()
    await run("g++", "-std=c++17", "-I.", "-o", "caller", "main.cc", *made, *flags, folder=folder)
    return (folder / "caller",)


async def _java(folder: Path) -> tuple[str | Path, ...]:
    protos = f"-Dprotos={ROOT / 'protos'}"
    await run("mvn", "--batch-mode", "--quiet", protos, "compile", "dependency:copy-dependencies", folder=folder)
    return ("java", "-cp", f"{folder / 'target/classes'}:{folder / 'target/dependency'}/*", "Main")


async def _ruby(folder: Path) -> tuple[str | Path, ...]:
    plugin = f"--plugin=protoc-gen-grpc={shutil.which('grpc_ruby_plugin')}"
    await run("protoc", "-I", ROOT / "protos", plugin, "--ruby_out=.", "--grpc_out=.", PROTO, folder=folder)
    return ("ruby", "-I", folder, folder / "main.rb")


async def _rust(folder: Path) -> tuple[str | Path, ...]:
    protoc = (sys.executable, "-m", "grpc_tools.protoc", "-I", ROOT / "protos")
    await run(*protoc, "--include_imports", "--descriptor_set_out=protos.bin", PROTO, folder=folder)
    await fetch("cargo", "fetch", "--quiet", folder=folder)
    await run("cargo", "build", "--quiet", folder=folder)
    return (folder / "target/debug/interop",)


CALLERS = (
    Caller("Go", ("go",), ("go", "version"), "Go 1.26 or newer", _go),
    Caller("Node", ("node", "npm"), ("node", "--version"), "nodejs and npm", _node),
    Caller(
        "C++",
        ("g++", "protoc", "grpc_cpp_plugin", "pkg-config"),
        ("pkg-config", "--modversion", "grpc++", "protobuf"),
        "g++ pkg-config libgrpc++-dev protobuf-compiler-grpc",
        _cpp,
    ),
    Caller("Java", ("javac", "mvn"), ("java", "--version"), "openjdk-17-jdk-headless and maven", _java),
    Caller(
        "Ruby",
        ("ruby", "protoc", "grpc_ruby_plugin"),
        ("ruby", "-r", "grpc", "-r", "google/rpc/status_pb", "-e", "puts RUBY_VERSION + ', grpc ' + GRPC::VERSION"),
        "ruby ruby-grpc protobuf-compiler-grpc",
        _ruby,
    ),
    Caller("Rust", ("cargo", "rustc", "cc"), ("rustc", "--version"), "Rust 1.85 or newer, and gcc", _rust),
)
