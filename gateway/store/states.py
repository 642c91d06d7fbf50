"""The numbers that stand for states in rows, and the names by which statements say them."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from gateway.model import State

if TYPE_CHECKING:
    from collections.abc import Mapping

HELD = 0
"""In `claimed_by`, where else the number of a life is: it must not be sent, being another account's or unreadable."""


class Ending(IntEnum):
    """Whether the backend is to end what runs. The numbers are stored; they never change."""

    NOT_ENDING = 0
    TO_END = 1  # its start was cancelled
    ASKED = 2  # it was asked to
    REPLACING = 3  # it was asked to for another dispatch of the recipient


NAMES: Mapping[str, int] = {each.name: int(each) for enum in (State, Ending) for each in enum} | {"HELD": HELD}
"""What a word of capitals in a statement stands for."""
