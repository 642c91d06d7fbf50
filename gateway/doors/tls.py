"""The certificate that the gateway shows, read anew when it is told to.

Rules:

1. A pair that cannot be used never takes the place of one that can.
2. What is open stays open: a new pair is for new connections.
3. A certificate that has expired is shown, for it may be renewed in place; the log says so when it is taken, and while
   somebody connects at most once an hour.
"""

from __future__ import annotations

import ssl
import stat
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import grpc
import structlog

from gateway.config import small_files
from gateway.doors.validity import Validity, validity

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

log = structlog.get_logger()

LOOKS_EVERY = timedelta(hours=1)
PRIVATE, CERTIFICATE = b"PRIVATE KEY-----", b"-----BEGIN CERTIFICATE-----"  # in PEM


class TlsUnusable(Exception):
    """A certificate or its key cannot be used. Names the setting, and says what to do."""


class Pair(NamedTuple):
    """A certificate and its key, as gRPC takes them, and when it is valid, if that can be read."""

    path: Path  # of the certificate
    shown: grpc.ServerCertificateConfiguration
    validity: Validity | None

    def trouble(self, now: datetime) -> str:
        """Returns what is wrong with its dates, and what to do; empty while callers believe it."""
        wrong = self.validity.trouble(now) if self.validity else ""
        if not wrong:
            return ""
        return f"{self.path} {wrong}, so every caller refuses it: put a valid one there, and reload with SIGHUP"

    def ends_soon(self, now: datetime) -> str:
        """Returns when it ends, if that is soon."""
        if self.validity is None or not self.validity.ends_soon(now):
            return ""
        return f"{self.path} expires at {self.validity.ends.isoformat()}: renew it, and reload with SIGHUP"


class Certificates:
    """The pair that is shown to whoever connects next."""

    def __init__(self, pair: Pair, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._pair, self._looks_at = pair, clock()
        self._look()

    def show(self, pair: Pair) -> None:
        """Shows another one from here on."""
        self._pair, self._looks_at = pair, self._clock()
        self._look()

    @property
    def trouble(self) -> str:
        """Says what is wrong with the dates of the pair; empty while callers believe it."""
        return self._pair.trouble(self._clock())

    def credentials(self) -> grpc.ServerCredentials:
        """Returns what a server shows the current pair with."""
        return grpc.dynamic_ssl_server_credentials(self._pair.shown, self._show)

    def _show(self) -> grpc.ServerCertificateConfiguration:
        """Is called by gRPC for each connection."""
        self._look()
        return self._pair.shown

    def _look(self) -> None:
        """Logs what is wrong with the dates of the pair, or soon will be, now and then."""
        now = self._clock()
        if now < self._looks_at:
            return
        self._looks_at = now + LOOKS_EVERY
        if wrong := self._pair.trouble(now):
            log.error("certificate_not_valid", detail=wrong)
        elif soon := self._pair.ends_soon(now):
            log.warning("certificate_ends_soon", detail=soon)


def read_pair(certificate: Path, key: Path) -> Pair:
    """Returns what is in these files now, whatever their dates. Raises `TlsUnusable` if it cannot be used."""
    with small_files.together():
        chain, secret = _read("tls.certificate", certificate), _read("tls.key", key)
        _refuse_swapped(certificate, chain, key, secret)
        _check_mode(key)
        try:
            small_files.answered(key, lambda: _try(certificate, key))  # which reads both once more
        except OSError as error:
            raise _unreadable("tls.key", key, error) from None
    return Pair(certificate, grpc.ssl_server_certificate_configuration([(secret, chain)]), validity(chain))


def _read(setting: str, path: Path) -> bytes:
    try:
        return small_files.read(path)
    except OSError as error:
        raise _unreadable(setting, path, error) from None


def _refuse_swapped(certificate: Path, chain: bytes, key: Path, secret: bytes) -> None:
    if PRIVATE in chain and PRIVATE not in secret and CERTIFICATE in secret:
        raise TlsUnusable(
            f"tls.key: {key} holds a certificate, and tls.certificate ({certificate}) a private key: swap the two names"
        )


def _check_mode(key: Path) -> None:
    try:
        mode = small_files.answered(key, lambda: key.stat().st_mode)
    except OSError as error:
        raise _unreadable("tls.key", key, error) from None
    if mode & stat.S_IRWXO:
        raise TlsUnusable(f"tls.key: everybody on this machine can read {key}: chmod o= {key}")


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
