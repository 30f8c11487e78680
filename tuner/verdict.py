"""The verdict: choose on validation, open the test set once, judge every row's networks on the cluster.

Each network's numbers are written to the journal as they come, so a search that goes on judges none of them twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from trainables.champion import load_champion, save_champion
from trainables.checkpoint import read_state
from trainables.evaluation import examples
from trainables.evaluation.threats import Threat
from trainables.models import slug
from trainables.models.normalized import latency_ms, n_parameters
from trainables.teacher import Teacher
from trainables.trainable import Task
from tuner import baselines, cluster, confirm, extension, judging, standing, students
from tuner.confirm import BASELINES, Contender, seeds
from tuner.journal import Journal, Story, Student
from tuner.judging import Candidate, Paper
from tuner.plan import Plan
from tuner.progress import Board
from tuner.spaces import STUDENT

Submit = Callable[
    ..., Any
]  # (function, *arguments): started on the cluster with a trial's resources
Numbers = Mapping[str, float]


def judge(
    planned: Plan, task: Task, journal: Journal, board: Board, submit: Submit
) -> dict[str, Any]:
    """Choose on validation, then open the test set once for the chosen, its baselines and the teacher.

    What was found is written to the journal; a second call reads it there and opens nothing.
    """
    told = board.story
    if "answer" in told.results:
        return told.results["answer"]
    chosen = confirm.finalists(planned, told.of_kind("search"))
    earlier = told.of_kind("confirm", "baseline")
    options = confirm.contenders(planned, chosen, told.results.get(baselines.EVENT), earlier)
    winner = confirm.choose(planned, told, options)
    rows = {c.role: c for c in options if c.role in BASELINES and confirm.trained(planned, told, c)}
    rows["tuned"] = winner
    champion = _save_champion(planned, task, told, winner)
    if "test_opened" not in told.results:
        board.take(journal.write("phase", name="judge"))
        board.take(journal.write("test_opened", sync=True, roles=list(rows), winner=winner.role))
        how_often = extension.opening(extension.times_opened(told))
        board.say(f"test set opened {how_often}, for " + ", ".join(rows) + " and the teacher")
    asked = candidates(planned, task, told, rows, champion)
    _measure(planned, task, asked, journal, board, submit)
    _illustrate(planned, task, {one.name: one for one in asked}, champion["student"], submit)
    answer = {
        "winner": winner.role,
        "trial": winner.trial,
        "hyper": winner.hyper,
        "seeds": seeds(planned),
        **_how(planned),
        "decider": planned.goals.decider.name,
        "rows": {role: _row(planned, told, contender) for role, contender in rows.items()},
        "finalists": [_finalist(planned, told, c) for c in options if c.trial],
        "teacher": {**_about_teacher(task.teacher), **_of_one(told.judged["teacher"])},
        "champion": {**champion, **_of_one(told.judged.get("champion", {}))},
        "opened": extension.times_opened(told),
        "registered_as": slug(f"kdtune-{planned.source.name}-{_about(task, winner)['student']}"),
    }
    board.take(journal.write("answer", sync=True, **answer))
    return told.results["answer"]


def candidates(
    planned: Plan,
    task: Task,
    told: Story,
    rows: Mapping[str, Contender],
    champion: Mapping[str, Any],
) -> list[Candidate]:
    """Every network to be judged, once each: the teacher, the rows' students, and with `full` the champion again."""
    tier = planned.settings.evaluate
    usual = "standard" if tier == "full" else tier
    source = planned.source
    settings = planned.settings
    against = judging.threats_of(
        usual, source.name, source.channels, source.epsilon, settings.threat
    )
    found = {"teacher": Candidate("teacher", usual, against)}
    for contender in rows.values():
        for seed in seeds(planned):
            identity = contender.identity(seed)
            checkpoint = str(_checkpoint(planned, told.students[identity]))
            about = _about(task, contender)
            found[identity] = Candidate(identity, usual, against, about, checkpoint)
    if tier == "full":
        best = found[champion["student"]]
        found["champion"] = replace(best, name="champion", tier="full")
    return list(found.values())


def _measure(
    planned: Plan,
    task: Task,
    asked: list[Candidate],
    journal: Journal,
    board: Board,
    submit: Submit,
) -> None:
    """Judge those that have not been judged yet, as many at once as there are slots."""
    told, settings = board.story, planned.settings
    cpus, corrupted = settings.cpus_per_trial, settings.corruptions
    place = planned.data_root, planned.out / "cache" / "data"
    others = judging.others(settings.evaluate, settings.dataset, *place)
    paper = Paper(task.facts, task.teacher, settings.seed, cpus, corrupted, elsewhere=others)
    left = [candidate for candidate in asked if candidate.name not in told.judged]
    with board.counting("judging on the test set", len(asked)) as show:
        tasks = {one.name: submit(judging.judge, one, paper) for one in left}
        for name, metrics in cluster.each(tasks):
            board.take(journal.write("judged", sync=True, id=name, metrics=metrics))
            done = len(told.judged)
            show(done, f"{done}/{len(asked)} networks")


def _illustrate(
    planned: Plan, task: Task, asked: Mapping[str, Candidate], champion: str, submit: Submit
) -> None:
    """Keep a few adversarial examples of the champion, for the report's picture, where anything is attacked."""
    against = asked["teacher"].against
    if not against:
        return
    shown = {"tuned": asked[champion], "teacher": asked["teacher"]}
    plain = asked.get(f"vanilla-seed{seeds(planned)[0]}")
    if plain is not None and plain.name != champion:
        shown["plain"] = plain
    paper = Paper(task.facts, task.teacher, planned.settings.seed, planned.settings.cpus_per_trial)
    threat = Threat("linf", planned.source.epsilon)
    examples.write(planned.folder, cluster.wait(submit(judging.illustrate, shown, paper, threat)))


def _how(planned: Plan) -> dict[str, Any]:
    """How robust numbers were got; the threat is the one that tables show."""
    tier, epsilon = planned.settings.evaluate, planned.source.epsilon
    return {"tier": tier, "epsilon": epsilon, "threat": Threat("linf", epsilon).name}


def _row(planned: Plan, told: Story, contender: Contender) -> dict[str, Any]:
    """Accuracy, loss and all that was measured of one contender, a list over seeds each."""
    found = [told.judged[contender.identity(seed)] for seed in seeds(planned)]
    shared = [name for name in found[0] if all(name in one for one in found)]
    over = {name: [one[name] for one in found] for name in shared}
    return {
        "hyper": contender.hyper,
        "val": confirm.accuracies(planned, told, contender),
        "val_best": confirm.best_accuracies(planned, told, contender),
        "accuracy": over.pop("test/accuracy"),
        "loss": over.pop("test/loss"),
        "measured": over,
    }


def _of_one(found: Numbers) -> dict[str, Any]:
    """The same of a single network: plain numbers; nothing of one that was not judged."""
    if not found:
        return {}
    rest = {k: v for k, v in found.items() if not k.startswith("test/")}
    return {"accuracy": found["test/accuracy"], "loss": found["test/loss"], "measured": rest}


def _about_teacher(teacher: Teacher) -> dict[str, Any]:
    """What the report says of the teacher, its members included; accuracies are on validation."""
    about = asdict(replace(teacher, members=()))
    about["val"] = about.pop("accuracy")  # the test set's stands beside it under that name
    return {**about, "members": [_about_teacher(member) for member in teacher.members]}


def _finalist(planned: Plan, told: Story, contender: Contender) -> dict[str, Any]:
    trained = confirm.trained(planned, told, contender)
    searched = told.students.get(contender.trial)
    decider = planned.goals.decider.name
    before = standing.outcomes(planned, searched) if searched else {}
    after = confirm.over_seeds(planned, told, contender) if trained else {}
    return {
        "role": contender.role,
        "trial": contender.trial,
        "hyper": contender.hyper,
        "searched": searched.accuracy if searched else None,
        "val": confirm.accuracies(planned, told, contender) if trained else [],
        "decided": [before.get(decider), after.get(decider)],  # in the search, mean over seeds
        "val_best": confirm.best_accuracies(planned, told, contender) if trained else [],
    }


def _checkpoint(planned: Plan, student: Student) -> Path:
    """A confirmed student's folder after its last epoch; raises ValueError where it is gone or damaged."""
    problems: list[str] = []
    for folder, epoch in students.checkpoints(planned, student.id, problems.append).items():
        if epoch == student.epochs:
            return folder
    raise ValueError(
        f"a confirmed student must have the checkpoint of its last epoch, got none for {student.id} "
        f"({'; '.join(problems) or 'it is gone'}): --resume trains it again"
    )


def _about(task: Task, contender: Contender) -> dict[str, Any]:
    return {
        "student": contender.hyper.get(STUDENT, task.student),
        "stages": task.stages,
        "teacher": task.teacher.model,
        "method": contender.method,
        "hyper": contender.hyper,
    }


def _save_champion(planned: Plan, task: Task, told: Story, winner: Contender) -> dict[str, Any]:
    """Write the winner's best seed (on validation; ties to the first) as safetensors."""

    def rank(seed: int) -> tuple[bool, float]:
        student = told.students[winner.identity(seed)]
        return standing.rank(planned, standing.outcomes(planned, student))

    best = max(seeds(planned), key=rank)
    identity = winner.identity(best)
    about = {**_about(task, winner), "seed": best, "search": planned.name}
    about["val/accuracy"] = told.students[identity].accuracy
    state = read_state(_checkpoint(planned, told.students[identity]))
    path = save_champion(planned.folder, about, task.facts, state)
    network = load_champion(planned.folder)
    size: dict[str, float] = {"parameters": n_parameters(network)}
    size["latency_ms"] = latency_ms(
        network, (task.facts.channels, task.facts.size, task.facts.size)
    )
    return {"weights": str(path), "student": identity, "seed": best, **size}
