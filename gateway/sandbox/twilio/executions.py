"""The executions of the sandbox's Twilio account. What one is at a given time follows from when it was made."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from gateway.sandbox.settings import BusyScope

SCOPES: dict[str, tuple[str, ...]] = {
    "flow_to_from": ("flow", "to", "sender"),
    "to_from": ("to", "sender"),
    "flow_to": ("flow", "to"),
    "to": ("to",),
}
UNFORCED = object()


@dataclass(slots=True, kw_only=True)
class Execution:
    """One execution. `ends_at` is None while it is held, or stuck by `Parameters.sandbox`."""

    sid: str
    request_id: str
    flow: str
    to: str
    sender: str
    parameters: Any
    created_at: datetime
    ends_at: datetime | None
    forced: object = UNFORCED  # a status put there through the control port, null and unknown ones included
    deleted: bool = False

    def ended(self, now: datetime) -> bool:
        """Says whether it is over."""
        return self.deleted or (self.ends_at is not None and self.ends_at <= now)

    def status(self, now: datetime) -> object:
        """The status as Studio says it."""
        if self.forced is not UNFORCED:
            return self.forced
        return "ended" if self.ended(now) else "active"

    def steers(self, word: str) -> bool:
        """Says whether `Parameters.sandbox` asks for something."""
        return isinstance(self.parameters, dict) and self.parameters.get("sandbox") == word


class Executions:
    """All executions, in order of creation for each flow."""

    def __init__(self, scope: BusyScope, duration: timedelta) -> None:
        self._scope = SCOPES.get(scope)
        self._duration = duration
        self._by_sid: dict[str, Execution] = {}
        self._by_flow: dict[str, list[Execution]] = {}
        self._latest: dict[tuple[str, ...], Execution] = {}

    def add(self, execution: Execution) -> None:
        """Takes in a new execution."""
        self._by_sid[execution.sid] = execution
        self._by_flow.setdefault(execution.flow, []).append(execution)
        if self._scope is not None:
            self._latest[self._key(execution)] = execution

    def get(self, sid: str) -> Execution:
        """Finds an execution. Raises KeyError, also for one that was deleted."""
        execution = self._by_sid[sid]
        if execution.deleted:
            raise KeyError(sid)
        return execution

    def busy_with(self, new: Execution, now: datetime) -> Execution | None:
        """Finds the active execution that keeps `new` from starting: there is one at a time for a contact."""
        other = None if self._scope is None else self._latest.get(self._key(new))
        return other if other is not None and not other.ended(now) else None

    def of_flow(self, flow: str, low: datetime | None, high: datetime | None) -> tuple[list[Execution], int, int]:
        """Gives a flow's executions, oldest first, and where those made from `low` to before `high` stand.

        What was deleted is not among them.
        """
        executions = self._by_flow.get(flow, [])
        first = 0 if low is None else bisect_left(executions, low, key=_whole_second)
        last = len(executions) if high is None else bisect_left(executions, high, key=_whole_second)
        return executions, first, last

    def apply(self, execution: Execution, change: dict[str, Any], at: datetime) -> None:
        """Changes an execution: `deleted`, `status`, or `hold`, which keeps it active until it is let go."""
        if change.get("deleted") and not execution.deleted:
            execution.deleted = True
            self._by_flow[execution.flow].remove(execution)
        if change.get("hold") is True and not execution.ended(at):
            execution.ends_at = None
        if change.get("hold") is False and execution.ends_at is None:
            execution.ends_at = at + self._duration
        if "status" not in change:
            return
        if change["status"] == "ended" and not execution.ended(at):
            execution.ends_at = at
        execution.forced = UNFORCED if change["status"] == "ended" else change["status"]

    def counts(self, now: datetime) -> dict[str, int]:
        """Counts the executions by status; deleted ones apart."""
        counts: dict[str, int] = {}
        for execution in self._by_sid.values():
            status = "deleted" if execution.deleted else str(execution.status(now))
            counts[status] = counts.get(status, 0) + 1
        return counts

    def _key(self, execution: Execution) -> tuple[str, ...]:
        return tuple(getattr(execution, name) for name in self._scope or ())


def _whole_second(execution: Execution) -> datetime:
    """What a date filter compares: Studio's dates have no fraction."""
    return execution.created_at.replace(microsecond=0)
