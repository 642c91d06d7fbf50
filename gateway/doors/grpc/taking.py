"""Takes calls from gRPC's core, each method by itself.

The server of `grpc.aio` takes all calls in one loop. A path that is not UTF-8 raises in that loop and ends it: one call
of anybody stops the port for good. And calls that are taken back at once ("rapid reset") are all taken, in turn with
those that somebody waits for. So this server has a loop for each method, and one for whatever is none, whose path it
does not read.

Rules:

1. What one method is asked for delays no other one.
2. A call that its client takes back at once costs its method a pause. In that time those that follow it are begun and
   taken back inside the core, where they cost next to nothing, and those that somebody waits for are kept in a queue.
   The pauses of all methods follow each other: of whatever is called, as many such calls are taken in all.
3. A call of an open method, or of none, belongs to no tenant. Such a method has one account, and takes a call when that
   account has its turn; until then the call waits in the core, where it costs nothing.
4. gRPC is pinned in pyproject.toml: this rests on names inside it. `tests/hostile/test_taking.py` fails if they change.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

from grpc._cython import cygrpc
from grpc.aio import _server

from gateway.tenants.loop_time import LoopTime

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    import grpc

AT_ONCE = 0.1  # seconds in which a call that is taken back was of no use to anybody
TAKERS = 8  # of a method, while none of its calls is taken back: each takes one call in a pass of the loop
CALM = 1.0  # seconds in which no call was taken back
PAUSE = 0.004  # seconds: so 250 such calls a second are taken at the most, and who waits for a call notices nothing


def _nothing() -> None:
    """Drops nothing: another server has taken this call."""


dropping: ContextVar[Callable[[], None]] = ContextVar("dropping", default=_nothing)
"""What drops the call that is being answered: its stream is reset, whether its client reads or not."""

answered: ContextVar[Callable[[], None]] = ContextVar("answered", default=_nothing)
"""What notes that the call has its answer, so that its client did not take it back: gRPC cancels refused calls too."""


class Server(_server.Server):
    """A server of `grpc.aio` that answers `methods`, full paths all of them, with the handlers that are added to it.

    Those in `open_methods` need no credential.
    """

    def __init__(  # no call of the other one
        self,
        options: Sequence[tuple[str, Any]],
        methods: Iterable[str],
        loop_time: LoopTime | None = None,
        *,
        open_methods: Collection[str] = (),
    ) -> None:
        self._loop = cygrpc.get_working_loop()
        self._server: Any = _Core(self._loop, None, (), (), tuple(options), None)
        self._server.loop_time = loop_time or LoopTime()
        self._server.open_methods = frozenset(open_methods)
        self._server.add_registered_method_handlers(dict.fromkeys(methods))

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Adds handlers. They are asked in this order."""
        self._server.handlers.extend(generic_rpc_handlers)

    def add_registered_method_handlers(self, service: str, method_handlers: object) -> None:
        """Adds nothing: they are the same as the generic ones."""


class _Core(cygrpc.AioServer):  # type: ignore[misc] # it has no types
    """Takes calls in loops of its own. The one it inherits waits for these until the server ends."""

    def __init__(self, *args: Any) -> None:  # noqa: ANN401 -- gRPC's
        super().__init__(*args)
        self.handlers: list[grpc.GenericRpcHandler] = []
        self.pauses = _Pauses()
        self._serving: set[asyncio.Task[None]] = set()

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[None]:
        # Whoever waits for this cancels it when the server ends, and a call that was taken by then must be answered.
        taking = asyncio.get_running_loop().create_task(self._take_all(method))
        taking.add_done_callback(_retrieve)  # nobody else does, where the waiting was cancelled
        return asyncio.shield(taking)

    async def _take_all(self, method: bytes | None) -> None:
        """Takes the calls of one method, or those of no method, until the core says that the server ends."""
        taken_back = _TakenBack(self.pauses)
        takers = (self._take(method, taken_back, is_first=number == 0) for number in range(TAKERS))
        await asyncio.gather(*takers, return_exceptions=True)
        raise cygrpc._RequestCallError  # noqa: SLF001 -- as a call would that the core cannot give any more

    async def _take(self, method: bytes | None, taken_back: _TakenBack, *, is_first: bool) -> None:
        loop = asyncio.get_running_loop()
        if method is None:
            name, handlers, take = "", [], self._request_call
        else:
            name, handlers, take = method.decode(), self.handlers, partial(self._request_registered_call, method)
        find = cygrpc._MethodResolver(handlers, {})  # noqa: SLF001 -- rule 4
        is_open = method is None or name in self.open_methods
        while self.is_running():  # what is gone must not be asked for a call: it is memory of the core
            if not is_first and loop.time() < taken_back.calm_at:
                await asyncio.sleep(CALM)
                continue
            account = self.loop_time.account_of(name or "/") if is_open else None  # rule 3
            if account is not None:
                await self.loop_time.turn(account)
            state = await take()
            taken = _Taken()
            answer = cygrpc._handle_rpc(name, find, (), state, loop, False)  # noqa: FBT003, SLF001
            answer = self.loop_time.steps(answer, account)
            answer = _noting(answer, taken, taken_back)
            taken.task = task = loop.create_task(cygrpc._schedule_rpc_coro(answer, state, loop, name))  # noqa: SLF001
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
            del state, answer, task, taken  # while it waits it keeps no call
            if (pause := taken_back.pause(loop.time())) > 0:
                await asyncio.sleep(pause)  # rule 2


def _retrieve(taking: asyncio.Task[None]) -> None:
    if not taking.cancelled():
        taking.exception()


class _Pauses:
    """When the next pause may end, of whichever method."""

    __slots__ = ("ends_at",)

    def __init__(self) -> None:
        self.ends_at = 0.0


class _TakenBack:
    """Whether calls of a method are taken back."""

    __slots__ = ("_pauses", "calm_at", "is_new")

    def __init__(self, pauses: _Pauses) -> None:
        self._pauses = pauses
        self.is_new = False  # one was since the last pause
        self.calm_at = 0.0  # when none will have been for a while

    def note(self, now: float) -> None:
        """Notes that one was."""
        self.is_new = True
        self.calm_at = now + CALM

    def pause(self, now: float) -> float:
        """Returns for how many seconds none is taken, because one was."""
        if not self.is_new:
            return 0.0
        self.is_new = False
        self._pauses.ends_at = max(self._pauses.ends_at, now) + PAUSE
        return self._pauses.ends_at - now


class _Taken:
    """A call that was taken."""

    __slots__ = ("answering", "is_answered", "task")

    task: asyncio.Task[None] | None
    answering: asyncio.Task[None] | None
    is_answered: bool

    def answer(self) -> None:
        """Notes that it has its answer."""
        self.is_answered = True

    def drop(self) -> None:
        """Lets go of it. The core resets the stream of a call that nobody holds any more."""
        for task in (self.answering, self.task):
            if task is not None:
                task.cancel()

    def release(self) -> None:
        """Forgets its tasks, whose context knows it: else each call is garbage that only the collector finds."""
        self.answering = self.task = None


async def _noting(answer: Any, taken: _Taken, taken_back: _TakenBack) -> None:  # noqa: ANN401 -- Cython's coroutine
    """Answers a call, and notes if its client takes it back at once."""
    taken.answering, taken.is_answered = asyncio.current_task(), False
    dropping.set(taken.drop)
    answered.set(taken.answer)
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        await answer
    except asyncio.CancelledError:
        if not taken.is_answered and loop.time() - began < AT_ONCE:
            taken_back.note(loop.time())
        raise
    finally:
        taken.release()
