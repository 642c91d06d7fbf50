"""Others who use the same workspace and account: they start flows, delete executions, and update rows in bulk.

What they do makes rows move, tie and vanish while the gateway reads. They start nobody whom the gateway starts, and
delete nothing of its: a cache may answer them with the gateway's execution.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from typing import TYPE_CHECKING

import aiohttp

from gateway.sandbox import SANDBOX_RAPIDPRO_TOKEN, SANDBOX_TWILIO_ACCOUNT_SID, SANDBOX_TWILIO_AUTH_TOKEN
from tests.chaos.journal import STRANGER
from tests.end_to_end.processes import SEED_FLOW, STUDIO_FLOW

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from tests.end_to_end.processes import SandboxProcess

AT_ONCE = 3  # starts of each backend in one turn
KEPT = 12  # executions before the oldest are deleted
RESTLESS = 24  # rows of theirs that move with what is in doubt
TIED = 0.8  # of a page at the most: a whole page of one moment can never be read to its end for certain
HEADERS = {"User-Agent": STRANGER}
WORKSPACE = {"Authorization": f"Token {SANDBOX_RAPIDPRO_TOKEN}"}
ACCOUNT = {"Authorization": aiohttp.encode_basic_auth(SANDBOX_TWILIO_ACCOUNT_SID, SANDBOX_TWILIO_AUTH_TOKEN)}


class Strangers:
    """Somebody else's traffic; `every` is the seconds between two turns.

    If they are told what is in doubt, they move that in each turn, and enough of their own to fill several pages.
    """

    def __init__(
        self,
        sandbox: SandboxProcess,
        chance: random.Random,
        every: float,
        page_size: int,
        in_doubt: Callable[[], Awaitable[frozenset[str]]] | None = None,
    ) -> None:
        self._sandbox = sandbox
        self._chance = chance
        self._every = every
        self._most_tied = max(1, int(TIED * page_size))
        self._executions: list[str] = []
        self._number = 0
        self._in_doubt = in_doubt  # starts
        self._read = 0
        self._made: dict[str, list[str]] = {}  # rows of the gateway's, by start
        self._theirs: deque[str] = deque(maxlen=RESTLESS)
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        """Goes on until cancelled; what a fault makes of a request is nobody's concern here."""
        timeout = aiohttp.ClientTimeout(total=2)
        async with aiohttp.ClientSession(headers=HEADERS, timeout=timeout) as session:
            while True:
                await asyncio.sleep(self._every * self._chance.uniform(0.5, 1.5))
                for act in (self._start, self._execute, self._delete):
                    try:
                        await act(session)
                    except (aiohttp.ClientError, TimeoutError, ValueError):
                        self.counts["strangers without an answer"] += 1
                await self._sandbox.touch(count=self._chance.randint(1, self._most_tied))
                self.counts["bulk updates"] += 1
                if self._in_doubt is not None:
                    await self._move(await self._in_doubt())

    async def _move(self, in_doubt: frozenset[str]) -> None:
        for entry in await self._sandbox.journal(after=str(self._read), kind="created", backend="rapidpro"):
            self._read = entry["n"]
            if entry["params"].get(STRANGER):
                self._theirs.append(entry["external_id"])
            else:
                start = str(entry["params"]["startflow_id"]).rpartition("-")[0]
                self._made.setdefault(start, []).append(entry["external_id"])
        theirs = list(self._theirs)
        for first in range(0, len(theirs), self._most_tied):
            await self._sandbox.touch(ids=theirs[first : first + self._most_tied])
        for row in [each for start in in_doubt for each in self._made.get(start, ())]:
            await self._sandbox.touch(ids=[row])

    async def _start(self, session: aiohttp.ClientSession) -> None:
        for _ in range(AT_ONCE):
            self._number += 1
            body = {"flow": SEED_FLOW, "urns": [f"tel:+1312{2_000_000 + self._number}"], "params": {STRANGER: True}}
            url = f"{self._sandbox.urls['rapidpro']}/api/v2/flow_starts.json"
            async with session.post(url, json=body, headers=WORKSPACE):
                self.counts["strangers' starts"] += 1

    async def _execute(self, session: aiohttp.ClientSession) -> None:
        for _ in range(AT_ONCE):
            self._number += 1
            form = {
                "To": f"+1313{2_000_000 + self._number}",
                "From": "+18007654321",
                "Parameters": json.dumps({STRANGER: True}),
            }
            async with session.post(self._url(), data=form, headers=ACCOUNT) as answer:
                document = await answer.json(content_type=None)
                self.counts["strangers' starts"] += 1
                if isinstance(document, dict) and document.get("contact_channel_address") == form["To"]:
                    self._executions.append(document["sid"])

    async def _delete(self, session: aiohttp.ClientSession) -> None:
        while len(self._executions) > KEPT:
            sid = self._executions.pop(self._chance.randrange(len(self._executions)))
            async with session.delete(f"{self._url()}/{sid}", headers=ACCOUNT):
                self.counts["deletions"] += 1

    def _url(self) -> str:
        return f"{self._sandbox.urls['twilio']}/v2/Flows/{STUDIO_FLOW}/Executions"
