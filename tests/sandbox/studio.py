"""Studio's contract, and a proxy that keeps what passes between a client and the sandbox.

`studio_v2.json` says what it is written after.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl

import aiohttp
from aiohttp import web
from jsonschema import Draft202012Validator
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Mapping

DOCUMENT: dict[str, Any] = json.loads(Path(__file__).with_name("studio_v2.json").read_text("utf-8"))
SID = re.compile(r"/(F[WNT])[0-9a-fA-F]{32}(?=/|$)")
REQUEST_ID = re.compile(r"RQ[0-9a-f]{32}")
DEFAULT_PAGE = 50
NO_CONTENT, FIRST_ERROR = 204, 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A request and its answer."""

    method: str
    path: str
    query: dict[str, str]
    form: dict[str, str]
    agent: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def operation(self) -> dict[str, Any]:
        """What is asked for; nothing if Studio has no such thing."""
        path = SID.sub(r"/\1", self.path)
        found = (each for each in DOCUMENT["operations"] if (each["method"], each["path"]) == (self.method, path))
        return next(found, {})

    @property
    def name(self) -> str:
        """Names what is asked for, and how it is answered."""
        return f"{self.operation.get('name', 'nothing')} {self.status}"


def wrong_requests(exchange: Exchange) -> list[str]:
    """Lists how a request breaks the contract."""
    operation = exchange.operation
    if not operation:
        return [f"{exchange.method} {exchange.path} is not an operation"]
    return [
        *_differences(exchange.name, exchange.query, operation.get("query", {"maxProperties": 0})),
        *_differences(exchange.name, exchange.form, operation.get("form", {"maxProperties": 0})),
    ]


def wrong_answers(exchange: Exchange) -> list[str]:
    """Lists how an answer breaks the contract."""
    name, status = exchange.name, exchange.status
    found = []
    if not REQUEST_ID.fullmatch(exchange.headers.get("Twilio-Request-Id", "")):
        found.append(f"{name}: no Twilio-Request-Id")
    if status == NO_CONTENT:
        return [*found, *([f"{name}: has a body"] if exchange.body else [])]
    if exchange.headers.get("Content-Type") != "application/json":
        found.append(f"{name}: Content-Type is {exchange.headers.get('Content-Type')}")
    body = json.loads(exchange.body)
    if status >= FIRST_ERROR:
        said = body.get("status")
        found += [f"{name}: says status {said}"] if said != status else []
        return [*found, *_differences(name, body, {"$ref": "#/$defs/error"})]
    schema = exchange.operation.get("answers", {}).get(str(status))
    if schema is None:
        return [*found, f"{name} is no answer to {exchange.method} {exchange.path}"]
    return [*found, *_differences(name, body, schema), *_wrong_page(exchange, body)]


def _differences(name: str, value: object, schema: object) -> list[str]:
    rules = {"allOf": [schema], "$defs": DOCUMENT["$defs"]}
    return [f"{name}: {error.json_path}: {error.message}" for error in Draft202012Validator(rules).iter_errors(value)]


def _wrong_page(exchange: Exchange, body: Any) -> list[str]:
    """Lists what no schema can say of a list: it has the size that was asked for, and no more rows than that."""
    meta = body.get("meta") if isinstance(body, dict) else None
    if not isinstance(meta, dict):
        return []
    asked, rows = int(exchange.query.get("PageSize", DEFAULT_PAGE)), body.get(meta.get("key"), [])
    found = []
    if meta.get("page_size") != asked:
        found.append(f"{exchange.name}: page_size is {meta.get('page_size')}, not {asked}")
    if len(rows) > asked:
        found.append(f"{exchange.name}: {len(rows)} rows on a page of {asked}")
    return found


@dataclass
class Proxy:
    """Passes everything on to the sandbox, and keeps it. Use it with `async with`."""

    target: str
    url: str = ""
    exchanges: list[Exchange] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        """Listens on loopback."""
        self._session = aiohttp.ClientSession()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _pass_on(self, request: web.Request) -> web.Response:
        asked = await request.read()
        url = URL(self.target + request.raw_path, encoded=True)
        async with self._session.request(
            request.method, url, data=asked or None, headers=request.headers, allow_redirects=False
        ) as answer:
            body = await answer.read()
        exchange = Exchange(
            method=request.method,
            path=request.path,
            query=dict(parse_qsl(request.query_string, keep_blank_values=True)),
            form=dict(parse_qsl(asked.decode(), keep_blank_values=True)),
            agent=request.headers.get("User-Agent", ""),
            status=answer.status,
            headers=answer.headers,
            body=body,
        )
        self.exchanges.append(exchange)
        passed = {name: value for name, value in answer.headers.items() if name not in ("Content-Length", "Server")}
        return web.Response(status=answer.status, body=body, headers=passed)
