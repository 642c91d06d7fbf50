"""Reads the small files that an operator names: the configuration, secrets, a certificate and its key.

Rules:

1. No file holds up whoever reads it: a pipe without a writer, or a disk behind a network that is gone, never answers.
2. Nothing larger than `LARGEST` is read: a wrong name, such as /dev/zero, must not fill the memory.
3. What cannot be read raises `OSError`, whose `strerror` says why.
"""

from __future__ import annotations

import errno
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LARGEST = 2**20  # bytes
PATIENCE = 10.0  # seconds for a file, or for all that are read together
LEAST = 0.5  # seconds for each of those that are read after one that did not answer

_Read = TypeVar("_Read")
_until: ContextVar[float | None] = ContextVar("until", default=None)
_silent: dict[Path, threading.Thread] = {}  # threads that wait for a file: one for each, however often it is asked for


@contextmanager
def together() -> Iterator[None]:
    """Has all files that are read within take no longer than one of them may, but for a moment each."""
    token = _until.set(_until.get() or time.monotonic() + PATIENCE)
    try:
        yield
    finally:
        _until.reset(token)


def read(path: Path) -> bytes:
    """Returns what is in a file. Raises `OSError`."""
    return answered(path, lambda: _read(path))


def answered(path: Path, function: Callable[[], _Read]) -> _Read:
    """Returns what a function that reads this file returns, or raises. Raises `TimeoutError` if it does not end."""
    until = _until.get()
    ends = time.monotonic() + (PATIENCE if until is None else max(LEAST, until - time.monotonic()))
    if (before := _silent.get(path)) is not None:
        before.join(ends - time.monotonic())
        if before.is_alive():
            raise _does_not_answer()
        del _silent[path]  # what it has read is of then
    called: Future[_Read] = Future()
    thread = threading.Thread(target=_call, args=(function, called), name="file", daemon=True)  # no end waits for it
    thread.start()
    try:
        return called.result(max(0.0, ends - time.monotonic()))
    except TimeoutError:
        if called.done():
            raise  # the file's own
        _silent[path] = thread
        raise _does_not_answer() from None


def _call(function: Callable[[], _Read], called: Future[_Read]) -> None:
    try:
        called.set_result(function())
    except Exception as error:  # noqa: BLE001 -- whoever waits has it
        called.set_exception(error)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        found = file.read(LARGEST + 1)
    if len(found) > LARGEST:
        raise OSError(errno.EFBIG, f"it is larger than {LARGEST // 2**20} MiB; name the file that is meant")
    return found


def _does_not_answer() -> TimeoutError:
    return TimeoutError(
        errno.ETIMEDOUT, "it does not answer; is it a pipe without a writer, or on a disk that cannot be reached?"
    )
