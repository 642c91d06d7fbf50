"""One command's conversation with the gateway: opened, and ended with the reason if a call fails for good.

gRPC and rich are imported once a command is to run, so that `--help` is quick.
"""
# ruff: noqa: PLC0415 - see above

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.cli import reaching
    from gateway.cli.access import Access
    from gateway.cli.client import CallFailed
    from gateway.cli.session import Session

RPC_FAILED = 3


@contextmanager
def conversing(access: Access, *, as_json: bool, timeout: float | None) -> Iterator[Session]:
    """Opens a conversation with the gateway, and ends the command if a call fails for good."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before gRPC is loaded: its core writes lines of its own
    from gateway.cli.client import CallFailed, Client, connect, is_near
    from gateway.cli.console import Console
    from gateway.cli.session import Session

    console = Console(sys.stdout, sys.stderr, readable=False if as_json else None)
    if access.token and not access.is_secure and not is_near(access.address):
        console.say(f"Without --tls or --ca, anybody between here and {access.address} can read the token.")
    metadata = (("authorization", f"Bearer {access.token}"),) if access.token else ()
    with connect(access.address, secure=access.is_secure, root=access.root) as channel:
        client = Client(channel, timeout=timeout, metadata=metadata, say=console.say, wait=console.wait)
        try:
            yield Session(client, console, flags=access.flags, timeout=timeout)
        except CallFailed as failed:
            console.fail(failed, access.address, _why(failed, access))
            raise typer.Exit(RPC_FAILED) from None


def _why(failed: CallFailed, access: Access) -> reaching.Finding | None:
    """Returns why there was no connection to the gateway, if that is what a call failed for."""
    from gateway.cli import reaching

    if not failed.problem.is_unconnected or reaching.goes_by_proxy(access.address):
        return None
    return reaching.why_unreachable(access.address, secure=access.is_secure, root=access.root)
