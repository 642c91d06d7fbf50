"""Twilio's Event Streams: posts that tell of the beginning and the end of executions.

1. At least once and in no order: what a post tells is a sighting like any other.
2. The primary auth token signs the URL as Twilio knows it, and the URL has the hash of the body. So it is known whether
   a body is worth reading before any of it was, and the body is parsed only if it is the one that was signed.
3. Nothing of a post is ever taken for an end but what says so twice: by its type, and by its `status`. The documented
   example of a beginning has the status `ended`.
"""

from __future__ import annotations

import hmac
import re
from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from gateway.adapters import reading, twilio_reading
from gateway.adapters.base import Distrusted, Heard, Unsure
from gateway.model import Cause, State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.adapters.base import Push

STARTED = "com.twilio.studio.flow.execution.started"
ENDED = "com.twilio.studio.flow.execution.ended"
ID = re.compile(r"[!-~]{1,64}")  # the execution's SID, so the beginning and the end share one; or an `EZ…`
SIGNATURE = "x-twilio-signature"
BODY_HASH = "bodySHA256"
DEFAULT_PORTS = {"http": ":80", "https": ":443"}
ORIGIN = re.compile(r"(?P<scheme>https?)://(?P<host>\[[^]/?#]*\]|[^:/?#]*)(?P<port>:[0-9]+)?(?P<rest>.*)", re.DOTALL)

NO_TOKEN = "auth_token is not set, by which events are signed; it may be given beside api_key"  # noqa: S105
NO_HASH = f"no single {BODY_HASH} in the URL: not from Event Streams, or something in between changed the URL"
NO_SIGNATURE = "no X-Twilio-Signature: not from Twilio, or something in between removed it"
BAD_SIGNATURE = (
    "not signed with auth_token, which must be the primary one, or for another URL: set public_url to what the address"
    " of the sink begins with"
)
BAD_BODY = "the body is not the one that was signed: something in between changed it"


def hear(push: Push, *, token: str, account: str) -> tuple[Heard, ...] | Distrusted | Unsure:
    """Reads a post; `token` is empty if it is not known. What is another account's, or no execution, is passed over."""
    if doubt := _doubt(push, token):
        return Distrusted(why=doubt, may_be_ours=SIGNATURE in push.headers)
    if push.body is None:
        return ()
    told = reading.value_in(push.body)
    if not isinstance(told, list | dict):
        return Unsure(reason="not a JSON array or object", cause=Cause.UNREADABLE)
    return tuple(_heard(told if isinstance(told, list) else [told], account))


def sign(url: str, token: str) -> bytes:
    """Signs a URL as Twilio does for a body that is no form."""
    return b64encode(hmac.digest(token.encode(), _bytes(url), "sha1"))


def _doubt(push: Push, token: str) -> str:
    """Says why a post may not be Twilio's; empty if it is, as far as it was read."""
    if not token:
        return NO_TOKEN
    hashes = [value for name, value in parse_qsl(push.url.partition("?")[2], True) if name == BODY_HASH]  # noqa: FBT003
    if len(hashes) != 1:
        return NO_HASH
    if SIGNATURE not in push.headers:
        return NO_SIGNATURE
    given = _bytes(push.headers[SIGNATURE])
    if not any(hmac.compare_digest(sign(url, token), given) for url in _spellings(push.url)):
        return BAD_SIGNATURE
    if push.body is None or hmac.compare_digest(sha256(push.body).hexdigest().encode(), _bytes(hashes[0])):
        return ""
    return BAD_BODY


def _spellings(url: str) -> list[str]:
    """Lists the URL as it is, without its port, and with the default one: Twilio signs any of them."""
    found = ORIGIN.fullmatch(url)
    if found is None:
        return [url]
    scheme, host, _, rest = found.groups()
    return [url, f"{scheme}://{host}{rest}", f"{scheme}://{host}{DEFAULT_PORTS[scheme]}{rest}"]


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
