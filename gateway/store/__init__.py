"""The durable truth: what every store keeps.

Rules:

1. An operation that returned is on the disk. One that raised `Unavailable` recorded nothing.
2. A change and what it changes are one transaction, and revisions are in commit order.
3. Only after a commit do listeners hear of it, and they hear the newest revision and nothing else. A listener re-reads;
   one that is not told loses nothing but time.
4. Each life of a gateway is an incarnation; claims and attempts carry its number. One life at a time works the lane of
   a backend: see `leases.py`.
"""

from __future__ import annotations

from gateway.store.protocols import (
    Finding,
    Keeping,
    Lane,
    Leasing,
    Listening,
    Queue,
    Reading,
    Recording,
    Serving,
    Store,
    Working,
)
from gateway.store.words import (
    LANE,
    NO_LIMITS,
    PROGRESS_PAUSE_SECONDS,
    UPKEEP,
    Changes,
    Claims,
    Held,
    HeldPosition,
    HistoryPage,
    HistoryPosition,
    Kept,
    Life,
    Measures,
    Page,
    RecipientsPage,
    Recorded,
    Settlement,
    Terms,
    Undone,
)

__all__ = [
    "LANE",
    "NO_LIMITS",
    "PROGRESS_PAUSE_SECONDS",
    "UPKEEP",
    "Changes",
    "Claims",
    "Finding",
    "Held",
    "HeldPosition",
    "HistoryPage",
    "HistoryPosition",
    "Keeping",
    "Kept",
    "Lane",
    "Leasing",
    "Life",
    "Listening",
    "Measures",
    "Page",
    "Queue",
    "Reading",
    "RecipientsPage",
    "Recorded",
    "Recording",
    "Serving",
    "Settlement",
    "Store",
    "Terms",
    "Undone",
    "Working",
]
