"""What was answered, and whether it may be."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from gateway.errors import Reason
from gateway.wire.status import DOMAIN, LARGEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NEVER = {"INTERNAL", "UNKNOWN", "DATA_LOSS", "ABORTED"}
SHOWN = 20  # violations
GROWTH = 64 * 1024 * 1024  # bytes that the gateway may grow by after its warm-up


@dataclass(frozen=True, slots=True)
class Own:
    """A status that gRPC itself gives, so that it has no details of ours."""

    code: str
    words: re.Pattern[str]
    why: str


OWN = (
    Own("RESOURCE_EXHAUSTED", re.compile(r"larger than max"), "more than 16 MiB: gRPC does not hand it on"),
    Own("RESOURCE_EXHAUSTED", re.compile(r"metadata"), "headers of more than gRPC takes: it does not hand them on"),
    Own(
        "NOT_FOUND",
        re.compile(r"^There is no service of this name\.$"),
        "the health service knows nothing of this name",
    ),
    Own("UNIMPLEMENTED", re.compile(r"[Mm]ethod not found"), "the API has no such RPC"),
)
HURRIED = {"CANCELLED", "DEADLINE_EXCEEDED"}  # what a caller that goes makes of its own call


@dataclass(kw_only=True)
class Answers:
    """What was answered so far."""

    codes: Counter[tuple[str, str]] = field(default_factory=Counter)  # by RPC and code
    kinds: Counter[str] = field(default_factory=Counter)  # of requests
    own: Counter[str] = field(default_factory=Counter)  # by why gRPC itself answered
    reasons: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    accepted: set[str] = field(default_factory=set)  # ids of what was recorded
    http: Counter[tuple[str, str]] = field(default_factory=Counter)  # by path and status
    json: Counter[str] = field(default_factory=Counter)  # of grpcurl, by code
    memory: list[int] = field(default_factory=list)  # bytes, since the warm-up
    recorded: set[str] = field(default_factory=set)  # ids in the store at the end, of callers who waited for answers

    def refused(self, rpc: str, error: grpc.aio.AioRpcError, *, hurried: bool, about: str) -> None:
        """Notes a status that is not OK."""
        code, words = error.code().name, error.details() or ""
        self.codes[rpc, code] += 1
        if hurried and code in HURRIED:
            return
        packed = [value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"]
        if problem := self._problem(code, words, packed):
            self.violate(f"{about}: {code}: {problem}: {words[:200]!r}")

    def violate(self, problem: str) -> None:
        """Notes what must not be."""
        self.violations.append(problem)

    def judge(self) -> None:
        """Notes what is wrong on the whole."""
        for start_id in sorted(self.recorded - self.accepted):
            self.violate(f"start {start_id} is in the store, and no answer told of it: a refused request was recorded")
        for start_id in sorted(self.accepted - self.recorded):
            self.violate(f"start {start_id} was accepted, and is not in the store")
        if self.memory and max(self.memory) > self.memory[0] + GROWTH:
            self.violate(f"memory: {_mib(self.memory[0])} after the warm-up, up to {_mib(max(self.memory))} later")

    def _problem(self, code: str, words: str, packed: Sequence[str | bytes]) -> str:
        if code in NEVER:
            return "must never be"
        if not packed:
            own = next((own for own in OWN if own.code == code and own.words.search(words)), None)
            if own is None:
                return "has no details, and is none that gRPC itself gives"
            self.own[f"{own.code}: {own.why}"] += 1
            return ""
        return self._problem_of(code, words, packed)

    def _problem_of(self, code: str, words: str, packed: Sequence[str | bytes]) -> str:
        try:
            status = status_pb2.Status.FromString(bytes(packed[0]))  # type: ignore[arg-type]
        except DecodeError:
            return "has details that cannot be read"
        infos = [each for each in status.details if each.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
        if len(packed) != 1 or len(infos) != 1:
            return "has not one ErrorInfo"
        info = error_details_pb2.ErrorInfo.FromString(infos[0].value)
        self.reasons[info.reason] += 1
        told = (grpc.StatusCode[code].value[0], unquote(words), DOMAIN)  # now and then a client leaves them encoded
        if told != (status.code, unquote(status.message), info.domain):
            return "is not what its details say"
        if info.reason not in set(Reason):
            return f"has the reason {info.reason}, which is none of ours"
        return f"has {len(packed[0])} bytes of details" if len(packed[0]) > LARGEST else ""

    def report(self) -> Iterable[str]:
        """Says what was counted."""
        yield f"{self.codes.total():,} gRPC requests: " + _counts(self.kinds)
        for rpc in sorted({rpc for rpc, _ in self.codes}):
            yield f"  {_short(rpc):26} " + _counts(Counter({c: n for (of, c), n in self.codes.items() if of == rpc}))
        yield "  reasons: " + _counts(self.reasons)
        yield "  answered by gRPC itself: " + (_counts(self.own) or "none")
        yield f"{self.json.total():,} by grpcurl: " + _counts(self.json)
        yield f"{self.http.total():,} HTTP requests"
        for path in sorted({path for path, _ in self.http}):
            yield f"  {path:26} " + _counts(Counter({c: n for (of, c), n in self.http.items() if of == path}))
        yield f"starts: {len(self.accepted):,} accepted, {len(self.recorded):,} in the store"
        if self.memory:
            yield f"memory: {_mib(self.memory[0])} after the warm-up, then {', '.join(map(_mib, self.memory[1:]))}"
        yield f"violations: {len(self.violations):,}"
        yield from (f"  {each}" for each in self.violations[:SHOWN])


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counter.most_common())


def _short(rpc: str) -> str:
    return ".".join(rpc.rsplit(".", 1)[-1].split("/")).removesuffix(".ServerReflectionInfo")


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
