"""Asks the gateway, at the end, what it shows of every start."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from startflow.v1 import start_flow_service_pb2 as pb

from tests.chaos.evidence import Attempt, Part, Shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.end_to_end.processes import Called

AT_ONCE = 12
MOVING = (
    pb.FlowStart.STATE_PENDING,
    pb.FlowStart.STATE_QUEUED,
    pb.FlowStart.STATE_STARTED,
    pb.FlowStart.STATE_UNCERTAIN,
)


class Witness:
    """Reads the gateway's side, by its API alone."""

    def __init__(self, client: Called, skew: float) -> None:
        self._client = client
        self._skew = skew

    async def moving(self) -> list[str]:
        """Returns the starts that are neither over nor uncertain at rest, with where they stand."""
        return [
            f"{start.id} {_state(start)}"
            async for start in self._starts(pb.FlowStartFilter(states=MOVING))
            if not _is_resting(start)
        ]

    async def in_doubt(self) -> frozenset[str]:
        """Returns the starts of which the gateway does not know whether all was carried out."""
        uncertain = pb.FlowStartFilter(states=[pb.FlowStart.STATE_UNCERTAIN])
        return frozenset([start.id async for start in self._starts(uncertain)])

    async def testify(self) -> dict[str, Shown]:
        """Reads every start with its recipients and its attempts."""
        starts = [start async for start in self._starts(pb.FlowStartFilter())]
        free = asyncio.Semaphore(AT_ONCE)

        async def read(start: pb.FlowStart) -> Shown:
            async with free:
                return Shown(
                    id=start.id,
                    request_id=start.request_id,
                    state=_state(start),
                    is_resting=_is_resting(start),
                    warnings={warning.reason: dict(warning.metadata) for warning in start.warnings},
                    parts=await self._parts(start.id),
                    attempts=await self._attempts(start.id),
                )

        return {shown.id: shown for shown in await asyncio.gather(*map(read, starts))}

    async def _starts(self, selected: pb.FlowStartFilter) -> AsyncIterator[pb.FlowStart]:
        token = ""
        while True:
            request = pb.ListFlowStartsRequest(filter=selected, page_size=500, page_token=token)
            page = await self._client.stub.ListFlowStarts(request, wait_for_ready=True)
            for start in page.flow_starts:
                yield start
            token = page.next_page_token
            if not token:
                return

    async def _parts(self, start_id: str) -> tuple[Part, ...]:
        shown: dict[str, list[pb.Recipient]] = {}
        token = ""
        while True:
            request = pb.ListRecipientsRequest(id=start_id, page_size=1000, page_token=token)
            page = await self._client.stub.ListRecipients(request, wait_for_ready=True)
            for recipient in page.recipients:
                shown.setdefault(recipient.dispatch_id, []).append(recipient)
            token = page.next_page_token
            if not token:
                return tuple(_part(dispatch, recipients) for dispatch, recipients in shown.items())

    async def _attempts(self, start_id: str) -> tuple[Attempt, ...]:
        attempts: list[Attempt] = []
        token = ""
        while True:
            request = pb.ListChangesRequest(id=start_id, page_size=1000, page_token=token)
            page = await self._client.stub.ListChanges(request, wait_for_ready=True)
            attempts += [self._attempt(each.attempt) for each in page.changes if each.HasField("attempt")]
            token = page.next_page_token
            if not token:
                return tuple(attempts)

    def _attempt(self, attempt: pb.Attempt) -> Attempt:
        return Attempt(
            dispatch=attempt.dispatch_id,
            begun=attempt.begin_time.ToMicroseconds() / 1_000_000 - self._skew,
            outcome=pb.Attempt.Outcome.Name(attempt.outcome).removeprefix("OUTCOME_"),
            detail=attempt.detail,
        )


def _part(dispatch: str, recipients: list[pb.Recipient]) -> Part:
    first = recipients[0]
    return Part(
        id=dispatch,
        state=pb.Recipient.State.Name(first.state).removeprefix("STATE_"),
        external_id=first.external_id,
        reason=first.failure.reason,
        detail=first.failure.metadata.get("detail", "") or first.failure.message,
        recipients=tuple(recipient.recipient for recipient in recipients),
    )


def _state(start: pb.FlowStart) -> str:
    return pb.FlowStart.State.Name(start.state).removeprefix("STATE_")


def _is_resting(start: pb.FlowStart) -> bool:
    return start.state == pb.FlowStart.STATE_UNCERTAIN and not start.HasField("next_attempt_time")
