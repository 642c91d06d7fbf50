"""How many files this process may have open, and who gets them.

Rules:

1. Callers never take the files of the store and of the backends, however many of them come.
2. Where there are few, callers get fewer, and the log says so; where there are too few to serve, nothing is served.
"""

from __future__ import annotations

import resource
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import structlog

from gateway.doors.http import port as http_port

if TYPE_CHECKING:
    from collections.abc import Iterable

log = structlog.get_logger()

OWN = 64  # of the store, of gRPC, of the loop, and files that are read for a moment
UNUSED = 2  # connections to a backend beside those in flight, see `lanes.make_backend`
SANDBOX = 80  # both ends of what it is asked, and where it listens
LEAST = 8  # connections of callers, to each port
MOST = 2**20  # where there is no limit


class TooFewFiles(Exception):
    """The gateway cannot serve with so few open files. Says what to do."""


class Shares(NamedTuple):
    """Connections that callers may have."""

    http: int
    grpc: int


def allow() -> int:
    """Allows this process as many open files as it may have, and returns how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # some systems refuse no limit at all
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return MOST if soft == resource.RLIM_INFINITY else min(soft, MOST)


def share(limit: int, in_flight: Iterable[int], *, sandbox: bool = False) -> Shares:
    """Returns the connections that callers may have, of `limit` open files and with these `in_flight` of the backends.

    Raises `TooFewFiles` if there are too few files to serve.
    """
    backends = sum(2 * (each + UNUSED) for each in in_flight)  # those that are used once, and the others
    own = OWN + backends + SANDBOX * sandbox + http_port.BURST
    left = limit - own
    http = min(http_port.MOST, left // 3)
    shares = Shares(http=http, grpc=min(limit // 2, left - http))
    least = own + 3 * LEAST
    if limit < least:
        msg = (
            f"This process may have {limit} open files, and needs {least}: {own} for the store and the backends, the"
            " others for callers. Raise the limit (LimitNOFILE in systemd, ulimit -n), or lower in_flight of backends."
        )
        raise TooFewFiles(msg)
    if http < http_port.MOST:
        log.warning("few_files", limit=limit, connections_of_grpc=shares.grpc, connections_of_http=shares.http)
    return shares
