"""The gateway with a clock that is wrong: `python -m tests.chaos.skewed SECONDS serve --config …`."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta

from gateway.__main__ import main
from gateway.server import building as server

if __name__ == "__main__":
    skew = timedelta(seconds=float(sys.argv.pop(1)))
    server.utc_now = lambda: datetime.now(UTC) + skew
    main()
