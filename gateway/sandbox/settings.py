"""What a sandbox is told before it starts, and the credentials it accepts."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from pathlib import Path

# Published on purpose: a simulator on loopback has nothing to protect.
SANDBOX_RAPIDPRO_EMAIL = "admin@sandbox.example"
SANDBOX_RAPIDPRO_TOKEN = "SANDBOX0RAPIDPRO0TOKEN0000000000000000ZZ"  # noqa: S105 - published
SANDBOX_RAPIDPRO_AGENT_TOKEN = "SANDBOX0AGENT0TOKEN000000000000000000ZZ"  # noqa: S105 - published; it may not start flows
SANDBOX_TWILIO_ACCOUNT_SID = "AC5a4db0c5a4db0c5a4db0c5a4db0c5a4d"
SANDBOX_TWILIO_AUTH_TOKEN = "5a4db0c0000000000000000000000000"  # noqa: S105 - published
SANDBOX_TWILIO_API_KEY = "SK5a4db0c5a4db0c5a4db0c5a4db0c5a4d"
SANDBOX_TWILIO_API_SECRET = "5a4db0cSecret0000000000000000000"  # noqa: S105 - published
SANDBOX_TWILIO_SHARED_KEY_ID = "webhooks_sharedkey_5a4db0c5a4db0c5a4db0c5a4db"
SANDBOX_TWILIO_SHARED_KEY = "5a4db0cShared0000000000000000000"  # published, as all of these

BusyScope = Literal["flow_to_from", "to_from", "flow_to", "to", "off"]
Generation = Literal["new", "old"]
USUAL = -1  # a rate: what that generation of RapidPro allows by default


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """Says where the three listeners are, what is kept, and how fast things go.

    Port 0 asks for any free port. A rate of None or 0 means unlimited.
    `rapidpro_generation` is `new` for TextIt and v10 on, `old` for the community's v9.0.
    `rapidpro_page_size` to `rapidpro_ahead` say how its database behaves: see `rapidpro/database.py`.
    With `seed` the ids and the probabilities of faults repeat from run to run; without it they never do.
    """

    rapidpro_listen: str = "127.0.0.1:0"
    twilio_listen: str = "127.0.0.1:0"
    control_listen: str = "127.0.0.1:0"
    journal: Path | None = None
    duration: timedelta = timedelta(seconds=3)
    seed: int | None = None
    rapidpro_generation: Generation = "new"
    rapidpro_requests_per_hour: int | None = USUAL  # 3,600 of the new generation, 2,500 of the old
    rapidpro_country: str = "US"  # of the workspace: how a telephone number without its country is read
    rapidpro_page_size: int = 250
    rapidpro_replicas: tuple[float, ...] = ()  # seconds that each read replica is behind
    rapidpro_transaction: tuple[float, float] = (0.0, 0.0)  # seconds, at the least and at the most
    rapidpro_ahead: float = 0.0  # seconds that the database's clock is ahead of the `Date` header
    twilio_largest_page: int = 1000
    twilio_creates_per_second: float | None = 20
    twilio_retry_after: bool = False  # Studio does not document one on its 429
    twilio_events_url: str | None = None  # where Event Streams posts go, `user:password@` or not; none: nowhere
    twilio_busy_scope: BusyScope = "to_from"  # across flows, as its page says; documented three ways, so a switch


def loopback_address(listen: str) -> tuple[str, int]:
    """Reads `host:port`, and refuses whatever is not on this machine.

    Raises ValueError with a sentence for the person who typed it.
    """
    host, colon, port = listen.rpartition(":")
    host = host.strip("[]")
    if not colon or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 - the last port
        raise ValueError(f"{listen!r} is not an address: write host:port, for example 127.0.0.1:8001.")
    if host == "localhost":
        return "127.0.0.1", int(port)
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ValueError(
            f"The sandbox listens on loopback only, not on {host!r}: it is a simulator and its"
            " credentials are published. Use 127.0.0.1 or [::1]."
        )
    return host, int(port)


def check_events_url(url: str) -> None:
    """Raises ValueError, with a sentence for the person who typed it, unless events can be posted to this URL."""
    try:
        read = urlsplit(url)
        is_one = read.scheme in ("http", "https") and bool(read.hostname) and read.port != 0
    except ValueError:
        is_one = False
    if not is_one:
        raise ValueError(
            f"--twilio-events-url: {url!r} is not a URL that events can be posted to: write it as"
            " http://127.0.0.1:8080/events/twilio/NAME."
        )
