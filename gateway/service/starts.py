"""The gRPC methods: each reads the request, calls one thing, and writes the response.

A method takes who calls and the bytes of a request, and returns the bytes of a response. It raises nothing
but `GatewayError`, unless it has a bug.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog
from startflow.v1 import start_flow_service_pb2 as pb

from gateway import wire
from gateway.adapters.base import Key, KeyReader, Missing
from gateway.errors import (
    Exhausted,
    GatewayError,
    Reason,
    RequestIdReused,
    Unavailable,
    Violation,
)
from gateway.model import Asked, FlowStart, Standing
from gateway.service.choosing import choose, names_of, no_such_backend, write_backend
from gateway.service.ids import new_id
from gateway.service.paging import fitting, read_position
from gateway.service.refusing import refuse_if_wrong
from gateway.service.waiting import wait_of
from gateway.store import Terms
from gateway.tenants.loop_time import in_parts
from gateway.watch.stream import not_found
from gateway.watch.waking import Watched

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping
    from datetime import datetime

    from gateway.lanes.backend import Backend
    from gateway.lanes.catalogue import Catalogue
    from gateway.lanes.pacing import Quota
    from gateway.model import Call, Notice, Recipients, Resolution
    from gateway.store import Recorded, Serving
    from gateway.tenants.clients import Clients
    from gateway.watch.stream import Watch
    from gateway.wire import StartRequest

log = structlog.get_logger()

PAGE, LARGEST_PAGE = 50, 500
DETAILS_PAGE, LARGEST_DETAILS_PAGE = 100, 1_000


class Service:
    """Answers the RPCs of `startflow.v1.StartFlowService`."""

    def __init__(
        self,
        store: Serving,
        watch: Watch,
        backends: Mapping[str, Backend],
        catalogues: Mapping[str, Catalogue],
        clock: Callable[[], datetime],
        *,
        clients: Clients,
        quota: Quota,
        elsewhere: Callable[[str], str] = lambda _name: "",
    ) -> None:
        self._elsewhere = elsewhere  # says who works the lane of a backend, if this gateway does not
        self._store = store
        self._watch = watch
        self._backends = backends
        self._catalogues = catalogues
        self._clock = clock
        self._clients = clients
        self._quota = quota
        self._draining = False

    def drain(self) -> None:
        """Takes no new starts from here on; what was recorded before is still found."""
        self._draining = True

    async def start_flow(self, call: Call, data: bytes) -> bytes:
        """Records a start, or returns the one that has its request id."""
        request = wire.read_start(wire.parse(pb.StartFlowRequest, data))
        try:
            return await self._record(call, request)
        except GatewayError:  # no matter what, if it was recorded before
            found = await self._find(call.tenant, request)
            if found is None:
                raise
        return self._replay(request, found)

    async def _find(self, tenant: str, request: StartRequest) -> Recorded | None:
        """Returns the start that was recorded for this request id, whatever speaks against recording it now."""
        if request.violations or not request.request_id:
            return None
        return await self._store.find_request(tenant, request.request_id)

    async def _record(self, call: Call, request: StartRequest) -> bytes:
        """Checks and records a start. One that was recorded before is found when it is recorded, or refused."""
        backend = choose(request, self._of(call))
        recipients, warnings = await _distinct(backend, request.recipients)
        asked = self._ask(call.tenant, request, backend, recipients.count)
        objections = backend.adapter.objections(asked, recipients, backend.country)
        if objections and warnings:
            objections = wire.as_named(objections, request.recipients, recipients)
        if request.violations or request.bounds or objections or asked.schedule_at or asked.expire_at:
            refuse_if_wrong(request, objections, asked.created_at, backend.schedule_ahead)
        catalogue = self._catalogues[backend.name]
        if request.validate_only or not catalogue.knows(asked.flow):  # a retry does not wait for the backend
            found = await self._find(call.tenant, request)
            if found is not None:
                return self._replay(request, found)
        counted = 0.0 if request.validate_only else self._count(call.tenant)
        await catalogue.require(asked.flow, call.seconds_left)
        plan = backend.adapter.plan(asked, recipients)
        if request.validate_only:
            standing = Standing(updated_at=asked.created_at, warnings=warnings)
            start = FlowStart(asked=replace(asked, id=""), standing=standing, revision=0)
            return self._write_start(start, replayed=False, request_count=len(plan))
        if self._draining:
            raise Unavailable(reason=Reason.DRAINING, message="The gateway is shutting down. Try again in a moment.")
        recorded = await self._store.create(
            asked, plan, fingerprint=request.fingerprint, warnings=warnings, terms=_terms(backend)
        )
        if recorded.replayed:
            if counted:
                self._quota.give_back(call.tenant, counted)
            return self._replay(request, recorded)
        return self._write_start(recorded.flow_start, replayed=False, request_count=len(plan))

    async def get_flow_start(self, call: Call, data: bytes) -> bytes:
        """Returns one start with its params."""
        start_id = wire.read_id(wire.parse(pb.GetFlowStartRequest, data).id)
        start = await self._store.get(call.reaches, start_id)
        if start is None:
            raise not_found(start_id)
        return pb.GetFlowStartResponse(
            flow_start=self._write(start), params=wire.write_params(start.asked.params)
        ).SerializeToString()

    async def list_flow_starts(self, call: Call, data: bytes) -> bytes:
        """Returns a page of starts, the most recently changed first."""
        request = wire.parse(pb.ListFlowStartsRequest, data)
        selected = wire.read_filter(request.filter)
        limit = wire.read_page_size(request.page_size, PAGE, LARGEST_PAGE)
        scope = self._scope("ListFlowStarts", call).encode() + request.filter.SerializeToString(deterministic=True)
        before = read_position(request.page_token, scope, int)

        async def read(limit: int) -> bytes:
            page = await self._store.list(call.reaches, selected, before=before and before[0], limit=limit)
            following = page.next_position
            return pb.ListFlowStartsResponse(
                flow_starts=[self._write(start) async for start in in_parts(page.flow_starts)],
                next_page_token="" if following is None else wire.write_page_token(scope, following),
                revision=page.head,
                epoch=self._store.epoch,
            ).SerializeToString()

        return await fitting(read, limit)

    def watch_flow_starts(self, call: Call, data: bytes) -> AsyncGenerator[bytes]:
        """Streams changes."""
        request = wire.read_watch(wire.parse(pb.WatchFlowStartsRequest, data))
        watched = Watched(
            tenant=call.tenant,
            spans_tenants=call.spans_tenants,
            most=self._clients.limits(call.tenant).streams,
            ended=call.ended,
            ids=frozenset(request.ids),
            selected=request.filter,
            after=request.after_revision,
            epoch=request.epoch,
            until_done=request.until_done,
        )
        return self._watch.stream(watched)

    async def list_backends(self, call: Call, data: bytes) -> bytes:
        """Returns the backends that the caller may use, by name."""
        wire.parse(pb.ListBackendsRequest, data)
        now = self._clock()
        backends = [
            write_backend(backend, await self._store.count_pending(name), now, self._elsewhere(name))
            for name, backend in sorted(self._of(call).items())
        ]
        return pb.ListBackendsResponse(backends=backends).SerializeToString()

    async def cancel_flow_start(self, call: Call, data: bytes) -> bytes:
        """Stops what is unsent of a start, and has what runs ended if its backend can."""
        start_id = wire.read_id(wire.parse(pb.CancelFlowStartRequest, data).id)
        start = await self._store.get(call.reaches, start_id)
        if start is None:
            raise not_found(start_id)
        backend = self._backends.get(start.asked.backend)  # it may not be configured any more
        can_end = backend is not None and backend.adapter.capabilities.cancel
        cancelled = await self._store.cancel(call.reaches, start_id, can_end=can_end)
        if cancelled is None:  # it was purged since
            raise not_found(start_id)
        log.info("start_cancelled", start_id=start_id, tenant=call.tenant)
        return pb.CancelFlowStartResponse(flow_start=self._write(cancelled)).SerializeToString()

    async def resolve_flow_start(self, call: Call, data: bytes) -> bytes:
        """Settles what is uncertain or stalled of a start by an operator's word."""
        request = wire.parse(pb.ResolveFlowStartRequest, data)
        start_id, resolution = wire.read_id(request.id), wire.read_resolution(request)
        resolution = await self._as_named(call, start_id, resolution)
        resolved = await self._store.resolve(call.reaches, start_id, resolution)
        if resolved is None:
            raise not_found(start_id)
        said = request.WhichOneof("resolution")
        log.info("start_resolved", start_id=start_id, dispatch_id=request.dispatch_id, tenant=call.tenant, word=said)
        return pb.ResolveFlowStartResponse(flow_start=self._write(resolved)).SerializeToString()

    async def _as_named(self, call: Call, start_id: str, resolution: Resolution) -> Resolution:
        """Returns an operator's word with the backend's own spelling of the external id, if it has one.

        Refuses what is no id of the backend, one that the backend does not have, and that of something that it shows to
        be of another start: it may be another tenant's.
        """
        start = await self._store.get(call.reaches, start_id) if resolution.external_id else None
        backend = self._backends.get(start.asked.backend) if start is not None else None
        if start is None or backend is None:
            return resolution
        resolution = replace(resolution, external_id=backend.adapter.external_id(resolution.external_id))
        if not resolution.external_id:
            raise _bad_external_id("is not an id of this backend: copy the uuid (RapidPro) or FN… (Twilio).")
        if not isinstance(backend.adapter, KeyReader):
            return resolution
        key = await backend.transport.run(backend.adapter.key(start.asked.flow, resolution.external_id))
        if isinstance(key, Missing):
            raise _bad_external_id("is not there, says the backend: look again which one it shows for this recipient.")
        if isinstance(key, Key) and key.correlation_key and not key.correlation_key.startswith(f"{start_id}-"):
            raise _bad_external_id("is that of another start: look again which one the backend shows.")
        return resolution

    async def list_recipients(self, call: Call, data: bytes) -> bytes:
        """Returns a page of what became of a start's recipients."""
        request = wire.parse(pb.ListRecipientsRequest, data)
        start_id = wire.read_id(request.id)
        limit = wire.read_page_size(request.page_size, DETAILS_PAGE, LARGEST_DETAILS_PAGE)
        scope = self._scope("ListRecipients", call, start_id)
        after = read_position(request.page_token, scope, int, int)

        async def read(limit: int) -> bytes:
            page = await self._store.recipients(call.reaches, start_id, after=after, limit=limit)
            if page is None:
                raise not_found(start_id)
            following = page.next_position
            return pb.ListRecipientsResponse(
                recipients=[wire.write_recipient(standing) async for standing in in_parts(page.recipients)],
                next_page_token="" if following is None else wire.write_page_token(scope, list(following)),
            ).SerializeToString()

        return await fitting(read, limit)

    async def list_changes(self, call: Call, data: bytes) -> bytes:
        """Returns a page of a start's history."""
        request = wire.parse(pb.ListChangesRequest, data)
        start_id = wire.read_id(request.id)
        limit = wire.read_page_size(request.page_size, DETAILS_PAGE, LARGEST_DETAILS_PAGE)
        scope = self._scope("ListChanges", call, start_id)
        after = read_position(request.page_token, scope, int, int, str, int)

        async def read(limit: int) -> bytes:
            page = await self._store.history(call.reaches, start_id, after=after, limit=limit)
            if page is None:
                raise not_found(start_id)
            following = page.next_position
            return pb.ListChangesResponse(
                changes=[wire.write_history(entry) async for entry in in_parts(page.entries)],
                next_page_token="" if following is None else wire.write_page_token(scope, list(following)),
            ).SerializeToString()

        return await fitting(read, limit)

    async def list_flows(self, call: Call, data: bytes) -> bytes:
        """Returns a page of the flows that a backend has."""
        request = wire.parse(pb.ListFlowsRequest, data)
        limit = wire.read_page_size(request.page_size, DETAILS_PAGE, LARGEST_DETAILS_PAGE)
        if not request.backend:
            known = names_of(self._of(call))
            raise wire.invalid([Violation(field="backend", description=f"is missing; name one of: {known}.")])
        backend = self._of(call).get(request.backend)
        if backend is None:
            raise no_such_backend(request.backend, self._of(call))
        scope = f"ListFlows {call.tenant} {request.backend}"
        first = max(0, (read_position(request.page_token, scope, int) or (0,))[0])
        flows = await self._catalogues[backend.name].flows()
        end = first + limit
        return pb.ListFlowsResponse(
            flows=[wire.write_flow(flow, backend.flow_aliases) async for flow in in_parts(flows[first:end])],
            next_page_token=wire.write_page_token(scope, end) if end < len(flows) else "",
        ).SerializeToString()

    def _ask(self, tenant: str, request: StartRequest, backend: Backend, recipient_count: int) -> Asked:
        """Settles once what the start is: alias and default sender are resolved here and stored."""
        now = self._clock()
        capabilities = backend.adapter.capabilities
        return Asked(
            id=new_id(now),
            tenant=tenant,
            backend=backend.name,
            flow=backend.flow_aliases.get(request.flow, request.flow),
            recipient_count=recipient_count,
            params=request.params,
            sender=request.sender or (backend.sender if capabilities.sender else ""),
            restart_participants=request.restart_participants,
            exclude_active=request.exclude_active,
            request_id=request.request_id,
            labels=request.labels,
            schedule_at=request.schedule_at,
            expire_at=request.expire_at,
            created_at=now,
            completion_meaning=capabilities.completion_meaning,
        )

    def _write(self, start: FlowStart) -> pb.FlowStart:
        """Writes a start as it stands, and why it waits if it does."""
        message = wire.write_flow_start(start)
        wait = wait_of(start, self._backends, self._clock())
        if wait is not None:
            wire.add_wait(message, wait.warning, wait.next_attempt_at)
        return message

    def _replay(self, request: StartRequest, found: Recorded) -> bytes:
        """Returns the first start if this request asks for the same; raises `RequestIdReused` if not."""
        differing = wire.differing(found.fingerprint, request.fingerprint)
        if differing:
            fields = ", ".join(differing)
            raise RequestIdReused(
                message=f"request_id was used before for a start with other content (differing: {fields}). Use a new"
                " request_id for a new start.",
                metadata={"fields": fields, "id": found.flow_start.asked.id},
            )
        return self._write_start(found.flow_start, replayed=True, request_count=0)

    def _write_start(self, start: FlowStart, *, replayed: bool, request_count: int) -> bytes:
        return pb.StartFlowResponse(
            flow_start=self._write(start), replayed=replayed, backend_request_count=request_count
        ).SerializeToString()

    def _count(self, tenant: str) -> float:
        """Counts a start of a tenant; returns how many it may make in a second, or 0 for any number.

        Raises `Exhausted` if it may not make one now.
        """
        rate = self._clients.limits(tenant).starts_per_second
        if rate is None:
            return 0.0
        wait = self._quota.take(tenant, rate)
        if wait:
            raise Exhausted(
                reason=Reason.QUOTA_EXCEEDED,
                message=f"The tenant {tenant} may make {rate:g} starts a second, and has made them. Try again a little"
                " later, with the same request_id; its limit is starts_per_second.",
                metadata={"quota_subject": f"tenant:{tenant}", "limit": f"{rate:g}"},
                retry_after=timedelta(seconds=wait),
            )
        return rate

    def _scope(self, method: str, call: Call, start_id: str = "") -> str:
        """Describes the list that a page token is of. A restored store has other lists."""
        return f"{method} {self._store.epoch} {call.reaches or '*'} {start_id}"  # no tenant is called *

    def _of(self, call: Call) -> Mapping[str, Backend]:
        """Returns the backends that a caller may use. Any other one is, to this caller, not there."""
        allowed = call.backends
        if allowed is None:
            return self._backends
        return {name: backend for name, backend in self._backends.items() if name in allowed}


def _bad_external_id(description: str) -> GatewayError:
    return wire.invalid([Violation(field="was_sent.external_id", description=description)])


async def _distinct(backend: Backend, recipients: Recipients) -> tuple[Recipients, tuple[Notice, ...]]:
    """Leaves each recipient once, by what the backend takes for one."""
    same_as, country = backend.adapter.same_as, backend.country
    return await wire.distinct(recipients, lambda kind, recipient: same_as(kind, recipient, country))


def _terms(backend: Backend) -> Terms:
    return Terms(
        account=backend.account,
        give_up_after=backend.give_up_after,
        one_at_a_time=backend.adapter.capabilities.one_at_a_time,
        backlog=backend.backlog,
    )
