"""The official RapidPro SDK, `rapidpro-python`, drives the sandbox as it would drive RapidPro."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import requests
from temba_client.exceptions import (
    TembaBadRequestError,
    TembaConnectionError,
    TembaException,
    TembaHttpError,
    TembaNoSuchObjectError,
    TembaRateExceededError,
    TembaTokenError,
)
from temba_client.v2.types import FlowStart

if TYPE_CHECKING:
    from collections.abc import Callable

    from temba_client.v2 import TembaClient

    from tests.sdks.conftest import Running

FLOW = "f5901b62-ba76-4003-9c62-72fdacc1b7b7"
ARCHIVED = "2f709286-11fe-41e1-84fe-40b01018a1ea"
CONTACT = "f1ea776e-c923-4c1a-b3a3-0c466932b2cc"
GROUP = "c24813d2-3bc7-4467-8916-255b6525c6be"
NOBODY = "00000000-0000-4000-8000-000000000000"
URN = "tel:+12065551212"
NOON = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)


def start(client: TembaClient, **fields: Any) -> FlowStart:
    """Starts a flow for one telephone number."""
    return client.create_flow_start(**{"flow": FLOW, "urns": [URN]} | fields)


def between(client: TembaClient, **bounds: datetime) -> list[str]:
    """Lists the starts between two times, as the SDK asks for messages or runs: for starts it has no arguments."""
    query = client._get_query("flow_starts", client._build_params(**bounds), FlowStart)
    return [row.uuid for row in query.all()]


def test_a_start_is_created_with_every_argument(rapidpro: TembaClient) -> None:
    """All that the SDK can say of a start is understood, and comes back as RapidPro would show it."""
    params = {"gw_request_id": "r1", "names": ["Ann", "Ünï"], "n": 1.5, "deep": {"ok": True}, "none": None}
    made = rapidpro.create_flow_start(
        flow=FLOW,
        urns=[URN, "mailto:ann@example.com"],
        contacts=[CONTACT],
        groups=[GROUP],
        restart_participants=False,
        exclude_active=True,
        params=params,
    )

    assert (FLOW, "Thrift Shop") == (made.flow.uuid, made.flow.name)
    assert "pending" == made.status
    assert [(CONTACT, "Wanz")] == [(contact.uuid, contact.name) for contact in made.contacts]
    assert [(GROUP, "Ryan & Macklemore")] == [(group.uuid, group.name) for group in made.groups]
    assert (False, True) == (made.restart_participants, made.exclude_active)
    assert params == made.params
    assert (NOON, NOON) == (made.created_on, made.modified_on)


def test_the_sdk_sends_its_booleans_as_numbers(running: Running, rapidpro: TembaClient) -> None:
    """One and zero are booleans to RapidPro, and what the SDK sends."""
    start(rapidpro, restart_participants=True, exclude_active=False)

    (request,) = running.journal("request")
    (created,) = running.journal("created")
    sent = json.loads(request["body"])
    assert "[1, 0]" == json.dumps([sent["restart_participants"], sent["exclude_active"]])
    assert (True, False) == (created["restart_participants"], created["exclude_active"])


def test_urns_are_taken_and_never_shown(running: Running, rapidpro: TembaClient) -> None:
    """A start for URNs alone has neither contacts nor groups to show."""
    made = start(rapidpro)

    assert ([], [], {}) == (made.contacts, made.groups, made.params)
    assert [[URN]] == [entry["urns"] for entry in running.journal("created")]


def test_an_object_of_the_sdk_stands_for_its_uuid(rapidpro: TembaClient) -> None:
    """What one call returned can be given to the next."""
    flow = rapidpro.get_flows(uuid=FLOW).first()

    assert FLOW == start(rapidpro, flow=flow).flow.uuid


def test_a_start_is_fetched_by_its_uuid_until_it_is_complete(running: Running, rapidpro: TembaClient) -> None:
    """The SDK polls one start from pending to completed; modified_on moves with it."""
    made = start(rapidpro)
    start(rapidpro)

    seen = []
    for seconds in (0, 2, 2, 10):
        running.clock.tick(seconds)
        found = rapidpro.get_flow_starts(uuid=made.uuid).all()
        assert [made.uuid] == [row.uuid for row in found]
        seen.append((found[0].status, found[0].modified_on - NOON))

    assert [
        ("pending", timedelta()),
        ("queued", timedelta(seconds=1)),
        ("started", timedelta(seconds=3)),
        ("completed", timedelta(seconds=10)),
    ] == seen


def test_the_old_generation_is_driven_as_well(
    run_sandbox: Callable[..., Running], connect_rapidpro: Callable[..., TembaClient]
) -> None:
    """RapidPro 9.0 has other status words, merges who is named twice, and cuts params down."""
    running = run_sandbox(rapidpro_generation="old")
    client = connect_rapidpro(running)

    made = start(client, contacts=[CONTACT, CONTACT], params={"correlation-id": ["a", None]})
    assert {"correlation_id": {"0": "a", "1": ""}} == made.params
    assert [CONTACT] == [contact.uuid for contact in made.contacts]
    assert made.created_on < made.modified_on
    seen = [made.status]
    for seconds in (1, 9):
        running.clock.tick(seconds)
        seen.append(client.get_flow_starts(uuid=made.uuid).first().status)
    assert ["pending", "starting", "complete"] == seen
    assert "eng" == client.get_org().primary_language
    with pytest.raises(TembaBadRequestError) as refused:
        client.get_flow_starts(uuid="xyz").all()
    assert "Value for uuid must be a valid UUID" == str(refused.value)


def test_a_start_that_is_not_there_is_an_empty_list(rapidpro: TembaClient) -> None:
    """An unknown uuid is no error to RapidPro."""
    assert rapidpro.get_flow_starts(uuid=NOBODY).first() is None
    assert [] == rapidpro.get_flow_starts().all()


def test_after_and_before_are_both_inclusive(running: Running, rapidpro: TembaClient) -> None:
    """The SDK writes its times with six decimals and Z; the list is bounded by modified_on."""
    made = []
    for _ in range(4):
        made.append(start(rapidpro, params={"sandbox": "stick_pending"}).uuid)
        running.clock.tick(1)
    times = [NOON + timedelta(seconds=seconds) for seconds in range(4)]

    assert made[::-1] == between(rapidpro)
    assert [made[3], made[2], made[1]] == between(rapidpro, after=times[1])
    assert [made[1], made[0]] == between(rapidpro, before=times[1])
    assert [made[2], made[1]] == between(rapidpro, after=times[1], before=times[2])
    assert [made[2]] == between(rapidpro, after=times[1] + timedelta(microseconds=1), before=times[2])
    assert [] == between(rapidpro, after=times[2], before=times[1])


@pytest.mark.parametrize("apart", [0, 0.001], ids=["all at once", "one after the other"])
def test_the_sdk_goes_through_more_than_a_page(running: Running, rapidpro: TembaClient, apart: float) -> None:
    """Pages of 250 are followed by their cursors: every start once, newest first, also if they share their time."""
    made = []
    for _ in range(260):
        made.append(start(rapidpro, params={"sandbox": "stick_pending"}).uuid)
        running.clock.tick(apart)

    pages = [[row.uuid for row in page] for page in rapidpro.get_flow_starts().iterfetches()]

    assert [250, 10] == [len(page) for page in pages]
    assert made[::-1] == pages[0] + pages[1]

    fetches = rapidpro.get_flow_starts().iterfetches()
    next(fetches)
    resumed = rapidpro.get_flow_starts().iterfetches(resume_cursor=fetches.get_cursor())
    assert [pages[1]] == [[row.uuid for row in page] for page in resumed]
    assert resumed.get_cursor() is None


def test_flows_are_listed(rapidpro: TembaClient) -> None:
    """A flow has what the SDK looks for, archived ones too; with a uuid there is that one or none."""
    flows = {flow.uuid: flow for flow in rapidpro.get_flows().all()}

    assert ("Thrift Shop", "message", False) == (flows[FLOW].name, flows[FLOW].type, flows[FLOW].archived)
    assert flows[ARCHIVED].archived
    assert (0, 0) == (flows[FLOW].runs.active, flows[FLOW].runs.completed)
    assert ([], []) == (flows[FLOW].labels, flows[FLOW].results)
    assert UTC == flows[FLOW].created_on.tzinfo
    assert [FLOW] == [flow.uuid for flow in rapidpro.get_flows(uuid=FLOW).all()]
    assert [] == rapidpro.get_flows(uuid=NOBODY).all()


def test_the_workspace_is_the_sdks_org(rapidpro: TembaClient) -> None:
    """The workspace answers by its old name too."""
    org = rapidpro.get_org()

    assert ("Sandbox", "US", ["eng"], False) == (org.name, org.country, org.languages, org.anon)
    assert ("America/Los_Angeles", "month_first") == (org.timezone, org.date_style)


def test_an_archived_flow_is_accepted_and_fails(running: Running, rapidpro: TembaClient) -> None:
    """RapidPro looks at a flow's archive only after it answered."""
    made = start(rapidpro, flow=ARCHIVED)
    running.clock.tick(10)

    assert ("pending", "failed") == (made.status, rapidpro.get_flow_starts(uuid=made.uuid).first().status)


@pytest.mark.parametrize("token", ["", "nobody's", "two words"])
def test_a_bad_token_is_a_token_error(
    running: Running, connect_rapidpro: Callable[..., TembaClient], token: str
) -> None:
    """RapidPro says 403 to whom it does not know, whatever is asked."""
    client = connect_rapidpro(running, token)

    with pytest.raises(TembaTokenError):
        start(client)
    with pytest.raises(TembaTokenError):
        client.get_flow_starts().all()
    with pytest.raises(TembaTokenError):
        client.get_org()
    assert [] == running.journal("created")


RECIPIENTS = "Must specify at least one group, contact or URN"
BAD_URN = "Invalid URN: {}. Ensure phone numbers contain country codes."
SUSPENDED = (
    "Sorry, your workspace is currently suspended. To re-enable starting flows and sending messages,"
    " please contact support."
)
# The words are RapidPro's own, from its answers to the same requests (rapidpro.md 2.3).
# fmt: off
REFUSED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("unknown flow",    {"flow": NOBODY},                      {"flow": [f"No such object: {NOBODY}"]}),
    ("flow by name",    {"flow": "Thrift Shop"},               {"flow": ["No such object: Thrift Shop"]}),
    ("no flow",         {"flow": None},                        {"flow": ["This field is required."]}),
    ("no recipients",   {"urns": []},                          {"non_field_errors": [RECIPIENTS]}),
    ("unknown contact", {"contacts": [CONTACT, NOBODY]},       {"contacts": [f"No such object: {NOBODY}"]}),
    ("unknown group",   {"groups": [NOBODY]},                  {"groups": [f"No such object: {NOBODY}"]}),
    ("bad urns",        {"urns": [URN, "foo:bar", "tel:12"]},  {"urns": {"1": [BAD_URN.format("foo:bar")],
                                                                         "2": [BAD_URN.format("tel:12")]}}),
    ("too many urns",   {"urns": [URN] * 101},       {"urns": ["Ensure this field has no more than 100 elements."]}),
    ("params a list",   {"params": ["a"]},                     {"params": ["Must be a valid JSON object"]}),
    ("params too long", {"params": {"a": "b" * 10_000}}, {"params": ["Cannot exceed 10,000 characters encoded."]}),
    ("several",         {"flow": "no", "urns": "tel:1"},       {"flow": ["No such object: no"], "urns": [
                                                        'Expected a list of items but got type "str".']}),
]
# fmt: on


@pytest.mark.parametrize(("fields", "errors"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_bad_start_is_a_bad_request(
    running: Running, rapidpro: TembaClient, fields: dict[str, Any], errors: dict[str, Any]
) -> None:
    """The SDK hands on RapidPro's errors, field by field."""
    with pytest.raises(TembaBadRequestError) as refused:
        start(rapidpro, **fields)

    assert errors == refused.value.errors
    assert [] == running.journal("created")


def test_a_bad_uuid_is_a_bad_request(rapidpro: TembaClient) -> None:
    """A uuid that is not one is refused, and the SDK can say so in words."""
    with pytest.raises(TembaBadRequestError) as refused:
        rapidpro.get_flow_starts(uuid="xyz").all()

    assert {"detail": "Param 'uuid': xyz is not a valid UUID."} == refused.value.errors
    assert "Param 'uuid': xyz is not a valid UUID." == str(refused.value)


def test_a_suspended_workspace_is_a_bad_request(running: Running, rapidpro: TembaClient) -> None:
    """A suspended workspace answers 400 to a start, though the caller did nothing wrong."""
    running.fault("rapidpro", "suspended")

    with pytest.raises(TembaBadRequestError) as refused:
        start(rapidpro)

    assert {"non_field_errors": [SUSPENDED]} == refused.value.errors
    assert "Sandbox" == rapidpro.get_org().name


def test_what_is_not_there_is_no_such_object(rapidpro: TembaClient) -> None:
    """A 404 is its own error, whether its body is JSON or a page."""
    with pytest.raises(TembaNoSuchObjectError):
        next(rapidpro.get_flow_starts().iterfetches(resume_cursor="nonsense-"))
    with pytest.raises(TembaNoSuchObjectError):
        rapidpro.get_archives().all()


def test_the_workspaces_requests_are_throttled_together(
    run_sandbox: Callable[..., Running], connect_rapidpro: Callable[..., TembaClient]
) -> None:
    """Everything counts to one window; refused requests count, throttled ones and bad tokens do not."""
    running = run_sandbox(rapidpro_requests_per_hour=3)
    client = connect_rapidpro(running)
    with pytest.raises(TembaTokenError):
        connect_rapidpro(running, "nobody's").get_org()
    start(client)
    client.get_flows().all()
    with pytest.raises(TembaBadRequestError):
        start(client, flow=NOBODY)
    running.clock.tick(600)

    for _ in range(2):
        with pytest.raises(TembaRateExceededError) as throttled:
            start(client)
        assert 3000 == throttled.value.retry_after
        assert "Please wait 3000 seconds" in str(throttled.value)
    assert 1 == len(running.journal("created"))

    running.clock.tick(3000)
    assert 1 == len(client.get_flow_starts().all())


@pytest.mark.parametrize(
    ("preset", "seconds"), [("throttled", 1), ("throttled_without_retry_after", 0)], ids=["said", "not said"]
)
def test_when_to_come_back_is_said_or_not(running: Running, rapidpro: TembaClient, preset: str, seconds: int) -> None:
    """Without Retry-After the SDK takes the wait for none; nothing is made either way."""
    running.fault("rapidpro", preset, times=2)

    with pytest.raises(TembaRateExceededError) as throttled:
        start(rapidpro)
    assert seconds == throttled.value.retry_after
    with pytest.raises(TembaRateExceededError):
        rapidpro.get_flow_starts().all()
    assert [] == rapidpro.get_flow_starts().all()


# What each fault is to the SDK, and how many starts there are afterwards.
# fmt: off
BROKEN: list[tuple[str, type[Exception], int]] = [
    ("500_before_commit",   TembaHttpError,                            0),
    ("500_after_commit",    TembaHttpError,                            1),
    ("html_502",            TembaHttpError,                            0),
    ("reset_before_commit", TembaConnectionError,                      0),
    ("reset_after_commit",  TembaConnectionError,                      1),
    ("truncated_201",       requests.exceptions.ChunkedEncodingError,  1),
]
# fmt: on


@pytest.mark.parametrize(("preset", "error", "made"), BROKEN, ids=[row[0] for row in BROKEN])
def test_a_broken_answer_says_nothing_of_what_was_made(
    running: Running, rapidpro: TembaClient, preset: str, error: type[Exception], made: int
) -> None:
    """After a server error, a lost or a torn answer there is a start or there is none."""
    running.fault("rapidpro", preset, times=1)

    with pytest.raises(error):
        start(rapidpro, params={"gw_request_id": "r1"})

    assert [{"gw_request_id": "r1"}] * made == [row.params for row in rapidpro.get_flow_starts().all()]


def test_what_the_database_cannot_hold_is_a_server_error(running: Running, rapidpro: TembaClient) -> None:
    """NUL, a lone surrogate, or someone named twice: RapidPro answers 500 each time and makes nothing."""
    for fields in ({"params": {"a": "\0"}}, {"params": {"a": "\ud800"}}, {"contacts": [CONTACT, CONTACT]}):
        with pytest.raises(TembaHttpError) as broken:
            start(rapidpro, **fields)
        response = broken.value.caused_by.response
        assert (500, "Server Error. Site administrators have been notified.") == (response.status_code, response.text)
    assert [] == running.journal("created")


def test_every_error_of_the_api_is_the_sdks_own(running: Running, rapidpro: TembaClient) -> None:
    """Whoever catches TembaException catches all that RapidPro itself can answer."""
    for preset in ("unauthorized", "throttled", "suspended", "500_before_commit", "html_502"):
        running.fault("rapidpro", preset, times=1)
        with pytest.raises(TembaException):
            start(rapidpro)
    assert "pending" == start(rapidpro).status


def test_a_start_that_was_just_made_may_not_be_there_yet(running: Running, rapidpro: TembaClient) -> None:
    """Lists are read from a replica that can be behind."""
    running.fault("rapidpro", "lag")
    made = start(rapidpro)

    assert [] == rapidpro.get_flow_starts().all()
    assert rapidpro.get_flow_starts(uuid=made.uuid).first() is None
    running.clock.tick(5)
    assert [made.uuid] == [row.uuid for row in rapidpro.get_flow_starts().all()]
