"""Runs the command `startflow`."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import NoReturn

OUTPUT_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)  # no file named: what is written to


def main() -> None:
    """Reads the command line, does what it says and exits; `startflow --help` tells the exit codes."""
    _end_by_signals()
    _open_what_is_closed()
    from gateway.cli.app import app  # noqa: PLC0415 - importing the package must not build the command line

    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on something catches what it raises
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


def _end_by_signals() -> None:
    """Has a signal end the command at once and without a traceback, until the command handles signals itself.

    The kernel drops those for which the first process of a container has no handler, so it gets one for each.
    """
    if os.getpid() == 1:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda number, _: os._exit(128 + number))
    elif signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a shell has it ignored in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _open_what_is_closed() -> None:
    """Opens the standard streams that the caller closed (`2>&-`): nothing is read from them or kept of them.

    Else the next files that are opened take their numbers, and libraries that write to them, or look at them, abort.
    What is written to standard output fails, as with other tools: nobody has what was asked for.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            flags = os.O_RDONLY if name == "stdout" else os.O_RDWR
            os.open(os.devnull, flags)  # takes the lowest number that is free, which is this one
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 -- for as long as it lives


if __name__ == "__main__":
    main()
