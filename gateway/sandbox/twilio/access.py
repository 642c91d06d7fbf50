"""Who may ask Studio, how often, and what a request carries: all that comes before the answer."""

from __future__ import annotations

from base64 import b64decode
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from gateway.sandbox.exchange import Refused, parse
from gateway.sandbox.settings import (
    SANDBOX_TWILIO_ACCOUNT_SID,
    SANDBOX_TWILIO_API_KEY,
    SANDBOX_TWILIO_API_SECRET,
    SANDBOX_TWILIO_AUTH_TOKEN,
)

if TYPE_CHECKING:
    from datetime import datetime

    from gateway.sandbox.exchange import Received

PASSWORDS = {
    SANDBOX_TWILIO_ACCOUNT_SID: SANDBOX_TWILIO_AUTH_TOKEN,
    SANDBOX_TWILIO_API_KEY: SANDBOX_TWILIO_API_SECRET,
}


def twilio_error(status: int, code: int, message: str) -> dict[str, Any]:
    """Builds the body Studio gives an error."""
    return {
        "code": code,
        "message": message,
        "more_info": f"https://www.twilio.com/docs/errors/{code}",
        "status": status,
    }


def refusal(status: int, code: int, message: str, headers: dict[str, str] | None = None) -> Refused:
    """Builds a refusal in Studio's words."""
    return Refused(status, twilio_error(status, code, message), headers)


def not_permitted() -> Refused:
    """Builds the refusal of a restricted key that lacks a permission."""
    return refusal(403, 20003, "Authorization Error - the API key does not have the permission for this request")


def not_found(path: str) -> Refused:
    """Builds Studio's 404, which it also gives for a sid that is not one."""
    return refusal(404, 20404, f"The requested resource {path} was not found")


class Bucket:
    """So many creates a second, with a burst of one second's worth; what is refused costs nothing."""

    def __init__(self, per_second: float | None) -> None:
        self._per_second = per_second
        self._left = per_second or 0.0
        self._at: datetime | None = None

    def take(self, at: datetime) -> bool:
        """Takes one, if there is one left."""
        if not self._per_second:
            return True
        if self._at is not None:
            gained = (at - self._at).total_seconds() * self._per_second
            self._left = min(self._left + gained, max(self._per_second, 1.0))
        self._at = at
        if self._left < 1:
            return False
        self._left -= 1
        return True


def authenticate(authorization: str, *, explains: bool) -> None:
    """Checks account sid and auth token, or an API key and its secret. Raises Refused with 401.

    `explains` adds the `detail` that some of Twilio's APIs had in a 401.
    """
    objection = _objection(authorization)
    if objection:
        refused = refusal(401, 20003, objection, {"WWW-Authenticate": 'Basic realm="Twilio API"'})
        if explains:
            refused.document["detail"] = "Your AccountSid or AuthToken was incorrect."
        raise refused


def _objection(authorization: str) -> str:
    """Says what is wrong with credentials, or nothing."""
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        return "Authentication Error - No credentials provided"
    try:
        username, _, password = b64decode(credentials).decode().partition(":")
    except ValueError:
        username = password = ""
    if username not in PASSWORDS:
        return "Authentication Error - invalid username"
    return "" if PASSWORDS[username] == password else "Authenticate"


def read_form(request: Received) -> dict[str, str]:
    """Decodes a form. Any other content type leaves it empty, so that a required field is missed."""
    content_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if content_type != "application/x-www-form-urlencoded":
        return {}
    form = parse_qs(request.body.decode("utf-8", "replace"), keep_blank_values=True)
    return {name: values[-1] for name, values in form.items()}


def required(form: dict[str, str], name: str) -> str:
    """Reads a field that has to be there and not be empty."""
    if not form.get(name):
        raise refusal(400, 20001, f"Missing required parameter {name} in the post body")
    return form[name]


def read_parameters(text: str) -> Any:  # noqa: ANN401 - any JSON
    """Reads the JSON text of `Parameters`; a string in it stays one, as when a caller encodes twice."""
    try:
        return parse(text) if text else {}
    except (ValueError, RecursionError):
        raise refusal(400, 20001, "Invalid Parameters: not valid JSON") from None
