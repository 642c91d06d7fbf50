"""The adapters there are, by kind. A new backend is one file, one line here, and one table of cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.adapters.rapidpro.adapter import RapidPro
from gateway.adapters.twilio.adapter import Twilio

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.adapters.base import Account, Adapter

ADAPTERS: dict[str, Callable[[Account], Adapter]] = {
    "rapidpro": RapidPro,
    "twilio": Twilio,
}
