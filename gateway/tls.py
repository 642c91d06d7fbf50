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

from gateway import small_files

if TYPE_CHECKING:
    from pathlib import Path


class TlsUnusable(Exception):
    """A certificate or its key cannot be used. Names the setting, and says what to do."""


class Certificates:
    """The pair that is shown to whoever connects next."""

    def __init__(self, pair: grpc.ServerCertificateConfiguration) -> None:
        self._shown = pair

    def show(self, pair: grpc.ServerCertificateConfiguration) -> None:
        """Shows another one from here on."""
        self._shown = pair

    def credentials(self) -> grpc.ServerCredentials:
        """Returns what a server shows the current pair with."""
        return grpc.dynamic_ssl_server_credentials(self._shown, lambda: self._shown)


def read_pair(certificate: Path, key: Path) -> grpc.ServerCertificateConfiguration:
    """Returns what is in these files now. Raises `TlsUnusable` if it cannot be used."""
    with small_files.together():
        chain, secret = _read("tls.certificate", certificate), _read("tls.key", key)
        try:
            small_files.answered(key, lambda: _try(certificate, key))  # which reads both once more
        except OSError as error:
            raise _unreadable("tls.key", key, error) from None
    return grpc.ssl_server_certificate_configuration([(secret, chain)])


def _read(setting: str, path: Path) -> bytes:
    try:
        if setting == "tls.key":
            small_files.answered(path, lambda: _check_mode(setting, path))
        return small_files.read(path)
    except OSError as error:
        raise _unreadable(setting, path, error) from None


def _check_mode(setting: str, path: Path) -> None:
    if path.stat().st_mode & stat.S_IRWXO:
        raise TlsUnusable(f"{setting}: everybody on this machine can read {path}: chmod o= {path}")


def _unreadable(setting: str, path: Path, error: OSError) -> TlsUnusable:
    return TlsUnusable(f"{setting}: {path} cannot be read: {error.strerror}")


def _try(certificate: Path, key: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")  # or it would ask
    except (ssl.SSLError, ValueError) as error:
        if "KEY_VALUES_MISMATCH" in str(error):
            said = "is not the key of tls.certificate: give the two that belong together"
        else:
            said = f"and tls.certificate ({certificate}) are not a pair of PEM files without a password"
        raise TlsUnusable(f"tls.key: {key} {said}") from None
