"""What a search needs before its first trial: data, journal, teacher, number format, and what its trials share."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from search_spaces import Domain
from trainables import teacher as teachers
from trainables.data import sources
from trainables.data.splits import Facts, prepare, whole
from trainables.precision import Precision
from trainables.probing import Finding, probed
from trainables.teacher import Teacher
from trainables.trainable import Task
from tuner import cluster, ingredients, judging, plan, plan_table, report, teaching, together, warm
from tuner.journal import VERSION, Journal
from tuner.plan import Plan
from tuner.progress import Board, quiet_streams


@dataclass
class Underway:
    """A search while it runs, with others on the same workers or alone."""

    planned: Plan
    facts: Facts
    board: Board  # its story so far included
    baseline: str = ""  # the search that tunes its baseline
    confirms: bool = True  # not one that only tunes another's baseline
    open: bool = True  # no end of it has been written down yet
    journal: Journal = field(init=False)
    task: Task = field(init=False)


def opened(plans: Sequence[Plan], boards: Sequence[Board]) -> Facts:
    """The last checks, and the data, the same for all: decoded and split before anything of a search is written."""
    quiet_streams()
    for one in plans:
        plan.check_outside(one)
    for one, board in zip(plans, boards, strict=True):
        pair = f"{one.teacher} -> {one.student}"
        settings = one.settings
        board.say(f"[bold]{one.name}[/bold]: {settings.method} on {settings.dataset}, {pair}")
    planned, board, s = plans[0], boards[0], plans[0].settings
    coming = sources.download(s.dataset, planned.data_root)
    if coming:  # torchvision shows its own progress
        board.say(f"data: {coming}")
    with nullcontext() if coming else board.waiting("reading images"):
        facts = prepare(
            s.dataset,
            planned.data_root,
            planned.out / "cache" / "data",
            val_fraction=s.val_fraction,
            subset=s.subset,
            image_size=s.image_size,
            say=lambda text: board.say(f"data: {text}"),
        )
    board.say(f"data: {report.data_in_words(facts)}")
    judging.check_corrupted(s.corruptions, facts)
    return facts


def make_ready(one: Underway) -> None:
    """The journal begun, the teacher there, the student's numbers chosen, and what its trials share."""
    planned, journal, board, facts = one.planned, one.journal, one.board, one.facts
    if board.story.search:
        journal.write("resumed")
    else:
        journal_search(planned, facts, journal)
    _warm_up(planned, journal, board)
    once = partial(_once, planned)
    probing = _probing(planned, facts, board)
    teacher = teaching.teach(planned, whole(facts), journal, board, once)
    precision, milliseconds = probing()
    board.say(f"student: {planned.student} in {precision}{_in_words(milliseconds)}")
    board.take(journal.write("precision", chosen=str(precision), milliseconds=milliseconds))
    board.say(f"teacher's part: {planned.teacher_part(facts.n_train).reason}")
    one.task = _task(planned, facts, teacher, precision)
    journal.write("task", **ingredients.record(planned, one.task, _made_with(planned)))


def journal_search(planned: Plan, facts: Facts, journal: Journal) -> None:
    """The journal's first event."""
    settings = {**planned.settings.model_dump(mode="json"), "name": planned.name}
    settings["tracking_uri"] = plan.redacted(planned.tracking_uri)
    settings |= {
        "teacher": planned.teacher,
        "student": planned.student,
        "trials": planned.n_trials,
        "epochs": planned.recipe.epochs,
        "search": planned.search,
        "scheduler": planned.scheduler,
    }
    shown = {
        "split_hash": facts.split_hash[:16],
        "n_train": facts.n_train,
        "n_val": facts.n_val,
        "n_test": facts.n_test,
    }
    journal.write(
        "search",
        sync=True,
        version=VERSION,
        name=planned.name,
        experiment=planned.settings.experiment or planned.name,
        token=secrets.token_hex(8),
        description=plan_table.question(planned),
        settings=settings,
        facts={**shown, "space": ", ".join(f"{k}: {v}" for k, v in planned.space.items())},
        searched={name: _kind(domain) for name, domain in planned.searched.items()},
        data=data_in_short(facts),
    )


def _kind(domain: Domain) -> str:
    """Whether what is searched are numbers, or something else to choose from."""
    numbers = all(type(value) in (int, float) for value in domain.ends())
    return "number" if numbers else "choice"


def data_in_short(facts: Facts) -> dict[str, Any]:
    """What MLflow is told of the data: what it is called, how much there is, and checksums."""
    return {
        "dataset": facts.dataset,
        "n": {"train": facts.n_train, "validation": facts.n_val, "test": facts.n_test},
        "n_classes": facts.n_classes,
        "shape": [facts.channels, facts.size, facts.size],
        "split_hash": facts.split_hash,
        "sha256": facts.sha256,
    }


def _warm_up(planned: Plan, journal: Journal, board: Board) -> None:
    """Copy the trials of a warm start into the journal, where that has not been done."""
    if planned.settings.warm_start and "warm" not in board.story.results:
        board.take(journal.write("warm", sync=True, **warm.given(planned)))
        for words in board.story.results["warm"]["words"]:
            board.say(f"warm start: {words}")


def _probing(planned: Plan, facts: Facts, board: Board) -> Callable[[], Finding]:
    """Begin to find out in which numbers the student is fastest; what gives the finding."""
    s = planned.settings
    # what a clock chooses may be another thing when the search is repeated
    exact = s.batch_mode or s.max_concurrent == 1
    forced = {"auto": False if exact else None, "bfloat16": True, "channels_last": True}
    asked = (
        planned.student,
        facts,
        planned.recipe.batch_size,
        forced.get(s.precision, False),
        forced.get(s.memory_format, False),
        planned.out / "cache" / "probes",
    )
    if not _at_hand(planned):
        beside_the_teacher = submit(planned, probed, *asked)
        return partial(cluster.wait, beside_the_teacher)
    with board.waiting("trying number formats"):  # while Ray's processes import
        finding = probed(*asked)
    return lambda: finding


def _in_words(milliseconds: dict[str, float]) -> str:
    if not milliseconds:
        return ""
    return " (" + ", ".join(f"{way} {ms:.1f} ms" for way, ms in milliseconds.items()) + " a step)"


def _task(planned: Plan, facts: Facts, teacher: Teacher, precision: Precision) -> Task:
    """What all trials share; what the method does once a search is done here."""
    prepared, ranks = "", together.ranks(planned.settings.gpus_per_trial)
    if planned.method.prepare is not None:
        where = planned.out / "cache" / "prepared"
        prepared = _once(
            planned,
            teachers.prepare,
            planned.settings.method,
            teacher,
            planned.student,
            planned.stages,
            facts,
            where,
        )
    return Task(
        facts,
        teacher,
        planned.student,
        planned.recipe,
        planned.settings.gpus_per_trial > 0,
        prepared,
        precision,
        str(planned.out / "cache" / "targets"),
        planned.cache_bytes,
        planned.eval_epochs,
        planned.stages,
        max(0, planned.settings.cpus_per_trial // ranks - 1),
        planned.asked,
        ranks,
        min(1.0, planned.settings.gpus_per_trial),
    )


def _made_with(planned: Plan) -> dict[str, str]:
    """Of a machine that trains: the head of a cluster may have no GPU."""
    if cluster.courier() is None:
        return ingredients.made_with(_device(planned))
    found: dict[str, str] = _once(planned, ingredients.made_with)
    return found


def _device(planned: Plan) -> str:
    return "cuda" if planned.settings.gpus_per_trial else "cpu"


def _once(
    planned: Plan,
    function: Any,
    *arguments: Any,
    meanwhile: Callable[[], None] = lambda: None,
    bring: Sequence[str] = (),
    brief: bool = False,
) -> Any:
    """The answer of `function(*arguments, device)`, run on the cluster with a trial's resources.

    What is brief is done by the driver where it can: a process that has done it would be none for trials any more.
    """
    if brief and _at_hand(planned):
        return function(*arguments, _device(planned))
    return cluster.wait(submit(planned, function, *arguments, bring=bring), meanwhile)


def _at_hand(planned: Plan) -> bool:
    """Whether the driver has all that a trial has."""
    return cluster.courier() is None and _device(planned) == "cpu"


def submit(
    planned: Plan, function: Any, *arguments: Any, here: bool = True, bring: Sequence[str] = ()
) -> Any:
    """Start `function(*arguments, device)` on the cluster; `here` and `bring` as for `cluster.submit`."""
    s = planned.settings
    return cluster.submit(
        function,
        *arguments,
        _device(planned),
        cpus=s.cpus_per_trial,
        gpus=min(1, s.gpus_per_trial),  # what is no trial is one process
        resources=cluster.resources(s),
        here=here,
        bring=bring,
    )
