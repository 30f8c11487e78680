"""Our students beside the published ones: LeNet-5 -> half LeNet-5, as CCKD has it.

    python -m benchmarks.published --data-root FOLDER --out FOLDER            about an hour on one core
    python -m benchmarks.published --data-root FOLDER --out FOLDER --write    the same, and replace the section

Each student is trained at its method's published setting to its last epoch, which is the one that counts. The test set
is read once a student, after its training: nothing is chosen here. A line a student is appended to OUT/students.jsonl,
and one that stands there already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from benchmarks.sections import load_average, machine, publish, table
from trainables import methods, objective
from trainables import teacher as teachers
from trainables.data.sealed import open_test
from trainables.data.sources import source
from trainables.data.splits import prepare
from trainables.recipe import Recipe
from trainables.teacher_ready import ready
from trainables.teacher_training import recipe_of
from trainables.teacher_wanted import parse
from trainables.trainable import Task, Workplace
from trainables.training import validate
from tuner.statistics import interval, paired

DATASETS = ("mnist", "fashion_mnist")
METHODS = ("vanilla", "kd", "cckd_l", "cckd_t", "cckd_t_reg")
TEACHER, STUDENT = "lenet5", "lenet5_half"
PUBLISHED = {  # CCKD (arXiv:2107.06993), yuranusduke's repository: test accuracy in percent, mean of 3 runs
    "mnist": dict(
        zip(("teacher", *METHODS), (99.17, 98.95, 99.11, 98.97, 99.01, 98.91), strict=True)
    ),
    "fashion_mnist": dict(
        zip(("teacher", *METHODS), (90.57, 89.56, 89.40, 90.01, 90.24, 90.12), strict=True)
    ),
}


def train(dataset: str, data_root: Path, out: Path, recipe: Recipe, seeds: list[int]) -> None:
    """Every student of one dataset that OUT/students.jsonl does not have yet."""
    facts = prepare(dataset, data_root, out / "data")
    taught = recipe_of(TEACHER, source(dataset, data_root))
    teacher = ready(parse(TEACHER, facts.n_classes), facts, taught, out / "teachers")
    test = open_test(facts)
    accuracy = validate(teachers.load(teacher, facts), test)["accuracy"]
    done = {(s["dataset"], s["method"], s["seed"]) for s in results(out)}
    if (dataset, "teacher", 0) not in done:
        record(out, dataset, "teacher", 0, teacher.accuracy, accuracy, taught, 0.0)
    cache = {"cache_folder": str(out / "targets"), "cache_bytes": 10**9}
    place = Workplace(Task(facts, teacher, STUDENT, recipe, **cache))
    for seed in seeds:
        for name in METHODS:
            if (dataset, name, seed) in done:
                continue
            started = time.process_time()
            values = objective.defaults(methods.load(name))
            run = place.training({"method": name, "seed": seed, "hyper": values})
            for _ in range(recipe.epochs):
                _, divergence = run.train_epoch()
                assert divergence is None, divergence
            found = [validate(run.deployed, part)["accuracy"] for part in (place.val, test)]
            record(out, dataset, name, seed, *found, recipe, time.process_time() - started)


def record(
    out: Path,
    dataset: str,
    method: str,
    seed: int,
    val: float,
    test: float,
    recipe: Recipe,
    seconds: float,
) -> None:
    """One student's line."""
    line = {"dataset": dataset, "method": method, "seed": seed, "val": val, "test": test}
    line |= {"epochs": recipe.epochs, "seconds": round(seconds, 1)}
    with (out / "students.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(line, flush=True)


def results(out: Path) -> list[dict]:
    """The lines written so far."""
    path = out / "students.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def rows(out: Path, dataset: str) -> list[list[str]]:
    """Test accuracy of each method beside the published one, and its paired difference from the plain student."""
    found: dict[str, dict[int, float]] = {}
    for line in results(out):
        if line["dataset"] == dataset:
            found.setdefault(line["method"], {})[line["seed"]] = line["test"]
    made = []
    for name, by_seed in found.items():
        ours = list(by_seed.values())
        plain = [found["vanilla"][seed] for seed in by_seed] if name != "teacher" else []
        gain = paired(ours, plain).text(signed=True) if plain and name != "vanilla" else ""
        published = PUBLISHED[dataset]
        theirs = published[name]
        their_gain = f"{theirs - published['vanilla']:+.2f}" if gain else ""
        mean = interval(ours).text() if len(ours) > 1 else f"{100 * ours[0]:.2f}"
        made.append([dataset, name, mean, gain, f"{theirs:.2f}", their_gain])
    return made


def main() -> None:
    """Train what is missing; write the section where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--datasets", nargs="+", default=DATASETS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    before = load_average()
    given.out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(epochs=given.epochs)
    for dataset in given.datasets:
        train(dataset, given.data_root.resolve(), given.out.resolve(), recipe, given.seeds)
    header = ["dataset", "method", "test", "minus vanilla", "published", "minus vanilla, published"]
    lines = [row for dataset in DATASETS for row in rows(given.out, dataset)]
    epochs = sorted({(r["dataset"], r["epochs"]) for r in results(given.out) if r["seed"]})
    said = ", ".join(f"{n} on {dataset}" for dataset, n in epochs)
    told = f"Epochs of a student: {said}. {machine(['torch'], before)}"
    publish("published", f"{table(header, lines)}\n\n{told}", write=given.write)


if __name__ == "__main__":
    main()
