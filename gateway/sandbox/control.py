"""The sandbox's own HTTP endpoint: faults, the journal, and a hand on every start."""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any

from aiohttp import web

from gateway.sandbox.exchange import parse
from gateway.sandbox.faults import BACKENDS, is_seconds, read_rule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gateway.sandbox.exchange import Backend
    from gateway.sandbox.faults import Faults
    from gateway.sandbox.journal import Journal
    from gateway.sandbox.listener import Listener
    from gateway.sandbox.twilio.events import Events

HELP = """\
RapidPro and Twilio Studio, simulated.

  RapidPro  {rapidpro}
  Twilio    {twilio}
  control   {control}

Make the next Twilio requests fail, see the faults, take them away:
  curl {control}/faults -d '{{"preset": "throttled", "backend": "twilio", "times": 3}}'
  curl {control}/faults -d '{{"backend": "rapidpro", "verb": "create", "commit": 2, "answer": "reset"}}'
  curl {control}/faults
  curl -X DELETE {control}/faults        (or /faults/1)

Refuse connections for ten seconds:
  curl {control}/refuse -d '{{"backend": "rapidpro", "seconds": 10}}'

Deliver Event Streams posts twice; tell of a start after its end; sign with a SharedKey:
  curl {control}/events -d '{{"duplicate": true, "reverse": true, "shared_key": true}}'

Read RapidPro from two replicas, one of them two seconds behind; commit late; set its clock back; upgrade it:
  curl {control}/rapidpro -d '{{"replicas": [0, 2], "transaction": [0, 0.5], "ahead": -120, "page_size": 20}}'
  curl {control}/rapidpro -d '{{"generation": "old"}}'      (what else can be changed: curl {control}/rapidpro)
Give many rows one `modified_on`, as a bulk update does:
  curl {control}/touch -d '{{"count": 501}}'                or {{"ids": [ID], "ago": 60}}
Make Twilio's pages short; let its 409 not say which execution is active, and its 401 have a `detail`; take
permissions from its API key:
  curl {control}/twilio -d '{{"largest_page": 20, "names_busy": false, "explains_401": true, "lacks": ["flows"]}}'

What happened:
  curl '{control}/journal?after=0&kind=created&backend=twilio&limit=10'
  curl {control}/state

Change a start or an execution, whatever its status; hold it where it is; let it go on:
  curl {control}/starts/ID -d '{{"status": "interrupted"}}'
  curl {control}/starts/ID -d '{{"hold": true}}'

A start can say what becomes of it, in its params: {{"sandbox": "fail"}}, "interrupt", "stick", "stick_pending",
"quick", "nobody", "partial", "blocked" or "null" on RapidPro; "fail" or "stick" on Twilio. What happens to its POST on
RapidPro as well: "mailroom_down" (500), "firewall" (403, a page), "without_params", "blank_params".
"""
CHANGE = {"status", "hold"}


class Control:
    """Answers on the control port. What it refuses, it refuses with a sentence."""

    def __init__(
        self,
        *,
        backends: Mapping[str, Backend],
        listeners: Mapping[str, Listener],
        faults: Faults,
        journal: Journal,
        events: Events,
        touch: Callable[[object], dict[str, Any]],
    ) -> None:
        self._bulk_update = touch
        self._events = events
        self._backends = backends
        self._listeners = listeners
        self._faults = faults
        self._journal = journal

    def app(self) -> web.Application:
        """Builds the routes."""
        app = web.Application(middlewares=[_explain])
        app.router.add_get("/", self._help)
        app.router.add_get("/faults", self._list_faults)
        app.router.add_post("/faults", self._add_faults)
        app.router.add_delete("/faults", self._clear_faults)
        app.router.add_delete(r"/faults/{id:\d+}", self._remove_fault)
        app.router.add_post("/events", self._change_events)
        app.router.add_post("/refuse", self._refuse)
        app.router.add_post("/touch", self._touch)
        for name in self._backends:
            app.router.add_get(f"/{name}", self._configure)
            app.router.add_post(f"/{name}", self._configure)
        app.router.add_get("/journal", self._read_journal)
        app.router.add_get("/state", self._state)
        app.router.add_post("/starts/{external_id}", self._force)
        return app

    async def _help(self, request: web.Request) -> web.Response:
        urls = {name: listener.url for name, listener in self._listeners.items()}
        return web.Response(text=HELP.format(control=f"http://{request.host}", **urls))

    async def _list_faults(self, _: web.Request) -> web.Response:
        return web.json_response({"faults": self._faults.listing()})

    async def _add_faults(self, request: web.Request) -> web.Response:
        data = await _json(request)
        rules = data if isinstance(data, list) else [data]
        for rule in rules:
            read_rule(rule)  # all of them first: a bad one adds none
        ids = [self._faults.add(rule) for rule in rules]
        return web.json_response({"ids": ids}, status=201)

    async def _clear_faults(self, _: web.Request) -> web.Response:
        self._faults.clear()
        return web.json_response({})

    async def _remove_fault(self, request: web.Request) -> web.Response:
        try:
            self._faults.remove(int(request.match_info["id"]))
        except KeyError:
            raise LookupError(f"There is no fault {request.match_info['id']}.") from None
        return web.json_response({})

    async def _change_events(self, request: web.Request) -> web.Response:
        data = await _json(request)
        ways = self._events.ways
        if not isinstance(data, dict) or data.keys() - ways or not all(isinstance(it, bool) for it in data.values()):
            raise ValueError("Say some of `duplicate`, `reverse` and `shared_key`, each true or false.")
        ways.update(data)
        return web.json_response(ways)

    async def _refuse(self, request: web.Request) -> web.Response:
        data = await _json(request)
        if not isinstance(data, dict) or data.get("backend") not in BACKENDS:
            raise ValueError(f"`backend` must be one of {', '.join(BACKENDS)}.")
        if not is_seconds(data.get("seconds")):
            raise ValueError("`seconds` must be a number of seconds.")
        await self._listeners[data["backend"]].refuse(data["seconds"])
        return web.json_response({})

    async def _configure(self, request: web.Request) -> web.Response:
        changes = await _json(request) if request.method == "POST" else {}
        return web.json_response(self._backends[request.path.strip("/")].configure(changes))

    async def _touch(self, request: web.Request) -> web.Response:
        data = await _json(request)
        try:
            return web.json_response(self._bulk_update(data))
        except KeyError as error:
            raise LookupError(f"There is no start {error.args[0]!r}.") from None

    async def _read_journal(self, request: web.Request) -> web.Response:
        numbers = {}
        for name, default in (("after", 0), ("limit", self._journal.head)):
            text = request.query.get(name, str(default))
            if not (text.isascii() and text.isdecimal()):
                raise ValueError(f"`{name}` must be a whole number, not {text!r}.")
            numbers[name] = int(text)
        entries = self._journal.entries(
            after=numbers["after"], kind=request.query.get("kind"), backend=request.query.get("backend")
        )
        return web.json_response(
            {"entries": list(islice(entries, min(numbers["limit"], self._journal.head))), "head": self._journal.head}
        )

    async def _state(self, _: web.Request) -> web.Response:
        state: dict[str, Any] = {name: backend.summary() for name, backend in self._backends.items()}
        return web.json_response(state | {"faults": self._faults.listing(), "head": self._journal.head})

    async def _force(self, request: web.Request) -> web.Response:
        change = await _json(request)
        if not isinstance(change, dict) or not change or change.keys() - CHANGE:
            raise ValueError('Say `status`, `hold` or both, for example {"status": "interrupted"}.')
        if not isinstance(change.get("hold", False), bool):
            raise ValueError("`hold` must be true or false.")  # noqa: TRY004 - the caller's, answered 400
        if not isinstance(change.get("status"), (str, type(None))):
            raise ValueError("`status` must be a string or null.")  # noqa: TRY004 - the caller's, answered 400
        external_id = request.match_info["external_id"]
        for backend in self._backends.values():
            try:
                backend.force(external_id, change)
            except KeyError:
                continue
            return web.json_response({"backend": backend.name, "external_id": external_id})
        raise LookupError(f"There is no start {external_id!r}.")


async def _json(request: web.Request) -> Any:  # noqa: ANN401 - any JSON
    """Reads a body. It is held and shown again, so a lone surrogate, which no answer can hold, is refused as well."""
    try:
        document = parse(await request.read())
        json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError, web.RequestPayloadError) as error:
        raise ValueError(f"The body is not JSON: {error}.") from None
    return document


@web.middleware
async def _explain(request: web.Request, handler: Any) -> web.StreamResponse:  # noqa: ANN401 - aiohttp's Handler is not public
    """Answers a ValueError with 400 and a LookupError with 404, each with its sentence."""
    try:
        response: web.StreamResponse = await handler(request)
    except ValueError as error:
        return web.json_response({"error": str(error)}, status=400)
    except LookupError as error:
        return web.json_response({"error": str(error)}, status=404)
    return response
