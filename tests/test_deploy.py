"""What deploy/ says, as far as it can be held against the repository without a container engine."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from gateway.config import loading
from gateway.sandbox import SANDBOX_RAPIDPRO_TOKEN, SANDBOX_TWILIO_ACCOUNT_SID, SANDBOX_TWILIO_AUTH_TOKEN
from tests.end_to_end.haproxy import HAPROXY, PROGRAM, needs_haproxy

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
GATEWAYS = ("gateway1", "gateway2", "gateway3")
PASSWORD = "${POSTGRES_PASSWORD:?put it into deploy/.env}"
EVERY_GATEWAY = """
[tls]
certificate = "/etc/startflow/tls/certificate.pem"
key = "/etc/startflow/tls/key.pem"

[[clients]]
tenant = "clinic"
token_sha256 = "5d0c1c3d6f7e0b9a4c2f81e6a7b3950d4e8f1627a9b0c3d5e7f8091a2b4c6d8e"

[backends.textit]
kind = "rapidpro"
url = "https://textit.com"
token = "a-token"
"""


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """What the compose file has run."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
    return found


def _defaults() -> dict[str, str]:
    """Returns the variables of HAProxy's file, with what each is where nobody sets it."""
    return dict(re.findall(r'"\$\{(\w+)-([^}]*)\}"', HAPROXY.read_text(encoding="utf-8")))


def _hosts_and_ports(values: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    for number in "123":
        host, port = values[f"GATEWAY{number}"].split(":")
        yield host, port, values[f"GATEWAY{number}_HTTP"]


def test_haproxy_is_led_to_where_each_gateway_listens(services: dict[str, Any]) -> None:
    """Both ports of each; and the published one is where HAProxy listens."""
    led_to = list(_hosts_and_ports(services["haproxy"]["environment"]))

    for (host, port, http), name in zip(led_to, GATEWAYS, strict=True):
        environment = services[name]["environment"]
        assert name == host
        assert f"0.0.0.0:{port}" == environment["STARTFLOW_LISTEN"]
        assert f"0.0.0.0:{http}" == environment["STARTFLOW_HTTP_LISTEN"]
        assert "ports" not in services[name], "http_listen has neither TLS nor tokens"
    front = services["haproxy"]["environment"]["FRONT"].split(":")[1]
    assert [f"{front}:{front}"] == services["haproxy"]["ports"]


def test_haproxys_file_names_every_variable_that_is_set(services: dict[str, Any]) -> None:
    """Each has a default there, for gateways on one machine."""
    assert {*services["haproxy"]["environment"]} == {*_defaults()}


def test_the_gateways_settings_are_good_ones(
    services: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a file as the head of compose.yaml asks for; without tokens and a certificate they would not be."""
    for name, value in services["gateway1"]["environment"].items():
        monkeypatch.setenv(name, value)
    config = tmp_path / "startflow.toml"
    config.write_text(EVERY_GATEWAY)

    settings = loading.load(config)

    postgres = services["postgres"]["environment"]
    user, database = postgres["POSTGRES_USER"], postgres["POSTGRES_DB"]
    assert f"postgresql://{user}@postgres/{database}" == settings.store_url
    assert PASSWORD == postgres["POSTGRES_PASSWORD"] == services["gateway1"]["environment"]["PGPASSWORD"]
    config.write_text(EVERY_GATEWAY[EVERY_GATEWAY.index("[backends") :])
    with pytest.raises(loading.ConfigError, match=r"Configure \[tls\] and \[\[clients\]\]"):
        loading.load(config)


def test_the_gateways_run_the_image_as_the_dockerfile_makes_it(services: dict[str, Any]) -> None:
    """All three alike; with psycopg in it, the file where its health check reads it, and time to drain."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")

    assert services["gateway1"] == services["gateway2"] == services["gateway3"]
    gateway = services["gateway1"]
    assert "optional-dependencies" in dockerfile
    assert gateway["command"][-1] in [each.split(":")[1] for each in gateway["volumes"]]
    assert all(f'"{part}"' in dockerfile for part in gateway["command"])
    assert (DEPLOY / gateway["build"]).resolve() == ROOT
    assert "60s" == gateway["stop_grace_period"]


def test_what_is_mounted_is_there_or_is_to_be_made(services: dict[str, Any]) -> None:
    """What an operator makes has secrets in it, so it is not committed by accident."""
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    mounted = {each.split(":")[0] for service in services.values() for each in service["volumes"]}
    files = {DEPLOY / each for each in mounted if each.startswith("./")} | {DEPLOY / services["gateway1"]["env_file"]}

    made = {each for each in files if not each.exists()}

    assert {"haproxy.cfg"} == {each.name for each in files - made}
    assert {f"/deploy/{each.name}" for each in made} <= {each.rstrip("/") for each in ignored}


def test_the_sandboxs_file_has_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """And settings that hold."""
    monkeypatch.chdir(DEPLOY)
    written = tomllib.loads((DEPLOY / "sandbox.toml").read_text(encoding="utf-8"))["backends"]

    assert loading.load(DEPLOY / "sandbox.toml").store_url
    assert SANDBOX_RAPIDPRO_TOKEN == written["rapidpro"]["token"]
    assert SANDBOX_TWILIO_ACCOUNT_SID == written["twilio"]["account_sid"]
    assert SANDBOX_TWILIO_AUTH_TOKEN == written["twilio"]["auth_token"]


def test_the_page_starts_what_haproxy_and_the_sandboxs_file_name() -> None:
    """docs/several-gateways.md has each address once, in a command."""
    page = (ROOT / "docs" / "several-gateways.md").read_text(encoding="utf-8")
    written = tomllib.loads((DEPLOY / "sandbox.toml").read_text(encoding="utf-8"))["backends"]
    assert "STARTFLOW_LISTEN=127.0.0.1:5006$1 STARTFLOW_HTTP_LISTEN=127.0.0.1:808$1 " in page

    for number, (host, port, http) in enumerate(_hosts_and_ports(_defaults()), start=1):
        assert (host, port, http) == ("127.0.0.1", f"5006{number}", f"808{number}")
    for name in ("rapidpro", "twilio"):
        assert f"--{name}-listen {written[name]['url'].removeprefix('http://')} " in page
    assert _defaults()["FRONT"] in page


@needs_haproxy
def test_haproxy_takes_the_file(services: dict[str, Any]) -> None:
    """As it is, and as the compose file leads it: names that are not known yet are looked up later."""
    for environment in ({}, services["haproxy"]["environment"]):
        done = subprocess.run(
            [PROGRAM, "-c", "-f", HAPROXY], env=environment, capture_output=True, text=True, check=False
        )
        assert 0 == done.returncode, done.stdout + done.stderr
        warned = [line for line in done.stderr.splitlines() if "WARNING" in line or "ALERT" in line]
        assert not [line for line in warned if "could not resolve address 'gateway" not in line], done.stderr
        assert environment or not warned
