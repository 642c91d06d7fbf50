"""The commands that only look: they change nothing on the gateway.

gRPC and rich are imported once a command is to run, so that `--help` is quick.
"""
# ruff: noqa: PLC0415 - see above

from __future__ import annotations

from datetime import UTC, datetime

import typer

from gateway.cli import options
from gateway.cli.access import DEFAULT_ADDRESS, Access, reading
from gateway.cli.conversing import conversing

app = typer.Typer(rich_markup_mode=None)


@app.command(epilog=options.epilog("startflow get ID", "startflow get ID --json | jq .params"))
def get(
    start_id: options.StartId,
    *,
    address: options.Address = DEFAULT_ADDRESS,
    token: options.Token = "",
    token_file: options.TokenFile = None,
    tls: options.Tls = False,
    ca: options.Ca = None,
    as_json: options.AsJson = False,
    timeout: options.Timeout = None,
) -> None:
    """Shows one start, with its params."""
    access = Access(address, token, token_file, tls=tls, ca=ca)
    with conversing(access, as_json=as_json, timeout=timeout) as session:
        raise typer.Exit(session.get(start_id))


@app.command(
    "list",
    epilog=options.epilog(
        "startflow list",
        "startflow list --state failed --state uncertain --since 2h",
        "startflow list --label campaign=spring --limit 1000 --json | jq -r .id",
    ),
)
def list_starts(
    *,
    backend: options.Backends = None,
    flow: options.FlowId = "",
    state: options.States = None,
    label: options.Labelled = None,
    request_id: options.WithRequestId = "",
    external_id: options.ExternalId = "",
    since: options.Since = None,
    until: options.Until = None,
    limit: options.Limit = 50,
    address: options.Address = DEFAULT_ADDRESS,
    token: options.Token = "",
    token_file: options.TokenFile = None,
    tls: options.Tls = False,
    ca: options.Ca = None,
    as_json: options.AsJson = False,
    timeout: options.Timeout = None,
) -> None:
    """Lists starts, most recently changed first."""
    from gateway.cli import arguments

    with reading():
        selection = arguments.read_filter(
            backends=backend or [],
            flow=flow,
            states=state or [],
            labels=label or [],
            request_id=request_id,
            external_id=external_id,
            since=since,
            until=until,
            now=datetime.now(UTC),
        )
    access = Access(address, token, token_file, tls=tls, ca=ca)
    with conversing(access, as_json=as_json, timeout=timeout) as session:
        raise typer.Exit(session.list(selection, limit))


@app.command(epilog=options.epilog("startflow recipients ID", "startflow recipients ID --json | jq -r .externalId"))
def recipients(
    start_id: options.StartId,
    *,
    limit: options.Limit = 100,
    address: options.Address = DEFAULT_ADDRESS,
    token: options.Token = "",
    token_file: options.TokenFile = None,
    tls: options.Tls = False,
    ca: options.Ca = None,
    as_json: options.AsJson = False,
    timeout: options.Timeout = None,
) -> None:
    """Lists the state of each recipient, as ordered in the request."""
    access = Access(address, token, token_file, tls=tls, ca=ca)
    with conversing(access, as_json=as_json, timeout=timeout) as session:
        raise typer.Exit(session.recipients(start_id, limit))


@app.command(epilog=options.epilog("startflow changes ID", "startflow changes ID --json | jq '.attempt // empty'"))
def changes(
    start_id: options.StartId,
    *,
    limit: options.Limit = 100,
    address: options.Address = DEFAULT_ADDRESS,
    token: options.Token = "",
    token_file: options.TokenFile = None,
    tls: options.Tls = False,
    ca: options.Ca = None,
    as_json: options.AsJson = False,
    timeout: options.Timeout = None,
) -> None:
    """Lists the history of a start, the oldest first, with attempts."""
    access = Access(address, token, token_file, tls=tls, ca=ca)
    with conversing(access, as_json=as_json, timeout=timeout) as session:
        raise typer.Exit(session.changes(start_id, limit))


@app.command(epilog=options.epilog("startflow flows textit", "startflow flows textit --json | jq -r .id"))
def flows(
    backend: options.BackendName,
    *,
    limit: options.Limit = 100,
    address: options.Address = DEFAULT_ADDRESS,
    token: options.Token = "",
    token_file: options.TokenFile = None,
    tls: options.Tls = False,
    ca: options.Ca = None,
    as_json: options.AsJson = False,
    timeout: options.Timeout = None,
) -> None:
    """Lists the flows of a backend (cached for a minute)."""
    access = Access(address, token, token_file, tls=tls, ca=ca)
    with conversing(access, as_json=as_json, timeout=timeout) as session:
        raise typer.Exit(session.flows(backend, limit))


@app.command(epilog=options.epilog("startflow backends", "startflow backends --json | jq .health"))
def backends(
    *,
    address: options.Address = DEFAULT_ADDRESS,
    token: options.Token = "",
    token_file: options.TokenFile = None,
    tls: options.Tls = False,
    ca: options.Ca = None,
    as_json: options.AsJson = False,
    timeout: options.Timeout = None,
) -> None:
    """Lists the backends: health, what waits, and limits."""
    access = Access(address, token, token_file, tls=tls, ca=ca)
    with conversing(access, as_json=as_json, timeout=timeout) as session:
        raise typer.Exit(session.backends())
