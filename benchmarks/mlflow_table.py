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
from typing import Any, NamedTuple
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
PAGE = 100  # runs that MLflow's table loads at once


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


def opened(out: Path, n_runs: int) -> tuple[float, int]:
    """Open the experiment's page in Chromium: seconds until its table is there, and how many runs it has at once."""
    experiment = State.load(out / engine.NAME / STATE).experiment
    server = Server(out)
    try:
        with browser(server.uri, width=2600) as pages:
            n_shown = min(n_runs, PAGE)
            began = time.monotonic()
            page = pages.open(views.address(experiment), f"kd-{n_runs - 2:03d}")
            page.get_by_text(f"{n_shown} matching runs").first.wait_for()
            took = time.monotonic() - began
            if pages.errors:
                raise ValueError(f"the page must open without an error, got {pages.errors[0]}")
            return took, n_shown
    finally:
        server.kill()


class Took(NamedTuple):
    """What a search, its delivery and its page took."""

    cpu: float  # seconds of the driver's process
    logging: float  # of these
    wall: float
    later: float  # seconds after the search until MLflow has all
    journal: int  # bytes
    store: int
    opened: float  # seconds
    n_shown: int


def measured(n_trials: int, n_epochs: int) -> Took:
    """Search, deliver, open; raises ValueError where something does not go well."""
    with tempfile.TemporaryDirectory(prefix="kdtune-benchmark-") as text:
        out = Path(text)
        job = ["--one", "--folder", text, "--trials", str(n_trials), "--epochs", str(n_epochs)]
        seen = watch(["-m", "benchmarks.mlflow_table", *job])
        took = seen.took(n_trials)
        return Took(
            took["cpu"],
            took["logging"],
            seen.ended - seen.started,
            delivered(out),
            (out / engine.NAME / FILE).stat().st_size,
            (out / "mlflow.db").stat().st_size,
            *opened(out, n_trials + 1),
        )


def section(n_trials: int, n_epochs: int, took: Took, load: str) -> str:
    """The Markdown section."""
    share = took.logging / took.cpu
    holds = "holds" if share <= MOST else "DOES NOT HOLD"
    rows = [
        ["driver CPU of the search, s", f"{took.cpu:.1f}"],
        ["of it, logging, s", f"{took.logging:.1f}"],
        [f"share (at most {MOST:.0%}: {holds})", f"{share:.1%}"],
        ["journal, MB", f"{took.journal / 1e6:.1f}"],
        ["search, wall s", f"{took.wall:.0f}"],
        ["until MLflow has the rest, s after the search", f"{took.later:.0f}"],
        ["MLflow's sqlite file, MB", f"{took.store / 1e6:.1f}"],
        [f"the run table opens with {took.n_shown} runs after, s", f"{took.opened:.1f}"],
    ]
    said = f"{n_trials:,} trials of {n_epochs} epochs; MLflow's table loads {PAGE} runs at a time."
    packages = ("ray", "optuna", "mlflow", "playwright")
    return "\n\n".join([table(("", ""), rows), f"{said} {machine(packages, load)}"])


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
    load, took = load_average(), measured(given.trials, given.epochs)
    publish("mlflow_table", section(given.trials, given.epochs, took, load), write=given.write)


if __name__ == "__main__":
    main()
