"""The commands that check, move and upgrade a store. They read the store itself."""
# ruff: noqa: PLC0415 - the store is imported once the command is to run, so that `--help` is quick

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import TYPE_CHECKING

import typer

from gateway.cli import options
from gateway.cli.access import refuse
from gateway.cli.commands import confirm
from gateway.cli.copying import CODES, described, looked_for, said, store_named, when

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gateway.store.invariants import Violation

BROKEN = 1

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def store() -> None:
    """Checks, moves and upgrades the store, where starts are kept."""


@app.command(
    epilog=options.epilog(
        "startflow store check --config startflow.toml",
        "startflow store check --store var/startflow.db --json",
        codes=options.STORE_CHECK_CODES,
    )
)
def check(
    *, config: options.ConfigFile = None, store: options.StorePath = None, as_json: options.FindingsAsJson = False
) -> None:
    """Checks every invariant of a store (docs/guarantees.md).

    It changes nothing, and a gateway may be serving from the store. No recipient and no params are printed.
    """
    place = store_named(config, store)
    with said():
        name, found, count = _checked_url(place) if isinstance(place, str) else _checked(place)
    as_lines = as_json or not sys.stdout.isatty()
    if as_lines:
        for each in found:
            typer.echo(_json_line(each))
    else:
        _tell(found)
    if not found:
        typer.echo(f"{name}: all {count} invariants hold.", err=as_lines)
    raise typer.Exit(BROKEN if found else 0)


def _checked(path: Path) -> tuple[str, Sequence[Violation], int]:
    """Returns what a file is called, what is wrong with it, and how many invariants there are."""
    from gateway.store.checking import SOUNDNESS, check_path
    from gateway.store.invariants import INVARIANTS

    return str(path), check_path(path), len(INVARIANTS) + len(SOUNDNESS)


def _checked_url(url: str) -> tuple[str, Sequence[Violation], int]:
    """Does the same with a database."""
    from gateway.store.invariants import INVARIANTS
    from gateway.store.opening import require_postgres

    require_postgres()
    from gateway.store.postgres.checking import SOUNDNESS, check_url
    from gateway.store.postgres.refusals import named

    return named(url), check_url(url), len(INVARIANTS) + len(SOUNDNESS)


@app.command(
    epilog=options.epilog(
        "startflow store copy var/startflow.db postgresql://startflow@db.example.org/startflow",
        "startflow store copy postgresql://startflow@db.example.org/startflow var/startflow.db",
        codes=options.STORE_COPY_CODES,
    )
)
def copy(source: options.MovedFrom, target: options.MovedTo) -> None:
    """Moves a store from a file into PostgreSQL, or back into a file.

    No gateway may serve from it. Everything is copied in one step and compared row by row, request ids and revisions
    included. What it was copied from stays, and no gateway serves from that any more. If it is cut short, run it again.
    """
    from gateway.config.settings import POSTGRES
    from gateway.store.opening import require_postgres

    url, written = (source, target) if source.startswith(POSTGRES) else (target, source)
    if not url.startswith(POSTGRES) or written.startswith(POSTGRES):
        refuse("FROM or TO has to be a database, and the other one a file; write postgresql://USER@HOST/DATABASE.")
    _refuse_password("FROM" if url is source else "TO", url)
    path = options.as_path(written)
    with said():
        require_postgres()
        from gateway.store.postgres.copying import copy as copied
        from gateway.store.postgres.copying_back import copy_back
        from gateway.store.postgres.refusals import named

        rows = (copied(path, url) if url is target else copy_back(url, path)).rows
    places = (str(path), named(url))
    before, after = places if url is target else reversed(places)
    if not rows:
        typer.echo(f"{before} was moved to {after} before. Nothing was changed.")
        return
    typer.echo(f"Moved {rows['starts']:,} starts ({sum(rows.values()):,} rows) from {before} to {after}.")
    setting = url if url is target else f"sqlite:///{path.resolve()}"
    typer.echo(f'Set store = "{setting}". No gateway serves from {before} any more.')


def _refuse_password(name: str, url: str) -> None:
    from gateway.config.settings import has_password

    if has_password(url):
        refuse(f"{name}: has a password in it; leave it out, and set PGPASSWORD, or PGPASSFILE to a file that has it.")


@app.command(
    epilog=options.epilog(
        "startflow store migrate --config startflow.toml", "startflow store migrate --store copy.db", codes=CODES
    )
)
def migrate(*, config: options.ConfigFile = None, store: options.StorePath = None) -> None:
    """Brings a store to the schema of this version. A gateway does so by itself when it starts.

    A database that has no tables gets them. Several gateways may serve from it meanwhile, if the steps only add; else
    it refuses, and says which gateways have to be stopped first.
    """
    place = store_named(config, store)
    with said():
        if isinstance(place, str):
            from gateway.store.opening import require_postgres

            require_postgres()
            from gateway.store.postgres.refusals import named
            from gateway.store.postgres.upgrading import upgrade as upgrade_url

            name, steps = named(place), upgrade_url(place)
        else:
            from gateway.store.upgrading import upgrade

            name, steps = str(place), upgrade(place)
    typer.echo(
        f"{name}: {'made ' + ', '.join(steps) if steps else 'nothing to do, it has the schema of this version'}."
    )


@app.command(
    epilog=options.epilog(
        "startflow store restored --config startflow.toml",
        "STARTFLOW_STORE=postgresql://startflow@db.example.org/startflow startflow store restored --yes",
        codes=CODES,
    )
)
def restored(*, config: options.ConfigFile = None, yes: options.RestoreYes = False) -> None:
    """Records that a PostgreSQL store was restored from a dump.

    Run it when a dump was restored over the same tables, before a gateway serves: the gateway cannot detect that by
    itself. It keeps requests from being sent twice: what was unsent in the dump may have been sent since, so the next
    gateway looks for it on the backends, and sends only what they do not have. What was recorded after the dump is
    lost, as after `startflow restore`.
    """
    from gateway.store.opening import require_postgres

    url = store_named(config, None)
    if not isinstance(url, str):
        refuse("The store is a file, which is put back by `startflow restore`.")
    with said():
        require_postgres()
        from gateway.store.postgres import restored as after
        from gateway.store.postgres.refusals import named

        found, newest = after.look(url)
    last = f", last change {when(newest)}; what was recorded since will be unknown" if newest else ""
    typer.echo(f"The store {named(url)}: {described(found)}{last}.")
    if not yes:
        confirm("Was it put back from a copy?", "This puts in doubt whatever is unsent")
    with said():
        after.mark(url)
    typer.echo(f"The next gateway has another epoch.{looked_for(found)}")


def _json_line(violation: Violation) -> str:
    broken = violation.invariant
    fields = {"invariant": broken.name, "id": violation.id, "sentence": broken.sentence, "advice": broken.advice}
    return json.dumps(fields, separators=(",", ":"))


def _tell(found: Sequence[Violation]) -> None:
    """Prints each violation in a sentence, and how many there are."""
    from gateway.store.invariants import MOST

    for each in found:
        typer.echo(str(each))
    for name, count in Counter(each.invariant.name for each in found).items():
        typer.echo(f"{name}: {count:,}{' or more' if count == MOST else ''}")
