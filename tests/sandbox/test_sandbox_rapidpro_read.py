# ruff: noqa: E501 - a row is one line
"""Reading flow starts: credentials, lists, pages, progress, the throttle."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

from gateway.sandbox import SANDBOX_RAPIDPRO_EMAIL, SANDBOX_RAPIDPRO_TOKEN, Sandbox, SandboxSettings
from tests.lengths import size

if TYPE_CHECKING:
    from tests.sandbox.conftest import Client, Clock

EMPTY = '{"next":null,"previous":null,"results":[]}'
ARCHIVED = "2f709286-11fe-41e1-84fe-40b01018a1ea"


def basic(user: str, password: str) -> str:
    """An Authorization header."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# fmt: off
CREDENTIALS: list[tuple[str, str, int, str]] = [
    ("token",          f"Token {SANDBOX_RAPIDPRO_TOKEN}",                           200, EMPTY),
    ("lower case",     f"token {SANDBOX_RAPIDPRO_TOKEN}",                           200, EMPTY),
    ("basic",          basic(SANDBOX_RAPIDPRO_EMAIL, SANDBOX_RAPIDPRO_TOKEN),       200, EMPTY),
    ("none",           "",                                                          403, '{"detail":"Authentication credentials were not provided."}'),
    ("bearer",         f"Bearer {SANDBOX_RAPIDPRO_TOKEN}",                          403, '{"detail":"Authentication credentials were not provided."}'),
    ("wrong",          "Token " + "X" * 40,                                         403, '{"detail":"Invalid token"}'),
    ("basic wrong",    basic("x", "y"),                                             403, '{"detail":"Invalid token or email"}'),
    ("only a scheme",  "Token",                                                     403, '{"detail":"Invalid token header. No credentials provided."}'),
    ("with spaces",    "Token a b",                                                 403, '{"detail":"Invalid token header. Token string should not contain spaces."}'),
]
# fmt: on


@pytest.mark.parametrize(("label", "authorization", "status", "text"), CREDENTIALS, ids=[row[0] for row in CREDENTIALS])
async def test_who_is_not_known_gets_403(
    client: Client, label: str, authorization: str, status: int, text: str
) -> None:
    """Never 401, and no workspace header before someone is known."""
    reply = await client.rapidpro("GET", "flow_starts.json", headers={"Authorization": authorization})

    assert (status, text) == (reply.status, reply.text), label
    assert (status == 200) == ("X-Temba-Workspace" in reply.headers)
    assert "WWW-Authenticate" not in reply.headers


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS"])
async def test_other_methods_are_405(client: Client, method: str) -> None:
    """OPTIONS is listed in Allow and is not allowed."""
    reply = await client.rapidpro(method, "flow_starts.json")

    assert (405, f'{{"detail":"Method \\"{method}\\" not allowed."}}') == (reply.status, reply.text)


async def test_the_suffix_matters(client: Client) -> None:
    """Without `.json` a list is empty and a start forbidden; a slash after it does no harm."""
    await client.start()
    bare = await client.rapidpro("GET", "flow_starts")
    post = await client.rapidpro("POST", "flow_starts", {})
    slash = await client.rapidpro("GET", "flow_starts.json/")
    other = await client.rapidpro("GET", "nope.json")

    assert (bare.status, bare.text) == (200, "[]")
    assert (post.status, post.text) == (403, '{"detail":"You do not have permission to perform this action."}')
    assert len(slash.json["results"]) == 1
    assert (other.status, other.headers["Content-Type"]) == (404, "text/html; charset=utf-8")


# fmt: off
DATES: list[tuple[str, int]] = [
    ("after=2026-03-01T12:00:01.250000Z", 2),         # inclusive
    ("after=2026-03-01T12:00:01.250001Z", 1),
    ("before=2026-03-01T12:00:01.250000Z", 2),        # inclusive
    ("before=2026-03-01T12:00:01.249999Z", 1),
    ("after=2026-03-01", 3),
    ("after=2026-03-01T12:00:01.25%2B00:00", 2),
    ("after=2026-03-01T12:00:01.25+00:00", 0),        # the plus is a space
    ("after=yesterday", 0),
    ("after=1772366400", 0),
    ("before=x", 0),
    ("after=", 3),
    ("status=completed&flow=x&id=7&limit=1", 3),      # not filters
    ("after=2026-03-01T12:00:01Z&before=2026-03-01T12:00:02Z", 1),
]
# fmt: on


@pytest.mark.parametrize(("query", "count"), DATES)
async def test_dates_are_inclusive_and_bad_ones_empty(client: Client, clock: Clock, query: str, count: int) -> None:
    """What is not a date makes an empty list, not an error."""
    for _ in range(3):
        await client.start(params={"sandbox": "stick_pending"})
        clock.tick(1)
    reply = await client.ask(
        "GET",
        f"{client.sandbox.rapidpro_url}/api/v2/flow_starts.json?{query}",
        headers={"Authorization": f"Token {SANDBOX_RAPIDPRO_TOKEN}"},
    )

    assert (200, count) == (reply.status, len(reply.json["results"]))


async def test_one_start_by_uuid(client: Client) -> None:
    """Any way of writing a UUID finds it; an unknown one finds nothing; what is none is refused."""
    uuid = (await client.start()).json["uuid"]
    for way in (uuid, uuid.upper(), uuid.replace("-", "")):
        found = await client.rapidpro("GET", f"flow_starts.json?uuid={way}")
        assert [uuid] == [row["uuid"] for row in found.json["results"]]
    unknown = await client.rapidpro("GET", "flow_starts.json?uuid=00000000-0000-4000-8000-000000000000")
    invalid = await client.rapidpro("GET", "flow_starts.json?uuid=")

    assert unknown.text == EMPTY
    assert (invalid.status, invalid.text) == (400, '{"detail":"Param \'uuid\':  is not a valid UUID."}')


@pytest.mark.parametrize("same_time", [False, True])
@pytest.mark.parametrize("query", ["", "reverse=true&after=2026-01-01T00:00:00Z"])
async def test_pages_of_250_lead_on_and_back(client: Client, clock: Clock, query: str, *, same_time: bool) -> None:
    """Every start is on one page, also when all share one time; `previous` leads back."""
    for _ in range(600):
        await client.start(params={"sandbox": "stick_pending"})
        clock.tick(0 if same_time else 0.001)
    pages, path = [], f"flow_starts.json?{query}"
    while path:
        pages.append((await client.rapidpro("GET", path)).json)
        path = pages[-1]["next"] and pages[-1]["next"].rpartition("/")[2]
    ids = [[row["id"] for row in page["results"]] for page in pages]
    expected = list(range(1, 601)) if query else list(range(600, 0, -1))
    back = (await client.rapidpro("GET", pages[2]["previous"].rpartition("/")[2])).json

    assert [len(page) for page in ids] == [250, 250, 100]
    assert expected == [each for page in ids for each in page]
    assert same_time or ids[1] == [row["id"] for row in back["results"]]
    assert pages[0]["next"].startswith(f"{client.sandbox.rapidpro_url}/api/v2/flow_starts.json?")
    assert parse_qs(urlsplit(pages[0]["next"]).query).items() >= parse_qs(query).items()


async def test_a_cursor_is_the_time_of_the_last_row(client: Client, clock: Clock) -> None:
    """And one that is not RapidPro's own is 404."""
    for _ in range(251):
        await client.start(params={"sandbox": "stick_pending"})
        clock.tick(1)
    page = (await client.rapidpro("GET", "flow_starts.json")).json
    cursor = parse_qs(urlsplit(page["next"]).query)["cursor"][0]
    bad = await client.rapidpro("GET", "flow_starts.json?cursor=zzz")

    assert base64.b64decode(cursor) == b"p=2026-03-01+12%3A00%3A01.250000%2B00%3A00"
    assert (bad.status, bad.text) == (404, '{"detail":"Invalid cursor"}')


async def test_a_start_moves_on_with_time(client: Client, clock: Clock) -> None:
    """Pending, queued, started, completed; each move is at its own time, whenever someone looks."""
    start = (await client.start(groups=["Ryan & Macklemore"], contacts=["f1ea776e-c923-4c1a-b3a3-0c466932b2cc"])).json
    seen = []
    for seconds in (0.5, 1, 5.0, 20):
        clock.tick(seconds)
        row = (await client.rapidpro("GET", f"flow_starts.json?uuid={start['uuid']}")).json["results"][0]
        seen.append((row["status"], row["progress"], row["modified_on"][17:-1]))

    assert seen == [
        ("pending", {"total": -1, "started": 0}, "00.250000"),
        ("queued", {"total": 12, "started": 0}, "01.250000"),
        ("started", {"total": 12, "started": 6}, "03.250000"),
        ("completed", {"total": 12, "started": 12}, "10.250000"),
    ]


# fmt: off
STEERED: list[tuple[str, str | None, dict[str, int], str]] = [
    ("fail",          "failed",       {"total": -1, "started": 0}, "02.250000"),
    ("interrupt",     "interrupted",  {"total": 2, "started": 1},  "03.250000"),  # does not touch modified_on
    ("stick",         "started",      {"total": 2, "started": 2},  "03.250000"),
    ("stick_pending", "pending",      {"total": -1, "started": 0}, "00.250000"),
    ("nobody",        "completed",    {"total": -1, "started": 0}, "10.250000"),
    ("partial",       "completed",    {"total": 2, "started": 1},  "10.250000"),
    ("blocked",       "completed",    {"total": 2, "started": 2},  "10.250000"),
    ("null",          None,           {"total": 2, "started": 2},  "03.250000"),
    ("anything else", "completed",    {"total": 2, "started": 2},  "10.250000"),
]
# fmt: on


@pytest.mark.parametrize(("word", "status", "progress", "modified"), STEERED, ids=[row[0] for row in STEERED])
async def test_params_steer_what_becomes_of_a_start(
    client: Client, clock: Clock, word: str, status: str | None, progress: dict[str, int], modified: str
) -> None:
    """`params.sandbox` asks for one of the ends that really occur."""
    await client.start(urns=["tel:+12065551212", "twitter:sirmixalot"], params={"sandbox": word})
    clock.tick(60)
    row = (await client.rapidpro("GET", "flow_starts.json")).json["results"][0]

    assert (status, progress, modified) == (row["status"], row["progress"], row["modified_on"][17:-1])


async def test_an_archived_flow_is_taken_and_then_fails(client: Client, clock: Clock) -> None:
    """No check and no reason."""
    reply = await client.start(flow=ARCHIVED)
    clock.tick(10)
    row = (await client.rapidpro("GET", "flow_starts.json")).json["results"][0]

    assert (reply.status, reply.json["status"], row["status"]) == (201, "pending", "failed")


async def test_lists_are_sorted_by_last_change(client: Client, clock: Clock) -> None:
    """A start that moves jumps to the front."""
    first = (await client.start()).json["id"]
    clock.tick(0.9)
    second = (await client.start(params={"sandbox": "stick_pending"})).json["id"]
    before = [row["id"] for row in (await client.rapidpro("GET", "flow_starts.json")).json["results"]]
    clock.tick(0.2)
    after = [row["id"] for row in (await client.rapidpro("GET", "flow_starts.json")).json["results"]]

    assert ([second, first], [first, second]) == (before, after)


async def test_flows_and_workspace(client: Client) -> None:
    """Flows say whether they are archived; `?uuid=` asks for one."""
    flows = (await client.rapidpro("GET", "flows.json")).json["results"]
    one = (await client.rapidpro("GET", f"flows.json?uuid={ARCHIVED}")).json["results"]
    workspace = (await client.rapidpro("GET", "workspace.json")).json

    assert [flow["name"] for flow in flows] == ["Thrift Shop", "Registration", "Archived Flow"]
    assert [flow["archived"] for flow in one] == [True]
    assert workspace["name"] == "Sandbox"


class TestThrottle:
    """One sliding window for the whole workspace."""

    @pytest.fixture
    def settings(self) -> SandboxSettings:
        """Three requests an hour."""
        return SandboxSettings(rapidpro_requests_per_hour=3, duration=timedelta(seconds=1))

    async def test_it_says_when_the_oldest_request_leaves(self, client: Client, clock: Clock) -> None:
        """Refused bodies count; requests without credentials and throttled ones do not."""
        await client.rapidpro("POST", "flow_starts.json", {})
        clock.tick(1)
        for path in ("flow_starts.json", "flows.json"):
            await client.rapidpro("GET", path)
        stranger = await client.rapidpro("GET", "flows.json", headers={"Authorization": ""})
        throttled = await client.start()
        clock.tick(3598)
        last = await client.start()
        clock.tick(1)
        free = await client.start()
        again = await client.start()

        assert stranger.status == 403
        assert throttled.text == '{"detail":"Request was throttled. Expected available in 3599 seconds."}'
        assert (throttled.status, throttled.headers["Retry-After"]) == (429, "3599")
        assert last.text == '{"detail":"Request was throttled. Expected available in 1 second."}'
        assert (free.status, again.status) == (201, 429)


async def test_a_hundred_thousand_running_starts_stay_cheap(settings: SandboxSettings, clock: Clock) -> None:
    """Nothing is walked through to answer what has not changed."""
    sandbox = Sandbox(replace(settings, duration=timedelta(hours=1)), clock=clock)
    rapidpro = sandbox._backends["rapidpro"]
    entry = {
        "kind": "created",
        "flow": "f5901b62-ba76-4003-9c62-72fdacc1b7b7",
        "contacts": [],
        "groups": [],
        "urns": ["tel:+12065551212"],
        "params": {},
        "restart_participants": True,
        "exclude_active": False,
        "duration": 3600.0,
        "created_at": "2026-03-01T12:00:00.000000Z",
        "at": "2026-03-01T12:00:00.000000Z",
    }
    count = size(100_000, quick=20_000)
    for number in range(count):
        rapidpro.rebuild(entry | {"id": number, "external_id": f"{number:032x}"})
    starts = rapidpro._starts  # type: ignore[attr-defined]
    starts.catch_up(clock())
    looked_at = 0
    for _ in starts.between(clock(), None, oldest_first=True, as_of=clock()):
        looked_at += 1

    assert looked_at == 0
    assert len(starts) == count
