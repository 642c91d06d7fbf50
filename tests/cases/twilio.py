"""Cases of Twilio Studio. Bodies are those of its OpenAPI document and of its error pages. Data only."""
# ruff: noqa: E501  a row is one line

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from gateway.adapters.base import (
    Accepted,
    Account,
    Barred,
    Blocked,
    Busy,
    Distrusted,
    Failed,
    Flows,
    Heard,
    Key,
    Missing,
    NotSent,
    Push,
    Refused,
    Reply,
    Request,
    Sweep,
    Throttled,
    Unsure,
)
from gateway.errors import Reason
from gateway.model import Asked, Cause, CompletionMeaning, Dispatch, Flow, Identity, Notice, Recipients, State
from gateway.sandbox.twilio.events import signature, with_hash
from gateway.sightings import Sighting, Window
from tests.cases import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.cases import CancelRow, FlowsRow, IdentifyRow

# fmt: off
ID = "01kb0000000000000000000000-1"
FLOW, OTHER_FLOW = "FW" + "a" * 32, "FW" + "b" * 32
EXECUTION, OTHER = "FN" + "a" * 32, "FN" + "b" * 32
ACCOUNT = "AC" + "a" * 32
SERVICE = "MG" + "0" * 32
CREATED = datetime(2015, 7, 30, 20, 0, tzinfo=UTC)
PARAMS = {"first_name": "Foo"}
DISPATCH = Dispatch(id=ID, flow=FLOW, recipients=Recipients(urns=("tel:+18001234567",)), params=PARAMS, sender="+18007654321", external_id=EXECUTION)
ASKED = Asked(tenant="default", backend="studio", flow=FLOW, recipient_count=1, params=PARAMS, sender="+18007654321", created_at=CREATED, completion_meaning=CompletionMeaning.EXECUTIONS_ENDED)

PATH = f"/v2/Flows/{FLOW}/Executions"
AUTH = {"Authorization": "Basic QUNhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYTpzM2NyM3Q=", "Accept": "application/json"}
FORM = {**AUTH, "Content-Type": "application/x-www-form-urlencoded"}
POST = Request(method="POST", path=PATH, headers=FORM, creates=True)
EXAMPLE = b"To=%2B18001234567&From=%2B18007654321&Parameters=%7B%22startflow_id%22%3A%2201kb0000000000000000000000-1%22%2C%22first_name%22%3A%22Foo%22%7D"
KEY_ONLY = b"&Parameters=%7B%22startflow_id%22%3A%2201kb0000000000000000000000-1%22%7D"
UNICODE = b"To=client%3Ajoe&From=sip%40example.com&Parameters=%7B%22startflow_id%22%3A%2201kb0000000000000000000000-1%22%2C%22a%22%3A%5B1%2C0.5%2Cnull%2C%22%C3%A9+%2B%26%22%5D%7D"
BARE = replace(DISPATCH, params={})

ROW = b'{"sid":"FNaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","url":"https://studio.twilio.com/v2/Flows/FWaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/Executions/FNaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","links":{"steps":"https://studio.twilio.com/v2/Flows/FWaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/Executions/FNaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/Steps"},"status":"active","context":{},"flow_sid":"FWaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","account_sid":"ACaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","date_created":"2015-07-30T20:00:00Z","date_updated":"2015-07-30T20:00:00Z","contact_channel_address":"+18001234567"}'
ROW_OTHER = ROW.replace(b'"sid":"FN' + b"a" * 32, b'"sid":"FN' + b"b" * 32)
ENDED = ROW.replace(b'"active"', b'"ended"')
HTML_502 = b"<html><head><title>502 Bad Gateway</title></head><body>502 Bad Gateway</body></html>"
HTML_429 = b"<html><head><title>429 Too Many Requests</title></head></html>"
HTML_404 = b"<!DOCTYPE html><title>404</title>"
NO_PARAMETER = b'{"code":20001,"message":"Missing required parameter To in the post body","more_info":"https://www.twilio.com/docs/errors/20001","status":400}'
NO_CREDENTIALS = b'{"code":20003,"message":"Authenticate","more_info":"https://www.twilio.com/docs/errors/20003","status":401}'
NOT_ACTIVE = b'{"code":20005,"message":"Account not active","more_info":"https://www.twilio.com/docs/errors/20005","status":403}'
NO_FLOW = b'{"code":20404,"message":"The requested resource /v2/Flows/FWaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/Executions was not found","more_info":"https://www.twilio.com/docs/errors/20404","status":404}'
BUSY = b'{"code":20409,"message":"Execution FNbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb is already active for this contact","more_info":"https://www.twilio.com/docs/errors/20409","status":409}'
BUSY_IN_DETAIL = b'{"type":"https://www.twilio.com/docs/errors/20409","title":"Conflict","status":409,"code":20409,"detail":"Execution FNbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb is already active for this contact"}'
TOO_MANY = b'{"code":20429,"message":"Too Many Requests","more_info":"https://www.twilio.com/docs/errors/20429","status":429}'
FAULT = b'{"code":20500,"message":"An internal server error has occurred","more_info":"https://www.twilio.com/docs/errors/20500","status":500}'
BAD_TO = b'{"code":21211,"message":"The \'To\' number +18001234567 is not a valid phone number.","more_info":"https://www.twilio.com/docs/errors/21211","status":400}'
NEW_SHAPE = b'{"type":"https://www.twilio.com/docs/errors/20001","title":"Bad request","status":400,"detail":"+18001234567"}'

STATUS_UNKNOWN = Notice(reason=Reason.STATUS_UNKNOWN, message="")
ACCEPTED = Accepted(external_id=EXECUTION, state=State.STARTED, account=ACCOUNT, accepted_at=CREATED)
REJECTED = {status: Blocked(notice=Notice(reason=Reason.BACKEND_CREDENTIALS_REJECTED, message="", metadata={"http_status": str(status)})) for status in (401, 403)}
ELSEWHERE = {status: Barred(notice=Notice(reason=Reason.BACKEND_MISCONFIGURED, message="", metadata={"http_status": str(status)})) for status in (302, 400, 404, 405, 406, 415, 429, 451)}
STOPPED = Blocked(notice=Notice(reason=Reason.BACKEND_SUSPENDED, message="", metadata={"http_status": "403"}))
REFUSED = Refused(failure=Notice(reason=Reason.BACKEND_REJECTED, message=""))
INCOMPLETE = Refused(failure=Notice(reason=Reason.BACKEND_REJECTED, message="", metadata={"fields": "urns[0]", "field_count": "1", "code": "20001"}))
FLOW_UNKNOWN = Refused(failure=Notice(reason=Reason.FLOW_NOT_FOUND, message="", metadata={"fields": "flow", "field_count": "1", "code": "20404"}))
IS_BUSY = Busy(failure=Notice(reason=Reason.RECIPIENT_BUSY, message="", metadata={"fields": "urns[0]", "field_count": "1", "code": "20409"}))
IS_BUSY_WITH = replace(IS_BUSY, external_id=OTHER)  # whose it is, its caller need not know
BAD_ADDRESS = {code: Refused(failure=Notice(reason=Reason.ADDRESS_INVALID, message="", metadata={"fields": "urns[0]", "field_count": "1", "code": str(code)})) for code in (21211, 21408, 21610, 21614)}
BAD_SENDER = Refused(failure=Notice(reason=Reason.ADDRESS_INVALID, message="", metadata={"fields": "sender", "field_count": "1", "code": "21212"}))
NOT_OURS, UNREADABLE, LIST = Unsure(reason="the answer is not about this dispatch", cause=Cause.UNREADABLE), Unsure(reason="unreadable answer", cause=Cause.UNREADABLE), Unsure(reason="unreadable list", cause=Cause.UNREADABLE)
ANOTHERS = Unsure(reason="the answer is about another recipient or account", cause=Cause.NAMED)
LOST, UNSENT = Failed(sent=True, reason="ServerTimeoutError", cause=Cause.TIMEOUT), Failed(sent=False, reason="ConnectionRefusedError", cause=Cause.UNREACHABLE)

SEND = (
    ("accepted",                 Reply(status=201, body=ROW),                                                                 ACCEPTED),
    ("accepted with 200",        Reply(status=200, body=ROW),                                                                 ACCEPTED),
    ("accepted and ended",       Reply(status=201, body=ENDED),                                                               replace(ACCEPTED, state=State.COMPLETED)),
    ("accepted, unknown status", Reply(status=201, body=ROW.replace(b'"active"', b'"paused"')),                               replace(ACCEPTED, state=State.QUEUED, warnings=(STATUS_UNKNOWN,))),
    ("accepted, no time",        Reply(status=201, body=ROW.replace(b'"2015-07-30T20:00:00Z"', b"null")),                     replace(ACCEPTED, accepted_at=None)),
    ("accepted, cleaned number", Reply(status=201, body=ROW.replace(b"+18001234567", b"+1 (800) 123-4567")),                  ACCEPTED),
    ("another flow",             Reply(status=201, body=ROW.replace(b'"flow_sid":"FWa', b'"flow_sid":"FWb')),                 NOT_OURS),
    ("another account",          Reply(status=201, body=ROW.replace(b'"ACa', b'"ACb')),                                       ANOTHERS),
    ("no account",               Reply(status=201, body=ROW.replace(b'"AC' + b"a" * 32 + b'"', b"null")),                     ANOTHERS),
    ("another address",          Reply(status=201, body=ROW.replace(b"+18001234567", b"+18001234568")),                       ANOTHERS),
    ("no address",               Reply(status=201, body=ROW.replace(b'"+18001234567"', b"null")),                             ANOTHERS),
    ("no id",                    Reply(status=201, body=ROW.replace(b'"sid":"FN' + b"a" * 32 + b'"', b'"sid":null')),         NOT_OURS),
    ("not json",                 Reply(status=201, body=HTML_502),                                                            NOT_OURS),
    ("truncated",                Reply(status=201, body=ROW[:200]),                                                           NOT_OURS),
    ("bad request",              Reply(status=400, body=NO_PARAMETER),                                                        INCOMPLETE),
    ("bad request, new shape",   Reply(status=400, body=NEW_SHAPE),                                                           REFUSED),
    ("no content",               Reply(status=204),                                                                           NOT_OURS),
    ("unknown flow",             Reply(status=404, body=NO_FLOW),                                                             FLOW_UNKNOWN),
    ("own 404",                  Reply(status=404, body=b'{"message":"Not found","status":404}'),                             FLOW_UNKNOWN),
    ("busy",                     Reply(status=409, body=BUSY.replace(b"FNb", b"FNx")),                                        IS_BUSY),
    ("busy, says with which",    Reply(status=409, body=BUSY),                                                                IS_BUSY_WITH),
    ("busy, says so in detail",  Reply(status=409, body=BUSY_IN_DETAIL),                                                      IS_BUSY_WITH),
    ("busy, says only the status", Reply(status=409),                                                                         IS_BUSY),
    ("bad address",              Reply(status=400, body=BAD_TO),                                                              BAD_ADDRESS[21211]),
    ("forbidden region",         Reply(status=400, body=BAD_TO.replace(b"21211", b"21408")),                                  BAD_ADDRESS[21408]),
    ("opted out",                Reply(status=400, body=BAD_TO.replace(b"21211", b"21610")),                                  BAD_ADDRESS[21610]),
    ("not mobile",               Reply(status=400, body=BAD_TO.replace(b"21211", b"21614")),                                  BAD_ADDRESS[21614]),
    ("bad sender",               Reply(status=400, body=BAD_TO.replace(b"21211", b"21212")),                                  BAD_SENDER),
    ("too large",                Reply(status=413, body=b"<html>"),                                                           REFUSED),
    ("other 4xx",                Reply(status=410),                                                                           REFUSED),
    ("bad credentials",          Reply(status=401, body=NO_CREDENTIALS),                                                      REJECTED[401]),
    ("not permitted",            Reply(status=403, body=NO_CREDENTIALS.replace(b"401", b"403")),                              REJECTED[403]),
    ("forbidden region, by 403", Reply(status=403, body=BAD_TO.replace(b"21211", b"21408").replace(b"400", b"403")),          BAD_ADDRESS[21408]),
    ("suspended",                Reply(status=403, body=NOT_ACTIVE),                                                          STOPPED),
    ("redirected",               Reply(status=302, headers={"location": "https://elsewhere.example/"}),                       ELSEWHERE[302]),
    ("html 400",                 Reply(status=400, body=b"<h1>Bad Request (400)</h1>"),                                       ELSEWHERE[400]),
    ("html 406",                 Reply(status=406, body=b"<h1>Not Acceptable!</h1>"),                                         ELSEWHERE[406]),
    ("html 404",                 Reply(status=404, body=HTML_404),                                                            ELSEWHERE[404]),
    ("html 429",                 Reply(status=429, body=HTML_429),                                                            ELSEWHERE[429]),
    ("method not allowed",       Reply(status=405, body=b'{"code":20004,"message":"Method not allowed","status":405}'),       ELSEWHERE[405]),
    ("unsupported media type",   Reply(status=415),                                                                           ELSEWHERE[415]),
    ("throttled",                Reply(status=429, headers={"retry-after": "7"}, body=TOO_MANY),                              Throttled(seconds=7.0)),
    ("throttled without a time", Reply(status=429, body=TOO_MANY),                                                            Throttled(seconds=None)),
    ("request timeout",          Reply(status=408),                                                                           Unsure(reason="HTTP 408", cause=Cause.SERVER_ERROR)),
    ("server error",             Reply(status=500, body=FAULT),                                                               Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR)),
    ("unavailable",              Reply(status=503, body=FAULT.replace(b"500", b"503")),                                       Unsure(reason="HTTP 503", cause=Cause.SERVER_ERROR)),
    ("gateway error",            Reply(status=502, body=HTML_502),                                                            Unsure(reason="HTTP 502", cause=Cause.SERVER_ERROR)),
    ("timed out",                LOST,                                                                                        Unsure(reason="ServerTimeoutError", cause=Cause.TIMEOUT)),
    ("sent, no answer",          Failed(sent=True, reason="ServerDisconnectedError", cause=Cause.BROKEN),                                         Unsure(reason="ServerDisconnectedError", cause=Cause.BROKEN)),
    ("not sent",                 UNSENT,                                                                                      NotSent(reason="ConnectionRefusedError")),
    ("host not found",           Failed(sent=False, reason="ClientConnectorDNSError", cause=Cause.UNREACHABLE),                                        NotSent(reason="ClientConnectorDNSError")),
    ("no tls",                   Failed(sent=False, reason="ClientConnectorCertificateError", cause=Cause.UNREACHABLE),                                NotSent(reason="ClientConnectorCertificateError")),
)

SEEN = Sighting(external_id=EXECUTION, state=State.STARTED, flow=FLOW, created_at=CREATED)

TROUBLE = (
    ("bad credentials",          Reply(status=401, body=NO_CREDENTIALS),                                REJECTED[401]),
    ("suspended",                Reply(status=403, body=NOT_ACTIVE),                                    STOPPED),
    ("redirected",               Reply(status=302, headers={"location": "https://elsewhere.example/"}), ELSEWHERE[302]),
    ("html 404",                 Reply(status=404, body=HTML_404),                                      ELSEWHERE[404]),
    ("html 429",                 Reply(status=429, body=HTML_429),                                      ELSEWHERE[429]),
    ("throttled",                Reply(status=429, headers={"retry-after": "0.5"}, body=TOO_MANY),      Throttled(seconds=0.5)),
    ("throttled without a time", Reply(status=429, body=TOO_MANY),                                      Throttled(seconds=None)),
    ("request timeout",          Reply(status=408),                                                     Unsure(reason="HTTP 408", cause=Cause.SERVER_ERROR)),
    ("server error",             Reply(status=500, body=FAULT),                                         Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR)),
    ("gateway error",            Reply(status=502, body=HTML_502),                                      Unsure(reason="HTTP 502", cause=Cause.SERVER_ERROR)),
    ("timed out",                LOST,                                                                  Unsure(reason="ServerTimeoutError", cause=Cause.TIMEOUT)),
    ("sent, no answer",          Failed(sent=True, reason="ServerDisconnectedError", cause=Cause.BROKEN),                   Unsure(reason="ServerDisconnectedError", cause=Cause.BROKEN)),
    ("not sent",                 UNSENT,                                                                NotSent(reason="ConnectionRefusedError")),
)

LOOK = (
    ("found",                    Reply(status=200, body=ROW),                                                   SEEN),
    ("still running",            Reply(status=200, body=ROW),                                                   SEEN),
    ("ended",                    Reply(status=200, body=ENDED),                                                 replace(SEEN, state=State.COMPLETED)),
    ("found, unknown status",    Reply(status=200, body=ROW.replace(b'"active"', b"[]")),                       replace(SEEN, state=None, warnings=(STATUS_UNKNOWN,))),
    ("found without a flow",     Reply(status=200, body=ROW.replace(b'"flow_sid":"FW', b'"flow_sid":"')),       replace(SEEN, flow="")),
    ("found without a time",     Reply(status=200, body=ROW.replace(b'"2015-07-30T20:00:00Z"', b"null")),       replace(SEEN, created_at=None)),
    ("not found",                Reply(status=404, body=NO_FLOW),                                               Missing()),
    ("another one",              Reply(status=200, body=ROW_OTHER),                                             Unsure(reason="the answer is about another execution", cause=Cause.UNREADABLE)),
    ("no id",                    Reply(status=200, body=ROW.replace(EXECUTION.encode(), b"")),                  UNREADABLE),
    ("not json",                 Reply(status=200, body=HTML_502),                                              UNREADABLE),
    ("bad request",              Reply(status=400, body=NO_PARAMETER),                                          Unsure(reason="HTTP 400", cause=Cause.SERVER_ERROR)),
    *TROUBLE,
)

WINDOW = Window(flow=FLOW, oldest=datetime(2026, 1, 1, 0, 1, 0, 500_000, tzinfo=UTC), newest=datetime(2026, 1, 1, 0, 2, 0, 500_000, tzinfo=UTC))
OTHER_WINDOW = replace(WINDOW, flow=OTHER_FLOW)
FIRST = "DateCreatedFrom=2026-01-01T00%3A00%3A00Z&DateCreatedTo=2026-01-01T00%3A03%3A01Z&PageSize=1000"
SECOND = "PageSize=1000&Page=1&PageToken=PAFN"
OLD_WINDOW = replace(WINDOW, stragglers=datetime(2025, 12, 1, tzinfo=UTC))
ACTIVE = "DateCreatedFrom=2025-11-30T23%3A59%3A00Z&DateCreatedTo=2026-01-01T00%3A00%3A00Z&status=active&PageSize=1000"
PAGE, END = b'{"executions":[', b'],"meta":{"page":0,"page_size":1000,"first_page_url":"https://studio.twilio.com/?PageSize=1000&Page=0","previous_page_url":null,"url":"https://studio.twilio.com/","next_page_url":null,"key":"executions"}}'
MORE = END.replace(b'"next_page_url":null', b'"next_page_url":"https://studio.twilio.com/v2/Flows/FW/Executions?PageSize=1000&Page=1&PageToken=PAFN"')
PAGE_1 = Reply(status=200, body=PAGE + ROW + MORE)
LAST_PAGE = Reply(status=200, body=PAGE + ROW_OTHER + END)
FOUND = Sweep(sightings=(SEEN,), account=ACCOUNT)
SEEN_OTHER = replace(SEEN, external_id=OTHER)
NOTHING = Sweep(sightings=(), account=ACCOUNT)
LOST_NEXT = Unsure(reason="no telling which page is next", cause=Cause.UNREADABLE)

RECENT = ROW.replace(b"2015-07-30T20:00:00Z", b"2026-01-01T00:01:00Z")
SEEN_RECENTLY = replace(SEEN, created_at=datetime(2026, 1, 1, 0, 1, tzinfo=UTC))
LATER, SEEN_LATER = RECENT.replace(EXECUTION.encode(), OTHER.encode()).replace(b"00:01:00Z", b"00:02:00Z"), replace(SEEN_RECENTLY, external_id=OTHER, created_at=datetime(2026, 1, 1, 0, 2, tzinfo=UTC))
PROVING = replace(WINDOW, proves_from=WINDOW.oldest)
HALVES = ("DateCreatedFrom=2026-01-01T00%3A00%3A00Z&DateCreatedTo=2026-01-01T00%3A01%3A30Z&PageSize=1000", "DateCreatedFrom=2026-01-01T00%3A01%3A30Z&DateCreatedTo=2026-01-01T00%3A03%3A01Z&PageSize=1000")
BEFORE = ("DateCreatedFrom=2026-01-01T00%3A00%3A00Z&DateCreatedTo=2026-01-01T00%3A00%3A30Z&PageSize=1000", "DateCreatedFrom=2026-01-01T00%3A00%3A30Z&DateCreatedTo=2026-01-01T00%3A03%3A01Z&PageSize=1000")
A_SECOND = replace(PROVING, oldest=datetime(2026, 1, 1, 0, 3, 0, tzinfo=UTC), newest=datetime(2026, 1, 1, 0, 1, 0, tzinfo=UTC), proves_from=datetime(2026, 1, 1, 0, 3, 0, tzinfo=UTC))
ONE_SECOND = "DateCreatedFrom=2026-01-01T00%3A02%3A00Z&DateCreatedTo=2026-01-01T00%3A02%3A01Z&PageSize=1000"

SWEEP = (
    ("proves on one page",         None,    (PROVING,),             (FIRST,),        (Reply(status=200, body=PAGE + RECENT + END),),                                 replace(FOUND, sightings=(SEEN_RECENTLY,))),
    ("proves in parts",            None,    (PROVING,),             (FIRST, *HALVES), (Reply(status=200, body=PAGE + RECENT + MORE), Reply(status=200, body=PAGE + RECENT + END), Reply(status=200, body=PAGE + LATER + END)), replace(FOUND, sightings=(SEEN_RECENTLY, SEEN_LATER))),
    ("trouble in a part",          None,    (PROVING,),             (FIRST, HALVES[0]), (Reply(status=200, body=PAGE + RECENT + MORE), LOST),                         replace(FOUND, sightings=(SEEN_RECENTLY,), trouble=Unsure(reason="ServerTimeoutError", cause=Cause.TIMEOUT))),
    ("proves, no meta",            None,    (PROVING,),             (FIRST,),        (Reply(status=200, body=PAGE + RECENT + b"]}"),),                                  replace(FOUND, sightings=(SEEN_RECENTLY,), trouble=LOST_NEXT)),
    ("follows, then proves",       None,    (replace(PROVING, proves_from=WINDOW.oldest + timedelta(seconds=30)),), BEFORE, (Reply(status=200, body=PAGE + END), Reply(status=200, body=PAGE + RECENT + END)), replace(FOUND, sightings=(SEEN_RECENTLY,))),
    ("proves, a row of another time", None, (PROVING,),             (FIRST,),        (Reply(status=200, body=PAGE + ROW + END),),                                    replace(FOUND, is_gapless=False)),
    ("proves, a row without a time", None,  (PROVING,),             (FIRST,),        (Reply(status=200, body=PAGE + RECENT.replace(b'"2026-01-01T00:01:00Z"', b"null") + END),), replace(FOUND, sightings=(replace(SEEN, created_at=None),), is_gapless=False)),
    ("proves, a row without an id", None,   (PROVING,),             (FIRST,),        (Reply(status=200, body=PAGE + RECENT + b",{}" + END),),                        replace(FOUND, sightings=(SEEN_RECENTLY,), is_gapless=False)),
    ("proves a second of two pages", None,  (A_SECOND,),            (ONE_SECOND, ONE_SECOND, SECOND), (Reply(status=200, body=PAGE + LATER + MORE), Reply(status=200, body=PAGE + LATER + MORE), Reply(status=200, body=PAGE + LATER + END)), replace(FOUND, sightings=(SEEN_LATER,), is_gapless=False)),
    ("nothing to scan",            None,    (),                     (),              (),                                                                             NOTHING),
    ("no windows",                 CREATED, (),                     (),              (),                                                                             NOTHING),
    ("nothing moved",              None,    (WINDOW,),              (FIRST,),        (Reply(status=200, body=PAGE + END),),                                          NOTHING),
    ("found",                      CREATED, (WINDOW,),              (FIRST,),        (Reply(status=200, body=PAGE + ROW + END),),                                    FOUND),
    ("a row without a flow",       CREATED, (WINDOW,),              (FIRST,),        (Reply(status=200, body=PAGE + ROW.replace(b'"flow_sid":"FW' + b"a" * 32 + b'"', b'"flow_sid":null') + END),), FOUND),
    ("says what time it is",       CREATED, (WINDOW, OTHER_WINDOW), (FIRST, FIRST),  (Reply(status=200, headers={"date": "Thu, 01 Jan 2026 00:09:00 GMT"}, body=PAGE + ROW + END), Reply(status=200, headers={"date": "Thu, 01 Jan 2026 00:09:01 GMT"}, body=PAGE + END)), replace(FOUND, began=datetime(2026, 1, 1, 0, 9, tzinfo=UTC))),
    ("two flows",                  CREATED, (WINDOW, OTHER_WINDOW), (FIRST, FIRST),  (Reply(status=200, body=PAGE + ROW + END), LAST_PAGE),                          replace(FOUND, sightings=(SEEN, SEEN_OTHER))),
    ("two pages",                  CREATED, (WINDOW,),              (FIRST, SECOND), (PAGE_1, LAST_PAGE),                                                            replace(FOUND, sightings=(SEEN, SEEN_OTHER))),
    ("a row twice",                CREATED, (WINDOW,),              (FIRST, SECOND), (PAGE_1, Reply(status=200, body=PAGE + ENDED + END)),                           replace(FOUND, sightings=(replace(SEEN, state=State.COMPLETED),))),
    ("trouble on the second page", CREATED, (WINDOW, OTHER_WINDOW), (FIRST, SECOND), (PAGE_1, LOST),                                                                 replace(FOUND, trouble=Unsure(reason="ServerTimeoutError", cause=Cause.TIMEOUT))),
    ("a flow is gone",             CREATED, (OTHER_WINDOW, WINDOW), (FIRST, FIRST),  (Reply(status=404, body=NO_FLOW), Reply(status=200, body=PAGE + ROW + END)),    replace(FOUND, unread=frozenset({OTHER_FLOW}))),
    ("endless pages",              CREATED, (WINDOW,),              (FIRST, SECOND), (PAGE_1, PAGE_1),                                                               replace(FOUND, trouble=LOST_NEXT)),
    ("next is no url",             CREATED, (WINDOW,),              (FIRST,),        (Reply(status=200, body=PAGE + ROW + END.replace(b'_url":null', b'_url":{}')),), replace(FOUND, trouble=LOST_NEXT)),
    ("next is elsewhere",          CREATED, (WINDOW,),              (FIRST, SECOND), (Reply(status=200, body=PAGE + ROW + MORE.replace(b"studio.twilio.com/v2", b"evil.example")), LAST_PAGE), replace(FOUND, sightings=(SEEN, SEEN_OTHER))),
    ("next is not there",          CREATED, (WINDOW,),              (FIRST,),        (Reply(status=200, body=PAGE + ROW + END.replace(b'"next_page_url"', b'"n"')),), replace(FOUND, trouble=LOST_NEXT)),
    ("no meta",                    CREATED, (WINDOW,),              (FIRST,),        (Reply(status=200, body=PAGE + ROW + b"]}"),),                                  replace(FOUND, trouble=LOST_NEXT)),
    ("not json",                   CREATED, (WINDOW,),              (FIRST,),        (Reply(status=200, body=HTML_502),),                                            replace(NOTHING, trouble=LIST)),
    ("a row without an id",        CREATED, (WINDOW,),              (FIRST,),        (Reply(status=200, body=PAGE + b"{}," + ROW + END),),                           FOUND),
    ("stragglers",                 CREATED, (OLD_WINDOW,),          (FIRST, ACTIVE), (Reply(status=200, body=PAGE + ROW + END), LAST_PAGE),                          replace(FOUND, sightings=(SEEN, SEEN_OTHER))),
    ("trouble with stragglers",    CREATED, (OLD_WINDOW, WINDOW),   (FIRST, ACTIVE), (Reply(status=200, body=PAGE + ROW + END), LOST),                               replace(FOUND, trouble=Unsure(reason="ServerTimeoutError", cause=Cause.TIMEOUT))),
    ("no window, no stragglers",   CREATED, (OLD_WINDOW,),          (FIRST,),        (LOST,),                                                                        replace(NOTHING, trouble=Unsure(reason="ServerTimeoutError", cause=Cause.TIMEOUT))),
    ("throttled",                  CREATED, (WINDOW, OTHER_WINDOW), (FIRST,),        (Reply(status=429, body=TOO_MANY),),                                            replace(NOTHING, trouble=Throttled(seconds=None))),
)

URN = Recipients(urns=("tel:+12065551212",))
CHANNELS = Recipients(urns=("tel:+12065551212", "whatsapp:+12065551212", "sip:name@example.com", "client:joe"))
INVALID, UNSUPPORTED = Reason.VALIDATION_FAILED, Reason.UNSUPPORTED_BY_BACKEND
WRONG = replace(ASKED, flow="f5901b62-ba76-4003-9c62-72fdacc1b7b7", sender="", params={"a": "x" * 20_000}, restart_participants=False)
WRONG_RECIPIENTS = Recipients(urns=("twitter:joe", "tel:1"), contacts=("a",), groups=("b",))
ALL_WRONG = (("flow", INVALID), ("params", INVALID), ("groups", UNSUPPORTED), ("contacts", UNSUPPORTED), ("restart_participants", UNSUPPORTED), ("urns[0]", UNSUPPORTED), ("urns[1]", INVALID), ("sender", INVALID))
BAD = ("tel:+0123", "tel:12065551212", "tel:+1206555x", "tel:+1234567890123456", "whatsapp:12065551212", "sip:name", "client:a b", "client:", "mailto:a@b")
ALL_BAD = (*((f"urns[{index}]", INVALID) for index in range(8)), ("urns[8]", UNSUPPORTED))

OBJECTIONS = (
    ("none",                       ASKED,                                                   URN,                                               ()),
    ("every channel, one number",  ASKED,                                                   CHANNELS,                                          ()),
    ("only those not active",      replace(ASKED, exclude_active=True),                     URN,                                               ()),
    ("everything wrong",           WRONG,                                                   WRONG_RECIPIENTS,                                  ALL_WRONG),
    ("not a flow of its",          replace(ASKED, flow="FW123"),                            URN,                                               (("flow", INVALID),)),
    ("largest params",             replace(ASKED, params={"a": "x" * 16_326}),              URN,                                               ()),
    ("too large params",           replace(ASKED, params={"a": "x" * 16_327}),              URN,                                               (("params", INVALID),)),
    ("params too large in UTF-8",  replace(ASKED, params={"a": "é" * 8_164}),               URN,                                               (("params", INVALID),)),
    ("bad addresses",              ASKED,                                                   Recipients(urns=BAD),                              ALL_BAD),
    ("restart",                    replace(ASKED, restart_participants=True),               URN,                                               ()),
    ("only who was never in it",   replace(ASKED, restart_participants=False),              URN,                                               (("restart_participants", UNSUPPORTED),)),
    ("service for text",           replace(ASKED, sender=SERVICE),                          URN,                                               ()),
    ("service for the rest",       replace(ASKED, sender=SERVICE),                          CHANNELS,                                          (("sender", INVALID),)),
    ("c8: ids and channels",       ASKED,                                                   Recipients(urns=("whatsapp:US.13491208655302741918", "rcs:+12065551212", "rcs:agent", "messenger:123")), ()),
    ("c8: a service for channels",  replace(ASKED, sender=SERVICE),                          Recipients(urns=("whatsapp:US.13491208655302741918", "whatsapp:+12065551212", "rcs:+12065551212", "messenger:123")), ()),
    ("whatsapp to whatsapp",       replace(ASKED, sender="whatsapp:+18007654321"),          Recipients(urns=("whatsapp:+12065551212",)),       ()),
    ("whatsapp to text",           replace(ASKED, sender="whatsapp:+18007654321"),          URN,                                               (("sender", INVALID),)),
    ("short code to whatsapp",     replace(ASKED, sender="12345"),                          Recipients(urns=("whatsapp:+12065551212",)),       (("sender", INVALID),)),
    ("short code to text",         replace(ASKED, sender="12345"),                          URN,                                               ()),
    ("newcomer 10: sender lacks +", replace(ASKED, sender="18007654321"),                   URN,                                               (("sender", INVALID),)),
    ("sender of no scheme of its", replace(ASKED, sender="twitter:joe"),                    URN,                                               (("sender", INVALID),)),
    ("sender with a bad number",   replace(ASKED, sender="tel:joe"),                        URN,                                               (("sender", INVALID),)),
)

SAME = (
    ("one",                              "",   Recipients(urns=("tel:+18001234567",)),                                        Recipients(urns=("tel:+18001234567",))),
    ("nobody twice",                     "",   Recipients(urns=("tel:+18001234567", "tel:+18001234568")),                     Recipients(urns=("tel:+18001234567", "tel:+18001234568"))),
    ("one address in several spellings", "",   Recipients(urns=("sip:joe@Example.com", "tel:+18001234567", "sip:joe@example.COM", "tel:+18001234567", "tel:+1 (800) 123-4567")), Recipients(urns=("sip:joe@Example.com", "tel:+18001234567"))),
    ("two that look alike",              "US", Recipients(urns=("tel:+18001234567", "whatsapp:+18001234567", "client:joe", "client:Joe", "sip:Joe@example.com", "sip:joe@example.com")), Recipients(urns=("tel:+18001234567", "whatsapp:+18001234567", "client:joe", "client:Joe", "sip:Joe@example.com", "sip:joe@example.com"))),
)

PLAN = (
    ("one recipient", URN,      (URN,)),
    ("many URNs",     CHANNELS, tuple(Recipients(urns=(urn,)) for urn in CHANNELS.urns)),
)

MISCONFIGURED = (
    ("no credentials",  Account(credentials={}),                                                              "account_sid"),
    ("no token",        Account(credentials={"account_sid": ACCOUNT}),                                        "auth_token"),
    ("a key alone",     Account(credentials={"api_key": "SK1", "api_secret": "s3cr3t"}),                          "account_sid"),
    ("no secret",       Account(credentials={"api_key": "SK1", "auth_token": "s3cr3t"}),                           "api_secret"),
    ("not an account",  Account(credentials={"account_sid": "AC-1-x", "auth_token": "s3cr3t"}),                       "account_sid"),
    ("a space inside",  Account(credentials={"account_sid": ACCOUNT, "auth_token": "s3 cr3t"}),                   "auth_token"),
    ("a bad token beside a key", Account(credentials={"account_sid": ACCOUNT, "api_key": "SK1", "api_secret": "s3cr3t", "auth_token": "s3 cr3t"}), "auth_token"),
    ("no sender",       Account(credentials={"account_sid": ACCOUNT, "auth_token": "s3cr3t"}, sender="fax:+1800"), "sender"),
)

CREDENTIALS = Account(credentials={"account_sid": ACCOUNT, "auth_token": "s3cr3t"})
KEY = Account(credentials={"account_sid": ACCOUNT, "api_key": "SK1", "api_secret": "s3cr3t"})
NO_FLOWS = b'{"meta":{"next_page_url":null,"key":"flows"},"flows":[]}'
ONE_FLOW = NO_FLOWS.replace(b"[]", b'[{"sid":"FWaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","account_sid":"ACaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","friendly_name":"Registration","status":"published"}]')

IDENTIFY: Sequence[IdentifyRow] = (
    ("found",                    CREDENTIALS, Reply(status=200, body=ONE_FLOW),                                      Identity(account=ACCOUNT)),
    ("no flows",                 CREDENTIALS, Reply(status=200, body=NO_FLOWS),                                      Identity(account=ACCOUNT)),
    ("another one",              CREDENTIALS, Reply(status=200, body=ONE_FLOW.replace(b'"ACa', b'"ACb')),            Blocked(notice=Notice(reason=Reason.BACKEND_CREDENTIALS_REJECTED, message="", metadata={"account": "ACb" + "a" * 31}))),
    ("c5: may not read flows",   KEY,         Reply(status=403, body=b'{"code":20003,"message":"no","status":403}'), Identity(account=ACCOUNT)),
    ("c5: lacks a permission",   KEY,         Reply(status=401, body=b'{"code":70051,"message":"no","status":401}'), Identity(account=ACCOUNT)),
    ("by a key",                 KEY,         Reply(status=200, body=ONE_FLOW),                                      Identity(account=ACCOUNT)),
    ("by a key, no flows",       KEY,         Reply(status=200, body=NO_FLOWS),                                      Identity(account=ACCOUNT)),
    ("no id",                    KEY,         Reply(status=200, body=ONE_FLOW.replace(b'"ACa', b'"ACx')),            Identity(account=ACCOUNT)),
    ("not json",                 CREDENTIALS, Reply(status=200, body=HTML_502),                                      LIST),
    ("no list",                  CREDENTIALS, Reply(status=200, body=b'{"flows":{}}'),                               LIST),
    ("bad request",              CREDENTIALS, Reply(status=400, body=NO_PARAMETER),                                  Unsure(reason="HTTP 400", cause=Cause.SERVER_ERROR)),
    *((label, CREDENTIALS, answer, trouble) for label, answer, trouble in TROUBLE),
)

CONTEXT = b'{"account_sid":"ACaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","flow_sid":"FWaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","execution_sid":"FNaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","context":{"trigger":{"request":{"to":"+18001234567","parameters":{"startflow_id":"01kb0000000000000000000000-1"}}},"contact":{"channel":{"address":"+18001234567"}},"flow":{"sid":"FNaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","data":{"startflow_id":"01kb0000000000000000000000-1","first_name":"Foo"},"variables":{}},"widgets":{}},"url":"https://studio.twilio.com/"}'
KEYLESS = CONTEXT.replace(b'"startflow_id":"01kb0000000000000000000000-1"', b'"a":1')
INBOUND = b'{"context":{"trigger":{"message":{"Body":"startflow_id"}},"flow":{"variables":{}}}}'
ABOUT_ANOTHER, NO_CONTEXT = Unsure(reason="the answer is about another execution", cause=Cause.UNREADABLE), Unsure(reason="unreadable context", cause=Cause.UNREADABLE)

EMPTIED = b'{"context":{"trigger":{"request":{"parameters":{}}},"flow":{"data":{}}}}'
A_KEY, NO_KEY, HIDDEN = Key(correlation_key=ID), Key(correlation_key=""), Key(correlation_key="", is_hidden=True)
KEYS = (
    ("found",                    Reply(status=200, body=CONTEXT),                                                           A_KEY),
    ("found where it was triggered", Reply(status=200, body=CONTEXT.replace(b'"data":{"startflow_id"', b'"data":{"b"')),    A_KEY),
    ("found in spite of odd data", Reply(status=200, body=CONTEXT.replace(b'"data":{"startflow_id":"01kb0000000000000000000000-1"', b'"data":{"startflow_id":[1]')), A_KEY),
    ("no id",                    Reply(status=200, body=CONTEXT.replace(b'"FW' + b"a" * 32 + b'"', b"null").replace(b'"FN' + b"a" * 32 + b'"', b"null")), A_KEY),
    ("somebody else's",          Reply(status=200, body=KEYLESS),                                                           NO_KEY),
    ("begun by a message",       Reply(status=200, body=INBOUND),                                                           NO_KEY),
    ("an odd key",               Reply(status=200, body=CONTEXT.replace(ID.encode(), b"1 2")),                              NO_KEY),
    ("empty",                    Reply(status=200, body=b'{"context":{}}'),                                                 NO_CONTEXT),
    ("emptied",                  Reply(status=200, body=EMPTIED),                                                           HIDDEN),
    ("emptied once",             Reply(status=200, body=b'{"context":{"trigger":{"request":{"parameters":{"a":1}}},"flow":{"data":{}}}}'), NO_KEY),
    ("params are null",          Reply(status=200, body=b'{"context":{"trigger":{"request":null},"flow":{"data":null}}}'),  HIDDEN),
    ("no context",               Reply(status=200, body=CONTEXT.replace(b'"context"', b'"c"')),                             NO_CONTEXT),
    ("another one",              Reply(status=200, body=CONTEXT.replace(b'"execution_sid":"FNa', b'"execution_sid":"FNb')), ABOUT_ANOTHER),
    ("another flow",             Reply(status=200, body=CONTEXT.replace(b'"flow_sid":"FWa', b'"flow_sid":"FWb')),           Missing()),
    ("no flow's",                Reply(status=200, body=CONTEXT.replace(b'"flow_sid":"FW' + b"a" * 32 + b'"', b'"flow_sid":5')), ABOUT_ANOTHER),
    ("not json",                 Reply(status=200, body=HTML_502),                                                          UNREADABLE),
    ("not found",                Reply(status=404, body=NO_FLOW),                                                           Missing()),
    ("bad request",              Reply(status=400, body=NO_PARAMETER),                                                      Unsure(reason="HTTP 400", cause=Cause.SERVER_ERROR)),
    *TROUBLE,
)

OVER = replace(SEEN, state=State.COMPLETED)
ENDS, ENDS_NOT, IS_OVER = Reply(status=200, body=ENDED), Reply(status=400, body=NO_PARAMETER.replace(b"Missing", b"Execution is not active: missing")), Reply(status=409, body=BUSY)

CANCEL: Sequence[CancelRow] = (
    ("ended",                    [ENDS],                                                                  OVER),
    ("still running",            [Reply(status=200, body=ROW)],                                           SEEN),
    ("found, unknown status",    [Reply(status=200, body=ROW.replace(b'"active"', b"[]"))],               replace(SEEN, state=None, warnings=(STATUS_UNKNOWN,))),
    ("ended already",            [ENDS_NOT, ENDS],                                                        OVER),
    ("ended already, says 409",  [IS_OVER, ENDS],                                                         OVER),
    ("ended already, and gone",  [ENDS_NOT, Reply(status=404, body=NO_FLOW)],                             Missing()),
    ("refused, and still running", [ENDS_NOT, Reply(status=200, body=ROW)],                               SEEN),
    ("refused, and throttled",   [IS_OVER, Reply(status=429, body=TOO_MANY)],                             Throttled(seconds=None)),
    ("html 400",                 [Reply(status=400, body=b"<h1>Bad Request (400)</h1>")],                 ELSEWHERE[400]),
    ("409 of another",           [Reply(status=409, body=HTML_502)],                                      Unsure(reason="HTTP 409", cause=Cause.SERVER_ERROR)),
    ("not found",                [Reply(status=404, body=NO_FLOW)],                                       Missing()),
    ("another one",              [Reply(status=200, body=ROW_OTHER)],                                     ABOUT_ANOTHER),
    ("no id",                    [Reply(status=200, body=ROW.replace(EXECUTION.encode(), b""))],          UNREADABLE),
    ("not json",                 [Reply(status=200, body=HTML_502)],                                      UNREADABLE),
    *((label, [answer], trouble) for label, answer, trouble in TROUBLE),
)

SINK = "https://gw.example.org/events/twilio/studio"
STARTS = b'[{"specversion":"1.0","type":"com.twilio.studio.flow.execution.started","source":"/v2/Flows/FWaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/Executions/FNaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","id":"EZ1","dataschema":"https://events-schemas.twilio.com/Studio.FlowExecutionEvent/2","datacontenttype":"application/json","time":"2015-07-30T20:00:01Z","data":{"execution_sid":"FNaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","account_sid":"ACaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","flow_sid":"FWaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","contact_channel_address":"+18001234567","status":"active","date_created":"2015-07-30T20:00:00Z","started_by":"RQ1","flow_revision":1}}]'
ENDS_TOO = STARTS.replace(b".started", b".ended").replace(b'"active"', b'"ended"').replace(b"EZ1", b"EZ2").replace(b'"flow_revision":1', b'"flow_revision":1,"ended_reason":"FLOW_END","date_updated":"2015-07-30T20:00:09Z"')
BEGUN, DONE, VAGUE = Heard(id="com.twilio.studio.flow.execution.started EZ1", sighting=SEEN), Heard(id="com.twilio.studio.flow.execution.ended EZ2", sighting=OVER), replace(OVER, state=None, warnings=(STATUS_UNKNOWN,))
KEY_AND_TOKEN = Account(credentials={"account_sid": ACCOUNT, "api_key": "SK1", "api_secret": "s3cr3t", "auth_token": "t0ken"})
SIGNED = {"x-twilio-signature": signature(with_hash(SINK, ENDS_TOO), "s3cr3t")}
HEARD = (
    ("begun",                    STARTS,                                                                (BEGUN,)),
    ("ended",                    ENDS_TOO,                                                              (DONE,)),
    ("one, not in an array",     ENDS_TOO[1:-1],                                                        (DONE,)),
    ("several",                  STARTS[:-1] + b"," + ENDS_TOO[1:],                                     (BEGUN, DONE)),
    ("unknown status",           ENDS_TOO.replace(b'"ended"', b'"paused"'),                             (replace(DONE, sighting=VAGUE),)),
    ("no status",                ENDS_TOO.replace(b'"ended"', b"null"),                                 (replace(DONE, sighting=VAGUE),)),
    ("begun with an unknown status", STARTS.replace(b'"active"', b"[]"),                                (replace(BEGUN, sighting=replace(SEEN, warnings=(STATUS_UNKNOWN,))),)),
    ("begun as if ended",        STARTS.replace(b'"active"', b'"ended"'),                               (BEGUN,)),
    ("ended as if active",       ENDS_TOO.replace(b'"ended"', b'"active"'),                             (replace(DONE, sighting=SEEN),)),
    ("no id",                    ENDS_TOO.replace(b'"EZ2"', b'["EZ2"]'),                                (replace(DONE, id=""),)),
    ("an endless id",            ENDS_TOO.replace(b"EZ2", b"E" * 65),                                   (replace(DONE, id=""),)),
    ("no times and no flow",     ENDS_TOO.replace(b'"date_created"', b'"x"').replace(b'"flow_sid"', b'"y"'), (replace(DONE, sighting=replace(OVER, flow="", created_at=None)),)),
    ("in capitals",              ENDS_TOO.replace(b"AC" + b"a" * 32, b"AC" + b"A" * 32),                (DONE,)),
    ("nothing in it",            b"[]",                                                                 ()),
    ("somebody else's",          ENDS_TOO.replace(b'"ACa', b'"ACb'),                                    ()),
    ("nobody's",                 ENDS_TOO.replace(b'"account_sid"', b'"a"'),                            ()),
    ("of another kind",          ENDS_TOO.replace(b".execution.ended", b".step.ended"),                 ()),
    ("odd",                      b'[null,7,[],{},{"type":[]},{"type":"com.twilio.studio.flow.execution.ended"},{"type":"com.twilio.studio.flow.execution.ended","data":[]},' + ENDS_TOO.replace(EXECUTION.encode(), b"FN1")[1:], ()),
    ("not json",                 HTML_502,                                                              Unsure(reason="not a JSON array or object", cause=Cause.UNREADABLE)),
    ("cut off",                  ENDS_TOO[:-2],                                                         Unsure(reason="not a JSON array or object", cause=Cause.UNREADABLE)),
    ("a number",                 b"7",                                                                  Unsure(reason="not a JSON array or object", cause=Cause.UNREADABLE)),
    ("nothing at all",           b"",                                                                   Unsure(reason="not a JSON array or object", cause=Cause.UNREADABLE)),
)
HEAR = (
    *((label, CREDENTIALS, Push(url=with_hash(SINK, body), headers={"x-twilio-signature": signature(with_hash(SINK, body), "s3cr3t")}, body=body), heard) for label, body, heard in HEARD),
    ("not read yet",             CREDENTIALS, Push(url=with_hash(SINK, ENDS_TOO), headers=SIGNED),                                    ()),
    ("a query of its own",       CREDENTIALS, Push(url=with_hash(SINK + "?a=b", ENDS_TOO), headers={"x-twilio-signature": signature(with_hash(SINK + "?a=b", ENDS_TOO), "s3cr3t")}, body=ENDS_TOO), (DONE,)),
    ("by a key and a token",     KEY_AND_TOKEN, Push(url=with_hash(SINK, ENDS_TOO), headers={"x-twilio-signature": signature(with_hash(SINK, ENDS_TOO), "t0ken")}, body=ENDS_TOO), (DONE,)),
    ("no way to tell",           KEY,         Push(url=with_hash(SINK, ENDS_TOO), headers=SIGNED, body=ENDS_TOO),                     Distrusted(why="auth_token is not set")),
    ("not signed",               CREDENTIALS, Push(url=with_hash(SINK, ENDS_TOO), headers={}, body=ENDS_TOO),                         Distrusted(why="no X-Twilio-Signature", may_be_ours=False)),
    ("not signed, not read yet", CREDENTIALS, Push(url=with_hash(SINK, ENDS_TOO), headers={"x-twilio-signature": ""}),                Distrusted(why="public_url")),
    ("signed by another",        CREDENTIALS, Push(url=with_hash(SINK, ENDS_TOO), headers={"x-twilio-signature": signature(with_hash(SINK, ENDS_TOO), "other")}, body=ENDS_TOO), Distrusted(why="auth_token")),
    ("signed by the secret of a key", KEY_AND_TOKEN, Push(url=with_hash(SINK, ENDS_TOO), headers=SIGNED, body=ENDS_TOO),              Distrusted(why="auth_token")),
    ("another url",              CREDENTIALS, Push(url=with_hash(SINK.replace("studio", "other"), ENDS_TOO), headers=SIGNED, body=ENDS_TOO), Distrusted(why="public_url")),
    ("another scheme",           CREDENTIALS, Push(url=with_hash(SINK.replace("https", "http"), ENDS_TOO), headers=SIGNED, body=ENDS_TOO), Distrusted(why="public_url")),
    ("another body",             CREDENTIALS, Push(url=with_hash(SINK, ENDS_TOO), headers=SIGNED, body=STARTS),                       Distrusted(why="the body")),
    ("no hash",                  CREDENTIALS, Push(url=SINK, headers={"x-twilio-signature": signature(SINK, "s3cr3t")}, body=ENDS_TOO), Distrusted(why="bodySHA256")),
    ("two hashes",               CREDENTIALS, Push(url=with_hash(with_hash(SINK, STARTS), ENDS_TOO), headers={"x-twilio-signature": signature(with_hash(with_hash(SINK, STARTS), ENDS_TOO), "s3cr3t")}, body=ENDS_TOO), Distrusted(why="bodySHA256")),
    ("the same hash twice",      CREDENTIALS, Push(url=with_hash(with_hash(SINK, ENDS_TOO), ENDS_TOO), headers={"x-twilio-signature": signature(with_hash(with_hash(SINK, ENDS_TOO), ENDS_TOO), "s3cr3t")}, body=ENDS_TOO), Distrusted(why="bodySHA256")),
    ("an empty hash",            CREDENTIALS, Push(url=SINK + "?bodySHA256=", headers={"x-twilio-signature": signature(SINK + "?bodySHA256=", "s3cr3t")}, body=b""), Distrusted(why="the body")),
)

A_FLOW = b'{"sid":"' + FLOW.encode() + b'","account_sid":"ACaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","friendly_name":"Registration","status":"published","revision":1,"date_created":"2017-11-06T12:00:00Z","date_updated":null}'
A_DRAFT = A_FLOW.replace(FLOW.encode(), OTHER_FLOW.encode()).replace(b"published", b"draft")
FLOWS_1 = b'{"meta":{"next_page_url":"https://elsewhere.example/v2/Flows?PageSize=1000&Page=1&PageToken=PT1","key":"flows"},"flows":[' + A_FLOW + b"]}"
FLOWS_2 = b'{"meta":{"next_page_url":null,"key":"flows"},"flows":[' + A_DRAFT + b"]}"
REGISTRATION, DRAFT = Flow(id=FLOW, name="Registration", startable=True), Flow(id=OTHER_FLOW, name="Registration", startable=None)
ALL, MORE_FLOWS = "PageSize=1000", "PageSize=1000&Page=1&PageToken=PT1"
FLOWS: Sequence[FlowsRow] = (
    ("all",                        "",         [ALL],       [Reply(status=200, body=FLOWS_2)],                                                             Flows(flows=(DRAFT,))),
    ("two pages",                  "",         [ALL, MORE_FLOWS], [Reply(status=200, body=FLOWS_1), Reply(status=200, body=FLOWS_2)],                            Flows(flows=(REGISTRATION, DRAFT))),
    ("one",                        FLOW,       [""],        [Reply(status=200, body=A_FLOW)],                                                              Flows(flows=(REGISTRATION,))),
    ("unknown",                    FLOW,       [""],        [Reply(status=404, body=NO_FLOW)],                                                             Flows(flows=())),
    ("not to be started",          OTHER_FLOW, [""],        [Reply(status=200, body=A_DRAFT)],                                                             Flows(flows=(DRAFT,))),
    ("another one",                FLOW,       [""],        [Reply(status=200, body=A_DRAFT)],                                                             Flows(flows=(), trouble=Unsure(reason="the answer is about another flow", cause=Cause.UNREADABLE))),
    ("a row without an id",        "",         [ALL],       [Reply(status=200, body=FLOWS_2.replace(A_DRAFT, b"{}," + A_DRAFT))],                          Flows(flows=(DRAFT,), trouble=Unsure(reason="unreadable row", cause=Cause.UNREADABLE))),
    ("not json",                   FLOW,       [""],        [Reply(status=200, body=HTML_502)],                                                            Flows(flows=(), trouble=Unsure(reason="unreadable answer", cause=Cause.UNREADABLE))),
    ("trouble on the second page", "",         [ALL, MORE_FLOWS], [Reply(status=200, body=FLOWS_1), Reply(status=500, body=FAULT)],                              Flows(flows=(REGISTRATION,), trouble=Unsure(reason="HTTP 500", cause=Cause.SERVER_ERROR))),
    ("bad credentials",            FLOW,       [""],        [Reply(status=401, body=NO_CREDENTIALS)],                                                      Flows(flows=(), trouble=REJECTED[401])),
    ("bad request",                FLOW,       [""],        [Reply(status=400, body=NO_PARAMETER)],                                                        Flows(flows=(), trouble=Unsure(reason="HTTP 400", cause=Cause.SERVER_ERROR))),
)

TABLE = Table(
    account=CREDENTIALS, secrets=("s3cr3t", "QUNhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYTpzM2NyM3Q="), flow=FLOW,
    asked=ASKED, dispatch=DISPATCH, send=SEND, look=LOOK, sweep=SWEEP, identify=IDENTIFY, flows=FLOWS, key=KEYS, cancel=CANCEL, hear=HEAR, objections=OBJECTIONS, same=SAME, plan=PLAN,
    requests=(
        ("the example of its documentation", DISPATCH,                                                                                   replace(POST, body=EXAMPLE)),
        ("every field",                      replace(DISPATCH, recipients=Recipients(urns=("client:joe",)), sender="sip:sip@example.com", params={"a": [1, 0.5, None, "é +&"]}), replace(POST, body=UNICODE)),
        ("whatsapp from a number",           replace(BARE, recipients=Recipients(urns=("whatsapp:+12065551212",))),                      replace(POST, body=b"To=whatsapp%3A%2B12065551212&From=whatsapp%3A%2B18007654321" + KEY_ONLY)),
        ("whatsapp from whatsapp",           replace(BARE, recipients=Recipients(urns=("whatsapp:+1206",)), sender="whatsapp:+1800"),    replace(POST, body=b"To=whatsapp%3A%2B1206&From=whatsapp%3A%2B1800" + KEY_ONLY)),
        ("sip from tel",                     replace(BARE, recipients=Recipients(urns=("sip:joe@example.com",)), sender="tel:+1800"),    replace(POST, body=b"To=joe%40example.com&From=%2B1800" + KEY_ONLY)),
        ("from a service",                   replace(BARE, sender=SERVICE),                                                              replace(POST, body=b"To=%2B18001234567&From=" + SERVICE.encode() + KEY_ONLY)),
    ),
    questions=(
        ("look",     Request(method="GET", path=f"{PATH}/{EXECUTION}", headers=AUTH)),
        ("sweep",    Request(method="GET", path=PATH, query=FIRST, headers=AUTH)),
        ("identify", Request(method="GET", path="/v2/Flows", query="PageSize=1", headers=AUTH)),
        ("flows",    Request(method="GET", path=f"/v2/Flows/{FLOW}", headers=AUTH)),
        ("key",      Request(method="GET", path=f"{PATH}/{EXECUTION}/Context", headers=AUTH)),
        ("cancel",   Request(method="POST", path=f"{PATH}/{EXECUTION}", headers=FORM, body=b"Status=ended")),
    ),
    misconfigured=MISCONFIGURED,
)
