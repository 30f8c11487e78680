"""What a training step of each method costs beyond a plain one, in milliseconds and in memory.

    python -m benchmarks.methods            four to nine minutes of CPU time
    python -m benchmarks.methods --write    the same, and replace the section in RESULTS.md

The parts are timed apart, because the difference of two whole steps drowns a millisecond in noise:

    own part      the target made of the teacher's outputs, adapter, loss, the way back from the loss to the student's
                  outputs, and the update of the adapter and its banks
    more passes   the images and the student's way forth and back, less a plain step's; measured where a method shows
                  the student more than one image a sample or differentiates its gradient, else none
    added         own part + more passes, less a plain step's own part (its cross-entropy)

The teacher's pass stands in its own column. Each figure is the median of interleaved rounds, CPU time, one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

import torch

from benchmarks.rig import Case, Rig, World, arithmetic, milliseconds
from benchmarks.sections import load_average, machine, publish, table
from trainables import methods

ROUNDS = 5
OWN_RUNS = 3  # of the own part in each round, where it is short
SHORT = 50.0  # ms
SUSPECT = 2.0  # times what the arithmetic explains
WORTH_A_LOOK = 2.0  # ms; below that it is call overhead
VARIANTS = (
    Case("crd, N = 50,000", "crd", n_labels=50_000),
    Case("nst, kernel linear", "nst", {"kernel": "linear"}),
    Case("nst, kernel gauss", "nst", {"kernel": "gauss"}),
    Case("fitnet, joint", "fitnet", {"stages": "joint"}),
    Case("ckd, inner vid", "ckd", {"inner": "vid"}),
)
HEADER = (
    "method",
    "added ms",
    "step / plain",
    "own part ms",
    "more passes ms",
    "whole step ms",
    "teacher ms",
    "own GFLOP",
    "own MB written",
    "explained ms",
    "kept MB",
    "step MB",
)


class Rates(NamedTuple):
    """What this machine does in a millisecond, in the shapes at hand."""

    gflop: float  # of the student's own convolutions
    megabytes: float  # written by an addition of two large tensors into a new one
    operations: float  # additions of two small tensors that want a gradient


class Measured(NamedTuple):
    """One row before it is compared with the plain step."""

    own: float  # ms, as all times
    passes: float
    whole: float
    teacher: float
    kept: float  # MB
    step: float


def cases() -> list[Case]:
    """Every method at its published setting, each of its phases apart, and some variants."""
    found = []
    for name in methods.names():
        if methods.load(name).first_phase is not None:
            found.append(Case(f"{name}, first phase", name, first_phase=True))
        found.append(Case(name, name))
    return found + list(VARIANTS)


def measure(rigs: Sequence[Rig], rounds: int) -> dict[str, Measured]:
    """Medians over rounds that go through all cases each; memory is counted once."""
    memory = {r.case.name: (r.kept_bytes() / 1e6, r.step_bytes() / 1e6) for r in rigs}
    times: dict[tuple[str, str], list[float]] = {}
    teachers: dict[object, list[float]] = {}
    for _ in range(rounds):
        taught = set()
        for rig in rigs:
            name, taught_by = rig.case.name, id(rig.taught)
            own = [milliseconds(rig.own_part)]
            own += [milliseconds(rig.own_part) for _ in range(OWN_RUNS - 1) if own[0] < SHORT]
            times.setdefault((name, "own"), []).extend(own)
            times.setdefault((name, "whole"), []).append(milliseconds(rig.whole_step))
            if rig.more_passes or name == "vanilla":
                times.setdefault((name, "passes"), []).append(milliseconds(rig.passes))
            if rig.taught is not None and taught_by not in taught:
                taught.add(taught_by)
                teachers.setdefault(taught_by, []).append(milliseconds(rig.teacher_pass))
    middle = {key: median(values) for key, values in times.items()}
    plain = middle["vanilla", "passes"]
    return {
        r.case.name: Measured(
            middle[r.case.name, "own"],
            middle.get((r.case.name, "passes"), plain),
            middle[r.case.name, "whole"],
            median(teachers.get(id(r.taught), [0.0])),
            *memory[r.case.name],
        )
        for r in rigs
    }


def rates(plain: Rig) -> Rates:
    """Calibrate on the plain student's passes and on two additions."""
    gflop, _, _ = arithmetic(plain.passes)
    large, small = torch.zeros(4_000_000), torch.zeros(8, requires_grad=True)
    passes = median(milliseconds(plain.passes) for _ in range(3))
    added = median(milliseconds(lambda: large + large) for _ in range(15))
    called = median(milliseconds(lambda: [small + small for _ in range(1000)]) for _ in range(5))
    return Rates(gflop / passes, large.nbytes / 1e6 / added, 1000 / called)


def rows(rigs: Sequence[Rig], measured: dict[str, Measured], rate: Rates) -> list[list[str]]:
    """The table, cheapest first; a star where the own part takes much more than its arithmetic explains."""
    plain = measured["vanilla"]
    found = []
    for rig in rigs:
        m = measured[rig.case.name]
        gflop, megabytes, operations = arithmetic(rig.own_part)
        explained = gflop / rate.gflop + megabytes / rate.megabytes + operations / rate.operations
        more = m.passes - plain.passes
        added = m.own - plain.own + more
        star = " *" if m.own > SUSPECT * explained and m.own > WORTH_A_LOOK else ""
        texts = [f"{added:.1f}", f"{1 + added / plain.whole:.2f}", f"{m.own:.1f}{star}"]
        texts += [f"{x:.0f}" for x in (more, m.whole, m.teacher)]
        texts += [f"{gflop:.2f}", f"{megabytes:.0f}", f"{explained:.1f}"]
        texts += [f"{m.kept:.1f}", f"{m.step - plain.step:.0f}"]
        found.append((added, [rig.case.name, *texts]))
    return [cells for _, cells in sorted(found)]


def section(rounds: int) -> str:
    """Measure everything; the Markdown section."""
    torch.set_num_threads(1)
    before, world = load_average(), World()
    rigs = [Rig(case, world) for case in cases()]
    for rig in rigs:
        rig.whole_step()
    rate = rates(next(r for r in rigs if r.case.name == "vanilla"))
    made = table(HEADER, rows(rigs, measure(rigs, rounds), rate))
    said = (
        f"resnet32x4 -> resnet8x4, 3x32x32, batch 64, float32, one thread; medians of {rounds} rounds. "
        f"Explained: {rate.gflop:.2f} GFLOP, {rate.megabytes:.1f} MB written or "
        f"{rate.operations:.0f} operations take 1 ms; * own part above {SUSPECT:g} times that."
    )
    return f"{made}\n\n{said} {machine(('torch',), before)}"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    parser.add_argument("--write", action="store_true", help="replace the section in RESULTS.md")
    given = parser.parse_args()
    publish("methods", section(given.rounds), write=given.write)


if __name__ == "__main__":
    main()
