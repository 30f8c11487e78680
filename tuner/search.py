"""The story of a search: prepare, teach, search, confirm, report."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.text import Text

from trainables.data import sources
from trainables.data.splits import Facts
from trainables.trainable import Task
from tuner import (
    addresses,
    baselines,
    claims,
    cluster,
    commands,
    confirm,
    extension,
    plan,
    plan_table,
    publishing,
    recovery,
    report,
    room,
    settings_file,
    standings,
    students,
    teaching,
    unmet,
    verdict,
    warm,
)
from tuner.baselines import Beside
from tuner.control import SETTINGS, locked
from tuner.ending import close_all, close_one, deliver_late, farewell, resume_command
from tuner.interleaving import Strand
from tuner.journal import FILE, Journal, Story, so_far
from tuner.mirror import PATIENCE, Mirror, behind
from tuner.plan import Plan
from tuner.preparing import Underway, make_ready, opened, submit
from tuner.progress import Board
from tuner.settings import Settings, check_address, check_name
from tuner.students import Interrupted


def run(settings: Settings, *, overwrite: bool = False) -> int:
    """Search from the beginning; the exit status. Raises ValueError for what cannot run, before anything is written."""
    planned = plan.make(settings)
    if settings.warm_start:
        warm.given(planned)
    return run_all([planned], resume_command(planned.name, settings.out), overwrite=overwrite)


def run_all(planned: Sequence[Plan], way_on: str, *, overwrite: bool) -> int:
    """Search with all of these, and with what tunes their baselines, side by side; `way_on` resumes them."""
    beside = baselines.beside(planned)
    if not overwrite:
        for one in (*planned, *beside.plans):
            claims.check_free(one)
    plans = [teaching.resolved(one) for one in (*planned, *beside.plans)]
    boards = standings.boards([one.name for one in plans])
    facts = opened(plans, boards)
    for one in plans:
        _new_folder(one, overwrite=overwrite)
    return _carry_out(_underway(plans, facts, boards, beside), way_on)


def _new_folder(planned: Plan, *, overwrite: bool = False) -> None:
    """The search's own, with its settings in it."""
    if overwrite and planned.folder.exists():
        with locked(planned.folder):
            shutil.rmtree(planned.folder)
    places: dict[str, Any] = {"name": planned.name, "out": planned.out}
    places["data_root"] = planned.data_root
    if planned.settings.corruptions:
        places["corruptions"] = planned.settings.corruptions.expanduser().resolve()
    if planned.batch:
        places["max_concurrent"] = planned.batch  # whatever fits where it is resumed
    if planned.settings.teacher:
        places["teacher"] = tuple(one.text for one in planned.teachers)  # files by absolute paths
    places["dataset"] = sources.absolute(planned.settings.dataset)
    claims.claim(planned, settings_file.text(planned.settings.model_copy(update=places)))


def resume(name: str, given: dict[str, Any]) -> int:
    """Go on with an interrupted search where it stopped, or with more trials; the exit status.

    Of a finished one, what MLflow has not got yet is delivered. Raises ValueError where there is no such search, or
    none of its kind.
    """
    check_name(name)
    out = Path(given.pop("out", Settings.model_fields["out"].default))
    trials, uri = given.pop("trials", None), given.pop("tracking_uri", None)
    place = given.pop("address", None)
    refuse_settings(given)
    folder = out.expanduser().resolve() / name
    if not (folder / SETTINGS).is_file():
        known = sorted(path.parent.name for path in folder.parent.glob(f"*/{SETTINGS}"))
        raise ValueError(
            f"--resume must name a search in {folder.parent}, got {name!r}; known: {', '.join(known) or 'none'}"
        )
    settings, told = settings_file.read(folder), so_far(folder)
    if trials is not None:
        settings = extension.extended(settings, told, trials)
    elif _finished(told) and not behind(folder, uri):
        raise ValueError(
            f"--resume must name an unfinished search, got {name!r}: its report is {folder / 'report.md'}; "
            "--trials N extends it"
        )
    places: dict[str, Any] = {
        "out": folder.parent,
        "tracking_uri": addresses.completed(settings.tracking_uri, uri),
    }
    places |= {"address": check_address(place)} if place else {}
    planned = plan.make(settings.model_copy(update=places))
    if trials is not None:
        extension.check(planned)
        with locked(folder):
            extension.begin(planned, told)
    return resume_all([planned], resume_command(name, folder.parent), uri)


def resume_all(planned: Sequence[Plan], way_on: str, uri: str | None = None) -> int:
    """Go on with those of some searches, and of what tunes their baselines, that are not finished, side by side.

    Of those that are, what MLflow has not got yet is delivered. `uri` is MLflow's where it was given again.
    """
    beside = baselines.beside(planned)
    stories = {one.name: so_far(one.folder) for one in (*planned, *beside.plans)}
    finished = {name for name, told in stories.items() if _finished(told)}
    late = [one for one in planned if one.name in finished and behind(one.folder, uri)]
    delivered = [deliver_late(one) for one in late]
    plans = [
        one if teaching.remembered(one, stories[one.name]) else teaching.resolved(one)
        for one in (*planned, *beside.plans)
        if one.name not in finished
    ]
    if not plans:
        return max(delivered, default=0)
    boards = standings.boards([one.name for one in plans])
    facts = opened(plans, boards)
    for one, board in zip(plans, boards, strict=True):
        board.story = stories[one.name]
        if not (one.folder / SETTINGS).is_file():
            _new_folder(one)
    return _carry_out(_underway(plans, facts, boards, beside), way_on)


def _finished(told: Story) -> bool:
    return told.results.get("close", {}).get("status") == "finished"


def _underway(
    plans: Sequence[Plan], facts: Facts, boards: Sequence[Board], beside: Beside
) -> list[Underway]:
    only_searched = {one.name for one in beside.plans}
    return [
        Underway(one, facts, board, beside.of.get(one.name, ""), one.name not in only_searched)
        for one, board in zip(plans, boards, strict=True)
    ]


def refuse_settings(given: dict[str, Any]) -> None:
    """Raise ValueError where --resume was given settings."""
    if given:
        flag = next(iter(given)).replace("_", "-")
        raise ValueError(f"--resume reads the settings it was started with, got --{flag} too")


def show_plan(settings: Settings) -> int:
    """Print what would run; run nothing, write nothing."""
    planned = plan.make(settings)
    Board().console.print(plan_table.plan_table(planned))
    return 0


def _carry_out(searches: Sequence[Underway], way_on: str) -> int:
    """The whole story, under locks, with signals heard and every run closed at the end; the exit status."""
    uri = searches[0].planned.tracking_uri  # from here on nobody else knows its secrets
    for one in searches:
        one.planned = plan.without_secrets(one.planned)
    board, first = searches[0].board, searches[0].planned
    problem, hurried = None, False
    mirror: Mirror | None = None
    with ExitStack() as locks, students.interruptible():
        for one in searches:
            locks.enter_context(locked(one.planned.folder))
            one.journal = Journal(one.planned.folder)
        try:
            with _workers(first), students.interruptible():
                for one in searches:
                    make_ready(one)
                folder, *others = (one.planned.folder for one in searches)
                patience = 0 if first.settings.tracking_offline else PATIENCE
                mirror = Mirror(folder, uri, first.artifacts, others, patience=patience)
                status = _search_and_confirm(searches, way_on)
        except Interrupted as interrupted:
            close_all(searches, "interrupted")
            board.say(f"Interrupted. Go on with: {way_on}")
            status = 128 + interrupted.signal
            hurried = True
        except BaseException as error:
            problem = room.cause(error, first.folder)
            with suppress(OSError) if problem else nullcontext():
                close_all(searches, "interrupted" if problem else "failed")
            if problem is None:
                raise
            board.say(escape(room.in_words(first.folder, problem, way_on)))
            status = 1
        finally:
            for one in searches:
                one.journal.close()
            if mirror and problem is None:  # without room the mirror goes on alone
                farewell(mirror, board, first, hurried=hurried)
    return status


def _workers(planned: Plan) -> AbstractContextManager[None]:
    """Where all of them train, with what the machines of a cluster may ask for."""
    files = (Path(wanted.file) for wanted in planned.teachers if wanted.file)
    n_cpus = planned.slots * planned.settings.cpus_per_trial
    return cluster.workers(planned.settings, n_cpus, (planned.out, planned.data_root, *files))


def _search_and_confirm(searches: Sequence[Underway], way_on: str) -> int:
    """The search, the finalists over seeds, the test set once, the report; the worst exit status."""
    for one in searches:
        recovery.settle(one.journal, one.board, partial(students.checkpoints, one.planned))
    _train(students.search, searches, way_on)
    for one in searches:
        _take_baseline(one, searches)
    left = [one for one in searches if one.open and not _ends_here(one)]
    _train(_retrain, left, way_on)
    for one in left:
        if one.open:
            _judge_and_report(one, alone=len(searches) == 1)
    ends = [one.board.story.results["close"]["status"] for one in searches]
    return int(any(end != "finished" for end in ends))


def _train(make: Callable[..., list[Strand]], searches: Sequence[Underway], way_on: str) -> None:
    """Train what all of them have left; a search whose trials fail in a row is given up, others go on."""
    given_up = students.train(_strands(make, searches))
    for one in searches:
        if one.planned.name in given_up:
            close_one(one, "failed")
            reason = given_up[one.planned.name]
            one.board.say(escape(f"Given up: {reason} Then go on with: {way_on}"))


def _judge_and_report(one: Underway, *, alone: bool) -> None:
    if not alone:
        one.board.console.print(Text(f"\n{one.planned.name}", style="bold"))
    try:
        _judge(one)
    except ValueError as error:
        if alone:
            raise
        one.board.say(f"not reported: {error}")  # the others are
        close_one(one, "failed")


def _judge(one: Underway) -> None:
    planned, task, journal, board = one.planned, one.task, one.journal, one.board
    answer = verdict.judge(planned, task, journal, board, partial(submit, planned, here=False))
    # first, because MLflow's process makes a model of it while the report is written
    publishing.publish(planned, task, board.story, answer, journal)
    report.write(planned, task.facts, board.story, answer, journal)
    close_one(one, "finished")
    board.console.print(report.final_table(planned, board.story, answer))


def _strands(make: Callable[..., list[Strand]], searches: Sequence[Underway]) -> list[Strand]:
    """What all of them have left to train."""
    parts = (make(one.planned, one.task, one.journal, one.board) for one in searches)
    return [strand for some in parts for strand in some]


def _retrain(planned: Plan, task: Task, journal: Journal, board: Board) -> list[Strand]:
    chosen = confirm.finalists(planned, board.story.of_kind("search"))
    return confirm.retrain(planned, task, chosen, journal, board)


def _take_baseline(one: Underway, searches: Sequence[Underway]) -> None:
    """Remember what the search for the baseline has found, now or before an interruption."""
    if one.baseline:
        now = [other.board.story for other in searches if other.planned.name == one.baseline]
        told = now[0] if now else so_far(one.planned.out / one.baseline)
        baselines.hand_over(one.planned, told, one.baseline, one.journal, one.board)


def _ends_here(one: Underway) -> bool:
    """Close a search that confirms nothing: another's baseline, or one without a usable trial."""
    told = one.board.story
    if one.confirms and unmet.nobody(one.planned, told):
        _say_unmet(one)
        return True
    usable = any(student.complete for student in told.of_kind("search"))
    if not usable:
        where = one.planned.folder / FILE
        one.board.say(f"No trial was trained to the end: {report.outcomes(told)}. See {where}")
    if not usable or not one.confirms:
        close_one(one, "finished" if usable else "failed")
    return not one.open


def _say_unmet(one: Underway) -> None:
    """No trial keeps the constraints: say so and how near the nearest came."""
    planned, told = one.planned, one.board.story
    for path in unmet.write(planned, told, commands.page(planned)):
        one.journal.write("file", id="", path=str(path))
    close_one(one, "failed")
    for sentence in unmet.sentences(planned, told):
        one.board.say(sentence)
    one.board.say(f"report    {planned.folder / 'report.html'}")
