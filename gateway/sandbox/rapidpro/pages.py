"""What RapidPro shows, and what the journal keeps, of starts and flows."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from gateway.sandbox.addresses import canonical
from gateway.sandbox.exchange import compact
from gateway.sandbox.journal import moment
from gateway.sandbox.rapidpro.access import read_uuid
from gateway.sandbox.rapidpro.catalogue import CONTACTS_BY_URN, FLOWS
from gateway.sandbox.rapidpro.params import stored
from gateway.sandbox.rapidpro.starts import Start, Version

if TYPE_CHECKING:
    from gateway.sandbox.exchange import Received
    from gateway.sandbox.rapidpro.generations import Ways


def written(at: datetime) -> str:
    """Writes a time as RapidPro does: with six decimals, or with none when they are all zero."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if at.microsecond else "%Y-%m-%dT%H:%M:%SZ")


def flows_document(request: Received, ways: Ways) -> dict[str, Any]:
    """Lists the flows, archived ones too; with `?uuid=`, that one."""
    asked = read_uuid(request, ways)
    rows = [
        {
            "uuid": flow.uuid,
            "name": flow.name,
            "type": "message",
            "archived": flow.archived,
            "labels": [],
            "expires": 4320,
            "runs": dict.fromkeys(("active", "waiting", "completed", "expired", "interrupted", "failed"), 0),
            "results": [],
            "parent_refs": [],
            "created_on": "2026-01-01T00:00:00Z",
            "modified_on": "2026-01-01T00:00:00Z",
        }
        for flow in FLOWS.values()
        if asked in (None, flow.uuid)
    ]
    return {"next": None, "previous": None, "results": rows}


def new_row(start: Start, ways: Ways) -> dict[str, Any]:
    """Shows a start that was made just now."""
    return _row(start, start.versions[0], start.params, start.base, ways)


def row(start: Start, version: Version, as_of: datetime, ways: Ways) -> dict[str, Any]:
    """Shows a start as the database had it at a moment."""
    return _row(start, version, start.params if ways.keeps_params else stored(start.params), as_of, ways)


def _row(start: Start, version: Version, params: dict[str, Any], as_of: datetime, ways: Ways) -> dict[str, Any]:
    shown = {
        "uuid": start.uuid,
        "flow": {"uuid": start.flow.uuid, "name": start.flow.name},
        "status": version.status,
        "progress": start.progress(version, ways.script_of(start.flow, start.params), as_of),
        "groups": [{"uuid": uuid, "name": name} for uuid, name in start.groups],
        "contacts": [{"uuid": uuid, "name": name} for uuid, name in start.contacts],
        "params": params,
        "created_on": written(start.created_at),
        "modified_on": written(version.modified_at),
        "id": start.id,
        "extra": params,
        "restart_participants": start.restart_participants,
        "exclude_active": start.exclude_active,
    }
    if start.asks_for("blank_params"):
        shown |= {"params": {}, "extra": {}}
    hidden = ("params", "extra") if start.asks_for("without_params") else ()
    return {key: shown[key] for key in ways.keys if key not in hidden}


def record(start: Start, country: str) -> dict[str, Any]:
    """Says in the journal's words what was made. `people` are whom it reaches, each once, however it was named.

    `undelivered` are those whose messages fail, because they are blocked, stopped or archived: no list of starts shows
    that.
    """
    reached = people(start, country)
    return {
        "external_id": start.uuid,
        "id": start.id,
        "flow": start.flow.uuid,
        "contacts": start.contacts,
        "groups": start.groups,
        "urns": start.urns,
        "people": reached,
        "undelivered": reached if start.asks_for("blocked") else [],
        "params": start.params,
        "restart_participants": start.restart_participants,
        "exclude_active": start.exclude_active,
        "created_at": moment(start.created_at),
        "begun_at": moment(start.base),
        "duration": start.duration.total_seconds(),
    }


def people(start: Start, country: str) -> list[str]:
    """Lists whom a start reaches: contacts by UUID, others by the one address that RapidPro keeps; groups apart."""
    named = [f"contact:{uuid}" for uuid, _ in start.contacts]
    for urn in start.urns:
        address = canonical(urn, country)
        known = CONTACTS_BY_URN.get(address)
        named.append(f"contact:{known}" if known else address)
    return list(dict.fromkeys([*named, *(f"group:{uuid}" for uuid, _ in start.groups)]))


def start_from(entry: dict[str, Any], ways: Ways) -> Start:
    """Makes a start again from what the journal says was made."""
    return Start(
        id=entry["id"],
        uuid=entry["external_id"],
        flow=FLOWS[entry["flow"]],
        contacts=[(uuid, name) for uuid, name in entry["contacts"]],
        groups=[(uuid, name) for uuid, name in entry["groups"]],
        urns=entry["urns"],
        params=entry["params"],
        restart_participants=entry["restart_participants"],
        exclude_active=entry["exclude_active"],
        created_at=datetime.fromisoformat(entry["created_at"]),
        base=datetime.fromisoformat(entry.get("begun_at", entry["created_at"])),
        duration=timedelta(seconds=entry["duration"]),
        settles=ways.settles,
    )


def as_json(document: object) -> bytes:
    """Writes JSON as the API does: two line separators that JavaScript trips over are escaped."""
    return compact(document).replace("\u2028".encode(), b"\\u2028").replace("\u2029".encode(), b"\\u2029")
