"""Silent name servers (`field-cases.md`, B3) hold up who asks them, and nobody else."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gateway.adapters.base import Failed, Reply, Request
from gateway.lanes.pacing import Limiter
from gateway.lanes.transport import Transport
from gateway.lookups import MOST, Lookups
from gateway.store.sqlite import open_sqlite
from tests.builders import NOON
from tests.fakes import Wire, http

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.adapters.base import Exchange

GET = Request(method="GET", path="/", headers={})
GOOD = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]
LINK = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 0, 0, 1))]


class System:
    """The system's `getaddrinfo`: it answers for `good.test`, and for `silent….test` only once it is `woken`."""

    def __init__(self) -> None:
        self.woken = threading.Event()
        self.asked: list[str] = []

    def getaddrinfo(self, host: str, port: int, *_: object, **__: object) -> Any:
        """Looks up a host."""
        self.asked.append(host)
        if host.startswith("silent"):
            self.woken.wait()
        if host == "none.test":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        found = LINK if host == "link.test" else GOOD
        return [(*rest, (address[0], port, *address[2:])) for *rest, address in found]


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Iterator[System]:
    """Stands in for the system, and lets every thread end."""
    stand_in = System()
    monkeypatch.setattr(socket, "getaddrinfo", stand_in.getaddrinfo)
    yield stand_in
    stand_in.woken.set()


def transport(url: str, seconds: float) -> Transport:
    """Makes the transport of a backend."""
    return Transport(
        url,
        timeout=timedelta(seconds=seconds),
        limiter=Limiter(1000, 1.0),
        rate_counts_reads=False,
        concurrency=8,
    )


def one() -> Exchange[Reply | Failed]:
    """Asks for one request and concludes with its answer."""
    return (yield GET)


async def ask(url: str, seconds: float) -> Reply | Failed:
    """Makes one request."""
    async with transport(url, seconds) as opened:
        return await opened.run(one())


async def test_b3_a_silent_name_holds_up_no_other_backend(system: System) -> None:
    """However many names are silent, the backend whose name is known is asked at once."""
    async with Wire(lambda _: http(200)) as server:
        silent = [asyncio.create_task(ask(f"http://silent{n}.test", 60)) for n in range(50)]
        while len(system.asked) < 50:  # noqa: ASYNC110 -- threads count
            await asyncio.sleep(0.01)
        async with asyncio.timeout(30):
            answer = await ask(server.url.replace("127.0.0.1", "good.test"), 20)
        for each in silent:
            each.cancel()
        await asyncio.gather(*silent, return_exceptions=True)

    assert isinstance(answer, Reply)
    assert 200 == answer.status


async def test_b3_a_request_ends_though_its_name_server_is_silent(system: System) -> None:
    """It was not sent, and says why; what runs is a daemon that the end of the process does not wait for."""
    answer = await ask("http://silent.test", 0.2)

    assert isinstance(answer, Failed)
    assert (False, "timeout") == (answer.sent, answer.reason)
    assert ["silent.test"] == system.asked
    assert [True] == [each.daemon for each in threading.enumerate() if each.name == "lookup"]


async def test_b3_look_ups_of_one_client_are_bounded_and_go_on(system: System) -> None:
    """No more threads than that are held; when the system answers, names are known again."""
    lookups = Lookups(0.05)
    for _ in range(MOST + 3):
        with pytest.raises(TimeoutError):
            await lookups.resolve("silent.test", 80)
    assert MOST == len(system.asked)

    system.woken.set()
    found = await lookups.resolve("good.test", 80)
    assert ("127.0.0.1", 80) == (found[0]["host"], found[0]["port"])


async def test_a_name_that_is_not_there(system: System) -> None:
    """It is the error that aiohttp knows, and its thread is free again."""
    lookups = Lookups(20)
    for _ in range(MOST + 1):
        with pytest.raises(socket.gaierror):
            await lookups.resolve("none.test", 80)
    assert MOST + 1 == len(system.asked)


@pytest.mark.usefixtures("system")
async def test_an_address_of_a_link_keeps_its_interface() -> None:
    """Without it nothing can be connected to."""
    (found,) = await Lookups(20).resolve("link.test", 80)
    assert found["host"].startswith("fe80::1%")
    assert (socket.AF_INET6, 80) == (found["family"], found["port"])


async def test_b3_the_store_is_closed_though_every_thread_of_the_pool_is_held(tmp_path: Path) -> None:
    """What closes it waits for its own thread, and for nothing that others hold."""
    store = open_sqlite(tmp_path / "startflow.db", lambda: NOON)
    held = threading.Event()
    pool = ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(pool)
    pool.submit(held.wait)
    try:
        async with asyncio.timeout(20):
            await store.close()
    finally:
        held.set()
