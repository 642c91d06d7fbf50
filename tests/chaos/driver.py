"""What callers do: start flows and insist on an answer, lose answers and ask again, cancel."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from typing import TYPE_CHECKING

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from startflow.v1 import start_flow_service_pb2 as pb

from tests.chaos.evidence import Told

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.chaos.plan import Wanted
    from tests.end_to_end.processes import Called

CALLERS = 24
PATIENCE = 10.0  # seconds a call may take
PAUSE = 0.1  # seconds between a call that failed and the next
TOGETHER = 3  # seconds: half of what expires does so at a multiple of this
SOON = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
LATER = frozenset({"BACKLOG_FULL", "FLOW_NOT_FOUND"})  # refusals that pass: the caller asks again


class Callers:
    """A number of callers who share what is wanted, and remember what they were told."""

    def __init__(self, client: Called, skew: float, patience: float = PATIENCE) -> None:
        self._client = client
        self._patience = patience
        self._skew = skew
        self._wanted: asyncio.Queue[Wanted] = asyncio.Queue()
        self._side: list[asyncio.Task[None]] = []
        self._latest: dict[tuple[str, str], tuple[Told, pb.StartFlowRequest]] = {}  # accepted, by backend and flow
        self.told: dict[str, Told] = {}  # by request id
        self.counts: Counter[str] = Counter()

    def ask(self, wanted: Iterable[Wanted]) -> None:
        """Has these started as soon as a caller is free."""
        for each in wanted:
            self._wanted.put_nowait(each)

    async def run(self) -> None:
        """Calls until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(self._call())

    async def finish(self) -> None:
        """Waits until everything that is wanted was started, and what follows from it was done."""
        await self._wanted.join()
        await asyncio.gather(*self._side)

    @property
    def waiting(self) -> int:
        """How many calls have had no final answer."""
        return self._wanted.qsize() + sum(not (told.start_id or told.refused) for told in self.told.values())

    async def _call(self) -> None:
        while True:
            wanted = await self._wanted.get()
            await self._insist(wanted)
            self._wanted.task_done()

    async def _insist(self, wanted: Wanted) -> None:
        """Asks until the answer has come, however often it is lost; what was accepted once must be from then on."""
        told = self.told[wanted.request_id] = Told(wanted=wanted)
        request = self._request(told)
        lost, patience = 0, min(wanted.patience, self._patience)
        while True:
            try:
                response = await self._client.stub.StartFlow(request, timeout=patience, wait_for_ready=patience > 1)
            except grpc.aio.AioRpcError as error:
                patience = self._patience
                if not await self._goes_on(told, error):
                    return
                continue
            self._take(told, request, response)
            patience = self._patience
            if lost == wanted.loses_answers:
                return
            lost += 1
            await asyncio.sleep(0.3 * lost)

    def _request(self, told: Told) -> pb.StartFlowRequest:
        """Writes the request; every time it is made it is the same."""
        wanted, now = told.wanted, time.time()
        request = pb.StartFlowRequest(
            backend=wanted.backend,
            flow=wanted.flow,
            urns=wanted.urns,
            groups=wanted.groups,
            request_id=wanted.request_id,
            exclude_active=wanted.exclude_active,
            restart_participants=wanted.restart_participants,
        )
        request.params.update({"n": wanted.number})
        if wanted.due_in is not None:
            told.schedule_at = now + wanted.due_in
            request.schedule_time.CopyFrom(self._moment(told.schedule_at))
        if wanted.expires_in is not None:
            told.expire_at = now + wanted.expires_in
            if wanted.number % 2:  # many at one moment
                told.expire_at = math.ceil(told.expire_at / TOGETHER) * TOGETHER
            request.expire_time.CopyFrom(self._moment(told.expire_at))
        return request

    def _moment(self, at: float) -> Timestamp:
        """Writes a moment by the gateway's clock."""
        moment = Timestamp()
        moment.FromMicroseconds(int((at + self._skew) * 1_000_000))
        return moment

    async def _goes_on(self, told: Told, error: grpc.aio.AioRpcError) -> bool:
        """Looks at an error; True if the call is to be made again."""
        code, reason = error.code(), reason_of(error)
        self.counts[f"StartFlow {code.name} {reason}".strip()] += 1
        if code in SOON:
            if "nothing was recorded" in (error.details() or ""):
                told.denials += 1
            else:
                told.unanswered += 1
            await asyncio.sleep(PAUSE)
            return True
        if told.start_id:
            told.complaints.append(f"was accepted, and a retry was refused: {code.name} {reason} {error.details()}")
            return False
        if reason in LATER:
            await self._ask_again_for_another(told, reason)
            await asyncio.sleep(PAUSE * 3)
            return True
        expired = told.expire_at is not None and time.time() > told.expire_at - 0.05
        if code is grpc.StatusCode.INVALID_ARGUMENT and expired and "expire_time" in (error.details() or ""):
            told.refused = "it had expired before it was accepted"
            return False
        if code is grpc.StatusCode.INVALID_ARGUMENT and told.wanted.is_spelled_twice:
            told.refused = "it names one person in two spellings"
            return False
        told.complaints.append(f"{code.name} {reason} {error.details()}")
        told.refused = reason or code.name
        return False

    async def _ask_again_for_another(self, told: Told, reason: str) -> None:
        """While nothing new is taken, a start that was accepted earlier must still be found by its request id."""
        earlier = self._latest.get((told.wanted.backend, told.wanted.flow))
        if earlier is None:
            return
        accepted, request = earlier
        try:
            response = await self._client.stub.StartFlow(request, timeout=self._patience)
        except grpc.aio.AioRpcError as error:
            if error.code() not in SOON:
                told.complaints.append(f"{accepted.wanted.request_id}, asked for again: {reason_of(error)}")
            return
        self._take(accepted, request, response)
        self.counts[f"replayed while others got {reason}"] += 1

    def _take(self, told: Told, request: pb.StartFlowRequest, response: pb.StartFlowResponse) -> None:
        start = response.flow_start
        if told.start_id:
            told.replays += 1
            self.counts["replayed"] += 1
            if start.id != told.start_id or not response.replayed:
                told.complaints.append(f"was {told.start_id}, and {start.id} when asked for again")
            return
        if (
            not response.replayed
            and not told.wanted.is_spelled_twice
            and response.backend_request_count != told.wanted.dispatches
        ):
            told.complaints.append(f"takes {response.backend_request_count} requests, not {told.wanted.dispatches}")
        if response.replayed and told.denials and not told.unanswered:
            told.complaints.append("was told that nothing was recorded, and it was")
        told.start_id = start.id
        self._latest[told.wanted.backend, told.wanted.flow] = told, request
        if told.wanted.cancel_after is not None:
            self._side.append(asyncio.create_task(self._cancel(told, told.wanted.cancel_after)))

    async def _cancel(self, told: Told, after: float) -> None:
        await asyncio.sleep(after)
        while True:
            try:
                await self._client.stub.CancelFlowStart(
                    pb.CancelFlowStartRequest(id=told.start_id), timeout=self._patience, wait_for_ready=True
                )
            except grpc.aio.AioRpcError as error:
                reason = reason_of(error)
                if error.code() in SOON:
                    await asyncio.sleep(PAUSE)
                    continue
                self.counts[f"CancelFlowStart {error.code().name} {reason}"] += 1
                if reason != "ALREADY_TERMINAL":
                    told.complaints.append(f"CancelFlowStart: {error.code().name} {reason} {error.details()}")
                return
            told.cancelled_at = time.time()
            self.counts["cancelled"] += 1
            return


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Reads the reason that callers branch on; empty if there is none."""
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return ""
