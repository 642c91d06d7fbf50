"""The certificate that the gateway shows, read anew when it is told to.

Rules:

1. A pair that cannot be used never takes the place of one that can.
2. What is open stays open: a new pair is for new connections.
"""

from __future__ import annotations

import ssl
import stat
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from pathlib import Path


class TlsUnusable(Exception):
    """A certificate or its key cannot be used. Names the setting, and says what to do."""


class Certificates:
    """The pair that is shown to whoever connects next. Raises `TlsUnusable` if it cannot be used."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self.read(certificate, key)

    def read(self, certificate: Path, key: Path) -> None:
        """Takes what is in these files now. Raises `TlsUnusable`, and changes nothing, if it cannot be used."""
        chain, secret = _read("tls.certificate", certificate), _read("tls.key", key)
        _try(certificate, key)
        self._shown = grpc.ssl_server_certificate_configuration([(secret, chain)])

    def credentials(self) -> grpc.ServerCredentials:
        """Returns what a server shows the current pair with."""
        return grpc.dynamic_ssl_server_credentials(self._shown, lambda: self._shown)


def _read(setting: str, path: Path) -> bytes:
    try:
        if setting == "tls.key" and path.stat().st_mode & stat.S_IRWXO:
            raise TlsUnusable(f"{setting}: everybody on this machine can read {path}: chmod o= {path}")
        return path.read_bytes()
    except OSError as error:
        raise TlsUnusable(f"{setting}: {path} cannot be read: {error.strerror}") from None


def _try(certificate: Path, key: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")  # or it would ask
    except (ssl.SSLError, ValueError) as error:
        if "KEY_VALUES_MISMATCH" in str(error):
            said = "is not the key of tls.certificate: give the two that belong together"
        else:
            said = f"and tls.certificate ({certificate}) are not a pair of PEM files without a password"
        raise TlsUnusable(f"tls.key: {key} {said}") from None
