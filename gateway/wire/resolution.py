"""What an operator says of what is uncertain or stalled."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gateway.model import Resolution, Verdict
from gateway.wire.checks import broken
from gateway.wire.status import invalid

if TYPE_CHECKING:
    from startflow.v1 import start_flow_service_pb2 as pb

    from gateway.errors import Violation

VERDICTS = {"was_sent": Verdict.WAS_SENT, "was_not_sent": Verdict.WAS_NOT_SENT, "give_up": Verdict.GIVE_UP}

_dispatch_id = re.compile(r"[0-9a-z]{1,64}-[0-9]{1,9}").fullmatch
_external_id = re.compile(r"(?=.*[0-9A-Za-z])[!-~]{1,64}").fullmatch  # it goes into paths, where dots alone lead astray


def read_resolution(request: pb.ResolveFlowStartRequest) -> Resolution:
    """Reads an operator's word. Raises `InvalidRequest` with every bad field."""
    violations: list[Violation] = []
    if request.dispatch_id and not _dispatch_id(request.dispatch_id):
        rule = "is not the id of a dispatch, which is its start's, a hyphen and a number: pass one on from Recipient."
        violations.append(broken("dispatch_id", rule))
    said = request.WhichOneof("resolution")
    if said is None:
        rule = (
            "is missing: say was_sent with the backend's id if the backend has it, was_not_sent to send it again, or "
            "give_up to end it as failed."
        )
        violations.append(broken("resolution", rule))
        raise invalid(violations)
    if said == "was_sent":
        _check_external_id("was_sent.external_id", request.was_sent.external_id, violations)
    if violations:
        raise invalid(violations)
    return Resolution(verdict=VERDICTS[said], dispatch_id=request.dispatch_id, external_id=request.was_sent.external_id)


def _check_external_id(field: str, text: str, violations: list[Violation]) -> None:
    if not text:
        violations.append(broken(field, "is missing: copy it from the backend, such as a uuid or FN…."))
    elif not _external_id(text):
        rule = (
            "is not 1 to 64 printable ASCII characters without spaces, a letter or digit among them: copy the "
            "backend's own id, not its address."
        )
        violations.append(broken(field, rule))
