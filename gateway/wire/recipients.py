"""Whom a request names, each once: duplicates are what the backend takes for one, however they are spelled."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from gateway.errors import Reason, Violation
from gateway.model import Notice, RecipientKind, Recipients
from gateway.tenants.loop_time import in_parts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PLACE = re.compile(r"(urns|contacts|groups)\[(\d+)\]")


class SameAs(Protocol):
    """Maps a recipient to its canonical form: two with the same form are one."""

    def __call__(self, kind: RecipientKind, recipient: str, /) -> str:
        """Returns the canonical form of a recipient."""


async def distinct(recipients: Recipients, same_as: SameAs) -> tuple[Recipients, tuple[Notice, ...]]:
    """Leaves out whoever is named again; returns the others in their order and first spelling, and a warning if any."""
    if recipients.count == 1:
        return recipients, ()
    seen: set[str] = set()

    async def first(kind: RecipientKind, named: Sequence[str]) -> tuple[str, ...]:
        kept = []
        async for each in in_parts(named):
            form = same_as(kind, each)
            if form not in seen:
                seen.add(form)
                kept.append(each)
        return tuple(kept)

    kept = Recipients(
        urns=await first(RecipientKind.URN, recipients.urns),
        contacts=await first(RecipientKind.CONTACT, recipients.contacts),
        groups=await first(RecipientKind.GROUP, recipients.groups),
    )
    removed = {
        name: str(count)
        for name in ("urns", "contacts", "groups")
        if (count := len(getattr(recipients, name)) - len(getattr(kept, name)))
    }
    return (kept, (_duplicates(removed),)) if removed else (recipients, ())


def as_named(violations: Sequence[Violation], named: Recipients, kept: Recipients) -> list[Violation]:
    """Returns violations of the recipients that were kept, with the places that these have in the request."""
    first: dict[str, dict[str, int]] = {}
    for name in ("urns", "contacts", "groups"):
        places: dict[str, int] = first.setdefault(name, {})
        for place, each in enumerate(getattr(named, name)):
            places.setdefault(each, place)

    def renumbered(found: re.Match[str]) -> str:
        name, place = found[1], int(found[2])
        return f"{name}[{first[name][getattr(kept, name)[place]]}]"

    return [
        replace(
            each,
            field=_PLACE.sub(renumbered, each.field),
            description=_PLACE.sub(renumbered, each.description),
        )
        for each in violations
    ]


def _duplicates(removed: Mapping[str, str]) -> Notice:
    counts = " and ".join(f"{count} of {name}" for name, count in removed.items())
    return Notice(
        reason=Reason.DUPLICATES_REMOVED,
        message="Some recipients are named more than once, in one spelling or in several, and are started once:"
        f" {counts} left out.",
        metadata=removed,
    )
