"""What a tracking server that takes five seconds for each answer costs a search.

    python -m benchmarks.slow_tracking            fifteen minutes on two quiet cores
    python -m benchmarks.slow_tracking --write    the same, and replace the section in RESULTS.md

One small search beside a real MLflow server, and the same beside that server behind a door that keeps each request
for five seconds; in turn, three times each. Compared is the time from the first student's start to the last one's end:
MLflow's records may follow later, the students may not.
"""

from __future__ import annotations

import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from urllib.error import HTTPError

from benchmarks.chaos import Server
from benchmarks.sections import load_average, machine, run, table
from benchmarks.watch import watch
from tuner.journal import FILE, read

DELAY = 5.0  # seconds
ROUNDS = 3
MOST = 0.05  # share of its time that a search may lose
NAME = "slow"
SEARCH = (
    *(
        "--method",
        "kd",
        "--trials",
        "16",
        "--epochs",
        "12",
        "--scheduler",
        "none",
        "--evaluate",
        "none",
    ),
    *("--search", "random", "--confirm-top", "1", "--confirm-seeds", "2", "--max-concurrent", "1"),
)


def door(uri: str, delay: float) -> ThreadingHTTPServer:
    """A server on loopback that hands requests on to `uri` after so many seconds."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            """One request."""
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or None
            kind = {"Content-Type": self.headers.get("Content-Type", "application/json")}
            asked = urllib.request.Request(uri + self.path, body, kind, method=self.command)
            time.sleep(delay)
            try:
                answer = urllib.request.urlopen(asked, timeout=60)
            except HTTPError as error:
                answer = error  # an answer all the same
            content = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    opened = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    opened.daemon_threads = True
    threading.Thread(target=opened.serve_forever, daemon=True).start()
    return opened


@contextmanager
def served(folder: Path, delay: float) -> Iterator[str]:
    """The URI of a server of our own, which answers after so many seconds."""
    server = Server(folder)
    try:
        server.wait()
        before = door(server.uri, delay) if delay else None
        yield f"http://127.0.0.1:{before.server_port}" if before else server.uri
        if before:
            before.shutdown()
    finally:
        server.kill()


def seconds(delay: float) -> float:
    """From the first student's start to the last one's end; raises ValueError where it did not end well."""
    with tempfile.TemporaryDirectory(prefix="kdtune-benchmark-") as text:
        folder = Path(text)
        with served(folder, delay) as uri:
            out = folder / "runs"
            seen = watch(
                ["tune.py", *SEARCH, "--out", str(out), "--name", NAME, "--tracking-uri", uri]
            )
            if seen.status != 0:
                last = "\n".join(line for _, line in seen.lines[-5:])
                raise ValueError(f"the search must end with 0, got {seen.status}:\n{last}")
            events = [event for event, _ in read(out / NAME / FILE)]
    ends = [event["time"] for event in events if event["event"] == "end"]
    began = next(event["time"] for event in events if event["event"] == "student")
    return float(max(ends) - began)


def section() -> str:
    """Measure everything; the Markdown section."""
    before = load_average()
    took = [(seconds(0), seconds(DELAY)) for _ in range(ROUNDS)]
    rows = [
        [str(n), f"{fast:.1f}", f"{slow:.1f}", f"{slow / fast:.3f}"]
        for n, (fast, slow) in enumerate(took, 1)
    ]
    ratio = median(slow / fast for fast, slow in took)
    said = (
        f"The median ratio is {ratio:.3f}; it must be at most {1 + MOST:g}: "
        f"{'holds' if ratio <= 1 + MOST else 'DOES NOT HOLD'}."
    )
    header = ("round", "answers at once, s", f"answers after {DELAY:g} s, s", "ratio")
    return "\n\n".join([table(header, rows), f"{said} {machine(('ray', 'mlflow'), before)}"])


if __name__ == "__main__":
    run("slow_tracking", str(__doc__), section)
