"""The commands that start, watch and settle starts.

Rules:

1. Here words become requests; what is done with them is `session.py`'s.
2. gRPC and rich are imported once a command is to run, so that `--help` is quick.
3. Whatever is wrong with the words ends with 2 before anything is sent.
"""
# ruff: noqa: PLC0415 - rule 2

from __future__ import annotations

import sys
from datetime import UTC, datetime
from uuid import uuid4

import typer

from gateway.cli import options
from gateway.cli.access import DEFAULT_ADDRESS, Access, reading, refuse
from gateway.cli.conversing import conversing

NOT_CONFIRMED = 1

app = typer.Typer(rich_markup_mode=None)


def confirm(question: str, risk: str) -> None:
    """Asks the person at the terminal; ends the command unless the answer is yes, or if there is nobody to ask."""
    if sys.stdin is None or not sys.stdin.isatty():
        refuse(
            f"{risk}, and cannot be confirmed here: standard input is not a terminal. Add --yes. Nothing was changed."
        )
    typer.echo(f"{question} [y/N] ", err=True, nl=False)  # standard output is for the answer
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        typer.echo("Nothing was changed.", err=True)
        raise typer.Exit(NOT_CONFIRMED)


@app.command(
    epilog=options.epilog(
        f"startflow start {options.EXAMPLE_FLOW} tel:+12065551212 --param first_name=Ryan --watch",
        "startflow start FW0123456789abcdef0123456789abcdef tel:+18001234567 --sender +18007654321",
        f"startflow start {options.EXAMPLE_FLOW} @urns.txt --label campaign=spring",
        f"startflow start {options.EXAMPLE_FLOW} --group Farmers --params @params.json --schedule-time +10m",
        f"""echo '{{"age": 5}}' | startflow start {options.EXAMPLE_FLOW} tel:+12065551212 --params -""",
        codes=options.WAIT_CODES.format(done="recorded, also where its output cannot be written; with --watch: "),
    )
)
def start(
    flow: options.Flow,
    urns: options.Urns = None,
    *,
    backend: options.Backend = "",
    contact: options.Contacts = None,
    group: options.Groups = None,
    params: options.Params = None,
    param: options.Param = None,
    sender: options.Sender = "",
    restart_participants: options.RestartParticipants = None,
    exclude_active: options.ExcludeActive = None,
    request_id: options.RequestId = "",
    schedule_time: options.ScheduleTime = None,
    expire_time: options.ExpireTime = None,
    label: options.Labels = None,
    validate_only: options.ValidateOnly = False,
    watch: options.Watch = False,
    address: options.Address = DEFAULT_ADDRESS,
    token: options.Token = "",
    token_file: options.TokenFile = None,
    tls: options.Tls = False,
    ca: options.Ca = None,
    as_json: options.AsJson = False,
    timeout: options.Timeout = None,
) -> None:
    """Starts a flow exactly once, however often the call is retried.

    In a pipe the first line is the answer (`flowStart`); with --watch each change adds a line.
    """
    from startflow.v1 import start_flow_service_pb2 as pb

    from gateway.cli import arguments

    if validate_only and watch:
        refuse("--validate-only records nothing, so there is nothing to --watch.")
    if [params, *(urns or [])].count("-") > 1:
        refuse("Standard input can be read once: give one of the two as @FILE.")
    now = datetime.now(UTC)
    with reading():
        request = pb.StartFlowRequest(
            backend=backend,
            flow=flow,
            urns=arguments.read_urns(urns or []),
            contacts=contact,
            groups=group,
            params=arguments.read_params(params, param or []),
            sender=sender,
            restart_participants=restart_participants,
            exclude_active=exclude_active,
            request_id=request_id or str(uuid4()),
            schedule_time=arguments.read_time("--schedule-time", schedule_time, now),
            expire_time=arguments.read_time("--expire-time", expire_time, now),
            labels=arguments.read_pairs("--label", label or []),
            validate_only=validate_only,
        )
    access = Access(address, token, token_file, tls=tls, ca=ca)
    with conversing(access, as_json=as_json, timeout=timeout) as session:
        raise typer.Exit(session.start(request, watch=watch))


@app.command(
    epilog=options.epilog(
        "startflow watch",
        "startflow watch ID --until-done",
        "startflow watch --state failed | jq '.changed // empty | .failure'",
        "startflow watch --after-revision 41 --epoch E",
        codes=options.WAIT_CODES.format(done="--timeout reached; with --until-done: "),
    )
)
def watch(
    ids: options.StartIds = None,
    *,
    backend: options.Backends = None,
    flow: options.FlowId = "",
    state: options.States = None,
    label: options.Labelled = None,
    request_id: options.WithRequestId = "",
    external_id: options.ExternalId = "",
    since: options.Since = None,
    until: options.Until = None,
    after_revision: options.AfterRevision = None,
    epoch: options.Epoch = "",
    until_done: options.UntilDone = False,
    address: options.Address = DEFAULT_ADDRESS,
    token: options.Token = "",
    token_file: options.TokenFile = None,
    tls: options.Tls = False,
    ca: options.Ca = None,
    as_json: options.AsJson = False,
    timeout: options.Timeout = None,
) -> None:
    """Shows starts as they are, and then every change.

    While the gateway cannot be reached it waits, then resumes after the last message, and says so on standard error.
    If the gateway cannot resume there (a restored store), it begins again with the current states. On a terminal it
    shows a table of the latest starts, or bars for one ID; in a pipe it prints a JSON line for each message.
    """
    from startflow.v1 import start_flow_service_pb2 as pb

    from gateway.cli import arguments

    if until_done and not ids:
        refuse("--until-done needs the IDs that it waits for.")
    if epoch and after_revision is None:
        refuse("--epoch goes with --after-revision.")
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
        request = pb.WatchFlowStartsRequest(
            ids=ids, filter=selection, after_revision=after_revision, epoch=epoch, until_done=until_done
        )
    access = Access(address, token, token_file, tls=tls, ca=ca)
    with conversing(access, as_json=as_json, timeout=timeout) as session:
        raise typer.Exit(session.watch(request))


@app.command(
    epilog=options.epilog(
        "startflow cancel ID",
        "startflow list --label campaign=spring --json | jq -r .id | xargs startflow cancel --json",
    )
)
def cancel(
    start_ids: options.CancelledIds,
    *,
    address: options.Address = DEFAULT_ADDRESS,
    token: options.Token = "",
    token_file: options.TokenFile = None,
    tls: options.Tls = False,
    ca: options.Ca = None,
    as_json: options.AsJson = False,
    timeout: options.Timeout = None,
) -> None:
    """Cancels starts: what is unsent is never sent.

    What runs is ended if the backend can (Twilio). What RapidPro has accepted continues, and the start gets a
    warning. Cancelling twice is the same as once. If one of several has already ended, the others are still
    cancelled, and the exit code is 3.
    """
    access = Access(address, token, token_file, tls=tls, ca=ca)
    with conversing(access, as_json=as_json, timeout=timeout) as session:
        raise typer.Exit(session.cancel(start_ids))


@app.command(
    epilog=options.epilog(
        "startflow resolve ID --was-sent 09d23a05-47fe-11e4-bfe9-b8f6b119e9ab",
        "startflow resolve ID --was-not-sent --dispatch DISPATCH_ID",
        "startflow resolve ID --give-up",
        codes=options.RESOLVE_CODES,
    )
)
def resolve(
    start_id: options.ResolvedId,
    *,
    was_sent: options.WasSent = None,
    was_not_sent: options.WasNotSent = False,
    give_up: options.GiveUp = False,
    dispatch: options.DispatchId = None,
    yes: options.Yes = False,
    address: options.Address = DEFAULT_ADDRESS,
    token: options.Token = "",
    token_file: options.TokenFile = None,
    tls: options.Tls = False,
    ca: options.Ca = None,
    as_json: options.AsJson = False,
    timeout: options.Timeout = None,
) -> None:
    """Settles what is UNCERTAIN or stalled, as the backend has it.

    Give exactly one of --was-sent, --was-not-sent and --give-up. If in doubt, do not use --was-not-sent: it sends
    again, and if the backend carried out the first request, people are messaged twice.
    """
    if (was_sent is not None) + was_not_sent + give_up != 1:
        refuse("Give exactly one of --was-sent EXTERNAL_ID, --was-not-sent and --give-up.")
    if dispatch == "":
        refuse("--dispatch is empty. Name a dispatch, or leave it out to settle all that is uncertain or stalled.")
    if was_not_sent and not yes:
        what = f"dispatch {dispatch}" if dispatch else "all of it that is uncertain or stalled"
        confirm(
            f"This sends {what} again. If the backend did carry it out, people are messaged twice. Go on?",
            "Sending again may message people twice",
        )
    from startflow.v1 import start_flow_service_pb2 as pb

    with reading():
        request = pb.ResolveFlowStartRequest(
            id=start_id,
            dispatch_id=dispatch or "",
            was_sent=None if was_sent is None else pb.WasSent(external_id=was_sent),
            was_not_sent=pb.WasNotSent() if was_not_sent else None,
            give_up=pb.GiveUp() if give_up else None,
        )
    access = Access(address, token, token_file, tls=tls, ca=ca)
    with conversing(access, as_json=as_json, timeout=timeout) as session:
        raise typer.Exit(session.resolve(request))
