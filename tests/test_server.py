"""What keeps the gateway from serving is told in a sentence, and nothing is left behind."""

from __future__ import annotations

import os
import socket
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from gateway import server
from gateway.config import Settings
from gateway.store.sqlite import StoreInUse, open_sqlite
from tests.end_to_end.processes import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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


@pytest.mark.parametrize(
    ("setting", "variable"), [("listen", "STARTFLOW_LISTEN"), ("http_listen", "STARTFLOW_HTTP_LISTEN")]
)
def test_an_address_that_is_taken_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, variable: str
) -> None:
    """With the setting and the variable that move it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code = server.run(settings(tmp_path, **{setting: address}))
    said = capsys.readouterr().err

    assert 1 == code
    assert f"error: Cannot listen on {address}" in said
    assert f"{setting} ({variable})" in said


async def test_a_store_that_is_in_use_is_left_alone(tmp_path: Path, clock: Clock) -> None:
    """The second gateway says whose it is and does not serve."""
    store = open_sqlite(tmp_path / "startflow.db", clock)
    try:
        with pytest.raises(StoreInUse, match=f"is in use by process {os.getpid()}"):
            async with AsyncExitStack() as stack:
                await server._build(settings(tmp_path), stack)
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
    code = server.run(settings(tmp_path, store=f"sqlite:///{store.format(folder=tmp_path)}"))
    said = capsys.readouterr().err

    assert 1 == code
    assert says in said
    assert "STARTFLOW_STORE" in said


def test_a_backend_without_credentials_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the setting that is missing."""
    backends = {"textit": {"kind": "rapidpro", "url": "https://textit.com"}}
    code = server.run(settings(tmp_path, sandbox=False, backends=backends))

    assert 1 == code
    assert "error: backends.textit: `token` is missing" in capsys.readouterr().err
