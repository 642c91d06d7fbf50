"""Who may come in: the clients, the limits and the certificate, all of them anew when the gateway is told to reload.

Rules:

1. A reload takes everything or nothing. What cannot be used is logged, without a secret, and what was there goes on.
2. No reload opens the door wider than it could have been opened at the start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from gateway.clients import Clients
from gateway.config import ConfigError
from gateway.tls import Certificates, TlsUnusable

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    import grpc

    from gateway.config import Settings

log = structlog.get_logger()

RELOADED = {"clients", "tls", "starts_per_second", "streams"}
"""The settings that a reload takes. The others wait for a restart."""


class Door:
    """Made of settings; raises `TlsUnusable` if their certificate cannot be used."""

    def __init__(self, settings: Settings, clock: Callable[[], datetime]) -> None:
        self._settings = settings
        tls = settings.tls
        self._certificates = None if tls is None else Certificates(tls.certificate, tls.key)
        clients = [each.client() for each in settings.clients]
        self.clients = Clients(clients, clock=clock, limits=settings.limits)

    @property
    def says(self) -> str:
        """Who may come in, in a few words for whoever starts the gateway."""
        guests = {client.tenant for client in self._settings.clients}
        who = f"{len(guests)} tenant{'s' if len(guests) > 1 else ''} by token" if guests else "everybody who reaches it"
        return f"{who}, {'with' if self._certificates else 'without'} TLS"

    def add_port(self, server: grpc.aio.Server) -> int:
        """Has a server listen; returns the port. Raises `RuntimeError` if the address is taken."""
        if self._certificates is None:
            return server.add_insecure_port(self._settings.listen)
        return server.add_secure_port(self._settings.listen, self._certificates.credentials())

    def reload(self, reread: Callable[[], Settings]) -> bool:
        """Takes the clients, limits and certificate that there are now; returns whether it did."""
        try:
            read = reread()
            settings = self._settings.model_copy(update={name: getattr(read, name) for name in RELOADED})
            self._check(settings)
            if self._certificates is not None and settings.tls is not None:
                self._certificates.read(settings.tls.certificate, settings.tls.key)
        except (ConfigError, TlsUnusable) as error:
            log.error("reload_refused", detail=str(error))
            return False
        self.clients.replace([each.client() for each in settings.clients], settings.limits)
        self._settings = settings
        late = sorted(name for name in type(read).model_fields if getattr(read, name) != getattr(settings, name))
        log.info("reloaded", clients=len(settings.clients), tls=settings.tls is not None, need_restart=late)
        return True

    def _check(self, settings: Settings) -> None:
        """Raises `ConfigError` if these settings, listening where it does, cannot take the place of those there are."""
        if problems := settings.exposed():
            raise ConfigError("\n".join(problems))
        if (settings.tls is None) != (self._settings.tls is None):
            raise ConfigError("tls: whether there is TLS at all is decided at the start. Restart to change it")
