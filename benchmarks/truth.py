"""A whole landscape, measured: kd on Fashion-MNIST, T x alpha on an 8 x 8 grid, and what samplers find on it.

    python -m benchmarks.truth --data-root FOLDER --out FOLDER            an hour on one core
    python -m benchmarks.truth --data-root FOLDER --out FOLDER --write    the same, and replace the section

lenet5 -> lenet5_half; 6,000 images train each student for 10 epochs, the 6,000 images of the whole validation part
judge it after each. The truth of a cell is the mean last accuracy over its three seeds. A line a student is appended to
OUT/students.jsonl, and one that stands there already is not trained again; every curve can be looked up there.

Then each sampler searches in the event loop of simulated.py with 16 trials: a trial's setting is drawn from the
continuous space as always, and its curve is that of the nearest cell, of one of the three seeds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import NormalDist, fmean, median, stdev
from typing import Any

import torch

from benchmarks.curves import share
from benchmarks.sections import load_average, machine, publish, table
from benchmarks.simulated import Case, Strategy, judge
from search_spaces import Domain
from trainables.data.sources import source
from trainables.data.splits import open_split, prepare, whole
from trainables.recipe import Recipe
from trainables.teacher_ready import ready
from trainables.teacher_training import recipe_of
from trainables.teacher_wanted import parse
from trainables.trainable import Task, Workplace
from trainables.training import validate

DATASET, TEACHER, STUDENT = "fashion_mnist", "lenet5", "lenet5_half"
N_IMAGES = 6667  # for training and validation together: 6,000 for training
EPOCHS, GRACE = 10, 5  # as plan.py has it for 10 epochs
SIDE, SEEDS = 8, (1, 2, 3)
SPACE = {"temperature": Domain("loguniform", 1, 20), "alpha": Domain("uniform", 0, 1)}
PUBLISHED = {"temperature": 4.0, "alpha": 0.9}
SPREAD = math.sqrt(math.log(2))  # the median of chi-squared with 2 degrees of freedom is 2 ln 2
TRIALS, SEARCHES = 16, 40
SAMPLERS = ("random", "qmc", "tpe", "gp", "cmaes", "nsga2")
STRATEGIES = [
    *((name, "none") for name in SAMPLERS),
    ("random", "asha"),
    ("tpe", "asha"),
    ("auto", "auto"),
]
Cell = tuple[int, int]  # positions on the axes of temperature and alpha


def axis(name: str) -> list[float]:
    """A hyperparameter's eight values, evenly spaced on its own scale."""
    domain = SPACE[name]
    steps = [i / (SIDE - 1) for i in range(SIDE)]
    if domain.word == "loguniform":
        return [round(domain.low * (domain.high / domain.low) ** step, 3) for step in steps]
    return [round(domain.low + (domain.high - domain.low) * step, 3) for step in steps]


def train(data_root: Path, out: Path) -> None:
    """Every student that OUT/students.jsonl does not have yet, seed after seed."""
    facts = prepare(DATASET, data_root, out / "data", subset=N_IMAGES)
    full = whole(facts)
    taught = recipe_of(TEACHER, source(DATASET, data_root))
    teacher = ready(parse(TEACHER, full.n_classes), full, taught, out / "teachers")
    cache = {"cache_folder": str(out / "targets"), "cache_bytes": 10**9}
    place = Workplace(Task(facts, teacher, STUDENT, Recipe(epochs=EPOCHS), **cache))
    val = open_split(full, "val")
    done = {(*cell, seed) for cell, found in curves(out).items() for seed in found}
    cells = itertools.product(SEEDS, range(SIDE), range(SIDE))
    for seed, i, j in cells:
        if (i, j, seed) in done:
            continue
        hyper = {"temperature": axis("temperature")[i], "alpha": axis("alpha")[j]}
        run = place.training({"method": "kd", "seed": seed, "hyper": hyper})
        found = []
        for _ in range(EPOCHS):
            _, divergence = run.train_epoch()
            assert divergence is None, divergence
            found.append(validate(run.deployed, val)["accuracy"])
        line = {"cell": [i, j], **hyper, "seed": seed, "val": [round(v, 6) for v in found]}
        with (out / "students.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)


def curves(out: Path) -> dict[Cell, dict[int, list[float]]]:
    """Validation accuracy by cell, seed and epoch, as far as it is written."""
    path, found = out / "students.jsonl", {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        line = json.loads(text)
        found.setdefault((line["cell"][0], line["cell"][1]), {})[line["seed"]] = line["val"]
    return found


@cache
def measured(out: Path) -> dict[Cell, dict[int, list[float]]]:
    """The same, read once, of the finished grid; raises ValueError before it is finished."""
    found = curves(out)
    n = sum(len(by_seed) for by_seed in found.values())
    if n != SIDE * SIDE * len(SEEDS):
        raise ValueError(f"{out} must hold {SIDE * SIDE * len(SEEDS)} students, got {n}")
    return found


@cache
def truth(out: Path) -> dict[Cell, float]:
    """Mean last accuracy of each cell, in percent."""
    found = measured(out)
    return {cell: 100 * fmean(curve[-1] for curve in found[cell].values()) for cell in found}


@dataclass(frozen=True)
class Measured:
    """The grid as something that can be searched (simulated.Landscape)."""

    out: Path
    seed: int
    epochs = EPOCHS
    grace = GRACE

    @property
    def space(self) -> dict[str, Domain]:
        """T and alpha."""
        return dict(SPACE)

    @property
    def published(self) -> dict[str, float]:
        """RepDistiller's."""
        return dict(PUBLISHED)

    def cell(self, hyper: Mapping[str, Any]) -> Cell:
        """The nearest one, each axis on its own scale."""
        i, j = (round(share(SPACE[name], hyper[name]) * (SIDE - 1)) for name in SPACE)
        return i, j

    def loss(self, hyper: Mapping[str, Any]) -> float:
        """Points below the best cell's mean."""
        found = truth(self.out)
        return max(found.values()) - found[self.cell(hyper)]

    def accuracy(self, hyper: Mapping[str, Any], number: int, epoch: int) -> float:
        """What one of the cell's three students had after so many epochs."""
        seed = random.Random(f"student {self.seed} {number}").choice(SEEDS)
        return measured(self.out)[self.cell(hyper)][seed][epoch - 1]


def noise(out: Path) -> tuple[float, float]:
    """Standard deviations in points: of another seed at the end, and of an epoch around its two neighbours' line.

    By medians, because a few settings are unstable and their seeds lie points apart. The median of the standard
    deviation of three draws is SPREAD of the true one. The second is of the second half of the training; the difference
    of a value from the mean of its neighbours has 1.5 times a value's variance, where noise is independent and the
    curve straight.
    """
    found = measured(out)
    within = [stdev([100 * c[-1] for c in by_seed.values()]) for by_seed in found.values()]
    bends = [
        abs(100 * (curve[e] - (curve[e - 1] + curve[e + 1]) / 2))
        for by_seed in found.values()
        for curve in by_seed.values()
        for e in range(EPOCHS // 2, EPOCHS - 1)
    ]
    return median(within) / SPREAD, median(bends) / NormalDist().inv_cdf(0.75) / math.sqrt(1.5)


def grid_table(out: Path) -> str:
    """Mean last accuracy, temperature downwards, alpha to the right."""
    found = truth(out)
    rows = [
        [f"T {temperature:g}", *(f"{found[i, j]:.2f}" for j in range(SIDE))]
        for i, temperature in enumerate(axis("temperature"))
    ]
    return table(["", *(f"alpha {alpha:g}" for alpha in axis("alpha"))], rows)


def search_table(out: Path) -> str:
    """What each sampler finds in 16 trials: regret over 40 searches, and epochs trained."""
    rows = []
    for search, scheduler in STRATEGIES:
        asked = Strategy(search, scheduler, TRIALS)
        answers = [judge(Case(Measured(out, seed), asked, 1)) for seed in range(SEARCHES)]
        regrets, _, epochs = zip(*answers, strict=True)
        error = stdev(regrets) / SEARCHES**0.5
        cells = [f"{fmean(regrets):.2f} ± {error:.2f}", f"{median(regrets):.2f}"]
        rows.append([f"{search}, {scheduler}", *cells, f"{fmean(epochs):.0f}"])
    own = Measured(out, 0).loss(PUBLISHED)
    rows.append(["published default (T 4, alpha 0.9)", f"{own:.2f}", "", ""])
    return table(["sampler, scheduler", "regret", "median", "epochs"], rows)


def section(out: Path, load: str) -> str:
    """The Markdown section."""
    found = truth(out)
    best = max(found, key=lambda cell: found[cell])
    seeds, epochs = noise(out)
    ends = [curve[-1] for by_seed in measured(out).values() for curve in by_seed.values()]
    apart = max(
        stdev([100 * c[-1] for c in by_seed.values()]) for by_seed in measured(out).values()
    )
    said = [
        f"Validation accuracy in percent, mean of {len(SEEDS)} seeds; best {found[best]:.2f} at T "
        f"{axis('temperature')[best[0]]:g}, alpha {axis('alpha')[best[1]]:g}:",
        grid_table(out),
        f"Noise, standard deviation in points, by medians: {seeds:.2f} between seeds of a cell, {epochs:.2f} between "
        f"epochs of a student. Some settings are unstable: the seeds of the worst cell lie {apart:.1f} apart, and the "
        f"worst of the {len(ends)} students ends at {min(ends):.1%}. Elsewhere a mean of {len(SEEDS)} seeds "
        f"is known to ± {seeds / len(SEEDS) ** 0.5:.2f}.",
        f"Regret in points (mean ± standard error, and median, over {SEARCHES} searches of {TRIALS} trials) of the "
        "trial that a user would take, below the best cell's mean:",
        search_table(out),
        machine(["torch", "optuna"], load),
    ]
    return "\n\n".join(said)


def main() -> None:
    """Train what is missing; print the section, and write it where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--write", action="store_true", help="replace the section in RESULTS.md")
    given = parser.parse_args()
    torch.set_num_threads(1)
    load, out = load_average(), given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    train(given.data_root.resolve(), out)
    publish("truth", section(out, load), write=given.write)


if __name__ == "__main__":
    main()
