"""The servers that are called and the callers, for measuring what calls cost."""

from __future__ import annotations

import base64
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from startflow.v1 import start_flow_service_pb2 as pb
from startflow.v1 import start_flow_service_pb2_grpc as rpc

from gateway.tenants.clients import hash_token
from tests.bench.bare_calls import ASKED
from tests.bench.calls_report import LOOP, OTHERS, READERS, WRITER, Burst
from tests.bench.population import TENANT
from tests.bench.processes import CannotMeasure
from tests.bench.serving import DISK, Gateway, Spent, configuration
from tests.bench.watch_report import STOLEN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import ExitStack

    from tests.bench.processes import Crowd
    from tests.bench.stub_backend import Stub

SERVICE = pb.DESCRIPTOR.services_by_name["StartFlowService"].full_name
REQUEST_ID = pb.StartFlowRequest.DESCRIPTOR.fields_by_name["request_id"].number
BARE, NAMED = ("-m", "tests.bench.bare_calls"), ("-m", "tests.bench.calls_server")
QUIET, LOUD = "quiet", "loud"  # tenants beside the one that is measured
QUOTA = 50  # starts a second that the loud one may make
CONNECTIONS = 4
WARM_UP = 0.3  # seconds
TRIES = 3
WAITS = "2/day"  # reading the workspace and the flow take both, so that nothing is ever sent
THREADS = {"store-writer": WRITER} | dict.fromkeys(
    ("store-scan_0", "store-point_0", "store-stream_0", "store-own_0", "store-own_1"), READERS
)


@dataclass
class Callers:
    """Who calls, and whom. `tokens` are those of the gateway's tenants."""

    crowd: Crowd
    core: int
    stub: Stub
    tokens: dict[str, str]

    def gateway(
        self, stack: ExitStack, command: tuple[str, ...] = NAMED, *, where: Path = DISK, store: str = ""
    ) -> Gateway:
        """Starts a gateway whose only backend waits, with the store of a URL, or with an empty file of its own."""
        where.mkdir(exist_ok=True)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=where)))
        config = configuration(
            store or folder / "startflow.db",
            self.stub.urls,
            rate=WAITS,
            settings="backlog = 100000000",
            head=self.clients(),
        )
        return stack.enter_context(Gateway(self.core, folder, config, command))

    def clients(self) -> str:
        """Returns the part of a configuration that lets the tenants in."""
        return "".join(_client(tenant, token) for tenant, token in self.tokens.items())

    def bare(self, stack: ExitStack) -> Gateway:
        """Starts the bare server, which reads no configuration."""
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        return stack.enter_context(Gateway(self.core, folder, "", BARE))

    def start(self, in_flight: int, tenant: str = TENANT, *, per_second: float = 0.0) -> dict[str, Any]:
        """Describes a caller who starts flows, each with a request id of its own."""
        asked = pb.StartFlowRequest()
        asked.CopyFrom(ASKED)
        asked.ClearField("request_id")
        return {**self.caller("StartFlow", [asked], tenant, in_flight), "unique": REQUEST_ID, "perSecond": per_second}

    def caller(self, method: str, requests: Sequence[Any], tenant: str, in_flight: int) -> dict[str, Any]:
        """Describes a caller who makes so many calls at a time."""
        return {
            "method": f"/{SERVICE}/{method}",
            "requests": [base64.b64encode(each.SerializeToString()).decode() for each in requests],
            "token": self.tokens[tenant],
            "inFlight": in_flight,
            "connections": min(in_flight, CONNECTIONS),
        }

    def burst(
        self, server: Gateway, callers: Sequence[dict[str, Any]], seconds: float, refusing: Sequence[int] = ()
    ) -> list[Burst]:
        """Has callers call for a while; `refusing` are the places of those who may be refused for their quota."""
        for _ in range(TRIES):
            before = _by_thread(server)
            target, pid = server.address, server.process.pid
            result = self.crowd.load(target, pid, self.core, callers, seconds=seconds, warm_up=WARM_UP)
            bursts = list(_read(result, _shares(before, _by_thread(server))))
            if result["stolen"] <= STOLEN:
                break
            tell(f"thrown away: {result['stolen']:.0%} of the time was stolen")
        for place, (caller, burst) in enumerate(zip(callers, bursts, strict=True)):
            fine = {"OK", "ResourceExhausted"} if place in refusing else {"OK"}
            if not burst.codes or set(burst.codes) - fine:
                raise CannotMeasure(f"{caller['method']} was answered with {burst.codes or 'nothing'}.")
        return bursts

    def check(self, gateway: Gateway) -> None:
        """Starts one flow, and makes sure that it stays where it is."""
        start = self.ask(gateway, "StartFlow", ASKED).flow_start
        time.sleep(WARM_UP)
        start = self.ask(gateway, "GetFlowStart", pb.GetFlowStartRequest(id=start.id)).flow_start
        if start.state != pb.FlowStart.STATE_PENDING:
            raise CannotMeasure("The gateway sends what it is only to record.")

    def ask(self, gateway: Gateway, method: str, request: Any) -> Any:
        """Calls once."""
        with grpc.insecure_channel(gateway.address) as channel:
            stub: Any = rpc.StartFlowServiceStub(channel)
            metadata = credential(self.tokens[TENANT])
            return getattr(stub, method)(request, metadata=metadata, timeout=10, wait_for_ready=True)


def credential(token: str) -> tuple[tuple[str, str]]:
    """Writes the metadata of a call that has a token."""
    return (("authorization", f"Bearer {token}"),)


def _client(tenant: str, token: str) -> str:
    limit = f"starts_per_second = {QUOTA}\n" if tenant == LOUD else ""
    return f'[[clients]]\ntenant = "{tenant}"\ntoken_sha256 = "{hash_token(token).hex()}"\n{limit}'


def _read(result: dict[str, Any], parts: dict[str, float]) -> Iterator[Burst]:
    spent = Spent(seconds=result["seconds"], cpu_seconds=result["server_seconds"], stolen=result["stolen"])
    for met in result["callers"]:
        yield Burst(spent=spent, client_seconds=result["client_seconds"], parts=parts, **met)


def _by_thread(server: Gateway) -> dict[str, int]:
    """Returns the nanoseconds of processor time that each part of a server has taken so far."""
    pid, taken = server.process.pid, defaultdict[str, int](int)
    for thread in Path(f"/proc/{pid}/task").iterdir():
        named = (thread / "comm").read_text().strip()
        part = LOOP if thread.name == str(pid) else THREADS.get(named, OTHERS)
        taken[part] += int((thread / "schedstat").read_text().split()[0])
    return taken


def _shares(before: dict[str, int], after: dict[str, int]) -> dict[str, float]:
    taken = {part: nanoseconds - before.get(part, 0) for part, nanoseconds in after.items()}
    return {part: nanoseconds / sum(taken.values()) for part, nanoseconds in taken.items()}


_BEGUN = time.monotonic()


def tell(text: str) -> None:
    """Tells how far it is."""
    print(f"[{time.monotonic() - _BEGUN:5.1f}] {text}", file=sys.stderr, flush=True)
