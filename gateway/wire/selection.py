"""Which starts a caller means: filters, page sizes, and what to watch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway.model import Filter, State
from gateway.wire.checks import (
    BACKEND_NAME,
    TEXT,
    broken,
    check_labels_size,
    check_name,
    check_request_id,
    check_text,
    read_labels,
    read_time,
)
from gateway.wire.status import invalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from startflow.v1 import start_flow_service_pb2 as pb

    from gateway.errors import Violation

ID = 64  # characters of an id; ours are shorter
IDS = 1_000
ALTERNATIVES = 100  # of one field of a filter; more than there are backends or states

STATES = {int(state): state for state in State if state is not State.SKIPPED}
"""The states a start can be in, by their numbers: only a dispatch is skipped."""

_id = re.compile(r"[0-9a-z]{1,64}").fullmatch
_lines_of_ids = re.compile(r"[0-9a-z]{1,64}(?:\n[0-9a-z]{1,64})*").fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchRequest:
    """What to watch, and from where. An `after_revision` of None begins with a snapshot. No `ids` means all."""

    ids: tuple[str, ...]
    filter: Filter
    after_revision: int | None
    epoch: str
    until_done: bool


def read_filter(message: pb.FlowStartFilter) -> Filter:
    """Reads a filter. Raises `InvalidRequest` with every bad field."""
    violations: list[Violation] = []
    read = _read_filter(message, violations)
    if violations:
        raise invalid(violations)
    return read


def read_watch(request: pb.WatchFlowStartsRequest) -> WatchRequest:
    """Reads what to watch. Raises `InvalidRequest` with every bad field."""
    violations: list[Violation] = []
    read = WatchRequest(
        ids=_read_ids(request.ids, violations),
        filter=_read_filter(request.filter, violations),
        after_revision=request.after_revision if request.HasField("after_revision") else None,
        epoch=request.epoch,
        until_done=request.until_done,
    )
    if read.after_revision is not None and read.after_revision < 0:
        violations.append(broken("after_revision", "is negative: pass on a revision as received, or leave it out."))
    check_text("epoch", read.epoch, TEXT, violations)
    if read.until_done and not request.ids:
        violations.append(broken("until_done", "needs ids: all starts are never done. Name some, or leave it out."))
    if violations:
        raise invalid(violations)
    return read


def read_id(text: str) -> str:
    """Reads the id of a start, which there may not be. Raises `InvalidRequest` if it is longer than any id."""
    if len(text) > ID:
        raise invalid(
            [broken("id", f"is longer than {ID} characters, so it is not the id of a start: pass ids on as received.")]
        )
    return text


def read_page_size(value: int, default: int, most: int) -> int:
    """Reads a page size: 0 means `default`, and what is larger means `most`. Raises `InvalidRequest` if negative."""
    if value < 0:
        raise invalid([broken("page_size", f"is negative: send 1 to {most}, or leave it out for {default}.")])
    return min(value or default, most)


def _read_filter(message: pb.FlowStartFilter, violations: list[Violation]) -> Filter:
    check_text("filter.flow", message.flow, TEXT, violations)
    check_text("filter.external_id", message.external_id, TEXT, violations)
    if message.request_id:
        check_request_id("filter.request_id", message.request_id, violations)
    read = Filter(
        backends=_read_backends(message.backends, violations),
        flow=message.flow,
        states=_read_states(message.states, violations),
        labels=read_labels("filter.labels", message.labels, violations),
        request_id=message.request_id,
        external_id=message.external_id,
        created_from=read_time("filter.create_time_from", message.create_time_from, violations)
        if message.HasField("create_time_from")
        else None,
        created_to=read_time("filter.create_time_to", message.create_time_to, violations)
        if message.HasField("create_time_to")
        else None,
    )
    check_labels_size("filter.labels", read.labels, violations)
    if read.created_from and read.created_to and read.created_from >= read.created_to:
        rule = "is not after filter.create_time_from, so nothing could match: move one of them."
        violations.append(broken("filter.create_time_to", rule))
    return read


def _read_backends(names: Sequence[str], violations: list[Violation]) -> frozenset[str]:
    if len(names) > ALTERNATIVES:
        violations.append(broken("filter.backends", f"names more than {ALTERNATIVES} backends: leave some out."))
        return frozenset()
    for index, name in enumerate(names):
        check_name(f"filter.backends[{index}]", name, BACKEND_NAME, violations)
    return frozenset(names)


def _read_states(numbers: Sequence[int], violations: list[Violation]) -> frozenset[State]:
    if len(numbers) > ALTERNATIVES:
        violations.append(broken("filter.states", f"names more than {ALTERNATIVES} states: name each once."))
        return frozenset()
    for index, number in enumerate(numbers):
        if number not in STATES:
            rule = f"is {number}, which is not a state of a start: name one from STATE_PENDING to STATE_UNCERTAIN."
            violations.append(broken(f"filter.states[{index}]", rule))
    return frozenset(STATES[number] for number in numbers if number in STATES)


def _read_ids(ids: Sequence[str], violations: list[Violation]) -> tuple[str, ...]:
    if len(ids) > IDS:
        violations.append(broken("ids", f"holds {len(ids):,} ids, and one watch takes at most {IDS:,}: open several."))
        return ()
    wanted = tuple(ids)
    lines = "\n".join(wanted)  # one match for all: 1,000 take 3 ms of everybody's time
    if wanted and not (_lines_of_ids(lines) and lines.count("\n") == len(wanted) - 1):
        rule = "is not the id of a start, which is 1 to 64 of 0-9 a-z: pass one on as received."
        violations += (broken(f"ids[{index}]", rule) for index, one in enumerate(wanted) if not _id(one))
    return tuple(dict.fromkeys(wanted))
