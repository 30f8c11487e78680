"""How far one driver reaches: its CPU time, memory and records for many slots and many trials.

    python -m benchmarks.scaling            about three quarters of an hour
    python -m benchmarks.scaling --write    the same, and replace the section in RESULTS.md

Nodes of eight slots are simulated (slots.py): workers are objects in the driver's process that train nothing and
answer at once, and their CPU time is taken off. Searcher, Ray Tune's loop, checkpoints after every report, journal and
MLflow's mirror on sqlite are those of a search. What Ray's messages cost on top is the difference to real workers, for
one node.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from benchmarks import engine
from benchmarks.driver import Ends, trivial
from benchmarks.sections import load_average, machine, publish, table
from benchmarks.slots import Slots
from benchmarks.watch import watch
from tuner.journal import story
from tuner.mirror import Mirror

SLOTS = 8  # of a node
FEW, MANY = 3, 23  # reports of a trial
MB = 1024  # of Linux's ru_maxrss, in KB


class Case(NamedTuple):
    """One search."""

    nodes: int
    trials: int
    reports: int = FEW
    search: str = "random"
    real: bool = False  # workers in processes of their own

    @property
    def slots(self) -> int:
        """Of all nodes."""
        return self.nodes * SLOTS


CALIBRATION = tuple(Case(1, 400, n, real=real) for n in (FEW, MANY) for real in (False, True))
CASES = (
    *(Case(n, 1000) for n in (1, 2, 4, 8)),
    Case(8, 1000, MANY),
    *(Case(8, n) for n in (5000, 20_000)),
    *(Case(8, n, search="tpe") for n in (1000, 5000)),
)


def one(case: Case, folder: Path) -> dict[str, float]:
    """Search once in this process; what it took."""
    from tuner import evictions, plan, students

    given = {"trials": case.trials, "epochs": case.reports, "search": case.search}
    with patch.object(plan, "available_cpus", lambda: case.slots):
        made, Slots.n = engine.planned(folder, **given, scheduler="none"), case.slots
        assert made.slots == case.slots
        standing_in = nullcontext() if case.real else patch.object(evictions, "Manager", Slots)
        with engine.searching(made, case.slots if case.real else 1) as (journal, board, mirror):
            before = _memory()
            ends = Ends(lambda: time.process_time() - Slots.seconds)
            listening = patch.object(board, "take", ends.heard(board))
            with patch.object(students, "Trial", trivial()), listening, standing_in:
                students.train(students.search(made, None, journal, board))  # type: ignore[arg-type]
            took = ends.between() | _mirrored(mirror, journal.path)
            took["end"] = time.monotonic() - ends.clocks[-1][1]
            took["memory"] = _memory() - before
            took["done"] = sum(student.complete for student in board.story.students.values())
            mirror.process.terminate()
        started = time.monotonic()
        story(made.folder)
        return took | {"read": time.monotonic() - started}


def _memory() -> float:
    """The most that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MB


def _mirrored(mirror: Mirror, journal: Path) -> dict[str, float]:
    """Lines of the journal, and how many of them MLflow has."""
    state, content = mirror.runs(), journal.read_bytes()
    return {"lines": content.count(b"\n"), "delivered": content[: state.offset].count(b"\n")}


def run(case: Case) -> dict[str, float]:
    """The same in a process of its own; raises ValueError where a trial did not come to its end."""
    with tempfile.TemporaryDirectory(prefix="kdtune-benchmark-") as folder:
        seen = watch(["-m", "benchmarks.scaling", "--one", json.dumps(case), "--folder", folder])
    return seen.took(case.trials)


def row(case: Case, took: dict[str, float]) -> list[str]:
    """What is shown of a search."""
    about = [case.search, str(case.nodes), f"{case.trials:,}", str(case.reports)]
    wall = took["wall"] * case.trials
    each = [f"{1e3 * took['cpu']:.1f}", f"{took['memory']:.0f}", f"{took['end']:.1f}"]
    behind = f"{took['lines'] - took['delivered']:,.0f} of {took['lines']:,.0f}"
    return [*about, *each, f"{took['read']:.1f}", behind, f"{took['delivered'] / wall:.0f}"]


HEADER = (
    *("sampler", "nodes", "trials", "reports a trial", "driver CPU ms a trial", "memory, MB"),
    *("after the last, s", "to read again, s", "lines MLflow lacks", "delivered a second"),
)


def messages(runs: dict[Case, dict[str, float]]) -> tuple[float, float]:
    """What Ray's messages add, in ms: to a report, and to a trial beside its reports."""
    added = {}
    for n in (FEW, MANY):
        real, simulated = (runs[Case(1, 400, n, real=real)]["cpu"] for real in (True, False))
        added[n] = 1e3 * (real - simulated)
    report = (added[MANY] - added[FEW]) / (MANY - FEW)
    return report, added[FEW] - FEW * report


def reach(report: float, trial: float, epoch_seconds: float, epochs: int) -> float:
    """Slots that keep one core of the driver busy: each reports once an epoch, and ends a trial every `epochs`."""
    return 1e3 / (report / epoch_seconds + trial / (epoch_seconds * epochs))


def section() -> str:
    """Measure everything; the Markdown section."""
    before = load_average()
    runs = {case: run(case) for case in (*CALIBRATION, *CASES)}
    calibration = [["real" if c.real else "simulated", *row(c, runs[c])[2:5]] for c in CALIBRATION]
    simulated = table(HEADER, [row(case, runs[case]) for case in CASES])
    real = table(("workers of one node", *HEADER[2:5]), calibration)
    few, many = (1e3 * runs[Case(8, 1000, n)]["cpu"] for n in (FEW, MANY))
    own_report = (many - few) / (MANY - FEW)
    added_report, added_trial = messages(runs)
    report, trial = own_report + added_report, few - FEW * own_report + added_trial
    said = (
        f"A report costs the driver {report:.2f} ms ({own_report:.2f} and {added_report:.2f} for messages), a trial "
        f"beside its reports {trial:.1f} ms ({added_trial:.1f} for messages). One core of the driver is busy at "
        + ", ".join(
            f"{reach(report, trial, seconds, epochs):,.0f} slots with {epochs} epochs of {seconds:g} s"
            for seconds, epochs in ((1, 30), (10, 30), (60, 200))
        )
        + f": 1 / ({report:.2f} ms / epoch + {trial:.1f} ms / (epoch * epochs))."
    )
    about = machine(("ray", "optuna", "mlflow"), before)
    return "\n\n".join([simulated, real, f"{said} {about}"])


def main() -> None:
    """Run the benchmark, or one search of it."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="replace the section in RESULTS.md")
    parser.add_argument("--one", metavar="CASE", help="one search in this process, as JSON")
    parser.add_argument("--folder", type=Path, help="of the search's files, with --one")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(Case(*json.loads(given.one)), given.folder)), flush=True)
        return
    publish("scaling", section(), write=given.write)


if __name__ == "__main__":
    main()
