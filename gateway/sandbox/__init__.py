"""RapidPro and Twilio Studio, simulated over real HTTP on loopback.

The contract:

1. It imports nothing of the gateway, so what it says about the gateway can be believed.
2. What the two APIs are known to do, it does: bodies, headers, key order, paging, limits, and what they hide.
3. Time is a function it is given. A start ends `duration` after it was accepted, whoever looks or not.
4. Its journal has every request at its arrival, every creation at its commit, and every answer, in order.
   With a file, a sandbox that is started again goes on from where it was; faults and spent rates are forgotten.
5. Faults come when they are asked for, and only then: see `faults.py`.

`async with Sandbox(settings) as sandbox` in a process, `python -m gateway.sandbox` as one.
"""

from gateway.sandbox.server import CannotStart, Sandbox, announcement, run
from gateway.sandbox.settings import (
    SANDBOX_RAPIDPRO_AGENT_TOKEN,
    SANDBOX_RAPIDPRO_EMAIL,
    SANDBOX_RAPIDPRO_TOKEN,
    SANDBOX_TWILIO_ACCOUNT_SID,
    SANDBOX_TWILIO_API_KEY,
    SANDBOX_TWILIO_API_SECRET,
    SANDBOX_TWILIO_AUTH_TOKEN,
    SANDBOX_TWILIO_SHARED_KEY,
    SandboxSettings,
)

__all__ = [
    "SANDBOX_RAPIDPRO_AGENT_TOKEN",
    "SANDBOX_RAPIDPRO_EMAIL",
    "SANDBOX_RAPIDPRO_TOKEN",
    "SANDBOX_TWILIO_ACCOUNT_SID",
    "SANDBOX_TWILIO_API_KEY",
    "SANDBOX_TWILIO_API_SECRET",
    "SANDBOX_TWILIO_AUTH_TOKEN",
    "SANDBOX_TWILIO_SHARED_KEY",
    "CannotStart",
    "Sandbox",
    "SandboxSettings",
    "announcement",
    "run",
]
