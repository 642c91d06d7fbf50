"""The command `startflow`: the gateway's own commands here, those that call it from `commands.py` and `looking.py`.

gRPC, rich and the server are imported by the command that needs them, so that `--help` is quick.
"""
# ruff: noqa: PLC0415 - see above

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli import commands, copying, looking, options, store
from gateway.cli.access import refuse

if TYPE_CHECKING:
    from gateway.config.settings import Settings

app = typer.Typer(
    rich_markup_mode=None,  # plain help: quick, and its examples can be copied
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer hands it over like this
    if wanted:
        from importlib.metadata import version

        typer.echo(f"startflow {version('startflow-gateway')}")
        raise typer.Exit


@app.callback(
    epilog=options.epilog(
        "startflow serve --sandbox",
        f"startflow start {options.EXAMPLE_FLOW} tel:+12065551212 --param first_name=Ryan --watch",
        "startflow list --state failed --since 2h",
        "startflow watch | jq -r '.changed // empty | .state'",
        codes=options.WAIT_CODES.format(done="done; of what was waited for: "),
    )
)
def startflow(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Starts flows on RapidPro and Twilio Studio, exactly once each, and shows their progress and results.

    On a terminal the commands print tables and live progress; into a pipe, or with --json, JSON lines. Their names are
    those of the API in lowerCamelCase (`externalId`), as protobuf writes JSON. grpcurl prints `external_id` instead.
    Options stand after the command: `startflow list --json`.
    """


@app.command(
    epilog=options.epilog(
        "startflow serve --sandbox", "startflow serve --config startflow.toml", codes=options.SERVE_CODES
    )
)
def serve(
    *, config: options.ConfigFile = None, sandbox: options.WithSandbox = False, insecure: options.Insecure = False
) -> None:
    """Runs the gateway until SIGTERM or Ctrl-C.

    It then finishes what it is sending; a second signal ends it at once. On SIGHUP it reads clients, limits,
    certificates and credentials again.
    """
    import os
    import signal

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # by default it ends a process; what is read now is new anyway
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its core writes to stderr itself, and waits until that is read
    from gateway.config import loading
    from gateway.server import building as server

    def read() -> Settings:
        return loading.load(config, sandbox=sandbox, insecure=insecure)

    try:
        settings = read()
    except loading.ConfigError as error:
        refuse(str(error))
    raise typer.Exit(server.run(settings, read))


@app.command(
    epilog=options.epilog(
        "startflow check --config startflow.toml",
        "startflow check --live",
        codes=options.CHECK_CODES,
    )
)
def check(
    *, config: options.ConfigFile = None, live: options.Live = False, as_json: options.FindingsAsJson = False
) -> None:
    """Checks a configuration: its settings, secrets and backends.

    Starts nothing on any backend: it tries the credentials, and asks for the list of flows and for each alias.
    """
    import asyncio
    import sys

    from gateway.cli import check as checking
    from gateway.cli.console import Console
    from gateway.config import loading

    try:
        settings = loading.load(config, needs_backend=not live)
        findings = checking.live(settings) if live else asyncio.run(checking.check(settings, config))
    except loading.ConfigError as error:
        refuse(str(error))
    Console(sys.stdout, sys.stderr, readable=False if as_json else None).report(findings)
    raise typer.Exit(1 if any(finding.result == checking.PROBLEM for finding in findings) else 0)


@app.command(
    epilog=options.epilog(
        "startflow token --tenant clinic",
        "startflow token --tenant clinic --scopes read",
        codes="0 done · 2 wrong usage",
    )
)
def token(*, tenant: options.Tenant = "default", scopes: options.Scopes = "start,read") -> None:
    """Makes a token for a caller.

    Prints it with the configuration that allows it. It is shown once and stored nowhere: the configuration holds
    only its hash.
    """
    from gateway.config.values import is_name
    from gateway.tenants import clients

    if not is_name(tenant):
        refuse(f"--tenant: {tenant!r} is not a name; use at most 63 of a-z, 0-9, _ and -.")
    chosen = [scope.strip() for scope in scopes.split(",")]
    for scope in chosen:
        if scope not in list(clients.Scope):
            apart = " Separate them by commas." if " " in scope else ""
            refuse(f"--scopes: {scope!r} is not a scope. There are: {', '.join(clients.Scope)}.{apart}")
    if set(chosen) == {clients.Scope.OPERATOR}:
        refuse('--scopes: "operator" alone allows nothing. Add what the caller may do: --scopes read,operator.')
    written = ", ".join(f'"{scope}"' for scope in dict.fromkeys(chosen))
    made = clients.make_token()
    typer.echo(f"""{made}

# The line above is for the caller: --token-file FILE, STARTFLOW_TOKEN, or the header `authorization: Bearer …`.
# The lines below are for the gateway's configuration; a running gateway reads them on SIGHUP.
[[clients]]
tenant = "{tenant}"
token_sha256 = "{clients.hash_token(made).hex()}"
scopes = [{written}]""")


@app.command(
    "sandbox",
    epilog=options.epilog(
        "startflow sandbox",
        "startflow sandbox --rapidpro-listen 127.0.0.1:8001 --duration 10 --journal sandbox.db",
        codes=options.SANDBOX_CODES,
    ),
)
def run_sandbox(
    *,
    rapidpro_listen: options.RapidProListen = "127.0.0.1:0",
    twilio_listen: options.TwilioListen = "127.0.0.1:0",
    control_listen: options.ControlListen = "127.0.0.1:0",
    journal: options.Journal = None,
    duration: options.Duration = 3.0,
    seed: options.Seed = None,
    rapidpro_generation: options.RapidProGeneration = "new",
    twilio_events_url: options.TwilioEventsUrl = None,
    as_json: options.AddressesAsJson = False,
) -> None:
    """Runs a simulated RapidPro and Twilio Studio on this machine."""
    from gateway.sandbox import CannotStart, SandboxSettings, run

    settings = SandboxSettings(
        rapidpro_listen=rapidpro_listen,
        twilio_listen=twilio_listen,
        control_listen=control_listen,
        journal=journal,
        duration=timedelta(seconds=duration),
        seed=seed,
        rapidpro_generation=rapidpro_generation,
        twilio_events_url=twilio_events_url,
    )
    try:
        run(settings, as_json=as_json)
    except ValueError as error:
        refuse(str(error))
    except CannotStart as error:
        refuse(str(error), code=1)


app.add_typer(commands.app)
app.add_typer(looking.app)
app.add_typer(copying.app)
app.add_typer(store.app, name="store")
