"""What the report says of early stopping: each rung beside the end, and what ASHA would have done if it was off."""

from __future__ import annotations

import math
from typing import Any

from tuner import safety, schedulers
from tuner.journal import Story, Student
from tuner.plan import Plan
from tuner.progress import best_of
from tuner.safety import Rung

HEADER = ("epoch", "got there", "ended there", "trained in full", "rank correlation with the end")


def epochs_of_rungs(planned: Plan) -> list[int]:
    """Where trials are compared before their end: the grace epoch and its doublings; none in a population."""
    if planned.scheduler == "pbt":
        return []
    last = planned.recipe.epochs
    every = (planned.grace * schedulers.REDUCTION**k for k in range(last.bit_length()))
    return [epoch for epoch in every if epoch < last]


def at_rung(planned: Plan, student: Student, rung: int) -> float:
    """A trial's validation accuracy at a rung, which is a share of its own epochs; NaN where it did not get there."""
    there = (metrics for place, metrics in _places(planned, student) if place >= rung)
    return next(there, {}).get("val/accuracy", math.nan)


def rungs(planned: Plan, told: Story) -> list[Rung]:
    """Each rung's view of the end, by the trials trained in full."""
    epochs = epochs_of_rungs(planned)
    curves = [
        [*(at_rung(planned, one, epoch) for epoch in epochs), one.accuracy]
        for one in told.of_kind("search")
        if one.complete
    ]
    found = safety.rungs(curves, range(1, len(epochs) + 1))
    return [rung._replace(epoch=epoch) for rung, epoch in zip(found, epochs, strict=False)]


def stopped_at(planned: Plan, told: Story) -> dict[str, int]:
    """After which epoch each trial that ended early was stopped; in a search without stopping, by ASHA's rule.

    ASHA is told the same reports in the same order, without those of trials that it has stopped. What would have been
    tried in the time saved is not known.
    """
    students = {one.id: one for one in told.of_kind("search")}
    if planned.scheduler != "none":
        return {one.id: len(one.history) for one in students.values() if one.status == "stopped"}
    asha: Any = schedulers.make("asha", planned.recipe.epochs, planned.grace)
    stopped: dict[str, int] = {}
    for identity, epoch in told.reports:
        if identity not in students or identity in stopped:
            continue
        one = students[identity]
        result = {**one.history[epoch - 1], "epochs": one.epochs}
        if epoch < one.epochs and asha.replay([(identity, one.number, result)]):
            stopped[identity] = epoch
    return stopped


def rows(planned: Plan, told: Story) -> list[list[str]]:
    """A row a rung, header first; nothing where there is no rung."""
    stopped, students = stopped_at(planned, told), told.of_kind("search")
    found = []
    for rung in rungs(planned, told):
        there = [one.id for one in students if math.isfinite(at_rung(planned, one, rung.epoch))]
        ended = sum(
            rung_of(planned, one, stopped[one.id]) == rung.epoch
            for one in students
            if one.id in stopped
        )
        told_apart = "too few" if math.isnan(rung.correlation) else f"{rung.correlation:.2f}"
        found.append([str(rung.epoch), str(len(there)), str(ended), str(rung.n), told_apart])
    return [list(HEADER), *found] if found else []


def sentences(planned: Plan, told: Story) -> list[str]:
    """What the rows say in words, and the warning where there is cause for one."""
    if planned.scheduler == "pbt":
        return ["A population stops nobody: its students change their settings instead."]
    found = rungs(planned, told)
    if not found:
        return ["Trials are too short, or none was trained in full: there is no rung to judge."]
    said = [_would_have(planned, told)] if planned.scheduler == "none" else []
    warning = safety.warning(found)
    if warning:
        return [*said, warning]
    known = [rung for rung in found if not math.isnan(rung.correlation)]
    if known:
        said.append("Nothing here speaks against early stopping.")
    else:
        said.append(f"Fewer than {safety.FEWEST} trials were trained in full: too few to judge it.")
    return said


def _would_have(planned: Plan, told: Story) -> str:
    """What ASHA would have saved, and whether it would have cost the best trial."""
    students, stopped = told.of_kind("search"), stopped_at(planned, told)
    saved = sum(len(one.history) - stopped[one.id] for one in students if one.id in stopped)
    spent = sum(len(one.history) for one in students)
    said = (
        f"No trial was stopped early. ASHA would have stopped {len(stopped)} of {len(students)} "
        f"and saved {saved} of {spent} epochs"
    )
    best = best_of(students)
    if best is None:
        return f"{said}."
    fate = f"stopped at epoch {stopped[best.id]}" if best.id in stopped else "kept"
    return f"{said}; the best trial, {best.id}, would have been {fate}."


def _places(planned: Plan, student: Student) -> list[tuple[float, dict[str, float]]]:
    """How far the trial had come at each of its epochs, in epochs of a full trial."""
    return [
        (schedulers.place_of({**metrics, "epochs": student.epochs}, planned.recipe.epochs), metrics)
        for metrics in student.history
    ]


def rung_of(planned: Plan, student: Student, epoch: int) -> int:
    """The last rung that the trial had reached at an epoch of its own; 0 before the first."""
    place = _places(planned, student)[epoch - 1][0]
    return max((rung for rung in epochs_of_rungs(planned) if place >= rung), default=0)
