"""Turns protobuf messages into the gateway's words and back, and checks what callers send.

Rules:

1. Pure: no clock, no I/O, no log. What depends on the time of the call is checked by the service.
2. A reader of a request collects every bad field; nothing that a caller can send makes it raise anything but
   `InvalidRequest`.
3. No sentence written here repeats what a caller sent: it may be somebody's phone number, and may end in a log.
"""

from gateway.wire.backends import write_backend, write_flow, write_health
from gateway.wire.fingerprint import differing
from gateway.wire.page_token import Position, read_page_token, write_page_token
from gateway.wire.params import read_params, write_params
from gateway.wire.parsing import parse
from gateway.wire.recipients import as_named, distinct
from gateway.wire.records import (
    add_wait,
    write_flow_start,
    write_heartbeat,
    write_history,
    write_recipient,
    write_snapshot_end,
    write_time,
    write_watch_changed,
)
from gateway.wire.resolution import read_resolution
from gateway.wire.selection import WatchRequest, read_filter, read_id, read_page_size, read_watch
from gateway.wire.start import StartRequest, read_start
from gateway.wire.status import invalid, write_status

__all__ = [
    "Position",
    "StartRequest",
    "WatchRequest",
    "add_wait",
    "as_named",
    "differing",
    "distinct",
    "invalid",
    "parse",
    "read_filter",
    "read_id",
    "read_page_size",
    "read_page_token",
    "read_params",
    "read_resolution",
    "read_start",
    "read_watch",
    "write_backend",
    "write_flow",
    "write_flow_start",
    "write_health",
    "write_heartbeat",
    "write_history",
    "write_page_token",
    "write_params",
    "write_recipient",
    "write_snapshot_end",
    "write_status",
    "write_time",
    "write_watch_changed",
]
