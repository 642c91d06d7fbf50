"""Runs the command `startflow`."""

from __future__ import annotations

import errno
import os
import sys

OUTPUT_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # with no file named: of what is written to


def main() -> None:
    """Reads the command line, does what it says and exits; `startflow --help` tells the exit codes."""
    from gateway.cli.app import app  # noqa: PLC0415 - importing the package must not build the command line

    try:
        app(prog_name="startflow")
    except OSError as error:
        if error.filename is not None or error.errno not in OUTPUT_FULL:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter tries once more when it ends
        sys.stderr.write(f"error: the output cannot be written: {error.strerror}.\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
