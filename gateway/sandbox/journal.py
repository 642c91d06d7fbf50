"""What really happened, in order: the record that everything else is judged by.

1. Every request is recorded when it has arrived, before anything looks at it.
2. Every creation is recorded at the moment it is committed, whatever answer the caller gets.
3. Every answer is recorded when it is decided; `status` is null when there was none.
4. Entries are numbered 1, 2, 3 … without gaps, and are never changed or removed.

Every entry has `n`, `at` (UTC), `kind` and `backend`, and by its kind:

| kind      | fields                                                                                          |
|-----------|-------------------------------------------------------------------------------------------------|
| `request` | `method` `path` `query` `headers`, and `body` as it came: null if it never arrived whole        |
| `created` | `request` (the entry's number), `external_id`, `flow`, `params`, `created_at`; RapidPro `urns`  |
|           | `contacts` `groups` …; Twilio `to` `from` …; `people`: whom it reaches, in one spelling each;    |
|           | RapidPro `undelivered`: those of them whose messages fail                                      |
| `ended`   | `request`, `external_id`, `change`: a caller of the API ended or deleted it                     |
| `forced`  | `external_id`, `change`: it was changed through the control port                                |
| `touched` | `external_ids`, `modified_at`: rows that were given one `modified_on` through the control port   |
| `event`   | `external_id`, `event` (its id), `type`, `status` of the answer: one post of Event Streams      |
| `answer`  | `request`, `status`; `fault`, the rule that had a hand in it; `how`, when nothing was answered  |
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# What rebuilds a backend's state: made, ended by a caller of the API, or forced through the control port.
STATE_KINDS = frozenset({"created", "ended", "forced", "touched"})


KEPT = 5_000  # entries that stay in memory where there is a file, and up to twice as many


class Journal:
    """An append-only list of entries: in memory or, with a path, as JSON lines in a file and the newest in memory.

    An existing file is read first and continued. A torn last line (a crash while writing) is cut off.
    """

    def __init__(self, path: Path | None, *, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._entries: list[dict[str, Any]] = []
        self._before = 0  # entries that are in the file only
        self._path = path
        self._file: BinaryIO | None = None
        if path is not None:
            self._entries = _read(path)
            self._forget()
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)  # it holds phone numbers
            self._file = os.fdopen(descriptor, "ab", buffering=0)  # unbuffered: each entry reaches the OS at once

    @property
    def head(self) -> int:
        """The number of the newest entry; 0 when there is none."""
        return self._before + len(self._entries)

    @property
    def newest_at(self) -> datetime | None:
        """When the newest entry was recorded; None when there is none."""
        return datetime.fromisoformat(self._entries[-1]["at"]) if self._entries else None

    def append(self, kind: str, backend: str, **fields: object) -> int:
        """Records an entry and returns its number."""
        entry = {
            "n": self.head + 1,
            "at": moment(self._clock()),
            "kind": kind,
            "backend": backend,
            **fields,
        }
        self._entries.append(entry)
        if self._file is not None:
            self._file.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")
            if len(self._entries) > 2 * KEPT:
                self._forget()
        return self.head

    def entries(
        self,
        *,
        after: int = 0,
        kind: str | None = None,
        backend: str | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yields the entries numbered above `after`, oldest first, of one kind and backend if given."""
        for entry in self._after(max(after, 0)):
            if kind in (None, entry["kind"]) and backend in (None, entry["backend"]):
                yield entry

    def _after(self, number: int) -> Iterator[dict[str, Any]]:
        """Yields the entries behind a number, up to the newest, from the file and from memory."""
        if self._path is not None and number < self._before:
            with self._path.open("rb") as file:
                yield from map(json.loads, islice(file, number, self.head))
        else:
            yield from self._entries[number - self._before :]

    def _forget(self) -> None:
        """Leaves all but the newest entries to the file."""
        gone = max(len(self._entries) - KEPT, 0)
        del self._entries[:gone]
        self._before += gone

    def close(self) -> None:
        """Closes the file; the entries stay readable."""
        if self._file is not None:
            self._file.close()
            self._file = None


def moment(at: datetime) -> str:
    """Writes an aware UTC time as the journal does, with microseconds and `Z`."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _read(path: Path) -> list[dict[str, Any]]:
    """Reads the whole lines of a journal file, and cuts off a torn last one."""
    data = path.read_bytes() if path.exists() else b""
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    entries = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            entry = json.loads(line)
            numbered = entry["n"] == number
        except (ValueError, KeyError, TypeError):
            numbered = False
        if not numbered:
            raise ValueError(f"{path} is not a sandbox journal: line {number} is not its entry {number}.")
        entries.append(entry)
    return entries
