"""Prints where a server is. Nobody has to read it: a full pipe, or a terminal under Ctrl-S, holds nothing up."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress


def announce(text: str) -> None:
    """Writes a text to standard output on a thread that nothing waits for. What cannot be written is dropped.

    It writes to the descriptor: at exit the interpreter waits for any thread that holds the buffer of `sys.stdout`.
    """
    threading.Thread(target=_write, args=(sys.stdout.fileno(), text.encode()), name="announce", daemon=True).start()


def _write(where: int, left: bytes) -> None:
    with suppress(OSError):
        while left:
            left = left[os.write(where, left) :]
