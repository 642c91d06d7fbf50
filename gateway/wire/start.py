"""`StartFlowRequest` → what a caller asks for, checked."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.model import Recipients
from gateway.wire.checks import (
    BACKEND_NAME,
    LABELS,
    TEXT,
    broken,
    check_labels_size,
    check_name,
    check_request_id,
    check_text,
    read_labels,
    read_time,
)
from gateway.wire.fingerprint import (
    REFUSED,
    fingerprint,
    flag_form,
    labels_form,
    list_form,
    object_form,
    text_form,
    time_form,
)
from gateway.wire.params import read_params

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from startflow.v1 import start_flow_service_pb2 as pb

    from gateway.errors import Violation
    from gateway.model import Json

RECIPIENTS = 10_000

_ascii_urn = re.compile(r"[a-z][a-z0-9+.-]*:[!-~](?:[ -~]*[!-~])?").fullmatch
_scheme = re.compile(r"[a-z][a-z0-9+.-]*:").match


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    """What a caller asks for, before a backend has been chosen.

    `recipients` are as they were named, duplicates included: which those are is the backend's to say.
    With `violations` it is not fit to be recorded: what could not be read is then missing from the other fields.
    `bounds` are violations of limits that earlier versions did not have. Such a request can no longer be recorded, but
    it is read whole, so that a start recorded for it earlier is still found.
    `fingerprint` is of the request as sent; see `fingerprint.py`.
    """

    backend: str
    flow: str
    recipients: Recipients
    params: Mapping[str, Json] = field(repr=False)  # personal data; keys sorted at every level
    sender: str
    restart_participants: bool | None
    exclude_active: bool | None
    request_id: str
    labels: Mapping[str, str]
    schedule_at: datetime | None
    expire_at: datetime | None
    validate_only: bool
    fingerprint: str
    violations: tuple[Violation, ...]
    bounds: tuple[Violation, ...] = ()


def read_start(request: pb.StartFlowRequest) -> StartRequest:
    """Reads what a caller asks for. Never raises: every bad field is in `violations` or `bounds`."""
    violations: list[Violation] = []
    bounds: list[Violation] = []
    forms: dict[str, str] = {}
    backend, flow = _read_target(request, forms, violations)
    recipients = _read_recipients(request, forms, violations)
    params = _read_params(request, forms, violations, bounds)
    if sender := request.sender:
        forms["sender"] = text_form(sender)
        check_text("sender", sender, TEXT, violations)
    restart = _read_flag(request, "restart_participants", forms)
    exclude = _read_flag(request, "exclude_active", forms)
    if request_id := request.request_id:
        check_request_id("request_id", request_id, violations)
    schedule_at, expire_at = _read_times(request, forms, violations)
    return StartRequest(
        backend=backend,
        flow=flow,
        recipients=recipients,
        params=params,
        sender=sender,
        restart_participants=restart,
        exclude_active=exclude,
        request_id=request_id,
        labels=_read_labels(request, forms, violations, bounds),
        schedule_at=schedule_at,
        expire_at=expire_at,
        validate_only=request.validate_only,
        fingerprint=fingerprint(forms),
        violations=tuple(violations),
        bounds=tuple(bounds),
    )


def _read_target(request: pb.StartFlowRequest, forms: dict[str, str], violations: list[Violation]) -> tuple[str, str]:
    backend, flow = request.backend, request.flow
    if backend:
        forms["backend"] = text_form(backend)
        check_text("backend", backend, BACKEND_NAME, violations)
    if flow:
        forms["flow"] = text_form(flow)
        check_text("flow", flow, TEXT, violations)
    else:
        violations.append(broken("flow", "is missing: name a flow by the backend's id of it, or by an alias."))
    return backend, flow


def _read_recipients(request: pb.StartFlowRequest, forms: dict[str, str], violations: list[Violation]) -> Recipients:
    urns, contacts, groups = request.urns, request.contacts, request.groups
    count = len(urns) + len(contacts) + len(groups)
    if not count:
        violations.append(broken("urns", "is empty, and so are contacts and groups: name at least one recipient."))
        return Recipients()
    if count > RECIPIENTS:
        _refuse_crowd({"urns": len(urns), "contacts": len(contacts), "groups": len(groups)}, forms, violations)
        return Recipients()
    return Recipients(
        urns=_read_urns(_cut(urns), forms, violations) if urns else (),
        contacts=_read_names("contacts", _cut(contacts), forms, violations) if contacts else (),
        groups=_read_names("groups", _cut(groups), forms, violations) if groups else (),
    )


def _cut(texts: Iterable[str]) -> tuple[str, ...]:
    """Cuts what is too long to a length that is still refused, so that nothing costs more for its sake."""
    return tuple(text if len(text) <= TEXT else text[: TEXT + 1] for text in texts)


def _refuse_crowd(counts: Mapping[str, int], forms: dict[str, str], violations: list[Violation]) -> None:
    forms.update((name, f"{REFUSED}{count}") for name, count in counts.items() if count)
    together = sum(counts.values())
    rule = (
        f"brings the recipients to {together:,}, and one start takes at most {RECIPIENTS:,} (urns, contacts and groups "
        "together): split it into several starts, each with its own request_id."
    )
    violations.append(broken(max(counts, key=lambda name: counts[name]), rule))


def _read_urns(urns: tuple[str, ...], forms: dict[str, str], violations: list[Violation]) -> tuple[str, ...]:
    forms["urns"] = list_form(urns)
    for index, urn in enumerate(urns):
        if len(urn) > TEXT or not _ascii_urn(urn):
            _check_urn(f"urns[{index}]", urn, violations)
    return urns


def _check_urn(path: str, urn: str, violations: list[Violation]) -> None:
    scheme = _scheme(urn)
    address = urn[scheme.end() :] if scheme else ""
    if len(urn) > TEXT:
        violations.append(broken(path, f"is longer than {TEXT} characters: shorten it."))
    elif not address:
        rule = "is not scheme:path: write a scheme in lower case, a colon and the address, such as tel:+<number>."
        violations.append(broken(path, rule))
    elif not address.isprintable() or address != address.strip():
        rule = "has an address that holds unprintable characters, or spaces at an end: remove them."
        violations.append(broken(path, rule))


def _read_names(
    name: str, texts: tuple[str, ...], forms: dict[str, str], violations: list[Violation]
) -> tuple[str, ...]:
    forms[name] = list_form(texts)
    for index, text in enumerate(texts):
        check_name(f"{name}[{index}]", text, TEXT, violations)
    return texts


def _read_params(
    request: pb.StartFlowRequest, forms: dict[str, str], violations: list[Violation], bounds: list[Violation]
) -> dict[str, Json]:
    if not request.HasField("params"):
        return {}
    before = len(violations)
    params = read_params(request.params, violations, bounds)
    form = object_form(params)
    forms["params"] = form if len(violations) == before else REFUSED + form
    return params


def _read_flag(request: pb.StartFlowRequest, name: str, forms: dict[str, str]) -> bool | None:
    if not request.HasField(name):  # type: ignore[arg-type]
        return None
    value: bool = getattr(request, name)
    forms[name] = flag_form(value)
    return value


def _read_times(
    request: pb.StartFlowRequest, forms: dict[str, str], violations: list[Violation]
) -> tuple[datetime | None, datetime | None]:
    schedule_at = expire_at = None
    if request.HasField("schedule_time"):
        forms["schedule_time"] = time_form(request.schedule_time)
        schedule_at = read_time("schedule_time", request.schedule_time, violations)
    if request.HasField("expire_time"):
        forms["expire_time"] = time_form(request.expire_time)
        expire_at = read_time("expire_time", request.expire_time, violations)
    if schedule_at and expire_at and schedule_at >= expire_at:
        violations.append(
            broken("expire_time", "is not after schedule_time, so nothing could be sent: move one of them.")
        )
    return schedule_at, expire_at


def _read_labels(
    request: pb.StartFlowRequest, forms: dict[str, str], violations: list[Violation], bounds: list[Violation]
) -> dict[str, str]:
    labels = request.labels
    if not labels:
        return {}
    read = read_labels("labels", labels, violations)
    check_labels_size("labels", read, bounds)
    forms["labels"] = labels_form(read) if len(labels) <= LABELS else f"{REFUSED}{len(labels)}"
    return read
