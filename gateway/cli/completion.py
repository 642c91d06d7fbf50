"""What a shell offers behind a command: states, scopes, and the backends, flows and starts that the gateway has.

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
    from collections.abc import Callable, Iterator

    from startflow.v1.start_flow_service_pb2 import FlowStart

    from gateway.cli.client import Client

SECONDS = 2.0
STARTS, FLOWS, DISPATCHES = 50, 200, 200  # offered at the most
SCOPES = ("start", "read", "admin", "operator")
STATES = ("pending", "queued", "started", "completed", "failed", "interrupted", "uncertain")
UNDER_WAY = ("pending", "queued", "started", "uncertain")


def states(incomplete: str) -> list[str]:
    """Offers the states that a start can be in."""
    return [state for state in STATES if state.startswith(incomplete.lower())]


def scopes(incomplete: str) -> list[str]:
    """Offers the scopes that the list typed so far does not have yet, each with that list before it."""
    *before, last = incomplete.split(",")
    left = [scope for scope in SCOPES if scope.startswith(last) and scope not in before]
    return [",".join((*before, scope)) for scope in left]


def backends(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offers the names of backends."""
    found = []
    with _asking(ctx) as client:
        found = [(each.name, each.kind) for each in client.list_backends()]
    return [(name, kind) for name, kind in found if name.startswith(incomplete)]


def flows(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offers the aliases, and the ids of the flows that can be started."""
    found: list[tuple[str, str]] = []
    with _asking(ctx) as client:
        for backend in client.list_backends():
            found += [(alias, backend.name) for alias in sorted(backend.flow_aliases)]
    aliases = [(alias, name) for alias, name in found if alias.startswith(incomplete)]
    return aliases + _flows(ctx, incomplete, only_startable=True)


def flow_ids(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offers the ids of the flows that the backends have."""
    return _flows(ctx, incomplete, only_startable=False)


def _flows(ctx: typer.Context, incomplete: str, *, only_startable: bool) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    with _asking(ctx) as client:
        for backend in client.list_backends():
            flows = client.list_flows(backend.name, FLOWS)
            found += [(flow.id, flow.name) for flow in flows if flow.startable or not only_startable]
    return [(flow, name) for flow, name in found if flow.startswith(incomplete)]


def starts(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offers the ids of the starts that changed last."""
    return _of_starts(ctx, incomplete, lambda start: [start.id])


def starts_under_way(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offers the ids of the starts that changed last and have not ended."""
    return _of_starts(ctx, incomplete, lambda start: [start.id], states=UNDER_WAY)


def request_ids(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offers the request ids of the starts that changed last."""
    return _of_starts(ctx, incomplete, lambda start: [start.request_id])


def external_ids(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offers the backends' ids of the starts that changed last."""
    return _of_starts(ctx, incomplete, lambda start: [start.external_id])


def labels(ctx: typer.Context, incomplete: str) -> list[str]:
    """Offers the labels of the starts that changed last."""
    found = _of_starts(ctx, incomplete, lambda start: [f"{key}={value}" for key, value in start.labels.items()])
    return sorted({label for label, _ in found})


def dispatches(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Offers the parts of the start whose id was typed."""
    found: dict[str, str] = {}
    with _asking(ctx) as client:
        for each in client.list_recipients(ctx.params.get("start_id") or "", DISPATCHES):
            found.setdefault(each.dispatch_id, each.recipient)
    return [(dispatch, what) for dispatch, what in found.items() if dispatch and dispatch.startswith(incomplete)]


def _of_starts(
    ctx: typer.Context,
    incomplete: str,
    words: Callable[[FlowStart], list[str]],
    states: tuple[str, ...] = (),
) -> list[tuple[str, str]]:
    """Offers words of the starts that changed last, each with the state and the backend of its start."""
    found: dict[str, str] = {}
    with _asking(ctx) as client:
        from startflow.v1 import start_flow_service_pb2 as pb

        from gateway.cli import views

        selection = pb.FlowStartFilter(states=[pb.FlowStart.State.Value(f"STATE_{state.upper()}") for state in states])
        for start in client.list_starts(selection, STARTS):
            for word in words(start):
                found.setdefault(word, f"{views.state_name(start)} {start.backend}")
    return [(word, what) for word, what in found.items() if word and word.startswith(incomplete)]


@contextmanager
def _asking(ctx: typer.Context) -> Iterator[Client]:
    """Asks the gateway that the words so far name. What goes wrong ends the block, and nothing else."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from gateway.cli.access import DEFAULT_ADDRESS, Access
    from gateway.cli.client import CallFailed, Client, connect

    given = ctx.params
    with suppress(CallFailed, typer.Exit), redirect_stderr(io.StringIO()):
        access = Access(
            given.get("address") or DEFAULT_ADDRESS,
            given.get("token") or "",
            given.get("token_file"),
            tls=bool(given.get("tls")),
            ca=given.get("ca"),
        )
        metadata = (("authorization", f"Bearer {access.token}"),) if access.token else ()
        with connect(access.address, secure=access.is_secure, root=access.root) as channel:
            yield Client(channel, timeout=SECONDS, metadata=metadata, say=_silent, wait=_silent)


def _silent(_sentence: str) -> None:
    pass
