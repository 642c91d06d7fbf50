"""The faults that have a name, in each backend's own words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway.sandbox.twilio.access import twilio_error

if TYPE_CHECKING:
    from collections.abc import Callable

HTML_502 = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
    "<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)
FIREWALL = (
    "<html>\r\n<head><title>403 Forbidden</title></head>\r\n<body>\r\n"
    "<center><h1>403 Forbidden</h1></center>\r\n<p>The request was blocked by a security policy.</p>\r\n"
    "</body>\r\n</html>\r\n"
)
HTML = {"Content-Type": "text/html"}
OF_STARTS = {"Allow": "GET, POST, HEAD, OPTIONS", "Content-Language": "en-us"}  # what RapidPro's own answers carry
RAPIDPRO_500 = {
    "status": 500,
    "headers": {"Content-Type": "text/html; charset=utf-8"} | OF_STARTS,
    "body": "Server Error. Site administrators have been notified.",
}
SUSPENDED = (
    "Sorry, your workspace is currently suspended. To re-enable starting flows and sending messages,"
    " please contact support."
)


def _twilio(status: int, code: int, message: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    return {"status": status, "headers": headers or {}, "body": twilio_error(status, code, message)}


def _failure(backend: str) -> dict[str, Any]:
    return RAPIDPRO_500 if backend == "rapidpro" else _twilio(500, 20500, "Internal Server Error")


def _throttled(backend: str, *, seconds: int | None) -> dict[str, Any]:
    headers = {} if seconds is None else {"Retry-After": str(seconds)}
    if backend == "twilio":
        return _twilio(429, 20429, "Too Many Requests", headers)
    expected = "" if seconds is None else f" Expected available in {seconds} second{'s' * (seconds != 1)}."
    return {"status": 429, "headers": OF_STARTS | headers, "body": {"detail": f"Request was throttled.{expected}"}}


def _unauthorized(backend: str) -> dict[str, Any]:
    if backend == "twilio":
        return _twilio(401, 20003, "Authenticate")
    return {"status": 403, "headers": OF_STARTS, "body": {"detail": "Invalid token"}}


def _suspended(backend: str) -> dict[str, Any]:
    if backend == "twilio":
        return _twilio(403, 20005, "Account not active")
    return {"status": 400, "headers": OF_STARTS, "body": {"non_field_errors": [SUSPENDED]}}


def _create(*, commit: bool | float, answer: object) -> dict[str, Any]:
    return {"verb": "create", "commit": commit, "answer": answer}


PRESETS: dict[str, Callable[[str], dict[str, Any]]] = {
    "500_after_commit": lambda backend: _create(commit=True, answer=_failure(backend)),
    "500_before_commit": lambda backend: _create(commit=False, answer=_failure(backend)),
    "reset_after_commit": lambda _: _create(commit=True, answer="reset"),
    "reset_before_commit": lambda _: _create(commit=False, answer="reset"),
    "late_commit": lambda _: _create(commit=2, answer="reset"),
    "hang": lambda _: _create(commit=True, answer="hang"),
    "hang_before_commit": lambda _: _create(commit=False, answer="hang"),
    "truncated_201": lambda _: _create(commit=True, answer="truncated"),
    "html_502": lambda _: {
        "commit": False,
        "answer": {"status": 502, "headers": HTML, "body": HTML_502},
    },
    "mailroom_down": lambda backend: _create(commit=False, answer=_failure(backend)),
    "firewall": lambda _: _create(commit=False, answer={"status": 403, "headers": HTML, "body": FIREWALL}),
    "without_params": lambda backend: {
        "answer": {"omit": ["params", "extra"] if backend == "rapidpro" else ["context"]}
    },
    "blank_params": lambda backend: {
        "answer": {"patch": {"params": {}, "extra": {}} if backend == "rapidpro" else {"context": {}}}
    },
    "another_201": lambda _: _create(commit=True, answer="another"),
    "unnamed_workspace": lambda _: {"answer": {"drop": ["X-Temba-Workspace", "X-Temba-Org"]}},
    "throttled": lambda backend: {"commit": False, "answer": _throttled(backend, seconds=1)},
    "throttled_for_long": lambda backend: {"commit": False, "answer": _throttled(backend, seconds=2099)},
    "throttled_without_retry_after": lambda backend: {
        "commit": False,
        "answer": _throttled(backend, seconds=None),
    },
    "unauthorized": lambda backend: {"commit": False, "answer": _unauthorized(backend)},
    "suspended": lambda backend: _create(commit=False, answer=_suspended(backend)),
    "null_status": lambda _: {"answer": {"patch": {"status": None}}},
    "lag": lambda _: {"list_lag": 5},
}
