"""A large search in MLflow: what its logging costs the driver, how long it is delivered, whether the table opens.

    python -m benchmarks.mlflow_table            half an hour; needs Chromium and the test extra
    python -m benchmarks.mlflow_table --write    the same, and replace the section in RESULTS.md

1,000 trials of 100 epochs with a trainable that trains nothing (driver.py), so that the driver's own work is all there
is. What it does for MLflow is writing its journal; another process delivers that to a store on sqlite. Then a server is
started on the store, and Chromium opens the experiment's page.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks import engine
from benchmarks.driver import trivial
from benchmarks.sections import load_average, machine, publish, table
from benchmarks.watch import watch
from tests.browsing import browser
from tests.serving import Server
from tuner import views
from tuner.journal import FILE, Event, Journal
from tuner.mirror import Mirror
from tuner.tracked import STATE, State

N_TRIALS, N_EPOCHS = 1000, 100
MOST = 0.05  # share of the driver's time that logging may take
PATIENCE = 3600.0  # seconds for everything to be delivered


def search(n_trials: int, n_epochs: int, folder: Path) -> None:
    """Search once in this process, and print the CPU seconds of the driver and of its logging as a line of JSON."""
    from tuner import students

    made = engine.planned(
        folder, trials=n_trials, epochs=n_epochs, search="random", scheduler="none"
    )
    write, spent = Journal.write, 0.0

    def clocked(journal: Journal, event: str, **content: Any) -> Event:
        nonlocal spent
        began = time.thread_time()
        try:
            return write(journal, event, **content)
        finally:
            spent += time.thread_time() - began

    with engine.running(made) as (journal, board):
        began = time.process_time()
        with patch.object(students, "Trial", trivial()), patch.object(Journal, "write", clocked):
            students.train(students.search(made, None, journal, board))  # type: ignore[arg-type]
        took = time.process_time() - began
        done = sum(student.complete for student in board.story.students.values())
    print(json.dumps({"cpu": took, "logging": spent, "done": done}), flush=True)


def delivered(out: Path) -> float:
    """Wait until MLflow has everything: seconds; raises ValueError where it does not get there."""
    began = time.monotonic()
    mirror = Mirror(out / engine.NAME, f"sqlite:///{out / 'mlflow.db'}", out / "artifacts" / "x")
    if not mirror.finish(PATIENCE):
        raise ValueError(f"all must be delivered within {PATIENCE:g} s: {mirror.trouble()}")
    return time.monotonic() - began


def opened(out: Path, n_runs: int) -> tuple[float, float]:
    """Open the experiment's page in Chromium: seconds until a trial is seen, and until all are counted."""
    experiment = State.load(out / engine.NAME / STATE).experiment
    server = Server(out)
    try:
        with browser(server.uri, width=2600) as pages:
            pages.page.set_default_timeout(PATIENCE * 1000)
            began = time.monotonic()
            page = pages.open(views.address(experiment), "kd-0")
            first = time.monotonic() - began
            page.get_by_text(f"{n_runs} matching runs").first.wait_for()
            if pages.errors:
                raise ValueError(f"the page must open without an error, got {pages.errors[0]}")
            return first, time.monotonic() - began
    finally:
        server.kill()


def section(n_trials: int, n_epochs: int) -> str:
    """Measure everything; the Markdown section."""
    before = load_average()
    with tempfile.TemporaryDirectory(prefix="kdtune-benchmark-") as text:
        out = Path(text)
        job = ["--one", "--folder", text, "--trials", str(n_trials), "--epochs", str(n_epochs)]
        seen = watch(["-m", "benchmarks.mlflow_table", *job])
        found = [line for _, line in seen.lines if line.startswith('{"cpu"')]
        took = json.loads(found[-1]) if found else {"done": 0}
        if took["done"] != n_trials:
            last = "\n".join(line for _, line in seen.lines[-5:])
            raise ValueError(f"all {n_trials} trials must end well, got {took['done']}:\n{last}")
        later = delivered(out)
        size = (out / "mlflow.db").stat().st_size / 1e6
        journal = (out / engine.NAME / FILE).stat().st_size / 1e6
        first, counted = opened(out, n_trials + 1)
    share = took["logging"] / took["cpu"]
    rows = [
        ["driver CPU of the search, s", f"{took['cpu']:.1f}"],
        ["of it, logging, s", f"{took['logging']:.1f}"],
        [
            f"share (at most {MOST:.0%}: {'holds' if share <= MOST else 'DOES NOT HOLD'})",
            f"{share:.1%}",
        ],
        ["journal, MB", f"{journal:.1f}"],
        ["search, wall s", f"{seen.ended - seen.started:.0f}"],
        ["until MLflow has the rest, s after the search", f"{later:.0f}"],
        ["MLflow's sqlite file, MB", f"{size:.1f}"],
        ["the run table shows its first trials after, s", f"{first:.1f}"],
        [f"and tells {n_trials + 1:,} matching runs after, s", f"{counted:.1f}"],
    ]
    said = f"{n_trials:,} trials of {n_epochs} epochs."
    packages = ("ray", "optuna", "mlflow", "playwright")
    return "\n\n".join([table(("", ""), rows), f"{said} {machine(packages, before)}"])


def main() -> None:
    """Run the benchmark, or the search of it."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="replace the section in RESULTS.md")
    parser.add_argument("--trials", type=int, default=N_TRIALS)
    parser.add_argument("--epochs", type=int, default=N_EPOCHS)
    parser.add_argument("--one", action="store_true", help="the search alone, in this process")
    parser.add_argument("--folder", type=Path, help="of the search's files, with --one")
    given = parser.parse_args()
    if given.one:
        search(given.trials, given.epochs, given.folder)
        return
    publish("mlflow_table", section(given.trials, given.epochs), write=given.write)


if __name__ == "__main__":
    main()
