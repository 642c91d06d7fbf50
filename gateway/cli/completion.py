"""What a shell offers behind a command: states, and the backends, flows and starts that the gateway has.

Rules:

1. Whatever is wrong (no gateway, no credential) offers nothing, at once and without a word: a person is typing.
2. gRPC is imported only once something is to be asked.
"""
# ruff: noqa: PLC0415 - rule 2

from __future__ import annotations

import io
import os
from contextlib import contextmanager, redirect_stderr, suppress
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.cli.client import Client

SECONDS = 2.0
STARTS, FLOWS = 50, 200  # offered at the most
STATES = ("pending", "queued", "started", "completed", "failed", "interrupted", "uncertain")


def states(incomplete: str) -> list[str]:
    """Offers the states that a start can be in."""
    return [state for state in STATES if state.startswith(incomplete.lower())]


def backends(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offers the names of backends."""
    found = []
    with _asking(ctx) as client:
        found = [(each.name, each.kind) for each in client.list_backends()]
    return [(name, kind) for name, kind in found if name.startswith(incomplete)]


def flows(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offers the aliases and the ids of the flows that the backends have."""
    found: list[tuple[str, str]] = []
    with _asking(ctx) as client:
        for backend in client.list_backends():
            found += [(alias, backend.name) for alias in sorted(backend.flow_aliases)]
    return [(alias, name) for alias, name in found if alias.startswith(incomplete)] + flow_ids(ctx, incomplete)


def flow_ids(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offers the ids of the flows that the backends have."""
    found: list[tuple[str, str]] = []
    with _asking(ctx) as client:
        for backend in client.list_backends():
            found += [(flow.id, flow.name) for flow in client.list_flows(backend.name, FLOWS)]
    return [(flow, name) for flow, name in found if flow.startswith(incomplete)]


def starts(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offers the ids of the starts that changed last."""
    found: list[tuple[str, str]] = []
    with _asking(ctx) as client:
        from startflow.v1 import start_flow_service_pb2 as pb

        from gateway.cli import views

        found = [
            (start.id, f"{views.state_name(start)} {start.backend}")
            for start in client.list_starts(pb.FlowStartFilter(), STARTS)
        ]
    return [(start_id, what) for start_id, what in found if start_id.startswith(incomplete)]


@contextmanager
def _asking(ctx: typer.Context) -> Iterator[Client]:
    """Asks the gateway that the words so far name. What goes wrong ends the block, and nothing else."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from gateway.cli import options
    from gateway.cli.client import CallFailed, Client, connect
    from gateway.cli.commands import Door

    given = ctx.params
    with suppress(CallFailed, typer.Exit), redirect_stderr(io.StringIO()):
        door = Door(
            given.get("address") or options.DEFAULT_ADDRESS,
            given.get("token") or "",
            given.get("token_file"),
            tls=bool(given.get("tls")),
            ca=given.get("ca"),
        )
        metadata = (("authorization", f"Bearer {door.token}"),) if door.token else ()
        with connect(door.address, secure=door.is_secure, root=door.root) as channel:
            yield Client(channel, timeout=SECONDS, metadata=metadata, say=_silent, wait=_silent)


def _silent(_sentence: str) -> None:
    pass
