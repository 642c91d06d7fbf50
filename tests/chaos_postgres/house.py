"""Several gateways on one PostgreSQL, behind the proxy that cuts connections; callers reach any of them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

from tests.chaos.run import settings_of
from tests.end_to_end.processes import Client, GatewayProcess, free_port
from tests.postgres_proxy import Proxy
from tests.postgres_server import Server

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from startflow.v1 import start_flow_service_pb2 as pb
    from startflow.v1 import start_flow_service_pb2_grpc as rpc

    from tests.chaos.plan import Options
    from tests.end_to_end.processes import SandboxProcess

ON_THE_DISK = {"fsync": "on", "full_page_writes": "on"}
TOP = """
lease = "2s"
write_within = "700ms"
"""  # scaled down as the timeouts are


class Spread:
    """Sends each call to the next gateway."""

    def __init__(self, clients: Sequence[Client]) -> None:
        self._clients = clients
        self._next = 0

    async def start(self, **fields: Any) -> pb.StartFlowResponse:
        """Starts a flow at the next gateway, and insists on an answer."""
        self._next += 1
        return await self._clients[self._next % len(self._clients)].start(**fields)

    @property
    def stub(self) -> rpc.StartFlowServiceAsyncStub:
        """Where the next call goes."""
        self._next += 1
        return self._clients[self._next % len(self._clients)].stub


class House:
    """The server, the proxy, and the gateways, whose folders are in one. `direct`: they do not use the proxy."""

    def __init__(
        self,
        count: int,
        folder: Path,
        sandbox: SandboxProcess,
        options: Options | None = None,
        *,
        direct: bool = False,
    ) -> None:
        self._stack = AsyncExitStack()
        self.server = Server(free_port(), **ON_THE_DISK)
        self.proxy = Proxy(self.server.port)
        asked: dict[str, Any] = {}
        if options is not None:
            asked |= {"timeout": f"{options.timeout}s", "settings": settings_of(options), "top": TOP}
            if options.plant:
                asked["command"] = ("-m", "tests.chaos_postgres.planted", options.plant)
        self.gateways: list[GatewayProcess] = []
        port = self.server.port if direct else self.proxy.port
        for number in range(1, count + 1):
            (own := folder / f"gateway-{number}").mkdir()
            self.gateways.append(
                GatewayProcess(
                    own,
                    sandbox,
                    url=f"postgresql://{Server.role}@127.0.0.1:{port}/postgres",
                    **asked,
                )
            )
        self.clients = [Client(gateway.address) for gateway in self.gateways]
        self.client = Spread(self.clients)

    async def __aenter__(self) -> Self:
        """Starts everything, the gateways one after the other: the first makes the schema."""
        self._stack.callback(self.server.stop)
        await asyncio.to_thread(self.server.start)
        self.server.run("create sequence planted increment 1000")  # for a mistake of `planted.py`
        self._stack.enter_context(self.proxy)
        for gateway in self.gateways:
            await self._stack.enter_async_context(gateway)
        for client in self.clients:
            await self._stack.enter_async_context(client)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops everything."""
        await self._stack.aclose()
