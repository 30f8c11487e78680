"""Whether speed costs accuracy: kd on Fashion-MNIST by the fast way and by the slow way, paired by seed.

    python -m benchmarks.accuracy --data-root FOLDER            two minutes of CPU time
    python -m benchmarks.accuracy --data-root FOLDER --write    the same, and replace the section in RESULTS.md

Fast: targets from the cache, numbers and memory format as the probe chooses. Slow: a live teacher in every step,
float32, contiguous. FOLDER holds Fashion-MNIST as torchvision stores it.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.searches import CASES, taught
from benchmarks.sections import load_average, machine, publish, table
from trainables.data.splits import prepare
from trainables.precision import PLAIN
from trainables.probing import probed
from trainables.recipe import Recipe
from trainables.teacher import Teacher
from trainables.trainable import Task, Workplace
from trainables.training import validate
from tuner.statistics import paired

CASE = CASES["lenet"]
N_SEEDS = 5


def accuracy(place: Workplace, seed: int) -> float:
    """Validation accuracy, a share, of kd at its published setting."""
    run = place.training({"method": "kd", "seed": seed, "hyper": {}})
    for _ in range(CASE.epochs):
        run.train_epoch()
    return validate(run.student, place.val, precision=run.precision)["accuracy"]


def section(root: Path) -> str:
    """Train both ways; the Markdown section."""
    before = load_average()
    with tempfile.TemporaryDirectory(prefix="kdtune-benchmark-") as name:
        folder = Path(name)
        facts = prepare(CASE.dataset, root, folder / "cache", subset=CASE.n_images)
        record, _ = taught(CASE, facts, folder)
        precision, _ = probed(CASE.student, facts, 64, None, None, folder / "probes")
        recipe = Recipe(epochs=CASE.epochs)
        slow = Task(facts, Teacher(**record), CASE.student, recipe, precision=PLAIN)
        kept: dict[str, Any] = {"cache_folder": str(folder / "targets"), "cache_bytes": 10**9}
        places = [Workplace(task) for task in (replace(slow, precision=precision, **kept), slow)]
        rows = [[accuracy(place, seed) for place in places] for seed in range(N_SEEDS)]
    difference = paired([fast for fast, _ in rows], [plain for _, plain in rows])
    cells = [
        [str(seed), f"{fast:.2%}", f"{plain:.2%}", f"{100 * (fast - plain):+.2f}"]
        for seed, (fast, plain) in enumerate(rows)
    ]
    said = (
        f"{CASE.teacher} -> {CASE.student}, {facts.n_train} training images, {CASE.epochs} epochs; "
        f"fast is {precision}. "
        f"Difference {difference.text(signed=True)} points (95%, paired over {N_SEEDS} seeds): "
        f"{'NOT within' if difference.resolved else 'within'} its interval of 0."
    )
    header = ("seed", "fast: val accuracy", "slow: val accuracy", "fast - slow, points")
    return f"{table(header, cells)}\n\n{said} {machine(('torch',), before)}"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--data-root", type=Path, required=True, help="folder of Fashion-MNIST")
    parser.add_argument("--write", action="store_true", help="replace the section in RESULTS.md")
    given = parser.parse_args()
    publish("accuracy", section(given.data_root), write=given.write)


if __name__ == "__main__":
    main()
