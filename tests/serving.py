"""A real MLflow server on loopback, and a door before it that can be slow, out of order or shut."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PATIENCE = 180  # seconds for a server to come up


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`mlflow server` with one worker, on a database of its own, which outlives it; or as its environment is `told`."""

    def __init__(self, folder: Path, *flags: str, told: Mapping[str, str] | None = None) -> None:
        self.folder, self.port, self.flags = folder, free_port(), flags
        self.database = folder / "mlflow.db"
        self.told = {
            "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{self.database}",
            "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
            **(told or {}),
        }
        self.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        place = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *place, *self.flags],
                cwd=self.folder,
                env={**os.environ, **self.told},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "server.log").read_text("utf-8")
            assert time.monotonic() < deadline, "the server did not come up"
            time.sleep(0.3)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Door:
    """Hands requests on to a server while `open` is set, after `failing` answers of 500; notes who asks."""

    def __init__(self, server: Server, port: int = 0) -> None:
        self.open, self.failing = threading.Event(), 0
        self.open.set()
        self.authorizations: set[str] = set()
        door = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                door.authorizations.add(self.headers.get("Authorization", ""))
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                door.open.wait()
                if door.failing > 0:
                    door.failing -= 1
                    self._answer(500, "text/plain", b"disk I/O error: no space left on device")
                    return
                there = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
                kept = {"Content-Type": self.headers.get("Content-Type", "application/json")}
                there.request(self.command, self.path, body, kept)
                found = there.getresponse()
                kind = found.getheader("Content-Type", "application/json")
                self._answer(found.status, kind, found.read())

            def _answer(self, status: int, kind: str, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Nothing on the terminal."""

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def shut(self) -> None:
        self.open.set()
        self.server.shutdown()
        self.server.server_close()
