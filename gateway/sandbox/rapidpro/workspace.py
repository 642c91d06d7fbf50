"""RapidPro's API v2 of either generation: flow starts, flows and the workspace.

1. Nothing is ever 401: whoever is not known gets 403, before any throttling.
2. URNs are taken and never shown again; `params` come back in the database's key order.
3. A list that cannot be understood (`after=yesterday`) is empty; it is not an error.
4. All requests of the workspace share one sliding window; requests that are refused afterwards count too.
5. Its database may be read from replicas that are behind, and can be upgraded while it runs: see `configure`.
"""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from gateway.sandbox.exchange import Answer, Refused, compact
from gateway.sandbox.journal import moment
from gateway.sandbox.presets import FIREWALL
from gateway.sandbox.presets import HTML as FOREIGN_HTML
from gateway.sandbox.rapidpro.access import (
    NOT_PERMITTED,
    Throttle,
    accepts_json,
    authenticate,
    read_body,
    read_id,
    read_uuid,
)
from gateway.sandbox.rapidpro.database import database
from gateway.sandbox.rapidpro.fields import Wanted, read_start
from gateway.sandbox.rapidpro.generations import GENERATIONS
from gateway.sandbox.rapidpro.pages import as_json, flows_document, new_row, record, row, start_from
from gateway.sandbox.rapidpro.paging import link, parse_date, read_cursor, read_page
from gateway.sandbox.rapidpro.params import Unstorable
from gateway.sandbox.rapidpro.settings import read_changes, read_touch
from gateway.sandbox.rapidpro.starts import Start, Starts
from gateway.sandbox.settings import USUAL

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from gateway.sandbox.exchange import Effect, Received
    from gateway.sandbox.journal import Journal
    from gateway.sandbox.settings import Generation, SandboxSettings

WORKSPACE: dict[str, object] = {
    "uuid": GENERATIONS["new"].header[1],
    "name": "Sandbox",
    "country": "US",
    "languages": ["eng"],
    "timezone": "America/Los_Angeles",
    "date_style": "month_first",
    "anon": False,
}
HEADERS = {
    "Content-Type": "application/json",
    "Vary": "Accept, Cookie",
    "Content-Language": "en-us",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
HTML = HEADERS | {"Content-Type": "text/html; charset=utf-8"}
NOT_FOUND = (
    b'\n<!doctype html>\n<html lang="en">\n<head>\n  <title>Not Found</title>\n</head>\n<body>\n'
    b"  <h1>Not Found</h1><p>The requested resource was not found on this server.</p>\n</body>\n</html>\n"
)
NOT_ACCEPTABLE = (
    b'<!DOCTYPE HTML>\n<html lang="en-us">\n<head>\n<title>Flow Starts Endpoint</title>\n</head>\n</html>\n'
)
SERVER_ERROR = b"Server Error. Site administrators have been notified."
STARTS = "/api/v2/flow_starts.json"
ALLOWED = {  # the Allow header; HEAD and OPTIONS are listed and yet not allowed
    STARTS: "GET, POST, HEAD, OPTIONS",
    STARTS.removesuffix(".json"): "GET, POST, HEAD, OPTIONS",
    "/api/v2/flows.json": "GET, HEAD, OPTIONS",
    "/api/v2/workspace.json": "GET, HEAD, OPTIONS",
    "/api/v2/org.json": "GET, HEAD, OPTIONS",
}


class RapidPro:
    """One RapidPro workspace."""

    name = "rapidpro"

    def __init__(
        self,
        settings: SandboxSettings,
        *,
        journal: Journal,
        clock: Callable[[], datetime],
        rng: random.Random,
    ) -> None:
        self._duration = settings.duration
        self._journal = journal
        self._clock = clock
        self._rng = rng
        self._generation = settings.rapidpro_generation
        self._ways = GENERATIONS[self._generation]
        self._database = database(settings, rng)
        self._starts = Starts(self._ways, self._database)
        self._country = settings.rapidpro_country
        self._names_workspace = True
        self._last_id = 0
        rate = settings.rapidpro_requests_per_hour
        self._throttle = Throttle(self._ways.rate if rate == USUAL else rate)
        self._is_usual_rate = rate == USUAL

    def verb(self, request: Received) -> str:
        """Names what a request asks for."""
        path = request.path.removesuffix("/").removesuffix(".json")
        if path != STARTS.removesuffix(".json"):
            return {"/api/v2/flows": "flows", "/api/v2/workspace": "workspace", "/api/v2/org": "workspace"}.get(
                path, "other"
            )
        if request.method == "POST":
            return "create"
        return "fetch" if "uuid" in request.parameters() else "list"

    def answer(self, request: Received, lag: timedelta) -> Answer | Effect:
        """Answers as RapidPro would; a good POST becomes an effect."""
        path = request.path.removesuffix("/")
        if path not in ALLOWED:
            return Answer(status=404, body=NOT_FOUND, headers=HTML)
        headers = {"Allow": ALLOWED[path]}
        if not accepts_json(request):
            return Answer(status=406, body=NOT_ACCEPTABLE, headers=HTML | headers)
        try:
            if request.method not in ALLOWED[path].split(", ")[:-2]:
                raise Refused(405, {"detail": f'Method "{request.method}" not allowed.'})  # noqa: TRY301
            authenticate(request.headers.get("Authorization", ""))
            headers |= [self._ways.header] if self._names_workspace else []
            self._throttle.admit(request.at)
            self._starts.catch_up(request.at)
            return self._respond(request, path, headers, lag)
        except Refused as refused:
            body = b"" if request.method == "HEAD" else compact(refused.document)
            return Answer(status=refused.status, body=body, headers=HEADERS | headers | refused.headers)
        except (Unstorable, RecursionError):
            return Answer(status=500, body=SERVER_ERROR, headers=HTML | headers)

    def _respond(self, request: Received, path: str, headers: dict[str, str], lag: timedelta) -> Answer | Effect:
        if request.method == "POST":
            return self._post(request, path, headers)
        document: object = []  # what the browsable API has without `.json`
        if path == STARTS:
            document = self._list(request, lag)
        elif path == "/api/v2/flows.json":
            document = flows_document(request, self._ways)
        elif path.endswith(".json"):
            document = WORKSPACE | {"country": self._country} | dict(self._ways.workspace)
        return Answer(status=200, body=as_json(document), headers=HEADERS | headers)

    def _post(self, request: Received, path: str, headers: dict[str, str]) -> Answer | Effect:
        if path != STARTS and not self._ways.posts_without_json:
            raise Refused(403, NOT_PERMITTED)
        asked = self._updated(request)
        if asked is not None and self._starts.find(asked) is None:
            raise Refused(404, {"detail": "No FlowStart matches the given query."})
        wanted = read_start(read_body(request), self._ways)
        if wanted.params.get("sandbox") == "mailroom_down":
            raise Unstorable
        if wanted.params.get("sandbox") == "firewall":
            return Answer(status=403, body=FIREWALL.encode(), headers=FOREIGN_HTML)
        drawn = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

        def create(*, commit: bool) -> Answer:
            start = self._new(wanted, drawn, request.at)
            if commit:
                self._last_id = start.id
                self._starts.add(start)
                self._journal.append("created", self.name, request=request.n, **record(start, self._country))
            # With ?uuid= it takes itself for an update, and makes a new start all the same.
            status = 201 if asked is None else 200
            return Answer(status=status, body=as_json(new_row(start, self._ways)), headers=HEADERS | headers)

        return create

    def _updated(self, request: Received) -> str | None:
        """Reads the start that a POST takes itself to update. Raises Unstorable where that is a 500."""
        try:
            return read_uuid(request, self._ways)
        except Refused:
            if self._ways.bad_uuid_breaks_post:
                raise Unstorable from None
            raise

    def _new(self, wanted: Wanted, drawn: str, asked_at: datetime) -> Start:
        """Makes a start whose transaction commits now; it began some time ago, but not before it was asked for."""
        now = self._clock()
        begun = max(min(asked_at, now), now - self._database.lasts())
        return Start(
            id=self._last_id + 1,
            uuid=drawn,
            created_at=self._database.written(begun),
            base=now,
            duration=self._duration,
            settles=self._ways.settles,
            **{name: getattr(wanted, name) for name in Wanted.__slots__},
        )

    def _list(self, request: Received, lag: timedelta) -> dict[str, Any]:
        as_of = min(self._database.read_as_of(request.at), request.at - lag)
        asked, number = read_uuid(request, self._ways), read_id(request, self._ways)
        if asked is not None or number is not None:
            start = self._starts.numbered(number or 0) if asked is None else self._starts.find(asked)
            version = start.as_of(as_of) if start is not None and number in (None, start.id) else None
            rows = [row(start, version, as_of, self._ways)] if start is not None and version is not None else []
            return {"next": None, "previous": None, "results": rows}
        query = request.parameters()
        bounds: dict[str, datetime | None] = {"after": None, "before": None}
        for name in ("after", "before"):
            if query.get(name, [""])[-1]:
                bounds[name] = parse_date(query[name][-1])
                if bounds[name] is None:
                    return {"next": None, "previous": None, "results": []}
        page = read_page(
            self._starts,
            read_cursor(request),
            **bounds,
            oldest_first=query.get("reverse", [""])[-1].lower() in ("true", "y", "yes", "1"),
            as_of=as_of,
            size=self._database.page_size,
        )
        return {
            "next": link(request, page.next),
            "previous": link(request, page.previous),
            "results": [row(*each, as_of, self._ways) for each in page.rows],
        }

    def force(self, external_id: str, change: dict[str, Any]) -> None:
        """Gives a start a status, or holds it. An unknown or null status is taken as it is."""
        self._starts.catch_up(self._clock())
        self._apply(self._starts.get(external_id), change, self._clock())
        self._journal.append("forced", self.name, external_id=external_id, change=change)

    def _apply(self, start: Start, change: dict[str, Any], at: datetime) -> None:
        if "status" in change:
            self._starts.force(start, change["status"], at)
        if change.get("hold") is True:
            self._starts.hold(start, at)
        if change.get("hold") is False:
            self._starts.release(start, at)

    def configure(self, data: object) -> dict[str, Any]:
        """Changes what a running server can change, and shows all of it. Raises ValueError naming what is wrong."""
        changes = read_changes(data)
        generation = changes.pop("generation", self._generation)
        if generation != self._generation:
            self._upgrade(generation)
        self._country = changes.pop("country", self._country)
        self._names_workspace = changes.pop("names_workspace", self._names_workspace)
        self._starts.catch_up(self._clock())  # what has happened so far happened in the old ways
        for name, value in changes.items():
            setattr(self._database, name, value)
        return {
            "generation": self._generation,
            "country": self._country,
            "names_workspace": self._names_workspace,
            **self._database.settings(),
        }

    def _upgrade(self, generation: Generation) -> None:
        self._generation, self._ways = generation, GENERATIONS[generation]
        self._starts.upgrade(self._ways, self._clock())
        if self._is_usual_rate:
            self._throttle.change(self._ways.rate)

    def touch(self, data: object) -> dict[str, Any]:
        """Gives rows one `modified_on` in one transaction, as a bulk update does; returns which and what.

        Raises ValueError naming what is wrong, and KeyError for a start that is not there.
        """
        count, ids, ago = read_touch(data)
        now = self._clock()
        self._starts.catch_up(now)
        touched = [self._starts.get(uuid) for uuid in ids] if ids else self._starts.recent(count)
        modified_at = self._database.written(now - ago)
        external_ids = [start.uuid for start in touched]
        for start in touched:
            self._starts.touch(start, modified_at, now)
        self._journal.append("touched", self.name, external_ids=external_ids, modified_at=moment(modified_at))
        return {"external_ids": external_ids, "modified_on": moment(modified_at)}

    def rebuild(self, entry: dict[str, Any]) -> None:
        """Takes back a start, or what was done to it, from the journal of an earlier run."""
        at = datetime.fromisoformat(entry["at"])
        if entry["kind"] == "created":
            self._starts.add(start_from(entry, self._ways))
            self._last_id = entry["id"]
        elif entry["kind"] == "touched":
            self._starts.catch_up(at)
            for uuid in entry["external_ids"]:
                self._starts.touch(self._starts.get(uuid), datetime.fromisoformat(entry["modified_at"]), at)
        else:
            self._starts.catch_up(at)
            self._apply(self._starts.get(entry["external_id"]), entry["change"], at)

    def summary(self) -> dict[str, Any]:
        """Counts the starts by status."""
        self._starts.catch_up(self._clock())
        return {"starts": len(self._starts), "statuses": self._starts.counts()}
