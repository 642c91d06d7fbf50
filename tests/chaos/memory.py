"""How much memory a process holds."""

from __future__ import annotations

import resource
from pathlib import Path


def resident(pid: int | str = "self") -> int:
    """Returns the bytes of a process that are in memory, by `/proc`."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
