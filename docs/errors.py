"""Writes docs/errors.md from the reasons in gateway/errors.py, so that the page and the gateway cannot drift apart."""
# ruff: noqa: INP001 - a script beside the page it writes, not a package

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway import errors
from gateway.wire import status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PAGE = Path(__file__).with_suffix(".md")
KINDS = {  # where a reason may appear, besides a gRPC code
    "failure": (
        "Failures of a start",
        "What goes wrong with a recorded start is in `FlowStart.failure` and `Recipient.failure`. The RPC was OK.",
    ),
    "backend": (
        "States of a backend",
        "These are in `Backend.health`. No start is lost: those that wait stay `STATE_PENDING`, with the same warning.",
    ),
    "warning": ("Warnings", "These are in `FlowStart.warnings`. They do not change the state."),
}
INTRODUCTION = f"""\
Programs branch on the code and the reason; the message is for people. Until a start is recorded, a problem is the
status of the RPC. Afterwards it is in the start itself.

Every status that is not OK carries, as `google.rpc` details, all together below 4 KiB:

| Detail | When | Holds |
| --- | --- | --- |
| `ErrorInfo` | always | domain `{status.DOMAIN}`, the reason, and metadata that some reasons have |
| `BadRequest` | fields are wrong | each by its path (`urns[3]`) with what to do: the first {status.SHOWN}; \
`violation_count` in `ErrorInfo` is how many there are |
| `RetryInfo` | `UNAVAILABLE`, `RESOURCE_EXHAUSTED` where waiting helps, a stream whose credential has expired \
| when to try again |
| `QuotaFailure` | `RESOURCE_EXHAUSTED` | whose limit it is |
| `ResourceInfo` | `NOT_FOUND` | the type and name of what is not there |

grpcurl prints them decoded; in Python, `grpc_status.rpc_status.from_call` reads them (`pip install
grpcio-status`). A call that got no answer, `UNAVAILABLE` or `DEADLINE_EXCEEDED` can be made again with the same
`request_id`: it is one start."""
OF_GRPC = """\
## Statuses without a reason

Some calls end before the gateway sees them, or after their caller has gone. gRPC itself answers these; they carry no
`ErrorInfo`:

| Code | When |
| --- | --- |
| `UNIMPLEMENTED` | the API has no RPC of this name, or the request is compressed in a way that gRPC does not know |
| `RESOURCE_EXHAUSTED` | the message is larger than 6 MiB, or the headers are larger than gRPC takes \
(8 KiB are always safe) |
| `CANCELLED`, `DEADLINE_EXCEEDED` | the caller ended the call, or its deadline passed. A start may be recorded: \
make the call again with the same `request_id` |
| `UNAVAILABLE` | there was no connection, or it broke. Rust's tonic says `UNKNOWN` for one that \
broke in the middle of a stream |
| `INTERNAL` | the framing of gRPC itself was broken: a compressed message that cannot be unpacked, no message \
at all |"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is said of a reason."""

    reason: str
    places: tuple[str, ...]  # gRPC codes and KINDS
    meaning: str
    remedy: str

    @property
    def codes(self) -> tuple[str, ...]:
        """The gRPC codes of the statuses that have it."""
        return tuple(place for place in self.places if place not in KINDS)


def entries() -> list[Entry]:
    """Reads what stands below each reason. Raises `ValueError` if something is missing there."""
    (declared,) = ast.parse(inspect.getsource(errors.Reason)).body
    assert isinstance(declared, ast.ClassDef)
    found = []
    for name, said in zip(declared.body, [*declared.body[1:], None], strict=True):
        match name:
            case ast.Assign(targets=[ast.Name(id=reason)]):
                text = said.value.value if isinstance(said, ast.Expr) and isinstance(said.value, ast.Constant) else ""
                found.append(read(reason, inspect.cleandoc(str(text))))
    return found


def read(reason: str, text: str) -> Entry:
    """Reads `CODE, failure: meaning`, an empty line, and what to do."""
    head, _, remedy = text.partition("\n\n")
    places, _, meaning = (" ".join(part.split()) for part in head.partition(": "))
    if not (places and meaning and remedy):
        raise ValueError(f"{reason}: say below it where it appears, what it means, and what to do")
    meaning = meaning[0].upper() + meaning[1:]
    return Entry(reason=reason, places=tuple(places.split(", ")), meaning=meaning, remedy=" ".join(remedy.split()))


def table(*rows: Sequence[str]) -> str:
    """Lays rows out as a table, the first one as its head."""
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])


def blocks() -> Iterator[str]:
    """Writes the page, block by block."""
    yield "<!-- Written by docs/errors.py from gateway/errors.py. Do not edit; run make generate. -->"
    yield "# Errors"
    yield INTRODUCTION
    yield "## Statuses of RPCs"
    known = entries()
    statuses = ((f"`{each.reason}`", ", ".join(f"`{code}`" for code in each.codes), each) for each in known)
    rows = [(reason, codes, each.meaning, each.remedy) for reason, codes, each in statuses if codes]
    yield table(("Reason", "Code", "Means", "What to do"), *rows)
    for kind, (title, said) in KINDS.items():
        yield f"## {title}"
        yield said
        of_kind = ((f"`{each.reason}`", each.meaning, each.remedy) for each in known if kind in each.places)
        yield table(("Reason", "Means", "What to do"), *of_kind)
    yield OF_GRPC


def written() -> str:
    """Returns the page as it should be."""
    return "\n\n".join(blocks()) + "\n"


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
