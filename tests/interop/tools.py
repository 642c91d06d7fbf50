"""The tools that people point at a gRPC server, and what each must say of ours."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.processes import SEED_FLOW
from tests.interop.callers import CACHE, fetch

BIN = CACHE / "bin"
BUF = str(Path(sys.executable).parent / "buf")
START = f'{{{{"flow": "{SEED_FLOW}", "urns": ["tel:+12065551212"]}}}}'
SERVICE = "startflow.v1.StartFlowService"


@dataclass(frozen=True)
class Tool:
    """A tool that needs nothing of ours but the address: it asks by reflection."""

    name: str
    needs: str  # the program without which it cannot be had
    module: str  # what `go install` builds; nothing where the development tools have it
    tried: str
    command: tuple[str, ...]
    expected: tuple[str, ...]  # all of it must be in what the tool prints

    async def missing(self) -> str:
        """Returns the program that is not on this machine; nothing where it can be had."""
        return "" if shutil.which(self.needs) else self.needs

    @property
    def version(self) -> tuple[str, ...]:
        """The command that prints its version; most do not know their own when `go install` builds them."""
        return ("echo", self.module.split("@")[1]) if self.module else (self.needs, "--version")

    async def built(self) -> tuple[str, ...]:
        """Builds it, and returns the command that asks."""
        if self.module:
            BIN.mkdir(parents=True, exist_ok=True)
            await fetch("go", "install", self.module, folder=CACHE, GOBIN=str(BIN))
        return self.command


TOOLS = (
    Tool(
        "grpcurl",
        "go",
        "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3",
        "starts a flow",
        (str(BIN / "grpcurl"), "-plaintext", "-d", START, "{address}", f"{SERVICE}/StartFlow"),
        ('"STATE_',),
    ),
    Tool(
        "buf curl",
        BUF,
        "",
        "starts a flow",
        (
            *(BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "-d", START),
            f"http://{{address}}/{SERVICE}/StartFlow",
        ),
        ('"flowStart"', '"STATE_'),
    ),
    Tool(
        "grpc-health-probe",
        "go",
        "github.com/grpc-ecosystem/grpc-health-probe@v0.4.62",
        "asks for the service's health",
        (str(BIN / "grpc-health-probe"), "-addr={address}", f"-service={SERVICE}"),
        ("status: SERVING",),
    ),
    Tool(
        "ghz",
        "go",
        "github.com/bojand/ghz/cmd/ghz@v0.93.0",
        "makes 200 calls",
        (str(BIN / "ghz"), "--insecure", "-n", "200", "--call", f"{SERVICE}/ListBackends", "{address}"),
        ("[OK]", "200 responses"),
    ),
)
