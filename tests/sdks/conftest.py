"""A sandbox in a thread of its own, for clients that block, and the backends' official SDKs pointed at it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import RequestPayloadError
from temba_client.v2 import TembaClient
from twilio.http.http_client import TwilioHttpClient
from twilio.rest import Client

from gateway.sandbox import (
    SANDBOX_RAPIDPRO_TOKEN,
    SANDBOX_TWILIO_ACCOUNT_SID,
    SANDBOX_TWILIO_AUTH_TOKEN,
    Sandbox,
    SandboxSettings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from twilio.http.response import Response

STUDIO = "https://studio.twilio.com"
LOGGERS = ("aiohttp", "asyncio")  # where they say what was raised and not caught
THE_CALLERS = (HttpProcessingError, RequestPayloadError, ConnectionResetError)  # doing: not HTTP, or hung up
PATIENCE = 10.0  # seconds; whatever takes longer on loopback hangs

# Starts take ten seconds, ids repeat, nothing is throttled.
SETTINGS = SandboxSettings(
    duration=timedelta(seconds=10),
    seed=1,
    rapidpro_requests_per_hour=None,
    twilio_creates_per_second=None,
)


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


class Bugs(logging.Handler):
    """Collects what was raised and not caught. What is the caller's doing is not collected."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def told(self) -> list[str]:
        """What there is, each bug once."""
        seen, self.seen = self.seen, []
        return seen

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a record that is somebody's mistake."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, THE_CALLERS):
            self.seen.append(f"{record.getMessage()}: {error!r}")


@dataclass
class Running:
    """A sandbox that serves in a thread. Use it with `with`; it must end without a bug in its log."""

    settings: SandboxSettings = SETTINGS
    clock: Clock = field(default_factory=Clock)
    bugs: Bugs = field(default_factory=Bugs)

    def __enter__(self) -> Self:
        self._started: Future[Sandbox] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="sandbox")
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self.bugs)
        self._thread.start()
        self.sandbox = self._started.result(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the sandbox does not stop"
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(self.bugs)

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        async with Sandbox(self.settings, clock=self.clock) as sandbox:
            self._started.set_result(sandbox)
            await self._stopping.wait()

    def control(self, method: str, path: str, body: object = None) -> Any:
        """Asks the control endpoint, and reads its answer as JSON, strictly."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.sandbox.control_url + path, data=data, method=method)  # noqa: S310 - http on loopback
        with urlopen(request, timeout=PATIENCE) as response:  # noqa: S310 - the same
            return strict_json(response.read())

    def fault(self, backend: str, preset: str, **fields: object) -> None:
        """Asks for a fault by name."""
        self.control("POST", "/faults", {"backend": backend, "preset": preset, **fields})

    def journal(self, kind: str) -> list[Any]:
        """The journal's entries of one kind."""
        return list(self.control("GET", f"/journal?kind={kind}")["entries"])


def strict_json(text: bytes) -> Any:
    """Reads JSON as any reader would: Python's own NaN and Infinity are not part of it."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text.decode(), parse_constant=refuse)


class SandboxHttpClient(TwilioHttpClient):
    """The SDK's own HTTP client, which takes what is meant for Studio to the sandbox and goes nowhere else."""

    def __init__(self, url: str) -> None:
        super().__init__(timeout=PATIENCE)
        self.url = url
        self.asked: list[str] = []

    def request(self, method: str, url: str, *args: Any, **options: Any) -> Response:
        """Makes one request."""
        self.asked.append(url)
        url = url.replace(STUDIO, self.url, 1)
        assert urlsplit(self.url)[:2] == urlsplit(url)[:2], "the SDK would have left the sandbox"
        return super().request(method, url, *args, **options)


@pytest.fixture(autouse=True)
def _only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps accounts, regions, proxies and passwords of this machine away from the SDKs."""
    for name in os.environ:
        if name.upper().startswith("TWILIO_") or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("NETRC", os.devnull)


@pytest.fixture
def run_sandbox() -> Iterator[Callable[..., Running]]:
    """Runs sandboxes with other settings than the usual ones; at the end their logs must show no bug."""
    with contextlib.ExitStack() as stack:
        started: list[Running] = []

        def run(**changes: Any) -> Running:
            started.append(stack.enter_context(Running(replace(SETTINGS, **changes))))
            return started[-1]

        yield run
    assert [] == [bug for running in started for bug in running.bugs.told()]


@pytest.fixture
def running(run_sandbox: Callable[..., Running]) -> Running:
    """A sandbox with the usual settings."""
    return run_sandbox()


@pytest.fixture
def connect_rapidpro() -> Callable[..., TembaClient]:
    """Makes RapidPro's SDK a client of a sandbox, with its published token unless told otherwise."""

    def connect(running: Running, token: str = SANDBOX_RAPIDPRO_TOKEN) -> TembaClient:
        return TembaClient(running.sandbox.rapidpro_url, token, user_agent="startflow-tests")

    return connect


@pytest.fixture
def rapidpro(running: Running, connect_rapidpro: Callable[..., TembaClient]) -> TembaClient:
    """RapidPro's SDK."""
    return connect_rapidpro(running)


@pytest.fixture
def connect_twilio() -> Iterator[Callable[..., Client]]:
    """Makes Twilio's SDK a client of a sandbox, with its published account unless told otherwise."""
    with contextlib.ExitStack() as stack:

        def connect(
            running: Running,
            username: str | None = SANDBOX_TWILIO_ACCOUNT_SID,
            password: str | None = SANDBOX_TWILIO_AUTH_TOKEN,
        ) -> Client:
            http_client = SandboxHttpClient(running.sandbox.twilio_url)
            stack.callback(http_client.session.close)
            return Client(username, password, http_client=http_client)

        yield connect


@pytest.fixture
def twilio(running: Running, connect_twilio: Callable[..., Client]) -> Client:
    """Twilio's SDK."""
    return connect_twilio(running)
