"""Who may ask RapidPro, how often, and what a request carries: all that comes before the answer."""

from __future__ import annotations

import math
import uuid
from base64 import b64decode
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from gateway.sandbox.exchange import Refused, parse
from gateway.sandbox.settings import SANDBOX_RAPIDPRO_AGENT_TOKEN, SANDBOX_RAPIDPRO_EMAIL, SANDBOX_RAPIDPRO_TOKEN

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.sandbox.exchange import Received
    from gateway.sandbox.rapidpro.generations import Ways

WINDOW = timedelta(hours=1)
NOT_PERMITTED = {"detail": "You do not have permission to perform this action."}


class Throttle:
    """A sliding window over the last hour, counted as Django REST framework does."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._seen: deque[datetime] = deque()

    def change(self, limit: int | None) -> None:
        """Changes how many are admitted; what was counted stays counted."""
        self._limit = limit

    def admit(self, at: datetime) -> None:
        """Counts a request, or raises Refused saying when the oldest counted one leaves the window."""
        if not self._limit:
            return
        while self._seen and self._seen[0] <= at - WINDOW:
            self._seen.popleft()
        if len(self._seen) >= self._limit:
            seconds = math.ceil((self._seen[0] + WINDOW - at).total_seconds())
            unit = "second" if seconds == 1 else "seconds"
            detail = f"Request was throttled. Expected available in {seconds} {unit}."
            raise Refused(429, {"detail": detail}, {"Retry-After": str(seconds)})
        self._seen.append(at)


def accepts_json(request: Received) -> bool:
    """Says whether the Accept header leaves room for JSON."""
    accepted = [part.partition(";")[0].strip() for part in request.headers.get("Accept", "").split(",")]
    return bool({"", "*/*", "application/*", "application/json"}.intersection(accepted))


def authenticate(authorization: str) -> None:
    """Checks a token, given by itself or as the password of its user. Raises Refused, always with 403."""
    scheme, *credentials = authorization.split() or [""]
    if scheme.lower() not in ("token", "basic"):
        raise Refused(403, {"detail": "Authentication credentials were not provided."})
    header = "token" if scheme.lower() == "token" else "basic"
    if len(credentials) != 1:
        problem = "Token string should not contain spaces." if credentials else "No credentials provided."
        raise Refused(403, {"detail": f"Invalid {header} header. {problem}"})
    if header == "token" and credentials[0] == SANDBOX_RAPIDPRO_AGENT_TOKEN:
        raise Refused(403, NOT_PERMITTED)
    if header == "token" and credentials[0] != SANDBOX_RAPIDPRO_TOKEN:
        raise Refused(403, {"detail": "Invalid token"})
    if header == "basic" and _decoded(credentials[0]) != f"{SANDBOX_RAPIDPRO_EMAIL}:{SANDBOX_RAPIDPRO_TOKEN}":
        raise Refused(403, {"detail": "Invalid token or email"})


def _decoded(credentials: str) -> str | None:
    try:
        return b64decode(credentials).decode()
    except ValueError:
        return None


def read_uuid(request: Received, ways: Ways) -> str | None:
    """Reads `?uuid=`. Raises Refused for what is not a UUID, the empty one too."""
    asked = request.parameters().get("uuid")
    if asked is None:
        return None
    try:
        return str(uuid.UUID(asked[ways.which_uuid]))
    except ValueError:
        raise Refused(400, {"detail": ways.bad_uuid.format(asked[ways.which_uuid])}) from None


def read_id(request: Received, ways: Ways) -> int | None:
    """Reads `?id=` where it is a filter; 0 is none. Raises Refused for what is not a number."""
    asked = request.parameters().get("id", [""])[-1] if ways.reads_id else ""
    try:
        return int(asked or 0) or None
    except ValueError:
        raise Refused(400, {"detail": "Value for id must be an integer"}) from None


def read_body(request: Received) -> dict[str, Any]:
    """Reads a JSON object or a form. Raises Refused for any other body or content type, RecursionError if too deep."""
    content_type = request.headers.get("Content-Type", "")
    media_type = content_type.partition(";")[0].strip().lower()
    if not request.body and not media_type:
        return {}
    if media_type == "application/x-www-form-urlencoded":
        return _read_form(request.body)
    if media_type != "application/json":
        raise Refused(415, {"detail": f'Unsupported media type "{content_type}" in request.'})
    if not request.body:
        return {}
    try:
        body = parse(request.body.decode(), number=float)  # 1e400 has an error of its own
    except ValueError as error:
        raise Refused(400, {"detail": f"JSON parse error - {error}"}) from None
    if not isinstance(body, dict):
        raise Refused(400, {"non_field_errors": ["Request body should be a single JSON object"]})
    return body


def _read_form(body: bytes) -> dict[str, Any]:
    """Reads a form: lists by repeating a key; a box that is not there is not ticked."""
    form = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True)
    lists = ("contacts", "groups", "urns")
    unticked = {"restart_participants": False, "exclude_active": False}
    return unticked | {name: values if name in lists else values[-1] for name, values in form.items()}
