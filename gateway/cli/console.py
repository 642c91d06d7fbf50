"""Where a command writes: pictures for a person on a terminal, JSON lines for a pipe, problems to standard error.

Rules:

1. Standard output is either readable or JSON lines, decided once; a message is one line, flushed at once.
2. JSON is protobuf's own mapping (lowerCamel names, 64-bit integers as strings), its maps in sorted order.
3. Colours only on a terminal, and not with NO_COLOR.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import grpc
from google.protobuf import json_format
from rich.console import Console as Terminal
from rich.live import Live
from rich.text import Text

from gateway.cli.views import clean, findings_table, integral

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TextIO

    from google.protobuf.message import Message
    from rich.console import RenderableType

    from gateway.cli.client import CallFailed, Problem

MAPS = frozenset({"params", "labels", "metadata", "flowAliases"})  # protobuf gives them in any order
REFRESH_PER_SECOND = 4


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


def problem_lines(problem: Problem, address: str) -> list[str]:
    """Returns what a person can use of a problem: the sentence, every bad field, what more is known, when to return."""
    label = problem.reason or problem.code.name
    if problem.code is grpc.StatusCode.UNAVAILABLE and not problem.reason:
        lines = [
            f"the gateway at {address} cannot be reached: {problem.message} [{label}]",
            "  Is it running? `make run` or `startflow serve --sandbox` starts one here; --address names another.",
        ]
    elif problem.code is grpc.StatusCode.DEADLINE_EXCEEDED and not problem.reason:
        lines = [f"the gateway at {address} did not answer in time; --timeout allows more [{label}]"]
    else:
        lines = [f"{problem.message or 'the gateway gave no reason'} [{label}]"]
    lines += [f"  {path}: {what}" for path, what in problem.violations if what not in problem.message]
    lines += [f"  {key}: {value}" for key, value in sorted(problem.metadata.items()) if _is_news(key, value, problem)]
    if problem.code is grpc.StatusCode.OUT_OF_RANGE:
        lines.append(
            "  The changes after that revision are not kept any more, or the store was restored since."
            " Watch again without --after-revision: that begins with every start as it is now."
        )
    if problem.retry_after is not None:
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

    @property
    def height(self) -> int:
        """Says how many lines fit."""
        return self._out.height

    def line(self, message: Message) -> None:
        """Writes one message for a program."""
        self._file.write(json_line(message) + "\n")
        self._file.flush()  # a reader at the other end of the pipe is waiting for it

    def show(self, renderable: RenderableType) -> None:
        """Writes one picture for a person."""
        self._out.print(renderable)

    def report(self, findings: Sequence[tuple[str, str, str]]) -> None:
        """Writes what a check found."""
        if self.readable:
            self.show(findings_table(findings))
            return
        for finding in findings:
            row = dict(zip(("subject", "result", "detail"), finding, strict=True))
            self._file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")

    def say(self, sentence: str) -> None:
        """Writes a notice to standard error."""
        self._aside.print(Text(clean(sentence), style="dim"), soft_wrap=True)

    def fail(self, failed: CallFailed, address: str) -> None:
        """Writes what went wrong to standard error."""
        first, *more = problem_lines(failed.problem, address)
        self._err.print(Text.assemble(("error: ", "bold red"), clean(first)), soft_wrap=True)
        for line in (*more, *([f"  {failed.advice}"] if failed.advice else [])):
            self._err.print(Text(clean(line)), soft_wrap=True)

    @contextmanager
    def live(self, picture: Callable[[], RenderableType]) -> Iterator[None]:
        """Keeps a picture up to date until the block ends; its last form stays."""
        with Live(
            get_renderable=picture,
            console=self._out,
            refresh_per_second=REFRESH_PER_SECOND,
            redirect_stdout=False,
            redirect_stderr=False,
        ):
            if self._err.is_terminal:
                self._aside = self._out  # a notice goes above the picture instead of through it
            try:
                yield
            finally:
                self._aside = self._err
