"""Reads the correlation keys that the lists of a backend do not show."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gateway.adapters.base import Key, KeyReader, Missing
from gateway.adapters.room import Room
from gateway.lanes.proof import LAG
from gateway.lanes.sighting import note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gateway.lanes.backend import Backend
    from gateway.sightings import Sighting, Sought
    from gateway.store import Finding

AT_ONCE = 8  # keys that are read at the same time
EXAMINED = 100_000  # external ids remembered because their keys were read and are not ours


@dataclass(frozen=True, slots=True, kw_only=True)
class _Examined:
    """One whose key was read and is not ours: when a list first showed it, when it was last read (monotonic)."""

    shown_at: float
    read_at: float
    is_hidden: bool


class Keys:
    """The keys that were read on one backend."""

    def __init__(self, store: Finding, backend: Backend) -> None:
        self._store = store
        self._backend = backend
        self._examined: dict[str, _Examined] = {}  # by external ids, in the order in which they were first read

    async def read(
        self, sightings: Sequence[Sighting], sought: tuple[Sought, ...], reread_before: float
    ) -> tuple[Sequence[Sighting], bool, dict[str, Key]]:
        """Reads the correlation keys that a list does not show, of what may be sought and is nobody's yet.

        What was read before `reread_before` is read again, unless it had been shown for as long as lists may lag.
        Returns the sightings, whether every key could be read, and those that were.
        """
        adapter = self._backend.adapter
        if not sought or not isinstance(adapter, KeyReader):
            return sightings, True, {}
        flows = {each.flow.lower() for each in sought}
        candidates = {
            each.external_id: each
            for each in sightings
            if each.flow.lower() in flows
            and each.correlation_key is None
            and self._is_to_be_read(each.external_id, reread_before)
        }
        unknown = sorted(await self._store.unknown(self._backend.name, candidates))
        keys: dict[str, Key] = {}
        complete, room = True, Room()
        for first in range(0, len(unknown), AT_ONCE):
            if self._backend.transport.circuit.wait_seconds():
                complete = False
                break  # it asked to wait, or cannot be reached
            some = unknown[first : first + AT_ONCE]
            found = await asyncio.gather(
                *(self._backend.transport.run(adapter.key(candidates[each].flow, each)) for each in some)
            )
            for external_id, key in zip(some, found, strict=True):
                if isinstance(key, Key):
                    keys[external_id] = room.keep(key)
                    continue
                complete = False
                if not isinstance(key, Missing):
                    note(self._backend, key)
        carrying = {external_id: key for external_id, key in keys.items() if key.correlation_key}
        shown = tuple(_with_key(each, carrying.get(each.external_id)) for each in sightings)
        return shown, complete, keys

    def _is_to_be_read(self, external_id: str, reread_before: float) -> bool:
        examined = self._examined.get(external_id)
        if examined is None:
            return True
        lag = LAG * self._backend.quiet_window.total_seconds()
        return examined.read_at < reread_before and examined.read_at < examined.shown_at + lag

    def remember(self, keys: Mapping[str, Key], read_at: float) -> None:
        """Remembers which keys were read and when, once what they showed is on the disk."""
        for external_id, key in keys.items():
            before = self._examined.get(external_id)
            shown_at = before.shown_at if before is not None else read_at
            self._examined[external_id] = _Examined(shown_at=shown_at, read_at=read_at, is_hidden=key.is_hidden)
        while len(self._examined) > EXAMINED:
            del self._examined[next(iter(self._examined))]

    def hides(self, sighting: Sighting) -> bool:
        """Whether the params of one that is nobody's were read, and were empty."""
        examined = self._examined.get(sighting.external_id) if sighting.correlation_key is None else None
        return examined is not None and examined.is_hidden


def _with_key(sighting: Sighting, key: Key | None) -> Sighting:
    return replace(sighting, correlation_key=key.correlation_key, params=key.params) if key else sighting
