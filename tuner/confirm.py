"""The honest answer: retrain finalists and baselines over seeds, choose on validation, open the test set once.

The search saw one seed; its best trial is partly luck. So the best K by validation, the published default and the
plain student are trained again with S other seeds, the same ones for all (paired). The winner is the finalist or
default of highest mean validation accuracy; a tie goes to the default, then to the earlier trial, so tuned is never
worse than default on validation. Only then does anything look at the test images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from trainables import teacher as teachers
from trainables.champion import load_champion, rebuild, save_champion
from trainables.checkpoint import read_state
from trainables.data.sealed import open_test
from trainables.data.splits import Split
from trainables.evaluation.attacks import robustness
from trainables.models import slug
from trainables.models.normalized import latency_ms, n_parameters
from trainables.recipe import RECIPE_KEYS
from trainables.teacher import Teacher
from trainables.trainable import Task
from trainables.training import validate
from tuner import students
from tuner.journal import Journal, Story, Student
from tuner.plan import Plan
from tuner.progress import Board
from tuner.samplers import Config, Listed
from tuner.schedulers import make as make_scheduler
from tuner.spaces import STUDENT

BASELINES = ("vanilla", "default")


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
    past = board.story.of_kind("confirm", "baseline")
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
    usable = [c for c in options if c.role != "vanilla" and _trained(planned, told, c)]
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


def judge(planned: Plan, task: Task, board: Board, journal: Journal) -> dict[str, Any]:
    """Choose on validation, then open the test set once for the chosen, its baselines and the teacher.

    What was found is written to the journal; a second call reads it there and opens nothing.
    """
    told = board.story
    if "answer" in told.results:
        return told.results["answer"]
    chosen = finalists(planned, told.of_kind("search"))
    options = contenders(planned, chosen)
    winner = choose(planned, told, options)
    rows = {c.role: c for c in options if c.role in BASELINES and _trained(planned, told, c)}
    rows["tuned"] = winner
    champion = _save_champion(planned, task, told, winner)
    board.take(journal.write("test_opened", sync=True, roles=list(rows), winner=winner.role))
    board.say("test set opened once, for " + ", ".join(rows) + " and the teacher")
    test = open_test(task.facts)
    found: dict[str, Any] = {}
    for role, contender in rows.items():
        if role == "tuned" and contender.role in found:
            found[role] = found[contender.role]
        else:
            found[role] = _judge_contender(planned, task, told, contender, test, journal, board)
    answer = {
        "winner": winner.role,
        "trial": winner.trial,
        "hyper": winner.hyper,
        "seeds": seeds(planned),
        "epsilon": planned.source.epsilon,
        "rows": found,
        "finalists": [_finalist(planned, told, c) for c in options if c.role != "vanilla"],
        "teacher": {
            **_about_teacher(task.teacher),
            **_judge_network(planned, teachers.load(task.teacher, task.facts), test),
        },
        "champion": champion,
        "registered_as": slug(f"kdtune-{planned.source.name}-{_about(task, winner)['student']}"),
    }
    board.take(journal.write("answer", sync=True, **answer))
    return told.results["answer"]


def _about_teacher(teacher: Teacher) -> dict[str, Any]:
    """What the report says of the teacher, its members included; accuracies are on validation."""
    about = asdict(replace(teacher, members=()))
    about["val"] = about.pop("accuracy")  # the test set's stands beside it under that name
    return {**about, "members": [_about_teacher(member) for member in teacher.members]}


def last_state(planned: Plan, identity: str) -> dict[str, Any]:
    """A confirmed student's state after its last epoch; raises ValueError where its checkpoint is gone."""
    folder = students.newest_checkpoint(planned, identity)
    if folder is None:
        raise ValueError(f"a confirmed student must have a checkpoint, got none for {identity}")
    return read_state(folder)


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


def _trained(planned: Plan, told: Story, contender: Contender) -> bool:
    known = [told.students.get(contender.identity(seed)) for seed in seeds(planned)]
    return all(student is not None and student.complete for student in known)


def _finalist(planned: Plan, told: Story, contender: Contender) -> dict[str, Any]:
    trained = _trained(planned, told, contender)
    return {
        "role": contender.role,
        "trial": contender.trial,
        "hyper": contender.hyper,
        "searched": told.students[contender.trial].accuracy
        if contender.trial in told.students
        else None,
        "val": accuracies(planned, told, contender) if trained else [],
    }


def _judge_contender(
    planned: Plan,
    task: Task,
    told: Story,
    contender: Contender,
    test: Split,
    journal: Journal,
    board: Board,
) -> dict[str, Any]:
    """Test accuracy, loss and robustness of one contender, a list over seeds each."""
    found: dict[str, Any] = {"hyper": contender.hyper, "val": accuracies(planned, told, contender)}
    for seed in seeds(planned):
        identity = contender.identity(seed)
        state = last_state(planned, identity)
        network = rebuild(_about(task, contender), task.facts, state)
        measured = _judge_network(planned, network, test)
        board.take(
            journal.write("summary", id=identity, metrics=_named(measured, planned.source.epsilon))
        )
        for name, value in measured.items():
            found.setdefault(name, []).append(value)
    return found


def _judge_network(planned: Plan, model: nn.Module, test: Split) -> dict[str, float]:
    clean = validate(model, test)
    return {**clean, **robustness(model, test, planned.source.epsilon)}


def _named(measured: dict[str, float], epsilon: float) -> dict[str, float]:
    """MLflow's names: a section, then the quantity."""
    clean = {f"test/{name}": measured[name] for name in ("accuracy", "loss")}
    robust = {k: v for k, v in measured.items() if k not in ("accuracy", "loss")}
    return {**clean, **{f"robust/linf_{epsilon:g}/{name}": value for name, value in robust.items()}}


def _about(task: Task, contender: Contender) -> dict[str, Any]:
    return {
        "student": contender.hyper.get(STUDENT, task.student),
        "stages": task.stages,
        "teacher": task.teacher.model,
        "method": contender.method,
        "hyper": contender.hyper,
    }


def _save_champion(planned: Plan, task: Task, told: Story, winner: Contender) -> dict[str, Any]:
    """Write the winner's best seed (by validation; ties to the first) as safetensors."""
    best = max(seeds(planned), key=lambda seed: told.students[winner.identity(seed)].accuracy)
    identity = winner.identity(best)
    about = {**_about(task, winner), "seed": best, "search": planned.name}
    about["val/accuracy"] = told.students[identity].accuracy
    path = save_champion(planned.folder, about, task.facts, last_state(planned, identity))
    network = load_champion(planned.folder)
    size: dict[str, float] = {"parameters": n_parameters(network)}
    size["latency_ms"] = latency_ms(
        network, (task.facts.channels, task.facts.size, task.facts.size)
    )
    return {"weights": str(path), "student": identity, "seed": best, **size}
