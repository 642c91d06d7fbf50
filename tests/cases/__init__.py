"""What a table of cases holds, and the rows that every adapter's table must have. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from gateway.adapters.base import (
        Account,
        Distrusted,
        Failed,
        Flows,
        Heard,
        Key,
        Missing,
        Outcome,
        Push,
        Reply,
        Request,
        Sweep,
        Trouble,
        Unsure,
    )
    from gateway.errors import Reason
    from gateway.model import Asked, Dispatch, Identity, Recipients
    from gateway.sightings import Sighting, Window

    Answer: TypeAlias = Reply | Failed
    SendRow: TypeAlias = tuple[str, Answer, Outcome]
    LookRow: TypeAlias = tuple[str, Answer, Sighting | Missing | Trouble]
    IdentifyRow: TypeAlias = tuple[str, Account, Answer, Identity | Trouble]
    KeyRow: TypeAlias = tuple[str, Answer, Key | Missing | Trouble]
    CancelRow: TypeAlias = tuple[str, Sequence[Answer], Sighting | Missing | Trouble]
    HearRow: TypeAlias = tuple[str, Account, Push, tuple[Heard, ...] | Distrusted | Unsure]
    SweepRow: TypeAlias = tuple[str, datetime | None, Sequence[Window], Sequence[str], Sequence[Answer], Sweep]
    RequestRow: TypeAlias = tuple[str, Dispatch, Request]
    QuestionRow: TypeAlias = tuple[str, Request]
    FlowsRow: TypeAlias = tuple[str, str, Sequence[str], Sequence[Answer], Flows]
    ObjectionRow: TypeAlias = tuple[str, Asked, Recipients, Sequence[tuple[str, Reason]]]
    SameRow: TypeAlias = tuple[str, str, Recipients, Recipients]
    PlanRow: TypeAlias = tuple[str, Recipients, Sequence[Recipients]]
    MisconfiguredRow: TypeAlias = tuple[str, Account, str]


@dataclass(frozen=True, kw_only=True)
class Table:
    """The cases of one adapter. Notices are compared without their messages, which are empty here.

    `send`, `look`, `key` and `cancel` rows are about `dispatch`; a `sweep` row has the queries it must ask and their
    answers in turn, and so has a `flows` row, which begins with the flow that is asked for. `questions` are the first
    requests of the verbs that create nothing, `requests` those of `send`. A `same` row has the account's country, who
    is named, and who is left when each is named once. A `hear` row of a push that is distrusted has
    words of the reason. What a backend cannot do has no rows.
    """

    account: Account
    secrets: Sequence[str]
    flow: str
    asked: Asked
    dispatch: Dispatch
    requests: Sequence[RequestRow]
    questions: Sequence[QuestionRow]
    send: Sequence[SendRow]
    look: Sequence[LookRow]
    sweep: Sequence[SweepRow]
    identify: Sequence[IdentifyRow]
    flows: Sequence[FlowsRow] = ()
    key: Sequence[KeyRow] = ()
    cancel: Sequence[CancelRow] = ()
    hear: Sequence[HearRow] = ()
    objections: Sequence[ObjectionRow]
    same: Sequence[SameRow]
    plan: Sequence[PlanRow]
    misconfigured: Sequence[MisconfiguredRow]


TROUBLE = frozenset({
    "bad credentials", "suspended", "throttled", "throttled without a time", "server error", "gateway error",
    "timed out", "not sent", "sent, no answer", "redirected", "html 404", "html 429", "not json", "no id",
})  # fmt: skip

REQUIRED = {
    "requests": frozenset({"the example of its documentation", "every field"}),
    "questions": frozenset({"look", "sweep", "identify"}),
    "send": TROUBLE | {
        "accepted", "accepted, unknown status", "another flow", "truncated", "no content", "request timeout",
        "unavailable", "host not found", "no tls", "not permitted", "method not allowed", "unsupported media type",
        "html 400", "bad request", "own 404", "unknown flow", "bad address", "too large", "other 4xx",
    },
    "look": TROUBLE | {"still running", "ended", "found, unknown status", "found", "not found", "another one"},
    "sweep": frozenset({
        "nothing to scan", "nothing moved", "found", "two pages", "a row twice", "trouble on the second page",
        "endless pages", "next is no url", "next is elsewhere", "next is not there", "not json", "a row without an id",
        "throttled",
    }),
    "identify": TROUBLE | {"found", "another one", "bad request", "request timeout"},
    "objections": frozenset({
        "none", "everything wrong", "not a flow of its", "largest params", "too large params", "bad addresses",
    }),
    "same": frozenset({"one", "nobody twice", "one address in several spellings", "two that look alike"}),
    "plan": frozenset({"one recipient", "many URNs"}),
    "misconfigured": frozenset({"no credentials", "a space inside"}),
}  # fmt: skip
"""The labels of the rows that each part of a table must have."""

REQUIRED_OF_VERB = {
    "flows": frozenset({
        "all", "two pages", "one", "unknown", "not to be started", "not json", "a row without an id",
        "trouble on the second page", "bad credentials", "another one",
    }),
    "key": TROUBLE | {
        "found", "found where it was triggered", "somebody else's", "empty", "not found", "another one", "bad request",
    },
    "cancel": TROUBLE | {
        "ended", "ended already", "ended already, and gone", "still running", "not found", "another one",
        "found, unknown status",
    },
    "hear": frozenset({
        "not read yet", "ended", "unknown status", "several", "nothing in it", "somebody else's", "odd", "not json",
        "not signed", "signed by another", "another url", "another body", "no way to tell",
    }),
}  # fmt: skip
"""The same, of the verbs that not every adapter has."""

REQUIRED_OF_KIND = {
    "rapidpro": {
        "send": frozenset({
            "flagged", "another key", "no key", "several", "unknown contact", "unknown group", "params too long",
            "params altered by v9",
        }),
        "same": frozenset({
            "a number without its country code", "no country", "a contact by its URN", "groups", "other schemes",
        }),
        "objections": frozenset({"the same number perhaps", "contacts of two kinds"}),
    },
    "twilio": {
        "send": frozenset({
            "busy", "busy, says with which", "busy, says only the status", "another account", "another address",
        }),
        "sweep": frozenset({"two flows", "a row without a flow", "a flow is gone"}),
    },
}  # fmt: skip
"""The same, of what only one kind of backend says."""
