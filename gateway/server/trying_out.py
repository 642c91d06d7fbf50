"""The sandbox beside a gateway, and lines to paste, for whoever tries it out."""

from __future__ import annotations

import shlex
import shutil
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway import sandbox
from gateway.config.settings import BackendSettings

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from gateway.config.settings import Settings

DEFAULT_ADDRESS = "127.0.0.1:50051"  # where a client looks if it is not told


async def start_sandbox(settings: Settings, stack: AsyncExitStack) -> sandbox.Sandbox:
    """Starts both simulated backends, until the stack is closed."""
    path = Path("var/sandbox.db") if settings.store_url else settings.store_path
    journal = path.with_suffix(".sandbox.jsonl")  # so that its starts outlive a restart, as real ones do
    journal.parent.mkdir(parents=True, exist_ok=True)
    chosen = sandbox.SandboxSettings(journal=journal, rapidpro_requests_per_hour=None)
    return await stack.enter_async_context(sandbox.Sandbox(chosen))


def sandbox_backends(simulated: sandbox.Sandbox) -> dict[str, BackendSettings]:
    """Configures both simulated backends; they are swept often, because their starts take seconds."""
    quick: dict[str, Any] = {"sweep_interval": timedelta(seconds=0.25), "quiet_window": timedelta(seconds=5)}
    return {
        "rapidpro": BackendSettings.model_validate(
            {
                "kind": "rapidpro",
                "url": simulated.rapidpro_url,
                "token": sandbox.SANDBOX_RAPIDPRO_TOKEN,
                "rate": "100/second",
                **quick,
            }
        ),
        "twilio": BackendSettings.model_validate(
            {
                "kind": "twilio",
                "url": simulated.twilio_url,
                "account_sid": sandbox.SANDBOX_TWILIO_ACCOUNT_SID,
                "auth_token": sandbox.SANDBOX_TWILIO_AUTH_TOKEN,
                "shared_key": sandbox.SANDBOX_TWILIO_SHARED_KEY,
                "sender": "+18007654321",
                **quick,
            }
        ),
    }


def sandbox_lines(simulated: sandbox.Sandbox) -> list[str]:
    """Says where they are."""
    backends = f"Sandbox: RapidPro at {simulated.rapidpro_url}, Twilio at {simulated.twilio_url}"
    return [f"{backends}; faults and journal at {simulated.control_url}"]


def examples(address: str) -> list[str]:
    """Shows lines to paste."""
    quoted = shlex.quote(address)  # brackets of IPv6 are a pattern to some shells
    grpcurl, need = _grpcurl()
    call = f"  {grpcurl} -plaintext -d '%s' {quoted} startflow.v1.StartFlowService/%s"
    seed = '{"flow":"f5901b62-ba76-4003-9c62-72fdacc1b7b7","urns":["tel:+12065551212"],"params":{"first_name":"Ryan"}}'
    elsewhere = "" if address == DEFAULT_ADDRESS else f" --address {quoted}"
    command = shlex.quote(sys.argv[0]) if sys.argv[0].endswith("startflow") else "startflow"
    return [
        f"Paste into another shell{need}:",
        call % (seed, "StartFlow"),
        call % ("{}", "WatchFlowStarts"),
        f"  {command} start FW{'a' * 32} tel:+18001234567 --param first_name=Foo --watch{elsewhere}",
    ]


def _grpcurl() -> tuple[str, str]:
    """Returns how grpcurl is called here, and what to say if it is nowhere: a shell finds none that is in a .venv."""
    beside = Path(sys.argv[0]).with_name("grpcurl")
    if beside.is_file():
        return shlex.quote(str(beside)), ""
    missing = shutil.which("grpcurl") is None
    return "grpcurl", " (grpcurl is not installed here: https://github.com/fullstorydev/grpcurl)" if missing else ""
