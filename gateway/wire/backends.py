"""A configured backend as the API shows it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.wire.records import write_time

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from gateway.adapters.base import Capabilities
    from gateway.model import Flow


def write_backend(
    *,
    name: str,
    kind: str,
    capabilities: Capabilities,
    flow_aliases: Mapping[str, str],
    health: pb.Backend.Health,
    rate: tuple[int, float],
    quota_left: int,
    pending: int,
    in_flight: int,
    drain_seconds: float,
) -> pb.Backend:
    """Writes a backend. `rate` is so many requests in so many seconds."""
    count, seconds = rate
    return pb.Backend(
        name=name,
        kind=kind,
        capabilities=pb.Backend.Capabilities(
            recipient_kinds=[pb.Recipient.Kind.ValueType(kind) for kind in capabilities.recipient_kinds],
            urn_schemes=capabilities.urn_schemes,
            sender=capabilities.sender,
            restart_participants=capabilities.restart_participants,
            exclude_active=capabilities.exclude_active,
            cancel=capabilities.cancel,
        ),
        limits=pb.Backend.Limits(
            recipients_per_dispatch=capabilities.recipients_per_dispatch,
            params_size=capabilities.params_size,
            rate=count,
            rate_period=_duration(seconds),
        ),
        health=health,
        lane=pb.Backend.Lane(pending=pending, in_flight=in_flight, estimated_drain=_duration(drain_seconds)),
        quota_left=quota_left,
        flow_aliases=flow_aliases,
        completion_meaning=pb.CompletionMeaning.ValueType(capabilities.completion_meaning),
    )


def write_health(*, state: int, reason: str, message: str, retry_at: datetime | None) -> pb.Backend.Health:
    """Writes how a backend is."""
    return pb.Backend.Health(
        state=pb.Backend.Health.State.ValueType(state), reason=reason, message=message, retry_time=write_time(retry_at)
    )


def write_flow(flow: Flow, aliases: Mapping[str, str]) -> pb.Flow:
    """Writes a flow that a backend has. `aliases` are all of the backend's."""
    return pb.Flow(
        id=flow.id,
        name=flow.name,
        startable=flow.startable is True,
        aliases=sorted(alias for alias, meant in aliases.items() if meant == flow.id),
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=round(seconds, 3)))
    return duration
