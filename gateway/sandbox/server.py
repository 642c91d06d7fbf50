"""Builds the sandbox: two backends and a control endpoint, each at its own address on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import shlex
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from gateway.announcing import announce
from gateway.sandbox.clock import Clock
from gateway.sandbox.control import Control
from gateway.sandbox.faults import Faults
from gateway.sandbox.journal import STATE_KINDS, Journal
from gateway.sandbox.listener import PATIENCE, Listener
from gateway.sandbox.quiet import LOG
from gateway.sandbox.rapidpro.workspace import RapidPro
from gateway.sandbox.settings import (
    SANDBOX_RAPIDPRO_TOKEN,
    SANDBOX_TWILIO_ACCOUNT_SID,
    SANDBOX_TWILIO_AUTH_TOKEN,
    SandboxSettings,
    check_events_url,
    loopback_address,
)
from gateway.sandbox.twilio.events import Events
from gateway.sandbox.twilio.studio import Twilio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from types import TracebackType

    from gateway.sandbox.exchange import Backend


class CannotStart(Exception):
    """An address or the journal cannot be used. The message says which, why, and what to do."""


class Sandbox:
    """Both simulated backends, with their journal and faults. Use it with `async with`.

    Raises ValueError, with a sentence, for an address that is not on loopback, a URL that is none and a file that is
    not a journal. Raises `CannotStart`, now or when it starts, for what this machine does not allow.
    """

    def __init__(self, settings: SandboxSettings | None = None, *, clock: Callable[[], datetime] | None = None) -> None:
        settings = settings or SandboxSettings()
        own = Clock()
        clock = clock or own
        addresses = {
            "rapidpro": loopback_address(settings.rapidpro_listen),
            "twilio": loopback_address(settings.twilio_listen),
        }
        self._control_address = loopback_address(settings.control_listen)
        if settings.twilio_events_url is not None:
            check_events_url(settings.twilio_events_url)
        try:
            self.journal = Journal(settings.journal, clock=clock)
        except OSError as error:
            msg = f"The journal {settings.journal} cannot be used: {error.strerror}. Name another file with --journal."
            raise CannotStart(msg) from error
        if self.journal.newest_at is not None:
            own.not_before(self.journal.newest_at)
        # The journal's head is part of the seed: a sandbox that goes on from a journal must not draw the same ids.
        seed = f"{secrets.randbits(64) if settings.seed is None else settings.seed}/{self.journal.head}"
        rng = random.Random(seed)  # noqa: S311 - repeatable is the point
        self.faults = Faults(rng=random.Random(seed), clock=clock)  # noqa: S311 - the same
        self.events = Events(settings.twilio_events_url, journal=self.journal, clock=clock)
        self._rapidpro = RapidPro(settings, journal=self.journal, clock=clock, rng=rng)
        self._backends: dict[str, Backend] = {
            "rapidpro": self._rapidpro,
            "twilio": Twilio(settings, journal=self.journal, clock=clock, rng=rng, events=self.events),
        }
        for entry in self.journal.entries():
            if entry["kind"] in STATE_KINDS:
                self._backends[entry["backend"]].rebuild(entry)
        self._listeners = {
            name: Listener(backend, address=addresses[name], journal=self.journal, faults=self.faults, clock=clock)
            for name, backend in self._backends.items()
        }
        self._control: web.AppRunner | None = None

    @property
    def rapidpro_url(self) -> str:
        """Where RapidPro is; the real port once started."""
        return self._listeners["rapidpro"].url

    @property
    def twilio_url(self) -> str:
        """Where Twilio is; the real port once started."""
        return self._listeners["twilio"].url

    @property
    def control_url(self) -> str:
        """Where the control endpoint is; the real port once started."""
        host, port = self._control_address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def start(self) -> None:
        """Listens at all three addresses. Raises `CannotStart` if one of them is taken."""
        for name, listener in self._listeners.items():
            with _naming(f"--{name}-listen", listener.url):
                await listener.open()
        await self.events.start()
        control = Control(
            backends=self._backends,
            listeners=self._listeners,
            faults=self.faults,
            journal=self.journal,
            events=self.events,
            touch=self._rapidpro.touch,
        )
        self._control = web.AppRunner(control.app(), access_log=None, shutdown_timeout=PATIENCE, logger=LOG)
        await self._control.setup()
        with _naming("--control-listen", self.control_url):
            await web.TCPSite(self._control, *self._control_address).start()
        self._control_address = self._control.addresses[0][:2]

    async def stop(self) -> None:
        """Stops everything, in reverse. Changes that were to come late do not come."""
        if self._control is not None:
            await self._control.cleanup()
        for listener in self._listeners.values():
            await listener.close()
        await self.events.stop()
        self.journal.close()

    async def refuse(self, backend: str, seconds: float) -> None:
        """Makes a backend refuse connections for so many seconds."""
        await self._listeners[backend].refuse(seconds)

    def configure(self, backend: str, **changes: object) -> dict[str, Any]:
        """Changes how a backend behaves, and returns all that can be changed. Raises ValueError with a sentence."""
        return self._backends[backend].configure(changes)

    def touch(self, **data: object) -> dict[str, Any]:
        """Gives rows of RapidPro one `modified_on`: the `count` made last or `ids`, so many seconds `ago`."""
        return self._rapidpro.touch(data)

    def force(self, backend: str, external_id: str, **change: object) -> None:
        """Gives a start a `status`, or a `hold`. Raises KeyError if there is no such start."""
        self._backends[backend].force(external_id, change)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


@contextmanager
def _naming(option: str, url: str) -> Iterator[None]:
    """Says which address cannot be listened on, and which option sets another one."""
    try:
        yield
    except OSError as error:
        msg = (
            f"The sandbox cannot listen on {url.removeprefix('http://')}: {os.strerror(error.errno or 0)}. Stop the"
            f" process that does, or set {option} to another address; port 0 is any free one."
        )
        raise CannotStart(msg) from error


def run(settings: SandboxSettings, *, as_json: bool = False) -> None:
    """Runs a sandbox until SIGTERM or SIGINT, and prints where it is as soon as it is ready.

    Raises ValueError and `CannotStart` as `Sandbox` does.
    """
    asyncio.run(_serve(settings, as_json=as_json))


async def _serve(settings: SandboxSettings, *, as_json: bool) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopping.set)
    async with Sandbox(settings) as sandbox:
        announce(announcement(sandbox, as_json=as_json))
        await stopping.wait()


def announcement(sandbox: Sandbox, *, as_json: bool) -> str:
    """Says where a sandbox is: for a person with the credentials, or as one JSON line."""
    if as_json:
        urls = {
            "rapidpro": sandbox.rapidpro_url,
            "twilio": sandbox.twilio_url,
            "control": sandbox.control_url,
        }
        return json.dumps(urls) + "\n"
    rapidpro, twilio = (shlex.quote(url) for url in (sandbox.rapidpro_url, sandbox.twilio_url))
    return (
        "# RapidPro: its newest starts\n"
        f"curl {rapidpro}/api/v2/flow_starts.json -H 'Authorization: Token {SANDBOX_RAPIDPRO_TOKEN}'\n"
        "# Twilio Studio: its flows\n"
        f"curl {twilio}/v2/Flows -u {SANDBOX_TWILIO_ACCOUNT_SID}:{SANDBOX_TWILIO_AUTH_TOKEN}\n"
        "# The control endpoint: faults, settings and the journal; this explains it\n"
        f"curl {shlex.quote(sandbox.control_url)}/\n"
    )
