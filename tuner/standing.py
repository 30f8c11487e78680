"""How the trials of a search stand: their outcomes, whether they keep the constraints, and who is on the front."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

from trainables.evaluation import sanity
from tuner import pareto, sizes
from tuner.journal import Student
from tuner.objectives import KNOWN
from tuner.plan import Plan

Outcomes = dict[
    str, float
]  # by name: what the objectives and constraints ask, and all else that was measured


def outcomes(planned: Plan, student: Student) -> Outcomes:
    """What is known of a student: its size, and what its last epoch told."""
    size = sizes.known(planned, student.hyper, student.method)
    return {**size, **(student.history[-1] if student.history else {})}


def mean(planned: Plan, students: Sequence[Student]) -> Outcomes:
    """The same of several students of one setting: the mean of each objective that all have; of none, nothing."""
    found = [outcomes(planned, student) for student in students]
    return {
        name: fmean(one[name] for one in found)
        for name in KNOWN
        if found and all(name in one for one in found)
    }


def feasible(planned: Plan, student: Student) -> bool:
    """Whether a student was trained and keeps every constraint; what was not measured is not kept."""
    trained = student.status in ("finished", "stopped")
    return trained and planned.goals.met(outcomes(planned, student))


def score(planned: Plan, found: Outcomes) -> float:
    """What finalists and winner are chosen by, more is better; -inf where it is missing or NaN."""
    value = found.get(planned.goals.decider.name, math.nan)
    return planned.goals.decider.better(value) if not math.isnan(value) else -math.inf


def rank(planned: Plan, found: Outcomes) -> tuple[bool, float]:
    """What keeps the constraints before what does not, then by `score`; more is better."""
    return planned.goals.met(found), score(planned, found)


def entered(planned: Plan, trials: Iterable[Student]) -> list[Student]:
    """The trials that may be on the front: trained in full, every constraint kept, every objective a number."""
    return [
        student
        for student in trials
        if student.complete
        and feasible(planned, student)
        and planned.goals.values(outcomes(planned, student)) is not None
    ]


def front(planned: Plan, trials: Iterable[Student]) -> list[Student]:
    """The Pareto front over all objectives, by number."""
    those = entered(planned, trials)
    return [those[i] for i in pareto.front([point(planned, student) for student in those])]


def point(planned: Plan, student: Student) -> list[float]:
    """The values of all objectives, signed so that more is better."""
    values = planned.goals.values(outcomes(planned, student)) or []
    return [one.better(value) for one, value in zip(planned.goals.objectives, values, strict=True)]


def nearest(planned: Plan, trials: Iterable[Student]) -> Student | None:
    """The trial that misses the constraints by least; ties go to the one trained further, then to the earlier."""
    some = [
        student for student in trials if student.status in ("finished", "stopped", "infeasible")
    ]
    return min(
        some,
        key=lambda s: (planned.goals.gap(outcomes(planned, s)), -len(s.history), s.number),
        default=None,
    )


def masked(planned: Plan, student: Student) -> bool:
    """Whether a flag says that a student's gradients are masked, so that its robust accuracy counts as 0."""
    return sanity.masked(outcomes(planned, student))
