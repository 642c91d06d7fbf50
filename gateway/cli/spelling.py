"""What may have been meant by a word that the gateway does not know: sentences, made of what the gateway has."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from startflow.v1 import start_flow_service_pb2 as pb

SHORTEST_ID = 32  # a flow that is as long is an id, and no alias
LISTED = 10


def flow_advice(
    request: pb.StartFlowRequest, backends: Sequence[pb.Backend], flags: str, backend_named: str = ""
) -> str:
    """Returns what to type instead of the flow of a start that was refused for it, on the backend if one was named."""
    if ":" in request.flow:
        return "The flow comes first, then the addresses: startflow start FLOW URN"
    asked = [backend for backend in backends if (request.backend or backend_named) in {"", backend.name}]
    owners = {alias: backend.name for backend in asked for alias in backend.flow_aliases}
    if request.flow in owners:
        return ""
    near = get_close_matches(request.flow, owners)
    shown = near or sorted(owners)[:LISTED]
    names = ", ".join(f"{alias} (of {owners[alias]})" for alias in shown)
    said = ""
    if len(request.flow) < SHORTEST_ID:
        said = f"There is no alias {request.flow}; {'near it' if near else 'there are'}: {names or 'none'}. "
    holders = {owners[alias] for alias in near} or {backend.name for backend in asked}
    backend = holders.pop() if len(holders) == 1 else "BACKEND"
    return f"{said}What can be started: startflow flows {backend}{flags}"


def filter_advice(selection: pb.FlowStartFilter, backends: Sequence[pb.Backend]) -> str:
    """Returns why nothing may match a filter: a backend that there is not, or an alias where an id belongs."""
    there_are = {backend.name for backend in backends}
    if unknown := [name for name in selection.backends if name not in there_are]:
        return f"--backend: there is no {', '.join(unknown)}; there are: {', '.join(sorted(there_are)) or 'none'}."
    for backend in backends:
        if meant := backend.flow_aliases.get(selection.flow):
            return (
                f"--flow: {selection.flow} is an alias; starts have the flow's id, which is {meant} on {backend.name}."
            )
    return ""
