"""What the contract's tests have of each engine."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> str:
    """Names each engine that there is."""
    return str(request.param)
