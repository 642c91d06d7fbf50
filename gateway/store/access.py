"""What keeps a user from a store: who owns which file, a disk that is full, a mount that is read-only.

Rules:

1. What is said here is about the way to the file. It says nothing about what is in it, and never leads to a restore.
2. SQLite names no file and no reason (`unable to open database file`), so they are looked for after it has failed.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import sqlite3
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BESIDE = ("-wal", "-shm", ".lock")  # the files that a store has beside its own
ROOM = 2 * 2**20  # bytes: a new store and the log beside it take about half
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_DENIED_SQLITE = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM})
_FULL_SQLITE = sqlite3.SQLITE_FULL
_BROKEN_SQLITE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
_ADVICE = {
    "SQLITE_FULL": "The disk is full: make room there",
    "SQLITE_IOERR": "Its disk fails, or a quota is used up: look at what the system's log says",
    "SQLITE_READONLY": "It may not be written: look at its owner, and whether its file system is mounted read-only",
    "SQLITE_BUSY": "Another program keeps it locked: end that program",
    # SQLite calls a read that fails with EIO or ENXIO the same (`SQLITE_IOERR_CORRUPTFS` in os_unix.c and vdbe.c).
    "SQLITE_CORRUPT": "Its disk fails, or its file is damaged: look at what the system's log says about the disk; if"
    " that is well, `startflow store check` says more",
}
_LOOK = "Look at its disk"
_PRIMARY = 0xFF  # of an extended code: https://www.sqlite.org/rescode.html


def is_broken(error: sqlite3.Error) -> bool:
    """Returns whether it is what is in the file that is wrong, and not the way to it."""
    return _code(error) in _BROKEN_SQLITE


def why(path: Path, error: OSError | sqlite3.Error) -> str:
    """Returns why a store, or a copy of one, cannot be used, and what to do if that is known; sentences."""
    if isinstance(error, OSError):
        is_denied, is_full = error.errno in _DENIED, error.errno in {errno.ENOSPC, errno.EDQUOT}
    else:
        is_denied, is_full = _code(error) in _DENIED_SQLITE, _code(error) == _FULL_SQLITE
    said = f"{(isinstance(error, OSError) and error.strerror) or error}."
    if is_full:
        return f"{said} Make room on the disk of {path.absolute().parent}."
    return (is_denied and refused(path)) or said


def advice(name: str) -> str:
    """Returns what to do about an error of an open store, by SQLite's name of it."""
    return next((said for start, said in _ADVICE.items() if name.startswith(start)), _LOOK)


def refused(path: Path) -> str:
    """Returns what keeps this user from serving a store at a path, and what to do; empty if nothing does."""
    path = path.absolute()
    for place, wanted in _needed(path):
        if os.access(place, wanted, effective_ids=os.access in os.supports_effective_ids):
            continue
        if wanted & os.W_OK and os.statvfs(place).f_flag & os.ST_RDONLY:
            return f"{place} is on a file system that is mounted read-only. Mount it writable, or name another place."
        return _whose(place, place.stat(), is_near=path.parent in {place, place.parent})
    return ""


def not_a_file(path: Path) -> str:
    """Returns what stands at the path of a store and is no file, and what to do; empty if nothing does."""
    if not path.exists() or path.is_file():
        return ""
    if path.is_dir():
        return f"{path} is a directory. Name a file in it, such as {path / 'startflow.db'}."
    return f"{path} is not a file that can be a store. Name another path."


def is_refused(path: Path) -> bool:
    """Returns whether something keeps this user from serving a store at a path."""
    return bool(refused(path))


def is_full(path: Path) -> bool:
    """Returns whether the disk has no room for a store at a path."""
    return _free(path) < ROOM


def no_room(path: Path) -> str:
    """Returns how much room there is for a store at a path, how much it needs, and what to do."""
    existing = nearest(path)
    if os.statvfs(existing).f_blocks == 0:
        return f"the file system of {existing} has no room for files. Name a directory on a disk"
    return (
        f"the disk of {existing} has {_free(path) / 2**20:.1f} MiB free, and a store needs {ROOM / 2**20:.0f} MiB to"
        " begin with. Make room there, or change `store`"
    )


def _free(path: Path) -> int:
    disk = os.statvfs(nearest(path))
    return (disk.f_bfree if os.geteuid() == 0 else disk.f_bavail) * disk.f_frsize


def nearest(path: Path) -> Path:
    """Returns the path, or the lowest directory above it that is there. Raises `OSError` if that may not be seen."""
    for place in (path, *path.parents):
        try:
            place.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        return place
    return path


def is_file(path: Path) -> bool:
    """Returns whether there is a file. Raises `OSError` if that may not be seen, unlike later versions of pathlib."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def may_exist(path: Path) -> bool:
    """Returns whether there is a file, as far as this user may see that."""
    try:
        return is_file(path)
    except OSError:
        return True


def give(place: Path, like: os.stat_result) -> None:
    """Gives a file that root has made to the owner of another one; other users' files stay theirs.

    Raises `PermissionError` if it would be of another owner, and this user may not change that.
    """
    found = place.stat()
    if found.st_uid != like.st_uid:
        os.chown(place, like.st_uid, like.st_gid, follow_symlinks=False)
    elif os.geteuid() == 0 and found.st_gid != like.st_gid:
        os.chown(place, -1, like.st_gid, follow_symlinks=False)


def owner(path: Path) -> os.stat_result:
    """Returns whose a store at a path is: of the file, or of the directory as long as there is none."""
    return nearest(path.absolute()).stat()


def _needed(path: Path) -> Iterator[tuple[Path, int]]:
    """Lists what has to be entered, read and written to serve a store, from the root downwards."""
    lowest = None
    for place in reversed(path.parents):
        if not place.is_dir():
            break
        lowest = place
        yield place, os.X_OK
    if lowest is None:
        return
    for place in (path, *(path.with_name(path.name + suffix) for suffix in BESIDE)):
        if place.exists():
            yield place, os.R_OK | os.W_OK
    yield lowest, os.W_OK | os.X_OK


def _whose(place: Path, found: os.stat_result, *, is_near: bool) -> str:
    owner, me = name_of(found.st_uid), name_of(os.geteuid())
    said = f"{place} belongs to {owner}:{_group(found.st_gid)} (mode {stat.S_IMODE(found.st_mode):04o}), and this"
    said = f"{said} runs as {me}."
    if found.st_uid == os.geteuid():
        return f"{said} Allow it: `chmod u+rwX {place}`."
    if not is_near:
        return f"{said} Run it as a user who may enter that directory, such as the gateway's."
    if found.st_uid == 0:
        return f"{said} If {me} is the gateway's user, `chown {me}: {place}`; else run this as that user."
    return f"{said} Run this as {owner}, or give it to {me}: `chown {me}: {place}`."


def name_of(number: int) -> str:
    """Returns a user's name, or the number of one without a name."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & _PRIMARY
