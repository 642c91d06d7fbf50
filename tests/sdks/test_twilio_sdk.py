"""The official Twilio SDK drives the sandbox as it would drive Studio."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from twilio.base.exceptions import TwilioException, TwilioRestException

from gateway.sandbox import (
    SANDBOX_TWILIO_ACCOUNT_SID,
    SANDBOX_TWILIO_API_KEY,
    SANDBOX_TWILIO_API_SECRET,
    SANDBOX_TWILIO_AUTH_TOKEN,
)
from tests.sdks.conftest import STUDIO

if TYPE_CHECKING:
    from collections.abc import Callable

    from twilio.rest import Client
    from twilio.rest.studio.v2.flow.execution import ExecutionInstance, ExecutionList

    from tests.sdks.conftest import Running

FLOW = "FW" + "a" * 32
OTHER_FLOW = "FW" + "b" * 32
NO_FLOW = "FW" + "0" * 32
NO_EXECUTION = "FN" + "0" * 32
TO, FROM = "+12065551212", "+18005551212"
NOON = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def executions(client: Client, flow: str = FLOW) -> ExecutionList:
    """The executions of a flow."""
    return client.studio.v2.flows(flow).executions


def start(client: Client, number: int = 0, flow: str = FLOW, **fields: Any) -> ExecutionInstance:
    """Starts an execution for one of many telephone numbers."""
    return executions(client, flow).create(**{"to": f"+1206555{number:04}", "from_": FROM} | fields)


def read(client: Client, **options: Any) -> list[str]:
    """Lists the sids of a flow's executions."""
    return [execution.sid for execution in executions(client).list(**options)]


def test_an_execution_is_created(twilio: Client) -> None:
    """What the SDK makes of the answer is an execution with all that Studio says of one."""
    made = executions(twilio).create(to=TO, from_=FROM, parameters={"name": "Ünï", "n": [1, None]})

    assert "FN" == made.sid[:2]
    assert 34 == len(made.sid)
    assert (SANDBOX_TWILIO_ACCOUNT_SID, FLOW, TO) == (made.account_sid, made.flow_sid, made.contact_channel_address)
    assert ("active", 1, {}) == (made.status, made.flow_version, made.context)
    assert (NOON, NOON) == (made.date_created, made.date_updated)
    assert ("FC", "RQ") == (made.contact_sid[:2], made.initiated_by[:2])
    assert {"steps": f"{made.url}/Steps", "execution_context": f"{made.url}/Context"} == made.links


def test_the_answer_names_its_request(twilio: Client) -> None:
    """The header and the execution say the same request, and the status is 201."""
    answer = executions(twilio).create_with_http_info(to=TO, from_=FROM)

    assert 201 == answer.status_code
    assert answer.data.initiated_by == answer.headers["Twilio-Request-Id"]
    assert "1" == answer.headers["Twilio-Concurrent-Requests"]


def test_links_lead_back_to_the_sandbox(running: Running, twilio: Client) -> None:
    """URLs in bodies are absolute, and this server's own."""
    made = start(twilio)
    flow = twilio.studio.v2.flows(FLOW).fetch()
    step = executions(twilio)(made.sid).steps.list()[0]

    for url in (made.url, *made.links.values(), flow.url, *flow.links.values(), step.url, *step.links.values()):
        assert url.startswith(f"{running.sandbox.twilio_url}/v2/Flows/{FLOW}")


def test_an_execution_is_fetched_until_it_has_ended(running: Running, twilio: Client) -> None:
    """Active while it runs, ended when it is over; date_updated says since when."""
    made = start(twilio)
    running.clock.tick(9)
    assert ("active", NOON) == (made.fetch().status, made.fetch().date_updated)

    running.clock.tick(1)
    ended = executions(twilio)(made.sid).fetch()
    assert (made.sid, "ended", NOON + timedelta(seconds=10)) == (ended.sid, ended.status, ended.date_updated)


def test_the_context_has_the_parameters_twice(twilio: Client) -> None:
    """Parameters are found in the flow's data and in the trigger's request, as they were given."""
    parameters = {"gw_request_id": "r1", "name": "Ünï", "list": [1, 2.5, None, True], "deep": {"a": {}}}
    made = start(twilio, to=TO, parameters=parameters)

    found = made.execution_context().fetch()

    assert (FLOW, made.sid) == (found.flow_sid, found.execution_sid)
    assert f"{made.url}/Context" == found.url
    assert parameters == found.context["flow"]["data"]
    assert parameters == found.context["trigger"]["request"]["parameters"]
    assert (made.sid, FLOW) == (found.context["flow"]["sid"], found.context["flow"]["flow_sid"])
    assert (FROM, TO) == (found.context["flow"]["channel"]["address"], found.context["contact"]["channel"]["address"])


def test_parameters_given_as_text_are_sent_as_they_are(twilio: Client) -> None:
    """A caller who encodes for himself is understood; who encodes twice has text, and none has nothing."""
    contexts = []
    for number, parameters in enumerate(['{"a": 1}', '"{\\"a\\": 1}"']):
        made = start(twilio, number, parameters=parameters)
        contexts.append(made.execution_context().fetch().context["flow"]["data"])
    contexts.append(start(twilio, 9).execution_context().fetch().context["flow"]["data"])

    assert [{"a": 1}, '{"a": 1}', {}] == contexts


def test_steps_show_how_far_it_is_and_how_it_went(running: Running, twilio: Client) -> None:
    """A step appears when a widget is left; that it failed shows in the name of the last one only."""
    good, bad = start(twilio, 1), start(twilio, 2, parameters={"sandbox": "fail"})
    first = [("incomingRequest", "Trigger", "send_message_1", "trigger")]

    def steps(of: ExecutionInstance) -> list[tuple[str, ...]]:
        found = sorted(of.steps.list(), key=lambda step: step.date_created)
        assert {(of.sid, "FT")} == {(step.execution_sid, step.sid[:2]) for step in found}
        return [(step.name, step.transitioned_from, step.transitioned_to, step.type) for step in found]

    assert first == steps(good)
    running.clock.tick(10)
    assert [*first, ("sent", "send_message_1", "Ended", "send-message")] == steps(good)
    assert [*first, ("failed", "send_message_1", "Ended", "send-message")] == steps(bad)
    assert ("ended", "ended") == (good.fetch().status, bad.fetch().status)


def test_a_caller_can_end_an_execution(running: Running, twilio: Client) -> None:
    """Ended once or twice it is ended, and its contact is free for another."""
    made = start(twilio)

    assert "ended" == made.update(status="ended").status
    assert "ended" == executions(twilio)(made.sid).update(status="ended").status
    assert "ended" == made.fetch().status
    assert made.sid != start(twilio).sid
    assert [made.sid, made.sid] == [entry["external_id"] for entry in running.journal("ended")]


def test_a_deleted_execution_is_gone(twilio: Client) -> None:
    """Neither it nor its steps are found, and its contact is free for another."""
    made = start(twilio)

    assert made.delete()
    gone = [made.fetch, made.steps.list, made.execution_context().fetch, made.delete]
    assert [404] * 4 == [status_of(ask) for ask in gone]
    assert [] == read(twilio)
    assert made.sid != start(twilio).sid


def status_of(ask: Callable[[], Any]) -> int:
    """The HTTP status of a refusal, which the SDK keeps elsewhere when it read a list."""
    with pytest.raises(TwilioException) as refused:
        ask()
    error = refused.value
    return error.status if isinstance(error, TwilioRestException) else error.args[1].status_code


def test_a_flow_is_fetched(twilio: Client) -> None:
    """A flow is published and valid: a way to try credentials and flow before anything is started."""
    flow = twilio.studio.v2.flows(FLOW).fetch()

    assert (FLOW, SANDBOX_TWILIO_ACCOUNT_SID) == (flow.sid, flow.account_sid)
    assert ("published", 1, True) == (flow.status, flow.revision, flow.valid)
    assert [FLOW, OTHER_FLOW] == [listed.sid for listed in twilio.studio.v2.flows.list()]
    assert [FLOW, OTHER_FLOW] == [listed.sid for listed in twilio.studio.v2.flows.list(page_size=1)]


def test_lists_are_of_one_flow_newest_first(running: Running, twilio: Client) -> None:
    """Another flow's executions are not in the list."""
    made = []
    for number in range(3):
        made.append(start(twilio, number).sid)
        start(twilio, 10 + number, OTHER_FLOW)  # another contact: one is busy across flows
        running.clock.tick(1)

    assert made[::-1] == read(twilio)
    assert 3 == len(executions(twilio, OTHER_FLOW).list())
    assert [] == executions(twilio, "FW" + "c" * 32).list()


def test_pages_follow_one_another_on_the_sandboxs_own_host(running: Running, twilio: Client) -> None:
    """The SDK asks for the first page at Studio, and for the others where next_page_url leads: to this server."""
    made = [start(twilio, number).sid for number in range(7)]
    asked = twilio.http_client.asked
    asked.clear()

    assert made[::-1] == read(twilio, page_size=3)

    assert [STUDIO, running.sandbox.twilio_url, running.sandbox.twilio_url] == [
        "{0.scheme}://{0.netloc}".format(urlsplit(url)) for url in asked
    ]
    assert [{"PageSize": ["3"], "Page": ["1"]}, {"PageSize": ["3"], "Page": ["2"]}] == [
        {name: values for name, values in parse_qs(urlsplit(url).query).items() if name != "PageToken"}
        for url in asked[1:]
    ]


@pytest.mark.parametrize(("page_size", "pages"), [(1, 5), (2, 3), (4, 2), (5, 1), (1000, 1), (None, 1)])
def test_every_page_size_shows_everything_once(twilio: Client, page_size: int | None, pages: int) -> None:
    """A page that is full to the last row need not be followed by an empty one."""
    made = [start(twilio, number).sid for number in range(5)]
    options = {} if page_size is None else {"page_size": page_size}
    twilio.http_client.asked.clear()

    assert made[::-1] == read(twilio, **options)
    assert pages == len(twilio.http_client.asked)


def test_a_stream_reads_no_more_than_it_needs(twilio: Client) -> None:
    """Rows come one by one; a limit stops them, and the pages."""
    made = [start(twilio, number).sid for number in range(6)]
    twilio.http_client.asked.clear()

    rows = executions(twilio).stream(page_size=2)
    assert made[:-4:-1] == [next(rows).sid for _ in range(3)]
    assert 2 == len(twilio.http_client.asked)
    assert made[:-4:-1] == [row.sid for row in executions(twilio).stream(limit=3, page_size=2)]
    assert made[:-3:-1] == read(twilio, limit=2)


def test_a_page_can_be_kept_and_turned(twilio: Client) -> None:
    """A page is reached again by its URL; it is an offset, so a new execution moves what comes after it."""
    made = [start(twilio, number).sid for number in range(4)]
    first = executions(twilio).page(page_size=2)
    url = first.next_page_url
    start(twilio, 9)

    assert made[:1:-1] == [row.sid for row in first]
    assert made[2:0:-1] == [row.sid for row in first.next_page()]
    second = executions(twilio).get_page(url)
    assert made[2:0:-1] == [row.sid for row in second]
    third = second.next_page()
    assert made[:1] == [row.sid for row in third]
    assert third.next_page() is None


def test_more_than_the_default_page_is_listed(twilio: Client) -> None:
    """Without a page size there are fifty rows to a page."""
    made = [start(twilio, number).sid for number in range(60)]
    twilio.http_client.asked.clear()

    assert made[::-1] == read(twilio)
    assert 2 == len(twilio.http_client.asked)


def test_dates_bound_from_the_first_to_before_the_second(running: Running, twilio: Client) -> None:
    """On or after the one, before the other, in whole seconds; the filters hold for every page."""
    made = []
    for number in range(5):
        made.append(start(twilio, number).sid)
        running.clock.tick(1)
    times = [NOON + timedelta(seconds=seconds) for seconds in range(5)]

    assert made[:1:-1] == read(twilio, date_created_from=times[2])
    assert made[1::-1] == read(twilio, date_created_to=times[2])
    assert [made[2], made[1]] == read(twilio, date_created_from=times[1], date_created_to=times[3])
    assert [made[2], made[1]] == read(twilio, date_created_from=times[1], date_created_to=times[3], page_size=1)
    assert [] == read(twilio, date_created_from=times[3], date_created_to=times[1])


@pytest.mark.parametrize("page_size", [1, 50])
def test_a_status_is_filtered_for(running: Running, twilio: Client, page_size: int) -> None:
    """`status` is the one query parameter in lower case; it holds for every page, and beside a date."""
    early = [start(twilio, number).sid for number in range(2)]
    running.clock.tick(10)
    late = [start(twilio, number).sid for number in range(2)]

    assert early[::-1] == read(twilio, status="ended", page_size=page_size)
    assert late[::-1] == read(twilio, status="active", page_size=page_size)
    assert [] == read(twilio, status="active", date_created_to=NOON + timedelta(seconds=10), page_size=page_size)
    assert late[::-1] + early[::-1] == read(twilio, page_size=page_size)


def refusal(ask: Callable[[], Any]) -> tuple[int, int, str]:
    """What the SDK says of a refusal: status, code, message."""
    with pytest.raises(TwilioRestException) as refused:
        ask()
    error = refused.value
    return error.status, error.code, error.msg


# fmt: off
STRANGERS: list[tuple[str, str | None, str | None, str]] = [
    ("no token",       SANDBOX_TWILIO_ACCOUNT_SID, None,                      "No credentials provided"),
    ("wrong token",    SANDBOX_TWILIO_ACCOUNT_SID, "wrong",                   "Authenticate"),
    ("wrong account",  "AC" + "0" * 32,            SANDBOX_TWILIO_AUTH_TOKEN, "invalid username"),
    ("wrong secret",   SANDBOX_TWILIO_API_KEY,     SANDBOX_TWILIO_AUTH_TOKEN, "Authenticate"),
]
# fmt: on


@pytest.mark.parametrize(
    ("username", "password", "words"), [row[1:] for row in STRANGERS], ids=[r[0] for r in STRANGERS]
)
def test_who_is_not_known_gets_20003(
    running: Running, connect_twilio: Callable[..., Client], username: str, password: str | None, words: str
) -> None:
    """Credentials are looked at before anything else."""
    client = connect_twilio(running, username, password)

    for ask in (
        lambda: start(client),
        lambda: start(client, flow=NO_FLOW),
        executions(client)(NO_EXECUTION).fetch,
        client.studio.v2.flows(FLOW).fetch,
    ):
        status, code, message = refusal(ask)
        assert (401, 20003) == (status, code)
        assert message.endswith(words)
    assert 401 == status_of(executions(client).list)
    assert [] == running.journal("created")


def test_an_api_key_does_as_well(running: Running, connect_twilio: Callable[..., Client]) -> None:
    """With a key and its secret the account is implied."""
    client = connect_twilio(running, SANDBOX_TWILIO_API_KEY, SANDBOX_TWILIO_API_SECRET)

    assert SANDBOX_TWILIO_ACCOUNT_SID == start(client).account_sid


@pytest.mark.parametrize(
    ("fields", "missing"), [({"to": None}, "To"), ({"from_": None}, "From"), ({"to": ""}, "To")], ids=str
)
def test_what_is_missing_is_20001(running: Running, twilio: Client, fields: dict[str, Any], missing: str) -> None:
    """The SDK leaves out what is None; Studio says what it missed."""
    message = f"Unable to create record: Missing required parameter {missing} in the post body"

    assert (400, 20001, message) == refusal(lambda: start(twilio, **fields))
    assert [] == running.journal("created")


def test_what_is_wrong_is_20001(twilio: Client) -> None:
    """Parameters that are not JSON, and a status that is not ended, are the caller's mistakes."""
    made = start(twilio)

    assert (400, 20001) == refusal(lambda: start(twilio, 1, parameters="{not json"))[:2]
    assert (400, 20001) == refusal(lambda: made.update(status="active"))[:2]
    assert 400 == status_of(lambda: executions(twilio).page(page_size=0))
    assert "active" == made.fetch().status


@pytest.mark.parametrize("flow", [NO_FLOW, "FW123", "Thrift Shop"])
def test_an_unknown_flow_is_20404(twilio: Client, flow: str) -> None:
    """A flow that is not there and a sid that is none are the same to Studio, which names the path."""
    status, code, message = refusal(lambda: start(twilio, flow=flow))
    assert (404, 20404) == (status, code)
    if flow == NO_FLOW:
        assert message.endswith(f"The requested resource /v2/Flows/{flow}/Executions was not found")
    assert (404, 20404) == refusal(twilio.studio.v2.flows(flow).fetch)[:2]
    assert 404 == status_of(executions(twilio, flow).list)


def test_an_unknown_execution_is_20404(twilio: Client) -> None:
    """Nor is an execution found under a flow that is not its own."""
    made = start(twilio)

    for sid in (NO_EXECUTION, "FN123"):
        found = executions(twilio)(sid)
        for ask in (found.fetch, found.delete, lambda it=found: it.update(status="ended")):
            assert (404, 20404) == refusal(ask)[:2]
        assert 404 == status_of(found.steps.list)
    assert (404, 20404) == refusal(executions(twilio, OTHER_FLOW)(made.sid).fetch)[:2]


def test_a_contact_that_is_busy_is_20409(running: Running, twilio: Client) -> None:
    """One active execution at a time for To and From, across flows; the message names it."""
    made = start(twilio)

    message = f"Unable to create record: Execution {made.sid} is already active for this contact"
    assert (409, 20409, message) == refusal(lambda: start(twilio))
    assert (409, 20409, message) == refusal(lambda: start(twilio, flow=OTHER_FLOW))
    start(twilio, 1)
    start(twilio, from_="+18005550000")
    running.clock.tick(10)
    assert "active" == start(twilio).status


def test_too_many_creates_are_20429_and_make_nothing(
    run_sandbox: Callable[..., Running], connect_twilio: Callable[..., Client]
) -> None:
    """Creates have a rate, reads have none; a second later there is room again."""
    running = run_sandbox(twilio_creates_per_second=2, twilio_retry_after=True)
    client = connect_twilio(running)
    made = [start(client, number).sid for number in range(2)]

    for _ in range(3):
        assert (429, 20429, "Unable to create record: Too Many Requests") == refusal(lambda: start(client, 9))
    assert "1" == client.http_client._test_only_last_response.headers["Retry-After"]
    assert made[::-1] == read(client)
    running.clock.tick(1)
    assert "active" == start(client, 9).status
    assert 3 == len(running.journal("created"))


def test_a_list_that_is_refused_says_so_in_its_response_only(running: Running, twilio: Client) -> None:
    """Of a list the SDK raises its plainest error, with the response beside it."""
    running.fault("twilio", "throttled", times=1)

    with pytest.raises(TwilioException) as refused:
        executions(twilio).list()

    assert not isinstance(refused.value, TwilioRestException)
    assert (429, "1") == (refused.value.args[1].status_code, refused.value.args[1].headers["Retry-After"])


# What each fault is to the SDK, and how many executions there are afterwards.
# fmt: off
BROKEN: list[tuple[str, int, int | None, int]] = [
    ("500_before_commit",             500, 20500, 0),
    ("500_after_commit",              500, 20500, 1),
    ("html_502",                      502, 502,   0),
    ("throttled",                     429, 20429, 0),
    ("throttled_without_retry_after", 429, 20429, 0),
    ("unauthorized",                  401, 20003, 0),
    ("suspended",                     403, 20005, 0),
]
LOST: list[tuple[str, type[Exception], int]] = [
    ("reset_before_commit", requests.exceptions.ConnectionError,       0),
    ("reset_after_commit",  requests.exceptions.ConnectionError,       1),
    ("truncated_201",       requests.exceptions.ChunkedEncodingError,  1),
]
# fmt: on


@pytest.mark.parametrize(("preset", "status", "code", "made"), BROKEN, ids=[row[0] for row in BROKEN])
def test_a_refusal_that_was_asked_for_is_the_sdks_own_error(
    running: Running, twilio: Client, preset: str, status: int, code: int, made: int
) -> None:
    """A refusal has Twilio's code, or the HTTP status if a proxy wrote it; what was made shows in the list."""
    running.fault("twilio", preset, times=1)

    assert (status, code) == refusal(lambda: start(twilio))[:2]
    assert made == len(read(twilio))


@pytest.mark.parametrize(("preset", "error", "made"), LOST, ids=[row[0] for row in LOST])
def test_a_lost_answer_says_nothing_of_what_was_made(
    running: Running, twilio: Client, preset: str, error: type[Exception], made: int
) -> None:
    """What breaks below HTTP is not Twilio's error; the SDK does not try again by itself."""
    running.fault("twilio", preset, times=1)

    with pytest.raises(error):
        start(twilio)

    assert made == len(read(twilio))
    assert 1 == sum(entry["method"] == "POST" for entry in running.journal("request"))
