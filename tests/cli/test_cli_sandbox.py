"""`startflow sandbox`: what it says when it cannot run, and when it does."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.sandbox import Sandbox, announcement

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("which", ["rapidpro", "twilio", "control"])
def test_newcomer_35_a_sandbox_says_which_of_its_ports_is_taken(which: str) -> None:
    """With the option that moves it; `[Errno 98]` names neither."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = CliRunner().invoke(app, ["sandbox", f"--{which}-listen", address])

    assert 1 == result.exit_code
    assert f"error: The sandbox cannot listen on {address}: Address already in use." in result.stderr
    assert f"--{which}-listen" in result.stderr


def test_newcomer_35_a_journal_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A sentence with the file and the option, and no number of an error."""
    result = CliRunner().invoke(app, ["sandbox", "--journal", str(tmp_path)])

    assert 1 == result.exit_code
    assert result.stderr.startswith(f"error: The journal {tmp_path} cannot be used: Is a directory.")


@pytest.mark.parametrize("url", ["nourl", "ftp://127.0.0.1/", "http://", "http://127.0.0.1:x/", "http://[::1/"])
def test_newcomer_35_events_are_posted_to_urls_only(url: str) -> None:
    """What can never be posted to is refused at once."""
    result = CliRunner().invoke(app, ["sandbox", "--twilio-events-url", url])

    assert (2, True) == (result.exit_code, result.stderr.startswith(f"error: --twilio-events-url: {url!r} is not"))


async def test_newcomer_35_each_line_to_paste_of_a_sandbox_says_what_it_is_for() -> None:
    """Three lines of curl with credentials in them look alike."""
    async with Sandbox() as sandbox:
        lines = announcement(sandbox, as_json=False).splitlines()

    assert ["# RapidPro", "# Twilio Studio", "# The control endpoint"] == [
        each.partition(":")[0] for each in lines[::2]
    ]
    assert all(each.startswith("curl http://127.0.0.1:") for each in lines[1::2])
