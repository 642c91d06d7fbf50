"""One backend on a socket: records what arrives, lets a fault have its way, and answers."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from datetime import timedelta
from email.utils import format_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn

from aiohttp import web

from gateway.sandbox.exchange import Answer, Received, compact
from gateway.sandbox.faults import Rule
from gateway.sandbox.presets import HTML
from gateway.sandbox.quiet import LOG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from gateway.sandbox.exchange import Backend, Effect
    from gateway.sandbox.faults import Faults
    from gateway.sandbox.journal import Journal

NO_FAULT = Rule(backend="")
ROWS = ("results", "executions", "steps", "flows")  # where a list answer keeps its rows
PATIENCE = 0.01  # seconds a request that still waits is given at the end; aiohttp takes 0 for ever
ABORT = struct.pack("ii", 1, 0)  # SO_LINGER of no time: closing sends RST


class Listener:
    """Serves one backend at one address. `refuse` closes the address for a while."""

    def __init__(
        self,
        backend: Backend,
        *,
        address: tuple[str, int],
        journal: Journal,
        faults: Faults,
        clock: Callable[[], datetime],
    ) -> None:
        self._backend = backend
        self._address = address
        self._journal = journal
        self._faults = faults
        self._clock = clock
        self._runner: web.ServerRunner | None = None
        self._before: dict[str, Answer] = {}  # by verb: what was answered last, and was not an error
        self._late: set[asyncio.TimerHandle] = set()
        self._answering: set[asyncio.Task[Any]] = set()
        self._reopening: asyncio.Task[None] | None = None
        self._refusing = asyncio.Lock()

    @property
    def url(self) -> str:
        """The address clients use."""
        host, port = self._address
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def open(self) -> None:
        """Starts to listen; a port of 0 becomes a real one, and stays the same from then on."""
        # Cancellation is how a handler learns that its caller hung up.
        # What it does before it first waits is safe from that: a request that arrived whole is carried out.
        server = web.Server(self._handle, handler_cancellation=True, access_log=None, logger=LOG)
        self._runner = web.ServerRunner(server, shutdown_timeout=PATIENCE)
        await self._runner.setup()
        await web.TCPSite(self._runner, *self._address, backlog=1024).start()
        self._address = self._runner.addresses[0][:2]

    async def close(self) -> None:
        """Stops listening, drops every connection and forgets the changes that were to come late."""
        if self._reopening is not None:
            self._reopening.cancel()
        for timer in self._late:
            timer.cancel()
        self._late.clear()
        await self._shut()

    async def refuse(self, seconds: float) -> None:
        """Refuses connections, and drops those there are, for so many seconds."""
        async with self._refusing:  # shutting waits, and two that asked must not both open it again
            if self._reopening is not None:
                self._reopening.cancel()
            await self._shut()
            self._reopening = asyncio.create_task(self._reopen(seconds))

    async def _shut(self) -> None:
        """Stops listening, and cuts off every connection and what is being answered there.

        aiohttp's own shutdown gives each request some time. An answer that comes just as that ends raises
        InvalidStateError inside it, so nothing is being answered any more when it is called.
        """
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        for site in list(runner.sites):
            await site.stop()
        for connection in runner.server.connections if runner.server else ():
            if connection.transport is not None:
                connection.transport.abort()  # its handler is cancelled, once it is lost
        if self._answering:
            await asyncio.wait(self._answering)
        await runner.cleanup()

    async def _reopen(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.open()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        try:
            return await self._answer(request)
        finally:
            self._answering.discard(task)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        received = await self._record(request)
        note: dict[str, Any] = {"request": received.n}
        verb = self._backend.verb(received)
        picked = self._faults.pick(self._backend.name, verb, received)
        rule = NO_FAULT
        if picked is not None:
            note["fault"], rule = picked
        pending = self._carry_out(received, rule)
        try:
            answer = await self._choose(pending, rule, verb)
        except asyncio.CancelledError:
            self._journal.append("answer", self._backend.name, **note, status=None, how="hung up")
            raise
        if answer is None:
            self._journal.append("answer", self._backend.name, **note, status=None, how=rule.answer)
            await _say_nothing(request, rule)
        self._journal.append("answer", self._backend.name, **note, status=answer.status)
        headers = {**answer.headers, "Date": format_datetime(self._clock(), usegmt=True), "Server": "nginx"}
        if rule.answer == "truncated":
            await _truncate(request, answer, headers)
        return web.Response(status=answer.status, body=answer.body, headers=headers)

    async def _record(self, request: web.BaseRequest) -> Received:
        path, _, query = request.raw_path.partition("?")
        seen = {"method": request.method, "path": path, "query": query, "headers": dict(request.headers)}
        try:
            body = await request.read()
        except (web.HTTPRequestEntityTooLarge, web.RequestPayloadError) as error:
            # What a server in front of the backend refuses: too much of it, bad chunks, bad compression.
            refusal = error if isinstance(error, web.HTTPException) else web.HTTPBadRequest()
            number = self._journal.append("request", self._backend.name, **seen, body=None)
            self._journal.append("answer", self._backend.name, request=number, status=refusal.status)
            raise refusal from error
        except BaseException:  # the caller hung up: what it sent so far was never a request
            self._journal.append("request", self._backend.name, **seen, body=None)
            raise
        number = self._journal.append(
            "request", self._backend.name, **seen, body=body.decode("utf-8", "surrogateescape")
        )
        return Received(
            n=number,
            at=self._clock(),
            method=request.method,
            path=path,
            query=query,
            headers=request.headers,
            body=body,
        )

    def _carry_out(self, received: Received, rule: Rule) -> Answer | asyncio.Future[Answer]:
        """Makes the change, or has it made later. Nothing here waits."""
        if rule.commit is False and isinstance(rule.answer, dict) and "status" in rule.answer:
            return _canned(rule.answer)  # the request never reached the backend
        lag = self._faults.lag(self._backend.name) if received.method == "GET" else timedelta()
        outcome = self._backend.answer(received, lag)
        if isinstance(outcome, Answer):
            return outcome
        if isinstance(rule.commit, bool):
            return outcome(commit=rule.commit)
        return self._commit_later(rule.commit, outcome)

    async def _choose(self, pending: Answer | asyncio.Future[Answer], rule: Rule, verb: str) -> Answer | None:
        """Waits as long as the rule says, and returns what to answer: None for nothing at all."""
        if rule.delay and rule.answer != "hang":
            await asyncio.sleep(rule.delay)
        if rule.answer in ("reset", "hang"):
            return None
        if isinstance(rule.answer, dict) and "status" in rule.answer:
            return _canned(rule.answer)
        real = pending if isinstance(pending, Answer) else await pending
        before = self._before.get(verb, real)
        if real.status < HTTPStatus.BAD_REQUEST:
            self._before[verb] = real
        if rule.answer == "another":
            return before
        return _altered(real, **rule.answer) if isinstance(rule.answer, dict) else real

    def _commit_later(self, seconds: float, effect: Effect) -> asyncio.Future[Answer]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()

        def commit() -> None:
            self._late.discard(timer)
            real = effect(commit=True)
            if not answer.done():  # it is, when the caller hung up
                answer.set_result(real)

        timer = loop.call_later(seconds, commit)
        self._late.add(timer)
        return answer


def _canned(answer: dict[str, Any]) -> Answer:
    """Builds the answer a rule spells out. A body that is not text is JSON."""
    body, headers = answer.get("body", ""), answer.get("headers", {})
    if isinstance(body, str):
        return Answer(status=answer["status"], body=body.encode(), headers=HTML | headers)
    return Answer(
        status=answer["status"],
        body=compact(body),
        headers={"Content-Type": "application/json", **headers},
    )


def _altered(
    answer: Answer, patch: Mapping[str, Any] = {}, omit: Iterable[str] = (), drop: Iterable[str] = ()
) -> Answer:
    """Replaces or leaves out fields of the answer, of each row where a list itself has none such; drops headers."""
    dropped = {name.lower() for name in drop}
    headers = {name: value for name, value in answer.headers.items() if name.lower() not in dropped}
    if answer.status >= HTTPStatus.BAD_REQUEST or not answer.body:
        return Answer(status=answer.status, body=answer.body, headers=headers)
    document = json.loads(answer.body)
    if not isinstance(document, dict):  # what the browsable API has without `.json`
        return Answer(status=answer.status, body=answer.body, headers=headers)
    rows = next((document[key] for key in ROWS if isinstance(document.get(key), list)), None)
    for name in (*patch, *omit):
        for target in [document] if rows is None or name in document else rows:
            if name in patch:
                target[name] = patch[name]
            else:
                target.pop(name, None)
    return Answer(status=answer.status, body=compact(document), headers=headers)


async def _say_nothing(request: web.BaseRequest, rule: Rule) -> NoReturn:
    """Never answers: waits if the rule says hang, then resets the connection."""
    if rule.answer == "hang":
        await (asyncio.sleep(rule.delay) if rule.delay else _hung_up())
    if request.transport is not None:
        descriptor = request.transport.get_extra_info("socket").fileno()
        with socket.socket(fileno=os.dup(descriptor)) as peer:  # asyncio's own socket is for looking at only
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        request.transport.abort()
    await _hung_up()


async def _truncate(request: web.BaseRequest, answer: Answer, headers: dict[str, str]) -> NoReturn:
    """Promises the whole body, sends half of it and closes the connection."""
    response = web.StreamResponse(status=answer.status, headers=headers)
    response.content_length = len(answer.body)
    await response.prepare(request)
    await response.write(answer.body[: len(answer.body) // 2])
    if request.transport is not None:
        request.transport.close()
    await _hung_up()


async def _hung_up() -> NoReturn:
    """Waits until the connection is gone, which cancels the handler that waits."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("the wait ends by cancellation only")
