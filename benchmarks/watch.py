"""Run a command of ours and watch it from outside: what it printed when, and the CPU time of its first process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
POLL = 0.05  # seconds between two looks at the CPU time


@dataclass(frozen=True)
class Watched:
    """What was seen of one command; times are those of the wall clock, as in the journal."""

    started: float
    ended: float
    status: int
    lines: list[tuple[float, str]]  # of its output, with their times
    cpu: list[
        tuple[float, float]
    ]  # (time, CPU seconds so far); empty where the system does not tell

    def cpu_at(self, moment: float) -> float | None:
        """CPU seconds used before a moment, to within POLL; None where the system does not tell."""
        before = [seconds for when, seconds in self.cpu if when <= moment]
        return before[-1] if before else None

    def took(self, n_trials: int) -> dict[str, float]:
        """What a search printed as JSON, "cpu" first; raises ValueError where not all trials are `done`."""
        found = [text for _, text in self.lines if text.startswith('{"cpu"')]
        took: dict[str, float] = json.loads(found[-1]) if found else {"done": 0}
        if took["done"] != n_trials:
            last = "\n".join(text for _, text in self.lines[-5:])
            raise ValueError(f"all {n_trials} trials must end well, got {took['done']}:\n{last}")
        return took


def watch(command: Sequence[str]) -> Watched:
    """Run Python with `command` from the project's folder, as a user would on a pipe."""
    started = time.time()
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    lines: list[tuple[float, str]] = []
    assert process.stdout is not None
    output = process.stdout

    def listen() -> None:
        for line in output:
            lines.append((time.time(), line.rstrip()))

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    cpu: list[tuple[float, float]] = []
    while process.poll() is None:
        seconds = cpu_seconds(process.pid)
        if seconds is not None:
            cpu.append((time.time(), seconds))
        time.sleep(POLL)
    ended = time.time()
    thread.join(timeout=5)
    return Watched(started, ended, process.returncode, lines, cpu)


def cpu_seconds(pid: int) -> float | None:
    """User and system time of one living process with all its threads, its children not counted."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # after the name, which may hold spaces
    if fields[0] == "Z":
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
