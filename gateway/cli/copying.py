"""The commands that copy the store, and put a copy back. They need its file, and no gateway that runs."""
# ruff: noqa: PLC0415 - the store is imported once a command is to run, so that `--help` is quick

from __future__ import annotations

import signal
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

import typer

from gateway.cli import options
from gateway.cli.access import refuse
from gateway.cli.commands import confirm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gateway.store.copies import Contents
    from gateway.store.counting import Counts

NOT_DONE = 1
ASIDE = ".before-restore"
CODES = "0 done · 1 not done, nothing was changed · 2 wrong usage or configuration"

app = typer.Typer(rich_markup_mode=None)


@app.command(
    epilog=options.epilog(
        "startflow backup /backups --config startflow.toml",
        "startflow backup copy.db --store var/startflow.db",
        codes=CODES,
    )
)
def backup(target: options.Target, *, config: options.ConfigFile = None, store: options.StorePath = None) -> None:
    """Copies the store into a new file while the gateway serves.

    Run it as the gateway's user. The copy is readable by that user only; it holds phone numbers and params.
    """
    from gateway.store.copies import backup as copy
    from gateway.store.copies import contents, into, refuse_nowhere

    path = store_at(config, store)
    now = datetime.now(UTC)
    with said():
        refuse_nowhere(target)
        target = into(target, f"{path.stem}-{now:%Y%m%dT%H%M%SZ}.db")
        with _cleaning_up():
            copy(path, target, now)
        made = contents(target)
    typer.echo(f"Copied {path} to {target}: {_described(made)}.")


@app.command(
    epilog=options.epilog(
        "startflow restore /backups/startflow-20270301T020000Z.db --config startflow.toml",
        "startflow restore copy.db --store var/startflow.db --yes",
        codes=CODES,
    )
)
def restore(
    copy: options.Copy,
    *,
    config: options.ConfigFile = None,
    store: options.StorePath = None,
    keep: options.Keep = True,
    yes: options.RestoreYes = False,
) -> None:
    """Replaces the store with a copy, keeping the old one.

    No gateway may serve from it meanwhile. Nothing is sent twice: what was unsent in the copy may have been sent
    since, so the next gateway looks for it on the backends, and sends only what they do not have. What was recorded
    after the copy is lost: those starts continue untracked, their request ids are free again, and what was
    cancelled since then is not cancelled. So stop callers that retry old requests before the gateway serves again.
    """
    from gateway.store.copies import contents, refuse_in_use, refuse_no_copy, refuse_second_aside
    from gateway.store.copies import restore as put_back

    path = store_at(config, store)
    aside = path.with_name(path.name + ASIDE)
    with said():
        refuse_in_use(path)
        if keep:
            refuse_second_aside(path, aside)
        refuse_no_copy(copy)
        found = contents(copy)
    typer.echo(f"The copy {copy}: {_described(found)}.")
    if made := found.copied_at or found.newest:
        typer.echo(f"Made {when(made)}; what was recorded since will be unknown.")
    there = path.exists()
    if there:
        typer.echo(f"The store {path}: {_described_if_whole(path)}. {f'It is kept as {aside}' if keep else 'It goes'}.")
    if not yes:
        confirm("Restore it?", "A restore replaces the store")
    with said(), _cleaning_up():
        put_back(copy, path, aside if keep else None)
    typer.echo(f"Restored to {path}. The next gateway has another epoch.{looked_for(found)}")


def store_at(config: Path | None, store: Path | None) -> Path:
    """Returns where the file of a store is: what is typed, else what is configured."""
    named = store_named(config, store)
    if isinstance(named, str):
        refuse(
            "The store is PostgreSQL: copy it with pg_dump or a base backup, and put a copy back into a new database or"
            ' server. docs/operations.md, "Copies of PostgreSQL", says what to do where that is not possible.'
        )
    return named


def store_named(config: Path | None, store: Path | None) -> Path | str:
    """Returns where the store is: a file that is typed, else what is configured, which may be an address."""
    from gateway.config import loading

    if store is not None:
        if config is not None:
            refuse("Give either --config or --store.")
        return store
    try:
        settings = loading.load(config, needs_backend=False)
    except loading.ConfigError as error:
        refuse(str(error))
    return settings.store_url or settings.store_path


@contextmanager
def said() -> Iterator[None]:
    """Ends the command if a store cannot be used, and says why."""
    from gateway.store.engine import StoreUnusable

    try:
        yield
    except StoreUnusable as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(NOT_DONE) from None


@contextmanager
def _cleaning_up() -> Iterator[None]:
    """Has SIGTERM and SIGHUP end the command as Ctrl-C does: once what is half made is removed."""

    def end(number: int, _: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    handled = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in handled:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in handled:
            signal.signal(number, before[number])


def looked_for(found: Counts) -> str:
    """Says what becomes of what is unsent in a copy."""
    if not found.unsent:
        return ""
    return (
        f" It looks for the {found.unsent:,} unsent requests on the backends, except those that are not due yet, and"
        " sends only what they do not have."
    )


def described(found: Counts) -> str:
    """Says how much is in a store."""
    uncertain = f", {found.uncertain:,} uncertain" if found.uncertain else ""
    return f"{found.starts:,} starts, {found.not_over:,} of them not over, {found.unsent:,} requests unsent{uncertain}"


def _described(found: Contents) -> str:
    return f"{(found.size + found.log) / 2**20:,.1f} MiB, {described(found)}"


def _described_if_whole(path: Path) -> str:
    from gateway.store.copies import contents
    from gateway.store.engine import StoreUnusable

    try:
        found = contents(path)
    except StoreUnusable:
        return "it cannot be read"
    return f"{_described(found)}{f', last change {when(found.newest)}' if found.newest else ''}"


def when(at: datetime) -> str:
    """Writes a moment for a person."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
