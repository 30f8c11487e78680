"""How much memory a trial takes beyond what it imports, and whether an actor that many trials pass through grows.

    python -m benchmarks.trial_memory            about five minutes on two quiet cores
    python -m benchmarks.trial_memory --write    the same, and replace the section in RESULTS.md

Images are random ones of CIFAR-10's number and size in a mapped Arrow file; an epoch shows some of them. A process
does what a trial's actor does, without Ray's own threads around it. PSS counts a page shared by n processes 1/n, so a
sum of PSS is what the machine spends (Linux).
"""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.ground import BATCH_SIZE, Pair, teacher_of
from benchmarks.sections import load_average, machine, run, table
from trainables.recipe import Recipe
from trainables.trainable import Task, alone

PAIR = Pair("resnet56", "resnet20", 3, 32, 10, n_steps=4, augment="crop_flip")
N_TOGETHER = 8
N_IMAGES = 50_000
FEW, MANY = 5, 50  # trials that have passed through an actor
GROWTH = 0.05  # at most


def stored(folder: Path) -> Any:
    """The facts of made-up images stored as CIFAR-10 is; training shows PAIR.n_steps batches of them."""
    from trainables.data import shelf, splits
    from trainables.data.decoding import Decoded

    draws, shape = np.random.default_rng(0), (PAIR.channels, PAIR.size, PAIR.size)
    images = [draws.integers(0, 256, (n, *shape), dtype=np.uint8) for n in (N_IMAGES, 1000)]
    labels = [np.arange(len(some), dtype=np.int64) % PAIR.n_classes for some in images]
    classes = tuple(map(str, range(PAIR.n_classes)))
    decoded = Decoded(images[0], labels[0], images[1], labels[1], classes)
    subset = round(PAIR.n_steps * BATCH_SIZE / 0.9) + PAIR.n_classes
    with patch.object(shelf, "decode", lambda *_: decoded):
        return splits.prepare("cifar10", folder, folder, subset=subset)


def task_of(folder: Path) -> Task:
    """What the trials share."""
    facts = stored(folder)
    recipe = Recipe(epochs=1, batch_size=BATCH_SIZE, augment=PAIR.augment)
    cache = {"cache_folder": str(folder / "targets"), "cache_bytes": 10**9}
    return Task(facts, teacher_of(PAIR, facts, folder), PAIR.student, recipe, **cache)


def config_of(number: int) -> dict[str, Any]:
    """A trial's config."""
    hyper = {"temperature": 1.0 + number, "alpha": 0.9}
    told = {"id": f"x-{number}", "number": number, "method": "kd", "seed": 0, "hyper": hyper}
    return {**told, "epochs": 1, "search": ""}


def together(task: Task, everybody: Any, epochs: int) -> None:
    """One of several processes: imported all; measured; trained; measured."""
    everybody.wait()
    everybody.wait()
    with ended_by_all(everybody):
        longer = replace(task, recipe=replace(task.recipe, epochs=epochs))
        trial = alone(longer, config_of(0) | {"epochs": epochs})
        for _ in range(epochs):
            well(trial.step())
    everybody.wait()


@contextmanager
def ended_by_all(everybody: Any) -> Iterator[None]:
    """Nobody waits for a process in which something went wrong."""
    try:
        yield
    except BaseException:
        everybody.abort()
        raise


def well(result: dict[str, Any]) -> None:
    """Raises ValueError where an epoch did not end well."""
    if result["failed"] or result["diverged"]:
        raise ValueError(f"an epoch must end well, got {result}")


def megabytes(pid: int | str = "self") -> float:
    """PSS of a process."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith("Pss:"))
    return float(line.split()[1]) * 1024 / 1e6


def concurrent(task: Task, n: int, epochs: int = 2) -> tuple[float, float]:
    """MB that n processes take together: once all is imported, and at the most while each trains a student."""
    context = multiprocessing.get_context("spawn")
    everybody = context.Barrier(n + 1)
    workers = [context.Process(target=together, args=(task, everybody, epochs)) for _ in range(n)]
    for worker in workers:
        worker.start()
    everybody.wait()
    imported = sum(megabytes(worker.pid or 0) for worker in workers)
    sums: list[float] = []
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.1):
            sums.append(sum(megabytes(worker.pid or 0) for worker in workers))

    watcher = threading.Thread(target=look)
    everybody.wait()
    watcher.start()
    while everybody.n_waiting < n and not everybody.broken:
        done.wait(0.1)
    done.set()
    watcher.join()
    everybody.wait()
    for worker in workers:
        worker.join()
    return imported, max(sums)


def passing(task: Task, answers: Any) -> None:
    """Trials one after the other in one process; its MB after each."""
    trial, found = alone(task, config_of(0)), []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(MANY):
            trial.reset_config(config_of(number))
            well(trial.step())
            trial.save_checkpoint(folder)
            found.append(megabytes())
    answers.put(found)


def passed(task: Task) -> Sequence[float]:
    """MB of an actor after each of MANY trials."""
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    worker = context.Process(target=passing, args=(task, answers))
    worker.start()
    found: Sequence[float] = answers.get()
    worker.join()
    return found


def section() -> str:
    """Measure everything; the Markdown section."""
    before = load_average()
    with tempfile.TemporaryDirectory(prefix="kdtune-benchmark-") as folder:
        task = task_of(Path(folder))
        imported, most = concurrent(task, N_TOGETHER)
        after = passed(task)
    few, many = (median(after[n - 3 : n]) for n in (FEW, MANY))
    rows = [
        [f"{N_TOGETHER} processes, everything imported", f"{imported:.0f}"],
        [f"the same at the most, {N_TOGETHER} students in training", f"{most:.0f}"],
        ["a trial beyond the imported libraries", f"{(most - imported) / N_TOGETHER:.0f}"],
        [f"an actor after {FEW} trials", f"{few:.0f}"],
        [f"an actor after {MANY} trials", f"{many:.0f}"],
    ]
    said = (
        f"{PAIR}, batch {BATCH_SIZE}, teacher of the cache's first epochs included, {PAIR.n_steps} steps an epoch; an "
        f"actor's growth from {FEW} to {MANY} trials: {many / few - 1:+.1%} (target: within {GROWTH:.0%}; medians "
        f"of three trials)."
    )
    return f"{table(('memory', 'MB'), rows)}\n\n{said} {machine(('torch', 'ray'), before)}"


if __name__ == "__main__":
    run("trial_memory", str(__doc__), section)
