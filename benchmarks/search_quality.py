"""What samplers and schedulers find, and what it costs: whole searches over made-up learning curves (curves.py).

    python -m benchmarks.search_quality --seeds 40 --write     an hour or more on two quiet cores: gp takes it
    python -m benchmarks.search_quality --seeds 3              a try
    python -m benchmarks.search_quality --answers FILE         keep each answer there, and go on with those left

Regret is how far, in points, the setting of the trial that a user would take (the best last accuracy among those
trained in full) lies below the best there is, without noise; epochs are those that the search trained. Searches have
32 trials of 16 epochs.

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
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from statistics import fmean, median, stdev

from benchmarks.curves import EPOCH_SD, EPOCHS, SEED_SD, World
from benchmarks.sections import load_average, machine, publish, table
from benchmarks.simulated import (
    MANY_TRIALS,
    TRIALS,
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


def judged(
    everything: list[Case], processes: int, file: Path | None
) -> dict[Case, tuple[float, int]]:
    """The answer of each search, as far as `file` does not have it from the same curves."""
    lines = file.read_text(encoding="utf-8").splitlines() if file and file.exists() else []
    known = {key: (regret, epochs) for key, regret, epochs in map(json.loads, lines)}
    left = [case for case in everything if key_of(case) not in known]
    with (
        ProcessPoolExecutor(processes) as pool,
        file.open("a", encoding="utf-8") if file else nullcontext() as kept,
    ):
        for case, (regret, epochs) in zip(left, pool.map(judge, left), strict=True):
            known[key_of(case)] = regret, epochs
            if kept:
                kept.write(json.dumps([key_of(case), regret, epochs]) + "\n")
                kept.flush()
    return {case: known[key_of(case)] for case in everything}


def key_of(case: Case) -> str:
    """What an answer depends on."""
    return f"{case} {SEED_SD} {EPOCH_SD}"


def rows(answers: dict[Case, tuple[float, int]], crossing: bool) -> list[list[str]]:
    """A table's rows: a strategy's regret and epochs in each world, over seeds."""
    found: dict[str, list[str]] = {}
    for name, columns in grouped(answers, crossing).items():
        found[name] = [name]
        for values in columns.values():
            regrets, epochs = zip(*values, strict=True)
            error = stdev(regrets) / len(regrets) ** 0.5
            found[name] += [f"{fmean(regrets):.2f} ± {error:.2f}", f"{fmean(epochs):.0f}"]
    return list(found.values())


def grouped(
    answers: dict[Case, tuple[float, int]], crossing: bool
) -> dict[str, dict[tuple[int, int], list[tuple[float, int]]]]:
    """Answers by strategy and (dimensions, workers)."""
    found: dict[str, dict[tuple[int, int], list[tuple[float, int]]]] = {}
    for case, answer in answers.items():
        if case.world.crossing == crossing:
            place = (case.world.n_dimensions, case.workers)
            found.setdefault(case.strategy.name(), {}).setdefault(place, []).append(answer)
    return found


def verdicts(answers: dict[Case, tuple[float, int]]) -> list[str]:
    """What must hold of the default, and whether it does."""
    said = []
    parallel, crossed = grouped(answers, False), grouped(answers, True)
    for workers in (1, 8):
        mine = [regret for regret, _ in parallel["auto, auto"][4, workers]]
        theirs = [r for r, _ in parallel[f"random, none, {MANY_TRIALS} trials"][4, workers]]
        said.append(
            f"4 dimensions, {workers} at once: auto in {TRIALS} trials {fmean(mine):.2f}, random in {MANY_TRIALS} "
            f"{fmean(theirs):.2f}: {'holds' if fmean(mine) <= fmean(theirs) else 'DOES NOT HOLD'}"
        )
    for place, rival in itertools.product(crossed["auto, auto"], ("tpe", "gp")):
        mine = [regret for regret, _ in crossed["auto, auto"][place]]
        whole = [regret for regret, _ in crossed[f"{rival}, none"][place]]
        lost = fmean(a - b for a, b in zip(mine, whole, strict=True))
        said.append(
            f"crossing curves, {place[0]} dimensions, {place[1]} at once: auto loses {lost:+.2f} points to full "
            f"training with {rival}: {'holds' if lost <= MOST_LOST else 'DOES NOT HOLD'}"
        )
    return said


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
        for title in (f"{n}D, {w} at once", "epochs")
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
