"""The backends that a caller may use: which one a start is for, and how each is shown."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

from gateway import wire
from gateway.errors import NotFound, Reason, Violation

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from startflow.v1 import start_flow_service_pb2 as pb

    from gateway.lanes.backend import Backend
    from gateway.wire import StartRequest

_NEARLY_A_UUID = re.compile(r"(?=.{30,42}$)(?=.*-)[0-9a-fA-F-]+")  # some characters more or less
_NO_SUCH_BACKEND = "backend: there is no backend of this name. There are: {}."


def choose(request: StartRequest, backends: Mapping[str, Backend]) -> Backend:
    """Finds the backend that was named, or the one that the flow tells."""
    named = request.backend
    if named and named in backends:
        return backends[named]
    fitting = [] if named else [name for name, backend in backends.items() if _fits(backend, request.flow)]
    if len(fitting) == 1:
        return backends[fitting[0]]
    known = names_of(backends)
    if named:
        said = _NO_SUCH_BACKEND.format(known)
    elif fitting:
        said = f"backend: several backends have such a flow; name one of: {', '.join(sorted(fitting))}."
    elif meant := _respelled(request.flow, backends):
        said = f"backend: no flow is spelled like this; did you mean {meant}?"
    elif _NEARLY_A_UUID.fullmatch(request.flow):
        said = f"backend: the flow looks like a UUID, which has 36 characters, and this has {len(request.flow)}."
    else:
        said = f"backend: the flow does not identify the backend; name one of: {known}."
    if named and not request.violations:
        raise no_such_backend(named, backends)
    raise wire.invalid([*request.violations, Violation(field="backend", description=said)])


def names_of(backends: Mapping[str, Backend]) -> str:
    """Returns their names in one line."""
    return ", ".join(sorted(backends)) or "none that this credential may use"


def no_such_backend(name: str, backends: Mapping[str, Backend]) -> NotFound:
    """Returns the error for a name that is none of these."""
    known = names_of(backends)
    said = _NO_SUCH_BACKEND.format(known)
    return NotFound(reason=Reason.BACKEND_NOT_FOUND, message=said, metadata={"backend": name, "backends": known})


def _fits(backend: Backend, flow: str) -> bool:
    return flow in backend.flow_aliases or backend.adapter.offers(flow)


def _respelled(flow: str, backends: Mapping[str, Backend]) -> str:
    """Returns the id that may be meant, as RapidPro or as Twilio writes its ids; empty if no backend has such ids."""
    for meant in (flow.lower(), flow[:2].upper() + flow[2:].lower()):
        if any(_fits(backend, meant) for backend in backends.values()):
            return meant
    return ""


def write_backend(backend: Backend, pending: int, now: datetime, elsewhere: str) -> pb.Backend:
    """Writes a backend as it stands now, with how many of the caller's starts wait for it.

    `elsewhere` says who works it, if this gateway does not.
    """
    transport = backend.transport
    circuit, limiter = transport.circuit, transport.limiter
    held = circuit.wait_seconds()
    return wire.write_backend(
        name=backend.name,
        kind=backend.kind,
        capabilities=backend.adapter.capabilities,
        flow_aliases=backend.flow_aliases,
        health=wire.write_health(
            state=circuit.state,
            reason=str(circuit.notice.reason) if circuit.notice else "",
            message=elsewhere or circuit.detail or circuit.unread,
            retry_at=now + timedelta(seconds=held) if held else None,
        ),
        rate=(limiter.count, limiter.seconds),
        quota_left=limiter.left(sends=True),
        pending=pending,
        in_flight=transport.in_flight,
        drain_seconds=max(held, limiter.drain_seconds(pending)) if pending else 0.0,
    )
