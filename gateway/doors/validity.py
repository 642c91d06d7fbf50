"""From when until when certificates are valid, read from their bytes.

The standard library returns the dates of a certificate only after a handshake that believed it. So the two dates are
read where RFC 5280 (4.1) puts them; a certificate that is built otherwise has none.
"""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

SOON = timedelta(days=14)  # time enough to renew one by hand
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_UTC_TIME, _VERSION = 0x17, 0xA0  # tags
_LONG = 0x80  # in the first byte of a length: the other bits say how many bytes have it
_CENTURY = 50  # RFC 5280, 4.1.2.5.1: a year of two digits from here on is of the century before


class Validity(NamedTuple):
    """The moments between which every certificate of a file is valid."""

    begins: datetime
    ends: datetime

    def trouble(self, now: datetime) -> str:
        """Returns why nobody believes it now; empty while it is valid."""
        if self.ends <= now:
            return f"expired at {self.ends.isoformat()}"
        return f"is not valid before {self.begins.isoformat()}" if now < self.begins else ""

    def ends_soon(self, now: datetime) -> bool:
        """Returns whether it should be renewed."""
        return self.ends <= now + SOON


def validity(pem: bytes) -> Validity | None:
    """Returns when all certificates in a PEM file are valid; None if that cannot be read."""
    try:
        spans = [
            _span(ssl.PEM_cert_to_DER_cert(found)) for found in _PEM.findall(pem.decode("ascii", errors="replace"))
        ]
    except (ValueError, IndexError, StopIteration):
        return None
    return Validity(max(span.begins for span in spans), min(span.ends for span in spans)) if spans else None


def _span(der: bytes) -> Validity:
    signed = next(content for _, content in _elements(next(content for _, content in _elements(der))))
    fields = [content for tag, content in _elements(signed) if tag != _VERSION]
    _serial, _algorithm, _issuer, dates = fields[:4]
    begins, ends = (_moment(tag, content.decode("ascii")) for tag, content in _elements(dates))
    return Validity(begins, ends)


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """Lists what stands one after the other, each with its tag."""
    while der:
        tag, length, start = der[0], der[1], 2
        if length & _LONG:
            start += length & ~_LONG
            length = int.from_bytes(der[2:start])
        yield tag, der[start : start + length]
        der = der[start + length :]


def _moment(tag: int, text: str) -> datetime:
    if tag == _UTC_TIME:
        text = f"{'19' if int(text[:2]) >= _CENTURY else '20'}{text}"
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
