"""The gateway, its threads named where the system shows it: `python -m tests.bench.calls_server serve --config …`.

Nothing else differs from `python -m gateway`. Python before 3.14 keeps the names of its threads to itself.
"""

from __future__ import annotations

import threading
from pathlib import Path

from gateway.__main__ import main

run = threading.Thread.run


def name_and_run(thread: threading.Thread) -> None:
    """Names the thread, and runs it."""
    Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(thread.name)
    run(thread)


if __name__ == "__main__":
    threading.Thread.run = name_and_run  # type: ignore[method-assign]
    main()
