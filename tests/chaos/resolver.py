"""An operator who looks at the backend and settles what is uncertain: truly, as far as anybody can know."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from itertools import cycle
from typing import TYPE_CHECKING

import grpc
from startflow.v1 import start_flow_service_pb2 as pb

from tests.chaos.driver import reason_of
from tests.chaos.journal import is_create, key_of, moment_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.chaos.evidence import Told
    from tests.end_to_end.processes import Called, SandboxProcess

EVERY = 1.2  # seconds
SHARE = 0.5  # of the times it looks
GIVE_UPS = 0.15  # of its words, as a share


class Operator:
    """Resolves one uncertain dispatch now and then.

    It says `was_sent` of what the backend has, and `was_not_sent` only of what no late commit can make true any more.
    """

    def __init__(
        self, client: Called, sandbox: SandboxProcess, verdicts: Iterable[float], settled_after: float
    ) -> None:
        self._client = client
        self._sandbox = sandbox
        self._verdicts = cycle(verdicts)
        self._settled_after = settled_after  # seconds after a request arrived, in which it may still be carried out
        self._created: dict[str, str] = {}
        self._sent: dict[str, float] = {}
        self._read = 0
        self.words: list[tuple[str, str, str]] = []  # start, dispatch, word
        self.counts: Counter[str] = Counter()

    async def run(self) -> None:
        """Looks until cancelled."""
        for verdict in self._verdicts:
            await asyncio.sleep(EVERY)
            if verdict < SHARE:
                try:
                    await self._look(give_up=verdict < GIVE_UPS * SHARE)
                except grpc.aio.AioRpcError as error:
                    self.counts[f"ResolveFlowStart {error.code().name} {reason_of(error)}".strip()] += 1

    async def _look(self, *, give_up: bool) -> None:
        uncertain = pb.FlowStartFilter(states=[pb.FlowStart.STATE_UNCERTAIN])
        page = await self._client.stub.ListFlowStarts(pb.ListFlowStartsRequest(filter=uncertain), timeout=2)
        for start in page.flow_starts:
            listed = await self._client.stub.ListRecipients(pb.ListRecipientsRequest(id=start.id), timeout=2)
            await self._read_journal()
            for recipient in listed.recipients:
                if recipient.state == pb.Recipient.STATE_UNCERTAIN and (
                    request := self._word(start.id, recipient.dispatch_id, give_up=give_up)
                ):
                    await self._say(request)
                    return

    def _word(self, start: str, dispatch: str, *, give_up: bool) -> pb.ResolveFlowStartRequest | None:
        if dispatch in self._created:
            sent = pb.WasSent(external_id=self._created[dispatch])
            return pb.ResolveFlowStartRequest(id=start, dispatch_id=dispatch, was_sent=sent)
        if time.time() - self._sent.get(dispatch, 0.0) < self._settled_after:
            return None
        if give_up:
            return pb.ResolveFlowStartRequest(id=start, dispatch_id=dispatch, give_up=pb.GiveUp())
        return pb.ResolveFlowStartRequest(id=start, dispatch_id=dispatch, was_not_sent=pb.WasNotSent())

    async def _say(self, request: pb.ResolveFlowStartRequest) -> None:
        word = str(request.WhichOneof("resolution"))
        self.words.append((request.id, request.dispatch_id, word))  # also if the answer is lost: it may have been heard
        await self._client.stub.ResolveFlowStart(request, timeout=2)
        self.counts[f"resolved: {word}"] += 1

    async def _read_journal(self) -> None:
        for entry in await self._sandbox.journal(after=str(self._read)):
            self._read = entry["n"]
            if entry["kind"] == "created" and "startflow_id" in entry["params"]:
                self._created[entry["params"]["startflow_id"]] = entry["external_id"]
            elif is_create(entry) and (key := key_of(entry)):
                self._sent[key] = moment_of(entry)

    def tell(self, told: Iterable[Told]) -> None:
        """Notes with each start what was said of its dispatches."""
        by_start = {each.start_id: each for each in told}
        for start, dispatch, word in self.words:
            if start in by_start:
                by_start[start].resolved[dispatch] = word
