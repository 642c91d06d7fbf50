"""The short form of `make fuzz`, and its judge."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.message import DecodeError

from gateway.errors import InvalidRequest, Violation
from gateway.wire import parse, write_status
from tests.fuzz.judge import GROWTH, Answers
from tests.fuzz.messages import KINDS, METHODS, Maker, deep
from tests.fuzz.run import Options, run
from tests.lengths import size

if TYPE_CHECKING:
    from pathlib import Path


async def test_what_bad_input_gets(tmp_path: Path) -> None:
    """Never INTERNAL or UNKNOWN, always a reason of ours, nothing recorded that was refused; and it is well after."""
    answers = await run(Options(seed=7, requests=size(2_500, quick=600), json=2), tmp_path, print)
    print(*answers.report(), sep="\n")

    assert [] == answers.violations
    assert set(METHODS) <= {rpc for rpc, _ in answers.codes}
    assert answers.accepted


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_makes_the_same_requests(kind: str) -> None:
    """Of every RPC and in every way; other seeds make other ones."""
    made = [[maker.make() for _ in range(300)] for maker in map(Maker, map(Random, (1, 1, 2)))]

    assert made[0] == made[1] != made[2]
    assert kind in {each.kind for each in made[0]}
    assert set(METHODS) == {each.rpc for each in made[0]}


def test_what_is_valid_can_be_read_and_what_is_spoilt_cannot() -> None:
    """All of the first, a good part of the second."""
    maker = Maker(Random(1))
    for rpc, message in METHODS.items():
        for _ in range(50):
            message.FromString(maker.mutated(rpc).SerializeToString())
    unread = 0
    for _ in range(500):
        try:
            METHODS["StartFlow"].FromString(maker._spoilt("StartFlow"))
        except DecodeError:
            unread += 1
    assert 100 < unread < 500


@pytest.mark.parametrize("kind", ["objects", "lists", "groups"])
def test_what_is_too_deep(kind: str) -> None:
    """A few levels are a message; many are refused as ours, not by a parser that falls over."""
    METHODS["StartFlow"].FromString(deep(16, kind))
    with pytest.raises(InvalidRequest):
        parse(METHODS["StartFlow"], deep(1_200, kind))


WRONG = InvalidRequest(message="no", violations=(Violation(field="flow", description="is missing."),))


def error(code: str, words: str, packed: bytes | None) -> grpc.aio.AioRpcError:
    """Builds what a client gets."""
    trailers = () if packed is None else (("grpc-status-details-bin", packed),)
    return grpc.aio.AioRpcError(grpc.StatusCode[code], grpc.aio.Metadata(), grpc.aio.Metadata(*trailers), words)


def changed(**fields: Any) -> bytes:
    """Builds details that are not what they should be."""
    status = write_status(WRONG)
    for name, value in fields.items():
        setattr(status, name, value)
    return status.SerializeToString()


@pytest.mark.parametrize(
    ("code", "words", "packed", "said"),
    [
        ("INVALID_ARGUMENT", "no", changed(), ""),
        ("UNIMPLEMENTED", "Method not found!", None, ""),
        ("INTERNAL", "no", changed(), "must never be"),
        ("UNKNOWN", "Unexpected <class 'KeyError'>", None, "must never be"),
        ("INVALID_ARGUMENT", "no", None, "no details"),
        ("UNIMPLEMENTED", "else", None, "no details"),
        ("INVALID_ARGUMENT", "no", b"\xff", "cannot be read"),
        ("INVALID_ARGUMENT", "no", b"", "not one ErrorInfo"),
        ("NOT_FOUND", "no", changed(), "not what its details say"),
        ("INVALID_ARGUMENT", "no", changed(message="other"), "not what its details say"),
        ("INVALID_ARGUMENT", "no", changed().replace(b"startflow.v1", b"startflow.v2"), "not what its details say"),
        ("INVALID_ARGUMENT", "no", changed().replace(b"VALIDATION", b"XALIDATION"), "none of ours"),
        ("CANCELLED", "", None, "no details"),
    ],
)
def test_a_status_that_must_not_be(code: str, words: str, packed: bytes | None, said: str) -> None:
    """It is a violation, whatever the request was."""
    answers = Answers()
    answers.refused("StartFlow", error(code, words, packed), hurried=False, about="x")

    assert [said in each for each in answers.violations] == [True] * bool(said)


def test_what_is_in_the_store() -> None:
    """All that was accepted, and nothing else."""
    answers = Answers(accepted={"both", "lost"}, recorded={"both", "refused"})
    answers.judge()

    assert ["refused", "lost"] == [each.split()[1] for each in answers.violations]


def test_memory_that_grows() -> None:
    """It may grow by so much after the warm-up."""
    told = []
    for most in (GROWTH, GROWTH + 1):
        answers = Answers(memory=[1000, 900, 1000 + most])
        answers.judge()
        told.append(len(answers.violations))

    assert [0, 1] == told
