"""A terminal for a process under test: what it shows is read as a person would see it."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from contextlib import contextmanager
from threading import Condition, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_PIECE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")
_HALF = re.compile(r"(\x1b(\[[0-9;?]*)?)?$")  # the beginning of a code, at the end of what was read


class Screen:
    """A pseudo-terminal of some size, and the lines on it. It knows the few codes that the command uses."""

    def __init__(self, columns: int, lines: int) -> None:
        self.raw = ""  # everything that was ever written
        self._columns, self._height = columns, lines
        self._lines, self._row, self._column = [""], 0, 0
        self._changed = Condition()
        self._ours, self.theirs = pty.openpty()
        self.resize(columns, lines)

    def resize(self, columns: int, lines: int) -> None:
        """Gives the terminal another size."""
        self._columns, self._height = columns, lines
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self) -> None:
        """Reads what is written until the other side is closed."""
        decoder, rest = codecs.getincrementaldecoder("utf-8")(), ""
        while True:
            try:
                data = os.read(self._ours, 65_536)
            except OSError:  # what Linux says when the other side is closed
                break
            text = rest + decoder.decode(data)
            rest = _HALF.search(text)[0]
            with self._changed:
                self._write(text.removesuffix(rest))
                self._changed.notify_all()
        os.close(self._ours)

    def _write(self, text: str) -> None:
        self.raw += text
        for piece in _PIECE.finditer(text):
            argument, code, move, shown = piece.groups()
            if code == "A":
                self._row = max(0, self._row - int(argument or 1))
            elif code == "K":
                self._lines[self._row] = ""
            elif code == "J":
                self._lines, self._row, self._column = [""], 0, 0
            elif code == "H":
                self._row, self._column = 0, 0
            elif move == "\r":
                self._column = 0
            elif move == "\n":
                self._row += 1
                if self._row == len(self._lines):
                    self._lines.append("")
            elif shown:
                line = self._lines[self._row].ljust(self._column)
                self._lines[self._row] = line[: self._column] + shown + line[self._column + len(shown) :]
                self._column += len(shown)

    @property
    def shown(self) -> list[str]:
        """The lines on it, those that have scrolled away above them."""
        return [line.rstrip() for line in self._lines]

    def until(self, is_so: Callable[[list[str]], bool], seconds: float = 30) -> list[str]:
        """Waits until what is shown is as it should be, and returns it."""
        with self._changed:
            done = self._changed.wait_for(lambda: is_so(self.shown), timeout=seconds)
            assert done, "\n".join(self.shown)
            return self.shown


@contextmanager
def on_screen(
    words: Sequence[str], environment: Mapping[str, str], *, columns: int = 100, lines: int = 24
) -> Iterator[tuple[Screen, subprocess.Popen[bytes]]]:
    """Runs a command on a terminal of its own; ends it, and has read all it wrote, when the block is left."""
    screen = Screen(columns, lines)
    own = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
    with subprocess.Popen(
        words, env=own, stdin=subprocess.DEVNULL, stdout=screen.theirs, stderr=screen.theirs
    ) as process:
        reader = Thread(target=screen.read, daemon=True)
        reader.start()
        try:
            yield screen, process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            os.close(screen.theirs)
            reader.join(timeout=10)
