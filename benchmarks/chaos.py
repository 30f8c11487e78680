"""A small search under random kills, and what they cost it, against the same search undisturbed.

    python -m benchmarks.chaos                       20 kills: ten to twenty minutes
    python -m benchmarks.chaos --kills 50 --write    and replace the section in RESULTS.md

The search's driver, its trials' workers and a tracking server of its own are killed (SIGKILL) at random moments, spread
evenly over what the undisturbed search reported; the driver is then started again with --resume. tests/test_kills.py
does the same with a few kills, one in each stage.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.sections import load_average, machine, publish, table
from trainables.teacher_training import PROGRESS, progress
from tuner.journal import FILE, Story, read, story
from tuner.progress import duration
from tuner.tracked import LOCK

ROOT = Path(__file__).parent.parent
NAME = "chaos"
STAGES = ("teacher", "search", "confirmation", "judging", "report")
MARKS = ("teacher", "test_opened", "answer", "file", "summary", "model")  # events that are progress
KINDS = {"driver": 5, "worker": 3, "server": 2}  # what is killed, and how often
POLL = 0.05  # seconds
LATEST = (
    0.5  # seconds after a report in which a kill falls: an epoch and its checkpoint are in them
)
PATIENCE = 300.0  # seconds that a search may take from one moment to the next
DISTURBED = 600.0  # the same for its end


def flags(trials: int, epochs: int) -> tuple[str, ...]:
    """A search whose every decision depends on its past: a sampler that learns, a scheduler that stops.

    One trial at a time, and no probe, whose choice depends on the machine's mood: such a search can be repeated.
    """
    return (
        *("--method", "kd", "--trials", str(trials), "--epochs", str(epochs)),
        *("--teacher-epochs", "6"),
        *("--scheduler", "asha", "--max-concurrent", "1", "--evaluate", "none"),
        *("--confirm-top", "1", "--confirm-seeds", "2"),
        *("--precision", "float32", "--memory-format", "contiguous"),
    )


class Blow(NamedTuple):
    """What is done to a search, and when."""

    tick: int  # of its clock
    kind: str  # driver, worker or server: killed; impatient: two Ctrl-C; rival: a second driver
    delay: float = 0.0  # seconds after the tick


@dataclass
class Toll:
    """What the blows cost."""

    landed: Counter[str] = field(default_factory=Counter)
    repeated: int = 0  # epochs trained a second time
    lost: int = 0  # epochs whose metrics MLflow lacks
    twice: int = 0  # epochs whose metrics MLflow has more than once
    running: int = 0  # runs left RUNNING
    different: int = 0  # students, or the answer, that differ from the undisturbed search's


def clock(out: Path) -> int:
    """How far the search in `out` has come: epochs, ends and other steps; never goes back."""
    epochs = [progress(path.parent)[0] for path in (out / "teachers").glob(f"*/{PROGRESS}")]
    journal = out / NAME / FILE
    return sum(epochs) + (ticks(story(journal.parent)) if journal.exists() else 0)


def ticks(told: Story) -> int:
    """What a journal adds to the clock."""
    ended = sum(s.status not in ("running", "interrupted") for s in told.students.values())
    marks = sum(kind in told.results for kind in MARKS)
    return len(told.reports) + ended + len(told.judged) + marks


def stage(told: Story) -> str:
    """What a search is doing."""
    if "teacher" not in told.results:
        return "teacher"
    if "answer" in told.results:
        return "report"
    if "test_opened" in told.results:
        return "judging"
    return "confirmation" if told.of_kind("confirm", "baseline") else "search"


def timeline(out: Path) -> list[str]:
    """The stage at each tick of a finished search."""
    told, n_before = Story(), clock(out) - ticks(story(out / NAME))
    known = ["teacher"] * (n_before + 1)
    for event, _ in read(out / NAME / FILE):
        told.add(event)
        known += [stage(told)] * (n_before + ticks(told) + 1 - len(known))
    return known


class Server:
    """MLflow's server on a port of its own, which can be killed."""

    def __init__(self, out: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{port}"
        store = ("--backend-store-uri", f"sqlite:///{out / 'mlflow.db'}")
        files = ("--artifacts-destination", str(out / "artifacts"))
        where = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1")
        self.command = [sys.executable, "-m", "mlflow", "server", *store, *files, *where]
        self.log = (out / "server.log").open("ab")
        self.start()

    def start(self) -> None:
        """Start it; `wait` until it answers."""
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self.process = subprocess.Popen(
            self.command,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
            env={**os.environ, **quiet},
        )

    def wait(self, patience: float = 120.0) -> None:
        """Return when it answers."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return
            time.sleep(0.5)
        raise TimeoutError(f"the tracking server must answer within {patience:g} s, got silence")

    def kill(self) -> None:
        """It and its own workers."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Patient:
    """A search that is disturbed, and gone on with after each time that it dies."""

    def __init__(self, out: Path, wanted: Sequence[str], server: Server | None = None) -> None:
        self.out, self.wanted, self.server = out, wanted, server
        self.toll = Toll()
        self.process: subprocess.Popen[bytes] | None = None
        self.drivers: list[int] = []  # process ids of all that were started
        self.known = 0  # bytes of the journal when the last was
        self.log = (out / "driver.log").open("ab")

    def __enter__(self) -> Patient:
        """Nothing runs yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no driver behind, nor a server."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.server is not None:
            self.server.kill()

    def driver(self) -> subprocess.Popen[bytes]:
        """The search's driver; started, or started again, where none runs."""
        if self.process is None or self.process.poll() is not None:
            self._must_have_ended_well()
            self.process = subprocess.Popen(
                self._command(),
                cwd=ROOT,
                stdout=self.log,
                stderr=self.log,
                start_new_session=True,
            )
            self.drivers.append(self.process.pid)
            self.known = self._written()
        return self.process

    def take(self, blow: Blow) -> None:
        """Wait for the moment and strike; nothing where the search has ended before it."""
        while not (self.finished or (clock(self.out) >= blow.tick and self._under_way())):
            _wait_for(self.driver(), lambda: clock(self.out) >= blow.tick and self._under_way())
        time.sleep(blow.delay)
        if not self.finished and getattr(self, f"_{blow.kind}")():
            self.toll.landed[blow.kind] += 1

    def _under_way(self) -> bool:
        """Whether the driver has written its first words: a kill before them would hit nothing but imports."""
        alive = self.process is not None and self.process.poll() is None
        return alive and self._written() > self.known

    def _written(self) -> int:
        journal = self.out / NAME / FILE
        return journal.stat().st_size if journal.exists() else 0

    @property
    def finished(self) -> bool:
        """Whether the search has come to its end."""
        journal = self.out / NAME / FILE
        closed = story(journal.parent).results.get("close", {}) if journal.exists() else {}
        return bool(closed.get("status") == "finished")

    def end(self) -> None:
        """Go on until it is finished, and its driver gone."""
        while not self.finished:
            self.driver().wait(DISTURBED)
        if self.process is not None:
            self.process.wait(DISTURBED)

    def _driver(self) -> bool:
        process = self.driver()
        process.kill()
        process.wait()
        self.process = None
        return True

    def _worker(self) -> bool:
        deadline = time.monotonic() + LATEST * 20
        while time.monotonic() < deadline and not self.finished:
            for worker in trial_workers(self.driver().pid):
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
                    return True
            time.sleep(POLL)
        return False

    def _server(self) -> bool:
        assert self.server is not None
        self.server.kill()
        self.server.start()
        return True

    def _impatient(self) -> bool:
        process = self.driver()
        process.send_signal(signal.SIGINT)
        time.sleep(LATEST)  # two at once would be one
        process.send_signal(signal.SIGINT)
        status = process.wait(PATIENCE)
        if status != 128 + signal.SIGINT:
            raise AssertionError(f"an interrupted search must end with 130, got {status}")
        self.process = None
        return True

    def _rival(self) -> bool:
        """A second driver, while the first stands still so that it does not get on too far."""
        first = self.driver()
        first.send_signal(signal.SIGSTOP)
        found = subprocess.run(
            self._command(),
            check=False,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        first.send_signal(signal.SIGCONT)
        if found.returncode != 2 or "a search must have one driver" not in found.stderr:
            raise AssertionError(f"a second driver must be refused, got {found}")
        return True

    def _command(self) -> list[str]:
        known = (self.out / NAME / "settings.json").exists()
        new = [*self.wanted, "--name", NAME]
        if self.server is not None:
            self.server.wait()
            new += ["--tracking-uri", self.server.uri]
        return [
            sys.executable,
            "tune.py",
            *(["--resume", NAME] if known else new),
            "--out",
            str(self.out),
        ]

    def _must_have_ended_well(self) -> None:
        if self.process is not None and self.process.returncode:
            words = (self.out / "driver.log").read_text(encoding="utf-8", errors="replace")[-2000:]
            raise AssertionError(
                f"a search must end by itself with 0, got {self.process.returncode}: {words}"
            )


def _wait_for(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    """Until it is ready, or the process has ended."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"a search must go on, got nothing new within {PATIENCE:g} s")
        time.sleep(POLL)


def trial_workers(driver: int) -> list[int]:
    """The processes in which a driver's trials are trained, by their ids."""
    parents: dict[int, int] = {}
    names: dict[int, bytes] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            parents[int(path.name)] = int(
                path.joinpath("stat").read_text().rpartition(")")[2].split()[1]
            )
            names[int(path.name)] = path.joinpath("cmdline").read_bytes()
    return [
        one
        for one, name in names.items()
        if re.match(rb"ray::\w*Trial|ray::\w*Trainable", name) and _below(one, driver, parents)
    ]


def _below(process: int, ancestor: int, parents: dict[int, int]) -> bool:
    while process > 1 and process != ancestor:
        process = parents.get(process, 0)
    return process == ancestor


def summary(told: Story) -> dict[str, object]:
    """All that a search decided and found: every student's setting, end and accuracies, and the answer's rows."""
    students: dict[str, object] = {
        s.id: (s.hyper, s.status, [epoch["val/accuracy"] for epoch in s.history])
        for s in told.students.values()
    }
    return {**students, "answer": told.results["answer"]["rows"]}


def counted(patient: Patient, reference: Story) -> Toll:
    """The toll of a finished search."""
    told, toll = story(patient.out / NAME), patient.toll
    with (patient.out / NAME / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the mirror of a killed driver has delivered the rest
    toll.repeated = sum(s.repeated for s in told.students.values())
    mine, theirs = summary(told), summary(reference)
    toll.different = sum(mine.get(key) != theirs.get(key) for key in {*mine, *theirs})
    with sqlite3.connect(patient.out / "mlflow.db") as database:
        sql = (
            "select t.value, m.step, count(*) from metrics m join tags t on m.run_uuid = t.run_uuid "
            "where t.key = 'kd.key' and m.key = 'val/accuracy' and t.value != 'search' group by 1, 2"
        )
        logged = {(key, step): n for key, step, n in database.execute(sql)}
        left = "select count(*) from runs where status = 'RUNNING'"
        toll.running = database.execute(left).fetchone()[0]
    asked = {(s.id, step) for s in told.students.values() for step in range(1, len(s.history) + 1)}
    toll.lost, toll.twice = len(asked - set(logged)), sum(n > 1 for n in logged.values())
    return toll


def undisturbed(out: Path, wanted: Sequence[str]) -> Story:
    """The search that nobody disturbs."""
    with Patient(out, wanted) as patient:
        patient.end()
    return story(out / NAME)


def one_a_stage(known: Sequence[str], seed: int) -> list[Blow]:
    """The driver killed once in every stage, at a random moment."""
    draws = random.Random(seed)
    blows = []
    for name in STAGES:
        here = [tick for tick, stage_then in enumerate(known) if stage_then == name]
        early = here[:1] if name == "report" else here[:-1]  # later it may be over
        blows.append(Blow(draws.choice(early), "driver", draws.uniform(0, LATEST)))
    return blows


def spread(n_ticks: int, n_kills: int, seed: int, kinds: Iterable[str]) -> list[Blow]:
    """Kills at random moments, in their order; a worker is only killed once there can be one."""
    draws = random.Random(seed)
    names = list(kinds)
    moments = sorted(draws.randrange(1, n_ticks) for _ in range(n_kills))
    weights = [KINDS[name] for name in names]
    return [
        Blow(moment, draws.choices(names, weights)[0], draws.uniform(0, LATEST))
        for moment in moments
    ]


def section(n_kills: int, trials: int, epochs: int, seed: int) -> str:
    """Run both searches; the section for RESULTS.md."""
    before, wanted = load_average(), flags(trials, epochs)
    with tempfile.TemporaryDirectory(prefix="kdtune-chaos-") as folder:
        whole, broken = Path(folder, "whole"), Path(folder, "broken")
        for path in (whole, broken):
            path.mkdir()
        started = time.monotonic()
        reference = undisturbed(whole, wanted)
        quiet_seconds = time.monotonic() - started
        started, n_ticks = time.monotonic(), len(timeline(whole))
        with Patient(broken, wanted, Server(broken)) as patient:
            for blow in spread(n_ticks, n_kills, seed, KINDS):
                patient.take(blow)
                print(f"{clock(broken)}/{n_ticks}: {blow}", file=sys.stderr, flush=True)
            patient.end()
            seconds = time.monotonic() - started
            toll = counted(patient, reference)
    landed = ", ".join(f"{n} of {kind}" for kind, n in sorted(toll.landed.items()))
    rows = [
        ["kills", f"{sum(toll.landed.values())} ({landed})"],
        ["epochs trained twice", str(toll.repeated)],
        ["metrics lost in MLflow", str(toll.lost)],
        ["metrics twice in MLflow", str(toll.twice)],
        ["runs left RUNNING", str(toll.running)],
        ["students and answers that differ", f"{toll.different} of {len(summary(reference))}"],
        ["wall time, undisturbed", duration(quiet_seconds)],
        ["wall time, under kills", duration(seconds)],
    ]
    said = f"`python tune.py {' '.join(wanted)}`; seed of the kills {seed}."
    packages = ("torch", "ray", "optuna", "mlflow")
    return "\n\n".join([table(["", "found"], rows), f"{said} {machine(packages, before)}"])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trials", type=int, default=12, help="of the search")
    parser.add_argument("--epochs", type=int, default=6, help="of a student")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--write", action="store_true", help="replace the section in RESULTS.md")
    given = parser.parse_args()
    text = section(given.kills, given.trials, given.epochs, given.seed)
    publish("chaos", text, write=given.write)


if __name__ == "__main__":
    main()
