"""Cases of RapidPro. Bodies are those that v9.0 and v26.0 really gave, with our ids in place of theirs. Data only."""
# ruff: noqa: E501  a row is one line

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

from gateway.adapters.base import (
    Accepted,
    Account,
    Barred,
    Blocked,
    Failed,
    Flows,
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
from gateway.model import Asked, Cause, CompletionMeaning, Dispatch, Flow, Identity, Notice, Recipients, State
from gateway.sightings import Sighting, Window
from tests.cases import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.cases import IdentifyRow

# fmt: off
ID = "01kb0000000000000000000000-1"
FLOW = "f5901b62-ba76-4003-9c62-72fdacc1b7b7"
OTHER_FLOW = "39edfd15-ba4d-46d8-b730-05864ab5985d"
START = "09d23a05-47fe-11e4-bfe9-b8f6b119e9ab"
OTHER = "692c11ab-00e4-4e69-9338-7cc506a2cb6c"
WORKSPACE = "fa6f2c37-c69e-4d8d-a596-ef17019c5886"
HEADERS = {"content-type": "application/json", "x-temba-workspace": WORKSPACE}
HTML = {"content-type": "text/html; charset=utf-8"}
CREATED = datetime(2026, 11, 21, 23, 26, 0, 787064, tzinfo=UTC)
MOVED = datetime(2026, 11, 21, 23, 26, 3, 93424, tzinfo=UTC)
GROUP, CONTACT = "f5901b62-ba76-4003-9c62-72fdacc15515", "f5901b62-ba76-4003-9c62-fjjajdsi15553"

RECIPIENTS = Recipients(groups=(GROUP,), contacts=(CONTACT,), urns=("twitter:sirmixalot", "tel:+12065551212"))
PARAMS = {"first_name": "Ryan", "last_name": "Lewis"}
DISPATCH = Dispatch(id=ID, flow=FLOW, recipients=RECIPIENTS, params=PARAMS, external_id=START)
EVERY = Dispatch(id=ID, flow=FLOW, recipients=Recipients(urns=("whatsapp:+250788123123",), contacts=("whatsapp:+250788", CONTACT)), params={"é": [1, 0.5, None, True, {"a b": "😀"}]}, restart_participants=False, exclude_active=True)
ASKED = Asked(tenant="default", backend="textit", flow=FLOW, recipient_count=4, params=PARAMS, created_at=CREATED, completion_meaning=CompletionMeaning.RECIPIENTS_ENTERED)

AUTH = {"Authorization": "Token 0123456789ABCDEF", "Accept": "application/json"}
JSON = {**AUTH, "Content-Type": "application/json"}
EXAMPLE = b'{"flow":"f5901b62-ba76-4003-9c62-72fdacc1b7b7","groups":["f5901b62-ba76-4003-9c62-72fdacc15515"],"contacts":["f5901b62-ba76-4003-9c62-fjjajdsi15553"],"urns":["twitter:sirmixalot","tel:+12065551212"],"params":{"startflow_id":"01kb0000000000000000000000-1","first_name":"Ryan","last_name":"Lewis"}}'
EVERY_BODY = b'{"flow":"f5901b62-ba76-4003-9c62-72fdacc1b7b7","contacts":["whatsapp:250788","f5901b62-ba76-4003-9c62-fjjajdsi15553"],"urns":["whatsapp:250788123123"],"restart_participants":false,"exclude_active":true,"params":{"startflow_id":"01kb0000000000000000000000-1","\\u00e9":[1,0.5,null,true,{"a b":"\\ud83d\\ude00"}]}}'

# v26.0, then v9.0
ROW = b'{"uuid":"09d23a05-47fe-11e4-bfe9-b8f6b119e9ab","flow":{"uuid":"f5901b62-ba76-4003-9c62-72fdacc1b7b7","name":"Reminder"},"status":"pending","progress":{"total":-1,"started":0},"groups":[{"uuid":"3aac7c74-52ec-4ac0-b81e-9451bcafacf6","name":"Mothers"}],"contacts":[],"params":{"last_name":"Lewis","first_name":"Ryan","startflow_id":"01kb0000000000000000000000-1"},"created_on":"2026-11-21T23:26:00.787064Z","modified_on":"2026-11-21T23:26:03.093424Z","id":63,"extra":{"sim":"ok"},"restart_participants":true,"exclude_active":false}'
ROW_9 = b'{"id":664,"uuid":"09d23a05-47fe-11e4-bfe9-b8f6b119e9ab","flow":{"uuid":"f5901b62-ba76-4003-9c62-72fdacc1b7b7","name":"Reminder"},"status":"pending","groups":[],"contacts":[],"params":{"startflow_id":"01kb0000000000000000000000-1","first_name":"Ryan","last_name":"Lewis"},"created_on":"2026-11-21T23:26:00.787064Z","modified_on":"2026-11-21T23:26:03.093424Z","extra":{},"restart_participants":true,"exclude_active":false}'
ROW_OTHER = ROW.replace(START.encode(), OTHER.encode()).replace(b'"startflow_id":"01kb0000000000000000000000-1"', b'"startflow_id":"01kb0000000000000000000000-2"').replace(b"03.093424Z", b"04Z")
ROW_FOREIGN = ROW_OTHER.replace(b',"startflow_id":"01kb0000000000000000000000-2"', b"")
ROW_STRANGER = ROW_FOREIGN.replace(b'"Ryan"', b'"Ben"')  # a start with the same flow and other params, from a cache
ENDED = ROW.replace(b'"pending","progress":{"total":-1,"started":0}', b'"completed","progress":{"total":4,"started":4}')
HIDING = ROW.replace(b'"params":{', b'"hidden":{')
NOBODY = ROW.replace(b'"pending"', b'"completed"')
PAGE, END = b'{"next":null,"previous":null,"results":[', b"]}"
EMPTY = PAGE + END
PAGE_1 = b'{"next":"http://internal.example/api/v2/flow_starts.json?after=2026-01-01T00%3A00%3A00Z&cursor=cD0yMDI2LTAxLTAxKzA0JTNBMTAlM0EwMCUyQjAwJTNBMDA%3D&reverse=true","previous":null,"results":[' + ROW_9 + END
NO_CURSOR = b'{"next":"http://internal.example/","previous":null,"results":[' + ROW_9 + END
NO_URL = b'{"next":7,"previous":null,"results":[' + ROW_9 + END
HTML_404 = b'\n<!doctype html>\n<html lang="en">\n<head>\n  <title>Not Found</title>\n</head>\n<body>\n  <h1>Not Found</h1><p>The requested resource was not found on this server.</p>\n</body>\n</html>\n'
HTML_429 = b"<html>\r\n<head><title>429 Too Many Requests</title></head>\r\n<body>\r\n<center><h1>429 Too Many Requests</h1></center>\r\n</body>\r\n</html>\r\n"
HTML_502 = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n"
SERVER_ERROR = b"Server Error. Site administrators have been notified."
IN_49_SECONDS = b'{"detail":"Request was throttled. Expected available in 49 seconds."}'
SUSPENDED = b'{"non_field_errors":["Sorry, your workspace is currently suspended. To re-enable starting flows and sending messages, please contact support."]}'

STATUS_UNKNOWN = Notice(reason=Reason.STATUS_UNKNOWN, message="")
ALTERED = Notice(reason=Reason.PARAMS_ALTERED, message="", metadata={"fields": "params.first_name", "field_count": "1"})
KEYLESS = replace(ALTERED, metadata={"fields": "params.startflow_id", "field_count": "1"})
EMPTIED = replace(ALTERED, metadata={"fields": "params.startflow_id, params.first_name, params.last_name", "field_count": "3"})
REWRITTEN = replace(ALTERED, metadata={"fields": "params.first_name, params.last_name, params.last_name_", "field_count": "3"})
ACCEPTED = Accepted(external_id=START, state=State.QUEUED, account=WORKSPACE, accepted_at=CREATED)
REJECTED = Blocked(notice=Notice(reason=Reason.BACKEND_CREDENTIALS_REJECTED, message="", metadata={"http_status": "403"}))
ELSEWHERE = {status: Barred(notice=Notice(reason=Reason.BACKEND_MISCONFIGURED, message="", metadata={"http_status": str(status)})) for status in (302, 400, 404, 405, 406, 415, 429, 451)}
STOPPED = Blocked(notice=Notice(reason=Reason.BACKEND_SUSPENDED, message="", metadata={"http_status": "400"}))
REFUSED = Refused(failure=Notice(reason=Reason.BACKEND_REJECTED, message=""))
FLOW_UNKNOWN = Refused(failure=Notice(reason=Reason.FLOW_NOT_FOUND, message="", metadata={"fields": "flow", "field_count": "1"}))
CONTACT_UNKNOWN = Refused(failure=Notice(reason=Reason.RECIPIENT_NOT_FOUND, message="", metadata={"fields": "contacts[0]", "field_count": "1"}))
GROUP_UNKNOWN = Refused(failure=Notice(reason=Reason.RECIPIENT_NOT_FOUND, message="", metadata={"fields": "groups[0]", "field_count": "1"}))
BAD_ADDRESSES = Refused(failure=Notice(reason=Reason.ADDRESS_INVALID, message="", metadata={"fields": "urns[0], urns[1]", "field_count": "2"}))
BAD_PARAMS = Refused(failure=Notice(reason=Reason.BACKEND_REJECTED, message="", metadata={"fields": "params", "field_count": "1"}))
SEVERAL = Refused(failure=Notice(reason=Reason.FLOW_NOT_FOUND, message="", metadata={"fields": "flow, contacts", "field_count": "2"}))
NOT_OURS, UNREADABLE, LIST = Unsure(reason="the answer is not about this dispatch", cause=Cause.UNREADABLE), Unsure(reason="unreadable answer", cause=Cause.UNREADABLE), Unsure(reason="unreadable list", cause=Cause.UNREADABLE)
ANOTHERS = Unsure(reason="the answer is about another dispatch", cause=Cause.NAMED)
LOST, UNSENT = Failed(sent=True, reason="ServerTimeoutError", cause=Cause.TIMEOUT), Failed(sent=False, reason="ConnectionRefusedError", cause=Cause.UNREACHABLE)

SEND = (
    ("accepted",                 Reply(status=201, headers=HEADERS, body=ROW),                                                                    ACCEPTED),
    ("accepted by v9",           Reply(status=201, headers={"x-temba-org": "1"}, body=ROW_9),                                                     replace(ACCEPTED, account="1")),
    ("accepted with 200",        Reply(status=200, headers=HEADERS, body=ROW),                                                                    ACCEPTED),
    ("accepted and started",     Reply(status=201, headers=HEADERS, body=ROW.replace(b'"pending"', b'"started"')),                                replace(ACCEPTED, state=State.STARTED)),
    ("accepted and failed",      Reply(status=201, headers=HEADERS, body=ROW.replace(b'"pending"', b'"failed"')),                                 ACCEPTED),
    ("accepted, unknown status", Reply(status=201, headers=HEADERS, body=ROW.replace(b'"pending"', b'"paused"')),                                 replace(ACCEPTED, warnings=(STATUS_UNKNOWN,))),
    ("accepted, null status",    Reply(status=201, headers=HEADERS, body=ROW.replace(b'"pending"', b"null")),                                     replace(ACCEPTED, warnings=(STATUS_UNKNOWN,))),
    ("accepted, params altered", Reply(status=201, headers=HEADERS, body=ROW.replace(b'"Ryan"', b'"R"')),                                         replace(ACCEPTED, warnings=(ALTERED,))),
    ("params altered by v9",     Reply(status=201, headers={"x-temba-org": "1"}, body=ROW_9.replace(b'"Ryan"', b'""').replace(b'"last_name"', b'"last_name_"')), replace(ACCEPTED, account="1", warnings=(REWRITTEN,))),
    ("accepted, param dropped",  Reply(status=201, headers=HEADERS, body=ROW.replace(b'"first_name":"Ryan",', b"")),                              replace(ACCEPTED, warnings=(ALTERED,))),
    ("another flow",             Reply(status=201, headers=HEADERS, body=ROW.replace(FLOW.encode(), OTHER_FLOW.encode())),                        NOT_OURS),
    ("another key",              Reply(status=201, headers=HEADERS, body=ROW_OTHER),                                                              ANOTHERS),
    ("another start, no key",    Reply(status=201, headers=HEADERS, body=ROW_STRANGER),                                                           ANOTHERS),
    ("no key",                   Reply(status=201, headers=HEADERS, body=ROW.replace(b',"startflow_id":"01kb0000000000000000000000-1"', b"")),     replace(ACCEPTED, warnings=(KEYLESS,))),
    ("params are hidden",        Reply(status=201, headers=HEADERS, body=HIDING),                                                                 ACCEPTED),
    ("params are null",          Reply(status=201, headers=HEADERS, body=HIDING.replace(b'"hidden":{', b'"params":null,"hidden":{')),              ACCEPTED),
    ("params are emptied",       Reply(status=201, headers=HEADERS, body=HIDING.replace(b'"hidden":{', b'"params":{},"hidden":{')),                replace(ACCEPTED, warnings=(EMPTIED,))),
    ("no id",                    Reply(status=201, headers=HEADERS, body=ROW.replace(START.encode(), b"64")),                                     NOT_OURS),
    ("not json",                 Reply(status=201, headers=HTML, body=HTML_502),                                                                  NOT_OURS),
    ("truncated",                Reply(status=201, headers=HEADERS, body=ROW[:200]),                                                              NOT_OURS),
    ("no content",               Reply(status=204, headers=HEADERS),                                                                              NOT_OURS),
    ("bad request",              Reply(status=400, headers=HEADERS, body=b'{"non_field_errors":["Must specify at least one group, contact or URN"]}'), REFUSED),
    ("bad json",                 Reply(status=400, headers=HEADERS, body=b'{"detail":"JSON parse error - Expecting property name enclosed in double quotes: line 1 column 15 (char 14)"}'), REFUSED),
    ("params too long",          Reply(status=400, headers=HEADERS, body=b'{"params":["Cannot exceed 10,000 characters encoded."]}'),             BAD_PARAMS),
    ("unknown flow",             Reply(status=400, headers=HEADERS, body=b'{"flow":["No such object: f5901b62-ba76-4003-9c62-72fdacc1b7b7"]}'),   FLOW_UNKNOWN),
    ("unknown contact",          Reply(status=400, headers=HEADERS, body=b'{"contacts":["No such object: f5901b62-ba76-4003-9c62-fjjajdsi15553"]}'), CONTACT_UNKNOWN),
    ("unknown group",            Reply(status=400, headers=HEADERS, body=b'{"groups":["No such object: f5901b62-ba76-4003-9c62-72fdacc15515"]}'), GROUP_UNKNOWN),
    ("bad address",              Reply(status=400, headers=HEADERS, body=b'{"urns":{"0":["Invalid URN: twitter:sirmixalot. Ensure phone numbers contain country codes."],"1":["Invalid URN: tel:+12065551212. Ensure phone numbers contain country codes."]}}'), BAD_ADDRESSES),
    ("several",                  Reply(status=400, headers=HEADERS, body=b'{"flow":["No such object: abcde"],"contacts":["No such object: abcde"]}'), SEVERAL),
    ("own 404",                  Reply(status=404, headers=HEADERS, body=b'{"detail":"No FlowStart matches the given query."}'),                 REFUSED),
    ("too large",                Reply(status=413, headers=HTML, body=b"<html><h1>413 Request Entity Too Large</h1></html>"),                    REFUSED),
    ("other 4xx",                Reply(status=418, headers=HTML, body=b""),                                                                       REFUSED),
    ("html 406",                 Reply(status=406, headers=HTML, body=b"<h1>Not Acceptable!</h1>"),                                               ELSEWHERE[406]),
    ("html 451",                 Reply(status=451, headers=HTML, body=b"<h1>Unavailable For Legal Reasons</h1>"),                                 ELSEWHERE[451]),
    ("bad credentials",          Reply(status=403, headers=HEADERS, body=b'{"detail":"Invalid token"}'),                                          REJECTED),
    ("not permitted",            Reply(status=403, headers=HEADERS, body=b'{"detail":"You do not have permission to perform this action."}'),     REJECTED),
    ("a proxy's login",          Reply(status=401, headers=HTML, body=b"<h1>401 Authorization Required</h1>"),                                    replace(ELSEWHERE[302], notice=replace(ELSEWHERE[302].notice, metadata={"http_status": "401"}))),
    ("suspended",                Reply(status=400, headers=HEADERS, body=SUSPENDED),                                                              STOPPED),
    ("flagged",                  Reply(status=400, headers=HEADERS, body=SUSPENDED.replace(b"suspended", b"flagged")),                            STOPPED),
    ("redirected",               Reply(status=302, headers={"location": "https://elsewhere.example/"}),                                           ELSEWHERE[302]),
    ("html 400",                 Reply(status=400, headers=HTML, body=b"<h1>Bad Request (400)</h1>"),                                             ELSEWHERE[400]),
    ("html 404",                 Reply(status=404, headers=HTML, body=HTML_404),                                                                  ELSEWHERE[404]),
    ("html 429",                 Reply(status=429, headers=HTML, body=HTML_429),                                                                  ELSEWHERE[429]),
    ("method not allowed",       Reply(status=405, headers=HEADERS, body=b'{"detail":"Method \\"POST\\" not allowed."}'),                         ELSEWHERE[405]),
    ("unsupported media type",   Reply(status=415, headers=HEADERS, body=b'{"detail":"Unsupported media type \\"text/plain\\" in request."}'),    ELSEWHERE[415]),
    ("throttled",                Reply(status=429, headers={**HEADERS, "retry-after": "49"}, body=IN_49_SECONDS),                                 Throttled(seconds=49.0)),
    ("throttled without a time", Reply(status=429, headers=HEADERS, body=b'{"detail":"Request was throttled."}'),                                 Throttled(seconds=None)),
    ("throttled until a date",   Reply(status=429, headers={"retry-after": "Sun, 22 Nov 2026 00:00:00 GMT"}, body=IN_49_SECONDS),                   Throttled(seconds=None)),
    ("throttled for ever",       Reply(status=429, headers={"retry-after": "999999999"}, body=IN_49_SECONDS),                                     Throttled(seconds=None)),
    ("request timeout",          Reply(status=408, headers=HTML),                                                                                 Unsure(reason="HTTP 408", cause=Cause.SERVER_ERROR)),
    ("server error",             Reply(status=500, headers=HTML, body=SERVER_ERROR),                                                              Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR)),
    ("gateway error",            Reply(status=502, headers=HTML, body=HTML_502),                                                                  Unsure(reason="HTTP 502", cause=Cause.SERVER_ERROR)),
    ("unavailable",              Reply(status=503, headers=HTML, body=HTML_502.replace(b"502 Bad Gateway", b"503")),                              Unsure(reason="HTTP 503", cause=Cause.SERVER_ERROR)),
    ("gateway timeout",          Reply(status=504, headers=HTML, body=HTML_502.replace(b"502 Bad Gateway", b"504")),                              Unsure(reason="HTTP 504", cause=Cause.SERVER_ERROR)),
    ("timed out",                Failed(sent=True, reason="ServerTimeoutError", cause=Cause.TIMEOUT),                                                                  Unsure(reason="ServerTimeoutError", cause=Cause.TIMEOUT)),
    ("sent, no answer",          Failed(sent=True, reason="ServerDisconnectedError", cause=Cause.BROKEN),                                                             Unsure(reason="ServerDisconnectedError", cause=Cause.BROKEN)),
    ("not sent",                 UNSENT,                                                                                                          NotSent(reason="ConnectionRefusedError")),
    ("host not found",           Failed(sent=False, reason="ClientConnectorDNSError", cause=Cause.UNREACHABLE),                                                            NotSent(reason="ClientConnectorDNSError")),
    ("no tls",                   Failed(sent=False, reason="ClientConnectorCertificateError", cause=Cause.UNREACHABLE),                                                    NotSent(reason="ClientConnectorCertificateError")),
)

SEEN = Sighting(external_id=START, state=State.QUEUED, correlation_key=ID, flow=FLOW, created_at=CREATED, contact_started_count=0)
SEEN_9 = replace(SEEN, contact_started_count=None)
SEEN_OTHER = replace(SEEN, external_id=OTHER, correlation_key="01kb0000000000000000000000-2")
COMPLETED = replace(SEEN, state=State.COMPLETED, contact_count=4, contact_started_count=4)
FAILED = replace(SEEN, state=State.FAILED, failure=Notice(reason=Reason.BACKEND_FAILED, message=""))
INTERRUPTED = replace(SEEN, state=State.INTERRUPTED, failure=Notice(reason=Reason.BACKEND_INTERRUPTED, message=""))

TROUBLE = (
    ("bad credentials",          Reply(status=403, headers=HEADERS, body=b'{"detail":"Invalid token"}'),                          REJECTED),
    ("suspended",                Reply(status=400, headers=HEADERS, body=SUSPENDED),                                              STOPPED),
    ("redirected",               Reply(status=302, headers={"location": "https://elsewhere.example/"}),                           ELSEWHERE[302]),
    ("html 404",                 Reply(status=404, headers=HTML, body=HTML_404),                                                  ELSEWHERE[404]),
    ("html 429",                 Reply(status=429, headers=HTML, body=HTML_429),                                                  ELSEWHERE[429]),
    ("throttled",                Reply(status=429, headers={**HEADERS, "retry-after": "49"}, body=IN_49_SECONDS),                 Throttled(seconds=49.0)),
    ("throttled without a time", Reply(status=429, headers=HEADERS, body=b'{"detail":"Request was throttled."}'),                 Throttled(seconds=None)),
    ("request timeout",          Reply(status=408, headers=HTML),                                                                 Unsure(reason="HTTP 408", cause=Cause.SERVER_ERROR)),
    ("server error",             Reply(status=500, headers=HTML, body=SERVER_ERROR),                                              Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR)),
    ("gateway error",            Reply(status=502, headers=HTML, body=HTML_502),                                                  Unsure(reason="HTTP 502", cause=Cause.SERVER_ERROR)),
    ("timed out",                LOST,                                                                                            Unsure(reason="ServerTimeoutError", cause=Cause.TIMEOUT)),
    ("sent, no answer",          Failed(sent=True, reason="ServerDisconnectedError", cause=Cause.BROKEN),                                             Unsure(reason="ServerDisconnectedError", cause=Cause.BROKEN)),
    ("not sent",                 UNSENT,                                                                                          NotSent(reason="ConnectionRefusedError")),
)

LOOK = (
    ("found",                    Reply(status=200, headers=HEADERS, body=PAGE + ROW + END),                                               SEEN),
    ("found in v9",              Reply(status=200, headers=HEADERS, body=PAGE + ROW_9 + END),                                             SEEN_9),
    ("found queued",             Reply(status=200, headers=HEADERS, body=PAGE + ROW.replace(b'"pending"', b'"queued"') + END),            SEEN),
    ("still running",            Reply(status=200, headers=HEADERS, body=PAGE + ROW.replace(b'"pending"', b'"started"') + END),           replace(SEEN, state=State.STARTED)),
    ("still running in v9",      Reply(status=200, headers=HEADERS, body=PAGE + ROW_9.replace(b'"pending"', b'"starting"') + END),        replace(SEEN_9, state=State.STARTED)),
    ("ended",                    Reply(status=200, headers=HEADERS, body=PAGE + ENDED + END),                                             COMPLETED),
    ("ended in v9",              Reply(status=200, headers=HEADERS, body=PAGE + ROW_9.replace(b'"pending"', b'"complete"') + END),        replace(SEEN_9, state=State.COMPLETED)),
    ("ended, nobody matched",    Reply(status=200, headers=HEADERS, body=PAGE + NOBODY + END),                                            replace(SEEN, state=State.SKIPPED)),
    ("failed",                   Reply(status=200, headers=HEADERS, body=PAGE + ROW.replace(b'"pending"', b'"failed"') + END),            FAILED),
    ("interrupted",              Reply(status=200, headers=HEADERS, body=PAGE + ROW.replace(b'"pending"', b'"interrupted"') + END),       INTERRUPTED),
    ("found, unknown status",    Reply(status=200, headers=HEADERS, body=PAGE + ROW.replace(b'"pending"', b"null") + END),                replace(SEEN, state=None, warnings=(STATUS_UNKNOWN,))),
    ("found without a flow",     Reply(status=200, headers=HEADERS, body=PAGE + ROW.replace(b'"flow":{', b'"flow":[],"was":{') + END),    replace(SEEN, flow="")),
    ("found without a time",     Reply(status=200, headers=HEADERS, body=PAGE + ROW.replace(b'"2026-11-21T23:26:00.787064Z"', b"null") + END), replace(SEEN, created_at=None)),
    ("not found",                Reply(status=200, headers=HEADERS, body=EMPTY),                                                          Missing()),
    ("another one",              Reply(status=200, headers=HEADERS, body=PAGE + ROW_OTHER + END),                                         Unsure(reason="the answer is about another start", cause=Cause.UNREADABLE)),
    ("no id",                    Reply(status=200, headers=HEADERS, body=PAGE + b"{}" + END),                                             Unsure(reason="the answer is about another start", cause=Cause.UNREADABLE)),
    ("not json",                 Reply(status=200, headers=HTML, body=HTML_502),                                                          LIST),
    ("bad uuid",                 Reply(status=400, headers=HEADERS, body=b'{"detail":"Param \'uuid\': xyz is not a valid UUID."}'),       Unsure(reason="HTTP 400", cause=Cause.SERVER_ERROR)),
    *TROUBLE,
)

SINCE = datetime(2026, 1, 1, 0, 2, tzinfo=UTC)
WINDOW = Window(flow=FLOW, oldest=SINCE + timedelta(hours=1), newest=SINCE + timedelta(hours=2))
FIRST = "after=2026-01-01T00%3A02%3A00Z&reverse=true"
SECOND = "after=2026-11-21T23%3A26%3A03.093424Z&reverse=true"
CURSOR = "&cursor=cD0yMDI2LTAxLTAxKzA0JTNBMTAlM0EwMCUyQjAwJTNBMDA%3D"
BEGAN = datetime(2026, 11, 21, 23, 40, tzinfo=UTC)
LAST_PAGE = Reply(status=200, headers=HEADERS, body=PAGE + ROW + b"," + ROW_OTHER + END)
NOTHING = Sweep(sightings=(), account=WORKSPACE, since=SINCE, newest=SINCE)
PARTLY = Sweep(sightings=(SEEN_9,), account=WORKSPACE, since=SINCE, newest=SINCE)
PAGES = replace(PARTLY, needs_closing=True)
LOST_NEXT = Unsure(reason="no telling which page is next", cause=Cause.UNREADABLE)


def dated(at: datetime) -> Reply:
    """The last page, answered at a moment of the backend's clock."""
    return replace(LAST_PAGE, headers={**HEADERS, "date": format_datetime(at, usegmt=True)})


SWEEP = (
    ("nothing to scan",            None,  (),        (),              (),                                                                                  Sweep(sightings=())),
    ("nothing moved",              SINCE, (WINDOW,), (FIRST,),        (Reply(status=200, headers=HEADERS, body=EMPTY),),                                   NOTHING),
    ("no windows",                 SINCE, (),        (FIRST,),        (Reply(status=200, headers=HEADERS, body=EMPTY),),                                   NOTHING),
    ("as far back as the windows", None,  (WINDOW,), ("after=2026-01-01T01%3A02%3A00Z&reverse=true",), (Reply(status=200, headers=HEADERS, body=EMPTY),), replace(NOTHING, since=SINCE + timedelta(hours=1), newest=SINCE + timedelta(hours=1))),
    ("as far back as stragglers",  None,  (WINDOW, replace(WINDOW, stragglers=SINCE)), (FIRST,), (Reply(status=200, headers=HEADERS, body=EMPTY),),              NOTHING),
    ("in another zone",            SINCE.astimezone(), (), (FIRST,),  (Reply(status=200, headers=HEADERS, body=EMPTY),),                                   NOTHING),
    ("found",                      SINCE, (WINDOW,), (FIRST,),        (LAST_PAGE,),                                                                        replace(PARTLY, sightings=(SEEN, SEEN_OTHER))),
    ("found without a key",        SINCE, (WINDOW,), (FIRST,),        (Reply(status=200, headers=HEADERS, body=PAGE + ROW_FOREIGN + END),),                replace(PARTLY, sightings=(replace(SEEN_OTHER, correlation_key=None),))),
    ("with a date",                SINCE, (WINDOW,), (FIRST,),        (dated(BEGAN),),                                                                     replace(PARTLY, sightings=(SEEN, SEEN_OTHER), newest=BEGAN, began=BEGAN)),
    ("a date before",              SINCE, (WINDOW,), (FIRST,),        (dated(SINCE - timedelta(hours=1)),),                                                replace(PARTLY, sightings=(SEEN, SEEN_OTHER), began=SINCE - timedelta(hours=1))),
    ("a row that is ahead",        SINCE, (WINDOW,), (FIRST,),        (replace(dated(BEGAN), body=PAGE + ROW.replace(b"23:26:03.093424Z", b"23:59:59Z") + END),), replace(PARTLY, sightings=(SEEN,), newest=BEGAN, began=BEGAN)),
    ("no date",                    SINCE, (WINDOW,), (FIRST,),        (Reply(status=200, headers={**HEADERS, "date": "today"}, body=LAST_PAGE.body),),     replace(PARTLY, sightings=(SEEN, SEEN_OTHER))),
    ("two pages",                  SINCE, (WINDOW,), (FIRST, SECOND), (Reply(status=200, headers=HEADERS, body=PAGE_1), LAST_PAGE),                        replace(PAGES, sightings=(SEEN, SEEN_OTHER))),
    ("dates of two pages",         SINCE, (WINDOW,), (FIRST, SECOND), (replace(dated(BEGAN), body=PAGE_1), dated(BEGAN + timedelta(hours=1))),             replace(PAGES, sightings=(SEEN, SEEN_OTHER), newest=BEGAN, began=BEGAN)),
    ("a row twice",                SINCE, (WINDOW,), (FIRST, SECOND), (Reply(status=200, headers=HEADERS, body=PAGE_1), Reply(status=200, headers=HEADERS, body=PAGE + ENDED + END)), replace(PAGES, sightings=(COMPLETED,))),
    ("pages of one moment",        SINCE, (WINDOW,), (FIRST, SECOND, SECOND + CURSOR), (Reply(status=200, headers=HEADERS, body=PAGE_1), Reply(status=200, headers=HEADERS, body=PAGE_1), LAST_PAGE), replace(PAGES, sightings=(SEEN, SEEN_OTHER), is_gapless=False)),
    ("rows without a moment",      SINCE, (WINDOW,), (FIRST, FIRST + CURSOR), (Reply(status=200, headers=HEADERS, body=PAGE_1.replace(b"modified_on", b"moved_on")), LAST_PAGE), replace(PAGES, sightings=(SEEN, SEEN_OTHER), is_gapless=False)),
    ("rows in another order",      SINCE, (WINDOW,), (FIRST, FIRST + CURSOR), (Reply(status=200, headers=HEADERS, body=PAGE_1.replace(b'"modified_on":"2026-11-21', b'"modified_on":"2020-11-21')), LAST_PAGE), replace(PAGES, sightings=(SEEN, SEEN_OTHER), is_gapless=False)),
    ("params are hidden",          SINCE, (WINDOW,), (FIRST,),        (Reply(status=200, headers=HEADERS, body=PAGE + HIDING + END),),                     replace(PARTLY, sightings=(replace(SEEN, correlation_key=None, hides_key=True),))),
    ("its key is null",            SINCE, (WINDOW,), (FIRST,),        (Reply(status=200, headers=HEADERS, body=PAGE + ROW.replace(b'"' + ID.encode() + b'"', b"null") + END),), replace(PARTLY, sightings=(replace(SEEN, correlation_key=None, hides_key=True),))),
    ("its key is masked",          SINCE, (WINDOW,), (FIRST,),        (Reply(status=200, headers=HEADERS, body=PAGE + ROW.replace(b'"' + ID.encode() + b'"', b'"****"') + END),), replace(PARTLY, sightings=(replace(SEEN, correlation_key="****", hides_key=True),))),
    ("its key is in capitals",     SINCE, (WINDOW,), (FIRST,),        (Reply(status=200, headers=HEADERS, body=PAGE + ROW.replace(b'"' + ID.encode() + b'"', b'"01KB0000000000000000000000-1"') + END),), replace(PARTLY, sightings=(replace(SEEN, correlation_key="01KB0000000000000000000000-1", hides_key=True),))),
    ("trouble on the second page", SINCE, (WINDOW,), (FIRST, SECOND), (Reply(status=200, headers=HEADERS, body=PAGE_1), Reply(status=502, body=HTML_502)), replace(PARTLY, trouble=Unsure(reason="HTTP 502", cause=Cause.SERVER_ERROR))),
    ("cursor refused",             SINCE, (WINDOW,), (FIRST, SECOND), (Reply(status=200, headers=HEADERS, body=PAGE_1), Reply(status=404, body=b'{"detail":"Invalid cursor"}')), replace(PARTLY, trouble=Unsure(reason="HTTP 404", cause=Cause.SERVER_ERROR))),
    ("endless pages",              SINCE, (WINDOW,), (FIRST, SECOND, SECOND + CURSOR), (Reply(status=200, headers=HEADERS, body=PAGE_1),) * 3,                replace(PAGES, trouble=LOST_NEXT, is_gapless=False)),
    ("next is no url",             SINCE, (WINDOW,), (FIRST,),        (Reply(status=200, headers=HEADERS, body=NO_URL),),                                  replace(PARTLY, trouble=LOST_NEXT)),
    ("next is elsewhere",          SINCE, (WINDOW,), (FIRST, SECOND), (Reply(status=200, headers=HEADERS, body=PAGE_1.replace(b"internal", b"evil")), Reply(status=200, headers=HEADERS, body=EMPTY)), PAGES),
    ("next is not there",          SINCE, (WINDOW,), (FIRST,),        (Reply(status=200, headers=HEADERS, body=PAGE_1.replace(b'"next"', b'"n"')),),       replace(PARTLY, trouble=LOST_NEXT)),
    ("next has no cursor",         SINCE, (WINDOW,), (FIRST,),        (Reply(status=200, headers=HEADERS, body=NO_CURSOR),),                               replace(PARTLY, trouble=LOST_NEXT)),
    ("not json",                   SINCE, (WINDOW,), (FIRST,),        (Reply(status=200, headers=HEADERS, body=HTML_502),),                                replace(NOTHING, trouble=LIST)),
    ("a row without an id",        SINCE, (WINDOW,), (FIRST,),        (Reply(status=200, headers=HEADERS, body=PAGE + b"null," + ROW_9 + END),),           replace(PARTLY, is_gapless=False)),
    ("throttled",                  SINCE, (WINDOW,), (FIRST,),        (Reply(status=429, headers={**HEADERS, "retry-after": "1"}, body=IN_49_SECONDS),),                       replace(NOTHING, trouble=Throttled(seconds=1.0))),
    ("not sent",                   SINCE, (WINDOW,), (FIRST,),        (UNSENT,),                                                                           replace(NOTHING, account="", trouble=NotSent(reason="ConnectionRefusedError"))),
)

ACCOUNT = Account(credentials={"token": "0123456789ABCDEF\n"})
A_WORKSPACE = b'{"uuid":"fa6f2c37-c69e-4d8d-a596-ef17019c5886","name":"Nyaruka","country":"RW","languages":["eng"],"timezone":"Africa/Kigali","date_style":"day_first","anon":false}'

IDENTITY = Identity(account=WORKSPACE, country="RW")

IDENTIFY: Sequence[IdentifyRow] = (
    ("found",                    ACCOUNT, Reply(status=200, headers=HEADERS, body=A_WORKSPACE),                                            IDENTITY),
    ("found in v9",              ACCOUNT, Reply(status=200, headers={"x-temba-org": "1"}, body=A_WORKSPACE),                               replace(IDENTITY, aliases=frozenset({"1"}))),
    ("both headers",             ACCOUNT, Reply(status=200, headers={**HEADERS, "x-temba-org": "1"}, body=A_WORKSPACE),                    IDENTITY),
    ("another one",              ACCOUNT, Reply(status=200, headers={"x-temba-workspace": OTHER}, body=A_WORKSPACE.replace(WORKSPACE.encode(), OTHER.encode())), replace(IDENTITY, account=OTHER)),
    ("no header",                ACCOUNT, Reply(status=200, body=A_WORKSPACE),                                                             IDENTITY),
    ("no country",               ACCOUNT, Reply(status=200, headers=HEADERS, body=A_WORKSPACE.replace(b'"RW"', b"null")),                  replace(IDENTITY, country="")),
    ("no id",                    ACCOUNT, Reply(status=200, headers=HEADERS, body=b'{"name":"Nyaruka"}'),                                  UNREADABLE),
    ("not json",                 ACCOUNT, Reply(status=200, headers=HTML, body=HTML_502),                                                  UNREADABLE),
    ("a list",                   ACCOUNT, Reply(status=200, headers=HEADERS, body=b"[]"),                                                  UNREADABLE),
    ("bad request",              ACCOUNT, Reply(status=400, headers=HEADERS, body=b'{"detail":"no"}'),                                     Unsure(reason="HTTP 400", cause=Cause.SERVER_ERROR)),
    *((label, ACCOUNT, answer, trouble) for label, answer, trouble in TROUBLE),
)

URNS = tuple(f"tel:+1206555{n:04}" for n in range(250))
CONTACTS = tuple(f"f5901b62-ba76-4003-9c62-{n:012}" for n in range(101))
GROUPS = tuple(f"group {n}" for n in range(101))
WRONG = replace(ASKED, flow="FW" + "a" * 32, sender="+18007654321", params={"a": "é" * 1_700})
OVERLAP = Reason.RECIPIENTS_MAY_OVERLAP
INVALID, UNSUPPORTED = Reason.VALIDATION_FAILED, Reason.UNSUPPORTED_BY_BACKEND

OBJECTIONS = (
    ("none",                  ASKED,                                           RECIPIENTS,                                          ()),
    ("any scheme",            ASKED,                                           Recipients(urns=("discord:1", "ext:a", "tel:0788")), ()),
    ("both options",          replace(ASKED, restart_participants=False, exclude_active=True), RECIPIENTS,                           ()),
    ("everything wrong",      WRONG,                                           Recipients(urns=("whatsapp:x", *URNS), groups=("a",)), (("flow", INVALID), ("sender", UNSUPPORTED), ("params", INVALID), ("groups", OVERLAP))),
    ("not a flow of its",     replace(ASKED, flow=FLOW.upper()),               RECIPIENTS,                                          (("flow", INVALID),)),
    ("largest params",        replace(ASKED, params={"a": "x" * 9_939}),       RECIPIENTS,                                          ()),
    ("too large params",      replace(ASKED, params={"a": "x" * 9_940}),       RECIPIENTS,                                          (("params", INVALID),)),
    ("params too large in ASCII", replace(ASKED, params={"a": "é" * 1_657}),   RECIPIENTS,                                          (("params", INVALID),)),
    ("bad addresses",         ASKED,                                           Recipients(urns=("tel:+1", "whatsapp:1 206", "whatsapp:US.13491208655302741918"), contacts=("whatsapp:US.1349",)), ()),
    ("only many URNs",        ASKED,                                           Recipients(urns=URNS),                               ()),
    ("only many contacts",    ASKED,                                           Recipients(contacts=CONTACTS),                       ()),
    ("a hundred of each",     ASKED,                                           Recipients(urns=URNS[:100], contacts=CONTACTS[:100], groups=GROUPS[:100]), ()),
    ("many groups",           ASKED,                                           Recipients(groups=GROUPS),                           (("groups", OVERLAP),)),
    ("many and a contact",    ASKED,                                           Recipients(urns=URNS, contacts=(CONTACT,)),          (("contacts", OVERLAP),)),
    ("contacts of two kinds", ASKED,                                           Recipients(contacts=(*CONTACTS, "tel:+12065551212")), (("contacts", OVERLAP),)),
    ("the same number perhaps", ASKED,                                         Recipients(urns=("tel:0788 383 383", *URNS[:100], "tel:+250788383383")), (("urns[0]", OVERLAP),)),
    ("perhaps, one by its contact", ASKED,                                     Recipients(urns=("tel:+250788383383",), contacts=("tel:0788383383",)), (("contacts[0]", OVERLAP),)),
    ("perhaps, in one request", ASKED,                                         Recipients(urns=("tel:0788 383 383", *URNS[:90], "tel:+250788383383")), ()),
    ("two local numbers",     ASKED,                                           Recipients(urns=("tel:0788383383", *URNS[:100], "tel:788383383")), (("urns[0]", OVERLAP), ("urns[101]", OVERLAP))),
)

SAME = (
    ("one",                              "",   Recipients(urns=("tel:0788",)),                                              Recipients(urns=("tel:0788",))),
    ("nobody twice",                     "US", RECIPIENTS,                                                                  RECIPIENTS),
    ("the same",                         "",   Recipients(urns=("ext:2", "ext:1", "ext:2", "ext:2")),                         Recipients(urns=("ext:2", "ext:1"))),
    ("one address in several spellings", "",   Recipients(urns=("tel:+1 (206) 555-1212", "tel:+12065551212", "tel:12065551212", "tel:+12065551212#Joe", "tel:+1.206.555.1212")), Recipients(urns=("tel:+1 (206) 555-1212",))),
    ("a number without its country code", "RW", Recipients(urns=("tel:0788 383 383", "tel:+250788383383", "tel:250788383383", "tel:788383383", "tel:0788383384")), Recipients(urns=("tel:0788 383 383", "tel:0788383384"))),
    ("no country",                       "",   Recipients(urns=("tel:0788383383", "tel:+250788383383")),                    Recipients(urns=("tel:0788383383", "tel:+250788383383"))),
    ("short codes",                      "US", Recipients(urns=("tel:4 04", "tel:404", "tel:4040")),                        Recipients(urns=("tel:4 04", "tel:4040"))),
    ("from a spreadsheet",               "",   Recipients(urns=("tel:2.50788383383e+11", "tel:+250788383383")),             Recipients(urns=("tel:2.50788383383e+11",))),
    ("two that look alike",              "US", Recipients(urns=("tel:+12065551212", "whatsapp:12065551212", "ext:Joe", "ext:joe", "tel:+12065551213")), Recipients(urns=("tel:+12065551212", "whatsapp:12065551212", "ext:Joe", "ext:joe", "tel:+12065551213"))),
    ("other schemes",                    "",   Recipients(urns=("twitter:@Joe", "twitter:joe", "mailto:Joe@example.com", "mailto:joe@EXAMPLE.com", "whatsapp:+1206", "whatsapp:1206", "twitterid:1#joe", "twitterid:1")), Recipients(urns=("twitter:@Joe", "mailto:Joe@example.com", "whatsapp:+1206", "twitterid:1#joe"))),
    ("a contact by its URN",             "US", Recipients(urns=("tel:2065551212",), contacts=("tel:+12065551212", CONTACT, CONTACT.upper())), Recipients(urns=("tel:2065551212",), contacts=(CONTACT,))),
    ("groups",                           "",   Recipients(groups=("Mothers", "Fathers", "mothers", "tel:1"), urns=("tel:1",)), Recipients(groups=("Mothers", "Fathers", "tel:1"), urns=("tel:1",))),
)

PLAN = (
    ("one recipient", Recipients(groups=("a",)),   (Recipients(groups=("a",)),)),
    ("one of each",   RECIPIENTS,                  (RECIPIENTS,)),
    ("many URNs",     Recipients(urns=URNS),       (Recipients(urns=URNS[:100]), Recipients(urns=URNS[100:200]), Recipients(urns=URNS[200:]))),
    ("many contacts", Recipients(contacts=CONTACTS), (Recipients(contacts=CONTACTS[:100]), Recipients(contacts=CONTACTS[100:]))),
)

MISCONFIGURED = (
    ("no credentials", Account(credentials={}),                                   "token"),
    ("empty token",    Account(credentials={"token": " \n"}),                     "token"),
    ("a space inside", Account(credentials={"token": "s3 cr3t"}),                     "token"),
    ("a sender",       Account(credentials={"token": "s3cr3t"}, sender="+1800"),       "sender"),
)

A_FLOW = b'{"uuid":"f5901b62-ba76-4003-9c62-72fdacc1b7b7","name":"Registration","type":"message","archived":false,"labels":[],"expires":4320,"runs":{"active":0,"waiting":0,"completed":0,"expired":0,"interrupted":0,"failed":0},"results":[],"parent_refs":[],"created_on":"2026-11-21T23:13:08.694172Z","modified_on":"2026-11-21T23:13:08.694314Z"}'
ARCHIVED_FLOW = A_FLOW.replace(FLOW.encode(), OTHER_FLOW.encode()).replace(b'"archived":false', b'"archived":true')
FLOWS_1 = b'{"next":"http://internal.example/api/v2/flows.json?cursor=cD0x","previous":null,"results":[' + A_FLOW + END
REGISTRATION, OLD_ONE = Flow(id=FLOW, name="Registration", startable=True), Flow(id=OTHER_FLOW, name="Registration", startable=False)
FLOWS = (
    ("all",                        "",         [""],                     [Reply(status=200, body=PAGE + A_FLOW + b"," + ARCHIVED_FLOW + END)],                     Flows(flows=(REGISTRATION, OLD_ONE))),
    ("two pages",                  "",         ["", "cursor=cD0x"],      [Reply(status=200, body=FLOWS_1), Reply(status=200, body=PAGE + ARCHIVED_FLOW + END)],    Flows(flows=(REGISTRATION, OLD_ONE))),
    ("one",                        FLOW,       [f"uuid={FLOW}"],         [Reply(status=200, body=PAGE + A_FLOW + END)],                                            Flows(flows=(REGISTRATION,))),
    ("unknown",                    FLOW,       [f"uuid={FLOW}"],         [Reply(status=200, body=EMPTY)],                                                          Flows(flows=())),
    ("not to be started",          OTHER_FLOW, [f"uuid={OTHER_FLOW}"],   [Reply(status=200, body=PAGE + ARCHIVED_FLOW + END)],                                     Flows(flows=(OLD_ONE,))),
    ("not told whether archived",  FLOW,       [f"uuid={FLOW}"],         [Reply(status=200, body=PAGE + A_FLOW.replace(b'"archived":false,', b"") + END)],         Flows(flows=(replace(REGISTRATION, startable=None),))),
    ("another one",                FLOW,       [f"uuid={FLOW}"],         [Reply(status=200, body=PAGE + ARCHIVED_FLOW + END)],                                     Flows(flows=(), trouble=Unsure(reason="the answer is about another flow", cause=Cause.UNREADABLE))),
    ("a row without an id",        "",         [""],                     [Reply(status=200, body=PAGE + b'{"name":"x"},' + A_FLOW + END)],                         Flows(flows=(REGISTRATION,), trouble=Unsure(reason="unreadable row", cause=Cause.UNREADABLE))),
    ("not json",                   FLOW,       [f"uuid={FLOW}"],         [Reply(status=200, headers=HTML, body=HTML_502)],                                         Flows(flows=(), trouble=LIST)),
    ("trouble on the second page", "",         ["", "cursor=cD0x"],      [Reply(status=200, body=FLOWS_1), Reply(status=500, headers=HTML, body=SERVER_ERROR)],    Flows(flows=(REGISTRATION,), trouble=Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR))),
    ("bad credentials",            FLOW,       [f"uuid={FLOW}"],         [Reply(status=403, headers=HEADERS, body=b'{"detail":"Invalid token"}')],                 Flows(flows=(), trouble=REJECTED)),
)

TABLE = Table(
    account=ACCOUNT, secrets=("0123456789ABCDEF",), flow=FLOW,
    asked=ASKED, dispatch=DISPATCH, send=SEND, look=LOOK, sweep=SWEEP, identify=IDENTIFY, flows=FLOWS, objections=OBJECTIONS, same=SAME, plan=PLAN,
    requests=(
        ("the example of its documentation", DISPATCH, Request(method="POST", path="/api/v2/flow_starts.json", headers=JSON, body=EXAMPLE, creates=True)),
        ("every field",                      EVERY,    Request(method="POST", path="/api/v2/flow_starts.json", headers=JSON, body=EVERY_BODY, creates=True)),
    ),
    questions=(
        ("look",     Request(method="GET", path="/api/v2/flow_starts.json", query=f"uuid={START}", headers=AUTH)),
        ("sweep",    Request(method="GET", path="/api/v2/flow_starts.json", query=FIRST, headers=AUTH)),
        ("identify", Request(method="GET", path="/api/v2/workspace.json", headers=AUTH)),
        ("flows",    Request(method="GET", path="/api/v2/flows.json", query=f"uuid={FLOW}", headers=AUTH)),
    ),
    misconfigured=MISCONFIGURED,
)
