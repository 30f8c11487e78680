"""The honest answer: retrain finalists and baselines over seeds, choose on validation.

The search saw one seed; its best trial is partly luck. So the best K by validation, the published default and the
plain student are trained again with S other seeds, the same ones for all (paired). The winner is the finalist or
default of highest mean validation accuracy; a tie goes to the default, then to the earlier trial, so tuned is never
worse than default on validation. Only then does `verdict.py` have anything look at the test images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainables.recipe import RECIPE_KEYS
from trainables.trainable import Task
from tuner import failures, students
from tuner.journal import Journal, Story, Student
from tuner.plan import Plan
from tuner.progress import Board
from tuner.samplers import Config, Listed
from tuner.schedulers import make as make_scheduler
from tuner.spaces import STUDENT

BASELINES = ("vanilla", "default")
ROLES = {"vanilla": "plain student", "default": "published default", "tuned": "tuned"}


@dataclass(frozen=True)
class Contender:
    """One configuration that is retrained over seeds."""

    role: str  # vanilla, default, finalist-1 ...
    method: str
    hyper: dict[str, Any]
    trial: str = ""  # the search's trial it comes from

    def identity(self, seed: int) -> str:
        """The id of its student of one seed."""
        return f"{self.role}-seed{seed}"


def finalists(planned: Plan, trials: Sequence[Student]) -> list[Student]:
    """The best trials by validation accuracy, the published default aside: it is retrained anyway.

    Fully trained trials come first; where they are too few, those that got furthest fill up. Ties go to the earlier.
    """
    usable = [
        s for s in trials if s.status in ("finished", "stopped") and s.hyper != planned.published
    ]
    ranked = sorted(usable, key=lambda s: (not s.complete, -len(s.history), -s.accuracy, s.number))
    return ranked[: planned.settings.confirm_top]


def seeds(planned: Plan) -> list[int]:
    """The confirmation's seeds: none of them is the search's."""
    return [planned.settings.seed + 1 + i for i in range(planned.settings.confirm_seeds)]


def contenders(planned: Plan, chosen: Sequence[Student]) -> list[Contender]:
    """Plain student, published default and finalists.

    The plain student is trained with the recipe of the best finalist, where the recipe is searched. In a search of
    the plain student itself it is the published default, and is not trained twice.
    """
    leader = chosen[0].hyper if chosen else planned.published
    recipe = {k: v for k, v in leader.items() if k in (*RECIPE_KEYS, STUDENT)}
    method = planned.settings.method
    default = Contender("default", method, planned.published, f"{method}-000")
    ranked = [Contender(f"finalist-{i}", s.method, s.hyper, s.id) for i, s in enumerate(chosen, 1)]
    if method == "vanilla":
        return [default, *ranked]
    return [Contender("vanilla", "vanilla", recipe), default, *ranked]


def retrain(
    planned: Plan, task: Task, chosen: Sequence[Student], journal: Journal, board: Board
) -> None:
    """Train every contender with every seed, as far as that has not been done; raises Interrupted."""
    configs = [
        _config(planned, contender, seed, n)
        for n, (seed, contender) in enumerate(
            (s, c) for s in seeds(planned) for c in contenders(planned, chosen)
        )
    ]
    told = board.story.of_kind("confirm", "baseline")
    past = [student for student in told if student.status not in failures.ERRORS]  # these again
    left = students.unfinished(planned, configs, past)
    if left:
        board.begin(
            f"confirm over {len(seeds(planned))} seeds", ("confirm", "baseline"), len(configs)
        )
        scheduler = make_scheduler("none", planned.recipe.epochs, planned.grace)
        students.fit(planned, task, Listed(left), scheduler, len(left), journal, board)


def choose(planned: Plan, told: Story, options: Sequence[Contender]) -> Contender:
    """The contender (plain student aside) of highest mean validation accuracy, trained in full with every seed.

    Raises ValueError where no contender was.
    """
    usable = [c for c in options if c.role != "vanilla" and trained(planned, told, c)]
    if not usable:
        raise ValueError(
            "at least one finalist must be trained with every seed, got none: see the journal for why"
        )
    return max(
        usable, key=lambda c: sum(accuracies(planned, told, c))
    )  # the first of equals: default, then by rank


def accuracies(planned: Plan, told: Story, contender: Contender) -> list[float]:
    """Validation accuracy of the last epoch, seed by seed."""
    return [told.students[contender.identity(seed)].accuracy for seed in seeds(planned)]


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
