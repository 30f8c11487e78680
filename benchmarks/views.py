"""How many images a second one core cuts and mirrors: the way of a trial, and a DataLoader's over PIL pictures.

    python -m benchmarks.views            a minute or two
    python -m benchmarks.views --write    the same, and replace the section in RESULTS.md

Both take the images in random order, a batch at a time, from memory to floats; CPU time, in turns.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

import torch
from torch.utils.data import DataLoader

from benchmarks import loops
from benchmarks.epoch import ROUNDS, place_of, ratio, rounds_of
from benchmarks.ground import BATCH_SIZE, MadeUp, Pair
from benchmarks.sections import load_average, machine, run, table
from trainables.data.views import Views
from trainables.precision import Precision

PAIR = Pair("resnet56", "resnet20", 3, 32, 100, n_steps=400, augment="crop_flip")
AT_LEAST = 100_000  # images a second
OURS = "a trial's views"


def ours(place: MadeUp) -> loops.Epoch:
    """An epoch's draws and all its views."""
    images, facts = place.train.images, place.task.facts

    def epoch() -> None:
        views = Views(PAIR.augment, facts.n_train, facts.size, seed=0, epoch=1)
        for rows in torch.randperm(facts.n_train).split(BATCH_SIZE):
            views(images[rows], rows)

    return epoch


def theirs(place: MadeUp) -> loops.Epoch:
    """The same with torchvision's transforms, one picture after the other."""
    loader = DataLoader(loops.Pictures(place), BATCH_SIZE, shuffle=True)

    def epoch() -> None:
        for _ in loader:
            pass

    return epoch


def section() -> str:
    """Measure both; the Markdown section."""
    torch.set_num_threads(1)
    before = load_average()
    with tempfile.TemporaryDirectory(prefix="kdtune-benchmark-") as name:
        place = place_of(PAIR, Path(name), PAIR.augment, Precision())
        times = rounds_of({OURS: ours(place), "DataLoader over PIL": theirs(place)}, ROUNDS)
    n = PAIR.n_steps * BATCH_SIZE
    rows = [
        [way, f"{n / median(taken):,.0f}", f"{ratio(taken, times[OURS]):.1f}"]
        for way, taken in times.items()
    ]
    said = f"{n:,} images of 3x32x32, batches of {BATCH_SIZE}, medians of {ROUNDS} rounds; target: {AT_LEAST:,}."
    made = table(("cut and mirrored", "images a second on one core", "time / a trial's"), rows)
    return f"{made}\n\n{said} {machine(('torch', 'torchvision'), before)}"


if __name__ == "__main__":
    run("views", str(__doc__), section)
