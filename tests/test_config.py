from __future__ import annotations

import os
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.config import small_files
from gateway.config.loading import ConfigError, load
from gateway.config.values import CREDENTIALS, is_loopback
from gateway.tenants.clients import Scope

if TYPE_CHECKING:
    from gateway.config.settings import Settings

SECRET = "t0ps3cret"
BACKEND = f"""
[backends.x]
kind = "twilio"
url = "https://studio.twilio.com"
account_sid = "AC{SECRET}"
auth_token = "{SECRET}"
"""


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have configured a gateway."""
    for name in [name for name in os.environ if name.startswith("STARTFLOW_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Where the file of a test is."""
    return tmp_path / "startflow.toml"


def read(path: Path, text: str, *, sandbox: bool = False) -> Settings:
    """Writes a file and loads it."""
    path.write_text(text)
    return load(path, sandbox=sandbox)


def refusal(path: Path, text: str) -> str:
    """Loads what cannot be used; returns what it says."""
    with pytest.raises(ConfigError) as caught:
        read(path, text)
    return str(caught.value)


def test_a_file_says_everything(written: Path) -> None:
    """As in the README: every setting from TOML, with its unit."""
    settings = read(
        written,
        """
        listen = "127.0.0.1:1"
        http_listen = "[::1]:2"
        store = "sqlite:////var/lib/startflow.db"
        retention = "90d"

        [backends.textit]
        kind = "rapidpro"
        url = "https://textit.com"
        token = "abc"
        flows = { registration = "f5901b62-ba76-4003-9c62-72fdacc1b7b7" }
        rate = "2500/hour"
        timeout = "1m"
        in_flight = 3
        sweep_interval = "500ms"
        """,
    )
    backend = settings.backends["textit"]

    assert ("127.0.0.1:1", "[::1]:2", "/var/lib/startflow.db", timedelta(days=90)) == (
        settings.listen,
        settings.http_listen,
        str(settings.store_path),
        settings.retention,
    )
    assert ((2500, 3600.0), timedelta(minutes=1), 3, timedelta(seconds=0.5)) == (
        backend.rate,
        backend.timeout,
        backend.in_flight,
        backend.sweep_interval,
    )
    assert {"token": "abc"} == backend.credentials()
    assert {"registration": "f5901b62-ba76-4003-9c62-72fdacc1b7b7"} == backend.flows


def test_what_is_not_said_has_a_default(written: Path) -> None:
    """Loopback only, a file below the working directory, the backend's own rate."""
    settings = read(written, BACKEND)

    assert ("127.0.0.1:50051", "127.0.0.1:8080", "var/startflow.db", False) == (
        settings.listen,
        settings.http_listen,
        str(settings.store_path),
        settings.sandbox,
    )
    assert settings.backends["x"].rate is None
    assert settings.retention is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500ms", 0.5), ("35s", 35), ("2 m", 120), ("1h", 3600), ("1d", 86_400), (" 0.5s ", 0.5), ("366d", 366 * 86_400)],
)
def test_durations(written: Path, text: str, expected: float) -> None:
    """A number and a unit."""
    settings = read(written, f'{BACKEND}timeout = "{text}"')

    assert timedelta(seconds=expected) == settings.backends["x"].timeout


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1/second", (1, 1.0)),
        ("20 / second", (20, 1.0)),
        ("60/minute", (60, 60.0)),
        ("2500/hour", (2500, 3600.0)),
        ("9/day", (9, 86_400.0)),
    ],
)
def test_rates(written: Path, text: str, expected: tuple[int, float]) -> None:
    """So many in a period."""
    assert expected == read(written, f'{BACKEND}rate = "{text}"').backends["x"].rate


ENVIRONMENT = [
    ("STARTFLOW_LISTEN", "127.0.0.1:7", lambda settings: settings.listen, "127.0.0.1:7"),
    ("STARTFLOW_HTTP_LISTEN", "localhost:7", lambda settings: settings.http_listen, "localhost:7"),
    ("STARTFLOW_STORE", "sqlite:///b.db", lambda settings: str(settings.store_path), "b.db"),
    ("STARTFLOW_STREAMS", "9", lambda settings: settings.streams, 9),
    ("STARTFLOW_STARTS_PER_SECOND", "2.5", lambda settings: settings.starts_per_second, 2.5),
    ("STARTFLOW_OPEN_SERVICES", "false", lambda settings: settings.open_services, False),
    ("STARTFLOW_STREAM_AGE", "5m", lambda settings: settings.stream_age.seconds, 300),
    ("STARTFLOW_RETENTION", "90d", lambda settings: settings.retention.days, 90),
    ("STARTFLOW_SANDBOX", "true", lambda settings: settings.sandbox, True),
    ("STARTFLOW_BACKENDS__X__RATE", "7/hour", lambda settings: settings.backends["x"].rate, (7, 3600.0)),
    ("STARTFLOW_BACKENDS__X__TIMEOUT", "7s", lambda settings: settings.backends["x"].timeout.seconds, 7),
    ("STARTFLOW_BACKENDS__X__FLOWS", '{"a":"b"}', lambda settings: settings.backends["x"].flows, {"a": "b"}),
    ("STARTFLOW_BACKENDS__X__SENDER", "+1", lambda settings: settings.backends["x"].sender, "+1"),
    (
        "STARTFLOW_BACKENDS__X__AUTH_TOKEN",
        "other",
        lambda settings: settings.backends["x"].credentials()["auth_token"],
        "other",
    ),
]


@pytest.mark.parametrize(("name", "value", "get", "expected"), ENVIRONMENT, ids=[row[0] for row in ENVIRONMENT])
def test_the_environment_wins(
    written: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, get: object, expected: object
) -> None:
    """Over the file, setting by setting: what it does not say stays as the file says it."""
    monkeypatch.setenv(name, value)
    settings = read(written, 'listen = "127.0.0.1:1"\nstore = "sqlite:///a.db"\n' + BACKEND + 'rate = "1/hour"')

    assert callable(get)
    assert expected == get(settings)
    assert "https://studio.twilio.com" == settings.backends["x"].url


def test_the_environment_alone_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is needed, nested settings included."""
    for name, value in {"KIND": "rapidpro", "URL": "https://textit.com", "TOKEN": SECRET}.items():
        monkeypatch.setenv(f"STARTFLOW_BACKENDS__TEXTIT__{name}", value)
    settings = load(None)

    assert {"token": SECRET} == settings.backends["textit"].credentials()


@pytest.mark.parametrize("value", [None, "false"])
def test_the_sandbox_needs_no_backend(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    """What was asked for at the command line is nearest."""
    if value:
        monkeypatch.setenv("STARTFLOW_SANDBOX", value)
    settings = load(None, sandbox=True)

    assert (True, {}) == (settings.sandbox, settings.backends)


def test_simulated_starts_are_kept_apart_from_real_ones(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file of their own unless one is named, and under names that no configured backend has."""
    beside = read(written, BACKEND, sandbox=True)
    monkeypatch.setenv("STARTFLOW_STORE", "sqlite:///named.db")
    named = load(None, sandbox=True)
    taken = BACKEND.replace("backends.x", "backends.rapidpro")
    with pytest.raises(ConfigError, match=r"backends\.rapidpro: the sandbox has a backend of this name"):
        read(written, taken, sandbox=True)

    assert ["sqlite:///var/sandbox.db", "sqlite:///named.db"] == [beside.store, named.store]


def test_a_secret_comes_from_where_it_is_kept(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a variable, a file (whose last newline is no part of it), or the text itself."""
    kept = written.with_name("secret")
    kept.write_text(f"{SECRET}-file\n")
    monkeypatch.setenv("KEPT", f"{SECRET}-env")
    monkeypatch.setenv("STARTFLOW_BACKENDS__X__API_SECRET__FILE", str(kept))
    monkeypatch.setenv("STARTFLOW_BACKENDS__X__SHARED_KEY", f"{SECRET}-shared")
    settings = read(written, f'{BACKEND}token = {{ env = "KEPT" }}\napi_key = {{ file = "{kept}" }}')
    found = settings.backends["x"].credentials()

    assert {
        "token": f"{SECRET}-env",
        "account_sid": f"AC{SECRET}",
        "auth_token": SECRET,
        "api_key": f"{SECRET}-file",
        "api_secret": f"{SECRET}-file",
        "shared_key": f"{SECRET}-shared",
    } == found
    assert set(CREDENTIALS) == set(found)
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.backends)):
        assert SECRET not in shown


# Each: what the file says, which setting is named, and what is said of it.
WRONG = [
    ("colour = 1\n" + BACKEND, "colour", "there is no such setting"),
    ("_env_file = '.env'\n" + BACKEND, "_env_file", "there is no such setting"),
    (BACKEND + "colour = 1", "backends.x.colour", "there is no such setting"),
    (BACKEND + 'rate = "0/second"', "backends.x.rate", 'write it as "2500/hour"'),
    (BACKEND + 'rate = "1/fortnight"', "backends.x.rate", 'write it as "2500/hour"'),
    (BACKEND + f'rate = "{"9" * 30}/day"', "backends.x.rate", 'write it as "2500/hour"'),
    (BACKEND + "rate = 5", "backends.x.rate", 'write it as "2500/hour"'),
    (BACKEND + "rate = [5, 0]", "backends.x.rate", 'write it as "2500/hour"'),
    (BACKEND + 'timeout = "0s"', "backends.x.timeout", "write a number and a unit"),
    (BACKEND + 'timeout = "0.0ms"', "backends.x.timeout", "write a number and a unit"),
    (BACKEND + 'timeout = "367d"', "backends.x.timeout", "write a number and a unit"),
    (BACKEND + f'timeout = "{"9" * 400}d"', "backends.x.timeout", "write a number and a unit"),
    (BACKEND + 'timeout = "1h30m"', "backends.x.timeout", "write a number and a unit"),
    (BACKEND + "timeout = 35", "backends.x.timeout", "write a number and a unit"),
    (BACKEND + "timeout = 2026-01-01", "backends.x.timeout", "write a number and a unit"),
    (BACKEND + 'sweep_interval = "0s"', "backends.x.sweep_interval", "write a number and a unit"),
    (BACKEND + "in_flight = 0", "backends.x.in_flight", "greater than or equal to 1"),
    (BACKEND + "in_flight = 257", "backends.x.in_flight", "less than or equal to 256"),
    (BACKEND + 'in_flight = "many"', "backends.x.in_flight", "valid integer"),
    (BACKEND + "sender = 5", "backends.x.sender", 'write it as "…"'),
    (BACKEND + 'token = { env = "NOT_THERE" }', "backends.x.token", "the environment variable NOT_THERE is not set"),
    (BACKEND + 'token = { file = "/not/there" }', "backends.x.token", "the file /not/there cannot be read"),
    (BACKEND + f'token = {{ fil = "{SECRET}" }}', "backends.x.token", 'a secret is { env = "NAME" }'),
    (BACKEND + f'token = ["{SECRET}"]', "backends.x.token", 'write it as "…"'),
    (BACKEND.replace('"twilio"', '"telnyx"'), "backends.x.kind", '"rapidpro" or "twilio"'),
    (BACKEND.replace('kind = "twilio"', ""), "backends.x.kind", 'is missing; write "rapidpro" or "twilio"'),
    (BACKEND + 'token = { file = "/dev/null" }', "backends.x.token", "the file /dev/null is empty"),
    ('[backends."X Y"]\nkind = "twilio"\nurl = "https://a.example"', 'backends: "X Y"', "is not a name"),
    ("backends = 1", "backends", "is not a table"),
    ("[backends]\nx = 1", "backends.x", "is not a table"),
    (f'store = "postgres://u:{SECRET}@h/d"\n{BACKEND}', "store", "set PGPASSWORD"),
    ('store = "startflow.db"\n' + BACKEND, "store", "write sqlite:///PATH"),
    ('store = "sqlite:///"\n' + BACKEND, "store", "write sqlite:///PATH"),
    ('listen = "50051"\n' + BACKEND, "listen", 'such as "127.0.0.1:50051"'),
    ('listen = ":50051"\n' + BACKEND, "listen", 'such as "127.0.0.1:50051"'),
    ('listen = "127.0.0.1:65536"\n' + BACKEND, "listen", 'such as "127.0.0.1:50051"'),
    ('listen = "127.0.0.1:٣"\n' + BACKEND, "listen", 'such as "127.0.0.1:50051"'),
    ("http_listen = 8080\n" + BACKEND, "http_listen", 'such as "127.0.0.1:50051"'),
    ("sandbox = 'maybe'\n" + BACKEND, "sandbox", "neither true nor false"),
]


@pytest.mark.parametrize(("text", "name", "advice"), WRONG, ids=[f"{row[1]}: {row[0][-30:]!r}" for row in WRONG])
def test_what_is_wrong_is_named_with_what_to_write(written: Path, text: str, name: str, advice: str) -> None:
    """One line for each setting, the file named above; no secret is in it."""
    said = refusal(written, text)
    line = said.splitlines()[1]

    assert str(written) in said.splitlines()[0]
    assert line.startswith(f"  {name}")
    assert advice in line
    assert SECRET not in said


def test_everything_that_is_wrong_is_told_at_once(written: Path) -> None:
    """Whoever writes a file is told of all its mistakes together."""
    said = refusal(written, 'colour = 1\nlisten = "x"\n' + BACKEND + 'rate = "x"\ntimeout = "x"')

    assert ["backends.x.rate", "backends.x.timeout", "colour", "listen"] == sorted(
        re.findall(r"^  ([\w.]+):", said, re.MULTILINE)
    )


SAFE = [
    "https://textit.com",
    "https://textit.com/",
    "https://rapidpro.example:8443",
    "http://127.0.0.1:8000",
    "http://localhost",
    "http://[::1]",
    "http://[::1]:8000/",
    "http://127.0.0.2",
]
UNSAFE = [
    ("http://textit.com", "in the clear"),
    ("http://10.0.0.1:8000", "in the clear"),
    ("http://0.0.0.0", "in the clear"),
    ("http://localhost.evil.example", "in the clear"),
    ("http://[::]", "in the clear"),
    (f"https://user:{SECRET}@textit.com", "root of a server"),
    (f"https://textit.com?token={SECRET}", "root of a server"),
    ("http://127.0.0.1@evil.example", "root of a server"),
    ("http://127.0.0.1#@evil.example", "root of a server"),
    ("https://textit.com/api/v2", "root of a server"),
    ("https://textit.com:99999", "root of a server"),
    ("https://textit.com:port", "root of a server"),
    ("https://text it.com", "root of a server"),
    ("https://textit.com\\n", "root of a server"),
    ("ftp://textit.com", "root of a server"),
    ("textit.com", "root of a server"),
    ("https://", "root of a server"),
    ("", "root of a server"),
]


@pytest.mark.parametrize("url", SAFE)
def test_a_url_over_which_credentials_may_go(written: Path, url: str) -> None:
    """TLS, or this machine."""
    assert url == read(written, BACKEND.replace("https://studio.twilio.com", url)).backends["x"].url


@pytest.mark.parametrize(("url", "advice"), UNSAFE)
def test_a_url_over_which_credentials_may_not_go(written: Path, url: str, advice: str) -> None:
    """It is refused by the name of the setting, and not quoted: people put tokens into URLs."""
    said = refusal(written, BACKEND.replace("https://studio.twilio.com", url))

    assert "\n  backends.x.url: " in said
    assert advice in said
    assert SECRET not in said


def test_c10_plain_http_is_asked_for_in_a_word_of_its_own(written: Path) -> None:
    """A RapidPro inside a compose network has no TLS; the refusal names the word."""
    inside = BACKEND.replace("https://studio.twilio.com", "http://rapidpro:8000")

    assert "plain_http = true" in refusal(written, inside)
    assert "http://rapidpro:8000" == read(written, inside + "plain_http = true\n").backends["x"].url


@pytest.mark.parametrize(
    ("proxy", "url"),
    [
        ('"http://proxy.example:3128"', "http://proxy.example:3128"),
        ('"http://user:pass@proxy.example:3128"', "http://user:pass@proxy.example:3128"),
        ('{ env = "OUR_PROXY" }', "http://user:pass@out.example:3128"),
        ('"environment"', "http://usual.example:8080"),
    ],
)
def test_c10_a_proxy_is_named_or_that_of_the_usual_variables(
    written: Path, monkeypatch: pytest.MonkeyPatch, proxy: str, url: str
) -> None:
    """It may hold a password, so it is shown nowhere."""
    monkeypatch.setenv("OUR_PROXY", "http://user:pass@out.example:3128")
    monkeypatch.setenv("HTTPS_PROXY", "http://usual.example:8080")
    chosen = read(written, f"{BACKEND}proxy = {proxy}\n").backends["x"]

    assert url == chosen.proxy_url()
    assert "pass" not in repr(chosen)


def test_c10_the_usual_variables_may_leave_a_backend_out(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And say nothing unless they are asked for."""
    monkeypatch.setenv("HTTPS_PROXY", "http://usual.example:8080")
    assert "" == read(written, BACKEND).backends["x"].proxy_url()
    monkeypatch.setenv("NO_PROXY", "twilio.com")
    assert "" == read(written, f'{BACKEND}proxy = "environment"\n').backends["x"].proxy_url()


@pytest.mark.parametrize("proxy", ["proxy:3128", "socks5://proxy:1080", f"http://{SECRET}@proxy/path", ""])
def test_c10_what_is_no_proxy_is_refused_and_not_quoted(written: Path, proxy: str) -> None:
    """By the name of the setting."""
    said = refusal(written, f'{BACKEND}proxy = "{proxy}"\n')

    assert "\n  backends.x.proxy: is not a proxy" in said
    assert SECRET not in said


@pytest.mark.parametrize("setting", ["listen", "http_listen"])
@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "192.168.1.1:1", "gateway.example:1", "localhost.x:1"])
def test_the_network_is_not_listened_to(written: Path, setting: str, address: str) -> None:
    """Without TLS and clients, whoever reaches it may start flows."""
    said = refusal(written, f'{setting} = "{address}"\n{BACKEND}')

    assert f"\n  {setting}: {address} would" in said
    assert "isten on 127.0.0.1 behind a proxy" in said
    assert {"listen": "--insecure", "http_listen": "plain_http = true"}[setting] in said


def test_d6_each_port_has_a_rule_of_its_own(written: Path) -> None:
    """Probes and metrics over plain HTTP waive nothing that holds for gRPC."""
    open_http = 'listen = "0.0.0.0:1"\nhttp_listen = "0.0.0.0:2"\nplain_http = true\n'

    assert "0.0.0.0:2" == read(written, f"{open_http}{BACKEND}{CLIENT}{TLS}").http_listen
    assert "\n  listen: 0.0.0.0:1 would" in refusal(written, f"{open_http}{BACKEND}{CLIENT}")


HASH = "a1" * 32
CLIENT = f'[[clients]]\ntenant = "clinic"\ntoken_sha256 = "{HASH}"\n'
TLS = '[tls]\ncertificate = "c.pem"\nkey = "k.pem"\n'


@pytest.mark.parametrize(
    ("beside", "missing"),
    [("", "Configure [tls] and [[clients]], or"), (CLIENT, "Configure [tls], or"), (TLS, "Configure [[clients]], or")],
)
def test_what_keeps_it_from_listening_to_the_network_is_told(written: Path, beside: str, missing: str) -> None:
    """Only what is missing."""
    said = refusal(written, f'listen = "0.0.0.0:1"\n{BACKEND}{beside}')

    assert missing in said
    assert ("read the tokens" in said, "startflow token" in said) == (beside == CLIENT, beside != CLIENT)  # newcomer 10


def test_the_network_is_listened_to_with_tls_and_clients_or_in_so_many_words(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the file, a variable or an argument."""
    assert "0.0.0.0:1" == read(written, f'listen = "0.0.0.0:1"\n{BACKEND}{CLIENT}{TLS}').listen
    assert read(written, f'listen = "0.0.0.0:1"\nhttp_listen = "0.0.0.0:2"\ninsecure = true\n{BACKEND}').insecure
    written.write_text(f'listen = "0.0.0.0:1"\n{BACKEND}')
    assert load(written, insecure=True).insecure
    monkeypatch.setenv("STARTFLOW_INSECURE", "true")
    assert load(written).insecure


def test_a_client(written: Path) -> None:
    """Everything that one can be told; a list of tokens, a moment as TOML has it or as text."""
    text = f"""
        {BACKEND}
        [[clients]]
        tenant = "clinic"
        token_sha256 = ["{HASH}", "{HASH.replace("a", "B")}"]
        backends = ["x"]
        scopes = ["read", "operator"]
        expires = 2027-01-01T02:00:00+02:00
        starts_per_second = 0.5
        streams = 3
        [[clients]]
        tenant = "other"
        token_sha256 = "{"c" * 64}"
        expires = "2027-01-01T00:00:00Z"
    """
    first, second = (client.client() for client in read(written, text).clients)
    moment = datetime(2027, 1, 1, tzinfo=UTC)

    assert ("clinic", frozenset({"x"}), frozenset({Scope.READ, Scope.OPERATOR})) == (
        first.tenant,
        first.backends,
        first.scopes,
    )
    assert (moment, moment) == (first.expires_at, second.expires_at)
    assert (bytes.fromhex(HASH), bytes.fromhex("b1" * 32)) == first.hashes
    assert (0.5, 3) == (first.limits.starts_per_second, first.limits.streams)
    assert (None, frozenset({Scope.START, Scope.READ})) == (second.backends, second.scopes)
    assert (None, None) == (second.limits.starts_per_second, second.limits.streams)


def test_a_client_from_the_environment(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As JSON."""
    monkeypatch.setenv("STARTFLOW_CLIENTS", f'[{{"tenant": "clinic", "token_sha256": "{HASH}"}}]')
    monkeypatch.setenv("STARTFLOW_TLS__CERTIFICATE", "c.pem")
    monkeypatch.setenv("STARTFLOW_TLS__KEY", "k.pem")
    settings = read(written, BACKEND)

    assert ["clinic"] == [client.tenant for client in settings.clients]
    assert settings.tls is not None
    assert "k.pem" == str(settings.tls.key)


@pytest.mark.parametrize(
    ("lines", "place", "advice"),
    [
        (CLIENT.replace("clinic", "My Clinic"), "clients.0.tenant", "at most 63 of a-z"),
        (CLIENT.replace("clinic", "clinic\\n"), "clients.0.tenant", "at most 63 of a-z"),
        (CLIENT.replace(HASH, SECRET), "clients.0.token_sha256", "`startflow token` makes"),
        (CLIENT.replace(f'"{HASH}"', "[]"), "clients.0.token_sha256", "`startflow token` makes"),
        ('[[clients]]\ntenant = "clinic"\n', "clients.0.token_sha256", "is missing"),
        (CLIENT + 'scopes = ["write"]\n', "clients.0.scopes", '"start", "read", "admin", "operator"'),
        (CLIENT + 'scopes = ["strat", "read"]\n', "clients.0.scopes", '"strat" is not a scope; did you mean "start"?'),
        (CLIENT + 'scopes = ["strat"]\n', "clients.0.scopes", "(tenant clinic)"),  # newcomer 10: nobody counts from 0
        (CLIENT + CLIENT.replace("clinic", "other"), "clients.1.token_sha256", "(tenant other)"),
        (CLIENT + f'scopes = ["{SECRET}"]\n', "clients.0.scopes", "an entry is not a scope. Write some of"),
        (CLIENT + 'scopes = "read"\n', "clients.0.scopes", "is not a list"),
        (CLIENT + "scopes = []\n", "clients.0.scopes", "is not a list"),
        (CLIENT + "scopes = [[]]\n", "clients.0.scopes", "an entry is not a scope"),
        (CLIENT + 'scopes = ["operator"]\n', "clients.0.scopes", '["read", "operator"]'),
        (CLIENT + 'backends = ["y"]\n', "clients.0.backends", "there is no backend y; there are: x"),
        (CLIENT + "expires = 2027-01-01\n", "clients.0.expires", "write it as 2027-12-31T00:00:00Z"),
        (CLIENT + "expires = 2027-01-01T00:00:00\n", "clients.0.expires", "with its time zone"),
        (CLIENT + 'expires = "soon"\n', "clients.0.expires", "write it as 2027-12-31T00:00:00Z"),
        (CLIENT + "starts_per_second = 0\n", "clients.0.starts_per_second", "greater than 0"),
        (CLIENT + "starts_per_second = nan\n", "clients.0.starts_per_second", "finite"),
        (CLIENT + "streams = 0\n", "clients.0.streams", "greater than or equal to 1"),
        (CLIENT + 'scope = ["read"]\n', "clients.0.scope", "did you mean scopes?"),
        (CLIENT + CLIENT.replace("clinic", "other"), "clients.1.token_sha256", "clients.0 has the same token"),
        (
            CLIENT + "streams = 5\n" + CLIENT.replace("a1", "b2") + "streams = 6\n",
            "clients.1.streams",
            "another entry of clinic has another one",
        ),
        ("clients = 5\n", "clients", "is not a list"),
        (TLS.replace("key", "keyfile"), "tls.keyfile", "did you mean key?"),
        (TLS.replace('key = "k.pem"', ""), "tls.key", "is missing"),
    ],
    ids=lambda value: value[-30:],
)
def test_a_client_that_is_wrong(written: Path, lines: str, place: str, advice: str) -> None:
    """It is told by its place in the file, with what to write and without what may be a token."""
    said = refusal(written, lines + BACKEND if lines.startswith("clients =") else BACKEND + lines)

    assert f"\n  {place}: " in said
    assert advice in said
    assert SECRET not in said
    assert HASH not in said


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1:1", True), ("127.9.9.9:1", True), ("[::1]:1", True), ("localhost:1", True), ("0.0.0.0:1", False),
     ("[::]:1", False), ("[::ffff:1.2.3.4]:1", False), ("host:1", False), ("", False), ("::", False)],
)  # fmt: skip
def test_what_is_loopback(address: str, expected: bool) -> None:  # noqa: FBT001
    """Only what is so without asking a name server."""
    assert expected is is_loopback(address)


def test_without_a_backend_it_says_what_to_do(written: Path) -> None:
    """Two ways on."""
    said = refusal(written, "")

    assert "[backends.NAME]" in said
    assert "--sandbox" in said


@pytest.mark.parametrize("make", ["absent", "folder", "not TOML", "not UTF-8"])
def test_a_file_that_cannot_be_read(written: Path, make: str) -> None:
    """It is named; what is in it is not shown."""
    if make == "folder":
        written.mkdir()
    elif make == "not TOML":
        written.write_text(f"token = {SECRET}")
    elif make == "not UTF-8":
        written.write_bytes(b"a = '\xff" + SECRET.encode())
    with pytest.raises(ConfigError) as caught:
        load(written)

    assert str(written) in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["STARTFLOW_BACKENDS", "STARTFLOW_BACKENDS__X__FLOWS"])
def test_a_variable_that_is_no_json(written: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It is told in a sentence, without what it holds."""
    monkeypatch.setenv(name, f"{{{SECRET}")
    said = refusal(written, BACKEND)

    assert "STARTFLOW_" in said
    assert SECRET not in said


def test_settings_are_frozen(written: Path) -> None:
    """What was read is what holds."""
    settings = read(written, BACKEND)
    with pytest.raises(ValueError, match="frozen"):
        settings.listen = "0.0.0.0:1"
    with pytest.raises(ValueError, match="frozen"):
        settings.backends["x"].url = "http://evil.example"


@pytest.mark.parametrize(
    "url", ["https://gw.example.org", "http://127.0.0.1:8080/", "https://gw.example.org:8443/a/b-c"]
)
def test_where_a_gateway_is_seen_may_be_below_a_path(written: Path, url: str) -> None:
    """A proxy may remove it."""
    assert url == read(written, f'{BACKEND}public_url = "{url}"').backends["x"].public_url


@pytest.mark.parametrize(
    "url",
    ["gw.example.org", "https://u:p@gw.example.org", "https://gw.example.org/?a=b", "https://gw.example.org:99999", ""],
)
def test_where_no_gateway_can_be_is_refused(written: Path, url: str) -> None:
    """Credentials, a query, a port that is none."""
    with pytest.raises(ConfigError, match=r"backends\.x\.public_url: is not the address of a gateway"):
        read(written, f'{BACKEND}public_url = "{url}"')


@pytest.mark.parametrize(("name", "said"), [
    ("STARTFLOW_LISTN",              "STARTFLOW_LISTN: there is no such setting; did you mean STARTFLOW_LISTEN?"),
    ("STARTFLOW_BACKEND__X__RATE",   "did you mean STARTFLOW_BACKENDS__X__RATE?"),
    ("STARTFLOW_ADRESS",             "did you mean STARTFLOW_ADDRESS?"),
    ("STARTFLOW_FOO",                "STARTFLOW_FOO: there is no such setting; correct it, or unset it"),
    ("STARTFLOW_PORT",               "STARTFLOW_PORT: there is no such setting"),
])  # fmt: skip
def test_d5_a_variable_that_nothing_reads_is_refused(
    written: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    """With the one that may have been meant, and without its value."""
    monkeypatch.setenv(name, SECRET)
    told = refusal(written, BACKEND)

    assert said in told
    assert SECRET not in told


def test_d5_what_is_set_for_a_service_or_holds_a_secret_is_no_mistake(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubernetes sets variables named after each service, so a service `startflow` has some like ours."""
    monkeypatch.setenv("STARTFLOW_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("STARTFLOW_SERVICE_PORT_GRPC", "50051")
    monkeypatch.setenv("STARTFLOW_PORT", "tcp://10.0.0.1:50051")
    monkeypatch.setenv("STARTFLOW_PORT_50051_TCP_ADDR", "10.0.0.1")
    monkeypatch.setenv("STARTFLOW_KEPT_HERE", SECRET)
    monkeypatch.setenv("STARTFLOW_AND_HERE", SECRET)
    monkeypatch.setenv("STARTFLOW_BACKENDS__Y__TOKEN__ENV", "STARTFLOW_AND_HERE")
    y = '[backends.y]\nkind = "rapidpro"\nurl = "https://textit.com"'
    settings = read(written, BACKEND.replace(f'"{SECRET}"', '{ env = "STARTFLOW_KEPT_HERE" }') + y)

    assert SECRET == settings.backends["x"].credentials()["auth_token"]
    assert SECRET == settings.backends["y"].credentials()["token"]


@pytest.mark.parametrize("store", ["sqlite:///:memory:", "sqlite:///file:x?mode=memory", "sqlite:///x.db?timeout=5"])
def test_d4_a_store_that_is_no_file_is_refused(written: Path, store: str) -> None:
    """Nothing that was accepted would outlive the process."""
    assert "store: is not a file; write sqlite:///PATH" in refusal(written, f'store = "{store}"\n{BACKEND}')


@pytest.mark.parametrize(("text", "seconds"), [
    ("90d", 90 * 86_400), ("36h", 36 * 3_600), ("366d", 366 * 86_400), ("1 day", 86_400), ("10 minutes", 600),
    ("150 seconds", 150), ("12 hours", 43_200),
])  # fmt: skip
def test_d9_how_long_starts_are_kept(written: Path, text: str, seconds: float) -> None:
    """In days or hours; less than a day, and any other unit, only in words."""
    settings = read(written, f'retention = "{text}"\n{BACKEND}')

    assert timedelta(seconds=seconds) == settings.retention


@pytest.mark.parametrize(("text", "said"), [
    ("3m",       'retention: "3m" is not a time to keep starts: "m" may be months or minutes; write days'),
    ("1ms",      'such as "90d"'),
    ("30s",      'such as "90d"'),
    ("3M",       'such as "90d"'),
    ("3 months", 'such as "90d"'),
    ("0d",       'such as "90d"'),
    ("367d",     'at most "366d"'),
    ("12h",      "is less than a day, after which finished starts are erased and their request ids are free"),
    ("0.5d",     "is less than a day"),
])  # fmt: skip
def test_d9_what_may_be_misread_erases_nothing(written: Path, text: str, said: str) -> None:
    """What was erased cannot be had back."""
    assert said in refusal(written, f'retention = "{text}"\n{BACKEND}')


@pytest.mark.parametrize(("text", "seconds"), [
    ("1d", 86_400), ("60m", 3_600), ("2 hours", 7_200), ("3 minutes", 180), ("1 second", 1),
])  # fmt: skip
def test_d9_how_long_a_start_is_tried(written: Path, text: str, seconds: float) -> None:
    """Less than an hour only in words."""
    (backend,) = read(written, f'{BACKEND}\ngive_up_after = "{text}"').backends.values()

    assert timedelta(seconds=seconds) == backend.give_up_after


@pytest.mark.parametrize(("line", "said"), [
    ('give_up_after = "3m"',    'give_up_after: "3m" is less than an hour, after which starts that a backend does not'),
    ('give_up_after = "1ms"',   'if you mean that, write the unit out: "30 minutes"'),
    ('give_up_after = "0 days"', "is not a duration"),
    ('give_up_after = "3 months"', "is not a duration"),
    ('quiet_window = "1ms"',    'quiet_window: "1ms" is less than "1s", so what is still being carried out would be'),
])  # fmt: skip
def test_d9_what_may_be_misread_loses_and_repeats_nothing(written: Path, line: str, said: str) -> None:
    """The neighbours of `retention`: what fails starts for good, and what sends them again."""
    assert said in refusal(written, f"{BACKEND}\n{line}")


@pytest.mark.parametrize("quote", ["'", '"'])
def test_d12_quotation_marks_around_a_secret_are_refused(
    written: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quote: str
) -> None:
    """`docker run --env-file` keeps them; they would be sent."""
    monkeypatch.setenv("TEXTIT_TOKEN", f"{quote}{SECRET}{quote}")
    file = tmp_path / "token"
    file.write_text(f"{quote}{SECRET}{quote}\n")
    for kept, place in (
        ('{ env = "TEXTIT_TOKEN" }', "the environment variable TEXTIT_TOKEN"),
        (f'{{ file = "{file}" }}', f"the file {file}"),
    ):
        told = refusal(written, BACKEND.replace(f'"{SECRET}"', kept))
        assert f"auth_token: {place} has quotation marks around the secret" in told
        assert SECRET not in told


def test_d12_quotation_marks_around_a_setting_are_refused(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable is named, and what to do."""
    monkeypatch.setenv("STARTFLOW_BACKENDS__X__SENDER", '"+12065551212"')

    assert "STARTFLOW_BACKENDS__X__SENDER: has quotation marks around its value" in refusal(written, BACKEND)


def test_d12_a_secret_file_that_is_no_text_is_not_quoted(written: Path, tmp_path: Path) -> None:
    """Nor any byte of it."""
    file = tmp_path / "token"
    file.write_bytes(b"\xff\xfe")
    told = refusal(written, BACKEND.replace(f'"{SECRET}"', f'{{ file = "{file}" }}'))

    assert f"auth_token: the file {file} is not text in UTF-8" in told
    assert "0xff" not in told


def test_b3_a_file_without_an_end_is_refused(written: Path) -> None:
    """Before it fills the memory."""
    told = refusal(written, BACKEND.replace(f'"{SECRET}"', '{ file = "/dev/zero" }'))

    assert "backends.x.auth_token: the file /dev/zero cannot be read: it is larger than 1 MiB" in told
    with pytest.raises(ConfigError, match="file /dev/zero cannot be read: it is larger than 1 MiB"):
        load(Path("/dev/zero"))


def test_b3_files_that_do_not_answer_are_refused_together(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are named; whoever waits does not wait for each as long as for one, and waits with one thread for each."""
    monkeypatch.setattr(small_files, "PATIENCE", 1.0)
    monkeypatch.setattr(small_files, "LEAST", 1.0)
    silent, kept = tmp_path / "silent", tmp_path / "kept"
    os.mkfifo(silent)
    kept.write_text(SECRET)
    text = BACKEND.replace(f'"{SECRET}"', f'{{ file = "{silent}" }}') + f'api_secret = {{ file = "{kept}" }}\n'
    told = [refusal(written, text) for _ in range(3)]
    waiting = [thread for thread in threading.enumerate() if thread.name == "file"]
    os.close(os.open(silent, os.O_RDWR))
    for thread in waiting:
        thread.join()
    silent.unlink()
    silent.write_text(SECRET)

    assert 1 == len(waiting)
    assert 1 == len(set(told))
    assert f"backends.x.auth_token: the file {silent} cannot be read: it does not answer" in told[0]
    assert "api_secret" not in told[0]
    assert SECRET == read(written, text).backends["x"].credentials()["auth_token"]


def test_d12_files_may_begin_with_a_mark(written: Path, tmp_path: Path) -> None:
    """As editors on Windows write them."""
    file = tmp_path / "token"
    file.write_text(SECRET, encoding="utf-8-sig")
    written.write_text(BACKEND.replace(f'"{SECRET}"', f'{{ file = "{file}" }}'), encoding="utf-8-sig")

    assert SECRET == load(written).backends["x"].credentials()["auth_token"]


def test_d12_another_encoding_is_named(written: Path) -> None:
    """PowerShell's `>` writes UTF-16."""
    written.write_text(BACKEND, encoding="utf-16")
    with pytest.raises(ConfigError, match=r"is UTF-16: save it as UTF-8"):
        load(written)


@pytest.mark.parametrize(("name", "value", "said"), [
    ("STARTFLOW_BACKENDS__XX__RATE",   "5/hour",  "is called xx in the file; did you mean STARTFLOW_BACKENDS__X"),
    ("STARTFLOW_BACKENDS__OTHER__RATE","5/hour",  "takes STARTFLOW_BACKENDS__OTHER__KIND and "),
    ("STARTFLOW_BACKENDS__X__RAT",     "5/hour",  "there is no such setting; did you mean rate?"),
    ("STARTFLOW_BACKENDS__X__RATE",    "t0ps3cret", "is not a rate"),
    ("STARTFLOW_INSECURE",             "maybe",   "is neither true nor false"),
    ("STARTFLOW_LISTEN",               "",        "is not an address to listen on"),
    ("STARTFLOW_CLIENTS",              "[{}]",    "token_sha256: is missing"),
    ("STARTFLOW_CLIENTS",              "[{",      "is not the JSON that its setting takes"),
    ("STARTFLOW_BACKENDS__X__FLOWS",   "{",       "is not the JSON that its setting takes"),
])  # fmt: skip
def test_newcomer_9_what_a_variable_says_is_told_of_the_variable(
    written: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    """It is not blamed on the file, which does not have it."""
    monkeypatch.setenv(name, value)
    told = refusal(written, BACKEND)

    (line,) = [line for line in told.splitlines() if said in line]
    assert line.strip().startswith(name)
    assert "kind: is missing" not in told


def test_newcomer_9_a_variable_that_undoes_what_the_file_says_is_named(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has clients, and a variable takes them away."""
    monkeypatch.setenv("STARTFLOW_CLIENTS", "[]")
    said = refusal(written, f'listen = "0.0.0.0:1"\n{CLIENT}{TLS}{BACKEND}')

    assert f"The configuration in {written} with the variables STARTFLOW_CLIENTS cannot be used:" in said
    assert "Configure [[clients]]" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            f'{BACKEND}listen = "0.0.0.0:1"\n',
            "backends.x.listen: listen is a setting of the gateway: write it at the top",
        ),
        (f"{BACKEND}clients = []\n", "backends.x.clients: clients is a setting of the gateway: write it at the top"),
        (f'{CLIENT}store = "sqlite:///a.db"\n{BACKEND}', "above the first [table]"),
        (f'clients = [{{ tenant = "a", token_sha256 = "{"a" * 64}" }}]\n{CLIENT}', "write all of it as [[clients]]"),
    ],
    ids=["listen below a backend", "clients below a backend", "store below clients", "both forms"],
)
def test_newcomer_8_pieces_of_a_file_that_do_not_add_up(written: Path, text: str, said: str) -> None:
    """It is said where the setting belongs."""
    assert said in refusal(written, text)


def test_newcomer_8_the_file_that_the_docs_show_is_read(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it, as it would be copied, with everything that a gateway for others needs."""
    page = (Path(__file__).parents[1] / "docs/configuration.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    for name in re.findall(r'env = "(\w+)"', text):
        monkeypatch.setenv(name, f"AC{SECRET}")
    settings = read(written, text)

    assert {"textit", "studio"} == set(settings.backends)
    assert 3 == len(settings.clients)
    assert settings.tls is not None
    assert [] == settings.exposed()


def test_newcomer_32_two_listeners_take_two_ports(written: Path) -> None:
    """Port 0 is another one each time."""
    said = refusal(written, f'listen = "127.0.0.1:7"\nhttp_listen = "127.0.0.1:7"\n{BACKEND}')

    assert "http_listen: 127.0.0.1:7 is taken by `listen`" in said
    assert "127.0.0.1:0" == read(written, f'listen = "127.0.0.1:0"\nhttp_listen = "127.0.0.1:0"\n{BACKEND}').listen


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('sqlite = "x"\n', "sqlite: there is no such setting\n"),
        ('token = "x"\n', "token: is a setting of a backend: write it below its [backends.NAME]"),
        ('lisen = "127.0.0.1:1"\n', "lisen: there is no such setting; did you mean listen?"),
        ('listen = "127.0.0.1:99999"\n', 'listen: "127.0.0.1:99999": 99999 is not a port from 0 to 65535'),
    ],
    ids=str,
)
def test_newcomer_10_a_setting_that_is_none_is_not_taken_for_another_one(written: Path, lines: str, said: str) -> None:
    """It said `listen` for `sqlite`, and `store` for the token of a backend."""
    assert said in refusal(written, lines + BACKEND) + "\n"
