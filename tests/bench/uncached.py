"""The gateway without its cache of recent changes: `python -m tests.bench.uncached serve --config …`.

Whoever goes on from an earlier revision is served from the store, however near that is.
"""

from __future__ import annotations

from functools import partial

from gateway.__main__ import main
from gateway.server import building as server
from gateway.watch.stream import Watch

if __name__ == "__main__":
    vars(server).update(Watch=partial(Watch, cached=1))
    main()
