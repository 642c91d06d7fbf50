"""What no adapter may be led to by what a backend answers: to raise, to believe it, to read for ever."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC
from typing import TYPE_CHECKING, Any

import pytest

from gateway.adapters import room
from gateway.adapters.base import (
    Accepted,
    Barred,
    Blocked,
    Busy,
    Flows,
    Key,
    Missing,
    NotSent,
    Refused,
    Reply,
    Sweep,
    Throttled,
    Unsure,
)
from gateway.adapters.reading import MAX_PAGES
from gateway.model import Cause, Identity
from gateway.sightings import Sighting
from tests.contract.test_adapters import KINDS, TABLES, drive, every_kind, exchanges, made, notices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

STATUSES = (100, 200, 201, 204, 302, 400, 401, 403, 404, 405, 408, 409, 413, 418, 429, 500, 502, 503, 599)
BODIES = (
    b"", b"null", b"[]", b"{}", b"7", b'"x"', b"true", b"NaN", b'{"a":NaN}', b"<html>", b"\xff\xfe\x00",
    b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000, b'{"uuid":' + b"9" * 10_000 + b"}", b"\x00" * 100,
    b'{"flow":{"0":{"1":["x"]}},"urns":[[[]]],"contacts":{"x":null},"detail":{},"non_field_errors":[null,{}]}',
    b'{"next":"http://[::1","results":[null]}', b'{"results":[{}],"next":"?cursor=%FF"}', b'{"code":1e999}',
    b'{"executions":[[]],"meta":{"next_page_url":"\\ud800?a=\\ud800"}}', b'{"next":"?cursor=\\ud800","results":[]}',
    b'{"results":{},"executions":{}}', b'{"status":[],"code":[],"message":[]}', b'{"detail":"\\ud800"}',
    b'{"flows":[[{}]],"context":{"flow":{"data":[]},"trigger":[]}}', b'{"flows":{},"context":[],"uuid":[]}',
)  # fmt: skip
VALUES: tuple[Any, ...] = (None, True, -1, 10**30, 1.5, "", "\ud800\x00", "x" * 10_000, [], [[]], {}, {"": None})
RESULTS: dict[str, tuple[type, ...]] = {
    "send": (Accepted, Refused, Busy, Throttled, NotSent, Blocked, Barred, Unsure),
    "look": (Missing, Throttled, NotSent, Blocked, Barred, Unsure),
    "sweep": (Sweep,),
    "flows": (Flows,),
    "identify": (Identity, Throttled, NotSent, Blocked, Barred, Unsure),
    "key": (Key, Missing, Throttled, NotSent, Blocked, Barred, Unsure),
    "cancel": (Missing, Throttled, NotSent, Blocked, Barred, Unsure),
}
GOOD = {
    "send": "accepted", "look": "found", "sweep": "found", "identify": "found", "flows": "one", "key": "found",
    "cancel": "ended",
}  # fmt: skip
"""A row of each verb whose answer is believed."""


@pytest.mark.parametrize(("kind", "verb"), [(kind, verb) for kind in KINDS for verb in exchanges(kind)])
def test_never_raises_whatever_the_body(kind: str, verb: str) -> None:
    """Hostile bodies with every kind of status are answered, and never believed to be an acceptance."""
    for status in STATUSES:
        for body in BODIES:
            reply = Reply(status=status, body=body, headers={"retry-after": "-1"})
            _, result = drive(exchanges(kind)[verb], [reply] * (MAX_PAGES + 1))

            assert isinstance(result, RESULTS[verb])
            assert not isinstance(result, Accepted)
            assert verb != "send" or status not in {200, 201, 204, 408, 500, 503} or isinstance(result, Unsure)


def mutants(value: Any) -> Iterator[Any]:
    """Yields the document with each part of it in turn left out or replaced by each of the odd values."""
    yield from VALUES
    if isinstance(value, dict):
        for key in value:
            yield {other: each for other, each in value.items() if other != key}
            for mutant in mutants(value[key]):
                yield {**value, key: mutant}
    elif isinstance(value, list):
        for index in range(len(value)):
            for mutant in mutants(value[index]):
                yield [*value[:index], mutant, *value[index + 1 :]]


@pytest.mark.parametrize(
    ("kind", "part"), [(kind, part) for kind, table in TABLES.items() for part in GOOD if getattr(table, part)]
)
def test_never_raises_when_one_part_of_a_good_body_is_odd(kind: str, part: str) -> None:
    """What is believed of a good body with one odd value can be stored and sent on."""
    table = TABLES[kind]
    row = next(row for row in getattr(table, part) if row[0] == GOOD[part])
    answers = row[-2] if isinstance(row[-2], list | tuple) else [row[-2]]
    good = answers[0]
    for mutant in mutants(json.loads(good.body)):
        reply = replace(good, body=json.dumps(mutant).encode())
        _, result = drive(exchanges(kind)[part], [reply] * (MAX_PAGES + 1))
        sightings = result.sightings if isinstance(result, Sweep) else [result]
        flows = result.flows if isinstance(result, Flows) else ()

        for each in sightings:
            if isinstance(each, Sighting | Accepted):
                assert re.fullmatch(r"[A-Za-z0-9-]{30,40}", each.external_id)
            if isinstance(each, Sighting):
                assert each.flow.lower() in ("", table.flow.lower())
                assert each.created_at is None or each.created_at.tzinfo is UTC
                assert each.correlation_key is None or re.fullmatch(r"[!-~]{1,64}", each.correlation_key)
            if isinstance(each, Key):
                assert re.fullmatch(r"[!-~]{0,64}", each.correlation_key)
            if isinstance(each, Identity):
                assert all(re.fullmatch(r"[!-~]{1,64}", name) for name in (each.account, *each.aliases))
        for flow in flows:
            assert [table.flow] == [flow.id]
            assert len(flow.name.encode()) <= 1_024
        for notice in notices(result):
            text = "".join([notice.message, *notice.metadata, *notice.metadata.values()])
            assert text.isprintable()
            assert len(text) < 3_000


LISTS = [(kind, part) for kind, table in TABLES.items() for part in ("sweep", "flows") if getattr(table, part)]


def listing(kind: str, part: str) -> tuple[Callable[[], Any], Reply, str]:
    """Returns what makes a list of a kind, its first page of two, and the key of its rows."""
    row = next(row for row in getattr(TABLES[kind], part) if row[0] == "two pages")
    page = row[-2][0]
    rows = next(key for key, value in json.loads(page.body).items() if isinstance(value, list))
    return lambda: getattr(made(kind), part)(*row[1 : 3 if part == "sweep" else 2]), page, rows


def trouble_with(result: Any) -> str:
    """Tells why a list was not read to its end."""
    assert isinstance(result.trouble, Unsure)
    assert result.trouble.cause is Cause.UNREADABLE
    return result.trouble.reason


@pytest.mark.parametrize(("kind", "part"), LISTS)
def test_b_a_page_of_far_more_rows_than_were_asked_for_is_not_taken(kind: str, part: str) -> None:
    """Nothing of it is kept, and what was wrong is said."""
    begin, page, rows = listing(kind, part)
    body = json.loads(page.body)
    body[rows] *= 3_000 // len(body[rows])
    _, result = drive(begin(), [replace(page, body=json.dumps(body).encode())])

    assert "a page of 3,000 rows" in trouble_with(result)
    assert () == (result.sightings if isinstance(result, Sweep) else result.flows)


@pytest.mark.parametrize(("kind", "part"), LISTS)
def test_b_a_page_of_too_many_bytes_is_not_made_sense_of(kind: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would hold up everybody while it is parsed."""
    begin, page, _ = listing(kind, part)
    monkeypatch.setattr(room, "MAX_PAGE_BYTES", len(page.body) - 1)
    _, result = drive(begin(), [page])

    assert f"a page of {len(page.body):,} bytes" in trouble_with(result)
    assert () == (result.sightings if isinstance(result, Sweep) else result.flows)


@pytest.mark.parametrize("bound", ["MAX_ROWS", "MAX_BYTES"])
@pytest.mark.parametrize(("kind", "part"), LISTS)
def test_b_pages_without_end_are_read_up_to_a_bound(
    kind: str, part: str, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of rows and of bytes, whatever their pages; what was read until then is still true."""
    begin, page, rows = listing(kind, part)
    per_page = len(json.loads(page.body)[rows])
    endless = [replace(page, body=re.sub(rb"(cursor|PageToken)=", rb"\1=%d" % n, page.body)) for n in range(1_000)]
    monkeypatch.setattr(room, bound, 20 * (len(endless[-1].body) if bound == "MAX_BYTES" else per_page))
    monkeypatch.setattr(room, "MAX_FLOWS", room.MAX_ROWS)
    requests, result = drive(begin(), endless)

    assert "than one reading takes" in trouble_with(result)
    assert 20 <= len(requests) <= 22
    assert 0 < len(result.sightings if isinstance(result, Sweep) else result.flows) <= 20 * per_page


def test_b_flows_of_twilio_share_the_bound_of_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many flows there are, each of which shows little."""
    _, page, _ = listing("twilio", "sweep")
    one = replace(page, body=re.sub(rb'"next_page_url":"[^"]*"', b'"next_page_url":null', page.body))
    row = next(row for row in TABLES["twilio"].sweep if row[0] == "two pages")
    windows = [replace(row[2][0], flow=f"FW{n:032}") for n in range(50)]
    monkeypatch.setattr(room, "MAX_ROWS", 10)
    requests, result = drive(made("twilio").sweep(row[1], windows), [one] * 100)

    assert "than one reading takes" in trouble_with(result)
    assert len(requests) <= 11


def test_b_params_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of what is sought, to compare them. Beyond it a row is believed all the same."""
    _, page, rows = listing("rapidpro", "sweep")
    body = json.loads(page.body)
    key = "start-1"
    body[rows] = [
        {
            **body[rows][0],
            "uuid": f"{n:08}-0000-4000-8000-000000000000",
            "params": {"startflow_id": key, "x": "y" * 100},
        }
        for n in range(9)
    ]
    last = replace(page, body=json.dumps({**body, "next": None}).encode())
    row = next(row for row in TABLES["rapidpro"].sweep if row[0] == "two pages")
    monkeypatch.setattr(room, "MAX_PARAMS", 300)
    _, result = drive(made("rapidpro").sweep(row[1], row[2], {key}), [last])

    assert result.trouble is None
    assert [True] * 2 + [False] * 7 == [each.params is not None for each in result.sightings]
    assert {key} == {each.correlation_key for each in result.sightings}


@every_kind
def test_stops_after_a_thousand_pages(kind: str) -> None:
    """A backend whose every page has another next one cannot hold a scan."""
    row = next(row for row in TABLES[kind].sweep if row[0] == "two pages")
    page = row[4][0]
    assert isinstance(page, Reply)
    endless = (
        replace(page, body=re.sub(rb"(cursor|PageToken)=", rb"\1=%d" % n, page.body)) for n in range(2 * MAX_PAGES)
    )
    requests, sweep = drive(made(kind).sweep(row[1], row[2]), endless)

    assert len(requests) == MAX_PAGES
    assert sweep.trouble == Unsure(reason="more than 1000 pages", cause=Cause.UNREADABLE)
