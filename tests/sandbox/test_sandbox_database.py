"""The database behind RapidPro: rows move while they are read, replicas lag, commits are late, clocks differ."""

from __future__ import annotations

from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

import pytest

from gateway.sandbox import Sandbox, SandboxSettings

if TYPE_CHECKING:
    from pathlib import Path

    from tests.sandbox.conftest import Client, Clock

STUCK = {"sandbox": "stick_pending"}
AFTER = "reverse=true&after=2026-01-01T00:00:00Z"


async def made(client: Client, clock: Clock, count: int, *, apart: float = 0.001) -> list[str]:
    """Makes starts that stay where they are, and returns their ids."""
    ids = []
    for _ in range(count):
        ids.append((await client.start(params=STUCK)).json["uuid"])
        clock.tick(apart)
    return ids


async def page(client: Client, query: str = AFTER) -> Any:
    """Reads one page of the list."""
    path = query if query.startswith("flow_starts") else f"flow_starts.json?{query}"
    return (await client.rapidpro("GET", path)).json


def ids_of(document: Any) -> list[str]:
    """The ids on a page."""
    return [row["uuid"] for row in document["results"]]


def further(document: Any) -> str:
    """The path of the page after this one."""
    return document["next"].rpartition("/")[2]


async def test_a_tied_row_that_moves_between_pages_hides_an_unread_one(client: Client, clock: Clock) -> None:
    """The cursor is an offset among rows of one `modified_on`, as Django REST framework writes it: case A10 (a)."""
    client.sandbox.configure("rapidpro", page_size=5)
    ids = await made(client, clock, 12)
    touched = client.sandbox.touch(count=12)
    first = await page(client)
    clock.tick(1)
    client.sandbox.touch(ids=[ids_of(first)[0]])
    second = await page(client, further(first))
    third = await page(client, further(second))
    seen = {*ids_of(first), *ids_of(second), *ids_of(third)}
    again = ids_of(await page(client, f"reverse=true&after={touched['modified_on']}"))

    assert len(first["results"]) == len(again) == 5
    assert set(ids) - seen == {ids[5]}


async def test_reads_alternate_between_replicas_that_lag(client: Client, clock: Clock) -> None:
    """A row that has moved on after the first page of the fresh one is not on the second of the other: case A10 (b)."""
    client.sandbox.configure("rapidpro", page_size=2, replicas=[0, 4])
    one, *others = await made(client, clock, 4)
    clock.tick(10)
    client.sandbox.touch(ids=[one])
    clock.tick(1)
    fresh = await page(client)
    lagging = await page(client, further(fresh))
    clock.tick(3)
    await page(client)
    caught_up = await page(client, further(fresh))

    assert (others[:2], others[2:]) == (ids_of(fresh), ids_of(lagging))
    assert [others[2], one] == ids_of(caught_up)


async def test_a_replica_shows_old_states_too_and_never_goes_back(client: Client, clock: Clock) -> None:
    """What it has shown it goes on showing, however far it falls behind."""
    client.sandbox.configure("rapidpro", replicas=[2])
    await client.start()
    clock.tick(2.5)  # queued after one second, started after three
    seen = [(await page(client))["results"][0]["status"]]
    clock.tick(1)
    seen.append((await page(client))["results"][0]["status"])
    client.sandbox.configure("rapidpro", replicas=[60])
    seen.append((await page(client))["results"][0]["status"])

    assert seen == ["pending", "queued", "queued"]


async def test_a_replica_can_be_drawn_for_each_read(client: Client, clock: Clock) -> None:
    """By the seed."""
    client.sandbox.configure("rapidpro", replicas=[0, 3600], pick="random")
    await made(client, clock, 1)
    counts = [len(ids_of(await page(client))) for _ in range(20)]

    assert set(counts) == {0, 1}


async def test_modified_on_is_the_begin_of_a_transaction_and_shows_at_its_commit(client: Client, clock: Clock) -> None:
    """So a row can appear behind one that was read before it: case A11."""
    client.sandbox.configure("rapidpro", transaction=0.4)
    early = (await client.start()).json
    clock.tick(1.2)  # its move to `queued` began a second after it was made, and has not committed
    late = (await client.start(params=STUCK)).json
    before = await page(client)
    clock.tick(0.3)
    after = await page(client)

    assert [("pending", "00.250000"), ("pending", "01.450000")] == [
        (row["status"], row["modified_on"][17:-1]) for row in before["results"]
    ]
    assert [early["uuid"], late["uuid"]] == ids_of(after)
    assert (after["results"][0]["status"], after["results"][0]["modified_on"][17:-1]) == ("queued", "01.250000")


async def test_a_row_can_go_backwards(client: Client, clock: Clock) -> None:
    """When a transaction that began earlier commits later."""
    one, other = await made(client, clock, 2, apart=1)
    client.sandbox.touch(ids=[one])
    first = ids_of(await page(client))
    client.sandbox.touch(ids=[one], ago=30)
    second = ids_of(await page(client))

    assert ([other, one], [one, other]) == (first, second)


async def test_the_databases_clock_need_not_be_the_servers(client: Client, clock: Clock) -> None:
    """Two minutes behind `Date`, in everything it writes: case A10 (c)."""
    client.sandbox.configure("rapidpro", ahead=-120)
    reply = await client.start()
    date = parsedate_to_datetime(reply.headers["Date"])

    assert reply.json["created_on"] == reply.json["modified_on"] == "2026-03-01T11:58:00.250000Z"
    assert date == clock().replace(microsecond=0)


async def test_what_was_touched_stays_so_after_a_restart(
    tmp_path: Path, settings: SandboxSettings, clock: Clock
) -> None:
    """It is in the journal."""
    kept = replace(settings, journal=tmp_path / "journal", rapidpro_ahead=-7.0)
    shown = []
    for life in range(2):
        async with Sandbox(kept, clock=clock) as sandbox:
            rapidpro = sandbox._rapidpro
            if not life:
                entry = {
                    "external_id": "x", "id": 1, "flow": "f5901b62-ba76-4003-9c62-72fdacc1b7b7", "contacts": [],
                    "groups": [], "urns": [], "params": STUCK, "restart_participants": True, "exclude_active": False,
                    "duration": 3.0, "created_at": "2026-03-01T11:00:00.000000Z",
                }  # fmt: skip
                sandbox.journal.append("created", "rapidpro", **entry)
                rapidpro.rebuild({"kind": "created", "at": entry["created_at"], **entry})
                sandbox.touch(count=1, ago=5)
            shown.append(rapidpro._starts.get("x").latest)

    assert shown[0] == shown[1]
    assert shown[0].modified_at.isoformat() == "2026-03-01T11:59:48.250000+00:00"


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("/rapidpro", {"replicas": 1}, "`replicas` must be a list"),
        ("/rapidpro", {"replicas": [-1]}, "`replicas` must be a list"),
        ("/rapidpro", {"page_size": 251}, "`page_size` must be"),
        ("/rapidpro", {"transaction": [2, 1]}, "`transaction` must be"),
        ("/rapidpro", {"ahead": "1"}, "`ahead` must be"),
        ("/rapidpro", {"country": "usa"}, "`country` must be"),
        ("/rapidpro", {"generation": "v8"}, "`generation` must be"),
        ("/rapidpro", {"size": 1}, "`size` cannot be changed"),
        ("/rapidpro", [], "Changes are a JSON object"),
        ("/twilio", {"largest_page": 0}, "`largest_page` must be"),
        ("/twilio", {"page": 1}, "Say `largest_page`"),
        ("/touch", {}, "Say `count`"),
        ("/touch", {"count": 1, "ids": ["x"]}, "Say `count`"),
        ("/touch", {"count": 1, "ago": -1}, "`ago` must be"),
        ("/touch", {"ids": "x"}, "`ids` must be"),
    ],
)
async def test_what_cannot_be_set_is_refused_with_a_sentence(client: Client, path: str, body: Any, word: str) -> None:
    """And changes nothing."""
    before = (await client.control("GET", "/rapidpro")).json
    reply = await client.control("POST", path, body)

    assert (400, True) == (reply.status, word in reply.json["error"])
    assert before == (await client.control("GET", "/rapidpro")).json


async def test_the_control_port_sets_and_shows_all_of_it(client: Client) -> None:
    """Each field by itself."""
    wanted = {
        "generation": "old", "country": "RW", "names_workspace": False, "page_size": 3, "replicas": [0.0, 2.0],
        "pick": "random", "transaction": [0.0, 0.5], "ahead": -3,
    }  # fmt: skip
    set_ = [(await client.control("POST", "/rapidpro", {name: value})).json for name, value in wanted.items()]
    unknown = await client.control("POST", "/touch", {"ids": ["nope"]})

    assert set_[-1] == wanted == (await client.control("GET", "/rapidpro")).json
    assert (404, "There is no start 'nope'.") == (unknown.status, unknown.json["error"])
