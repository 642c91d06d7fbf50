"""A gateway that cannot be reached: the mistake is named, in our own words."""

from __future__ import annotations

import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
import pytest
import trustme
from startflow.v1 import start_flow_service_pb2 as pb
from typer.testing import CliRunner

from gateway.cli.app import app
from gateway.cli.reaching import check_address, why_unreachable
from tests.cli.stub_gateway import StubGateway, flow_start
from tests.cli.test_cli_app import command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def gateway() -> Iterator[StubGateway]:
    """Gives a gateway without TLS."""
    with StubGateway() as stub:
        yield stub


@pytest.mark.parametrize(("address", "said"), [
    ("127.0.0.1",               "127.0.0.1 has no port. Write HOST:PORT, such as 127.0.0.1:50051."),
    ("::1",                     "::1 has no port. Write HOST:PORT, such as [::1]:50051."),
    ("[::1]",                   "[::1] has no port. Write HOST:PORT, such as [::1]:50051."),
    ("::1:50051",               "::1:50051 lacks brackets. Write [::1]:50051."),
    ("127.0.0.1:99999",         "'99999' is not a port from 1 to 65535"),
    ("127.0.0.1:0",             "'0' is not a port from 1 to 65535"),
    ("127.0.0.1:http",          "'http' is not a port from 1 to 65535"),
    ("gateway:",                "'' is not a port from 1 to 65535"),
    ("127.0.0.1:50051 ",        "'50051 ' is not a port from 1 to 65535"),
    (":50051",                  "'' is not a host"),
    ("a b:50051",               "'a b' is not a host"),
    ("dns:///gw.example:50051", "is a URL. Write HOST:PORT: --address gw.example:50051"),
    ("http://gw.example:50051/", "is a URL. Write HOST:PORT: --address gw.example:50051"),
    ("https://gw.example:443",  "is a URL. Write HOST:PORT: --address gw.example:443 --tls"),
])  # fmt: skip
def test_d4_an_address_that_is_none_is_refused(address: str, said: str) -> None:
    """Before anything is sent, with what to write."""
    result = CliRunner().invoke(app, ["list", "--address", address])

    assert 2 == result.exit_code
    assert result.stderr.startswith("error: --address: ")
    assert said in result.stderr


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "localhost:50051", "gw.example.org.:443", "[::1]:50051", "my_svc:1"]
)
def test_d4_an_address_is_a_host_and_a_port(address: str) -> None:
    """Names, numbers, and IPv6 in brackets."""
    check_address(address)


def test_d4_the_mistake_is_named_and_nothing_of_grpc(gateway: StubGateway, tmp_path: Path) -> None:
    """As a process, because gRPC's core writes past Python."""
    no_certificate = tmp_path / "ca.pem"
    no_certificate.write_text("no certificate")
    for words, code, said in (
        (["--tls"], 3, "what listens there does not take TLS [UNAVAILABLE]\n  Leave --tls and --ca out"),
        (["--ca", str(no_certificate)], 2, f"--ca: {no_certificate} holds no certificate in PEM."),
        (["--address", "127.0.0.1:1"], 3, "127.0.0.1:1 cannot be reached: Connection refused [UNAVAILABLE]\n  Is it"),
    ):
        typed, environment = command(gateway, "list", *words)
        done = subprocess.run(typed, env=environment, capture_output=True, text=True, check=False)

        assert code == done.returncode
        assert said in done.stderr
        assert done.stderr.startswith("error: ")
        assert not [word for word in ("ssl_", "SSL_", "ipv4:", "errors resolving", "failed to") if word in done.stderr]


def test_d4_a_full_disk_is_said_in_a_sentence(gateway: StubGateway) -> None:
    """And not tried again when the interpreter ends."""
    gateway.answers.append(pb.ListFlowStartsResponse(flow_starts=[flow_start("s1")]))
    for words in (["list"], ["--version"], ["token"]):
        typed, environment = command(gateway, *words)
        with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
            done = subprocess.run(typed, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False)

        assert (1, "error: the output cannot be written: No space left on device.\n") == (done.returncode, done.stderr)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Signs what the gateway shows."""
    return trustme.CA()


@pytest.fixture
def secured(authority: trustme.CA) -> Iterator[str]:
    """Gives the address of a gRPC server with TLS."""
    pair = authority.issue_cert("127.0.0.1")
    chain = b"".join(each.bytes() for each in pair.cert_chain_pems)
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    credentials = grpc.ssl_server_credentials([(pair.private_key_pem.bytes(), chain)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(grace=None).wait()


def test_d4_tls_that_is_missing_or_not_trusted_is_named(secured: str, authority: trustme.CA) -> None:
    """As it would have to be typed."""
    root, other = (each.cert_pem.bytes() for each in (authority, trustme.CA()))

    assert "it takes TLS only" == why_unreachable(secured, secure=False, root=None).why
    assert "Add --tls, or --ca FILE" in why_unreachable(secured, secure=False, root=None).advice
    assert "its certificate is not accepted" in why_unreachable(secured, secure=True, root=None).why
    assert "its certificate is not accepted" in why_unreachable(secured, secure=True, root=other).why
    assert "it uses TLS, but does not answer like a gateway" == why_unreachable(secured, secure=True, root=root).why


def test_d4_without_tls_the_command_says_so(secured: str) -> None:
    """With what to add."""
    result = CliRunner().invoke(app, ["list", "--address", secured])

    assert 3 == result.exit_code
    assert f"the gateway at {secured} cannot be reached: it takes TLS only [UNAVAILABLE]\n  Add --tls" in result.stderr


def test_d5_a_variable_of_the_command_line_that_is_mistyped_is_refused() -> None:
    """With the one that may be meant."""
    result = CliRunner(env={"STARTFLOW_ADRESS": "127.0.0.1:1"}).invoke(app, ["list"])

    assert 2 == result.exit_code
    assert "STARTFLOW_ADRESS: there is no such setting; did you mean STARTFLOW_ADDRESS?" in result.stderr


@pytest.mark.parametrize("quote", ["'", '"'])
def test_d12_a_token_in_quotation_marks_is_refused(tmp_path: Path, quote: str) -> None:
    """From wherever it comes; it is not shown."""
    file = tmp_path / "token"
    file.write_text(f"{quote}t0ps3cret{quote}\n")
    for words in (["--token", f"{quote}t0ps3cret{quote}"], ["--token-file", str(file)]):
        result = CliRunner().invoke(app, ["list", *words])

        assert 2 == result.exit_code
        assert "The token has quotation marks around it" in result.stderr
        assert "t0ps3cret" not in result.stderr


def test_newcomer_10_a_gateway_elsewhere_is_not_replaced_by_a_sandbox_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gives a certificate or another host has a gateway of their own."""

    def refuse(*_: object) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "create_connection", refuse)

    assert "make run" in why_unreachable("127.0.0.1:1", secure=False, root=None).advice
    assert "make run" not in why_unreachable("127.0.0.1:1", secure=True, root=b"").advice
    assert "make run" not in why_unreachable("gateway.example.org:1", secure=False, root=None).advice
