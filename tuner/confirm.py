"""The honest answer: retrain finalists and baselines over seeds, choose on validation.

The search saw one seed; its best trial is partly luck. So the best K by validation, the published default and the
plain student are trained again with S other seeds, the same ones for all (paired). The winner is the finalist or
default of highest mean validation accuracy; a tie goes to the default, then to the earlier trial, so tuned is never
worse than default on validation. Where another objective decides, it takes the accuracy's place; whoever keeps the
constraints, on the mean over seeds, comes before those who do not. Only then does `verdict.py` have anything look at
the test images.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from trainables.recipe import RECIPE_KEYS
from trainables.trainable import Task
from tuner import baselines, failures, standing, students
from tuner.interleaving import Strand
from tuner.journal import Event, Journal, Story, Student
from tuner.plan import Plan
from tuner.progress import Board
from tuner.samplers import Config, Listed
from tuner.schedulers import make as make_scheduler
from tuner.spaces import STUDENT

BASELINES = ("vanilla", "default", *baselines.ROLES)
ROLES = {
    "vanilla": "plain student",
    "default": "published default",
    **baselines.ROLES,
    "tuned": "tuned",
}


@dataclass(frozen=True)
class Contender:
    """One configuration that is retrained over seeds."""

    role: str  # vanilla, default, finalist-1 ...
    method: str
    hyper: dict[str, Any]
    trial: str = ""  # the search's trial it comes from
    name: str = ""  # what its students are called by, where that is not the role

    def identity(self, seed: int) -> str:
        """The id of its student of one seed."""
        return f"{self.name or self.role}-seed{seed}"


def finalists(planned: Plan, trials: Sequence[Student]) -> list[Student]:
    """The best trials that keep the constraints, the published default aside: it is retrained anyway.

    Fully trained trials come first; where they are too few, those that got furthest fill up. Ties go to the earlier.
    """
    usable = [s for s in trials if standing.feasible(planned, s) and s.hyper != planned.published]
    scores = {s.id: standing.score(planned, standing.outcomes(planned, s)) for s in usable}
    ranked = sorted(
        usable, key=lambda s: (not s.complete, -len(s.history), -scores[s.id], s.number)
    )
    return ranked[: planned.settings.confirm_top]


def seeds(planned: Plan) -> list[int]:
    """The confirmation's seeds: none of them is the search's."""
    return [planned.settings.seed + 1 + i for i in range(planned.settings.confirm_seeds)]


def contenders(
    planned: Plan,
    chosen: Sequence[Student],
    told: Event | None = None,
    earlier: Sequence[Student] = (),
) -> list[Contender]:
    """Plain student, published default, the tuned baseline that `told` tells of, and finalists.

    The plain student is trained with the recipe of the best finalist, where the recipe is searched. In a search of
    the plain student itself it is the published default, and is not trained twice. Who was confirmed `earlier` with the
    same setting keeps the name of then, so that a search that was extended does not train it again.
    """
    leader = chosen[0].hyper if chosen else planned.published
    recipe = {k: v for k, v in leader.items() if k in (*RECIPE_KEYS, STUDENT)}
    method = planned.settings.method
    default = Contender("default", method, planned.published, f"{method}-000")
    ranked = [Contender(f"finalist-{i}", s.method, s.hyper, s.id) for i, s in enumerate(chosen, 1)]
    tuned = [Contender(told["role"], told["method"], told["hyper"])] if told else []
    plain = [] if method == "vanilla" else [Contender("vanilla", "vanilla", recipe)]
    return _named([*plain, default, *tuned, *ranked], planned, earlier)


def _named(
    found: Sequence[Contender], planned: Plan, earlier: Sequence[Student]
) -> list[Contender]:
    """The contenders under names that no two of them, and no other settings of `earlier`, have."""
    ends = [f"-seed{seed}" for seed in seeds(planned)]
    known = {  # by name: what its students were trained with
        student.id.removesuffix(end): (student.method, student.hyper)
        for student in earlier
        for end in ends
        if student.id.endswith(end)
    }
    named: list[Contender] = []
    for one in found:
        taken = {other.name for other in named}
        same = [name for name, of in known.items() if of == (one.method, one.hyper)]
        new = (f"{one.role}-{n}" if n > 1 else one.role for n in itertools.count(1))
        fit = [name for name in (one.role, *same) if name in same and name not in taken]
        name = fit[0] if fit else next(n for n in new if n not in taken and n not in known)
        named.append(replace(one, name=name))
    return named


def retrain(
    planned: Plan, task: Task, chosen: Sequence[Student], journal: Journal, board: Board
) -> list[Strand]:
    """Every contender with every seed, as far as that has not been trained, for `students.train`."""
    past = board.story.of_kind("confirm", "baseline")
    options = contenders(planned, chosen, board.story.results.get(baselines.EVENT), past)
    configs = [
        _config(planned, contender, seed, n)
        for n, (seed, contender) in enumerate((s, c) for s in seeds(planned) for c in options)
    ]
    known = [student for student in past if student.status not in failures.ERRORS]  # these again
    if "answer" not in board.story.results:
        known = [student for student in known if not lost(planned, student, board)]
    left = students.unfinished(planned, configs, known, board)
    if not left:
        return []
    n_all = len({config["id"] for config in configs} | {student.id for student in past})

    def begin() -> None:
        board.take(journal.write("phase", name="confirm"))
        board.begin(f"confirm over {len(seeds(planned))} seeds", ("confirm", "baseline"), n_all)

    scheduler = make_scheduler("none", planned.recipe.epochs, planned.grace)
    recorder, ended = students.recording(planned, journal, board), len(configs) - len(left)
    return [Strand(planned, task, Listed(left), scheduler, recorder, len(left), ended, begin)]


def lost(planned: Plan, student: Student, board: Board) -> bool:
    """Whether a student that was trained in full cannot be judged: its last checkpoint is damaged, or gone."""
    if not student.complete:
        return False
    return student.epochs not in students.checkpoints(planned, student.id, board.say).values()


def choose(planned: Plan, told: Story, options: Sequence[Contender]) -> Contender:
    """The best contender on the mean over seeds (baselines aside), trained in full with every seed.

    Those that keep the constraints come first. Raises ValueError where no contender was trained so.
    """
    others = ("vanilla", *baselines.ROLES)
    usable = [c for c in options if c.role not in others and trained(planned, told, c)]
    if not usable:
        raise ValueError(
            "at least one finalist must be trained with every seed, got none: see the journal for why"
        )
    return max(
        usable, key=lambda c: standing.rank(planned, over_seeds(planned, told, c))
    )  # the first of equals: default, then by rank


def over_seeds(planned: Plan, told: Story, contender: Contender) -> standing.Outcomes:
    """The mean over seeds of what the search is after."""
    return standing.mean(planned, retrained(planned, told, contender))


def plain_students(planned: Plan, told: Story) -> list[Student]:
    """The plain student, seed by seed; empty where it was not trained in full with every seed."""
    plain = Contender("vanilla", "vanilla", {})
    return retrained(planned, told, plain) if trained(planned, told, plain) else []


def retrained(planned: Plan, told: Story, contender: Contender) -> list[Student]:
    """A contender's students, seed by seed."""
    return [told.students[contender.identity(seed)] for seed in seeds(planned)]


def accuracies(planned: Plan, told: Story, contender: Contender) -> list[float]:
    """Validation accuracy of the last epoch, seed by seed."""
    return [student.accuracy for student in retrained(planned, told, contender)]


def best_accuracies(planned: Plan, told: Story, contender: Contender) -> list[float]:
    """Validation accuracy of the best epoch, seed by seed: chosen by looking, so never the lower of the two."""
    return [told.students[contender.identity(seed)].best_accuracy for seed in seeds(planned)]


def _config(planned: Plan, contender: Contender, seed: int, number: int) -> Config:
    kind = "baseline" if contender.role in BASELINES else "confirm"
    return students.student_config(
        planned,
        contender.identity(seed),
        number,
        kind,
        contender.role,
        contender.hyper,
        method=contender.method,
        seed=seed,
    )


def trained(planned: Plan, told: Story, contender: Contender) -> bool:
    """Whether it was trained in full with every seed."""
    known = [told.students.get(contender.identity(seed)) for seed in seeds(planned)]
    return all(student is not None and student.complete for student in known)
