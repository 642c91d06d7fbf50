"""Whether the files of the store are still those that were opened.

SQLite goes on with a file that has no name any more as if nothing had happened, and what it writes there is gone with
the process. So nothing is answered from the store before its files were compared with those that were opened.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    import sqlite3

log = structlog.get_logger()

TRIES = 3  # to read who owns a file into which the log is being folded
LOG, SHARED, LOCK = "-wal", "-shm", ".lock"
_NAMES = {"": "its file", LOG: "its log (-wal)", SHARED: "its index (-shm)", LOCK: "its lock"}
_INDEX, _SALTS = 48, 8  # bytes: what SQLite's index says of the log, which is there twice; what each beginning changes
_LOG_HEADER, _FRAME_HEADER = 32, 24  # bytes, as https://www.sqlite.org/walformat.html has them


class StoreLost(Exception):
    """The store that was opened is not at its path any more. Says which file is wrong, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Owner:
    """Whose store is in a file, and whether it says of itself that it is a copy."""

    epoch: bytes
    incarnation: int
    is_copy: bool


class Files:
    """The files of an open store. Any thread may ask."""

    def __init__(self, path: Path, conn: sqlite3.Connection) -> None:
        self._path = path
        self._opened = [(f"{path}{suffix}", suffix, _identity(Path(f"{path}{suffix}").stat())) for suffix in _NAMES]
        (page_size,) = conn.execute("pragma page_size").fetchone()
        (page,) = conn.execute("select rootpage from sqlite_master where name = 'meta'").fetchone()
        self._meta = (page_size, (page - 1) * page_size)  # where it is said whose store it is
        self._frame = _FRAME_HEADER + page_size
        # Kept open until all connections are closed: a process that closes a file loses all its locks on it.
        self._file, self._log, self._shared = (
            os.open(f"{path}{suffix}", os.O_RDONLY | os.O_CLOEXEC) for suffix in ("", LOG, SHARED)
        )
        self._written = _version(path.stat())
        self._size = self._written[1]  # it does not shrink
        self._owner = self._read_owner()
        self._condemned = ""
        self.trouble = ""  # what is wrong with them, as far as was seen

    def close(self) -> None:
        """Closes the files. Every connection must be closed before."""
        for each in (self._file, self._log, self._shared):
            os.close(each)

    def check(self) -> int:
        """Returns the bytes of the log; raises `StoreLost` if a file was removed, replaced, emptied or overwritten.

        It costs some ten microseconds. Files that come back are taken back, unless another gateway had them meanwhile.
        """
        size, written, trouble = 0, self._written, self._condemned
        for path, suffix, opened in self._opened:
            try:
                found = os.stat(path)  # noqa: PTH116 -- a string's is twice as fast, and there are four for each read
            except OSError as error:
                trouble = trouble or self._say(f"{_NAMES[suffix]} cannot be found ({error.strerror})")
                break
            if _identity(found) != opened:
                trouble = trouble or self._say(f"{_NAMES[suffix]} was replaced")
                break
            if suffix == LOG:
                size = found.st_size
            elif not suffix:
                written = _version(found)
        if not trouble and (what := self._spoilt(written)):
            self._condemned = trouble = self._say(what)
        if trouble != self.trouble:
            self._note(trouble)
        if trouble:
            raise StoreLost(trouble)
        return size

    def condemn(self, what: str) -> None:
        """Gives the store up for the rest of this process, and raises `StoreLost`."""
        self._condemned = self._say(what)
        self.check()

    def _spoilt(self, written: tuple[int, int]) -> str:
        """Says what was done to a file in its place, by which it is not ours any more; empty if nothing was."""
        if written[1] < self._size:
            return f"{_NAMES['']} was cut off"
        if self._log_is_cut_off():
            return f"{_NAMES[LOG]} was cut off"
        if written != self._written:
            if not any(self._is_ours(self._read_owner()) for _ in range(TRIES)):
                return f"{_NAMES['']} was overwritten by another one"
            self._written = written  # the log was folded into it
        return ""

    def _log_is_cut_off(self) -> bool:
        """Whether the log has less than SQLite's index counts, which is in memory and would be believed."""
        for _ in range(TRIES):
            index = os.pread(self._shared, 2 * _INDEX, 0)
            salts, size = os.pread(self._log, _SALTS, 16), os.fstat(self._log).st_size
            if index[:_INDEX] != index[_INDEX:] or os.pread(self._shared, 2 * _INDEX, 0) != index:
                continue  # something was committed meanwhile
            frames = int.from_bytes(index[16:20], sys.byteorder)
            return frames > 0 and (size < _LOG_HEADER + frames * self._frame or salts != index[32:40])
        return False

    def _is_ours(self, found: _Owner) -> bool:
        """Whether a file is of this store, as it was opened or later. It goes up to the next incarnation unfolded."""
        return (
            found.epoch == self._owner.epoch
            and found.incarnation >= self._owner.incarnation
            and (not found.is_copy or self._owner.is_copy)
        )

    def _read_owner(self) -> _Owner:
        """Reads whose store is in the file itself, whatever the log says.

        It reads bytes, because SQLite finds a file malformed into which a part of its log was folded.
        """
        page = os.pread(self._file, *self._meta)
        epoch, incarnation = re.search(rb"epoch([0-9a-f]{32})", page), re.search(rb"incarnation(\d+)", page)
        return _Owner(
            epoch=epoch[1] if epoch else b"",
            incarnation=int(incarnation[1]) if incarnation else 0,
            is_copy=b"copied_at" in page,
        )

    def _say(self, what: str) -> str:
        return (
            f"The store {self._path} is not the one that was opened: {what}. Nothing is answered or sent. If it was"
            " moved away, move all of it back; else stop the gateway, and put a copy in its place with"
            " `startflow restore`."
        )

    def _note(self, trouble: str) -> None:
        self.trouble = trouble
        if trouble:
            log.error("store_lost", path=str(self._path), why=trouble)
        else:
            log.warning("store_came_back", path=str(self._path))


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino if stat.S_ISREG(found.st_mode) else 0


def _version(found: os.stat_result) -> tuple[int, int]:
    return found.st_mtime_ns, found.st_size
