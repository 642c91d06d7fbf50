"""Reads the captured exchanges."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPEATED = re.compile("⟨(.+?)\\*(\\d+)⟩")
FILES = {"new": "rapidpro_v26.jsonl", "old": "rapidpro_v9.jsonl"}
USUAL = {"Content-Type": "application/json", "Allow": "GET, POST, HEAD, OPTIONS"}
JSON = "application/json"


@dataclass(frozen=True, kw_only=True)
class Captured:
    """One exchange, its texts in full."""

    name: str
    method: str
    path: str
    auth: str
    body: str | None
    type: str | None
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    answer: str
    read: str = ""
    faults: dict[str, Any] | None = None
    at: float | None = None
    absent: str = ""


def exchanges(generation: str) -> list[Captured]:
    """Reads all exchanges of one generation."""
    lines = (Path(__file__).parent / FILES[generation]).read_text("utf-8").splitlines()
    return [_captured(json.loads(line)) for line in lines]


def _captured(line: dict[str, Any]) -> Captured:
    method, _, path = line["ask"].partition(" ")
    return Captured(
        name=line["name"],
        method=method,
        path=path,
        auth=line.get("auth", "Token TOKEN_ADMIN"),
        body=None if "body" not in line else _whole(line["body"]),
        type=line.get("type", JSON) if "body" in line else None,
        status=line["status"],
        headers=USUAL | line.get("headers", {}),
        answer=_whole(line["answer"]),
        **{name: line[name] for name in ("read", "faults", "at", "absent") if name in line},
    )


def _whole(text: str) -> str:
    return REPEATED.sub(lambda found: found[1] * int(found[2]), text)
