"""Attacks a gateway until it is killed: `python -m tests.hostile.attacker NAME PART GRPC HTTP`.

For each line on stdin it writes what the gateway has answered so far, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys

from tests.hostile.caller import Aim
from tests.hostile.plan import ATTACKS


async def attack(name: str, part: int, aim: Aim) -> None:
    """Attacks, and says how far it is whenever it is asked."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    attacking = asyncio.ensure_future(ATTACKS[name].runs[part](aim))
    while await reader.readline():
        if attacking.done():
            attacking.result()
        print(json.dumps(aim.counts), flush=True)
    attacking.cancel()


if __name__ == "__main__":
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of each write to a connection that is closed
    asyncio.run(attack(sys.argv[1], int(sys.argv[2]), Aim(*sys.argv[3:5])))
