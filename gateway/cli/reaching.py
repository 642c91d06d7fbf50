"""Where the gateway is, read before anything is sent; and why it could not be reached, found by trying it.

Rules:

1. gRPC's own words about connections are never shown where trying it says more: they name no option of ours.
2. Nothing here sends more than a TLS handshake.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import ssl
from typing import NamedTuple

WITHIN = 3.0  # seconds for each step
LAST_PORT = 65_535
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # gRPC goes by these, in lower case
NEAR = ("127.", "localhost:", "[::1]:")
_HOST = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")


class Finding(NamedTuple):
    """Why a gateway cannot be reached, and what to do."""

    why: str
    advice: str


_NOT_RUNNING = "Is it running? `make run` or `startflow serve --sandbox` starts one here; --address names another."
_NOT_RUNNING_THERE = "Is it running, and is this its port? --address names another."
_NOT_GRPC = "Is it gRPC's port? Metrics and health over HTTP have another one. --address names the gateway's."


def check_address(address: str) -> None:
    """Raises ValueError with what to write if an address is not HOST:PORT."""
    scheme, separator, rest = address.partition("://")
    if separator:
        tls = " --tls" if scheme == "https" else ""
        raise ValueError(f"--address: {address} is a URL. Write HOST:PORT: --address {rest.strip('/')}{tls}")
    host, colon, port = address.rpartition(":")
    whole = address.removeprefix("[").removesuffix("]")
    if not colon or _is_ipv6(whole):
        host = f"[{whole}]" if _is_ipv6(whole) else address
        raise ValueError(f"--address: {address} has no port. Write HOST:PORT, such as {host}:50051.")
    if not (port.isascii() and port.isdigit() and 0 < int(port) <= LAST_PORT):
        raise ValueError(f"--address: {_quoted(port)} is not a port from 1 to {LAST_PORT}. Write HOST:PORT.")
    if _is_ipv6(host):
        raise ValueError(f"--address: {address} lacks brackets. Write [{host}]:{port}.")
    if not (_HOST.fullmatch(host) or (host.startswith("[") and host.endswith("]") and _is_ipv6(host[1:-1]))):
        raise ValueError(f"--address: {_quoted(host)} is not a host. Write HOST:PORT, such as 127.0.0.1:50051.")


def _quoted(part: str) -> str:
    """Returns a part of an address so that a space at its end, or its absence, can be seen."""
    return f"'{part}'"


def check_root(path: object, root: bytes) -> None:
    """Raises ValueError if a file given as --ca holds no certificate."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=root.decode("ascii"))
    except (ValueError, ssl.SSLError):
        raise ValueError(
            f"--ca: {path} holds no certificate in PEM. It begins with -----BEGIN CERTIFICATE-----."
        ) from None


def goes_by_proxy(address: str) -> bool:
    """Says whether gRPC may reach an address by a proxy; to try it directly would then show something else."""
    return not address.startswith(NEAR) and any(os.environ.get(name) for name in PROXIES)


def why_unreachable(address: str, *, secure: bool, root: bytes | None) -> Finding:
    """Tries to reach a gateway as the command did, and returns what is in the way."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), WITHIN) as plain:
            return _over_tls(plain, host.strip("[]"), root) if secure else _in_the_clear(plain)
    except TimeoutError:
        return Finding(f"no answer within {WITHIN:g} s", "Is a firewall in between? --address names another gateway.")
    except socket.gaierror:
        return Finding(f"no host has the name {host}", "--address names another gateway.")
    except OSError as error:
        near = address.startswith(NEAR)
        return Finding(error.strerror or str(error), _NOT_RUNNING if near and not secure else _NOT_RUNNING_THERE)


def _in_the_clear(plain: socket.socket) -> Finding:
    """Says whether it is TLS that is missing."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with context.wrap_socket(plain):
            return Finding(
                "it takes TLS only", "Add --tls, or --ca FILE if its certificate is from a root of your own."
            )
    except OSError:
        return Finding("what listens there does not answer like a gateway", _NOT_GRPC)


def _over_tls(plain: socket.socket, host: str, root: bytes | None) -> Finding:
    """Says what is wrong with TLS."""
    context = ssl.create_default_context(cadata=root.decode("ascii") if root else None)
    context.set_alpn_protocols(["h2"])
    try:
        with context.wrap_socket(plain, server_hostname=host) as secured:
            if secured.selected_alpn_protocol() == "h2":
                return Finding("it uses TLS, but does not answer like a gateway", "Try again, or ask its operator.")
            return Finding("what listens there does not answer like a gateway", _NOT_GRPC)
    except ssl.SSLCertVerificationError as error:
        return Finding(
            f"its certificate is not accepted: {error.verify_message.rstrip('.')}",
            "--ca names the root that signed it, and --address has to be a name that it holds.",
        )
    except ssl.SSLError:
        return Finding(
            "what listens there does not take TLS", "Leave --tls and --ca out, or ask for the port with TLS."
        )


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text.partition("%")[0]).version == 6  # noqa: PLR2004 - the version
    except ValueError:
        return False
