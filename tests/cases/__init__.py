"""What a table of cases holds, and the rows that every adapter's table must have. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from gateway.adapters.base import Account, Failed, Flows, Missing, Outcome, Reply, Request, Sweep, Trouble
    from gateway.errors import Reason
    from gateway.model import Asked, Dispatch, Recipients, Sighting, Window

    Answer: TypeAlias = Reply | Failed
    SendRow: TypeAlias = tuple[str, Answer, Outcome]
    LookRow: TypeAlias = tuple[str, Answer, Sighting | Missing | Trouble]
    SweepRow: TypeAlias = tuple[str, datetime | None, Sequence[Window], Sequence[str], Sequence[Answer], Sweep]
    RequestRow: TypeAlias = tuple[str, Dispatch, Request]
    FlowsRow: TypeAlias = tuple[str, str, Sequence[str], Sequence[Answer], Flows]
    ObjectionRow: TypeAlias = tuple[str, Asked, Recipients, Sequence[tuple[str, Reason]]]
    PlanRow: TypeAlias = tuple[str, Recipients, Sequence[Recipients]]
    MisconfiguredRow: TypeAlias = tuple[str, Account, str]


@dataclass(frozen=True, kw_only=True)
class Table:
    """The cases of one adapter. Notices are compared without their messages, which are empty here.

    `send` and `look` rows are about `dispatch`; a `sweep` row has the queries it must ask and their answers in turn,
    and so has a `flows` row, which begins with the flow that is asked for.
    """

    account: Account
    secrets: Sequence[str]
    flow: str
    asked: Asked
    dispatch: Dispatch
    requests: Sequence[RequestRow]
    send: Sequence[SendRow]
    look: Sequence[LookRow]
    sweep: Sequence[SweepRow]
    flows: Sequence[FlowsRow]
    objections: Sequence[ObjectionRow]
    plan: Sequence[PlanRow]
    misconfigured: Sequence[MisconfiguredRow]


TROUBLE = frozenset({
    "bad credentials", "suspended", "throttled", "throttled without a time", "server error", "gateway error",
    "timed out", "not sent", "sent, no answer", "redirected", "html 404", "not json", "no id",
})  # fmt: skip

REQUIRED = {
    "requests": frozenset({"the example of its documentation", "every field"}),
    "send": TROUBLE | {
        "accepted", "accepted, unknown status", "another flow", "bad request", "unknown flow", "bad address",
        "request timeout", "too large", "method not allowed", "unsupported media type", "other 4xx",
    },
    "look": TROUBLE | {"still running", "ended", "found, unknown status", "found", "not found", "another one"},
    "sweep": frozenset({
        "nothing to scan", "nothing moved", "found", "two pages", "a row twice", "trouble on the second page",
        "endless pages", "next is no url", "next is elsewhere", "not json", "a row without an id", "throttled",
    }),
    "flows": frozenset({
        "all", "two pages", "one", "unknown", "not to be started", "not json", "a row without an id",
        "trouble on the second page", "bad credentials", "another one",
    }),
    "objections": frozenset({
        "none", "everything wrong", "not a flow of its", "largest params", "too large params", "bad addresses",
    }),
    "plan": frozenset({"one recipient", "many URNs"}),
    "misconfigured": frozenset({"no credentials", "a space inside"}),
}  # fmt: skip
"""The labels of the rows that each part of a table must have."""
