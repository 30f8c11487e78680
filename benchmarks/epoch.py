"""A trial's epoch against a bare loop on ready tensors, against the loop that others share, and torchdistill's.

    python -m benchmarks.epoch                  about twenty minutes of CPU time
    python -m benchmarks.epoch --device cuda    resnet20 and wrn-16-2 on a GPU
    python -m benchmarks.epoch --write          the same, and replace the section in RESULTS.md

Images are made up and networks untrained: a step's time depends on neither. One thread, CPU time, or wall time of a
GPU that has finished; the contenders of a pair take turns within each round, a ratio is of one round, and medians are
over rounds. torchdistill takes part where it is installed (`pip install torchdistill==1.1.4`: its last with a cache).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import torch

from benchmarks import loops
from benchmarks.ground import BATCH_SIZE, MadeUp, Pair, fastest
from benchmarks.sections import load_average, machine, run_on_device, table
from trainables.precision import Precision
from trainables.training import validate

ROUNDS = 5
VAL_SHARE = 1 / 9  # validation images for one of training: a tenth of the published training set
LENETS = Pair("lenet5", "lenet5_half", 1, 28, 10, n_steps=60, augment="none")
RESNETS = [
    Pair(teacher, student, 3, 32, 100, n_steps=n_steps, augment="crop_flip")
    for teacher, student, n_steps in (
        ("resnet32x4", "resnet8x4", 4),
        ("resnet56", "resnet20", 8),
        ("resnet110", "resnet20", 8),
        ("wrn-28-4", "wrn-16-2", 4),
    )
]
ALONE = {LENETS: 1.10, RESNETS[0]: 1.10, RESNETS[1]: 1.10, RESNETS[3]: 1.10}  # at most
AGAINST = {LENETS: 2.5, RESNETS[1]: 3.4, RESNETS[2]: 5.0, RESNETS[3]: 7.5}  # at least
ON_A_GPU = (RESNETS[1], RESNETS[3])
GPU_STEPS = 196  # a quarter of CIFAR-10's epoch


def asked(targets: Mapping[Pair, float], device: str) -> dict[Pair, float]:
    """The pairs that are measured on the device, as long as it takes, with their targets."""
    if device == "cpu":
        return dict(targets)
    return {replace(pair, n_steps=GPU_STEPS): targets[pair] for pair in ON_A_GPU}


def finished() -> float:
    """Seconds by the wall, once the GPU has done its work."""
    torch.cuda.synchronize()
    return time.perf_counter()


def clock(device: str) -> Callable[[], float]:
    """CPU time, or the wall's beside a GPU."""
    return time.process_time if device == "cpu" else finished


def rounds_of(
    contenders: Mapping[str, loops.Epoch], rounds: int, now: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds of each, round by round; every other round goes through them backwards."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for epoch in contenders.values():
        epoch()
    for turn in range(rounds):
        for name in list(contenders)[:: -1 if turn % 2 else 1]:
            started = now()
            contenders[name]()
            times[name].append(now() - started)
    return times


def ratio(some: Sequence[float], others: Sequence[float]) -> float:
    """The median of the rounds' ratios some / others."""
    return median(a / b for a, b in zip(some, others, strict=True))


def place_of(
    pair: Pair, folder: Path, augment: str, precision: Precision, device: str = "cpu"
) -> MadeUp:
    """A worker's place in a folder of its own."""
    where = folder / f"{pair.teacher}-{pair.student}-{augment}"
    where.mkdir(exist_ok=True)
    return MadeUp(pair, where, augment, precision, device)


def alone_rows(
    folder: Path, rounds: int, precisions: Mapping[Pair, Precision], device: str
) -> list[list[str]]:
    """Each pair: a trial's epoch against the bare loop, and what validation adds to it."""
    rows = []
    for pair, at_most in asked(ALONE, device).items():
        place = place_of(pair, folder, pair.augment, precisions[pair], device)
        student, precision = place.student().student, precisions[pair]
        times = rounds_of(
            {
                "bare": loops.bare(place),
                "trial": loops.trial(place),
                "judged": partial(validate, student, place.val, device, precision=precision),
            },
            rounds,
            clock(device),
        )
        steps = [f"{1e3 * median(times[name]) / pair.n_steps:.1f}" for name in ("bare", "trial")]
        factor = ratio(times["trial"], times["bare"])
        judged = VAL_SHARE * ratio(times["judged"], times["trial"])
        known = [pair.student, str(precision), pair.augment, *steps]
        rows.append([*known, f"{factor:.2f}", f"{at_most:.2f}", f"{judged:.1%}"])
    return rows


def against_rows(
    folder: Path, rounds: int, precisions: Mapping[Pair, Precision], device: str
) -> list[list[str]]:
    """Each pair: a trial's epoch against the shared loop and torchdistill's, all with cut and mirrored images."""
    rows = []
    for pair, at_least in asked(AGAINST, device).items():
        place = place_of(pair, folder, "crop_flip", precisions[pair], device)
        contenders = {"trial": loops.trial(place), "shared": loops.shared(place)}
        if loops.torchdistill_version():
            contenders["its cache off"] = loops.torchdistill(place, None)
            kept = folder / f"its cache of {pair}"
            contenders["its cache on"] = loops.torchdistill(place, kept)
        times = rounds_of(contenders, rounds, clock(device))
        names = ("shared", "its cache off", "its cache on")
        factors = [f"{ratio(times[n], times['trial']):.2f}" if n in times else "" for n in names]
        step = f"{1e3 * median(times['trial']) / pair.n_steps:.1f}"
        rows.append([str(pair), step, factors[0], f"{at_least:.1f}", *factors[1:]])
    return rows


def section(rounds: int, device: str) -> str:
    """Measure everything; the Markdown section."""
    torch.set_num_threads(1)
    before = load_average()
    with tempfile.TemporaryDirectory(prefix="kdtune-benchmark-") as name:
        folder = Path(name)
        pairs = dict.fromkeys((*asked(ALONE, device), *asked(AGAINST, device)))
        precisions = {pair: fastest(pair, folder, device) for pair in pairs}
        alone = alone_rows(folder, rounds, precisions, device)
        against = against_rows(folder, rounds, precisions, device)
    header = ("student", "precision", "views", "bare ms a step", "trial ms a step")
    first = table((*header, "trial / bare", "at most", "validation / epoch"), alone)
    header = ("teacher -> student", "trial ms a step", "shared loop / trial", "at least")
    cache = (f"torchdistill, its cache {word} / trial" for word in ("off", "on"))
    second = table((*header, *cache), against)
    counts = ", ".join(dict.fromkeys(f"{pair.n_steps} steps for {pair.student}" for pair in pairs))
    theirs = loops.torchdistill_version()
    said = (
        f"Batch {BATCH_SIZE}, one thread, {measured_on(device)}, medians of {rounds} rounds; an epoch here is "
        f"{counts}; torchdistill {theirs or 'is not installed'}."
    )
    return "\n\n".join([first, second, f"{said} {machine(('torch',), before)}"])


def measured_on(device: str) -> str:
    """What the times are of."""
    if device == "cuda":
        return f"wall time beside one {torch.cuda.get_device_name()}"
    return f"CPU time (bfloat16 in hardware: {bfloat16_in_hardware()})"


def bfloat16_in_hardware() -> str:
    """Yes or no, as the system lists the processor's features."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    return "yes" if "avx512_bf16" in text or "amx_bf16" in text else "no"


if __name__ == "__main__":
    run_on_device("epoch", str(__doc__), section, ROUNDS)
