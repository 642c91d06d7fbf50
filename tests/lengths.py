"""How much of a proof is tried: all of it, unless `QUICK` is set, as `make test` does."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Collection

QUICK = bool(os.environ.get("QUICK"))


def size(whole: int, *, quick: int) -> int:
    """Returns how many examples, requests or kills a proof is to have."""
    return quick if QUICK else whole


def some(every: Collection[object], *quick: object) -> list[object]:
    """Returns the values of a parameter: those that are not among `quick` are tried by `make check-all` alone."""
    left = set(quick) - set(every)
    assert not left, f"{left} is not among them"
    return [each if each in quick else pytest.param(each, marks=pytest.mark.longer) for each in every]
