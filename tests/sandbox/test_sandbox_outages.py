"""What goes wrong with one endpoint for a while, between the gateway and the backend, or when a server is upgraded."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from gateway.sandbox import listener

if TYPE_CHECKING:
    from tests.sandbox.conftest import Client, Clock

FLOW = "f5901b62-ba76-4003-9c62-72fdacc1b7b7"
OTHER_FLOW = "309f8a4b-b8ea-404f-84a9-656780bb1d7d"


async def test_posts_fail_for_a_while_and_lists_do_not(client: Client, clock: Clock) -> None:
    """RapidPro with its mailroom stopped: case A4."""
    client.sandbox.faults.add({"preset": "mailroom_down", "backend": "rapidpro", "seconds": 600})
    down = await client.start()
    shown = await client.rapidpro("GET", "flow_starts.json")
    clock.tick(599)
    still = await client.start()
    clock.tick(1)
    back = await client.start()

    assert (500, "Server Error. Site administrators have been notified.") == (down.status, down.text)
    assert (200, [], 500, 201) == (shown.status, shown.json["results"], still.status, back.status)


async def test_a_firewall_refuses_the_posts_of_one_flow(client: Client) -> None:
    """With a page of its own: case B4."""
    client.sandbox.faults.add({"preset": "firewall", "backend": "rapidpro", "match": FLOW})
    refused = await client.start()
    taken = await client.start(flow=OTHER_FLOW)

    assert (403, "text/html", 201) == (refused.status, refused.headers["Content-Type"], taken.status)
    assert ["request", "answer", "request", "created", "answer"] == client.kinds()


@pytest.mark.parametrize(("preset", "shown"), [("without_params", (False, None)), ("blank_params", (True, {}))])
@pytest.mark.parametrize("asked", ["by a rule", "in params"])
async def test_params_can_be_missing_or_empty(
    client: Client, preset: str, shown: tuple[bool, object], asked: str
) -> None:
    """In the answer to the POST and in lists; the journal has them all the same: case A3."""
    params: dict[str, Any] = {"a": 1}
    if asked == "in params":
        params |= {"sandbox": preset}
    else:
        client.sandbox.faults.add({"preset": preset, "backend": "rapidpro"})
    made = (await client.start(params=params)).json
    listed = (await client.rapidpro("GET", "flow_starts.json")).json["results"][0]

    assert [shown] * 2 == [("params" in row, row.get("params")) for row in (made, listed)]
    assert [shown[0]] * 2 == ["extra" in row for row in (made, listed)]
    assert params == next(client.sandbox.journal.entries(kind="created"))["params"]


@pytest.mark.parametrize(("word", "status"), [("mailroom_down", 500), ("firewall", 403)])
async def test_params_can_ask_for_a_refusal(client: Client, word: str, status: int) -> None:
    """Of that start alone."""
    refused = await client.start(params={"sandbox": word})
    taken = await client.start()

    assert (status, 201) == (refused.status, taken.status)


@pytest.mark.parametrize("backend", ["rapidpro", "twilio"])
async def test_a_cache_answers_with_the_start_before(client: Client, backend: str) -> None:
    """Though this one was made as well."""
    client.sandbox.faults.add({"preset": "another_201", "backend": backend})
    make = client.start if backend == "rapidpro" else lambda: client.execute(to=f"+1{len(client.kinds())}")
    first, second = await make(), await make()  # type: ignore[no-untyped-call]

    assert (first.status, second.status, first.text) == (201, 201, second.text)
    assert len(list(client.sandbox.journal.entries(kind="created"))) == 2


@pytest.mark.parametrize("way", ["a rule", "a setting"])
async def test_a_proxy_drops_the_workspaces_header(client: Client, way: str) -> None:
    """From every answer: case A8."""
    if way == "a rule":
        client.sandbox.faults.add({"preset": "unnamed_workspace", "backend": "rapidpro"})
    else:
        client.sandbox.configure("rapidpro", names_workspace=False)
    replies = [await client.start(), await client.rapidpro("GET", "flow_starts.json")]
    replies.append(await client.rapidpro("GET", "workspace.json"))

    assert [False] * 3 == [any(name.startswith("X-Temba") for name in reply.headers) for reply in replies]


async def test_a_server_is_upgraded_under_its_rows(client: Client, clock: Clock) -> None:
    """The same rows and the same workspace in other words, under another header: case A8."""
    client.sandbox.configure("rapidpro", generation="old")
    running = (await client.start()).json["uuid"]
    over = (await client.start(params={"sandbox": "fail"})).json["uuid"]
    clock.tick(5)
    asked = ("flow_starts.json?reverse=true", "workspace.json")
    old, old_workspace = [await client.rapidpro("GET", path) for path in asked]
    client.sandbox.configure("rapidpro", generation="new")
    new, new_workspace = [await client.rapidpro("GET", path) for path in asked]
    clock.tick(6)
    done = (await client.rapidpro("GET", asked[0])).json["results"]

    def stand(document: dict) -> dict[str, tuple[str, str]]:
        return {row["uuid"]: (row["status"], row["modified_on"]) for row in document["results"]}

    assert ("starting", "started", "failed", "failed") == tuple(
        stand(reply.json)[uuid][0] for uuid in (running, over) for reply in (old, new)
    )
    assert [at for _, at in stand(old.json).values()] == [at for _, at in stand(new.json).values()]
    assert old_workspace.json["uuid"] == new_workspace.json["uuid"]
    assert ("1", new_workspace.json["uuid"]) == (old.headers["X-Temba-Org"], new.headers["X-Temba-Workspace"])
    assert {"completed", "failed"} == {row["status"] for row in done}


@pytest.mark.parametrize(
    ("country", "urns", "people"),
    [
        ("US", ["tel:+12065551212", "tel:+1 (206) 555-1212"], ["tel:+12065551212"]),
        ("US", ["tel:2065551212", "tel:12065551212"], ["tel:+12065551212"]),
        ("RW", ["tel:0788123456", "tel:+250788123456"], ["tel:+250788123456"]),
        ("US", ["tel:+12065551313"], ["contact:f1ea776e-c923-4c1a-b3a3-0c466932b2cc"]),
        ("US", ["twitter:SirMixALot", "twitter:sirmixalot"], ["twitter:sirmixalot"]),
        ("US", ["whatsapp:12065551212"], ["whatsapp:12065551212"]),
    ],
)
async def test_the_journal_says_which_person_each_address_is(
    client: Client, country: str, urns: list[str], people: list[str]
) -> None:
    """As RapidPro keeps addresses, by its workspace's country: case A5."""
    client.sandbox.configure("rapidpro", country=country)
    await client.start(urns=urns)
    workspace = (await client.rapidpro("GET", "workspace.json")).json

    assert people == next(client.sandbox.journal.entries(kind="created"))["people"]
    assert country == workspace["country"]


async def test_the_journal_says_whom_an_execution_reaches(client: Client) -> None:
    """By the one spelling."""
    await client.execute(to="+1 206 555-1212")

    assert ["tel:+12065551212"] == next(client.sandbox.journal.entries(kind="created"))["people"]


async def test_a_deletion_between_pages_hides_an_unread_execution(client: Client, clock: Clock) -> None:
    """Twilio's pages are offsets into the list: case A10 (d)."""
    client.sandbox.configure("twilio", largest_page=2)
    sids = []
    for index in range(5):
        sids.append((await client.execute(to=f"+120655500{index:02}")).json["sid"])
        clock.tick(1)
    path = "Flows/FW" + "a" * 32 + "/Executions"
    first = (await client.twilio("GET", f"{path}?PageSize=1000")).json
    await client.twilio("DELETE", f"{path}/{sids[4]}")
    second = (await client.twilio("GET", first["meta"]["next_page_url"].partition("/v2/")[2])).json

    assert [sids[4], sids[3]] == [row["sid"] for row in first["executions"]]
    assert [sids[1], sids[0]] == [row["sid"] for row in second["executions"]]
    assert second["meta"]["next_page_url"] is None


async def test_a_refusal_cuts_requests_off_and_logs_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also one whose answer comes just as its patience ends, where aiohttp's own shutdown raised InvalidStateError."""
    monkeypatch.setattr(listener, "PATIENCE", 0.3)
    await client.sandbox.refuse("rapidpro", 0)
    while not await _is_open(client):  # noqa: ASYNC110 -- the port says when
        await asyncio.sleep(0.01)
    client.sandbox.faults.add({"backend": "rapidpro", "match": FLOW, "delay": 0.25})
    before = client.sandbox.journal.head
    asking = asyncio.create_task(client.start())
    while "created" not in client.kinds(after=before):  # noqa: ASYNC110 -- the journal says when
        await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.1, time.sleep, 0.4)  # so the answer and the end of patience come at once
    await client.sandbox.refuse("rapidpro", 10)
    with pytest.raises(aiohttp.ClientError):
        await asking

    assert ["request", "created", "answer"] == client.kinds(after=before)
    assert "hung up" == list(client.sandbox.journal.entries())[-1]["how"]
    assert [] == caplog.records


async def _is_open(client: Client) -> bool:
    try:
        await client.rapidpro("GET", "flow_starts.json")
    except aiohttp.ClientError:
        return False
    return True
