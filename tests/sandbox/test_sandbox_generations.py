"""The two generations of RapidPro: what the sandbox does differently when it is told to be the old one."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from gateway.sandbox import Sandbox, SandboxSettings
from gateway.sandbox.__main__ import read_arguments
from tests.sandbox.conftest import FLOW, Client

if TYPE_CHECKING:
    from pathlib import Path

    from tests.sandbox.conftest import Clock

CONTACT = "f5901b62-ba76-4003-9c62-72fdacc15515"
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(params=["new", "old"])
def settings(request: pytest.FixtureRequest, settings: SandboxSettings) -> SandboxSettings:
    """Either generation."""
    return replace(settings, rapidpro_generation=request.param)


@pytest.fixture
def old(settings: SandboxSettings) -> bool:
    """Whether it is the old one."""
    return settings.rapidpro_generation == "old"


async def shown(client: Client, query: str = "") -> list[dict[str, Any]]:
    """Lists the starts."""
    rows: list[dict[str, Any]] = (await client.rapidpro("GET", f"flow_starts.json{query}")).json["results"]
    return rows


SCRIPTS = {  # statuses after 0.5, 2, 5, 8 and 11 of ten seconds: of the new generation, of the old
    "complete": ("pending queued started started completed", "pending starting starting starting complete"),
    "blocked": ("pending queued started started completed", "pending starting starting starting complete"),
    "nobody": ("pending queued queued queued completed", "pending complete complete complete complete"),
    "quick": ("pending completed completed completed completed", "pending complete complete complete complete"),
    "fail": ("pending failed failed failed failed", "pending failed failed failed failed"),
    "interrupt": ("pending queued started interrupted interrupted", "pending starting starting starting complete"),
    "stick": ("pending queued started started started", "pending starting starting starting starting"),
    "stick_pending": ("pending pending pending pending pending", "pending pending pending pending pending"),
}


@pytest.mark.parametrize("script", SCRIPTS)
async def test_a_start_moves_in_the_words_of_its_generation(
    client: Client, clock: Clock, script: str, *, old: bool
) -> None:
    """The old one has no `queued` and no interruptions, and spells two words otherwise."""
    await client.start(params={"sandbox": script})
    seen = []
    for seconds in (0.5, 1.5, 3, 3, 3):
        clock.tick(seconds)
        seen.append((await shown(client))[0]["status"])

    assert SCRIPTS[script][old] == " ".join(seen)


async def test_a_start_is_shown_as_its_generation_shows_it(client: Client, *, old: bool) -> None:
    """Progress, the order of keys, the header that names the workspace, the first `modified_on`."""
    reply = await client.start()
    row = reply.json

    assert ("progress" in row) is not old
    assert ["uuid", "id"][old] == next(iter(row))
    assert ["X-Temba-Workspace", "X-Temba-Org"][old] in reply.headers
    assert [False, True][old] == (row["modified_on"] > row["created_on"])


async def test_params_are_kept_or_cut_down(client: Client, *, old: bool) -> None:
    """The old one changes them at once and shows them in their order first; the new one shows its database's."""
    params = {"zeta-1": [1, None], "a": "x" * 700}
    row = (await client.start(params=params)).json
    [again] = await shown(client)

    cut = {"zeta_1": {"0": 1, "1": ""}, "a": "x" * 640}
    assert (cut if old else params) == row["params"] == again["params"]
    assert (["zeta_1", "a"] if old else ["a", "zeta-1"]) == list(row["params"])
    assert ["a", "zeta_1" if old else "zeta-1"] == list(again["params"])


async def test_the_id_is_a_filter_or_is_ignored(client: Client, *, old: bool) -> None:
    """Zero is no filter; what is no number is refused by the old one."""
    for _ in range(3):
        await client.start()
    bad = await client.rapidpro("GET", "flow_starts.json?id=x")

    assert ([2] if old else [3, 2, 1]) == [row["id"] for row in await shown(client, "?id=2")]
    assert [3, 2, 1] == [row["id"] for row in await shown(client, "?id=0")]
    assert (0 if old else 3) == len(await shown(client, "?id=99"))
    assert (400 if old else 200) == bad.status


async def test_of_a_repeated_uuid_one_counts(client: Client, *, old: bool) -> None:
    """The last with the old one, the first with the new one."""
    uuid = (await client.start()).json["uuid"]

    assert old == bool(await shown(client, f"?uuid={NOBODY}&uuid={uuid}"))


async def test_the_same_contact_twice(client: Client, *, old: bool) -> None:
    """By uuid and by URN: the old one takes it once, the new one breaks."""
    reply = await client.start(contacts=[CONTACT, "tel:+250788123123"])

    assert (201 if old else 500) == reply.status
    assert (1 if old else 0) == len(await shown(client))


async def test_a_post_without_json(client: Client, *, old: bool) -> None:
    """The old one creates, the new one forbids it."""
    reply = await client.rapidpro("POST", "flow_starts", {"flow": FLOW, "urns": ["tel:+12065551212"]})

    assert (201 if old else 403) == reply.status


async def test_an_accept_header_without_json_is_not_acceptable(client: Client) -> None:
    """It is looked at before the credentials are, and answered with a page."""
    reply = await client.rapidpro("GET", "flow_starts.json", headers={"Accept": "application/xml", "Authorization": ""})

    assert (406, "text/html; charset=utf-8") == (reply.status, reply.headers["Content-Type"])


async def test_the_workspace_has_the_keys_of_its_generation(client: Client, *, old: bool) -> None:
    """The old one tells of credits too."""
    assert old == ("credits" in (await client.rapidpro("GET", "workspace.json")).json)


@pytest.mark.parametrize("rate", [None, 0, 7])
def test_the_rate_is_its_generations_unless_it_is_set(rate: int | None, *, old: bool) -> None:
    """3,600 requests an hour, and 2,500."""
    settings = SandboxSettings(rapidpro_generation="old" if old else "new")
    limits = [
        Sandbox(each)._backends["rapidpro"]._throttle._limit  # type: ignore[attr-defined]
        for each in (settings, replace(settings, rapidpro_requests_per_hour=rate))
    ]

    assert [2500 if old else 3600, rate] == limits


async def test_a_journal_is_gone_on_from(settings: SandboxSettings, clock: Clock, tmp_path: Path) -> None:
    """What it showed before, it shows again: statuses, times, the order of params."""
    settings = replace(settings, journal=tmp_path / "journal", duration=timedelta(seconds=10))
    rows = []
    for starts in (2, 0):
        async with Sandbox(settings, clock=clock) as sandbox, aiohttp.ClientSession() as session:
            client = Client(sandbox, session)
            for _ in range(starts):
                await client.start(params={"zeta": 1, "a": None})
                clock.tick(2)
            rows.append((await client.rapidpro("GET", "flow_starts.json")).text)

    assert rows[0] == rows[1]


def test_the_generation_is_chosen_on_the_command_line(monkeypatch: pytest.MonkeyPatch, *, old: bool) -> None:
    """`--rapidpro-generation old`; the new one without it."""
    monkeypatch.setattr("sys.argv", ["sandbox", *(["--rapidpro-generation", "old"] if old else [])])

    assert ["new", "old"][old] == read_arguments()[0].rapidpro_generation
