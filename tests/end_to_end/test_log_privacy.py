"""Nothing that a gateway ever writes to its outputs is a secret or about a person, whatever happens to it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from startflow.v1 import start_flow_service_pb2 as pb
from startflow.v1 import start_flow_service_pb2_grpc as rpc

from gateway.sandbox import SANDBOX_RAPIDPRO_TOKEN, SANDBOX_TWILIO_AUTH_TOKEN
from gateway.tenants.clients import hash_token
from tests.end_to_end.processes import READY, ROOT, SEED_FLOW, STUDIO_FLOW, GatewayProcess

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.processes import SandboxProcess

PATIENCE = 20.0
TOKEN, OTHER_TOKEN, WRONG_TOKEN = "tok3n-of-clinic", "tok3n-that-expired", "tok3n-that-is-wrong"
PHONES = ("12065550142", "12065550143", "12065550144", "12065550199")
VALUES = ("Per5ephone", "h1v-result", "s3cret-place")
PRIVATE = (
    *(TOKEN, OTHER_TOKEN, WRONG_TOKEN, SANDBOX_RAPIDPRO_TOKEN, SANDBOX_TWILIO_AUTH_TOKEN, "pa55word", "tok3n"),
    *(hash_token(TOKEN).hex(), "forged-signature", "2065550"),
    *(PHONES + VALUES),
)
FAULTS = (
    {"answer": {"status": 400, "body": {"detail": f"tel:+{PHONES[0]} of {VALUES[0]} is bad"}}, "commit": False},
    {"answer": {"status": 400, "body": f"<h1>+{PHONES[0]} {VALUES[0]}</h1>"}, "commit": False},
    {"answer": {"status": 500, "body": {"message": f"{VALUES[1]} for +{PHONES[1]}"}}},
    {"answer": {"status": 201, "body": {"uuid": VALUES[1], "status": VALUES[0], "context": f"+{PHONES[0]}"}}},
    {"answer": {"status": 302, "headers": {"Location": f"https://evil.example/?a={VALUES[2]}"}}, "commit": False},
    {"preset": "throttled"},
    {"preset": "unauthorized"},
    {"preset": "truncated_201"},
    {"preset": "reset_after_commit"},
    {"preset": "html_502"},
)
BUG = """
import sys
from gateway.server import building
from gateway.service import starts
async def broken(self, call, data):
    try:
        raise ValueError(data.decode("latin-1"))
    except ValueError as error:
        error.add_note(data.decode("latin-1"))
        raise KeyError("tel:+{0}", dict(a="{1}")) from error
starts.Service.list_changes = broken
async def forgotten():
    raise RuntimeError("{0} {1}")
build = building._build
async def and_forget(settings, door, stack):
    import asyncio, gc, logging
    logging.getLogger("a.library").warning("called +{0}")
    logging.getLogger("a.library").warning("called %s", "+{0}", exc_info=RuntimeError("{1}"))
    asyncio.get_running_loop().call_soon(lambda number: 1 / 0, "+{0}")
    asyncio.get_running_loop().create_task(forgotten())
    built = await build(settings, door, stack)
    gc.collect()
    return built
building._build = and_forget
from gateway.__main__ import main
main()
""".format(PHONES[3], VALUES[0])


class Recorded(GatewayProcess):
    """A gateway with clients and bugs, all of whose output is kept."""

    @property
    def environment(self) -> dict[str, str]:
        """What its configuration takes from the environment."""
        clients = [
            {"tenant": "clinic", "token_sha256": hash_token(TOKEN).hex(), "scopes": ["start", "read", "admin"]},
            {"tenant": "old", "token_sha256": hash_token(OTHER_TOKEN).hex(), "expires": "2020-01-01T00:00:00Z"},
        ]
        return {**super().environment, "STARTFLOW_CLIENTS": json.dumps(clients)}

    async def begin(self) -> None:
        """Starts it, and keeps what it writes to stdout as well."""
        await self.launch()
        assert self._process is not None
        assert self._process.stdout is not None
        said = b""
        while b"Starts are recorded" not in said:
            line = await self._process.stdout.readline()
            assert line, self.log.read_text()
            said += line
        found = READY.search(said.decode())
        assert found
        self.http = found[2]
        with self.log.open("ab") as log:
            log.write(said)

    async def end(self) -> int:
        """Has it shut down, and keeps the rest."""
        assert self._process is not None
        self._process.terminate()
        rest, _ = await self._process.communicate()
        with self.log.open("ab") as log:
            log.write(rest)
        assert self._process.returncode is not None
        return self._process.returncode

    def written(self) -> str:
        """Everything that was ever written."""
        return self.log.read_text(errors="replace")


def params() -> Struct:
    """Params with what nobody else is to know."""
    made = Struct()
    made.update({"name": VALUES[0], VALUES[2]: {"result": [VALUES[1]]}})
    return made


async def calls(gateway: Recorded, sandbox: SandboxProcess) -> None:
    """Starts that go well and badly, and calls that are refused for every sort of reason."""
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        stub: Any = rpc.StartFlowServiceStub(channel)

        async def attempt(method: str, request: Any, token: str = TOKEN) -> Any:
            metadata = (("authorization", f"Bearer {token}"), ("x-request-id", f"call/+{PHONES[2]}"))
            try:
                return await getattr(stub, method)(request, metadata=metadata, timeout=PATIENCE)
            except grpc.aio.AioRpcError as error:
                return error

        def start(number: int, flow: str, **more: Any) -> Any:
            made = {"urns": [f"tel:+{PHONES[number % 3]}"], "params": params(), **more}
            return attempt("StartFlow", pb.StartFlowRequest(flow=flow, **made))

        for backend, flow in (("rapidpro", SEED_FLOW), ("twilio", STUDIO_FLOW)):
            for number, fault in enumerate(FAULTS):
                await sandbox.fault(**{"verb": "create", **fault, "backend": backend, "times": 1})
                answer = await start(number, flow, request_id=f"{VALUES[2]}-{backend}-{number}")
                assert isinstance(answer, pb.StartFlowResponse), answer
        refused = [
            await start(0, f"flow of {VALUES[1]}"),
            await start(0, SEED_FLOW, urns=[f"+{PHONES[0]}"]),
            await start(0, SEED_FLOW, request_id=f"{VALUES[2]}-rapidpro-0", labels={"a": VALUES[1]}),
            await attempt("StartFlow", pb.StartFlowRequest(flow=SEED_FLOW, urns=[f"tel:+{PHONES[0]}"]), WRONG_TOKEN),
            await attempt("StartFlow", pb.StartFlowRequest(flow=SEED_FLOW, urns=[f"tel:+{PHONES[0]}"]), OTHER_TOKEN),
            await attempt("ListFlowStarts", pb.ListFlowStartsRequest(page_token=VALUES[0])),
            await attempt("GetFlowStart", pb.GetFlowStartRequest(id=f"+{PHONES[0]}")),
            await attempt("ListChanges", pb.ListChangesRequest(id=f"+{PHONES[0]} {VALUES[0]}")),
        ]
        assert not [answer for answer in refused if not isinstance(answer, grpc.aio.AioRpcError)]
        raw = channel.unary_unary("/startflow.v1.StartFlowService/StartFlow")
        with pytest.raises(grpc.aio.AioRpcError):
            await raw(f"\xff{VALUES[0]}".encode("latin-1"), metadata=(("authorization", f"Bearer {TOKEN}"),))


async def pushes(gateway: Recorded) -> None:
    """Posts that nobody has signed, and what is no HTTP."""
    body = json.dumps([{"data": {"contact_channel_address": f"+{PHONES[0]}", "context": VALUES[0]}}])
    headers = {"X-Twilio-Signature": "forged-signature", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(gateway.http) as session:
        for path in (f"/events/twilio/twilio?a={VALUES[0]}", f"/events/twilio/+{PHONES[0]}", f"/{VALUES[1]}"):
            async with session.post(path, data=body, headers=headers) as answer:
                assert answer.status in (403, 404, 503)
    host, _, port = gateway.http.removeprefix("http://").rpartition(":")
    for line in (f"POST /+{PHONES[0]} {VALUES[0]}", f"POST /events/twilio/twilio HTTP/1.1\r\n{VALUES[0]}\x00"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"{line}\r\n\r\n".encode())
        await reader.read()
        writer.close()


async def test_nothing_private_is_ever_written(tmp_path: Path, sandbox: SandboxProcess) -> None:
    """Starts, faults, refusals, bugs, forged pushes, reloads, a crash, a drained end: every line is looked through."""
    gateway = Recorded(tmp_path, sandbox, command=("-c", BUG))
    await gateway.begin()
    await calls(gateway, sandbox)
    await pushes(gateway)
    await asyncio.sleep(0)
    config = tmp_path / "startflow.toml"
    good = config.read_text()
    config.write_text(good.replace(SANDBOX_RAPIDPRO_TOKEN, "pa55word") + '\n[backends.x]\ntoken = "pa55word"\n')
    os.kill(gateway.pid, signal.SIGHUP)
    async with asyncio.timeout(PATIENCE):
        while "reload_refused" not in gateway.written():  # noqa: ASYNC110 -- another process writes it
            await asyncio.sleep(0.05)
    second = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "serve", "--config", str(config)),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=ROOT, env=gateway.environment,
    )  # fmt: skip
    refusal = (await second.communicate())[0].decode()
    await gateway.kill()
    await gateway.begin()  # what was in flight is found, or sent again
    await sandbox.fault(backend="twilio", verb="create", delay=1.0)
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        request = pb.StartFlowRequest(flow=STUDIO_FLOW, urns=[f"tel:+{PHONES[3]}"], params=params())
        stub: Any = rpc.StartFlowServiceStub(channel)
        await stub.StartFlow(request, metadata=(("authorization", f"Bearer {TOKEN}"),), timeout=PATIENCE)
    assert 0 == await gateway.end()
    written = gateway.written()
    entries = [json.loads(line) for line in written.splitlines() if line.startswith("{")]

    assert 0 != second.returncode
    assert [] == [word for word in PRIVATE if word in written + refusal]
    events = {entry["event"] for entry in entries}
    assert {"dispatch_not_accepted", "rpc_failed", "push_refused", "library_logs", "loop_complains"} <= events
    assert {"reload_refused", "stopping"} <= events
    (bug,) = [entry for entry in entries if entry["event"] == "rpc_failed"]
    assert ["KeyError", "ValueError"] == [stack["exc_type"] for stack in bug["exception"]]
    assert 32 == len(bug["request_id"])
    strange = [line for line in written.splitlines() if not line.startswith(("{", "startflow ", "Let in", "Starts "))]
    assert [] == strange  # everything but what is told to whoever starts it is JSON
