"""docs/errors.md says of every reason where it appears, what it means and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import grpc
import pytest

from docs import errors as page
from gateway import errors
from gateway.errors import GatewayError, Reason

ENTRIES = page.entries()
GATEWAY = "\n".join(path.read_text(encoding="utf-8") for path in Path(errors.__file__).parent.rglob("*.py"))
FAMILY = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, GatewayError)]


def test_the_page_is_what_the_reasons_say() -> None:
    """`make generate` writes it anew."""
    assert page.written() == page.PAGE.read_text(encoding="utf-8")


def test_every_reason_is_on_the_page() -> None:
    """In the order of the file; no other one is."""
    assert [reason.value for reason in Reason] == [entry.reason for entry in ENTRIES]
    rows = page.written().split("## Statuses without")[0]
    assert set(Reason) == set(re.findall(r"^\| `([A-Z_]+)` \| ", rows, flags=re.MULTILINE))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.reason)
def test_a_reason_appears_where_there_is_a_place(entry: page.Entry) -> None:
    """A gRPC code, a failure, a backend, a warning; and it says what to do in sentences."""
    assert set() == set(entry.places) - set(page.KINDS) - {code.name for code in grpc.StatusCode}
    assert [True, True] == [text.endswith(".") for text in (entry.meaning, entry.remedy)]


@pytest.mark.parametrize(
    "kind", [kind for kind in FAMILY if isinstance(getattr(kind(message=""), "reason", None), Reason)]
)
def test_an_error_has_a_reason_of_its_code(kind: type[GatewayError]) -> None:
    """What it says without being told one, too."""
    default = kind(message="").reason
    if default is not Reason.INTERNAL:  # whoever raises it names the reason
        assert kind.code in next(entry.codes for entry in ENTRIES if entry.reason == default)
    assert any(kind.code in entry.codes for entry in ENTRIES)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_given_somewhere(reason: Reason) -> None:
    """One that nothing gives any more is taken out."""
    assert re.search(rf"\bReason\.{reason}\b", GATEWAY)


@pytest.mark.parametrize("text", ["", "failure: it failed.", "it failed.\n\nMend it.", "failure: it failed.\n\n"])
def test_a_reason_of_which_something_is_not_said(text: str) -> None:
    """It is named, so that `make generate` fails."""
    with pytest.raises(ValueError, match="NEW: say below it"):
        page.read("NEW", text)


def test_no_row_is_torn() -> None:
    """A row has as many cells as the head of its table."""
    for rows in re.findall(r"(?:^\|.*\n)+", page.written(), flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows.splitlines()}) == 1, rows
