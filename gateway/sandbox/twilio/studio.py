"""Twilio Studio's REST API v2: executions, and the flows they run.

1. Credentials first (401), what a restricted key lacks (403), then the path (404), the fields (400), the rate (429),
   and the contact (409).
2. One contact has one active execution at a time; what counts as one contact is a setting.
3. Every flow sid of the right form exists, but for those that begin `FW00000000`.
4. `ended` is all that is ever said of an execution that is over, however it went.
5. A page of a list is an offset into it, so a row that is deleted meanwhile moves one that was not read yet onto a
   page that was.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from gateway.sandbox.addresses import canonical
from gateway.sandbox.exchange import VERBS, Answer, Refused, compact
from gateway.sandbox.journal import moment
from gateway.sandbox.twilio.access import (
    Bucket,
    authenticate,
    not_found,
    not_permitted,
    read_form,
    read_parameters,
    refusal,
    required,
)
from gateway.sandbox.twilio.executions import Execution, Executions
from gateway.sandbox.twilio.pages import (
    LARGEST_PAGE,
    context_document,
    execution_document,
    flow_document,
    flows_document,
    list_document,
    step_document,
    steps_document,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from gateway.sandbox.exchange import Effect, Received
    from gateway.sandbox.journal import Journal
    from gateway.sandbox.settings import SandboxSettings
    from gateway.sandbox.twilio.events import Events

HEADERS = {
    "Content-Type": "application/json",
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Accept, Authorization, Content-Type, If-Match, If-Modified-Since",
    "Access-Control-Allow-Credentials": "true",
    "Access-Control-Expose-Headers": "ETag, Twilio-Request-Id",
    "Twilio-Concurrent-Requests": "1",
    "Twilio-Request-Duration": "0.010",
}
PATH = re.compile(
    r"/v2/Flows(/(?P<flow>FW[0-9a-fA-F]{32})"
    r"(?P<executions>/Executions(/(?P<sid>FN[0-9a-fA-F]{32})(/(?P<part>Context|Steps(/(?P<step>FT[0-9a-fA-F]{32})(/(?P<inside>Context))?)?))?)?)?)?"
)


class Twilio:
    """One Twilio account."""

    name = "twilio"

    def __init__(
        self,
        settings: SandboxSettings,
        *,
        journal: Journal,
        clock: Callable[[], datetime],
        rng: random.Random,
        events: Events,
    ) -> None:
        self._events = events
        self._duration = settings.duration
        self._retry_after = {"Retry-After": "1"} if settings.twilio_retry_after else {}
        self._journal = journal
        self._clock = clock
        self._rng = rng
        self._bucket = Bucket(settings.twilio_creates_per_second)
        self._executions = Executions(settings.twilio_busy_scope, settings.duration)
        self._ways: dict[str, Any] = {
            "largest_page": settings.twilio_largest_page,
            "names_busy": True,
            "explains_401": False,
            "lacks": [],
        }

    def verb(self, request: Received) -> str:
        """Names what a request asks for."""
        path = PATH.fullmatch(request.path)
        if path is None:
            return "other"
        if path["part"]:
            return path["part"].partition("/")[0].lower() if request.method == "GET" else "other"
        if not path["executions"]:
            return "flows" if request.method == "GET" else "other"
        if path["sid"]:
            return {"GET": "fetch", "POST": "end", "DELETE": "delete"}.get(request.method, "other")
        return {"GET": "list", "POST": "create"}.get(request.method, "other")

    def answer(self, request: Received, lag: timedelta) -> Answer | Effect:
        """Answers as Studio would; a good POST or DELETE becomes an effect."""
        request_id = self._sid("RQ")
        headers = {"Twilio-Request-Id": request_id}
        try:
            authenticate(request.headers.get("Authorization", ""), explains=self._ways["explains_401"])
            path = PATH.fullmatch(request.path)
            if path is None or (path["flow"] or "").startswith("FW00000000"):
                raise not_found(request.path)
            verb = self.verb(request)
            if verb in self._ways["lacks"]:
                raise not_permitted()
            if verb == "create":
                return self._create(request, path["flow"], request_id)
            if verb in ("end", "delete"):
                return self._change(request, path, verb, headers)
            document = self._read(request, path, verb, lag)
        except Refused as refused:
            return _refusal(refused, headers)
        return Answer(status=200, body=compact(document), headers=HEADERS | headers)

    def _create(self, request: Received, flow: str, request_id: str) -> Effect:
        form = read_form(request)
        fields = {name: required(form, name) for name in ("To", "From")}
        headers = {"Twilio-Request-Id": request_id}
        parameters = read_parameters(form.get("Parameters", ""))
        if not self._bucket.take(request.at):
            raise refusal(429, 20429, "Too Many Requests", self._retry_after)
        sid = self._sid("FN")

        def create(*, commit: bool) -> Answer:
            now = self._clock()
            new = Execution(
                sid=sid,
                request_id=request_id,
                flow=flow,
                to=fields["To"],
                sender=fields["From"],
                parameters=parameters,
                created_at=now,
                ends_at=now + self._duration,
            )
            if new.steers("stick"):
                new.ends_at = None
            other = self._executions.busy_with(new, now)
            if other is not None:
                which = other.sid if self._ways["names_busy"] else "with this To and From"
                message = f"Execution {which} is already active for this contact"
                return _refusal(refusal(409, 20409, message), headers)
            if commit:
                self._executions.add(new)
                self._journal.append("created", self.name, request=request.n, **_record(new))
                self._events.started(new)
            body = compact(execution_document(request.base_url, new, now))
            return Answer(status=201, body=body, headers=HEADERS | headers)

        return create

    def _change(self, request: Received, path: re.Match[str], verb: str, headers: dict[str, str]) -> Effect:
        execution = self._find(request, path, timedelta())
        if verb == "end":
            status = required(read_form(request), "Status")
            if status != "ended":
                raise refusal(400, 20001, f"Invalid Status: {status}. An Execution can only be ended")
        change = {"status": "ended"} if verb == "end" else {"deleted": True}

        def carry_out(*, commit: bool) -> Answer:
            now = self._clock()
            if commit:
                self._executions.apply(execution, change, now)
                self._journal.append("ended", self.name, request=request.n, external_id=execution.sid, change=change)
            if verb == "delete":
                return Answer(status=204, headers=HEADERS | headers)
            document = execution_document(request.base_url, execution, now)
            if not commit:
                document["status"] = "ended"
            return Answer(status=200, body=compact(document), headers=HEADERS | headers)

        return carry_out

    def _read(self, request: Received, path: re.Match[str], verb: str, lag: timedelta) -> dict[str, Any]:
        base, largest = request.base_url, self._ways["largest_page"]
        if verb == "flows":
            return flow_document(base, path["flow"]) if path["flow"] else flows_document(request, largest=largest)
        if verb == "list":
            return list_document(request, self._executions, path["flow"], as_of=request.at - lag, largest=largest)
        if verb == "other":
            raise refusal(405, 20004, "Method not allowed")
        execution = self._find(request, path, lag)
        if verb == "fetch":
            return execution_document(base, execution, request.at)
        if verb == "context":
            return context_document(request, execution)
        if path["step"]:
            return step_document(request, execution, path["step"], inside=bool(path["inside"]))
        return steps_document(request, execution, largest=largest)

    def _find(self, request: Received, path: re.Match[str], lag: timedelta) -> Execution:
        try:
            execution = self._executions.get(path["sid"])
        except KeyError:
            raise not_found(request.path) from None
        if execution.flow != path["flow"] or execution.created_at > request.at - lag:
            raise not_found(request.path)
        return execution

    def _sid(self, prefix: str) -> str:
        return f"{prefix}{self._rng.getrandbits(128):032x}"

    def force(self, external_id: str, change: dict[str, Any]) -> None:
        """Gives an execution a status (`ended` ends it), or holds it active."""
        self._executions.apply(self._executions.get(external_id), change, self._clock())
        self._journal.append("forced", self.name, external_id=external_id, change=change)

    def configure(self, data: object) -> dict[str, Any]:
        """Changes how Studio behaves, and returns how it does.

        `largest_page` is the most rows that a page has, `names_busy` whether a 409 names the execution that keeps the
        contact busy, `explains_401` whether a 401 has a `detail`, and `lacks` what a restricted key may not do, by the
        verbs of faults.
        """
        if not isinstance(data, dict) or data.keys() - self._ways.keys():
            raise ValueError(f"Say {', '.join(f'`{name}`' for name in self._ways)}.")
        ways = self._ways | data
        size, lacks = ways["largest_page"], ways["lacks"]
        if type(size) is not int or not 0 < size <= LARGEST_PAGE:
            raise ValueError(f"`largest_page` must be a whole number from 1 to {LARGEST_PAGE}, not {size!r}.")
        for name in ("names_busy", "explains_401"):
            if not isinstance(ways[name], bool):
                raise ValueError(f"`{name}` must be true or false.")  # noqa: TRY004 - the caller's, answered 400
        if not isinstance(lacks, list) or not all(each in VERBS[self.name] for each in lacks):
            raise ValueError(f"`lacks` must be a list of {', '.join(sorted(VERBS[self.name]))}.")
        self._ways = ways
        return dict(ways)

    def rebuild(self, entry: dict[str, Any]) -> None:
        """Takes back an execution, or what was done to it, from the journal of an earlier run."""
        if entry["kind"] == "created":
            execution = _execution_from(entry)
            self._executions.add(execution)
            self._events.watch(execution)
            return
        at = datetime.fromisoformat(entry["at"])
        self._executions.apply(self._executions.get(entry["external_id"]), entry["change"], at)

    def summary(self) -> dict[str, Any]:
        """Counts the executions by status."""
        counts = self._executions.counts(self._clock())
        return {"starts": sum(counts.values()), "statuses": counts}


def _refusal(refused: Refused, headers: dict[str, str]) -> Answer:
    return Answer(status=refused.status, body=compact(refused.document), headers=HEADERS | headers | refused.headers)


def _record(execution: Execution) -> dict[str, Any]:
    """Says in the journal's words what was made."""
    return {
        "external_id": execution.sid,
        "flow": execution.flow,
        "to": execution.to,
        "from": execution.sender,
        "people": [canonical(execution.to if ":" in execution.to else f"tel:{execution.to}")],
        "params": execution.parameters,
        "request_id": execution.request_id,
        "created_at": moment(execution.created_at),
        "ends_at": None if execution.ends_at is None else moment(execution.ends_at),
    }


def _execution_from(entry: dict[str, Any]) -> Execution:
    return Execution(
        sid=entry["external_id"],
        request_id=entry["request_id"],
        flow=entry["flow"],
        to=entry["to"],
        sender=entry["from"],
        parameters=entry["params"],
        created_at=datetime.fromisoformat(entry["created_at"]),
        ends_at=None if entry["ends_at"] is None else datetime.fromisoformat(entry["ends_at"]),
    )
