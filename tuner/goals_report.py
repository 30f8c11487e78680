"""What the report says of objectives and constraints: who keeps them, and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuner import confirm, standing
from tuner.journal import Story, Student
from tuner.objectives import AT_THE_END, in_words
from tuner.plan import Plan
from tuner.progress import settings_in_words
from tuner.standing import Outcomes

LATENCY = "latency_ms"


def sentences(planned: Plan, told: Story, answer: dict[str, Any]) -> list[str]:
    """For the report and the terminal; nothing where only validation accuracy was asked for."""
    if planned.goals.usual:
        return []
    said = [f"Asked for: {in_words(planned.goals)}."]
    if not planned.goals.several and planned.goals.decider.name != "val/accuracy":
        said = [f"Asked for: {in_words(planned.goals)}; finalists and winner were chosen by it."]
    return [
        *said,
        *_kept(planned, told),
        *_of_front(planned, told),
        *_caveats(planned, told),
        *_over_seeds(planned, told, answer),
    ]


def rows(planned: Plan, told: Story) -> list[list[str]]:
    """The front, best first by the first objective, then the default and the plain student; header first."""
    if not planned.goals.several:
        return []
    on_front = standing.front(planned, told.of_kind("search"))
    on_front.sort(key=lambda s: standing.point(planned, s), reverse=True)
    table = [["trial", *(one.heading for one in planned.goals.objectives), "", "settings"]]
    for student in on_front:
        known = standing.outcomes(planned, student)
        table.append([student.id, *_shown(planned, known), *_last(planned, student)])
    default = told.of_kind("search")[0]
    if default not in on_front and default.history:
        known, (note, setting) = standing.outcomes(planned, default), _last(planned, default)
        table.append([default.id, *_shown(planned, known), f"{note}, not on the front", setting])
    plain = confirm.plain_students(planned, told)
    if plain:
        known, note = standing.mean(planned, plain), f"plain student, mean of {len(plain)} seeds"
        table.append(["", *_shown(planned, known), note, "plain"])
    return table


def _kept(planned: Plan, told: Story) -> list[str]:
    """Of each constraint, by how many of the trials that tell it was kept."""
    trials = told.of_kind("search")
    said = []
    for one in planned.goals.constraints:
        known = [standing.outcomes(planned, s) for s in trials]
        found = [outcomes[one.name] for outcomes in known if one.name in outcomes]
        kept = sum(map(one.met, found))
        said.append(f"Constraint {one}: kept by {kept} of {len(found)} trials that tell.")
    untrained = ", ".join(s.id for s in trials if s.status == "infeasible")
    if untrained:
        said.append(f"Not trained, because the student's size alone breaks one: {untrained}.")
    return said


def _of_front(planned: Plan, told: Story) -> list[str]:
    if not planned.goals.several:
        return []
    trials = told.of_kind("search")
    on_front, may = standing.front(planned, trials), standing.entered(planned, trials)
    names = ", ".join(student.id for student in on_front)
    condition = " and keep the constraints" if planned.goals.constraints else ""
    said = [
        f"Pareto front: {names}, of {len(may)} trials that were trained in full{condition}, one seed each; no other of "
        "them is as good in everything and better in something."
    ]
    default = trials[0]
    if default in on_front:
        return [*said, "The published default is on it."]
    if default not in may:
        return [
            *said,
            "The published default cannot be on it: it was not trained in full or breaks a constraint.",
        ]
    return [
        *said,
        f"The published default is not: {_beating(planned, default, on_front)} is at least as good in everything.",
    ]


def _beating(planned: Plan, student: Student, others: Sequence[Student]) -> str:
    """The first that dominates a student off the front; somebody does."""
    own = standing.point(planned, student)
    better = [
        o.id
        for o in others
        if all(a >= b for a, b in zip(standing.point(planned, o), own, strict=True))
    ]
    return better[0]


def _caveats(planned: Plan, told: Story) -> list[str]:
    """Where numbers are not what they seem."""
    said = []
    those = [s.id for s in told.of_kind("search") if standing.masked(planned, s)]
    if those:
        said.append(f"Masked gradients ({', '.join(those)}): robust accuracy counts as 0 there.")
    if LATENCY in planned.goals.names(AT_THE_END) and planned.slots > 1:
        said.append(f"{LATENCY} was measured with up to {planned.slots - 1} other trials beside.")
    return said


def _over_seeds(planned: Plan, told: Story, answer: dict[str, Any]) -> list[str]:
    """Whether the winner keeps the constraints on the mean over the confirmation's seeds too."""
    if not planned.goals.constraints:
        return []
    students = [s for s in told.of_kind("confirm", "baseline") if s.role == answer["winner"]]
    unmet = planned.goals.unmet(standing.mean(planned, students))
    if not unmet:
        return ["The tuned setting keeps the constraints on the mean over the seeds too."]
    return [f"No setting keeps the constraints over the seeds; the tuned one: {'; '.join(unmet)}."]


def _shown(planned: Plan, known: Outcomes) -> list[str]:
    return [one.shown(known.get(one.name)) for one in planned.goals.objectives]


def _last(planned: Plan, student: Student) -> list[str]:
    """Two cells: what is special about a trial, and its setting."""
    notes = ["published default"] if student.role == "default" else []
    notes += ["masked"] if standing.masked(planned, student) else []
    return [", ".join(notes), settings_in_words(student.hyper)]
