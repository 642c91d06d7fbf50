"""Runs the command `startflow`."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import NoReturn

OUTPUT_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # with no file named: of what is written to


def main() -> None:
    """Reads the command line, does what it says and exits; `startflow --help` tells the exit codes."""
    _open_what_is_closed()
    from gateway.cli.app import app  # noqa: PLC0415 - importing the package must not build the command line

    try:
        app(prog_name="startflow")
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # what made typer or rich end it
            _end_without_reader()
        raise
    except OSError as error:
        if error.filename is not None:  # a command that knows more has said it itself
            sys.stderr.write(f"error: {error.filename}: {error.strerror}.\n")
            raise SystemExit(1) from None
        if error.errno not in OUTPUT_FULL:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter tries once more when it ends
        sys.stderr.write(f"error: the output cannot be written: {error.strerror}.\n")
        raise SystemExit(1) from None


def _end_without_reader() -> NoReturn:
    """Ends as other tools do when their reader has left (`| head -1`): quietly, by SIGPIPE, in a shell 141."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
    os._exit(128 + signal.SIGPIPE)  # the first process of a container gets no signal that it does not handle


def _open_what_is_closed() -> None:
    """Has the standard streams that the caller closed (`2>&-`) lead nowhere.

    Else the next files that are opened take their numbers, and libraries that write to them, or look at them, abort.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 -- for as long as it lives


if __name__ == "__main__":
    main()
