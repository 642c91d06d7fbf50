"""Takes the signals of the process on a thread of its own: they arrive whatever holds up the event loop.

Rules:

1. The first SIGTERM or SIGINT asks the process to stop, and bounds how long that takes. A second one ends it at once.
2. Neither needs the loop, the log or a disk: any of them may be what does not answer.
3. SIGHUP asks to read the configuration again. Before anybody can, it waits.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from gateway.telemetry import logs

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger()

SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


class Signals:
    """Calls `stop` and `reload`, on a thread, when the process is told to. To be made before any other thread."""

    def __init__(self) -> None:
        self._before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # threads that are made later inherit it
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it was ignored until here: it must not end what is starting
        self._thread = threading.Thread(target=self._take, name="signals", daemon=True)
        self._stop: Callable[[], object] = lambda: None
        self._reload: Callable[[], object] = lambda: None
        self._seconds = 0.0
        self._bound: threading.Timer | None = None
        self._is_over = False

    def listen(self, *, stop: Callable[[], object], reload: Callable[[], object], seconds: float) -> None:
        """Passes on what came already, and what comes. A stop that takes longer than so many seconds is cut short."""
        self._stop, self._reload, self._seconds = stop, reload, seconds
        self._thread.start()

    def bound_stop(self) -> None:
        """Ends the process with 1 if it has not stopped by the time that docs/operations.md gives."""
        if self._bound is None:
            self._bound = threading.Timer(self._seconds, self._cut_short)
            self._bound.daemon = True  # a process that stops in time does not wait for it
            self._bound.start()

    def close(self) -> None:
        """Leaves signals to the interpreter again."""
        self._is_over = True
        if self._bound is not None:
            self._bound.cancel()
        if self._thread.is_alive():
            assert self._thread.ident is not None
            signal.pthread_kill(self._thread.ident, signal.SIGHUP)
            self._thread.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._before - SIGNALS)

    def _take(self) -> None:
        is_told = False
        while True:
            number = signal.sigwait(SIGNALS)
            if self._is_over:
                return
            if number == signal.SIGHUP:
                with suppress(RuntimeError):
                    self._reload()
            elif is_told:
                log.warning("stopped_at_once")
                logs.drain()
                os._exit(128 + number)  # what is on the disk stays there, as after a kill
            else:
                is_told = True
                self.bound_stop()
                with suppress(RuntimeError):  # the loop is closed: it has stopped already
                    self._stop()

    def _cut_short(self) -> None:
        log.error("stop_cut_short", seconds=self._seconds)
        logs.drain()
        os._exit(1)
