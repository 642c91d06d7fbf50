"""Where a command writes: pictures for a person on a terminal, JSON lines for a pipe, problems to standard error.

Rules:

1. Standard output is either readable or JSON lines, decided once; a message is one line, flushed at once.
2. JSON is protobuf's own mapping (lowerCamel names, 64-bit integers as strings), its maps in sorted order.
3. Colours only on a terminal, and not with NO_COLOR.
4. What a live picture shows is drawn a few times a second, however much happens.
5. Output that nobody can take ends a command, unless the command has done something: see `outlives`.
"""

from __future__ import annotations

import json
import os
import textwrap
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Event, Thread
from typing import TYPE_CHECKING, Self

import grpc
from google.protobuf import json_format
from rich.console import Console as Terminal
from rich.console import Group
from rich.live import Live
from rich.text import Text

from gateway.cli.views import clean, findings_table, integral

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import IO, TextIO

    from google.protobuf.message import Message
    from rich.console import RenderableType

    from gateway.cli.client import CallFailed, Problem
    from gateway.cli.reaching import Finding

MAPS = frozenset({"params", "labels", "metadata", "flowAliases"})  # protobuf gives them in any order
REDRAWS_PER_SECOND = 4


def json_line(message: Message) -> str:
    """Returns a message as one compact line of JSON, the same whenever it is written."""
    return json.dumps(_with_sorted_maps(json_format.MessageToDict(message)), separators=(",", ":"))


def _with_sorted_maps(value: object) -> object:
    match value:
        case dict():
            return {key: integral(each) if key in MAPS else _with_sorted_maps(each) for key, each in value.items()}
        case list():
            return [_with_sorted_maps(each) for each in value]
        case _:
            return value


def problem_lines(problem: Problem, address: str, found: Finding | None = None) -> list[str]:
    """Returns what a person can use of a problem: the sentence, every bad field, what more is known, when to return."""
    label = problem.reason or problem.code.name
    if problem.is_unconnected:
        why, advice = found or (problem.message, "A proxy is in between: no_proxy names what is reached without it.")
        lines = [f"the gateway at {address} cannot be reached: {why} [{label}]", f"  {advice}"]
    elif problem.code is grpc.StatusCode.DEADLINE_EXCEEDED and not problem.reason:
        lines = [f"the gateway at {address} did not answer in time; --timeout allows more [{label}]"]
    else:
        lines = [f"{problem.message or 'the gateway gave no reason'} [{label}]"]
    lines += [
        f"  {what}" if what.startswith((f"{path}:", f"{path} ")) else f"  {path}: {what}"
        for path, what in problem.violations
        if what not in problem.message
    ]
    lines += [f"  {key}: {value}" for key, value in sorted(problem.metadata.items()) if _is_news(key, value, problem)]
    if problem.code is grpc.StatusCode.OUT_OF_RANGE:
        lines.append(
            "  Watch again without --after-revision and --epoch, to begin with the current state of every start."
        )
    if problem.code is grpc.StatusCode.UNAUTHENTICATED:
        lines.append("  --token-file FILE, or the variable STARTFLOW_TOKEN, gives this command a credential.")
    if problem.retry_after is not None and problem.code is not grpc.StatusCode.UNAUTHENTICATED:
        lines.append(f"  Try again in {problem.retry_after:g} s.")
    return lines


def _is_news(key: str, value: str, problem: Problem) -> bool:
    """Says whether a piece of metadata tells what the sentence and the violations do not."""
    if key == "violation_count":
        return value != str(len(problem.violations))
    return value not in problem.message


class Console:
    """Writes to one pair of files. `readable` says whether a person reads the first; without it, a terminal does."""

    def __init__(
        self,
        out: TextIO,
        err: TextIO,
        *,
        readable: bool | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.readable = out.isatty() if readable is None else readable
        self.now = now
        self._file = out
        self._out, self._err = Terminal(file=out, highlight=False), Terminal(file=err, highlight=False)
        self._aside = self._err
        self._waits_for, self._waits_since = "", self.now()
        self._done = self._see = ""

    @property
    def width(self) -> int:
        """How many columns a picture may have."""
        return self._out.width

    def line(self, message: Message) -> None:
        """Writes one message for a program."""
        try:
            self._file.write(json_line(message) + "\n")
            self._file.flush()  # a reader at the other end of the pipe is waiting for it
        except OSError as error:
            if not self._done:
                raise
            _lead_nowhere(self._file)
            self.say(f"{self._done}, but the output cannot be written: {error.strerror}.{self._see}")

    def outlives(self, done: str, see: str = "") -> None:
        """Has the command go on though its output cannot be written any more; `done` and `see` are then said once.

        To fail would have a script do once more what has been done.
        """
        self._done, self._see = done, see and f" {see}"

    def show(self, renderable: RenderableType) -> None:
        """Writes one picture for a person."""
        self._out.print(renderable, crop=False)  # what asks not to be wrapped is whole for whoever copies it

    def report(self, findings: Sequence[tuple[str, str, str]]) -> None:
        """Writes what a check found."""
        if self.readable:
            self.show(findings_table(findings, self.width))
            return
        for finding in findings:
            row = dict(zip(("subject", "result", "detail"), finding, strict=True))
            self._file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
        self._file.flush()

    def say(self, sentence: str) -> None:
        """Writes a notice to standard error."""
        try:
            self._aside.print(Text(clean(sentence), style="dim"), soft_wrap=True)
        except (OSError, SystemExit):  # the latter is how rich ends a process whose reader has gone
            if not self._done:
                raise
            _lead_nowhere(self._err.file)

    def fail(self, failed: CallFailed, address: str = "", found: Finding | None = None) -> None:
        """Writes what went wrong to standard error. `found` is why the gateway cannot be reached."""
        first, *more = problem_lines(failed.problem, address, found)
        self._err.print(Text.assemble(("error: ", "bold red"), clean(first)), soft_wrap=True)
        for line in (*more, *([f"  {failed.advice}"] if failed.advice else [])):
            self._err.print(Text(clean(line)), soft_wrap=True)

    def wait(self, sentence: str) -> None:
        """Shows what is waited for, and since when: below the live picture, or as a notice. Empty: no more."""
        waited = bool(self._waits_for)
        if sentence and not waited:
            self._waits_since = self.now()
        self._waits_for = sentence and f"{sentence} (waiting since {self._waits_since:%H:%M:%S} UTC)"
        if self._aside is not self._err:
            return
        if sentence:
            self.say(self._waits_for)
        elif waited:
            self.say("the gateway answers again")

    @contextmanager
    def live(self, picture: Callable[[int, int], RenderableType]) -> Iterator[None]:
        """Keeps a picture of so many columns and lines up to date until the block ends; its last form stays."""
        with _Drawing(self._out, lambda: self._frame(picture)):
            if self._err.is_terminal and self._out.is_terminal and not self._out.is_dumb_terminal:
                self._aside = self._out  # a notice goes above the picture instead of through it
            try:
                yield
            finally:
                self._aside = self._err

    def _frame(self, picture: Callable[[int, int], RenderableType]) -> RenderableType:
        width, height = self._out.size
        waits_for = textwrap.wrap(clean(self._waits_for), width)
        lines = [Text(line, style="yellow") for line in waits_for]
        return Group(picture(width, height - 1 - len(lines)), *lines)  # one line is the cursor's


def _lead_nowhere(file: IO[str]) -> None:
    """Has what is written to a file be dropped, what it holds back included: the interpreter writes that as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


class _Drawing:
    """Redraws a picture in place, from a thread of its own."""

    def __init__(self, terminal: Terminal, picture: Callable[[], RenderableType]) -> None:
        self._terminal, self._picture = terminal, picture
        self._ended = Event()
        self._thread = Thread(target=self._redraw, daemon=True)
        self._live = self._begin()

    def __enter__(self) -> Self:
        self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._live.stop()  # draws it once more

    def _begin(self) -> Live:
        return Live(
            get_renderable=self._picture,
            console=self._terminal,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def _redraw(self) -> None:
        size = self._terminal.size
        while not self._ended.wait(1 / REDRAWS_PER_SECOND):
            if self._terminal.size != size:  # it has broken the lines anew: nobody knows where the picture begins
                size = self._terminal.size
                self._live.stop()
                self._terminal.clear()
                self._live = self._begin()
                self._live.start()
            self._live.refresh()
