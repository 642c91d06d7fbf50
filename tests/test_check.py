from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.cli.check import DEAF, OK, PROBLEM, WARNING, check, live
from gateway.config import loading
from gateway.sandbox import (
    SANDBOX_RAPIDPRO_TOKEN,
    SANDBOX_TWILIO_ACCOUNT_SID,
    SANDBOX_TWILIO_API_KEY,
    SANDBOX_TWILIO_API_SECRET,
    SANDBOX_TWILIO_AUTH_TOKEN,
    Sandbox,
    SandboxSettings,
)
from gateway.store import access
from gateway.store.engine import StoreUnusable
from gateway.store.sqlite import open_sqlite
from gateway.tenants.clients import hash_token
from tests.fakes import Wire, http

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from gateway.cli.check import Finding

FLOW, ARCHIVED = "f5901b62-ba76-4003-9c62-72fdacc1b7b7", "2f709286-11fe-41e1-84fe-40b01018a1ea"
TOKEN = SANDBOX_RAPIDPRO_TOKEN


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have configured a gateway."""
    for name in [name for name in os.environ if name.startswith("STARTFLOW_")]:
        monkeypatch.delenv(name)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Both backends."""
    async with Sandbox(SandboxSettings()) as simulated:
        yield simulated


class Written:
    """A configuration file in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "startflow.toml"
        self.top = f'store = "sqlite:///{directory}/starts.db"\n'

    def backend(self, name: str, kind: str, url: str, rest: str) -> None:
        """Adds a backend."""
        self.top += f'[backends.{name}]\nkind = "{kind}"\nurl = "{url}"\n{rest}\n'

    async def findings(self) -> list[Finding]:
        """Checks it."""
        self.path.write_text(self.top)
        return await check(loading.load(self.path), self.path)

    async def results(self) -> dict[str, tuple[str, str]]:
        """Checks it; returns what was found of what."""
        return {subject: (result, detail) for subject, result, detail in await self.findings()}


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """A file that configures a store."""
    return Written(tmp_path)


async def test_all_is_well(sandbox: Sandbox, written: Written, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both kinds of backends take their credentials and have the flows that are named, and nothing is started."""
    monkeypatch.setenv("A_TOKEN", TOKEN)
    (tmp_path / "auth").write_text(SANDBOX_TWILIO_AUTH_TOKEN)
    (tmp_path / "auth").chmod(0o600)
    aliases = f'token = {{ env = "A_TOKEN" }}\nflows = {{ registration = "{FLOW}" }}'
    written.backend("textit", "rapidpro", sandbox.rapidpro_url, aliases)
    login = f'account_sid = {{ env = "A_SID" }}\nauth_token = {{ file = "{tmp_path}/auth" }}'
    monkeypatch.setenv("A_SID", SANDBOX_TWILIO_ACCOUNT_SID)
    written.backend("studio", "twilio", sandbox.twilio_url, login)
    found = await written.results()

    assert {OK} == {result for result, _ in found.values()}
    assert ["configuration", "store", "clients"] == [*found][:3]
    assert ["backends.textit", "backends.textit.flows.registration", "backends.studio"] == [*found][3:]
    assert re.search(r"takes the credentials and has \d+ flows", found["backends.studio"][1])
    assert "Thrift Shop" == found["backends.textit.flows.registration"][1]
    assert {"startflow.toml", "auth"} == {each.name for each in tmp_path.iterdir()}  # noqa: ASYNC240 -- a test of files


async def test_what_is_wrong_with_a_backend_is_said(sandbox: Sandbox, written: Written) -> None:
    """A bad token, a wrong host, nobody there, settings that do not suffice, aliases that lead nowhere."""
    aliases = f'token = "{TOKEN}"\nflows = {{ none = "{"0" * 8}{FLOW[8:]}", old = "{ARCHIVED}" }}'
    written.backend("aliases", "rapidpro", sandbox.rapidpro_url, aliases)
    written.backend("token", "rapidpro", sandbox.rapidpro_url, 'token = "t0ps3cret"')
    written.backend("nobody", "rapidpro", "http://127.0.0.1:1", 'token = "t0ps3cret"')
    written.backend("lacking", "twilio", sandbox.twilio_url, 'auth_token = "t0ps3cret"')
    async with Wire(lambda _: http(200, b"<html>", "Content-Type: text/html")) as elsewhere:
        written.backend("elsewhere", "rapidpro", elsewhere.url, 'token = "t0ps3cret"')
        findings = await written.findings()
    found = {subject: (result, detail) for subject, result, detail in findings if result != WARNING}

    assert (PROBLEM, f"the backend has no flow {'0' * 8}{FLOW[8:]}: correct the id") == found[
        "backends.aliases.flows.none"
    ]
    assert (PROBLEM, "Archived Flow is archived: restore it, or name another flow") == found[
        "backends.aliases.flows.old"
    ]
    assert "rejects the configured credentials" in found["backends.token"][1]
    assert " Check `url`, `token`. It answered HTTP 4" in found["backends.token"][1]
    assert found["backends.nobody"][1].startswith("http://127.0.0.1:1 could not be read (connection refused")
    assert found["backends.nobody"][1].endswith("): check `url`, and that this machine reaches it")
    assert found["backends.lacking"][1].startswith("`account_sid` is missing")
    assert "unreadable list" in found["backends.elsewhere"][1]
    assert {PROBLEM} == {found[f"backends.{name}"][0] for name in ("token", "nobody", "lacking", "elsewhere")}
    assert "t0ps3cret" not in str(findings)
    for sending in ("after the delay", "sent again", "starts wait", "params or recipients"):  # newcomer 10
        assert sending not in str(findings)


async def test_newcomer_10_another_server_is_told_by_its_url(sandbox: Sandbox, written: Written) -> None:
    """A RapidPro that is looked for where Twilio listens, and one in whose place a firewall answers."""
    written.backend("swapped", "rapidpro", sandbox.twilio_url, f'token = "{TOKEN}"')
    async with Wire(lambda _: http(403, b"<html>no", "Content-Type: text/html")) as firewall:
        written.backend("firewall", "rapidpro", firewall.url, f'token = "{TOKEN}"')
        findings, url = await written.findings(), firewall.url
    found = {subject: detail for subject, result, detail in findings if result == PROBLEM}

    assert f"Check `url`, which is {url}." in found["backends.firewall"]
    assert "heck `url`" in found["backends.swapped"]
    for sending in ("after the delay", "sent again", "starts wait", "params or recipients"):
        assert sending not in str(findings)


KEY = f'account_sid = "{{}}"\napi_key = "{SANDBOX_TWILIO_API_KEY}"\napi_secret = "{SANDBOX_TWILIO_API_SECRET}"'


async def test_c5_a_restricted_key_and_a_key_of_another_account_are_named(sandbox: Sandbox, written: Written) -> None:
    """Which request, which answer, which account: the first can send, the second cannot."""
    written.backend("studio", "twilio", sandbox.twilio_url, KEY.format("AC" + "b" * 32))
    other = (await written.results())["backends.studio"]
    sandbox.configure("twilio", lacks=["flows"])
    restricted = (await written.results())["backends.studio"]

    assert PROBLEM == other[0]
    assert f"belong to the account {SANDBOX_TWILIO_ACCOUNT_SID}" in other[1]
    assert WARNING == restricted[0]
    assert "HTTP 403 to GET /v2/Flows." in restricted[1]
    assert "permission" in restricted[1]


async def test_what_is_unwise_is_a_warning(sandbox: Sandbox, written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret in the file, which the name of an account is not."""
    monkeypatch.setenv("STARTFLOW_BACKENDS__TEXTIT__IN_FLIGHT", "2")
    written.backend("textit", "rapidpro", sandbox.rapidpro_url, f'token = "{TOKEN}"')
    keys = (SANDBOX_TWILIO_ACCOUNT_SID, SANDBOX_TWILIO_API_KEY, SANDBOX_TWILIO_API_SECRET)
    rest = 'account_sid = "{}"\napi_key = "{}"\napi_secret = "{}"'.format(*keys)
    written.backend("studio", "twilio", sandbox.twilio_url, rest)
    found = await written.results()

    assert {"backends.textit.token", "backends.studio.api_secret"} == {
        subject for subject, (result, _) in found.items() if result == WARNING
    }
    assert PROBLEM not in [result for result, _ in found.values()]


@pytest.mark.parametrize(("place", "said"), [("startflow.toml/x.db", "is in the way of"), ("", "is a directory")])
async def test_a_store_that_cannot_be(written: Written, sandbox: Sandbox, place: str, said: str) -> None:
    """It is said before anything tries to write there."""
    written.top = f'store = "sqlite:///{written.path.parent}/{place}"\n'
    written.backend("textit", "rapidpro", sandbox.rapidpro_url, f'token = "{TOKEN}"')
    result, detail = (await written.results())["store"]

    assert PROBLEM == result
    assert said in detail


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("-----BEGIN CERTIFICATE-----\n" * 40, "is not a store of this gateway"),
        ("", ""),  # an empty file is one that serve fills
    ],
)
async def test_newcomer_11_a_file_that_is_no_store(written: Written, content: str, said: str) -> None:
    """It is a problem, as it is for `serve`; its bytes stay as they are."""
    place = written.path.with_name("starts.db")
    place.write_text(content)
    written.top += "sandbox = true\n"
    result, detail = (await written.results())["store"]

    assert (PROBLEM if said else OK) == result
    assert said in detail
    assert content == place.read_text()


async def test_newcomer_11_a_store_of_a_newer_version(written: Written) -> None:
    """What `serve` refuses, `check` refuses."""
    place = written.path.with_name("starts.db")
    await open_sqlite(place, lambda: datetime.now(UTC)).close()
    written.top += "sandbox = true\n"
    assert OK == (await written.results())["store"][0]
    with contextlib.closing(sqlite3.connect(place, isolation_level=None)) as conn:
        conn.execute(
            "insert into _sqlite_migrations (migration_set, name, applied_at) values ('startflow', 'm999', '')"
        )
    result, detail = (await written.results())["store"]

    assert PROBLEM == result
    assert "made by a newer version of the gateway (it has m999)" in detail


async def test_newcomer_11_a_disk_without_room(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing could be recorded there."""
    monkeypatch.setattr(access, "ROOM", 2**70)
    written.top += "sandbox = true\n"
    result, detail = (await written.results())["store"]

    assert PROBLEM == result
    assert f"the disk of {written.path.parent} has " in detail
    assert f" MiB free, and a store needs {access.ROOM // 2**20} MiB to begin with. Make room there" in detail


async def test_newcomer_11_a_mount_that_is_read_only(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who owns it does not matter there."""
    flags = SimpleNamespace(f_flag=os.ST_RDONLY)
    monkeypatch.setattr(access.os, "access", lambda *_, **__: False)  # type: ignore[attr-defined]
    monkeypatch.setattr(access.os, "supports_effective_ids", ())  # type: ignore[attr-defined]
    monkeypatch.setattr(access.os, "statvfs", lambda _: flags)  # type: ignore[attr-defined]
    monkeypatch.setattr(access, "_needed", lambda path: [(path.parent, os.W_OK)])
    written.top += "sandbox = true\n"
    result, detail = (await written.results())["store"]

    assert PROBLEM == result
    assert f"{written.path.parent} is on a file system that is mounted read-only" in detail
    assert "owner" not in detail


async def test_newcomer_30_a_secret_that_everybody_can_read(written: Written) -> None:
    """Is a warning, by the setting and the file."""
    for name, mode in (("open", 0o644), ("shut", 0o600)):
        place = written.path.with_name(name)
        place.write_text(TOKEN)
        place.chmod(mode)
        written.backend(name, "rapidpro", "http://127.0.0.1:1", f'token = {{ file = "{place}" }}')
    found = await written.results()
    place = written.path.with_name("open")

    assert (WARNING, f"everybody on this machine can read {place}: chmod o= {place}") == found["backends.open.token"]
    assert "backends.shut.token" not in found


def test_the_command_tells_by_its_exit_code(written: Written) -> None:
    """A line of JSON each when piped; 1 for a problem, 2 if the configuration cannot even be read."""
    written.backend("textit", "rapidpro", "http://127.0.0.1:1", 'token = "t0ps3cret"')
    written.path.write_text(written.top)
    checked = CliRunner().invoke(app, ["check", "--config", str(written.path)])
    rows = [json.loads(line) for line in checked.stdout.splitlines()]

    assert 1 == checked.exit_code
    assert [
        ("configuration", OK),
        ("backends.textit.token", WARNING),
        ("store", OK),
        ("clients", OK),
        ("backends.textit", PROBLEM),
    ] == [(row["subject"], row["result"]) for row in rows]

    written.path.write_text(written.top.replace("token =", "tokn ="))
    refused = CliRunner().invoke(app, ["check", "--config", str(written.path)])
    assert 2 == refused.exit_code
    assert "backends.textit.tokn: there is no such setting; did you mean token?" in refused.stderr


def test_nobody_live() -> None:
    """Where nothing listens, no gateway is up."""
    ((subject, result, detail),) = live(
        loading.load(None, needs_backend=False).model_copy(update={"listen": "[::1]:1"})
    )

    assert ("[::1]:1", PROBLEM) == (subject, result)
    assert "UNAVAILABLE" in detail


@pytest.mark.parametrize("beside", ["", f'auth_token = "{SANDBOX_TWILIO_AUTH_TOKEN}"', 'shared_key = "sh4red"'])
async def test_a_key_without_a_token_is_told_to_be_deaf(sandbox: Sandbox, written: Written, beside: str) -> None:
    """That is all right, but events need the token."""
    key = f'api_key = "{SANDBOX_TWILIO_API_KEY}"\napi_secret = "{SANDBOX_TWILIO_API_SECRET}"\n{beside}'
    written.backend("studio", "twilio", sandbox.twilio_url, f'account_sid = "{SANDBOX_TWILIO_ACCOUNT_SID}"\n{key}')
    details = [
        each.detail for each in await written.findings() if (each.subject, each.result) == ("backends.studio", OK)
    ]

    assert ([] if beside else [DEAF.detail]) == details[1:]


async def test_who_may_call_is_told(written: Written) -> None:
    """Tenants, scopes, backends and what expires; nothing of a hash. What is in the clear is a warning."""
    hashes = [hash_token(str(number)).hex() for number in range(3)]
    soon = (datetime.now(UTC) + timedelta(days=3)).isoformat()
    written.backend("textit", "rapidpro", "http://127.0.0.1:1", 'token = "t0ps3cret"')
    written.top = f"""listen = "0.0.0.0:1"
        insecure = true
        {written.top}
        [[clients]]
        tenant = "clinic"
        token_sha256 = "{hashes[0]}"
        backends = ["textit"]
        expires = "{soon}"
        [[clients]]
        tenant = "clinic"
        token_sha256 = "{hashes[1]}"
        scopes = ["read", "operator"]
        [[clients]]
        tenant = "gone"
        token_sha256 = "{hashes[2]}"
        expires = 2020-01-01T00:00:00Z
    """
    found = await written.results()
    told = [found[f"clients.{number}"] for number in range(3)]

    assert [WARNING, OK, WARNING] == [result for result, _ in told]
    assert told[0][1].startswith("clinic may read, start on textit; expires at 2")
    assert "clinic may operator, read" == told[1][1]
    assert told[2][1].endswith("; expired at 2020-01-01T00:00:00+00:00")
    assert WARNING == found["tls"][0]
    assert [] == [known for known in hashes if known[:8] in repr(found)]


async def test_what_is_open_to_anybody_is_told(written: Written) -> None:
    """Only with `insecure` does it come to that."""
    written.backend("textit", "rapidpro", "http://127.0.0.1:1", 'token = "t0ps3cret"')
    written.top = f'listen = "0.0.0.0:1"\ninsecure = true\n{written.top}'
    found = await written.results()

    assert (WARNING, "none: everybody who reaches it may call, as the tenant default") == found["clients"]
    assert WARNING == found["tls"][0]


async def test_a_certificate_that_cannot_be_used_is_a_problem(written: Written) -> None:
    """As it would be at the start."""
    written.backend("textit", "rapidpro", "http://127.0.0.1:1", 'token = "t0ps3cret"')
    written.top += '[tls]\ncertificate = "/not/there"\nkey = "/not/there"\n'
    found = await written.results()

    assert (PROBLEM, "tls.certificate: /not/there cannot be read: No such file or directory") == found["tls"]


async def test_newcomer_10_a_directory_at_the_path_of_the_store_is_named_as_one(written: Written) -> None:
    """It was in the way of itself here, and had more names where it was to be served from."""
    place = written.path.parent / "starts.db"
    place.mkdir()
    written.backend("textit", "rapidpro", "http://127.0.0.1:9", f'token = "{TOKEN}"')
    said = f"{place} is a directory. Name a file in it, such as {place}/startflow.db."

    assert (PROBLEM, said) == (await written.results())["store"]
    with pytest.raises(StoreUnusable) as refused:
        open_sqlite(place, lambda: datetime.now(UTC))
    assert said == str(refused.value)


async def test_newcomer_10_a_quiet_window_that_is_shorter_than_its_default_is_a_warning(
    sandbox: Sandbox, written: Written
) -> None:
    """What the backend carries out after it is sent twice, which is the promise above all."""
    written.backend("textit", "rapidpro", sandbox.rapidpro_url, f'token = "{TOKEN}"\nquiet_window = "3s"')
    written.backend("other", "rapidpro", sandbox.rapidpro_url, f'token = "{TOKEN}"')
    found = await written.results()
    result, said = found["backends.textit.quiet_window"]

    assert WARNING == result
    assert said.startswith("is shorter than the default of ")
    assert "backends.other.quiet_window" not in found
