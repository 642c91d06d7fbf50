"""Event Streams: signed posts about executions, to a URL of the user's.

1. At least once and in no order: `duplicate` sends everything twice, `reverse` sends `started` after `ended`.
2. A post that is answered 429 or 5xx, or not within five seconds, is repeated a few times, after longer and longer
   pauses. One that is answered otherwise is not.
3. `started` and `ended` of one execution have one id, which is its sid.
4. The auth token signs the URL, which carries the hash of the body; an API key signs nothing. With `shared_key` a
   SharedKey signs in its place, by SHA-256, as if a Webhook Rule matched the URL; a header then says so.
5. The URL may have a user and a password: it is signed with them, and each request has them in `Authorization`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
from base64 import b64encode
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import aiohttp

from gateway.lookups import Lookups
from gateway.sandbox.settings import (
    SANDBOX_TWILIO_ACCOUNT_SID,
    SANDBOX_TWILIO_AUTH_TOKEN,
    SANDBOX_TWILIO_SHARED_KEY,
    SANDBOX_TWILIO_SHARED_KEY_ID,
)
from gateway.sandbox.twilio.pages import written

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from gateway.sandbox.journal import Journal
    from gateway.sandbox.twilio.executions import Execution

PREFIX = "com.twilio.studio.flow.execution."
SCHEMA = "https://events-schemas.twilio.com/Studio.FlowExecutionEvent/2"
GLANCE = 0.02  # seconds between two looks for executions that have ended
ANSWER_SECONDS = 5.0  # Twilio's own patience
WAITS = (0.2, 0.5, 1.0, 2.0)  # seconds before each further try; Twilio goes on for four hours
SIGNED_BY = {"X-Twilio-Webhooks-Signature-Settings": f"key={SANDBOX_TWILIO_SHARED_KEY_ID},algorithm=HMAC_SHA256"}
REPEATED = frozenset({429, *range(500, 600)})


class Events:
    """What has to be told, and how. Without a URL nothing is."""

    def __init__(self, url: str | None, *, journal: Journal, clock: Callable[[], datetime]) -> None:
        self._url = url
        self._journal = journal
        self._clock = clock
        self._open: dict[str, Execution] = {}
        self._kept: dict[str, dict[str, Any]] = {}  # `started` events that are sent after `ended`
        self._posts: set[asyncio.Task[None]] = set()
        self._glancing: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None
        self.ways = {"duplicate": False, "reverse": False, "shared_key": False}

    async def start(self) -> None:
        """Begins to look. What ended before was told before."""
        if self._url is not None:
            now = self._clock()
            self._open = {sid: each for sid, each in self._open.items() if not each.ended(now)}
            connector = aiohttp.TCPConnector(resolver=Lookups(ANSWER_SECONDS))
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS)
            )
            self._glancing = asyncio.create_task(self._glance())

    async def stop(self) -> None:
        """Stops; what was not delivered yet never is."""
        tasks = [*self._posts, *([self._glancing] if self._glancing else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def watch(self, execution: Execution) -> None:
        """Takes in an execution whose end is to be told."""
        if self._url is not None:
            self._open[execution.sid] = execution

    def started(self, execution: Execution) -> None:
        """Tells that an execution has started, or keeps that for later."""
        if self._url is None:
            return
        self.watch(execution)
        event = self._event("started", execution, self._clock())
        if self.ways["reverse"]:
            self._kept[execution.sid] = event
        else:
            self._send(event)

    async def _glance(self) -> None:
        while True:
            now = self._clock()
            for execution in [each for each in self._open.values() if each.ended(now)]:
                del self._open[execution.sid]
                kept = self._kept.pop(execution.sid, None)
                if not execution.deleted:
                    self._send(self._event("ended", execution, now), kept)
            await asyncio.sleep(GLANCE)

    def _event(self, what: str, execution: Execution, now: datetime) -> dict[str, Any]:
        data = {
            "execution_sid": execution.sid,
            "account_sid": SANDBOX_TWILIO_ACCOUNT_SID,
            "flow_sid": execution.flow,
            "contact_channel_address": execution.to,
            "status": "ended" if what == "ended" else "active",
            "date_created": written(execution.created_at),
            "started_by": execution.request_id,
            "flow_revision": 1,
        }
        if what == "ended":
            data |= {"ended_reason": "FLOW_END", "date_updated": written(now)}
        return {
            "specversion": "1.0",
            "type": PREFIX + what,
            "source": f"/v2/Flows/{execution.flow}/Executions/{execution.sid}",
            "id": execution.sid,
            "dataschema": SCHEMA,
            "datacontenttype": "application/json",
            "time": written(now),
            "data": data,
        }

    def _send(self, *events: dict[str, Any] | None) -> None:
        post = asyncio.get_running_loop().create_task(self._deliver([event for event in events if event]))
        self._posts.add(post)
        post.add_done_callback(self._posts.discard)

    async def _deliver(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            for _ in range(1 + self.ways["duplicate"]):
                await self._insist(event)

    async def _insist(self, event: dict[str, Any]) -> None:
        for wait in (0.0, *WAITS):
            await asyncio.sleep(wait)
            status = await self._post(json.dumps([event]).encode())
            self._journal.append(
                "event", "twilio", external_id=event["data"]["execution_sid"],
                event=event["id"], type=event["type"], status=status,
            )  # fmt: skip
            if status is not None and status not in REPEATED:
                return

    async def _post(self, body: bytes) -> int | None:
        """Posts once, and returns the status; None if there was no answer."""
        assert self._url is not None
        assert self._session is not None
        url = with_hash(self._url, body)
        headers = {"Content-Type": "application/json", "X-Twilio-Signature": signature(url)}
        if self.ways["shared_key"]:
            headers |= {**SIGNED_BY, "X-Twilio-Signature": signature(url, SANDBOX_TWILIO_SHARED_KEY, "sha256")}
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with self._session.post(url, data=body, headers=headers) as answer:
                return answer.status
        return None


def with_hash(url: str, body: bytes) -> str:
    """Adds the hash of the body to a URL."""
    return f"{url}{'&' if '?' in url else '?'}bodySHA256={sha256(body).hexdigest()}"


def signature(url: str, secret: str = SANDBOX_TWILIO_AUTH_TOKEN, algorithm: str = "sha1") -> str:
    """Signs a URL as Twilio does for a body that is no form."""
    return b64encode(hmac.digest(secret.encode(), url.encode(), algorithm)).decode()
