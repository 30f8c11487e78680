"""What a search costs its driver when training costs nothing: CPU time for a trial and for a report.

    python -m benchmarks.driver            ten to thirty minutes
    python -m benchmarks.driver --write    the same, and replace the section in RESULTS.md

A trainable that does nothing goes through the search's own way: sampler, Ray Tune, checkpoints after every report,
journal, and MLflow's mirror on sqlite. Each search is a process of its own, measured from its first trial's end to its
last's.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import tempfile
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks import engine
from benchmarks.sections import load_average, machine, publish, table
from benchmarks.watch import watch
from tuner.journal import Event
from tuner.progress import Board

SIZES = (100, 1000, 5000)  # trials
REPORTS = 3
MORE_REPORTS = 23
N_TPE = 300
COSTLIEST = 25  # functions in a profile


def trivial() -> type:
    """The trainable; made here because Ray is not imported before it is needed."""
    from ray import tune

    class Trivial(tune.Trainable):  # type: ignore[misc]
        """Reports a number and trains nothing."""

        def setup(
            self, config: dict[str, Any], tasks: object = None, courier: object = None
        ) -> None:
            """Nothing to open."""
            self.epoch = 0

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            """Another trial."""
            self.config, self.epoch = new_config, 0
            return True

        def step(self) -> dict[str, Any]:
            """One report, of the keys that a real one has."""
            self.epoch += 1
            told = {"epoch": self.epoch, "ranked_epoch": self.epoch, "seconds": 0.0}
            numbers = {"val/accuracy": 0.5, "val/loss": 1.0, "val/best_accuracy": 0.5}
            terms = {"train/loss": 1.0, "train/ce": 0.5, "train/kd": 0.5}
            end = {"epochs": self.config["epochs"], "diverged": "", "failed": ""}
            return {**told, **numbers, **terms, **end, "done": self.epoch >= end["epochs"]}

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """A small file."""
            (Path(checkpoint_dir) / "state").write_bytes(b"")

        def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]
            """Nothing to go on from."""

    return Trivial


class Ends:
    """The driver's clocks at the end of each trial: from the first end to the last, nothing starts up."""

    def __init__(self, cpu: Callable[[], float] = time.process_time) -> None:
        self.cpu = cpu
        self.clocks: list[tuple[float, float]] = []  # (CPU, wall) seconds

    def heard(self, board: Board) -> Callable[[Event], None]:
        """The board's `take`, listened to."""
        take = board.take

        def listen(event: Event) -> None:
            take(event)
            if event["event"] == "end":
                self.clocks.append((self.cpu(), time.monotonic()))

        return listen

    def between(self) -> dict[str, float]:
        """CPU and wall seconds a trial."""
        (cpu, wall), (last_cpu, last_wall) = self.clocks[0], self.clocks[-1]
        n = len(self.clocks) - 1
        return {"cpu": (last_cpu - cpu) / n, "wall": (last_wall - wall) / n}


def one(n_trials: int, n_reports: int, search: str, folder: Path, profile: Path | None) -> None:
    """Search once in this process, and print what it took as a line of JSON."""
    from tuner import students

    given = {"trials": n_trials, "epochs": n_reports, "search": search, "scheduler": "none"}
    made, profiler = engine.planned(folder, **given), cProfile.Profile()
    with engine.running(made) as (journal, board):
        ends = Ends()
        listening = patch.object(board, "take", ends.heard(board))
        if profile is not None:
            profiler.enable()
        with patch.object(students, "Trial", trivial()), listening:
            students.train(students.search(made, None, journal, board))  # type: ignore[arg-type]
        profiler.disable()
        took = ends.between()
        took["done"] = sum(student.complete for student in board.story.students.values())
    if profile is not None:
        text = StringIO()
        pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(COSTLIEST)
        profile.write_text(text.getvalue(), encoding="utf-8")
    print(json.dumps(took), flush=True)


def run(n_trials: int, n_reports: int, search: str = "random") -> dict[str, float]:
    """The same in a process of its own; raises ValueError where a trial did not come to its end."""
    with tempfile.TemporaryDirectory(prefix="kdtune-benchmark-") as folder:
        job = ["--one", str(n_trials), "--reports", str(n_reports), "--search", search]
        seen = watch(["-m", "benchmarks.driver", *job, "--folder", folder])
    return seen.took(n_trials)


def section(sizes: tuple[int, ...]) -> str:
    """Measure everything; the Markdown section."""
    before = load_average()
    runs = {(n, REPORTS, "random"): run(n, REPORTS) for n in sizes}
    few, many = (sizes[0], REPORTS, "random"), (sizes[0], MORE_REPORTS, "random")
    runs[many] = run(sizes[0], MORE_REPORTS)
    runs[N_TPE, REPORTS, "tpe"] = run(N_TPE, REPORTS, "tpe")
    rows = []
    for (n, reports, search), took in runs.items():
        each = [f"{1e3 * took['cpu']:.1f}", f"{1e3 * took['wall']:.1f}"]
        rows.append([search, f"{n:,}", str(reports), *each])
    header = ("sampler", "trials", "reports a trial", "driver CPU ms a trial", "wall ms a trial")
    report = 1e3 * (runs[many]["cpu"] - runs[few]["cpu"]) / (MORE_REPORTS - REPORTS)
    per_trial = [runs[n, REPORTS, "random"]["cpu"] for n in sizes]
    said = (
        f"A further report costs the driver {report:.2f} ms; a trial costs "
        f"{max(per_trial) / min(per_trial) - 1:.0%} more at its dearest than at its cheapest. "
        "Targets: 50 ms a trial, 5 ms a report, 20%."
    )
    return "\n\n".join([table(header, rows), f"{said} {machine(('ray', 'optuna'), before)}"])


def main() -> None:
    """Run the benchmark, or one search of it."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="replace the section in RESULTS.md")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="trials of a search")
    parser.add_argument("--one", type=int, metavar="TRIALS", help="one search in this process")
    parser.add_argument("--reports", type=int, default=REPORTS, help="of a trial, with --one")
    parser.add_argument("--search", default="random", help="sampler, with --one")
    parser.add_argument("--folder", type=Path, help="of the search's files, with --one")
    parser.add_argument("--profile", type=Path, help="file for a profile, with --one")
    given = parser.parse_args()
    if given.one:
        one(given.one, given.reports, given.search, given.folder, given.profile)
        return
    publish("driver", section(tuple(given.sizes)), write=given.write)


if __name__ == "__main__":
    main()
