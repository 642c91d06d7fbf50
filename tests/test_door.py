"""TLS for real, and what a reload takes and refuses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import signal
import sys
from contextlib import AsyncExitStack
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import grpc
import pytest
import trustme
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from startflow.v1 import start_flow_service_pb2 as pb
from startflow.v1 import start_flow_service_pb2_grpc as rpc
from structlog.testing import capture_logs

from gateway.cli import check
from gateway.config import small_files
from gateway.config.loading import ConfigError
from gateway.config.settings import Settings
from gateway.doors.door import Door
from gateway.doors.grpc.interceptors import SERVICE, Guarded
from gateway.doors.grpc.reflecting import Reflection
from gateway.doors.tls import TlsUnusable
from gateway.server.building import _reflect
from gateway.server.reloading import Reload
from gateway.tenants.clients import Scope, hash_token
from tests.builders import NOON
from tests.end_to_end.processes import ROOT, free_port
from tests.fakes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gateway.config.settings import BackendSettings

NAME = "gateway.example.org"


def bear(authority: trustme.CA, folder: Path) -> dict[str, str]:
    """Issues a certificate for this machine and a name, and writes both files; returns the setting."""
    pair = authority.issue_cert(NAME, "127.0.0.1")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(each.bytes() for each in pair.cert_chain_pems))
    key.write_bytes(pair.private_key_pem.bytes())
    key.chmod(0o600)
    return {"certificate": str(certificate), "key": str(key)}


def client(token: str, tenant: str = "clinic") -> dict[str, Any]:
    """One entry of [[clients]]."""
    return {"tenant": tenant, "token_sha256": hash_token(token).hex()}


def settings(**different: Any) -> Settings:
    """Settings that work."""
    return Settings.model_validate({"listen": f"127.0.0.1:{free_port()}", "http_listen": "127.0.0.1:0", **different})


def reload(door: Door, reread: Callable[[], Settings]) -> dict[str, BackendSettings] | None:
    """Has a door take what there is now."""
    return door.take(partial(door.read, reread))


def made(chosen: Settings) -> Door:
    """A door by an unmoved clock."""
    return Door(chosen, lambda: NOON)


async def reaches(address: str, root: bytes) -> bool:
    """Whether somebody who trusts this root can call."""
    credentials = grpc.ssl_channel_credentials(root)
    async with grpc.aio.secure_channel(address, credentials) as channel:
        try:
            await channel.unary_unary("/echo/Once")(b"x", timeout=PATIENCE)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017
            return False
    return True


async def echo(data: bytes, _context: Any) -> bytes:
    """Answers with what was sent."""
    return data


async def test_a_certificate_is_replaced_under_an_open_stream(tmp_path: Path) -> None:
    """New connections are shown the new one, at once; what is open goes on."""
    old, new = trustme.CA(), trustme.CA()
    chosen = settings(tls=bear(old, tmp_path))
    door = made(chosen)
    going_on = asyncio.Event()

    async def twice(data: bytes, context: Any) -> None:
        await context.write(data)
        await going_on.wait()
        await context.write(data)

    handlers = {
        "Once": grpc.unary_unary_rpc_method_handler(echo),
        "Twice": grpc.unary_stream_rpc_method_handler(twice),
    }
    async with AsyncExitStack() as stack:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo", handlers),))
        assert int(chosen.listen.rpartition(":")[2]) == door.add_port(server)
        await server.start()
        stack.push_async_callback(server.stop, None)
        channel = await stack.enter_async_context(
            grpc.aio.secure_channel(chosen.listen, grpc.ssl_channel_credentials(old.cert_pem.bytes()))
        )
        stream = channel.unary_stream("/echo/Twice")(b"x", timeout=PATIENCE)
        assert b"x" == await stream.read()
        assert await reaches(chosen.listen, old.cert_pem.bytes())
        bear(new, tmp_path)
        assert not await reaches(chosen.listen, new.cert_pem.bytes())  # not before it is told to
        assert reload(door, lambda: chosen) is not None
        reached = [await reaches(chosen.listen, each.cert_pem.bytes()) for each in (old, new)]
        going_on.set()

        assert [False, True] == reached
        assert b"x" == await stream.read()
        with pytest.raises(grpc.aio.AioRpcError):  # in the clear
            async with grpc.aio.insecure_channel(chosen.listen) as plain:
                await plain.unary_unary("/echo/Once")(b"x", timeout=PATIENCE)


def release(fifo: Path) -> None:
    """Ends the wait of whoever reads a pipe."""
    os.close(os.open(fifo, os.O_RDWR))


def spoil(what: str, folder: Path) -> None:
    """Makes the pair unusable."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    if what == "another key":
        key.write_bytes(trustme.CA().issue_cert("x").private_key_pem.bytes())
    elif what == "no PEM":
        certificate.write_text("no PEM")
    elif what == "no key":
        key.unlink()
    elif what == "swapped":  # newcomer 31: the certificate may be read by everybody
        chain, secret = certificate.read_bytes(), key.read_bytes()
        key.write_bytes(chain)
        certificate.write_bytes(secret)
        key.chmod(0o644)
    else:
        key.chmod(0o604)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("another key", "is not the key of tls.certificate"),
        ("no PEM", "are not a pair of PEM files"),
        ("no key", "cannot be read: No such file"),
        ("swapped", "holds a certificate, and tls.certificate .* a private key: swap the two names"),
        ("open key", "everybody on this machine can read"),
    ],
)
def test_a_pair_that_cannot_be_used(tmp_path: Path, what: str, said: str) -> None:
    """At the start it is refused by the setting's name; on a reload the old one stays, and the clients too."""
    chosen = settings(tls=bear(trustme.CA(), tmp_path), clients=[client("old")])
    door = made(chosen)
    shown = door._certificates._pair if door._certificates else None
    spoil(what, tmp_path)
    with pytest.raises(TlsUnusable, match=said) as caught:
        made(chosen)
    with capture_logs() as logged:
        taken = reload(door, lambda: chosen.model_copy(update={"clients": settings(clients=[client("new")]).clients}))

    assert str(caught.value).startswith("tls.key: ")
    assert taken is None
    assert [("reload_refused", str(caught.value))] == [(entry["event"], entry["detail"]) for entry in logged]
    assert door._certificates is not None
    assert shown is door._certificates._pair
    assert "clinic" == door.clients.admit(["Bearer old"], Scope.READ).tenant


@pytest.mark.parametrize(("setting", "said"), [
    ("endless certificate",  "cannot be read: it is larger than 1 MiB"),
    ("silent certificate",   "cannot be read: it does not answer"),
    ("silent key",           "cannot be read: it does not answer"),
])  # fmt: skip
def test_a_file_without_an_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, said: str
) -> None:
    """By the setting's name, at the start and on a reload: it neither fills the memory nor holds anybody up."""
    chosen = settings(tls=bear(trustme.CA(), tmp_path))
    door = made(chosen)
    how, name = setting.split()
    if how == "silent":
        monkeypatch.setattr(small_files, "PATIENCE", 2.0)
    path = tmp_path / f"{name}.pem"
    path.unlink()
    if how == "endless":
        path.symlink_to("/dev/zero")
    else:
        os.mkfifo(path, 0o600)
    with pytest.raises(TlsUnusable, match=said) as caught:
        made(chosen)
    with capture_logs() as logged:
        taken = reload(door, lambda: chosen)
    if how == "silent":
        release(path)

    assert str(caught.value).startswith(f"tls.{name}: ")
    assert taken is None
    assert [("reload_refused", str(caught.value))] == [(entry["event"], entry["detail"]) for entry in logged]


async def test_b3_a_reload_whose_files_do_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends, and says so; so does one that was asked for meanwhile. Afterwards reloads are as ever."""
    monkeypatch.setattr(small_files, "PATIENCE", 0.5)
    chosen = settings(tls=bear(trustme.CA(), tmp_path))
    door, asked = made(chosen), Reload()
    certificate = tmp_path / "certificate.pem"
    certificate.rename(tmp_path / "kept")
    os.mkfifo(certificate)
    nobody: Any = SimpleNamespace(look_around=lambda: None)
    with capture_logs() as logged:
        running = asyncio.create_task(asked.run(door, nobody, nobody, lambda: chosen))
        async with asyncio.timeout(PATIENCE):
            asked.tell()
            while not asked._is_reading:  # noqa: ASYNC110
                await asyncio.sleep(0)
            asked.tell()
            while sum(entry["event"] == "reload_refused" for entry in logged) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            release(certificate)
            (tmp_path / "kept").replace(certificate)
            monkeypatch.undo()
            asked.tell()
            while "reloaded" not in [entry["event"] for entry in logged]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        running.cancel()

    assert ["reload_waits", "reload_refused", "reload_refused", "reloaded"] == [entry["event"] for entry in logged]
    assert logged[1]["detail"].startswith("tls.certificate: ")


def test_clients_and_limits_are_reloaded_and_the_rest_is_told() -> None:
    """What waits for a restart is named; nothing that is logged is a secret."""
    chosen = settings(clients=[client("old")])
    door = made(chosen)
    changed = {"clients": [client("new", "other")], "streams": 5, "stream_age": "5m", "listen": "127.0.0.1:7"}
    with capture_logs() as logged:
        taken = reload(door, lambda: settings(**changed))

    assert taken == {}
    assert "other" == door.clients.admit(["Bearer new"], Scope.READ).tenant
    assert 5 == door.clients.limits("other").streams
    assert ["reloaded"] == [entry["event"] for entry in logged]
    assert ["listen", "stream_age"] == logged[0]["need_restart"]
    assert hash_token("new").hex() not in repr(logged)


TEXTIT = {"kind": "rapidpro", "url": "http://127.0.0.1:1", "token": "first"}


@pytest.mark.parametrize(
    ("different", "renewed", "late"),
    [
        ({}, [], []),
        ({"token": "second"}, ["textit"], []),
        ({"token": "second", "rate": "5/hour"}, ["textit"], ["new", "textit.rate"]),
        ({"token": "second", "url": "http://127.0.0.1:2"}, [], ["new", "textit.token", "textit.url"]),
        (
            {"kind": "twilio", "account_sid": "AC" + "a" * 32, "auth_token": "x", "token": None},
            [],
            ["new", "textit.account_sid", "textit.auth_token", "textit.kind", "textit.token"],
        ),
    ],
    ids=str,
)
def test_other_credentials_of_a_backend_are_taken(
    different: dict[str, Any], renewed: list[str], late: list[str]
) -> None:
    """If it is reached as before: nobody shows credentials to another host. What else is different waits."""
    door = made(settings(listen="127.0.0.1:7", backends={"textit": TEXTIT}))
    backends = {"textit": TEXTIT | different} | ({"new": TEXTIT} if late else {})
    read = settings(listen="127.0.0.1:7", backends=backends)
    with capture_logs() as logged:
        taken = reload(door, lambda: read)
        again = reload(door, lambda: read)

    assert taken is not None
    assert renewed == list(taken)
    assert {} == again
    late = [f"backends.{each}" for each in late]  # newcomer 33: each by its name
    assert [(renewed, late), ([], late)] == [(each["credentials"], each["need_restart"]) for each in logged]
    assert all(chosen.credentials() == {"token": "second"} for chosen in taken.values())
    assert all(chosen.rate is None for chosen in taken.values())
    assert "second" not in repr(logged)


def test_credentials_that_cannot_be_used_change_nothing() -> None:
    """Nor do the clients that were read with them."""
    studio = {"kind": "twilio", "url": "http://127.0.0.1:1", "account_sid": "AC" + "a" * 32, "auth_token": "x"}
    door = made(settings(backends={"studio": studio}, clients=[client("old")]))
    broken = {**studio, "account_sid": "nonsense"}
    with capture_logs() as logged:
        taken = reload(door, lambda: settings(backends={"studio": broken}, clients=[client("new")]))

    assert taken is None
    assert logged[0]["detail"].startswith("backends.studio: ")
    assert "clinic" == door.clients.admit(["Bearer old"], Scope.READ).tenant


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"insecure": False}, {"clients": []}, "Configure [[clients]]"),
        ({}, {"tls": None, "clients": ["new"]}, "Configure [tls]"),
        ({"insecure": True}, {"tls": None, "clients": ["new"]}, "decided at the start"),
    ],
    ids=str,
)
def test_no_reload_opens_the_door_wider(
    tmp_path: Path, before: dict[str, Any], after: dict[str, Any], said: str
) -> None:
    """What would be right for a gateway that listens on loopback is not taken by one that listens to the network."""
    tls = bear(trustme.CA(), tmp_path)
    door = made(settings(**{"listen": "0.0.0.0:1", "tls": tls, "clients": [client("old")], **before}))
    read = settings(**{"tls": tls, **after, "clients": [client(each) for each in after["clients"]]})
    with capture_logs() as logged:
        taken = reload(door, lambda: read)

    assert taken is None
    assert said in logged[0]["detail"]
    assert "clinic" == door.clients.admit(["Bearer old"], Scope.READ).tenant


def test_a_file_that_cannot_be_read_changes_nothing() -> None:
    """It says which line is wrong, in the log."""
    door = made(settings(clients=[client("old")]))

    def broken() -> Settings:
        raise ConfigError("clients.0.tenant: is not a name")

    with capture_logs() as logged:
        taken = reload(door, broken)

    assert taken is None
    assert [("reload_refused", "clients.0.tenant: is not a name")] == [(e["event"], e["detail"]) for e in logged]
    assert "clinic" == door.clients.admit(["Bearer old"], Scope.READ).tenant


async def test_services_beside_ours_can_be_closed() -> None:
    """Then any credential that is known opens them; there is no way around by the other name."""
    door = made(settings(clients=[client("t")]))
    async with AsyncExitStack() as stack:
        server = grpc.aio.server()
        beside: Any = Guarded(server, door.clients)
        health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), beside)
        _reflect(beside)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stack.push_async_callback(server.stop, None)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        known = (("authorization", "Bearer t"),)
        listing = reflection_pb2.ServerReflectionRequest(list_services="")
        v1 = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        v1alpha: Any = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo

        async def look(metadata: tuple[tuple[str, str], ...]) -> list[grpc.StatusCode]:
            codes = []
            for reflect in (v1, v1alpha):
                call = reflect(iter([listing]), metadata=metadata, timeout=PATIENCE)
                with contextlib.suppress(grpc.aio.AioRpcError):
                    async for _ in call:
                        pass
                codes.append(await call.code())
            call = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), metadata=metadata, timeout=PATIENCE
            )
            codes.append(await call.code())
            return codes

        assert [grpc.StatusCode.UNAUTHENTICATED] * 3 == await look(())
        assert [grpc.StatusCode.OK] * 3 == await look(known)


@pytest.mark.parametrize("which", ["own", "wild"])
async def test_check_live_knows_the_certificate(tmp_path: Path, which: str) -> None:
    """By the file, though it is for a name and not for this machine; another one is none."""
    authority = trustme.CA()
    files = bear(authority, tmp_path)
    if which == "wild":
        pair = authority.issue_cert("*.example.org")
        (tmp_path / "certificate.pem").write_bytes(b"".join(each.bytes() for each in pair.cert_chain_pems))
        (tmp_path / "key.pem").write_bytes(pair.private_key_pem.bytes())
    chosen = settings(tls=files)
    server = grpc.aio.server()
    serving = health.aio.HealthServicer()
    await serving.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(serving, server)
    made(chosen).add_port(server)
    await server.start()
    (found,) = await asyncio.to_thread(check.live, chosen)
    bear(trustme.CA(), tmp_path)
    (other,) = await asyncio.to_thread(check.live, chosen)
    await server.stop(None)

    assert (check.OK, "SERVING") == (found.result, found.detail)
    assert check.PROBLEM == other.result


class Running:
    """The real command, with TLS, both simulated backends, and the tokens that are configured last."""

    def __init__(self, folder: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.config, self.log, self.root = folder / "startflow.toml", folder / "log", folder / "root.pem"
        authority = trustme.CA()
        self.root.write_bytes(authority.cert_pem.bytes())
        tls = bear(authority, folder)
        self._text = (
            f'listen = "{self.address}"\nhttp_listen = "127.0.0.1:0"\n'
            f'store = "sqlite:///{folder}/s.db"\nsandbox = true\n'
            f'[tls]\ncertificate = "{tls["certificate"]}"\nkey = "{tls["key"]}"\n'
        )

    def configure(self, *tokens: str) -> None:
        """Writes the configuration."""
        hashes = ", ".join(f'"{hash_token(token).hex()}"' for token in tokens)
        self.config.write_text(f'{self._text}[[clients]]\ntenant = "clinic"\ntoken_sha256 = [{hashes}]\n')

    async def __aenter__(self) -> Self:
        """Starts it, and waits until it says who is let in."""
        with self.log.open("w") as stderr:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway", "serve", "--config", str(self.config)),
                stdout=asyncio.subprocess.PIPE,
                stderr=stderr,
                cwd=ROOT,
            )
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            self.said = [(await self.process.stdout.readline()).decode() for _ in range(2)]
        self.channel = grpc.aio.secure_channel(self.address, grpc.ssl_channel_credentials(self.root.read_bytes()))
        self.stub: Any = rpc.StartFlowServiceStub(self.channel)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops it."""
        await self.channel.close()
        self.process.terminate()
        assert 0 == await self.process.wait()

    async def reload(self) -> None:
        """Has it read its configuration, and waits until it has said what came of it."""
        before = self.log.read_text().count('"reload')
        self.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(30):
            while before == self.log.read_text().count('"reload'):  # noqa: ASYNC110 -- it is another process
                await asyncio.sleep(0.02)

    async def lets_in(self, token: str) -> bool:
        """Whether it answers somebody with this token."""
        metadata = (("authorization", f"Bearer {token}"),)
        try:
            await self.stub.ListBackends(pb.ListBackendsRequest(), metadata=metadata, timeout=PATIENCE)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED  # noqa: PT017
            return False
        return True


async def test_sighup_reloads_a_running_gateway(tmp_path: Path) -> None:
    """A new token is let in, an old one's stream ends; a file that cannot be used changes nothing."""
    running = Running(tmp_path)
    running.configure("token-a")
    async with running:
        assert "Let in: 1 tenant by token, with TLS\n" == running.said[1]
        assert [True, False] == [await running.lets_in("token-a"), await running.lets_in("token-b")]
        running.config.write_text("[[clients]]\ntenant = 5\n")
        await running.reload()
        assert await running.lets_in("token-a")
        metadata = (("authorization", "Bearer token-a"),)
        stream = running.stub.WatchFlowStarts(pb.WatchFlowStartsRequest(), metadata=metadata, timeout=PATIENCE)
        await stream.read()
        running.configure("token-b")
        await running.reload()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            while await stream.read() is not grpc.aio.EOF:
                pass

        assert grpc.StatusCode.UNAUTHENTICATED == caught.value.code()
        assert [False, True] == [await running.lets_in("token-a"), await running.lets_in("token-b")]
    said = running.log.read_text() + "".join(running.said)

    assert "reload_refused" in said
    assert [] == [word for word in ("token-a", "token-b", "Bearer", hash_token("token-a").hex()) if word in said]


async def test_grpcurl_and_our_own_command_bring_a_token_over_tls(tmp_path: Path) -> None:
    """And without one they are told what to send."""
    running = Running(tmp_path)
    running.configure("first")
    async with running:
        given = {**os.environ, "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}"}
        grpcurl = ("grpcurl", "-cacert", str(running.root), "-d", "{}")
        method = (running.address, "startflow.v1.StartFlowService/ListBackends")
        ours = (*(sys.executable, "-m", "gateway", "backends", "--json"), "--address", running.address)
        ours = (*ours, "--ca", str(running.root))
        commands = [(*grpcurl, *method), (*grpcurl, "-H", "authorization: Bearer first", *method), ours]
        said = []
        for command, token in [*((each, "") for each in commands), (ours, "first")]:
            called = await asyncio.create_subprocess_exec(
                *command,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env={**given, "STARTFLOW_TOKEN": token},
                cwd=ROOT,
            )
            said.append((await called.communicate())[0].decode())

    assert ["CREDENTIALS_MISSING" in each for each in said] == [True, False, True, False]
    assert ['"rapidpro"' in each for each in said] == [False, True, False, True]


async def test_newcomer_15_the_caller_in_python_that_the_docs_show(tmp_path: Path) -> None:
    """Its stubs are generated and it is run as written, the address aside."""
    page = (ROOT / "docs/callers.md").read_text(encoding="utf-8").split("\n## Python\n")[1]
    (generate,) = re.findall(r"^python (-m grpc_tools.*)$", page, re.MULTILINE)
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "api").mkdir()
    (tmp_path / "protos").symlink_to(ROOT / "protos")
    running = Running(tmp_path)
    running.configure("first")
    async with running:
        (tmp_path / "caller.py").write_text(
            program.replace("gateway.example.org:50051", running.address).replace("root.pem", str(running.root))
        )
        environment = {**os.environ, "STARTFLOW_TOKEN": "first", "PYTHONPATH": str(tmp_path / "api")}
        for words in (shlex.split(generate), ["caller.py"]):
            called = await asyncio.create_subprocess_exec(
                *(sys.executable, *words),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=environment,
                cwd=tmp_path,
            )
            said = (await called.communicate())[0].decode()

    assert "rapidpro" in said.splitlines()


@pytest.mark.parametrize(("symbol", "found"), [
    ("startflow.v1.StartFlowService.StartFlow",        True),
    ("startflow.v1.StartFlowService.WatchFlowStarts",  True),
    ("grpc.health.v1.Health.Check",                    True),
    ("startflow.v1.StartFlowService",                  True),
    ("startflow.v1.FlowStart",                         True),
    ("startflow.v1.StartFlowService.Nothing",          False),
    ("Nothing",                                        False),
    ("",                                               False),
])  # fmt: skip
def test_d1_a_method_is_a_symbol(symbol: str, found: bool) -> None:  # noqa: FBT001 - a column
    """As `grpcurl describe` and ghz ask for it."""
    asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=symbol)
    answer = Reflection([SERVICE.full_name])._file_containing_symbol(asked, symbol)

    assert found == answer.HasField("file_descriptor_response")
