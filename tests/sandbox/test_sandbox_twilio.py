# ruff: noqa: E501 - a row is one line
"""Twilio Studio: creating, reading and ending executions, byte for byte where it is known."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import aiohttp
import pytest

from gateway.sandbox import (
    SANDBOX_TWILIO_ACCOUNT_SID,
    SANDBOX_TWILIO_API_KEY,
    SANDBOX_TWILIO_API_SECRET,
    SANDBOX_TWILIO_AUTH_TOKEN,
    Sandbox,
    SandboxSettings,
)

if TYPE_CHECKING:
    from tests.sandbox.conftest import Client, Clock, Json

FLOW = "FW" + "a" * 32
OTHER = "FW" + "b" * 32
NO_FLOW = "FW00000000" + "a" * 24
NO_EXECUTION = "FN" + "0" * 32
TO, FROM = "+12065551212", "+18005551212"


def error(status: int, code: int, message: str, more: str = "") -> tuple[int, str]:
    """Studio's error body."""
    docs = f"https://www.twilio.com/docs/errors/{code}"
    return status, f'{{"code":{code},"message":"{message}","more_info":"{docs}","status":{status}{more}}}'


def not_found(path: str) -> tuple[int, str]:
    """Studio's 404."""
    return error(404, 20404, f"The requested resource /v2/{path} was not found")


# fmt: off
CREDENTIALS: list[tuple[str, str, tuple[int, str] | None]] = [
    ("account",     aiohttp.encode_basic_auth(SANDBOX_TWILIO_ACCOUNT_SID, SANDBOX_TWILIO_AUTH_TOKEN), None),
    ("api key",     aiohttp.encode_basic_auth(SANDBOX_TWILIO_API_KEY, SANDBOX_TWILIO_API_SECRET),     None),
    ("none",        "",                                               error(401, 20003, "Authentication Error - No credentials provided")),
    ("user",        aiohttp.encode_basic_auth(" AC", "x"),            error(401, 20003, "Authentication Error - invalid username")),
    ("password",    aiohttp.encode_basic_auth(SANDBOX_TWILIO_ACCOUNT_SID, ""), error(401, 20003, "Authenticate")),
]
# fmt: on


@pytest.mark.parametrize(("label", "authorization", "refused"), CREDENTIALS, ids=[row[0] for row in CREDENTIALS])
async def test_credentials_come_before_everything(
    client: Client, label: str, authorization: str, refused: tuple[int, str] | None
) -> None:
    """A path that does not exist is 401 for a stranger."""
    flows = await client.twilio("GET", "Flows", headers={"Authorization": authorization})
    nowhere = await client.twilio("GET", f"Flows/{NO_FLOW}", headers={"Authorization": authorization})

    assert (refused or (200, flows.text)) == (flows.status, flows.text), label
    assert (refused or not_found(f"Flows/{NO_FLOW}")) == (nowhere.status, nowhere.text)


async def test_a_401_may_have_a_detail(client: Client) -> None:
    """On demand: some of Twilio's APIs had one, whatever was wrong with the credentials."""
    client.sandbox.configure("twilio", explains_401=True)
    replies = [await client.twilio("GET", "Flows", headers={"Authorization": row[1]}) for row in CREDENTIALS[2:]]

    assert ["Your AccountSid or AuthToken was incorrect."] * 3 == [reply.json["detail"] for reply in replies]


# fmt: off
REFUSED: list[tuple[str, str, dict[str, str], tuple[int, str]]] = [
    ("no To",            FLOW,    {"From": FROM},                             error(400, 20001, "Missing required parameter To in the post body")),
    ("empty To",         FLOW,    {"To": "", "From": FROM},                   error(400, 20001, "Missing required parameter To in the post body")),
    ("lower case to",    FLOW,    {"to": TO, "from": FROM},                   error(400, 20001, "Missing required parameter To in the post body")),
    ("no From",          FLOW,    {"To": TO},                                 error(400, 20001, "Missing required parameter From in the post body")),
    ("unknown flow",     NO_FLOW, {},                                         not_found(f"Flows/{NO_FLOW}/Executions")),
    ("not a flow sid",   "FWxyz", {},                                         not_found("Flows/FWxyz/Executions")),
    ("parameters",       FLOW,    {"To": TO, "From": FROM, "Parameters": "{"}, error(400, 20001, "Invalid Parameters: not valid JSON")),
]
# fmt: on


@pytest.mark.parametrize(("label", "flow", "form", "expected"), REFUSED, ids=[row[0] for row in REFUSED])
async def test_a_bad_create_is_refused(
    client: Client, label: str, flow: str, form: dict[str, str], expected: tuple[int, str]
) -> None:
    """And nothing is created."""
    reply = await client.twilio("POST", f"Flows/{flow}/Executions", form)

    assert expected == (reply.status, reply.text), label
    assert client.kinds() == ["request", "answer"]


async def test_json_is_not_seen(client: Client) -> None:
    """Only a form is read."""
    reply = await client.twilio("POST", f"Flows/{FLOW}/Executions", json={"To": TO, "From": FROM})

    assert error(400, 20001, "Missing required parameter To in the post body") == (reply.status, reply.text)


async def test_an_execution_is_created(client: Client) -> None:
    """Whole seconds, own base URL, an empty context, and the request's id as its initiator."""
    reply = await client.execute(ExternalId="ignored", Parameters='{"a":1}')
    sid = reply.json["sid"]
    url = f"{client.sandbox.twilio_url}/v2/Flows/{FLOW}/Executions/{sid}"

    assert reply.status == 201
    assert reply.text == (
        f'{{"sid":"{sid}","account_sid":"{SANDBOX_TWILIO_ACCOUNT_SID}","flow_sid":"{FLOW}",'
        f'"contact_channel_address":"{TO}","contact_sid":"FC{sid[2:]}","flow_version":1,"context":{{}},'
        f'"status":"active","date_created":"2026-03-01T12:00:00Z","date_updated":"2026-03-01T12:00:00Z",'
        f'"initiated_by":"{reply.headers["Twilio-Request-Id"]}","url":"{url}",'
        f'"links":{{"steps":"{url}/Steps","execution_context":"{url}/Context"}}}}'
    )
    assert (len(sid), sid[:2]) == (34, "FN")
    assert reply.headers["Twilio-Concurrent-Requests"] == "1"


async def test_a_raw_plus_is_a_space(client: Client) -> None:
    """As in any form."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    reply = await client.twilio("POST", f"Flows/{FLOW}/Executions", b"To=+1206&From=%2B1800", headers=form)

    assert reply.json["contact_channel_address"] == " 1206"


async def test_an_execution_ends_with_time(client: Client, clock: Clock) -> None:
    """Its last step says so, and so does its status; how it went is not said."""
    path = f"Flows/{FLOW}/Executions/{(await client.execute()).json['sid']}"
    running = ((await client.twilio("GET", path)).json, (await client.twilio("GET", f"{path}/Steps")).json)
    clock.tick(10)
    over = ((await client.twilio("GET", path)).json, (await client.twilio("GET", f"{path}/Steps")).json)

    assert (running[0]["status"], len(running[1]["steps"])) == ("active", 1)
    assert (over[0]["status"], over[0]["date_updated"]) == ("ended", "2026-03-01T12:00:10Z")
    assert [step["transitioned_to"] for step in over[1]["steps"]] == ["Ended", "send_message_1"]
    assert over[1]["meta"]["key"] == "steps"


async def test_the_context_has_the_parameters_twice(client: Client) -> None:
    """In `flow.data` and in `trigger.request.parameters`."""
    sid = (await client.execute(Parameters='{"startflow_id":"x"}')).json["sid"]
    document = (await client.twilio("GET", f"Flows/{FLOW}/Executions/{sid}/Context")).json
    context = document["context"]

    assert list(document) == ["account_sid", "flow_sid", "execution_sid", "context", "url"]
    assert {"startflow_id": "x"} == context["flow"]["data"] == context["trigger"]["request"]["parameters"]
    assert (context["contact"]["channel"]["address"], context["flow"]["channel"]["address"]) == (TO, FROM)
    assert (sid, FLOW) == (context["flow"]["sid"], context["flow"]["flow_sid"])


async def test_one_execution_at_a_time_for_a_contact(client: Client, clock: Clock) -> None:
    """The second is 409 and names the first, also in another flow; the end of the first makes room."""
    sid = (await client.execute()).json["sid"]
    second = await client.execute()
    elsewhere = await client.execute(flow=OTHER)
    clock.tick(10)
    later = await client.execute()

    assert error(409, 20409, f"Execution {sid} is already active for this contact") == (
        second.status,
        second.text,
    )
    assert (elsewhere.status, later.status) == (409, 201)


async def test_c2_a_409_may_not_name_the_execution(client: Client) -> None:
    """Whether its text always does is not documented."""
    client.sandbox.configure("twilio", names_busy=False)
    await client.execute()
    second = await client.execute()

    assert (409, 20409) == (second.status, second.json["code"])
    assert "FN" not in second.json["message"]


async def test_c5_a_restricted_key_lacks_what_it_is_told_to(client: Client) -> None:
    """It creates executions, and may not read flows or contexts."""
    client.sandbox.configure("twilio", lacks=["flows", "context"])
    made = await client.execute()
    flows = await client.twilio("GET", "Flows")
    context = await client.twilio("GET", f"Flows/{FLOW}/Executions/{made.json['sid']}/Context")

    assert 201 == made.status
    assert [(403, 20003)] * 2 == [(each.status, each.json["code"]) for each in (flows, context)]


# fmt: off
SCOPES: list[tuple[str, list[int]]] = [  # the same again · another flow · another sender
    ("flow_to_from", [409, 201, 201]),
    ("to_from",      [409, 409, 201]),
    ("flow_to",      [409, 201, 409]),
    ("to",           [409, 409, 409]),
    ("off",          [201, 201, 201]),
]
# fmt: on


@pytest.mark.parametrize(("scope", "statuses"), SCOPES)
async def test_what_one_contact_is_can_be_switched(
    settings: SandboxSettings, clock: Clock, scope: Json, statuses: list[int], client: Client
) -> None:
    """It is documented three ways."""
    async with Sandbox(replace(settings, twilio_busy_scope=scope), clock=clock) as sandbox:
        other = type(client)(sandbox, client.session)
        await other.execute()
        replies = [await other.execute(), await other.execute(flow=OTHER), await other.execute(From="+1800")]

    assert statuses == [reply.status for reply in replies]


async def test_ending_and_deleting(client: Client) -> None:
    """Ending twice changes nothing more; what was deleted is 404, and the contact is free."""
    path = f"Flows/{FLOW}/Executions/{(await client.execute()).json['sid']}"
    missing = await client.twilio("POST", path, {})
    wrong = await client.twilio("POST", path, {"Status": "active"})
    ended = [await client.twilio("POST", path, {"Status": "ended"}) for _ in range(2)]
    again = await client.execute()
    deleted = await client.twilio("DELETE", path)
    gone = await client.twilio("GET", path)
    unknown = await client.twilio("POST", f"Flows/{FLOW}/Executions/{NO_EXECUTION}", {"Status": "ended"})

    assert error(400, 20001, "Missing required parameter Status in the post body") == (
        missing.status,
        missing.text,
    )
    assert wrong.status == 400
    assert [(reply.status, reply.json["status"]) for reply in ended] == [(200, "ended")] * 2
    assert again.status == 201
    assert (deleted.status, deleted.text) == (204, "")
    assert not_found(path) == (gone.status, gone.text)
    assert unknown.status == 404
    assert client.kinds().count("ended") == 3


async def test_a_list_is_paged_newest_first(client: Client, clock: Clock) -> None:
    """A page is an offset, so a new execution moves the pages that are being read; a bound on its date keeps it out."""
    sids = []
    for index in range(5):
        sids.append((await client.execute(to=f"+{index}")).json["sid"])
        clock.tick(1)
    first = (await client.twilio("GET", f"Flows/{FLOW}/Executions?PageSize=2&status=active")).json
    new = (await client.execute(to="+9")).json["sid"]
    second = (await client.twilio("GET", first["meta"]["next_page_url"].partition("/v2/")[2])).json
    third = (await client.twilio("GET", second["meta"]["next_page_url"].partition("/v2/")[2])).json
    pages = [[row["sid"] for row in page["executions"]] for page in (first, second, third)]

    bounded = f"Flows/{FLOW}/Executions?PageSize=2&PageToken=PT2&DateCreatedTo=2026-03-01T12:00:05Z"
    kept = [row["sid"] for row in (await client.twilio("GET", bounded)).json["executions"]]

    assert [sids[:2:-1], [sids[3], sids[2]], [sids[1], sids[0]]] == pages
    assert [sids[2], sids[1]] == kept
    assert new not in {sid for page in pages for sid in page}
    assert [page["meta"]["page"] for page in (first, second, third)] == [0, 1, 2]
    assert third["meta"]["next_page_url"] is None
    assert first["meta"]["first_page_url"] == (
        f"{client.sandbox.twilio_url}/v2/Flows/{FLOW}/Executions?status=active&PageSize=2&Page=0"
    )


# fmt: off
FILTERS: list[tuple[str, int, int]] = [
    ("",                                           200, 3),
    ("DateCreatedFrom=2026-03-01T12:00:01Z",       200, 2),  # on or after
    ("DateCreatedTo=2026-03-01T12:00:01Z",         200, 1),  # before
    ("DateCreatedFrom=2026-03-01T12:00:01Z&DateCreatedTo=2026-03-01T12:00:02Z", 200, 1),
    ("DateCreatedFrom=2026-03-02",                 200, 0),
    ("status=active",                              200, 2),
    ("status=ended",                               200, 1),
    ("Status=ended",                               200, 3),  # the filter is lower-case
    ("PageSize=5000",                              200, 3),
    ("PageSize=x",                                 400, 0),
    ("DateCreatedFrom=yesterday",                  400, 0),
]
# fmt: on


@pytest.mark.parametrize(("query", "status", "count"), FILTERS)
async def test_lists_can_be_filtered(client: Client, clock: Clock, query: str, status: int, count: int) -> None:
    """From is inclusive and To exclusive, in whole seconds."""
    for index in range(3):
        await client.execute(to=f"+{index}")
        clock.tick(1)
    clock.tick(7.5)
    reply = await client.twilio("GET", f"Flows/{FLOW}/Executions?{query}")

    assert (status, count) == (reply.status, len(reply.json.get("executions", [])))


async def test_a_page_size_is_at_most_1000(client: Client) -> None:
    """More is cut down."""
    reply = await client.twilio("GET", f"Flows/{FLOW}/Executions?PageSize=5000")

    assert reply.json["meta"]["page_size"] == 1000


async def test_flows(client: Client) -> None:
    """Every flow sid of the right form exists; some are listed."""
    listed = (await client.twilio("GET", "Flows")).json
    any_flow = await client.twilio("GET", "Flows/FW" + "1" * 32)

    assert [flow["friendly_name"] for flow in listed["flows"]] == ["Thrift Shop", "Registration"]
    assert (any_flow.status, any_flow.json["status"]) == (200, "published")


async def test_a_list_of_flows_has_pages(client: Client) -> None:
    """Of the size that is asked for; a page after the last one is empty."""
    first = (await client.twilio("GET", "Flows?PageSize=1")).json
    second = (await client.twilio("GET", first["meta"]["next_page_url"].partition("/v2/")[2])).json
    beyond = (await client.twilio("GET", "Flows?PageSize=1&Page=2&PageToken=PT2")).json
    names = [[flow["friendly_name"] for flow in page["flows"]] for page in (first, second, beyond)]

    assert [["Thrift Shop"], ["Registration"], []] == names
    assert [(0, 1), (1, 1), (2, 1)] == [
        (page["meta"]["page"], page["meta"]["page_size"]) for page in (first, second, beyond)
    ]
    assert (None, None) == (second["meta"]["next_page_url"], beyond["meta"]["next_page_url"])
    assert (None, first["meta"]["url"]) == tuple(page["meta"]["previous_page_url"] for page in (first, second))


async def test_what_is_in_a_flow_is_not_in_the_list(client: Client) -> None:
    """A row has every field, and null for those that tell of the definition; the flow itself shows them."""
    row = (await client.twilio("GET", "Flows")).json["flows"][0]
    flow = (await client.twilio("GET", f"Flows/{FLOW}")).json
    unlisted = {"definition", "valid", "errors", "warnings"}

    assert list(flow) == list(row)
    assert unlisted | {"commit_message"} == {name for name, value in row.items() if value is None} - {"date_updated"}
    assert unlisted == {name for name in flow if flow[name] != row[name]}


async def test_steps_have_pages_and_contexts(client: Client, clock: Clock) -> None:
    """A step's context is the execution's as that step left it: a message is there once it was sent."""
    path = f"Flows/{FLOW}/Executions/{(await client.execute()).json['sid']}"
    early = (await client.twilio("GET", f"{path}/Context")).json["context"]
    clock.tick(10)
    late = (await client.twilio("GET", f"{path}/Context")).json["context"]
    last = (await client.twilio("GET", f"{path}/Steps?PageSize=1")).json
    first = (await client.twilio("GET", last["meta"]["next_page_url"].partition("/v2/")[2])).json
    sids = [page["steps"][0]["sid"] for page in (first, last)]
    contexts = [(await client.twilio("GET", f"{path}/Steps/{sid}/Context")).json["context"] for sid in sids]
    outbound = late["widgets"]["send_message_1"]["outbound"]

    assert [1, 1] == [len(page["steps"]) for page in (first, last)]
    assert [early, late] == contexts
    assert {} == early["widgets"]
    assert (TO, FROM, "sent", None) == tuple(outbound[name] for name in ("To", "From", "Status", "ErrorCode"))


async def test_stuck_for_ever(client: Client, clock: Clock) -> None:
    """`Parameters.sandbox` asks for it."""
    sid = (await client.execute(Parameters='{"sandbox":"stick"}')).json["sid"]
    clock.tick(1e6)
    row = (await client.twilio("GET", f"Flows/{FLOW}/Executions/{sid}")).json

    assert row["status"] == "active"


async def test_another_method_is_405(client: Client) -> None:
    """In Studio's error form."""
    reply = await client.twilio("PUT", f"Flows/{FLOW}/Executions")

    assert error(405, 20004, "Method not allowed") == (reply.status, reply.text)


class TestRate:
    """So many creates a second."""

    @pytest.fixture
    def settings(self) -> SandboxSettings:
        """Two a second."""
        return SandboxSettings(twilio_creates_per_second=2)

    async def test_what_is_too_much_is_429_and_leaves_nothing(self, client: Client, clock: Clock) -> None:
        """No Retry-After, as documented; reading is not limited, and time makes room."""
        replies = [await client.execute(to=f"+{index}") for index in range(4)]
        reading = [await client.twilio("GET", "Flows") for _ in range(4)]
        clock.tick(0.5)
        later = [await client.execute(to=f"+1{index}") for index in range(2)]

        assert [reply.status for reply in replies] == [201, 201, 429, 429]
        assert error(429, 20429, "Too Many Requests") == (replies[2].status, replies[2].text)
        assert "Retry-After" not in replies[2].headers
        assert {200} == {reply.status for reply in reading}
        assert [reply.status for reply in later] == [201, 429]
        assert client.kinds().count("created") == 3
