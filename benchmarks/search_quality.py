"""What samplers and schedulers find, and what it costs: whole searches over made-up learning curves (curves.py).

    python -m benchmarks.search_quality --seeds 40 --write     an hour or more on two quiet cores: gp takes it
    python -m benchmarks.search_quality --seeds 3              a try
    python -m benchmarks.search_quality --answers FILE         keep each answer there, and go on with those left

Regret is how far, in points, a setting lies below the best there is, without noise: first that of the trial that read
best (last accuracy, among those trained in full), then that of the setting that a search takes: its confirmation
trains the best 3 and the published default with 5 further seeds each. Epochs are those of the trials. Searches
have 32 trials of 16 epochs.

1. Searches run in an event loop of a few lines over the very same sampler and scheduler objects that a search has,
   each trial on the next free of 1 or 8 simulated workers (simulated.py).
2. For a few seeds the same searches run through Ray Tune, with the Tuner that a search has, one worker; every trial
   must have the same setting and the same epochs there, or this ends with an error.
3. The time that a sampler takes for one suggestion, with 10, 50 and 200 trials known.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from statistics import fmean, median, stdev

from benchmarks.curves import EPOCH_SD, EPOCHS, SEED_SD, World
from benchmarks.sections import load_average, machine, publish, table
from benchmarks.simulated import (
    MANY_TRIALS,
    TRIALS,
    Answer,
    Case,
    Strategy,
    check_ray,
    judge,
    parts,
    report,
)

PACKAGES = ("ray", "optuna", "torch", "cmaes")
STRATEGIES = [*itertools.product(("random", "tpe", "gp"), ("none", "asha")), ("auto", "auto")]
KNOWN = (10, 50, 200)
MOST_LOST = 0.2  # points that early stopping may cost where curves cross


def suggestion_ms(search: str, n_dimensions: int, known: int) -> float:
    """Median milliseconds of a suggestion with so many trials known."""
    world = World(n_dimensions, False, 0)
    searcher, _ = parts(Case(world, Strategy(search, "none", 10**6), 1))
    blind, _ = parts(Case(world, Strategy("random", "none", 10**6), 1))
    past = [blind.suggest(f"t{n}") for n in range(known)]
    searcher.replay([(config, report(world, config, EPOCHS), False) for config in past])
    times = []
    for n in range(5):
        started = time.process_time()
        config = searcher.suggest(f"t{n}")
        times.append(1e3 * (time.process_time() - started))
        searcher.on_trial_complete(f"t{n}", report(world, config, EPOCHS))
    return median(times)


def cases(seeds: int) -> list[Case]:
    """Every search of the tables."""
    asked = [Strategy(*names) for names in STRATEGIES]
    asked.append(Strategy("random", "none", MANY_TRIALS))
    kinds = itertools.product((2, 4), (False, True), (1, 8), asked, range(seeds))
    return [Case(World(n, crossing, seed), s, w) for n, crossing, w, s, seed in kinds]


def judged(everything: list[Case], processes: int, file: Path | None) -> dict[Case, Answer]:
    """The answer of each search, as far as `file` does not have it from the same curves."""
    lines = file.read_text(encoding="utf-8").splitlines() if file and file.exists() else []
    known = {key: Answer(*answer) for key, *answer in map(json.loads, lines)}
    left = [case for case in everything if key_of(case) not in known]
    with (
        ProcessPoolExecutor(processes) as pool,
        file.open("a", encoding="utf-8") if file else nullcontext() as kept,
    ):
        for case, answer in zip(left, pool.map(judge, left), strict=True):
            known[key_of(case)] = answer
            if kept:
                kept.write(json.dumps([key_of(case), *answer]) + "\n")
                kept.flush()
    return {case: known[key_of(case)] for case in everything}


def key_of(case: Case) -> str:
    """What an answer depends on."""
    return f"{case} {SEED_SD} {EPOCH_SD}"


def rows(answers: dict[Case, Answer], crossing: bool) -> list[list[str]]:
    """A table's rows: a strategy's regrets and epochs in each world, over seeds."""
    found: dict[str, list[str]] = {}
    for name, columns in grouped(answers, crossing).items():
        found[name] = [name]
        for values in columns.values():
            regrets, confirmed, epochs = zip(*values, strict=True)
            found[name] += [in_points(regrets), in_points(confirmed), f"{fmean(epochs):.0f}"]
    return list(found.values())


def in_points(values: Sequence[float], sign: str = "") -> str:
    """Their mean with its standard error; `sign` "+" shows one."""
    return f"{fmean(values):{sign}.2f} ± {stdev(values) / len(values) ** 0.5:.2f}"


def grouped(
    answers: dict[Case, Answer], crossing: bool
) -> dict[str, dict[tuple[int, int], list[Answer]]]:
    """Answers by strategy and (dimensions, workers)."""
    found: dict[str, dict[tuple[int, int], list[Answer]]] = {}
    for case, answer in answers.items():
        if case.world.crossing == crossing:
            place = (case.world.n_dimensions, case.workers)
            found.setdefault(case.strategy.name(), {}).setdefault(place, []).append(answer)
    return found


def verdicts(answers: dict[Case, Answer]) -> list[str]:
    """What must hold of the default, and whether it does: of what a search takes, and of what read best."""
    said = []
    parallel, crossed = grouped(answers, False), grouped(answers, True)
    many = f"random, none, {MANY_TRIALS} trials"
    for workers in (1, 8):
        mine, theirs = parallel["auto, auto"][4, workers], parallel[many][4, workers]
        said.append(
            f"4 dimensions, {workers} at once: auto in {TRIALS} trials minus random in {MANY_TRIALS}: "
            f"{compared(mine, theirs, 0)}"
        )
    for place, rival in itertools.product(crossed["auto, auto"], ("tpe", "gp")):
        mine, theirs = crossed["auto, auto"][place], crossed[f"{rival}, none"][place]
        said.append(
            f"crossing curves, {place[0]} dimensions, {place[1]} at once: auto minus full training with {rival}: "
            f"{compared(mine, theirs, MOST_LOST)}"
        )
    return said


def compared(mine: Sequence[Answer], theirs: Sequence[Answer], most: float) -> str:
    """The mean difference of regrets, paired by seed, and whether it is at most so much."""
    said = []
    for name, of in {"taken": "confirmed", "read best": "regret"}.items():
        gaps = [getattr(a, of) - getattr(b, of) for a, b in zip(mine, theirs, strict=True)]
        error = stdev(gaps) / len(gaps) ** 0.5
        within = (
            "holds within the standard error" if fmean(gaps) - error <= most else "DOES NOT HOLD"
        )
        holds = "holds" if fmean(gaps) <= most else within
        said.append(f"{in_points(gaps, '+')} ({name}: {holds})")
    return ", ".join(said)


def main() -> None:
    """Print the section, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=40, help="of each search (default: 40)")
    parser.add_argument("--processes", type=int, default=2, help="at once (default: 2)")
    parser.add_argument("--answers", type=Path, help="file of answers, made or gone on with")
    parser.add_argument("--write", action="store_true", help="replace the section in RESULTS.md")
    given = parser.parse_args()
    load = load_average()
    everything = cases(given.seeds)
    started = time.monotonic()
    answers = judged(everything, given.processes, given.answers)
    minutes = (time.monotonic() - started) / 60
    n_equal, seconds = check_ray(range(1))
    header = ["sampler, scheduler"] + [
        title
        for n, w in ((2, 1), (2, 8), (4, 1), (4, 8))
        for title in (f"{n}D, {w} at once: read best", "taken", "epochs")
    ]
    speed = [
        [f"{search}, {n}D", *(f"{suggestion_ms(search, n, known):.0f}" for known in KNOWN)]
        for search in ("tpe", "gp", "cmaes", "nsga2", "qmc")
        for n in (2, 4)
    ]
    parts_ = [
        f"Regret in points, mean ± standard error over {given.seeds} seeds; {TRIALS} trials of {EPOCHS} epochs.",
        "Curves that do not cross:",
        table(header, rows(answers, crossing=False)),
        "Curves that cross:",
        table(header, rows(answers, crossing=True)),
        "\n".join(f"- {line}" for line in verdicts(answers)),
        f"{len(everything)} searches in the event loop, {minutes:.0f} minutes; {n_equal} of {n_equal} searches tried "
        f"were the same, trial by trial, through Ray Tune, {seconds:.0f} s each.",
        "CPU milliseconds of a suggestion, by trials known:",
        table(["sampler", *map(str, KNOWN)], speed),
        machine(PACKAGES, load),
    ]
    publish("search_quality", "\n\n".join(parts_), write=given.write)


if __name__ == "__main__":
    main()
