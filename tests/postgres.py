"""A real PostgreSQL on loopback, from the system's package, with a folder, a port and a password of its own."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg2

from tests.serving import free_port

PATIENCE = 120.0  # seconds until it takes connections
USERS = ("postgres", "nobody")  # whom it runs as where we are root: it refuses to be root
QUICK = ("-c", "fsync=off", "-c", "unix_socket_directories=", "-c", "listen_addresses=127.0.0.1")


def binaries() -> Path | None:
    """The folder of the newest `initdb` and `postgres` here; None where there are none."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    newest = max(found, key=lambda path: float(path.parts[-3]), default=None)
    asked = newest or shutil.which("initdb")
    return Path(asked).parent if asked else None


class Postgres:
    """A server with one user, who has a password, and one empty database; all of it goes with it."""

    def __init__(self, programs: Path) -> None:
        self.programs, self.port, self.password = programs, free_port(), secrets.token_hex(8)
        self.folder = Path(
            tempfile.mkdtemp(prefix="kdtune-postgres-", dir="/tmp")
        )  # not in ours: see _as_user
        self._initialise()
        asked = [programs / "postgres", "-D", self.folder / "data", "-p", str(self.port), *QUICK]
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                self._as_user(asked),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait()

    @property
    def uri(self) -> str:
        """Of the database, with the password; the driver is named, since SQLAlchemy 2.1 looks for another one first."""
        return f"postgresql+psycopg2://kdtune:{self.password}@127.0.0.1:{self.port}/postgres"

    def query(self, sql: str, *values: str) -> list[tuple[Any, ...]]:
        """What the database answers."""
        connection = psycopg2.connect(self.uri.replace("+psycopg2", ""))
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql, values)
                return list(cursor.fetchall())
        finally:
            connection.close()

    def close(self) -> None:
        """Stop it and delete its folder."""
        self.process.send_signal(signal.SIGINT)  # at once, in good order
        self.process.wait(timeout=60)
        shutil.rmtree(self.folder)

    def _initialise(self) -> None:
        given = self.folder / "password"
        given.write_text(self.password, encoding="ascii")
        if os.geteuid() == 0:
            for path in (self.folder, given):
                shutil.chown(path, _user())
        how = ["--username=kdtune", "--auth=scram-sha-256", f"--pwfile={given}", "--no-sync"]
        words = ["--encoding=UTF8", "--locale=C", "-D", self.folder / "data"]
        asked = self._as_user([self.programs / "initdb", *how, *words])
        subprocess.run(asked, cwd=self.folder, check=True, capture_output=True)

    def _as_user(self, command: Sequence[str | Path]) -> list[str]:
        """The command as another user where we are root, who cannot look into root's temporary folders."""
        words = [str(word) for word in command]
        if os.geteuid():
            return words
        return [
            "setpriv",
            f"--reuid={_user()}",
            f"--regid={pwd.getpwnam(_user()).pw_gid}",
            "--clear-groups",
            *words,
        ]

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(psycopg2.OperationalError):
                self.query("select 1")
                return
            assert self.process.poll() is None, (self.folder / "log").read_text(encoding="utf-8")
            assert time.monotonic() < deadline, "PostgreSQL did not come up"
            time.sleep(0.2)


def _user() -> str:
    known = {one.pw_name for one in pwd.getpwall()}
    return next(name for name in USERS if name in known)
