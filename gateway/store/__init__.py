"""The durable truth: what every store keeps.

Rules:

1. An operation that returned is on the disk. One that raised `Unavailable` recorded nothing.
2. A change and what it changes are one transaction, and revisions are in commit order.
3. Only after a commit do listeners hear of it, and they hear the newest revision and nothing else. A listener re-reads;
   one that is not told loses nothing but time.
4. One process owns a store. Each of its lives is an incarnation; claims and attempts carry its number.
"""

from __future__ import annotations

from gateway.store.protocols import Finding, Keeping, Lane, Listening, Queue, Reading, Recording, Serving, Store
from gateway.store.words import (
    NO_LIMITS,
    PROGRESS_PAUSE_SECONDS,
    Changes,
    Claims,
    HeldPosition,
    HistoryPage,
    HistoryPosition,
    Kept,
    Measures,
    Page,
    RecipientsPage,
    Recorded,
    Settlement,
    Terms,
    Undone,
)

__all__ = [
    "NO_LIMITS",
    "PROGRESS_PAUSE_SECONDS",
    "Changes",
    "Claims",
    "Finding",
    "HeldPosition",
    "HistoryPage",
    "HistoryPosition",
    "Keeping",
    "Kept",
    "Lane",
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
]
