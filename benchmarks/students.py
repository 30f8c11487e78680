"""How many steps a second 1, 2, 4, 8 and 16 students of kd take on one device: as processes that share it, or in one.

    python -m benchmarks.students                  on a CPU, up to 4 students
    python -m benchmarks.students --device cuda    on a GPU, up to 16
    python -m benchmarks.students --write          the same, and replace the section in RESULTS.md

A process trains as a search's trial does: views cut and mirrored, targets from the cache, every term recorded. Mapped
students (torch.func.vmap) take bare steps on ready batches that all of them see, each at a temperature and an alpha of
its own. What the two ways have in common is the network, the numbers it is trained in, and the loss.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from benchmarks import loops
from benchmarks.epoch import GPU_STEPS, LENETS, RESNETS, ROUNDS, finished, place_of
from benchmarks.ground import BATCH_SIZE, MadeUp, Pair, fastest
from benchmarks.sections import load_average, machine, run_on_device, table
from trainables.precision import Precision
from trainables.recipe import make_optimizer

PAIRS = {"cpu": (LENETS, RESNETS[1]), "cuda": (RESNETS[1], RESNETS[3])}
COUNTS = {"cpu": (1, 2, 4), "cuda": (1, 2, 4, 8, 16)}


class Mapped:
    """`n` students in this process: each of their weights is one tensor with a row for each student."""

    def __init__(self, place: MadeUp, n: int) -> None:
        networks = [loops.known(place, place.task.student).train() for _ in range(n)]
        self.weights, self.buffers = stack_module_state(networks)
        self.optimizer = make_optimizer(place.task.recipe, list(self.weights.values()))
        self.temperatures = torch.linspace(2, 8, n, device=place.device)
        self.alphas = torch.linspace(0.5, 0.9, n, device=place.device)
        self.batches = loops.ready(place)

        def loss(own: Any, kept: Any, t: Tensor, alpha: Tensor, *batch: Tensor) -> Tensor:
            pixels, labels, taught = batch
            with loops.fast(place):
                logits = functional_call(networks[0], (own, kept), (pixels,))
            return loops.loss(logits.float(), taught, labels, t, alpha)

        self.gradients = vmap(grad(loss), in_dims=(0, 0, 0, 0, None, None, None))

    @torch.no_grad()  # beyond vmap's own gradients
    def epoch(self) -> None:
        """Take a step on each batch."""
        for batch in self.batches:
            given = (self.weights, self.buffers, self.temperatures, self.alphas)
            found = self.gradients(*given, *batch)
            for name, weight in self.weights.items():
                weight.grad = found[name]
            self.optimizer.step()


class Timing(NamedTuple):
    """How often and how long is measured."""

    device: str
    rounds: int = ROUNDS
    seconds: float = 5.0  # of a round, at least

    def rates(self, epoch: loops.Epoch, n_steps: int) -> list[float]:
        """Steps a second by the wall, round by round; the first round is not counted."""
        now = time.perf_counter if self.device == "cpu" else finished
        found = []
        for _ in range(self.rounds + 1):
            started, steps = now(), 0
            while now() - started < self.seconds:
                epoch()
                steps += n_steps
            found.append(steps / (now() - started))
        return found[1:]


def process(
    pair: Pair, folder: Path, precision: Precision, timing: Timing, everybody: Any, answers: Any
) -> None:
    """One of several: trains like the others at the same time, and answers with its steps a second."""
    epoch = loops.trial(place_of(pair, folder, pair.augment, precision, timing.device))
    everybody.wait()
    answers.put(timing.rates(epoch, pair.n_steps))
    everybody.wait()  # nobody is measured beside fewer


def together(n: int, pair: Pair, folder: Path, precision: Precision, timing: Timing) -> list[float]:
    """Steps a second of `n` processes in all, round by round."""
    context = multiprocessing.get_context("spawn")
    everybody, answers = context.Barrier(n), context.Queue()
    workers = []
    for number in range(n):
        own = folder / f"{n}-{number}"
        own.mkdir()
        given = (pair, own, precision, timing, everybody, answers)
        workers.append(context.Process(target=process, args=given))
    for worker in workers:
        worker.start()
    found = [answers.get() for _ in workers]
    for worker in workers:
        worker.join()
    return [sum(some) for some in zip(*found, strict=True)]


def rows(pair: Pair, folder: Path, counts: Sequence[int], timing: Timing) -> list[list[str]]:
    """Each number of students: steps a second of all of them, either way."""
    precision = fastest(pair, folder, timing.device)
    place = place_of(pair, folder, pair.augment, precision, timing.device)
    found, first = [], 0.0
    for n in counts:
        apart = median(together(n, pair, folder, precision, timing))
        one = median(timing.rates(Mapped(place, n).epoch, pair.n_steps)) * n
        first = first or apart
        cells = [f"{apart:.1f}", f"{apart / first:.2f}", f"{one:.1f}", f"{one / first:.2f}"]
        found.append([pair.student, str(precision), str(n), *cells])
    return found


def section(rounds: int, device: str) -> str:
    """Measure everything; the Markdown section."""
    torch.set_num_threads(1)
    before = load_average()
    pairs, timing = PAIRS[device], Timing(device, rounds)
    if device == "cuda":
        pairs = tuple(replace(pair, n_steps=GPU_STEPS) for pair in pairs)
    with tempfile.TemporaryDirectory(prefix="kdtune-benchmark-") as folder:
        found = []
        for pair in pairs:
            own = Path(folder, pair.student)
            own.mkdir()
            found += rows(pair, own, COUNTS[device], timing)
    header = ["student", "precision", "students", "as processes, steps a second", "/ one process"]
    header += ["mapped in one, steps a second", "/ one process"]
    where = torch.cuda.get_device_name() if device == "cuda" else "the CPU, one thread a process"
    said = f"kd at batch {BATCH_SIZE} on {where}; medians of {rounds} rounds."
    return f"{table(header, found)}\n\n{said} {machine(('torch',), before)}"


if __name__ == "__main__":
    run_on_device("students", str(__doc__), section, ROUNDS)
