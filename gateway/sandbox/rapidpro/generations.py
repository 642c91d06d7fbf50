"""The two generations of RapidPro that are in use, and all that differs between them.

`new` is TextIt and nyaruka's RapidPro from v10 on; `old` is the community's v7 to v9.0.
Wherever they differ, the difference is a field here; what is not here they have in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gateway.sandbox.rapidpro.catalogue import Flow
    from gateway.sandbox.settings import Generation

QUEUED, STARTED = 0.1, 0.3  # shares of the duration

Script: TypeAlias = tuple[tuple[float, str | None], ...]
"""How a start moves: (share of its duration, status)."""

# What `params.sandbox` can ask for.
NEW_SCRIPTS: dict[str, Script] = {
    "complete": ((QUEUED, "queued"), (STARTED, "started"), (1.0, "completed")),
    "partial": ((QUEUED, "queued"), (STARTED, "started"), (1.0, "completed")),  # one contact is skipped
    "blocked": ((QUEUED, "queued"), (STARTED, "started"), (1.0, "completed")),  # all enter; their messages fail
    "nobody": ((QUEUED, "queued"), (1.0, "completed")),  # nobody matched
    "quick": ((QUEUED, "completed"),),  # a small start, through before it was read: never seen as queued
    "fail": ((0.2, "failed"),),
    "interrupt": ((QUEUED, "queued"), (STARTED, "started"), (0.7, "interrupted")),
    "stick": ((QUEUED, "queued"), (STARTED, "started")),
    "stick_pending": (),
    "null": ((QUEUED, "queued"), (STARTED, None)),
}
OLD_SCRIPTS: dict[str, Script] = NEW_SCRIPTS | {
    "complete": ((QUEUED, "starting"), (1.0, "complete")),
    "partial": ((QUEUED, "starting"), (1.0, "complete")),
    "blocked": ((QUEUED, "starting"), (1.0, "complete")),
    "nobody": ((QUEUED, "complete"),),  # by way of `starting`, at once
    "quick": ((QUEUED, "complete"),),
    "interrupt": ((QUEUED, "starting"), (1.0, "complete")),  # nobody could interrupt a start yet
    "stick": ((QUEUED, "starting"),),
    "null": ((QUEUED, None),),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """The ways of one generation."""

    scripts: Mapping[str, Script]
    words: tuple[str, str]  # for what runs, for what is complete
    keys: tuple[str, ...]  # of a start, in their order
    header: tuple[str, str]  # names the workspace in every answer to somebody who is known
    rate: int  # requests an hour
    bad_uuid: str
    which_uuid: int  # of a repeated `?uuid=`
    bad_uuid_breaks_post: bool  # a 500, where the other answers 400
    reads_id: bool  # whether `?id=` is a filter
    posts_without_json: bool  # whether a POST without `.json` creates
    merges_duplicates: bool  # or answers 500
    keeps_params: bool  # as they are; or cuts them down as it does `extra`, and shows them in the caller's order first
    params_size: int | None  # characters
    workspace: Mapping[str, object]  # what it says of itself beyond what both say
    settles: timedelta  # from `created_on` to the first `modified_on`

    @property
    def ends(self) -> tuple[str, ...]:
        """The statuses in which a start stays."""
        return self.words[1], "failed", "interrupted"

    def script_of(self, flow: Flow, params: Mapping[str, object]) -> str:
        """Reads what was asked for with `params.sandbox`; an archived flow always fails, without a reason."""
        if flow.archived:
            return "fail"
        asked = params.get("sandbox")
        return asked if isinstance(asked, str) and asked in self.scripts else "complete"


COMMON_KEYS = ("params", "created_on", "modified_on")
FLAGS = ("extra", "restart_participants", "exclude_active")
GENERATIONS: dict[Generation, Ways] = {
    "new": Ways(
        scripts=NEW_SCRIPTS,
        words=("started", "completed"),
        keys=("uuid", "flow", "status", "progress", "groups", "contacts", *COMMON_KEYS, "id", *FLAGS),
        header=("X-Temba-Workspace", "fa8adbbd-eac7-4cf3-99b6-0cf259bb2c86"),
        rate=3600,
        bad_uuid="Param 'uuid': {} is not a valid UUID.",
        which_uuid=0,
        bad_uuid_breaks_post=False,
        reads_id=False,
        posts_without_json=False,
        merges_duplicates=False,
        keeps_params=True,
        params_size=10_000,
        workspace={},
        settles=timedelta(),
    ),
    "old": Ways(
        scripts=OLD_SCRIPTS,
        words=("starting", "complete"),
        keys=("id", "uuid", "flow", "status", "groups", "contacts", *COMMON_KEYS, *FLAGS),
        header=("X-Temba-Org", "1"),
        rate=2500,
        bad_uuid="Value for uuid must be a valid UUID",
        which_uuid=-1,
        bad_uuid_breaks_post=True,
        reads_id=True,
        posts_without_json=True,
        merges_duplicates=True,
        keeps_params=False,
        params_size=None,
        workspace={"credits": {"used": -1, "remaining": -1}, "primary_language": "eng"},
        settles=timedelta(microseconds=7),
    ),
}
