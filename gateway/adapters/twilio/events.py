"""Twilio's Event Streams: posts that tell of the beginning and the end of executions.

1. At least once and in no order: what a post tells is a sighting like any other.
2. The primary auth token signs the URL as Twilio knows it, and the URL has the hash of the body. So it is known whether
   a body is worth reading before any of it was, and the body is parsed only if it is the one that was signed.
   Where a Webhook Rule of the account matches the URL, a SharedKey signs in place of the token, and a header says so:
   then the token is not believed, and without the header the SharedKey is not.
3. Nothing of a post is ever taken for an end but what says so twice: by its type, and by its `status`. The documented
   example of a beginning has the status `ended`.
"""

from __future__ import annotations

import hmac
import re
from base64 import b64decode, b64encode
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, quote

from gateway.adapters import reading
from gateway.adapters.base import Distrusted, Heard, Unsure
from gateway.adapters.twilio import reading as twilio_reading
from gateway.model import Cause, State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.adapters.base import Push

STARTED = "com.twilio.studio.flow.execution.started"
ENDED = "com.twilio.studio.flow.execution.ended"
ID = re.compile(r"[!-~]{1,64}")  # the execution's SID, so the beginning and the end share one; or an `EZ…`
SIGNATURE = "x-twilio-signature"
SIGNED_BY = "x-twilio-webhooks-signature-settings"  # `key=…,algorithm=…`; without it, the auth token and SHA-1
ALGORITHMS = {"HMAC_SHA1": "sha1", "HMAC_SHA256": "sha256"}
BODY_HASH = "bodySHA256"
DEFAULT_PORTS = {"http": ":80", "https": ":443"}
ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<host>\[[^]/?#]*\]|[^:/?#]*)(?P<port>:[0-9]+)?(?P<rest>.*)", re.DOTALL)
LOGIN = re.compile(r"[^/?#@\s]+")  # user and password as they stand in a URL; never what would move its host

NO_TOKEN = "auth_token is not set, so the signatures of events cannot be checked; set it, also beside api_key"  # noqa: S105
NO_HASH = f"no single {BODY_HASH} in the URL: not from Event Streams, or something in between changed the URL"
NO_SIGNATURE = "no X-Twilio-Signature: not from Twilio, or something in between removed it"
NO_SHARED_KEY = "shared_key is not set, but a Webhook Rule of Twilio's makes one sign: set it to the SharedKey's secret"
NO_ALGORITHM = f"signed by an algorithm that is not known here; those that are: {', '.join(ALGORITHMS)}"
BAD_SIGNATURE = (
    "not signed with {key}, or for another URL: set public_url to what the address of the sink begins with, without"
    " user and password; if it has those, let the proxy pass the header Authorization on"
)
BAD_BODY = "the body is not the one that was signed: something in between changed it"


class Keys(NamedTuple):
    """What Twilio may sign with; empty if it is not known."""

    token: str  # the account's primary auth token
    shared: str  # a SharedKey's secret


def hear(push: Push, *, keys: Keys, account: str) -> tuple[Heard, ...] | Distrusted | Unsure:
    """Reads a post. What is another account's, or no execution, is passed over."""
    if doubt := _doubt(push, keys):
        return Distrusted(why=doubt, may_be_ours=SIGNATURE in push.headers)
    if push.body is None:
        return ()
    told = reading.value_in(push.body)
    if not isinstance(told, list | dict):
        return Unsure(reason="not a JSON array or object", cause=Cause.UNREADABLE)
    return tuple(_heard(told if isinstance(told, list) else [told], account))


def sign(url: str, secret: str, algorithm: str = "sha1") -> bytes:
    """Signs a URL as Twilio does for a body that is no form."""
    return b64encode(hmac.digest(secret.encode(), _bytes(url), algorithm))


def _doubt(push: Push, keys: Keys) -> str:
    """Says why a post may not be Twilio's; empty if it is, as far as it was read."""
    hashes = [value for name, value in parse_qsl(push.url.partition("?")[2], True) if name == BODY_HASH]  # noqa: FBT003
    if doubt := _unsigned(push, keys, hashes):
        return doubt
    if push.body is None or hmac.compare_digest(sha256(push.body).hexdigest().encode(), _bytes(hashes[0])):
        return ""
    return BAD_BODY


def _unsigned(push: Push, keys: Keys, hashes: list[str]) -> str:
    """Says why a URL may not be one that Twilio signed; empty if it is."""
    signed_by = push.headers.get(SIGNED_BY, "")
    secret, algorithm = (keys.shared, _algorithm(signed_by)) if signed_by else (keys.token, "sha1")
    if not secret:
        return NO_SHARED_KEY if signed_by else NO_TOKEN
    if len(hashes) != 1:
        return NO_HASH
    if SIGNATURE not in push.headers:
        return NO_SIGNATURE
    if not algorithm:
        return NO_ALGORITHM
    given = _bytes(push.headers[SIGNATURE])
    if any(hmac.compare_digest(sign(url, secret, algorithm), given) for url in _spellings(push)):
        return ""
    return BAD_SIGNATURE.format(key="shared_key" if signed_by else "auth_token, which must be the primary one")


def _algorithm(signed_by: str) -> str:
    """Reads which hash a SharedKey signed with: SHA-1 unless it is said, as Twilio's SDKs have it; empty if unknown."""
    said = dict(part.strip().partition("=")[::2] for part in signed_by.split(","))
    return ALGORITHMS.get(said.get("algorithm", "").strip().upper() or "HMAC_SHA1", "")


def _spellings(push: Push) -> list[str]:
    """Lists the URL as it is, without its port, and with the default one, each without a login and with the one sent.

    Twilio signs any of them. Event Streams sends what the URL has of user and password in each request's header.
    """
    found = ORIGIN.fullmatch(push.url)
    if found is None:
        return [push.url]
    scheme, host, port, rest = found.groups()
    return [
        f"{scheme}://{login}{host}{spelled}{rest}"
        for login in ("", *_logins(push.headers.get("authorization", "")))
        for spelled in dict.fromkeys((port or "", "", DEFAULT_PORTS[scheme]))
    ]


def _logins(header: str) -> list[str]:
    """Lists how the user and the password of HTTP Basic may stand in a URL, with what ends them."""
    scheme, _, encoded = header.partition(" ")
    try:
        login = b64decode(encoded.strip(), validate=True).decode() if scheme.lower() == "basic" else ""
    except ValueError:  # no base64, or no UTF-8
        return []
    quoted = ":".join(quote(part, safe="") for part in login.split(":", 1))
    spelled = dict.fromkeys(each for login in (login, quoted) for each in (login, login.removesuffix(":")))
    return [f"{each}@" for each in spelled if LOGIN.fullmatch(each)]


def _heard(told: list[object], account: str) -> Iterator[Heard]:
    for each in told:
        kind, data = reading.inside(each, "type"), reading.inside(each, "data")
        if kind not in (STARTED, ENDED) or not isinstance(data, dict) or twilio_reading.account(data) != account:
            continue
        sighting = twilio_reading.sighting({**data, "sid": data.get("execution_sid")})
        if sighting is not None:
            sighting = replace(sighting, state=State.STARTED) if kind == STARTED else sighting
            event_id = reading.text_of(reading.inside(each, "id"), ID)
            yield Heard(id=f"{kind} {event_id}" if event_id else "", sighting=sighting)


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")  # what came over the wire may hold bytes that are no text
