"""`startflow check`: tries a configuration before anything depends on it.

Rules:

1. Nothing is started and nothing is written: each backend is asked for its flows, which takes its credentials, and
   whose account it is.
2. What would keep a start from being sent is a problem; what only is unwise, or may not be read, is a warning.
3. No secret is shown.
"""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.adapters.base import Barred, Blocked, Listener, Lister, Misconfigured, NotSent, Throttled, Unsure
from gateway.adapters.reading import SENT_AGAIN, STARTS_WAIT
from gateway.config import small_files
from gateway.config.loading import literal_secrets, open_secrets
from gateway.config.values import is_loopback
from gateway.doors.tls import TlsUnusable, read_pair
from gateway.errors import Reason
from gateway.lanes.catalogue import Catalogue
from gateway.lanes.lanes import make_backend
from gateway.model import Identity
from gateway.store import access
from gateway.store.copies import opened
from gateway.store.engine import StoreUnusable
from gateway.store.moved import refuse_moved
from gateway.store.opening import require_postgres
from gateway.store.sqlite import refuse_newer, refuse_other_names

if TYPE_CHECKING:
    from pathlib import Path

    from gateway.adapters.base import Trouble
    from gateway.config.settings import BackendSettings, Settings
    from gateway.lanes.backend import Backend
    from gateway.model import Flow

OK, WARNING, PROBLEM = "OK", "WARNING", "PROBLEM"
LIVE_WITHIN = 5.0  # seconds
EXPIRES_SOON = timedelta(days=14)  # time enough to hand out another token


class Finding(NamedTuple):
    """What was found: of what, `OK`, `WARNING` or `PROBLEM`, and what there is to say and do."""

    subject: str
    result: str
    detail: str


DEAF = Finding(
    "", OK, "its events are refused, because neither auth_token nor shared_key is set; sweeping finds the same, later"
)


async def check(settings: Settings, path: Path | None) -> list[Finding]:
    """Tries everything that these settings, read from `path` and the environment, ask for."""
    return [
        Finding("configuration", OK, str(path) if path else "the environment alone; --config names a file"),
        *(
            Finding(name, WARNING, 'is written in the file: use { env = "NAME" } or { file = "/path" } instead')
            for name in literal_secrets(path)
        ),
        *(
            Finding(name, WARNING, f"everybody on this machine can read {file}: chmod o= {file}")
            for name, file in open_secrets(path)
        ),
        _store(settings),
        *_tls(settings),
        *_clients(settings, datetime.now(UTC)),
        *(await _backends(settings.backends)),
        *([Finding("sandbox", OK, "its backends are there when the gateway runs")] if settings.sandbox else []),
    ]


def live(settings: Settings) -> list[Finding]:
    """Asks the gateway that listens where these settings say whether it is up."""
    try:
        opened = _channel(settings)
    except OSError as error:
        assert settings.tls is not None
        return [
            Finding("tls", PROBLEM, f"tls.certificate: {settings.tls.certificate} cannot be read: {error.strerror}")
        ]
    with opened as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=LIVE_WITHIN)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:  # health needs a credential: it was there to say so
                return [Finding(settings.listen, OK, "answers")]
            return [Finding(settings.listen, PROBLEM, f"no gateway answers ({error.code().name}): is it running?")]
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return [Finding(settings.listen, OK if name == "SERVING" else PROBLEM, name)]


def _channel(settings: Settings) -> grpc.Channel:
    """Opens a channel to the gateway, which has to show the certificate that is configured, whatever its names."""
    if settings.tls is None:
        return grpc.insecure_channel(settings.listen)
    host, _, port = settings.listen.rpartition(":")
    certificate = small_files.read(settings.tls.certificate)
    context = ssl.create_default_context(cadata=certificate.decode("ascii", errors="replace"))
    context.check_hostname, context.verify_flags = False, context.verify_flags | ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(["h2"])
    names = [host]
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), LIVE_WITHIN) as plain,
            context.wrap_socket(plain) as secured,
        ):
            shown: Any = secured.getpeercert() or {}
            names = [name for _, name in shown.get("subjectAltName", ())] or names
    except OSError:
        pass  # the call fails for the same reason, and tells it
    credentials = grpc.ssl_channel_credentials(certificate)
    name = names[0].replace("*", "any", 1)
    return grpc.secure_channel(settings.listen, credentials, options=[("grpc.ssl_target_name_override", name)])


def _tls(settings: Settings) -> list[Finding]:
    if settings.tls is None:
        if not settings.clients and is_loopback(settings.listen):
            return []  # as it is from the start
        near = is_loopback(settings.listen)
        there = (
            "none: a proxy that ends TLS may stand in front"
            if near
            else "none: tokens and phone numbers go in the clear"
        )
        return [Finding("tls", OK if near else WARNING, there)]
    try:
        pair = read_pair(settings.tls.certificate, settings.tls.key)
    except TlsUnusable as error:
        return [Finding("tls", PROBLEM, str(error))]
    now = datetime.now(UTC)
    if wrong := pair.trouble(now):
        return [Finding("tls", PROBLEM, wrong)]
    if soon := pair.ends_soon(now):
        return [Finding("tls", WARNING, soon)]
    return [Finding("tls", OK, f"{settings.tls.certificate} and its key belong together")]


def _clients(settings: Settings, now: datetime) -> list[Finding]:
    """Tells who may call, with nothing by which a token could be recognised."""
    if not settings.clients:
        near = is_loopback(settings.listen)
        whoever = "everybody on this machine" if near else "everybody who reaches it"
        return [Finding("clients", OK if near else WARNING, f"none: {whoever} may call, as the tenant default")]
    found = []
    for place, client in enumerate(settings.clients):
        subject, result, said = f"clients.{place}", OK, f"{client.tenant} may {', '.join(sorted(client.scopes))}"
        if client.backends is not None:
            said += f" on {', '.join(client.backends) or 'no backend'}"
        if client.expires is not None:
            result = OK if client.expires > now + EXPIRES_SOON else WARNING
            said += f"; {'expires' if client.expires > now else 'expired'} at {client.expires.isoformat()}"
        found.append(Finding(subject, result, said))
    return found


def _store(settings: Settings) -> Finding:
    if settings.store_url is not None:
        return _postgres(settings.store_url)
    path = settings.store_path.absolute()
    try:
        wrong = _wrong_with(path)
        is_there = not wrong and path.exists()
    except StoreUnusable as error:
        wrong = str(error)
    except (OSError, sqlite3.Error) as error:
        wrong = access.why(path, error)
    if wrong:
        return Finding("store", PROBLEM, wrong)
    return Finding("store", OK, f"{path}{'' if is_there else ', which the first start makes'}")


def _postgres(url: str) -> Finding:
    try:
        require_postgres()
        from gateway.store.postgres.trying import tried  # noqa: PLC0415 -- an extra

        said, warnings = tried(url, datetime.now(UTC))
    except StoreUnusable as error:
        return Finding("store", PROBLEM, str(error))
    return Finding("store", WARNING if warnings else OK, ". ".join([said, *warnings]))


def _wrong_with(path: Path) -> str:
    """Returns what would keep the gateway from serving the store at a path; empty if nothing that can be seen."""
    if wrong := access.refused(path) or access.not_a_file(path):
        return wrong
    existing = access.nearest(path)
    if not (existing == path or existing.is_dir()):
        return f"{existing} is in the way of {path}: name a file in a directory"
    if access.is_full(path):
        return access.no_room(path)
    if existing == path and path.stat().st_size:
        refuse_other_names(path)
        with opened(path) as conn:
            refuse_newer(conn, path)
            refuse_moved(conn, path)
    return ""


async def _backends(configured: dict[str, BackendSettings]) -> list[Finding]:
    tried = await asyncio.gather(*(_backend(name, chosen) for name, chosen in configured.items()))
    return [finding for findings in tried for finding in findings]


async def _backend(name: str, chosen: BackendSettings) -> list[Finding]:
    subject = f"backends.{name}"
    try:
        backend = make_backend(name, chosen)
    except Misconfigured as error:
        return [Finding(subject, PROBLEM, str(error).removeprefix(f"{subject}: "))]
    if not isinstance(backend.adapter, Lister):
        return [Finding(subject, WARNING, "this kind of backend cannot be tried without starting something")]
    async with backend.transport:
        found = await Catalogue(backend).look(backend.adapter)
        flows = found.flows
        identity = await backend.transport.run(backend.adapter.identify())
    if found.trouble is not None:
        is_known = isinstance(identity, Identity)
        return [Finding(subject, WARNING if is_known else PROBLEM, _in_a_check(found.trouble, chosen))]
    if isinstance(identity, Blocked | Barred):
        return [Finding(subject, PROBLEM, _in_a_check(identity, chosen))]
    return [
        Finding(subject, OK, f"{chosen.url} takes the credentials and has {len(flows):,} flows"),
        *_quiet(subject, backend),
        *(Finding(f"{subject}.flows.{alias}", *_alias(flow, flows)) for alias, flow in sorted(chosen.flows.items())),
        *([DEAF._replace(subject=subject)] if isinstance(backend.adapter, Listener) and not _hears(chosen) else []),
    ]


def _in_a_check(trouble: Trouble, chosen: BackendSettings) -> str:
    """Returns what is wrong with a backend and which setting to look at; nothing is sent in a check, nothing waits."""
    if isinstance(trouble, Throttled):
        return f"{chosen.url} asked to wait before it is read: check again in a while"
    if isinstance(trouble, NotSent | Unsure):
        return f"{chosen.url} could not be read ({trouble.reason}): check `url`, and that this machine reaches it"
    said = trouble.notice.message.replace(SENT_AGAIN, f" Check `url`, which is {chosen.url}.")
    if trouble.notice.reason != Reason.BACKEND_CREDENTIALS_REJECTED:
        return said.replace(STARTS_WAIT, "")
    return said.replace(STARTS_WAIT, f" Check {', '.join(f'`{name}`' for name in ('url', *chosen.credentials()))}.")


def _quiet(subject: str, backend: Backend) -> list[Finding]:
    """Warns of a quiet window that is shorter than what this kind of backend is known to take."""
    default = backend.adapter.capabilities.quiet_window
    if backend.quiet_window >= default:
        return []
    said = (
        f"is shorter than the default of {default.total_seconds():g} s: a request that the backend carries out later"
        " than this is sent twice"
    )
    return [Finding(f"{subject}.quiet_window", WARNING, said)]


def _hears(chosen: BackendSettings) -> bool:
    return bool(chosen.auth_token or chosen.shared_key)


def _alias(flow: str, flows: tuple[Flow, ...]) -> tuple[str, str]:
    found = next((each for each in flows if each.id == flow), None)
    if found is None:
        return PROBLEM, f"the backend has no flow {flow}: correct the id"
    if found.startable is False:
        return PROBLEM, f"{found.name} is archived: restore it, or name another flow"
    return OK, found.name
