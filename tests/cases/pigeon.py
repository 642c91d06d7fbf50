"""Cases of Pigeon, the backend of `tests/third_adapter.py`. Data only."""
# ruff: noqa: E501  a row is one line

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from json import dumps
from typing import TYPE_CHECKING

from gateway.adapters.base import (
    Accepted,
    Account,
    Barred,
    Blocked,
    Failed,
    Missing,
    NotSent,
    Refused,
    Reply,
    Request,
    Sweep,
    Throttled,
    Unsure,
)
from gateway.errors import Reason
from gateway.model import Asked, Cause, CompletionMeaning, Dispatch, Identity, Notice, Recipients, State
from gateway.sightings import Sighting, Window
from tests.cases import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.cases import IdentifyRow, SweepRow

# fmt: off
ID, OTHER_ID = "01kb0000000000000000000000-1", "01kb0000000000000000000000-2"
FLOW, OTHER_FLOW = "route-66", "route-67"
FLIGHT, OTHER = "p-" + "0" * 32, "p-" + "1" * 32
SENT = datetime(2026, 1, 1, tzinfo=UTC)
ACCOUNT = Account(credentials={"token": "c0rn"})
ROME = Recipients(urns=("place:rome",))
DISPATCH = Dispatch(id=ID, flow=FLOW, recipients=ROME, params={"says": "ciao"}, external_id=FLIGHT)
ASKED = Asked(tenant="default", backend="loft", flow=FLOW, recipient_count=1, params={"says": "ciao"}, created_at=SENT, completion_meaning=CompletionMeaning.EXECUTIONS_ENDED)

AUTH = {"Authorization": "Bearer c0rn"}
POST = Request(method="POST", path="/flights", headers=AUTH, creates=True)
GET = Request(method="GET", path="/flights", headers=AUTH)
EXAMPLE = b'{"to": "place:rome", "by": "route-66", "note": {"startflow_id": "01kb0000000000000000000000-1", "says": "ciao"}}'

ROW = b'{"flight":"p-00000000000000000000000000000000","by":"route-66","phase":"airborne","sent":"2026-01-01T00:00:00Z","note":{"startflow_id":"01kb0000000000000000000000-1"},"loft":"rome"}'
ROW_OTHER = ROW.replace(FLIGHT.encode(), OTHER.encode()).replace(ID.encode(), OTHER_ID.encode())
LANDED, LOST_ROW = ROW.replace(b"airborne", b"landed"), ROW.replace(b"airborne", b"lost")
NO_FLIGHT = ROW.replace(FLIGHT.encode(), b"7")
PAGE, MORE, END = b'{"loft":"rome","next":null,"flights":[', b'{"loft":"rome","next":"/flights?cursor=b","flights":[', b"]}"
ELSEWHERE = MORE.replace(b"/flights", b"https://elsewhere.example/flights")
HTML = b"<html>502 Bad Gateway</html>"
TOO_MANY = b'{"error":"too many birds"}'
NO_KEY, CLOSED, NO_ROUTE, NO_PLACE, NO = (dumps({"error": said}).encode() for said in ("wrong key", "loft closed", "no such route", "no such place", "no"))

UNKNOWN = Notice(reason=Reason.STATUS_UNKNOWN, message="")
ACCEPTED = Accepted(external_id=FLIGHT, state=State.STARTED, account="rome", accepted_at=SENT)
REJECTED = {status: Blocked(notice=Notice(reason=Reason.BACKEND_CREDENTIALS_REJECTED, message="", metadata={"http_status": str(status)})) for status in (401, 403)}
STOPPED = Blocked(notice=Notice(reason=Reason.BACKEND_SUSPENDED, message="", metadata={"http_status": "403"}))
BARRED = {status: Barred(notice=Notice(reason=Reason.BACKEND_MISCONFIGURED, message="", metadata={"http_status": str(status)})) for status in (302, 400, 404, 405, 406, 415, 429, 451)}
REFUSED = Refused(failure=Notice(reason=Reason.BACKEND_REJECTED, message=""))
FLOW_UNKNOWN = Refused(failure=Notice(reason=Reason.FLOW_NOT_FOUND, message="", metadata={"fields": "flow", "field_count": "1"}))
BAD_PLACE = Refused(failure=Notice(reason=Reason.ADDRESS_INVALID, message="", metadata={"fields": "urns[0]", "field_count": "1"}))
NOT_OURS = Unsure(reason="the answer is not about this dispatch", cause=Cause.UNREADABLE)
ANOTHERS = Unsure(reason="the answer is about another dispatch", cause=Cause.NAMED)
UNREADABLE, LIST, UNREAD = (Unsure(reason=f"unreadable {what}", cause=Cause.UNREADABLE) for what in ("answer", "list", "row"))
ERRORS = {status: Unsure(reason=f"HTTP {status}", cause=Cause.SERVER_ERROR) for status in (400, 408, 500, 502, 503)}

TROUBLE = (
    ("bad credentials",          Reply(status=401, body=NO_KEY),                                 REJECTED[401]),
    ("suspended",                Reply(status=403, body=CLOSED),                                 STOPPED),
    ("redirected",               Reply(status=302, headers={"location": "https://x.example/"}),  BARRED[302]),
    ("html 404",                 Reply(status=404, body=HTML),                                   BARRED[404]),
    ("html 429",                 Reply(status=429, headers={"retry-after": "86400"}, body=HTML), BARRED[429]),
    ("throttled",                Reply(status=429, headers={"retry-after": "7"}, body=TOO_MANY), Throttled(seconds=7.0)),
    ("throttled without a time", Reply(status=429, body=TOO_MANY),                               Throttled(seconds=None)),
    ("request timeout",          Reply(status=408),                                              ERRORS[408]),
    ("server error",             Reply(status=500),                                              ERRORS[500]),
    ("gateway error",            Reply(status=502, body=HTML),                                   ERRORS[502]),
    ("timed out",                Failed(sent=True, reason="timeout", cause=Cause.TIMEOUT),       Unsure(reason="timeout", cause=Cause.TIMEOUT)),
    ("sent, no answer",          Failed(sent=True, reason="reset", cause=Cause.BROKEN),          Unsure(reason="reset", cause=Cause.BROKEN)),
    ("not sent",                 Failed(sent=False, reason="refused", cause=Cause.UNREACHABLE),  NotSent(reason="refused")),
)

SEND = (
    ("accepted",                 Reply(status=202, body=ROW),                                        ACCEPTED),
    ("accepted and landed",      Reply(status=202, body=LANDED),                                     replace(ACCEPTED, state=State.COMPLETED)),
    ("accepted, unknown status", Reply(status=202, body=LOST_ROW),                                   replace(ACCEPTED, state=State.QUEUED, warnings=(UNKNOWN,))),
    ("another flow",             Reply(status=202, body=ROW.replace(b"route-66", b"route-67")),      NOT_OURS),
    ("another key",              Reply(status=202, body=ROW.replace(ID.encode(), OTHER_ID.encode())), ANOTHERS),
    ("no id",                    Reply(status=202, body=NO_FLIGHT),                                  NOT_OURS),
    ("not json",                 Reply(status=202, body=HTML),                                       NOT_OURS),
    ("truncated",                Reply(status=202, body=ROW[:100]),                                  NOT_OURS),
    ("no content",               Reply(status=204),                                                  NOT_OURS),
    ("bad request",              Reply(status=400, body=NO),                                         REFUSED),
    ("own 404",                  Reply(status=404, body=NO),                                         REFUSED),
    ("unknown flow",             Reply(status=404, body=NO_ROUTE),                                   FLOW_UNKNOWN),
    ("bad address",              Reply(status=422, body=NO_PLACE),                                   BAD_PLACE),
    ("too large",                Reply(status=413),                                                  REFUSED),
    ("other 4xx",                Reply(status=418),                                                  REFUSED),
    ("not permitted",            Reply(status=403, body=NO_KEY),                                     REJECTED[403]),
    ("html 400",                 Reply(status=400, body=HTML),                                       BARRED[400]),
    ("method not allowed",       Reply(status=405, body=NO),                                         BARRED[405]),
    ("unsupported media type",   Reply(status=415, body=NO),                                         BARRED[415]),
    ("unavailable",              Reply(status=503),                                                  ERRORS[503]),
    ("host not found",           Failed(sent=False, reason="no host", cause=Cause.UNREACHABLE),      NotSent(reason="no host")),
    ("no tls",                   Failed(sent=False, reason="TLS failed", cause=Cause.UNREACHABLE),   NotSent(reason="TLS failed")),
    *TROUBLE,
)

SEEN = Sighting(external_id=FLIGHT, state=State.STARTED, correlation_key=ID, flow=FLOW, created_at=SENT)
SEEN_OTHER = replace(SEEN, external_id=OTHER, correlation_key=OTHER_ID)

LOOK = (
    ("found",                 Reply(status=200, body=PAGE + ROW_OTHER + b"," + ROW + END), SEEN),
    ("still running",         Reply(status=200, body=PAGE + ROW + END),                    SEEN),
    ("ended",                 Reply(status=200, body=PAGE + LANDED + END),                 replace(SEEN, state=State.COMPLETED)),
    ("found, unknown status", Reply(status=200, body=PAGE + LOST_ROW + END),               replace(SEEN, state=None, warnings=(UNKNOWN,))),
    ("not found",             Reply(status=200, body=PAGE + END),                          Missing()),
    ("another one",           Reply(status=200, body=PAGE + ROW_OTHER + END),              Missing()),
    ("no id",                 Reply(status=200, body=PAGE + NO_FLIGHT + END),              UNREAD),
    ("not json",              Reply(status=200, body=HTML),                                LIST),
    *TROUBLE,
)

WINDOWS = (Window(flow=FLOW, oldest=SENT, newest=SENT),)
FIRST_PAGE, LAST_PAGE = Reply(status=200, body=MORE + ROW + END), Reply(status=200, body=PAGE + ROW_OTHER + END)
FOUND = Sweep(sightings=(SEEN,), account="rome")
BOTH = Sweep(sightings=(SEEN, SEEN_OTHER), account="rome")
NO_NEXT = Unsure(reason="no telling which page is next", cause=Cause.UNREADABLE)

SWEEP: Sequence[SweepRow] = (
    ("nothing to scan",            None, (),      [],                [],                                                                       Sweep(sightings=())),
    ("nothing moved",              SENT, WINDOWS, [""],              [Reply(status=200, body=PAGE + END)],                                     Sweep(sightings=(), account="rome")),
    ("found",                      None, WINDOWS, [""],              [Reply(status=200, body=PAGE + ROW + END)],                               FOUND),
    ("two pages",                  None, WINDOWS, ["", "cursor=b"],  [FIRST_PAGE, LAST_PAGE],                                                  BOTH),
    ("a row twice",                None, WINDOWS, ["", "cursor=b"],  [FIRST_PAGE, Reply(status=200, body=PAGE + LANDED + END)],                replace(FOUND, sightings=(replace(SEEN, state=State.COMPLETED),))),
    ("trouble on the second page", None, WINDOWS, ["", "cursor=b"],  [FIRST_PAGE, Reply(status=500)],                                          Sweep(sightings=(SEEN,), trouble=ERRORS[500])),
    ("endless pages",              None, WINDOWS, ["", "cursor=b"],  [FIRST_PAGE, FIRST_PAGE],                                                 replace(FOUND, trouble=NO_NEXT)),
    ("next is no url",             None, WINDOWS, [""],              [Reply(status=200, body=MORE.replace(b'"/flights?cursor=b"', b"7") + ROW + END)], replace(FOUND, trouble=NO_NEXT)),
    ("next is elsewhere",          None, WINDOWS, ["", "cursor=b"],  [Reply(status=200, body=ELSEWHERE + ROW + END), LAST_PAGE],               BOTH),
    ("next is not there",          None, WINDOWS, [""],              [Reply(status=200, body=PAGE.replace(b'"next"', b'"n"') + ROW + END)],     replace(FOUND, trouble=NO_NEXT)),
    ("not json",                   None, WINDOWS, [""],              [Reply(status=200, body=HTML)],                                           Sweep(sightings=(), trouble=LIST)),
    ("a row without an id",        None, WINDOWS, [""],              [Reply(status=200, body=PAGE + NO_FLIGHT + b"," + ROW + END)],            replace(FOUND, is_gapless=False)),
    ("throttled",                  None, WINDOWS, [""],              [Reply(status=429, headers={"retry-after": "7"}, body=TOO_MANY)],                Sweep(sightings=(), trouble=Throttled(seconds=7.0))),
)

IDENTIFY: Sequence[IdentifyRow] = (
    ("found",       ACCOUNT, Reply(status=200, body=b'{"loft":"rome"}'),  Identity(account="rome")),
    ("another one", ACCOUNT, Reply(status=200, body=b'{"loft":"paris"}'), Identity(account="paris")),
    ("no id",       ACCOUNT, Reply(status=200, body=b'{"loft":""}'),      UNREADABLE),
    ("not json",    ACCOUNT, Reply(status=200, body=HTML),                UNREADABLE),
    ("bad request", ACCOUNT, Reply(status=400, body=NO),                  ERRORS[400]),
    *((label, ACCOUNT, answer, trouble) for label, answer, trouble in TROUBLE),
)

INVALID, UNSUPPORTED = Reason.VALIDATION_FAILED, Reason.UNSUPPORTED_BY_BACKEND
LARGEST = 10_000 - len(dumps({"startflow_id": "x" * 32, "a": ""}))
WRONG = replace(ASKED, flow="home", sender="me", exclude_active=True, params={"a": "x" * 10_000})

OBJECTIONS = (
    ("none",              ASKED,                                        ROME,                                            ()),
    ("everything wrong",  WRONG,                                        Recipients(urns=("tel:1",), groups=("doves",)),  (("groups", UNSUPPORTED), ("sender", UNSUPPORTED), ("exclude_active", UNSUPPORTED), ("flow", INVALID), ("params", INVALID), ("urns[0]", INVALID))),
    ("not a flow of its", replace(ASKED, flow="route-6"),               ROME,                                            (("flow", INVALID),)),
    ("largest params",    replace(ASKED, params={"a": "x" * LARGEST}),  ROME,                                            ()),
    ("too large params",  replace(ASKED, params={"a": "x" * (LARGEST + 1)}), ROME,                                       (("params", INVALID),)),
    ("bad addresses",     ASKED,                                        Recipients(urns=("place:rome", "tel:1")),        (("urns[1]", INVALID),)),
)

TOWNS = Recipients(urns=("place:rome", "place:paris"))

TABLE = Table(
    account=ACCOUNT, secrets=("c0rn",), flow=FLOW, asked=ASKED, dispatch=DISPATCH,
    send=SEND, look=LOOK, sweep=SWEEP, identify=IDENTIFY, objections=OBJECTIONS,
    requests=(
        ("the example of its documentation", DISPATCH,                      replace(POST, body=EXAMPLE)),
        ("every field",                      replace(DISPATCH, params={}),  replace(POST, body=EXAMPLE.replace(b', "says": "ciao"', b""))),
    ),
    questions=(
        ("look",     GET),
        ("sweep",    GET),
        ("identify", replace(GET, path="/loft")),
    ),
    same=(
        ("one",                              "", ROME,                                              ROME),
        ("nobody twice",                     "", TOWNS,                                             TOWNS),
        ("one address in several spellings", "", Recipients(urns=("place:Rome", "place:rome")),     Recipients(urns=("place:Rome",))),
        ("two that look alike",              "", Recipients(urns=("place:rome", "place:rome ny")),  Recipients(urns=("place:rome", "place:rome ny"))),
    ),
    plan=(
        ("one recipient", ROME,  (ROME,)),
        ("many URNs",     TOWNS, (ROME, Recipients(urns=("place:paris",)))),
    ),
    misconfigured=(
        ("no credentials", Account(credentials={}),                "token"),
        ("a space inside", Account(credentials={"token": "c0 rn"}), "token"),
    ),
)
