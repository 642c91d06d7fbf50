# ruff: noqa: E501, UP031 - a row is one line, and its braces are JSON's
"""Creating a flow start: what RapidPro answers, byte for byte.

The bodies were captured from nyaruka/rapidpro v26.0.0, with the sandbox's ids put in.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.sandbox.conftest import Client, Clock, Json

FLOW = "f5901b62-ba76-4003-9c62-72fdacc1b7b7"
CONTACT = "f5901b62-ba76-4003-9c62-fjjajdsi15553"
NOBODY = "00000000-0000-4000-8000-000000000000"
TEL = "tel:+250788111222"
SERVER_ERROR = "Server Error. Site administrators have been notified."


def good(**fields: Json) -> dict[str, Any]:
    """A body that is good but for the fields given."""
    return {"flow": FLOW, "contacts": [CONTACT]} | fields


def urn_error(urn: Json) -> str:
    """The message for a bad URN."""
    return f"Invalid URN: {urn}. Ensure phone numbers contain country codes."


# fmt: off
REFUSED: list[tuple[Any, str]] = [
    ({},                                          '{"flow":["This field is required."]}'),
    ({"contacts": [CONTACT]},                     '{"flow":["This field is required."]}'),
    (good(flow=None),                             '{"flow":["This field may not be null."]}'),
    (good(flow=""),                               '{"flow":["This field may not be null."]}'),
    (good(flow=NOBODY),                           '{"flow":["No such object: %s"]}' % NOBODY),
    (good(flow="abcde"),                          '{"flow":["No such object: abcde"]}'),
    (good(flow="Thrift Shop"),                    '{"flow":["No such object: Thrift Shop"]}'),
    (good(flow=12),                               '{"flow":["No such object: 12"]}'),
    (good(flow=FLOW.upper()),                     '{"flow":["No such object: %s"]}' % FLOW.upper()),
    (good(flow=FLOW.replace("-", "")),            '{"flow":["No such object: %s"]}' % FLOW.replace("-", "")),
    (good(flow=[FLOW]),                           '{"flow":["Must be a string or integer"]}'),
    (good(flow={"uuid": FLOW}),                   '{"flow":["Must be a string or integer"]}'),
    ({"flow": FLOW},                              '{"non_field_errors":["Must specify at least one group, contact or URN"]}'),
    ({"flow": FLOW, "urns": [], "groups": []},    '{"non_field_errors":["Must specify at least one group, contact or URN"]}'),
    (good(contacts=["abcde", "fghij"]),           '{"contacts":["No such object: abcde"]}'),
    (good(contacts=[NOBODY]),                     '{"contacts":["No such object: %s"]}' % NOBODY),
    (good(contacts=CONTACT),                      '{"contacts":["Expected a list of items but got type \\"str\\"."]}'),
    (good(contacts=None),                         '{"contacts":["This field may not be null."]}'),
    (good(contacts=[{"uuid": CONTACT}]),          '{"contacts":["Must be a string or integer"]}'),
    (good(contacts=[CONTACT] * 101),              '{"contacts":["Ensure this field has no more than 100 elements."]}'),
    (good(groups=["abcde"]),                      '{"groups":["No such object: abcde"]}'),
    (good(groups=["x"] * 101),                    '{"groups":["Ensure this field has no more than 100 elements."]}'),
    (good(urns=TEL),                              '{"urns":["Expected a list of items but got type \\"str\\"."]}'),
    (good(urns=None),                             '{"urns":["This field may not be null."]}'),
    (good(urns=[TEL] * 101),                      '{"urns":["Ensure this field has no more than 100 elements."]}'),
    (good(urns=[""]),                             '{"urns":{"0":["This field may not be blank."]}}'),
    (good(urns=[None]),                           '{"urns":{"0":["This field may not be null."]}}'),
    (good(urns=[250788111222]),                   '{"urns":{"0":["%s"]}}' % urn_error(250788111222)),
    (good(urns=["foo:bar"]),                      '{"urns":{"0":["%s"]}}' % urn_error("foo:bar")),
    (good(urns=["+250788111222"]),                '{"urns":{"0":["%s"]}}' % urn_error("+250788111222")),
    (good(urns=["tel:abc"]),                      '{"urns":{"0":["%s"]}}' % urn_error("tel:abc")),
    (good(urns=["tel:+25078"]),                   '{"urns":{"0":["%s"]}}' % urn_error("tel:+25078")),
    (good(urns=["whatsapp:+250788123123"]),       '{"urns":{"0":["%s"]}}' % urn_error("whatsapp:+250788123123")),
    (good(urns=[" tel:+250 788 123 123 "]),       '{"urns":{"0":["%s"]}}' % urn_error(" tel:+250 788 123 123 ")),
    (good(urns=[TEL, "foo:bar", "tel:zzz"]),      '{"urns":{"1":["%s"],"2":["%s"]}}' % (urn_error("foo:bar"), urn_error("tel:zzz"))),
    (good(restart_participants="maybe"),          '{"restart_participants":["Must be a valid boolean."]}'),
    (good(restart_participants=None),             '{"restart_participants":["This field may not be null."]}'),
    (good(exclude_active=[1]),                    '{"exclude_active":["Must be a valid boolean."]}'),
    (good(extra="YES"),                           '{"extra":["Must be a valid JSON object"]}'),
    (good(params=[1]),                            '{"params":["Must be a valid JSON object"]}'),
    (good(params=None),                           '{"params":["This field may not be null."]}'),
    (good(params={"foo": "a" * 9990}),            '{"params":["Cannot exceed 10,000 characters encoded."]}'),
    (good(flow="x", urns=[None], params=1, extra=1, exclude_active=9),
        '{"flow":["No such object: x"],"urns":{"0":["This field may not be null."]},"exclude_active":["Must be a valid boolean."],"extra":["Must be a valid JSON object"],"params":["Must be a valid JSON object"]}'),
    ([good()],                                    '{"non_field_errors":["Request body should be a single JSON object"]}'),
    ("hello",                                     '{"non_field_errors":["Request body should be a single JSON object"]}'),
    (b"",                                         '{"flow":["This field is required."]}'),
    (b'{"flow": "x", ',                           '{"detail":"JSON parse error - Expecting property name enclosed in double quotes: line 1 column 15 (char 14)"}'),
    (b'{"flow":"\xff"}',                          '{"detail":"JSON parse error - \'utf-8\' codec can\'t decode byte 0xff in position 9: invalid start byte"}'),
    (b'{"params":{"x":NaN}}',                     '{"detail":"JSON parse error - Out of range float values are not JSON compliant: \'NaN\'"}'),
    (b'{"flow":"%s","urns":["tel:0788111222"],"params":{"x":1e400}}' % FLOW.encode(),
                                                  '{"params":["Value must be valid JSON."]}'),
]
# fmt: on


@pytest.mark.parametrize(("body", "expected"), REFUSED)
async def test_a_bad_body_is_refused_in_rapidpros_words(client: Client, body: Json, expected: str) -> None:
    """Nothing is created, and every byte of the answer is as captured."""
    reply = await client.rapidpro("POST", "flow_starts.json", body)

    assert (400, expected) == (reply.status, reply.text)
    assert client.kinds() == ["request", "answer"]


# fmt: off
BROKEN: list[tuple[str, Any]] = [
    ("contact twice",         good(contacts=[CONTACT, CONTACT])),
    ("group by uuid and name", good(groups=["c24813d2-3bc7-4467-8916-255b6525c6be", "ryan & MACKLEMORE"])),
    ("NUL in params",         good(params={"s": "a\0b"})),
    ("NUL in a key",          good(params={"a\0b": 1})),
    ("lone surrogate",        b'{"flow":"%s","urns":["tel:0788111222"],"params":{"x":"\\ud800"}}' % FLOW.encode()),
    ("nested too deep",       b'{"flow":"%s","params":{"a":%s%s}}' % (FLOW.encode(), b"[" * 3000, b"]" * 3000)),
]
# fmt: on


@pytest.mark.parametrize(("label", "body"), BROKEN, ids=[row[0] for row in BROKEN])
async def test_what_breaks_the_database_is_a_500_without_a_start(client: Client, label: str, body: Json) -> None:
    """The answer is a plain sentence called HTML, the same for every cause."""
    reply = await client.rapidpro("POST", "flow_starts.json", body)

    assert (reply.status, reply.text) == (500, SERVER_ERROR), label
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "created" not in client.kinds()


async def test_a_start_has_rapidpros_keys_in_their_order(client: Client) -> None:
    """URNs are not shown, params have the database's key order, and times their microseconds."""
    params = {"first_name": "Ryan", "n": 1, "big": 12345678901234567890123, "obj": {"a b": 1, "é": 2}, "nul": None}
    reply = await client.start(contacts=[CONTACT], groups=["Ryan & Macklemore"], params=params, exclude_active="1")
    start = reply.json
    shown = '{"n":1,"big":12345678901234567890123,"nul":null,"obj":{"é":2,"a b":1},"first_name":"Ryan"}'

    assert reply.status == 201
    assert reply.text == (
        '{"uuid":"%s","flow":{"uuid":"%s","name":"Thrift Shop"},"status":"pending",'
        '"progress":{"total":-1,"started":0},'
        '"groups":[{"uuid":"c24813d2-3bc7-4467-8916-255b6525c6be","name":"Ryan & Macklemore"}],'
        '"contacts":[{"uuid":"%s","name":"Wanz"}],"params":%s,"created_on":"2026-03-01T12:00:00.250000Z",'
        '"modified_on":"2026-03-01T12:00:00.250000Z","id":1,"extra":%s,"restart_participants":true,'
        '"exclude_active":true}'
    ) % (start["uuid"], FLOW, CONTACT, shown, shown)


async def test_a_time_without_microseconds_has_no_fraction(client: Client, clock: Clock) -> None:
    """As in `2026-03-01T12:00:01Z`."""
    clock.tick(0.75)
    start = (await client.start()).json

    assert start["created_on"] == start["modified_on"] == "2026-03-01T12:00:01Z"


async def test_every_answer_has_rapidpros_headers(client: Client) -> None:
    """No charset, no counters, no Location; Date is the sandbox's own clock."""
    headers = (await client.start()).headers

    assert {
        "Content-Type": "application/json",
        "Allow": "GET, POST, HEAD, OPTIONS",
        "Vary": "Accept, Cookie",
        "Content-Language": "en-us",
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "X-Temba-Workspace": "fa8adbbd-eac7-4cf3-99b6-0cf259bb2c86",
        "Date": "Sun, 01 Mar 2026 12:00:00 GMT",
    }.items() <= dict(headers).items()
    assert "Location" not in headers


# fmt: off
PARAMS: list[tuple[str, dict[str, Any], str]] = [
    ("params win",             {"params": {"p": 1}, "extra": {"e": 1}},  '{"p":1}'),
    ("extra alone",            {"extra": {"e": 1}},                      '{"e":1}'),
    ("empty params",           {"params": {}, "extra": {"e": 1}},        '{"e":1}'),
    ("extra is normalised",    {"extra": {"a b": [1, None]}},            '{"a_b":{"0":1,"1":""}}'),
    ("params are not",         {"params": {"a b": [1, None]}},           '{"a b":[1,null]}'),
    ("floats",                 {"params": {"a": 2.5, "b": 1.0}},         '{"a":2.5,"b":1.0}'),
    ("whole exponents",        {"params": {"a": 1e22}},                  '{"a":10000000000000000000000}'),
    ("line separator",         {"params": {"k": "\u2028"}},              '{"k":"\\u2028"}'),
    ("just fits",              {"params": {"foo": "a" * 9989}},          '{"foo":"%s"}' % ("a" * 9989)),
]
# fmt: on


@pytest.mark.parametrize(("label", "fields", "shown"), PARAMS, ids=[row[0] for row in PARAMS])
async def test_params_come_back_as_the_database_keeps_them(
    client: Client, label: str, fields: dict[str, Any], shown: str
) -> None:
    """`params` and its old name `extra` always show the same."""
    text = (await client.start(**fields)).text

    assert f'"params":{shown},"created_on"' in text, label
    assert f'"extra":{shown},"restart' in text, label


async def test_extra_is_cut_after_256_values(client: Client) -> None:
    """The rest is dropped silently, and strings are cut to 640 characters."""
    extra = {f"k{index:03}": "x" * 700 for index in range(300)}
    text = json.dumps({"flow": FLOW, "urns": [TEL], "extra": dict.fromkeys(extra, "x")})
    kept = (await client.rapidpro("POST", "flow_starts.json", text.encode())).json["params"]
    long = (await client.start(extra={"s": "x" * 700})).json["params"]["s"]

    assert (len(kept), len(long)) == (256, 640)


async def test_a_form_is_taken_with_boxes_unticked(client: Client) -> None:
    """A missing boolean of a form is false, although it defaults to true in JSON."""
    body = f"flow={FLOW}&contacts={CONTACT}".encode()
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    reply = await client.rapidpro("POST", "flow_starts.json", body, headers=form)

    assert (reply.status, reply.json["restart_participants"]) == (201, False)


@pytest.mark.parametrize("media_type", ["text/plain", "application/xml"])
async def test_other_content_types_are_415(client: Client, media_type: str) -> None:
    """The type is named."""
    reply = await client.rapidpro("POST", "flow_starts.json", b"<a/>", headers={"Content-Type": media_type})

    assert (415, f'{{"detail":"Unsupported media type \\"{media_type}\\" in request."}}') == (
        reply.status,
        reply.text,
    )


async def test_uuid_in_the_query_of_a_post(client: Client) -> None:
    """An existing one answers 200 and makes a new start all the same; others are refused."""
    uuid = (await client.start()).json["uuid"]
    again = await client.rapidpro("POST", f"flow_starts.json?uuid={uuid}", good())
    unknown = await client.rapidpro("POST", f"flow_starts.json?uuid={NOBODY}", good())
    invalid = await client.rapidpro("POST", "flow_starts.json?uuid=xyz", good())

    assert again.status == 200
    assert again.json["uuid"] != uuid
    assert (unknown.status, unknown.text) == (404, '{"detail":"No FlowStart matches the given query."}')
    assert (invalid.status, invalid.text) == (400, '{"detail":"Param \'uuid\': xyz is not a valid UUID."}')


async def test_the_same_body_twice_is_two_starts(client: Client) -> None:
    """There is no idempotency of any kind."""
    first, second = (await client.start(idempotency_key="k")).json, (await client.start(idempotency_key="k")).json

    assert first["uuid"] != second["uuid"]
    assert (first["id"], second["id"]) == (1, 2)
