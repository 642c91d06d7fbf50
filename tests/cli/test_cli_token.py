"""Tokens on the command line: made once, and brought from where they are kept."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING

import pytest
import trustme
import typer
from typer.testing import CliRunner

from gateway.cli.access import Access
from gateway.cli.app import app
from gateway.config.settings import Settings
from gateway.tenants.clients import hash_token

if TYPE_CHECKING:
    from pathlib import Path

NEAR = "127.0.0.1:50051"


def test_a_token_comes_with_what_to_paste() -> None:
    """The first line is the token; the others are configuration, with its hash and not itself."""
    made = [CliRunner().invoke(app, ["token", "--tenant", "clinic"]) for _ in range(2)]
    token, _, rest = made[0].stdout.partition("\n")
    settings = Settings.model_validate(tomllib.loads(rest))

    assert [0, 0] == [each.exit_code for each in made]
    assert token != made[1].stdout.partition("\n")[0]
    assert token not in rest
    assert [("clinic", (hash_token(token),))] == [(each.tenant, each.token_sha256) for each in settings.clients]


def test_a_token_may_do_what_its_scopes_say() -> None:
    """The lines to paste have them; one that there is not is refused, and the others are named."""
    made = CliRunner().invoke(app, ["token", "--scopes", "read, admin"])
    wrong = CliRunner().invoke(app, ["token", "--scopes", "read,write"])
    settings = Settings.model_validate(tomllib.loads(made.stdout.partition("\n")[2]))

    assert [{"read", "admin"}] == [set(each.scopes) for each in settings.clients]
    assert (2, "") == (wrong.exit_code, wrong.stdout)
    assert "error: --scopes: 'write' is not a scope. There are: start, read, admin, operator.\n" == wrong.stderr


def test_newcomer_27_a_token_that_may_do_nothing_is_not_made() -> None:
    """`startflow check` would refuse the lines to paste."""
    made = CliRunner().invoke(app, ["token", "--scopes", "operator"])

    assert (2, "") == (made.exit_code, made.stdout)
    assert "--scopes read,operator" in made.stderr


def test_a_tenant_that_is_no_name_is_refused() -> None:
    """Before a token is made."""
    made = CliRunner().invoke(app, ["token", "--tenant", 'x"\n'])

    assert 2 == made.exit_code
    assert "is not a name" in made.stderr
    assert "" == made.stdout
    empty = CliRunner().invoke(app, ["token", "--tenant", ""])
    assert "error: --tenant: '' is not a name; " in empty.stderr  # newcomer 10
    blank = CliRunner().invoke(app, ["token", "--scopes", "start read"])
    assert "'start read' is not a scope. " in blank.stderr
    assert blank.stderr.endswith("Separate them by commas.\n")


def test_a_token_is_read_from_a_file(tmp_path: Path) -> None:
    """Which wins over the variable; what to paste names the file, never the token."""
    kept, root = tmp_path / "a token", tmp_path / "root.pem"
    kept.write_text("sf_kept\n")
    root.write_bytes(trustme.CA().cert_pem.bytes())
    access = Access(NEAR, "sf_other", kept, tls=False, ca=root)

    assert ("sf_kept", True, root.read_bytes()) == (access.token, access.is_secure, access.root)
    assert f" --token-file '{kept}' --ca {root}" == access.flags
    plain = Access(NEAR, "t", None, tls=False, ca=None)
    assert (False, None, "") == (plain.is_secure, plain.root, plain.flags)


@pytest.mark.parametrize("token", ["sf_é", "two words", "two\nlines"])
def test_what_cannot_be_sent_is_refused_without_being_shown(token: str, capsys: pytest.CaptureFixture[str]) -> None:
    """GRPC would fail with less."""
    with pytest.raises(typer.Exit):
        Access(NEAR, token, None, tls=False, ca=None)
    said = capsys.readouterr().err

    assert "This is not a token" in said
    assert token not in said


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Of a token, or of a root."""
    for options in (["--token-file"], ["--ca"]):
        called = CliRunner().invoke(app, ["backends", *options, str(tmp_path / "absent")])

        assert 2 == called.exit_code
        assert f"{tmp_path / 'absent'} cannot be read: No such file" in called.stderr


def test_a_token_that_leaves_the_machine_in_the_clear_is_warned_of() -> None:
    """Only then; the call is made."""
    command = ["backends", "--timeout", "0.2", "--token", "sf_t0ps3cret", "--address"]
    far = CliRunner().invoke(app, [*command, "gateway.invalid:1"])
    near = CliRunner().invoke(app, [*command, "127.0.0.1:1"])

    assert "anybody between here and gateway.invalid:1 can read the token" in far.stderr
    assert "can read the token" not in near.stderr
    assert "t0ps3cret" not in far.stderr + far.stdout + near.stderr
