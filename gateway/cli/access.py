"""Where the gateway is, what lets a command in, and how a command says that its words cannot be used."""

from __future__ import annotations

import os
import shlex
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer

from gateway.cli import reaching
from gateway.config.variables import is_quoted, mistyped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEFAULT_ADDRESS = "127.0.0.1:50051"
WRONG_USAGE = 2


def refuse(sentence: str, *, code: int = WRONG_USAGE) -> NoReturn:
    """Ends the command with an error, by default because of what was typed."""
    typer.echo(f"error: {sentence}", err=True)
    raise typer.Exit(code)


@contextmanager
def reading() -> Iterator[None]:
    """Turns a word that cannot be read into wrong usage."""
    try:
        yield
    except UnicodeEncodeError:
        refuse("An argument is not valid UTF-8.")
    except ValueError as error:
        refuse(str(error))


class Access:
    """Where the gateway is, and what lets this command in. Ends the command if a file of it cannot be read."""

    def __init__(self, address: str, token: str, token_file: Path | None, *, tls: bool, ca: Path | None) -> None:
        self.address = address
        self.token = (_read(token_file).decode("utf-8-sig", errors="replace") if token_file else token).strip()
        self.is_secure = tls or ca is not None
        self.root = None if ca is None else _read(ca)
        for wrong in mistyped(os.environ):
            refuse(wrong)
        with reading():
            reaching.check_address(address)
            if self.root is not None:
                reaching.check_root(ca, self.root)
        if is_quoted(self.token):
            refuse("The token has quotation marks around it, and they would be sent; remove them.")
        if not self.token.isascii() or any(letter.isspace() for letter in self.token):
            refuse("This is not a token: `startflow token` makes one, of letters, digits, - and _.")
        flags = "" if address == DEFAULT_ADDRESS else f" --address {shlex.quote(address)}"
        files = (("--token-file", token_file), ("--ca", ca))
        flags += " --tls" if tls else ""
        self.flags = flags + "".join(f" {flag} {shlex.quote(str(path))}" for flag, path in files if path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        refuse(f"{path} cannot be read: {error.strerror}.")
