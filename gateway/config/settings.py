"""Every setting there is, frozen. `loading.py` reads them, and `values.py` says how each is written."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.config.values import (
    CREDENTIALS,
    ENVIRONMENT,
    Address,
    Duration,
    GivingUp,
    Hashes,
    Kind,
    Moment,
    Proxy,
    PublicUrl,
    Quiet,
    Rate,
    Retention,
    Scopes,
    Secret,
    Tenant,
    Url,
    is_loopback,
    is_name,
)
from gateway.tenants.clients import Client, Limits, Scope

_ANYBODY = {False: "start flows or read along", True: "read the tokens, phone numbers and params that pass"}
"""What is possible without TLS, by whether there are clients."""


class BackendSettings(BaseModel):
    """One account on a backend."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    plain_http: bool = False  # `url` may be http:// and not on this machine; read before it
    url: Url
    proxy: Proxy | None = Field(default=None, repr=False)  # may hold a password
    token: Secret | None = Field(default=None, repr=False)
    account_sid: Secret | None = Field(default=None, repr=False)
    auth_token: Secret | None = Field(default=None, repr=False)
    api_key: Secret | None = Field(default=None, repr=False)
    api_secret: Secret | None = Field(default=None, repr=False)
    shared_key: Secret | None = Field(default=None, repr=False)
    sender: str = ""
    public_url: PublicUrl = ""  # where the backend reaches this gateway; unless set, where a request says it came to
    flows: dict[str, str] = {}
    formerly: list[str] = []  # names that the same account had before, such as an old RapidPro's `1`
    rate: Rate | None = None
    timeout: Duration = timedelta(seconds=35)
    quiet_window: Quiet | None = None  # of the kind, unless set
    find_for: Duration = timedelta(hours=1)
    on_absent: Literal["resend", "uncertain"] = "resend"
    give_up_after: GivingUp = timedelta(days=1)
    schedule_ahead: Duration = timedelta(days=365)
    stalled_after: Duration = timedelta(days=1)
    backlog: int = Field(default=100_000, ge=1, le=100_000_000)
    in_flight: int = Field(default=8, ge=1, le=256)
    sweep_interval: Duration = timedelta(seconds=10)

    def proxy_url(self) -> str:
        """Returns the proxy by which the backend is reached; empty if by none."""
        chosen = self.proxy.get_secret_value() if self.proxy else ""
        if chosen != ENVIRONMENT:
            return chosen
        scheme, _, host = self.url.rstrip("/").partition("://")
        return "" if proxy_bypass(host) else getproxies_environment().get(scheme, "")

    def credentials(self) -> dict[str, str]:
        """Returns the secrets that are set, by their names here."""
        return {name: value.get_secret_value() for name in CREDENTIALS if (value := getattr(self, name)) is not None}


class ClientSettings(BaseModel):
    """Who may call: one tenant's token or tokens, and what they allow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: Tenant
    token_sha256: Hashes = Field(repr=False)
    backends: tuple[str, ...] | None = None  # all
    scopes: Scopes = frozenset({Scope.START, Scope.READ})
    expires: Moment | None = None
    starts_per_second: float | None = Field(default=None, gt=0, le=1_000_000, allow_inf_nan=False)
    streams: int | None = Field(default=None, ge=1, le=1_000_000)

    def client(self) -> Client:
        """Returns it as those know it who ask."""
        return Client(
            tenant=self.tenant,
            hashes=self.token_sha256,
            scopes=self.scopes,
            backends=None if self.backends is None else frozenset(self.backends),
            expires_at=self.expires,
            limits=Limits(starts_per_second=self.starts_per_second, streams=self.streams),
        )


class TlsSettings(BaseModel):
    """The certificate that the gateway shows, followed by those between it and its root, and the key; both PEM."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    certificate: Path
    key: Path


SHORTEST_WRITE = timedelta(milliseconds=100)
POSTGRES = ("postgresql://", "postgres://")


def has_password(url: str) -> bool:
    """Whether there is a password in the address of a database."""
    parts = urlsplit(url)
    return ":" in parts.netloc.rpartition("@")[0] or "password" in parse_qs(parts.query)


class Settings(BaseSettings):
    """All settings of the gateway."""

    model_config = SettingsConfigDict(
        env_prefix="STARTFLOW_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        nested_model_default_partial_update=True,
    )

    listen: Address = "127.0.0.1:50051"
    http_listen: Address = "127.0.0.1:8080"
    store: str = "sqlite:///var/startflow.db"  # with the sandbox: var/sandbox.db
    store_listen: str | None = None  # where PostgreSQL is listened to; unless set, where the store is; "": nowhere
    lease: Duration = timedelta(seconds=8)  # for which other gateways leave a lane to one of which they hear nothing
    write_within: Duration = timedelta(seconds=3)  # in which what begins to be sent is written, or it is not sent
    retention: Retention | None = None  # unless set, everything is kept
    backends: dict[str, BackendSettings] = {}
    streams: int = Field(default=20_000, ge=1, le=1_000_000)  # watches of one tenant at a time
    stream_age: Duration = timedelta(hours=1)
    starts_per_second: float | None = Field(default=None, gt=0, le=1_000_000, allow_inf_nan=False)  # of one tenant
    clients: tuple[ClientSettings, ...] = ()
    tls: TlsSettings | None = None
    open_services: bool = True  # health and reflection need no credential
    plain_http: bool = False  # http_listen may be wider than loopback; says nothing of `listen`
    insecure: bool = False  # listens wider than loopback, whatever there is of clients and TLS
    sandbox: bool = False

    @property
    def store_url(self) -> str | None:
        """Where the PostgreSQL database is, as libpq takes it; None if the store is a file."""
        return self.store if self.store.startswith(POSTGRES) else None

    @property
    def store_path(self) -> Path:
        """Where the SQLite file is."""
        return Path(self.store.removeprefix("sqlite:///"))

    @model_validator(mode="after")
    def _is_usable(self) -> Settings:
        self._check_store()
        self._check_leases()
        for name in self.backends:
            if not is_name(name):
                msg = f'backends: "{name}" is not a name; use at most 63 of a-z, 0-9, _ and -'
                raise ValueError(msg)
        self._check_clients()
        return self

    def _check_store(self) -> None:
        if self.store_url is not None:
            _refuse_password("store", self.store_url)
            return
        if not self.store.startswith("sqlite:///") or self.store == "sqlite:///":
            msg = (  # without what it is: it may hold a password
                "store: is no URL of a store; write sqlite:///PATH (sqlite:////PATH if absolute), or"
                " postgresql://USER@HOST/DATABASE"
            )
            raise ValueError(msg)
        if ":memory:" in self.store or "?" in self.store:
            msg = (
                "store: is not a file; write sqlite:///PATH, without ?parameters. A store in memory would lose every"
                " start at a restart"
            )
            raise ValueError(msg)

    def _check_leases(self) -> None:
        if self.write_within < SHORTEST_WRITE:
            msg = f"write_within: less than {SHORTEST_WRITE.total_seconds():g}s is over before anything is written"
            raise ValueError(msg)
        if self.lease < 2 * self.write_within:
            msg = "lease: must be twice as long as write_within, or longer: nothing is sent in its last part"
            raise ValueError(msg)
        if self.store_listen:
            if not self.store_listen.startswith(POSTGRES):
                msg = 'store_listen: is no PostgreSQL address; write postgresql://USER@HOST/DATABASE, or "" for none'
                raise ValueError(msg)
            _refuse_password("store_listen", self.store_listen)

    def _check_clients(self) -> None:
        whose: dict[bytes, int] = {}
        limits: dict[tuple[str, str], float] = {}
        for place, client in enumerate(self.clients):
            for known in client.token_sha256:
                if whose.setdefault(known, place) != place:
                    msg = (
                        f"clients.{place}.token_sha256: clients.{whose[known]} has the same token; make another one"
                        f" (tenant {client.tenant})"
                    )
                    raise ValueError(msg)
            for name in ("starts_per_second", "streams"):
                limit = getattr(client, name)
                if limit is not None and limits.setdefault((client.tenant, name), limit) != limit:
                    msg = (
                        f"clients.{place}.{name}: is the tenant's, and another entry of {client.tenant} has another one"
                    )
                    raise ValueError(msg)

    @property
    def limits(self) -> Limits:
        """What every tenant may have, unless its own entry says otherwise."""
        return Limits(starts_per_second=self.starts_per_second, streams=self.streams)

    def exposed(self) -> list[str]:
        """Lists what is wrong with listening where these settings say; how wide it is, unless they say `insecure`."""
        if self.insecure:
            return []
        problems = []
        if self.listen == self.http_listen and not self.listen.endswith(":0"):
            problems.append(f"http_listen: {self.http_listen} is taken by `listen`. Give them two ports")
        if not is_loopback(self.listen) and not (self.clients and self.tls):
            missing = " and ".join(
                name for name, there in (("[tls]", self.tls), ("[[clients]]", self.clients)) if not there
            )
            problems.append(
                f"listen: {self.listen} would let anybody on the network {_ANYBODY[bool(self.clients)]}. Configure"
                f" {missing}, or listen on 127.0.0.1 behind a proxy that"
                f" {'ends TLS' if self.clients else 'authenticates'}; insecure = true (--insecure) waives this."
                + ("" if self.clients else " `startflow token` makes a token, with the lines of [[clients]]")
            )
        if not (is_loopback(self.http_listen) or self.plain_http):
            problems.append(
                f"http_listen: {self.http_listen} would serve probes, metrics and events to the network, without TLS"
                " and without credentials. Listen on 127.0.0.1 behind a proxy that ends TLS; or, where only your own"
                " probes reach this port, plain_http = true allows it and leaves `listen` as strict as it is"
            )
        return problems

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 -- given by pydantic-settings
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, which comes in as the arguments."""
        return env_settings, init_settings


def _refuse_password(setting: str, address: str) -> None:
    if has_password(address):
        msg = f"{setting}: has a password in it; leave it out, and set PGPASSWORD, or PGPASSFILE to a file that has it"
        raise ValueError(msg)
