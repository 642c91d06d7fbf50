"""What keeps the gateway from serving is told in a sentence, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
import sys
from contextlib import AsyncExitStack
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import structlog
from startflow.v1 import start_flow_service_pb2 as pb
from startflow.v1 import start_flow_service_pb2_grpc as rpc

from gateway.config.settings import BackendSettings, Settings
from gateway.doors.door import Door
from gateway.errors import Unavailable
from gateway.lanes import lanes
from gateway.model import Identity, State
from gateway.server import building as server
from gateway.server import trying_out
from gateway.store.engine import StoreInUse
from gateway.store.sqlite import open_sqlite
from gateway.watch.stream import Watch
from tests.builders import ACCOUNT, TENANT, accepted, again, create, run_to, singly
from tests.end_to_end.processes import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.builders import Clock


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """Undoes what `run` sets for its whole process."""
    yield
    structlog.reset_defaults()


def settings(folder: Path, **different: Any) -> Settings:
    """Makes settings that work, changed by `different`."""
    given = {"listen": f"127.0.0.1:{free_port()}", "http_listen": "127.0.0.1:0", "sandbox": True}
    return Settings.model_validate({**given, "store": f"sqlite:///{folder}/startflow.db", **different})


def run(chosen: Settings) -> int:
    """Serves with settings that do not change."""
    return server.run(chosen, lambda: chosen)


async def build(chosen: Settings, stack: AsyncExitStack) -> list[str]:
    """Starts everything; returns what is told then."""
    return (await server._build(chosen, Door(chosen, server.utc_now), stack)).lines


def test_d19_lines_to_paste_are_quoted() -> None:
    """Brackets are a pattern to some shells, which then run nothing."""
    words = [shlex.split(line) for line in trying_out.examples("[::1]:50051")[1:]]

    assert all("'[::1]:50051'" in line for line in trying_out.examples("[::1]:50051")[1:])
    assert all("[::1]:50051" in each for each in words)


@pytest.mark.parametrize("there", [True, False])
def test_newcomer_16_lines_to_paste_name_the_grpcurl_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, there: bool
) -> None:
    """One in .venv/bin is found by no shell, and where there is none it is said where to get it."""
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "startflow")])
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    if there:
        (tmp_path / "grpcurl").touch()
    first, *calls, ours = trying_out.examples(trying_out.DEFAULT_ADDRESS)

    assert {str(tmp_path / "grpcurl") if there else "grpcurl"} == {shlex.split(line)[0] for line in calls}
    assert str(tmp_path / "startflow") == shlex.split(ours)[0]
    assert ("github.com/fullstorydev/grpcurl" in first) is not there


def test_newcomer_16_a_session_in_the_docs_can_be_pasted() -> None:
    """From where `make dev` was run, in the README and in the tutorial."""
    root = Path(__file__).parents[1]
    pages = [root / "README.md", root / "docs/tutorial.md"]

    assert [] == [page.name for page in pages if "\n$ grpcurl " in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize(
    ("setting", "variable"), [("listen", "STARTFLOW_LISTEN"), ("http_listen", "STARTFLOW_HTTP_LISTEN")]
)
def test_an_address_that_is_taken_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, variable: str
) -> None:
    """With the setting and the variable that move it; no empty store is left behind."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code = run(settings(tmp_path, **{setting: address}))
    said = capsys.readouterr().err

    assert 1 == code
    assert f"error: Cannot listen on {address}" in said
    assert f"{setting} ({variable})" in said
    assert [] == list(tmp_path.iterdir())


def test_newcomer_32_one_address_for_both_is_refused_before_there_is_a_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The gateway itself is the other process then."""
    address = f"127.0.0.1:{free_port()}"
    code = run(settings(tmp_path, listen=address, http_listen=address))

    assert 1 == code
    assert f"error: Cannot listen on {address}" in capsys.readouterr().err
    assert [] == list(tmp_path.iterdir())


async def test_a_store_that_is_in_use_is_left_alone(tmp_path: Path, clock: Clock) -> None:
    """The second gateway says whose it is and does not serve."""
    store = open_sqlite(tmp_path / "startflow.db", clock)
    try:
        with pytest.raises(StoreInUse, match=f"is in use by process {os.getpid()}"):
            async with AsyncExitStack() as stack:
                await build(settings(tmp_path), stack)
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("store", "says"),
    [("/proc/nowhere/startflow.db", "cannot be opened"), ("{folder}/garbage.db", "file is not a database")],
)
def test_a_store_that_cannot_be_used_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], store: str, says: str
) -> None:
    """A folder that cannot be made, a file that is something else."""
    (tmp_path / "garbage.db").write_text("this is no database, and much longer than a header of one would be" * 10)
    code = run(settings(tmp_path, store=f"sqlite:///{store.format(folder=tmp_path)}"))
    said = capsys.readouterr().err

    assert 1 == code
    assert says in said
    assert "STARTFLOW_STORE" in said


def test_a_store_that_fails_before_anything_is_served_is_said_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as PostgreSQL that is killed between the opening of the store and the first read."""

    async def fail(_watch: object) -> None:
        raise Unavailable(message="The store does not work (57P01).")

    monkeypatch.setattr(Watch, "open", fail)
    code = run(settings(tmp_path))

    assert 1 == code
    assert "error: The store does not work (57P01)." in capsys.readouterr().err


def test_a_backend_without_credentials_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the setting that is missing, and the code of a wrong configuration; no empty store is left behind."""
    backends = {"textit": {"kind": "rapidpro", "url": "https://textit.com"}}
    code = run(settings(tmp_path, sandbox=False, backends=backends))

    assert 2 == code
    assert "error: backends.textit: `token` is missing" in capsys.readouterr().err
    assert [] == list(tmp_path.iterdir())


def test_a_certificate_that_cannot_be_used_is_a_wrong_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that systemd does not restart the gateway again and again, as docs/operations.md has it."""
    pair = {"certificate": tmp_path / "no.pem", "key": tmp_path / "no.pem"}
    code = run(settings(tmp_path, tls=pair))

    assert 2 == code
    assert f"error: tls.certificate: {tmp_path / 'no.pem'} cannot be read" in capsys.readouterr().err


async def test_a_backend_that_is_configured_no_more_is_told(tmp_path: Path, clock: Clock) -> None:
    """With how many starts wait for it; each of them says so, is not sent, and is kept for when it is back."""
    clock.now = datetime.now(UTC)  # else they have expired when the gateway looks
    store = open_sqlite(tmp_path / "startflow.db", clock)
    waiting = [await create(store, singly(2), backend="gone", created_at=clock.now) for _ in range(2)]
    done = await create(store, backend="finished")
    await run_to(store, done, accepted("x1", State.COMPLETED))
    await create(store, backend="rapidpro", flow="f5901b62-ba76-4003-9c62-72fdacc1b7b7")
    await store.close()
    async with AsyncExitStack() as stack:
        lines = await build(settings(tmp_path), stack)
    store = open_sqlite(tmp_path / "startflow.db", clock)
    found = [(await again(store, start)).standing for start in waiting]
    await store.hold("gone", Identity(account=ACCOUNT))
    claimable = len((await store.claim("gone", 10)).dispatches)
    await store.close()

    told = [line for line in lines if line.startswith("Not configured any more")]
    assert ["Not configured any more: gone, for which 2 starts wait; startflow list shows them"] == told
    assert [(State.PENDING, ["BACKEND_CHANGED"])] * 2 == [
        (each.state, [warning.reason for warning in each.warnings]) for each in found
    ]
    assert 4 == claimable
    assert {TENANT} == {start.asked.tenant for start in waiting}


RAPIDPRO = {"kind": "rapidpro", "url": "https://textit.com", "token": "t"}
TWILIO = {"kind": "twilio", "url": "https://studio.twilio.com", "account_sid": "AC" + "a" * 32, "auth_token": "t"}
SET = {
    "quiet_window": ("7s", timedelta(seconds=7)),
    "find_for": ("3h", timedelta(hours=3)),
    "give_up_after": ("2d", timedelta(days=2)),
    "formerly": (["1"], frozenset({"1"})),
    "schedule_ahead": ("30d", timedelta(days=30)),
    "stalled_after": ("5h", timedelta(hours=5)),
    "sweep_interval": ("500ms", timedelta(seconds=0.5)),
    "backlog": (17, 17),
    "in_flight": (3, 3),
    "on_absent": ("uncertain", State.UNCERTAIN),
    "sender": ("+18007654321", "+18007654321"),
    "public_url": ("https://gw.example.org/startflow", "https://gw.example.org/startflow"),
}


def test_settings_reach_the_backend() -> None:
    """Each that it has, by the same name; those of the aliases and of the rate too."""
    given = {**TWILIO, **{name: value for name, (value, _) in SET.items()}, "flows": {"a": "b"}, "rate": "9/minute"}
    made = lanes.make_backend("studio", BackendSettings.model_validate(given))

    assert {name: value for name, (_, value) in SET.items()} == {name: getattr(made, name) for name in SET}
    assert ({"a": "b"}, 9, 60.0) == (made.flow_aliases, made.transport.limiter.count, made.transport.limiter.seconds)
    assert set(SET) | {"name", "kind", "adapter", "transport", "flow_aliases", "unread"} == {
        each.name for each in fields(made)
    }


@pytest.mark.parametrize(
    ("given", "quiet_window", "rate"),
    [(RAPIDPRO, timedelta(seconds=120), (2_500, 3_600.0)), (TWILIO, timedelta(seconds=60), (20, 1.0))],
    ids=["rapidpro", "twilio"],
)
def test_what_is_not_set_is_of_the_kind(
    given: dict[str, Any], quiet_window: timedelta, rate: tuple[int, float]
) -> None:
    """How long an unanswered request may still be carried out, and how much an account may ask."""
    made = lanes.make_backend("it", BackendSettings.model_validate(given))

    assert (quiet_window, rate) == (made.quiet_window, (made.transport.limiter.count, made.transport.limiter.seconds))
    assert (State.PENDING, timedelta(hours=1)) == (made.on_absent, made.find_for)
    assert (timedelta(days=1), timedelta(days=1), 100_000) == (made.give_up_after, made.stalled_after, made.backlog)
    assert "" == made.account


@pytest.mark.longer  # three pings at least, as far apart as a client would send them
async def test_d11_a_client_may_ping_every_five_seconds(tmp_path: Path) -> None:
    """A watch on which nothing happens stays open."""
    chosen = settings(tmp_path)
    async with AsyncExitStack() as stack:
        await build(chosen, stack)
        pinging = [
            ("grpc.keepalive_time_ms", 5_000),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(chosen.listen, options=pinging))
        watch = rpc.StartFlowServiceStub(channel).WatchFlowStarts(pb.WatchFlowStartsRequest())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_read_to_the_end(watch), 21)


async def _read_to_the_end(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass
