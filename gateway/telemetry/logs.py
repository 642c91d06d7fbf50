"""The log: one JSON line per event on stderr, each with the id of the request that is being served.

Rules:

1. A line has what this code names, and never a text that something else has made: what others log, and the texts of
   exceptions, may quote phone numbers, params or secrets. Types and places are told.
2. What nobody logs costs nothing: an id is made when a line asks for it.
3. A line that is not taken holds nobody up. While the gateway serves, a thread writes them; what does not fit in its
   queue is counted, and the count is logged.
"""

from __future__ import annotations

import logging
import queue
import re
import sys
import threading
import uuid
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO, cast

import structlog

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from structlog.typing import EventDict

log = structlog.get_logger()

REQUEST_ID = "x-request-id"
QUEUED = 10_000  # lines that wait to be written, some MB
DRAIN_SECONDS = 1.0
_SANE = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_WITHHELD = ("exc_value", "exc_notes", "syntax_error")  # of an exception, as structlog names them
_renderer = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


class RequestId:
    """Which request it is: as its caller says in the metadata, or an id made here."""

    __slots__ = ("_metadata", "_text")

    def __init__(self, metadata: Callable[[], Iterable[tuple[str, str | bytes]] | None]) -> None:
        self._metadata = metadata
        self._text = ""

    def __str__(self) -> str:
        """Returns it, always the same."""
        if not self._text:
            given = next((value for key, value in self._metadata() or () if key == REQUEST_ID), "")
            self._text = given if isinstance(given, str) and _SANE.fullmatch(given) else uuid.uuid4().hex
        return self._text


serving: ContextVar[RequestId | None] = ContextVar("serving", default=None)
"""The request that this task serves."""


def configure() -> None:
    """Has everything that this process logs go to stderr: JSON, or coloured lines if that is a terminal."""
    rendered: list[Any] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if sys.stderr.isatty()
        else [_renderer, _without_texts, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _with_request_id,
            *rendered,
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _OUT)),
    )
    logging.getLogger().removeHandler(_OF_OTHERS)  # not twice
    logging.getLogger().addHandler(_OF_OTHERS)


def loop_failed(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Logs what an event loop has nobody to tell."""
    error = context.get("exception")
    log.error("loop_complains", what="" if error else context.get("message", ""), exc_info=error)


class _OfOthers(logging.Handler):
    """Logs where a library logs something. What it says is left out, unless it is a template without its values."""

    def emit(self, record: logging.LogRecord) -> None:
        """Logs it as ours."""
        log.log(
            record.levelno,
            "library_logs",
            logger=record.name,
            place=f"{record.module}:{record.lineno}",
            template=str(record.msg) if record.args else "",
            exc_info=record.exc_info,
        )


_OF_OTHERS = _OfOthers(logging.WARNING)


class _StandardError:
    """Where the log goes. Neither a full disk nor a pipe that nobody reads must keep the gateway from working."""

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[str | threading.Event] | None = None
        self._writer: threading.Thread | None = None
        self._counting = threading.Lock()
        self._lost = 0

    def write(self, text: str) -> None:
        """Writes a line, or has it written, or does not."""
        if self._lines is None or threading.current_thread() is self._writer:
            _put(text)  # the writer has one of its own when lines were lost: it must not be the next
        elif self._lines.qsize() < QUEUED:
            self._lines.put(text)
        else:
            with self._counting:
                self._lost += 1

    def flush(self) -> None:
        """Does nothing: each line is flushed when it is written."""

    def detach(self) -> None:
        """Has a thread write from here on."""
        if self._lines is None:
            self._lines = queue.SimpleQueue()
            self._writer = threading.Thread(target=self._write_all, args=(self._lines,), name="log", daemon=True)
            self._writer.start()

    def drain(self, seconds: float) -> None:
        """Waits until what is queued is written, for so many seconds at the most."""
        if self._lines is not None:
            written = threading.Event()
            self._lines.put(written)
            written.wait(seconds)

    def _write_all(self, lines: queue.SimpleQueue[str | threading.Event]) -> None:
        while True:
            line = lines.get()
            if isinstance(line, threading.Event):
                line.set()
                continue
            _put(line)
            with self._counting:
                lost, self._lost = self._lost, 0
            if lost:
                log.warning("log_lines_lost", count=lost)


def _put(text: str) -> None:
    with suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


_OUT = _StandardError()


def detach() -> None:
    """Has a thread write the log from here on, for as long as the process lives."""
    _OUT.detach()


def say(text: str) -> None:
    """Writes a line for whoever started this process. Like a line of the log, it never waits for the reader."""
    _OUT.write(f"{text}\n")


def drain(seconds: float = DRAIN_SECONDS) -> None:
    """Waits until the log is written, for so many seconds at the most."""
    _OUT.drain(seconds)


def _with_request_id(_logger: object, _name: str, event: EventDict) -> EventDict:
    served = serving.get()
    if served is not None:
        event["request_id"] = str(served)
    return event


def _without_texts(_logger: object, _name: str, event: EventDict) -> EventDict:
    """Leaves out what exceptions say, those within groups included."""
    waiting = [event.get("exception", ())]
    while waiting:
        for stack in waiting.pop():
            for name in _WITHHELD:
                stack.pop(name, None)
            waiting += stack.get("exceptions", ())
    return event
