"""Workspaces of RapidPro's that answer at once, so that they are not the limit: `watchers/backend` says how."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from dataclasses import dataclass, field
from typing import Any, Self

from tests.bench.processes import BINARY, build

FLOW = "f5901b62-ba76-4003-9c62-72fdacc1b7b7"
STARTS = "/api/v2/flow_starts.json"


def workspace_uuid(number: int) -> str:
    """Tells whose account a workspace is."""
    return f"fa6f2c37-c69e-4d8d-a596-{number:012x}"


@dataclass
class Stub:
    """Workspaces in a process of their own, on the core of whoever starts them."""

    count: int
    slow: bool = False  # the last of them takes two seconds to answer a POST
    faults: float = 0.0  # the share of POSTs that meet one
    urls: list[str] = field(init=False)
    _process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Starts them."""
        binary = build("./backend", BINARY.with_name("backend"))
        self._process = subprocess.Popen(
            [str(binary), f"-count={self.count}", f"-slow={str(self.slow).lower()}", f"-faults={self.faults}"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "GOMAXPROCS": "1"},
        )
        assert self._process.stdout is not None
        self.urls = [f"http://127.0.0.1:{port}" for port in json.loads(self._process.stdout.readline())]
        return self

    def __exit__(self, *_: object) -> None:
        """Ends them."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def counts(self) -> list[dict[str, Any]]:
        """Tells what each has done."""
        told: list[dict[str, Any]] = self._ask("/counts")
        return told

    def keys(self) -> list[str]:
        """Tells under which correlation keys anything was carried out."""
        told: list[str] = self._ask("/keys")
        return told

    def _ask(self, path: str) -> Any:
        with urllib.request.urlopen(self.urls[0] + path) as answer:  # noqa: S310 -- it is our own
            return json.load(answer)
