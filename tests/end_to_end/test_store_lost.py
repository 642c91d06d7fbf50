"""What the gateway does when its store is taken away or replaced under it: it answers nothing that is lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
from startflow.v1 import start_flow_service_pb2 as pb

from tests.end_to_end.processes import SEED_FLOW
from tests.end_to_end.test_store_faults import refusal, until_health
from tests.lengths import some

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.end_to_end.processes import Client, GatewayProcess, SandboxProcess

START: dict[str, Any] = {"flow": SEED_FLOW, "urns": ["tel:+12065551212"]}


def beside(store: Path, suffix: str) -> Path:
    """Names a file that belongs to a store."""
    return store.with_name(store.name + suffix)


def sweep(store: Path) -> None:
    """Removes the store with all that belongs to it, as a volume that is gone."""
    for suffix in ("", "-wal", "-shm", ".lock"):
        beside(store, suffix).unlink()


def replace(store: Path) -> None:
    """Puts another file in the place of the store."""
    other = beside(store, ".other")
    with contextlib.closing(sqlite3.connect(other)) as conn:
        conn.execute("create table other (a)")
    other.replace(store)


def overwrite(store: Path) -> None:
    """Writes another store over this one, in the same file: what `cp` does."""
    other = beside(store, ".copy")
    with contextlib.closing(sqlite3.connect(store)) as source, contextlib.closing(sqlite3.connect(other)) as copy:
        source.backup(copy)
        copy.execute("update meta set value = '00000000000000000000000000000000' where key = 'epoch'")
        copy.commit()
    shutil.copyfile(other, store)


def take_over(store: Path) -> None:
    """Removes the lock, and has another gateway open the store and close it."""
    beside(store, ".lock").unlink()
    with contextlib.closing(sqlite3.connect(store)) as conn:
        conn.execute("update meta set value = value + 1 where key = 'incarnation'")
        conn.commit()


LOSSES: dict[str, Callable[[Path], object]] = {
    "rm": lambda store: store.unlink(),
    "mv": lambda store: store.rename(beside(store, ".away")),
    "mv of another file over it": replace,
    "cp over it": overwrite,
    "rm of all": sweep,
    "> itself": lambda store: os.truncate(store, 0),
    "> its log": lambda store: os.truncate(beside(store, "-wal"), 0),
    "rm of its log": lambda store: beside(store, "-wal").unlink(),
    "rm of its shared memory": lambda store: beside(store, "-shm").unlink(),
    "rm of its lock": lambda store: beside(store, ".lock").unlink(),
    "rm of its lock, and another owner": take_over,
}


@pytest.mark.parametrize("loss", some(LOSSES, "rm", "cp over it", "> its log"))
async def test_a2_a_store_that_is_lost_answers_nothing(
    loss: str, gateway: GatewayProcess, client: Client, sandbox: SandboxProcess
) -> None:
    """No start and no read is answered, nothing is sent, probes and the log name the file, and a stop is clean."""
    await client.finished((await client.start(**START)).flow_start.id)
    LOSSES[loss](gateway.store)
    code, reason, message = await refusal(client)
    with pytest.raises(grpc.aio.AioRpcError) as read:
        await client.stub.ListFlowStarts(pb.ListFlowStartsRequest())
    await until_health(gateway, "NOT_SERVING")
    async with aiohttp.ClientSession(gateway.http) as http, http.get("/readyz") as ready:
        said = await ready.text()

    assert (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE") == (code, reason)
    assert str(gateway.store) in message
    assert grpc.StatusCode.UNAVAILABLE == read.value.code()
    assert (503, True) == (ready.status, str(gateway.store) in said)
    lost = [line for line in gateway.log.read_text().splitlines() if "store_lost" in line]
    assert 1 == sum(str(gateway.store) in line for line in lost) == len(lost)
    assert 1 == len(await sandbox.creates("rapidpro"))
    assert 0 == await gateway.stop()


async def test_a2_a_store_that_comes_back_is_served_from_again(
    gateway: GatewayProcess, client: Client, sandbox: SandboxProcess
) -> None:
    """Moved away and back: what was recorded is there, what was refused is not, and everything goes on."""
    first = await client.start(**START)
    away = beside(gateway.store, ".away")
    gateway.store.rename(away)
    await refusal(client)
    away.rename(gateway.store)
    await until_health(gateway, "SERVING")

    second = await client.start(**START)
    await client.finished(first.flow_start.id, second.flow_start.id)
    listed = (await client.stub.ListFlowStarts(pb.ListFlowStartsRequest())).flow_starts

    assert {first.flow_start.id, second.flow_start.id} == {start.id for start in listed}
    assert 2 == len(await sandbox.journal(kind="created"))
    assert 0 == await gateway.stop()
