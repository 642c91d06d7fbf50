"""Who may come in: the clients, the limits and the certificate, all of them anew when the gateway is told to reload.

The credentials of backends are reloaded with them.

Rules:

1. A reload takes everything or nothing. What cannot be used is logged, without a secret, and what was there goes on.
2. No reload opens the door wider than it could have been opened at the start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from gateway.adapters import ADAPTERS
from gateway.adapters.base import Account, Misconfigured
from gateway.config import small_files
from gateway.config.loading import ConfigError
from gateway.config.values import CREDENTIALS
from gateway.doors.tls import Certificates, Pair, TlsUnusable, read_pair
from gateway.tenants.clients import Clients

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    import grpc

    from gateway.config.settings import BackendSettings, Settings

log = structlog.get_logger()

RELOADED = {"clients", "tls", "starts_per_second", "streams"}
"""The settings that a reload takes, with the credentials of backends. The others wait for a restart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reread:
    """What was read anew, and can be used."""

    settings: Settings
    pair: Pair | None
    renewed: dict[str, BackendSettings]
    late: list[str]  # settings that wait for a restart


class Door:
    """Made of settings; raises `TlsUnusable` if their certificate cannot be used."""

    def __init__(self, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._settings = settings
        tls = settings.tls
        self._certificates = None if tls is None else Certificates(read_pair(tls.certificate, tls.key), clock)
        clients = [each.client() for each in settings.clients]
        self.clients = Clients(clients, clock=clock, limits=settings.limits)

    @property
    def says(self) -> str:
        """Who may come in, in a few words for whoever starts the gateway."""
        guests = {client.tenant for client in self._settings.clients}
        who = f"{len(guests)} tenant{'s' if len(guests) > 1 else ''} by token" if guests else "everybody who reaches it"
        if self._certificates is None:
            return f"{who}, without TLS"
        return f"{who}, with TLS{f'. {wrong}' if (wrong := self._certificates.trouble) else ''}"

    def add_port(self, server: grpc.aio.Server) -> int:
        """Has a server listen; returns the port. Raises `RuntimeError` if the address is taken."""
        if self._certificates is None:
            return server.add_insecure_port(self._settings.listen)
        return server.add_secure_port(self._settings.listen, self._certificates.credentials())

    def read(self, reread: Callable[[], Settings]) -> Reread:
        """Returns the clients, limits, certificate and credentials that there are now, and changes nothing.

        Raises `ConfigError` or `TlsUnusable` if they cannot be used. Reads files, which may not answer for a while.
        """
        with small_files.together():
            read = reread()
            renewed = _renewed(self._settings.backends, read.backends)
            settings = self._settings.model_copy(
                update={name: getattr(read, name) for name in RELOADED}
                | {"backends": {**self._settings.backends, **renewed}}
            )
            self._check(settings)
            tls = settings.tls
            pair = None if tls is None else read_pair(tls.certificate, tls.key)
        late = _late(read, settings)
        return Reread(settings=settings, pair=pair, renewed=renewed, late=late)

    def take(self, outcome: Callable[[], Reread]) -> dict[str, BackendSettings] | None:
        """Takes what `read` has returned; None, and a line in the log, if it has raised.

        Returns the backends that have other credentials than before, with the settings that they had and these.
        """
        try:
            reread = outcome()
        except (ConfigError, TlsUnusable) as error:
            log.error("reload_refused", detail=str(error))
            return None
        if self._certificates is not None and reread.pair is not None:
            self._certificates.show(reread.pair)
        self._settings = settings = reread.settings
        self.clients.replace([each.client() for each in settings.clients], settings.limits)
        log.info(
            "reloaded",
            clients=len(settings.clients),
            tls=settings.tls is not None,
            credentials=sorted(reread.renewed),
            need_restart=reread.late,
        )
        return reread.renewed

    def _check(self, settings: Settings) -> None:
        """Raises `ConfigError` if these settings, listening where it does, cannot take the place of those there are."""
        if problems := settings.exposed():
            raise ConfigError("\n".join(problems))
        if (settings.tls is None) != (self._settings.tls is None):
            raise ConfigError("tls: whether there is TLS at all is decided at the start. Restart to change it")


def _late(read: Settings, settings: Settings) -> list[str]:
    """Lists the settings that are others in what was read; of a backend that stays, which of its settings."""
    late = [
        name
        for name in type(read).model_fields
        if name != "backends" and getattr(read, name) != getattr(settings, name)
    ]
    for name in read.backends.keys() | settings.backends.keys():
        new, old = read.backends.get(name), settings.backends.get(name)
        if new is None or old is None:
            late.append(f"backends.{name}")
        else:
            others = [each for each in type(new).model_fields if getattr(new, each) != getattr(old, each)]
            late += [f"backends.{name}.{each}" for each in others]
    return sorted(late)


def _renewed(before: Mapping[str, BackendSettings], read: Mapping[str, BackendSettings]) -> dict[str, BackendSettings]:
    """Returns the backends that are reached as before, but with other credentials.

    Raises `ConfigError` if these cannot be used.
    """
    renewed = {}
    for name, old in before.items():
        new = read.get(name)
        if new is None or (new.kind, new.url) != (old.kind, old.url) or new.credentials() == old.credentials():
            continue
        try:
            ADAPTERS[new.kind](Account(credentials=new.credentials(), sender=old.sender, url=old.url))
        except Misconfigured as error:
            raise ConfigError(f"backends.{name}: {error}") from error
        renewed[name] = old.model_copy(update={each: getattr(new, each) for each in CREDENTIALS})
    return renewed
