"""From when until when a certificate is valid, and what is said of one that is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trustme
from structlog.testing import capture_logs

from gateway.cli.check import OK, PROBLEM, WARNING, Finding, check
from gateway.config.settings import Settings, TlsSettings
from gateway.doors.door import Door
from gateway.doors.validity import SOON, Validity, validity

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


def configured(folder: Path, begins: datetime, ends: datetime) -> Settings:
    """Returns settings with a certificate that is valid between two moments."""
    pair = trustme.CA().issue_cert("gateway.example.org", not_before=begins, not_after=ends)
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(b"".join(each.bytes() for each in pair.cert_chain_pems))
    key.write_bytes(pair.private_key_pem.bytes())
    key.chmod(0o600)
    return Settings(sandbox=True, store=f"sqlite:///{folder}/s.db", tls=TlsSettings(certificate=certificate, key=key))


async def tls_of(settings: Settings) -> Finding:
    """Checks it; returns what was found of TLS."""
    (found,) = [finding for finding in await check(settings, None) if finding.subject == "tls"]
    return found


@pytest.mark.parametrize(
    ("begins", "ends", "result", "said"),
    [
        (NOW - 9 * DAY, NOW - DAY, PROBLEM, f" expired at {(NOW - DAY).isoformat()}, so every caller refuses it"),
        (NOW + DAY, NOW + 90 * DAY, PROBLEM, f" is not valid before {(NOW + DAY).isoformat()}, so every caller"),
        (NOW - DAY, NOW + SOON - DAY, WARNING, f" expires at {(NOW + SOON - DAY).isoformat()}: renew it"),
        (NOW - DAY, NOW + 2 * SOON, OK, " and its key belong together"),
    ],
    ids=["expired", "not yet", "soon", "valid"],
)
async def test_newcomer_7_the_dates_of_a_certificate(
    tmp_path: Path, begins: datetime, ends: datetime, result: str, said: str
) -> None:
    """`check` says so with the date; the gateway in its log, and in its first lines if nobody believes it."""
    settings = configured(tmp_path, begins, ends)
    found = await tls_of(settings)
    with capture_logs() as lines:
        door = Door(settings, lambda: NOW)

    assert (result, f"{tmp_path}/certificate.pem{said}") == (
        found.result,
        found.detail[: len(f"{tmp_path}/certificate.pem{said}")],
    )
    logged = {PROBLEM: ["certificate_not_valid"], WARNING: ["certificate_ends_soon"], OK: []}
    assert logged[result] == [line["event"] for line in lines]
    assert (said in door.says) is (result == PROBLEM)


def test_it_is_said_again_while_callers_connect(tmp_path: Path) -> None:
    """Once an hour, however many do: a gateway may run for longer than its certificate."""
    now = [NOW]
    door = Door(configured(tmp_path, NOW - DAY, NOW + 2 * SOON), lambda: now[0])
    certificates = door._certificates
    assert certificates is not None
    with capture_logs() as lines:
        for later in (timedelta(), SOON + DAY, SOON + DAY, 3 * SOON, 3 * SOON):
            now[0] = NOW + later
            certificates._show()

    assert ["certificate_ends_soon", "certificate_not_valid"] == [line["event"] for line in lines]


def test_the_first_end_of_a_chain_counts() -> None:
    """What signed it may end before it does; dates from 2050 on are written otherwise (RFC 5280)."""
    authority = trustme.CA()
    early = authority.issue_cert("a.example", not_before=NOW - DAY, not_after=NOW + DAY).cert_chain_pems[0].bytes()
    far = datetime(2061, 1, 2, 3, 4, 5, tzinfo=UTC)
    late = authority.issue_cert("a.example", not_before=NOW - 2 * DAY, not_after=far).cert_chain_pems[0].bytes()

    assert Validity(NOW - 2 * DAY, far) == validity(b"words before it\n" + late)
    assert Validity(NOW - DAY, NOW + DAY) == validity(late + early)


@pytest.mark.parametrize(
    "pem", [b"", b"words", b"\xff", b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----"]
)
def test_what_is_no_certificate_has_no_dates(pem: bytes) -> None:
    """Whether it can be used is not decided here."""
    assert validity(pem) is None
