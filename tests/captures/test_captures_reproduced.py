"""The sandbox of each generation answers what the real server did, byte for byte but for ids, times and names."""

from __future__ import annotations

import json
import re
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from gateway.sandbox import Sandbox, SandboxSettings
from tests.captures.captured import Captured, exchanges
from tests.captures.world import OTHERS, further_on, shape, swapped, translated
from tests.sandbox.conftest import FLOW, Client, Clock, Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.sandbox.settings import Generation

FALSE = '"exclude_active":false'
OTHER_FLOW = "c5282b32-da5b-4f06-9690-bdec7b8f1260"
STARTS = "/api/v2/flow_starts.json"
TELLING = ("Content-Type", "Allow", "Retry-After")
PAGES = {"page_2_of_3", "page_reverse_1"}  # of 250 rows: they have a test of their own
NO_UTF8 = "\ufffd".encode()  # what the capture kept of a byte that is not UTF-8
GENERATIONS: tuple[Generation, ...] = ("new", "old")
every_generation = pytest.mark.parametrize("generation", GENERATIONS)


def reproducible(generation: str) -> list[Captured]:
    """The exchanges that the sandbox must answer the same."""
    return [each for each in exchanges(generation) if not each.absent and each.name not in PAGES]


@asynccontextmanager
async def asking(generation: Generation, rate: int | None = None) -> AsyncIterator[tuple[Client, Clock]]:
    """A sandbox of a generation, and someone to ask it."""
    clock = Clock()
    settings = SandboxSettings(
        rapidpro_generation=generation, rapidpro_requests_per_hour=rate, duration=timedelta(seconds=10)
    )
    async with Sandbox(settings, clock=clock) as sandbox, aiohttp.ClientSession() as session:
        yield Client(sandbox, session), clock


@every_generation
@pytest.mark.parametrize("others", [False, True], ids=["the same values", "other values"])
async def test_the_sandbox_answers_as_it_did(generation: Generation, *, others: bool) -> None:
    """Status, content type, telling headers and body are the same; also for other values of the same kind."""
    wrong = {}
    chains = [list(chain) for _, chain in groupby(reproducible(generation), key=_chain)]
    for chain in chains:
        async with asking(generation, rate=3 if chain[0].at is not None else None) as (client, clock):
            for captured in chain:
                wanted = translated(captured, generation, OTHERS if others else [])
                problem = await differs(client, clock, further_on(wanted) if others else wanted)
                if problem:
                    wrong[captured.name] = problem

    assert {} == wrong


@pytest.mark.parametrize("name", sorted(PAGES))
async def test_pages_are_cut_and_linked_as_they_were(name: str) -> None:
    """Six hundred starts, one a minute: the same 250 rows, and the same cursors to the letter."""
    captured = next(each for each in exchanges("old") if each.name == name)
    async with asking("old") as (client, clock):
        midnight = datetime(2026, 1, 1, tzinfo=UTC)
        for minute in range(1, 601):
            clock.now = midnight + timedelta(minutes=minute, seconds=-10)  # it is complete ten seconds later
            await client.start(urns=["tel:+12065551212"])
        clock.tick(60)
        reply = await ask(client, translated(captured, "old", [(OTHER_FLOW, FLOW), ('"exclude_active":{}', FALSE)]))

    wanted = json.loads(shape(swapped(captured.answer, [(OTHER_FLOW, FLOW), ('"exclude_active":{}', FALSE)])))
    got = json.loads(shape(reply.text))
    assert 250 == len(got["results"])
    assert (list(wanted), wanted["next"], wanted["previous"]) == (list(got), got["next"], got["previous"])
    assert [json.dumps(row) for row in wanted["results"]] == [json.dumps(got["results"][at]) for at in (0, 1, -1)]


def _chain(captured: Captured) -> str:
    """Exchanges that share a sandbox: those of one throttled workspace, and those that look at no list."""
    if captured.at is not None:
        return captured.name.partition("_")[0]
    return captured.name if captured.method == "GET" and '"results":[{' in captured.answer else ""


async def differs(client: Client, clock: Clock, captured: Captured) -> object:
    """Asks the sandbox what was asked then, and says what it answers otherwise, if anything."""
    captured = await prepared(client, clock, captured)
    reply = await ask(client, captured)
    client.sandbox.faults.clear()
    if (captured.status, shape(captured.answer)) != (reply.status, shape(reply.text)):
        return captured.status, shape(captured.answer)[:600], reply.status, shape(reply.text)[:600]
    headers = {name: (captured.headers.get(name), reply.headers.get(name)) for name in TELLING}
    if captured.status == 404 and "html" in headers["Content-Type"][1]:
        headers.pop("Allow")  # not an endpoint: the line of the capture has none either
    return {name: both for name, both in headers.items() if both[0] != both[1]}


async def ask(client: Client, captured: Captured) -> Reply:
    """Makes the captured request."""
    headers = {"Authorization": captured.auth} if captured.auth else {}
    if captured.type is not None:
        headers["Content-Type"] = captured.type
    return await client.ask(
        captured.method,
        client.sandbox.rapidpro_url + captured.path,
        headers=headers,
        data=None if captured.body is None else captured.body.encode().replace(NO_UTF8, b"\xff"),
        skip_auto_headers=["Content-Type"],
    )


async def prepared(client: Client, clock: Clock, captured: Captured) -> Captured:
    """Makes in the sandbox what was there then: faults, time gone by, starts. Returns the request that fits it."""
    if captured.faults:
        client.sandbox.faults.add({"backend": "rapidpro", **captured.faults})
    if captured.at is not None:
        clock.now = Clock().now + timedelta(seconds=captured.at)
    if captured.method == "POST" and "?uuid=" in captured.path and captured.status == 200:
        there = (await client.start()).json["uuid"]
        return replace(captured, path=f"{STARTS}?uuid={there}")
    if captured.method != "GET" or not captured.path.startswith(STARTS) or '"results":[{' not in captured.answer:
        return captured
    rows = json.loads(captured.answer)["results"]
    oldest_first = "reverse=true" in captured.path
    if "after=" in captured.path:
        await client.start()
    clock.tick(100)
    path = captured.path
    for row in rows if oldest_first else rows[::-1]:
        made = await made_like(client, clock, row)
        path = swapped(path, [(row["uuid"], made["uuid"]), (row["modified_on"], made["modified_on"])])
    path = re.sub("before=2026-11[^&]*", f"before={made['modified_on']}", path)
    if "before=" in path:
        clock.tick(1)
        await client.start()
    return replace(captured, path=re.sub("after=2026-11[^&]*", "after=2026-03-01T12:01:00Z", path))


async def made_like(client: Client, clock: Clock, row: dict[str, Any]) -> dict[str, Any]:
    """Makes a start that looks like a captured row, and returns it as it is shown."""
    body = {
        "flow": row["flow"]["uuid"],
        "urns": ["tel:+250788555666"],
        **{name: [each["uuid"] for each in row[name]] for name in ("groups", "contacts")},
        **{name: row[name] for name in ("params", "restart_participants", "exclude_active")},
    }
    uuid = (await client.rapidpro("POST", "flow_starts.json", body)).json["uuid"]
    progress, now = row.get("progress", {}), row["status"]
    if "sandbox" in row["params"]:
        clock.tick(15)
    elif now != "pending":
        clock.tick(12 if progress.get("started") else 0)
        clock.now = clock.now.replace(microsecond=250_000 if "." in row["modified_on"] else 0) + timedelta(seconds=1)
        client.sandbox.force("rapidpro", uuid, status=now)
    else:
        client.sandbox.force("rapidpro", uuid, hold=True)
    clock.tick(1)
    made: dict[str, Any] = (await client.rapidpro("GET", f"flow_starts.json?uuid={uuid}")).json["results"][0]
    return made


def test_no_exchange_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    """Each is reproduced, or its reason is there and in `docs/sandbox.md`; the counts are printed."""
    captured = {generation: exchanges(generation) for generation in GENERATIONS}
    everything = [each for found in captured.values() for each in found]
    absent = [each for each in everything if each.absent]
    read = sum(bool(each.read) for each in everything)
    with capsys.disabled():
        print(f"\ncaptures: {len(everything)}, {read} read,", end=" ")
        print(f"{len(everything) - len(absent)} reproduced, {len(absent)} not, with reasons")

    assert (142, 149) == (len(captured["new"]), len(captured["old"]))
    assert set() == {each.name for each in everything if not each.read} - NOT_READ
    document = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text("utf-8")
    assert [] == [each.name for each in absent if f"| `{each.name}` |" not in document]
    assert [] == [
        count for count in (len(everything), read, len(everything) - len(absent)) if str(count) not in document
    ]
    assert PAGES <= {each.name for each in everything}


NOT_READ = {  # no adapter asks these: another method, another path, another host
    "head", "options_cors_preflight", "patch_not_allowed", "get_404_endpoint", "get_v1",
    "ep_flows_uuid", "ep_flows_uuid_unknown", "ep_org_alias", "ep_workspace_noauth",
}  # fmt: skip
