"""A sandbox on loopback with a clock that ticks, and a client for each of its addresses."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from gateway.sandbox import (
    SANDBOX_RAPIDPRO_TOKEN,
    SANDBOX_TWILIO_ACCOUNT_SID,
    SANDBOX_TWILIO_AUTH_TOKEN,
    Sandbox,
    SandboxSettings,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Json = Any  # what JSON can be; also what aiohttp takes as options
FLOW = "f5901b62-ba76-4003-9c62-72fdacc1b7b7"
STUDIO_FLOW = "FW" + "a" * 32


@dataclass
class Clock:
    """A clock that moves when it is told to."""

    now: datetime = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)

    def __call__(self) -> datetime:
        """Tells the time."""
        return self.now

    def tick(self, seconds: float) -> None:
        """Moves on."""
        self.now += timedelta(seconds=seconds)


@dataclass
class Reply:
    """What came back."""

    status: int
    text: str
    headers: Any = field(repr=False)

    @property
    def json(self) -> Json:
        """The body, read as JSON."""
        return json.loads(self.text)


class Client:
    """Asks a sandbox, with its published credentials unless told otherwise."""

    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self.session = session

    async def ask(self, method: str, url: str, **options: Json) -> Reply:
        """Makes one request."""
        async with self.session.request(method, url, **options) as response:
            return Reply(response.status, await response.text(), response.headers)

    async def rapidpro(self, method: str, path: str, body: Json = None, **options: Json) -> Reply:
        """Asks RapidPro; a body that is not bytes is sent as JSON."""
        headers = {"Authorization": f"Token {SANDBOX_RAPIDPRO_TOKEN}"} | options.pop("headers", {})
        if body is not None:
            headers = {"Content-Type": "application/json"} | headers
            options["data"] = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = f"{self.sandbox.rapidpro_url}/api/v2/{path}"
        return await self.ask(method, url, headers=headers, **options)

    async def start(self, **fields: Json) -> Reply:
        """Starts a flow on RapidPro for one telephone number."""
        return await self.rapidpro("POST", "flow_starts.json", {"flow": FLOW, "urns": ["tel:+12065551212"]} | fields)

    async def twilio(self, method: str, path: str, form: Json = None, **options: Json) -> Reply:
        """Asks Twilio; a dict is sent as a form."""
        account = aiohttp.encode_basic_auth(SANDBOX_TWILIO_ACCOUNT_SID, SANDBOX_TWILIO_AUTH_TOKEN)
        headers = {"Authorization": account} | options.pop("headers", {})
        url = f"{self.sandbox.twilio_url}/v2/{path}"
        return await self.ask(method, url, data=form, headers=headers, **options)

    async def execute(self, to: str = "+12065551212", flow: str = STUDIO_FLOW, **fields: str) -> Reply:
        """Starts an execution on Twilio."""
        form = {"To": to, "From": "+18005551212"} | fields
        return await self.twilio("POST", f"Flows/{flow}/Executions", form)

    async def control(self, method: str, path: str, body: Json = None) -> Reply:
        """Asks the control endpoint."""
        return await self.ask(method, self.sandbox.control_url + path, json=body)

    def kinds(self, after: int = 0) -> list[str]:
        """The kinds of the journal's entries, in order."""
        return [entry["kind"] for entry in self.sandbox.journal.entries(after=after)]


@pytest.fixture
def clock() -> Clock:
    """A clock at noon."""
    return Clock()


@pytest.fixture
def settings() -> SandboxSettings:
    """Starts take ten seconds, ids repeat, nothing is throttled."""
    return SandboxSettings(
        duration=timedelta(seconds=10),
        seed=1,
        rapidpro_requests_per_hour=None,
        twilio_creates_per_second=None,
    )


@pytest.fixture
async def client(settings: SandboxSettings, clock: Clock) -> AsyncIterator[Client]:
    """A sandbox that runs, and someone to ask it."""
    async with Sandbox(settings, clock=clock) as sandbox, aiohttp.ClientSession() as session:
        yield Client(sandbox, session)
