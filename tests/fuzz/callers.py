"""Those who call with gRPC: good and bad credentials, odd headers, short deadlines, streams that are left."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from startflow.v1 import start_flow_service_pb2 as pb

from gateway.doors.grpc.interceptors import SERVICE
from tests.fuzz.messages import METHODS, Maker

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from tests.fuzz.judge import Answers
    from tests.fuzz.messages import Made

PATIENCE = 30.0  # seconds after which a call without an answer is a violation
ANSWERS = {name: getattr(pb, f"{name}Response") for name in METHODS}
UNKNOWN = ("Stop", "startflow")
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
BESIDE = [f"/grpc.health.v1.Health/{name}" for name in ("Check", "Watch", "List")]
BESIDE += [f"/{service}/ServerReflectionInfo" for service in REFLECTION]
STREAMS = {"WatchFlowStarts", *BESIDE} - {BESIDE[0], BESIDE[2]}
TOKENS = {"token-a": 40, "token-b": 20, "token-boss": 10, "token-reader": 5, "token-few": 5}
Metadata = tuple[tuple[str, str | bytes], ...]
HASTY: Metadata = (("authorization", "Bearer token-hasty"),)
"""Of those who may leave before their answer: nobody knows what they have started, so nobody else is this tenant."""


def path(name: str) -> str:
    """Says where an RPC is; those of other services are named by it."""
    return name if name.startswith("/") else f"/{SERVICE.full_name}/{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a call is made. `within` and `leave_after` are seconds; None: as long as it takes."""

    metadata: Metadata
    within: float | None = None
    leave_after: float | None = None

    @property
    def hurried(self) -> bool:
        """Whether the caller itself may end the call."""
        return self.within is not None or self.leave_after is not None


def draw(random: Random) -> Manner:
    """Chooses a manner: mostly a good one."""
    token = random.choices(list(TOKENS), TOKENS.values())[0]
    metadata: Metadata = (("authorization", f"Bearer {token}"),)
    chance = random.random()
    if chance < 0.06:
        metadata = _odd(random, token)
    elif chance < 0.09:
        return Manner(metadata=HASTY, within=random.choice((0.0, 0.0005, 0.002, 0.01)))
    elif chance < 0.12:
        return Manner(metadata=HASTY, leave_after=random.choice((0.0, 0.001, 0.005)))
    return Manner(metadata=metadata)


def _odd(random: Random, token: str) -> Metadata:
    printable = "".join(chr(random.randint(33, 126)) for _ in range(random.choice((1, 30, 400, 3_000))))
    good = ("authorization", f"Bearer {token}")
    return random.choice(
        [
            (),
            (("authorization", ""),),
            (("authorization", "Bearer"),),
            (("authorization", f"Bearer  {token} x"),),
            (("authorization", f"Basic {token}"),),
            (("authorization", printable),),
            (("authorization", f"Bearer {printable}"),),
            (good, good),
            (("authorization", "Bearer token-old"),),
            (good, ("x-request-id", printable)),
            (good, ("x-request-id", "a"), ("x-request-id", "b c")),
            (good, ("x-request-id-bin", random.randbytes(50))),
            (good, ("traceparent", printable), ("user-agent", printable)),
            (good, *((f"x-{number}", "y" * 40) for number in range(60))),
            (good, ("x-large", "y" * random.choice((9_000, 20_000, 70_000)))),
            (good, ("grpc-status-details-bin", random.randbytes(200))),
        ]
    )


class Caller:
    """Calls, and notes what is answered."""

    def __init__(self, channel: grpc.aio.Channel, maker: Maker, answers: Answers) -> None:
        self._channel = channel
        self._maker = maker
        self._answers = answers

    async def run(self, next_one: Callable[[], bool]) -> None:
        """Calls as often as it is told to."""
        while next_one():
            made, manner = self._maker.make(), draw(self._maker.random)
            chance = self._maker.random.random()
            name = made.rpc if chance > 0.03 else self._maker.random.choice(BESIDE if chance > 0.002 else UNKNOWN)
            self._answers.kinds[made.kind] += 1
            await self._call(name, made, manner)

    async def _call(self, name: str, made: Made, manner: Manner) -> None:
        about = f"{name} ({made.kind}, {made.data[:300].hex()}{'…' * (len(made.data) > 300)})"
        try:
            async with asyncio.timeout(PATIENCE):
                await (self._stream if name in STREAMS else self._ask)(name, made, manner)
            self._answers.codes[name, "OK"] += 1
        except grpc.aio.AioRpcError as error:
            self._answers.refused(name, error, hurried=manner.hurried, about=about)
        except asyncio.CancelledError:
            if manner.leave_after is None:
                raise
            self._answers.codes[name, "CANCELLED"] += 1
        except TimeoutError:
            self._answers.violate(f"{about}: no answer within {PATIENCE:g} s")

    async def _ask(self, name: str, made: Made, manner: Manner) -> None:
        method = self._channel.unary_unary(path(name))
        call = method(made.data, metadata=manner.metadata, timeout=manner.within)
        if manner.leave_after is not None:
            asyncio.get_running_loop().call_later(manner.leave_after, call.cancel)
        self._note(name, await call, hurried=manner.hurried)

    async def _stream(self, name: str, made: Made, manner: Manner) -> None:
        """Reads some messages and leaves; an error that ends the stream is raised."""
        method = self._channel.unary_stream(path(name))  # to reflection, too: on the wire it is the same
        call = method(made.data, metadata=manner.metadata, timeout=manner.within)
        try:
            for count in range(self._maker.random.choice((1, 1, 2, 5, 40))):
                async with asyncio.timeout(manner.leave_after or (PATIENCE if count == 0 else 0.01)):
                    message = await call.read()
                if message is grpc.aio.EOF:
                    break
                self._note(name, message, hurried=manner.hurried)
        except TimeoutError:
            if count == 0 and manner.leave_after is None:
                raise
        finally:
            call.cancel()
        if (code := await call.code()) not in (grpc.StatusCode.OK, grpc.StatusCode.CANCELLED):
            raise grpc.aio.AioRpcError(
                code, await call.initial_metadata(), await call.trailing_metadata(), details=await call.details()
            )

    def _note(self, name: str, data: bytes, *, hurried: bool) -> None:
        """Notes what was recorded, and what the next requests may speak of."""
        if name not in ANSWERS:
            return
        answer, known = ANSWERS[name].FromString(data), self._maker.known
        if name == "StartFlow" and answer.flow_start.id and not answer.replayed:
            if not hurried:
                self._answers.accepted.add(answer.flow_start.id)
            known["id"].append(answer.flow_start.id)
            known["ids"].append(answer.flow_start.id)
            known["dispatch_id"].append(f"{answer.flow_start.id}-0")
        with suppress(AttributeError):
            known["page_token"].append(answer.next_page_token)
        with suppress(AttributeError):
            known["epoch"].append(answer.epoch)
            known["after_revision"].append(answer.revision)
