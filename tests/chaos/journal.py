"""The sandbox's journal as evidence: what was asked of the backends, and what they made of it."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from tests.chaos.evidence import Created, Sent

if TYPE_CHECKING:
    from collections.abc import Sequence


STRANGER = "stranger"  # the User-Agent of those who start flows beside the gateway


def is_create(entry: dict[str, Any]) -> bool:
    """Whether an entry is a request of the gateway's to create something."""
    return (
        entry["kind"] == "request"
        and entry["headers"].get("User-Agent") != STRANGER
        and entry["method"] == "POST"
        and entry["path"].endswith(("/flow_starts.json", "/Executions"))
    )


def moment_of(entry: dict[str, Any]) -> float:
    """Reads when it was, in seconds since the epoch."""
    return datetime.fromisoformat(entry["at"]).timestamp()


def key_of(request: dict[str, Any]) -> str:
    """Reads the correlation key of a request to create something; empty if its body never arrived whole."""
    if request["body"] is None:
        return ""
    if request["backend"] == "rapidpro":
        return str(json.loads(request["body"])["params"]["startflow_id"])
    return str(json.loads(parse_qs(request["body"])["Parameters"][0])["startflow_id"])


def created_in(journal: Sequence[dict[str, Any]]) -> tuple[Created, ...]:
    """Reads what was made."""
    return tuple(
        Created(
            line=entry["n"],
            at=moment_of(entry),
            key=str(entry["params"].get("startflow_id", "")),
            external_id=entry["external_id"],
            recipients=_recipients(entry),
            people=frozenset(entry["people"]),
            over_at=datetime.fromisoformat(entry["ends_at"]).timestamp() if entry.get("ends_at") else None,
        )
        for entry in journal
        if entry["kind"] == "created" and not entry["params"].get(STRANGER)
    )


def sent_in(journal: Sequence[dict[str, Any]]) -> tuple[Sent, ...]:
    """Reads the requests to create something that arrived whole."""
    return tuple(
        Sent(line=entry["n"], at=moment_of(entry), key=key)
        for entry in journal
        if is_create(entry) and (key := key_of(entry))
    )


def ended_in(journal: Sequence[dict[str, Any]]) -> frozenset[str]:
    """Reads what the backend was asked to end, whatever it answered: what has ended does not say why."""
    return frozenset(
        entry["path"].rpartition("/")[2]
        for entry in journal
        if entry["kind"] == "request" and entry["method"] == "POST" and "/Executions/" in entry["path"]
    )


def most_in_flight(journal: Sequence[dict[str, Any]]) -> Counter[str]:
    """Counts how many requests to create something were open at once, at the most; one that hangs is left out."""
    opened: dict[int, str] = {}
    now: Counter[str] = Counter()
    most: Counter[str] = Counter()
    for entry in journal:
        if is_create(entry):
            opened[entry["n"]] = entry["backend"]
            now[entry["backend"]] += 1
        elif entry["kind"] == "answer" and (backend := opened.pop(entry["request"], "")):
            now[backend] -= 1
        most |= now
    return most


def _recipients(entry: dict[str, Any]) -> frozenset[str]:
    """Reads whom a creation reached, spelled as in a request to the gateway."""
    if entry["backend"] == "twilio":
        return frozenset({f"tel:{entry['to']}"})
    return frozenset(entry["urns"]) | {uuid for uuid, _ in entry["groups"]}
