"""The story of a search: prepare, teach, search, confirm, report."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.text import Text

from trainables import teacher as teachers
from trainables.data import sources
from trainables.data.splits import Facts, prepare, whole
from trainables.precision import Precision
from trainables.probing import probed
from trainables.teacher import Teacher
from trainables.trainable import Task
from tuner import (
    addresses,
    baselines,
    claims,
    cluster,
    confirm,
    extension,
    ingredients,
    plan,
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
from tuner.interleaving import Strand
from tuner.journal import FILE, VERSION, Journal, Story, story
from tuner.mirror import Mirror, behind, deliver_rest
from tuner.plan import Plan
from tuner.progress import Board, quiet_streams
from tuner.settings import Settings, check_name
from tuner.students import Interrupted
from tuner.tracking import LOG, PATIENCE

HURRIED_SECONDS = 3  # that a search ended by a signal waits for MLflow


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


def run(settings: Settings, *, overwrite: bool = False) -> int:
    """Search from the beginning; the exit status. Raises ValueError for what cannot run, before anything is written."""
    planned = plan.make(settings)
    if not overwrite:
        for one in (planned, *baselines.beside([planned]).plans):
            claims.check_free(one)
    if settings.warm_start:
        warm.given(planned)
    return run_all([planned], command("--resume", planned), overwrite=overwrite)


def run_all(planned: Sequence[Plan], resume_command: str, *, overwrite: bool) -> int:
    """Search with all of these, and with what tunes their baselines, side by side."""
    beside = baselines.beside(planned)
    plans = [teaching.resolved(one) for one in (*planned, *beside.plans)]
    boards = standings.boards([one.name for one in plans])
    facts = _open(plans, boards)
    for one in plans:
        _new_folder(one, overwrite=overwrite)
    return _carry_out(_underway(plans, facts, boards, beside), resume_command)


def _new_folder(planned: Plan, *, overwrite: bool = False) -> None:
    """The search's own, with its settings in it."""
    if overwrite and planned.folder.exists():
        with locked(planned.folder):
            shutil.rmtree(planned.folder)
    places: dict[str, Any] = {"name": planned.name, "out": planned.out}
    places["data_root"] = planned.data_root
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
    refuse_settings(given)
    folder = out.expanduser().resolve() / name
    if not (folder / SETTINGS).is_file():
        known = sorted(path.parent.name for path in folder.parent.glob(f"*/{SETTINGS}"))
        raise ValueError(
            f"--resume must name a search in {folder.parent}, got {name!r}; known: {', '.join(known) or 'none'}"
        )
    settings, told = settings_file.read(folder), _told(folder)
    if trials is not None:
        settings = extension.extended(settings, told, trials)
    elif is_finished(folder) and not behind(folder, uri):
        raise ValueError(
            f"--resume must name an unfinished search, got {name!r}: its report is {folder / 'report.md'}; "
            "--trials N extends it"
        )
    places = {"out": folder.parent, "tracking_uri": addresses.completed(settings.tracking_uri, uri)}
    planned = plan.make(settings.model_copy(update=places))
    if trials is not None:
        extension.check(planned)
        with locked(folder):
            extension.begin(planned, told)
    return resume_all([planned], command("--resume", planned), uri)


def resume_all(planned: Sequence[Plan], resume_command: str, uri: str | None = None) -> int:
    """Go on with those of some searches, and of what tunes their baselines, that are not finished, side by side.

    Of those that are, what MLflow has not got yet is delivered. `uri` is MLflow's where it was given again.
    """
    beside = baselines.beside(planned)
    late = [one for one in planned if is_finished(one.folder) and behind(one.folder, uri)]
    delivered = [_deliver_rest(one) for one in late]
    stories = {one.name: _told(one.folder) for one in (*planned, *beside.plans)}
    plans = [
        one if teaching.remembered(stories[one.name]) else teaching.resolved(one)
        for one in (*planned, *beside.plans)
        if not is_finished(one.folder)
    ]
    if not plans:
        return max(delivered, default=0)
    boards = standings.boards([one.name for one in plans])
    facts = _open(plans, boards)
    for one, board in zip(plans, boards, strict=True):
        board.story = stories[one.name]
        if not (one.folder / SETTINGS).is_file():
            _new_folder(one)
    return _carry_out(_underway(plans, facts, boards, beside), resume_command)


def is_finished(folder: Path) -> bool:
    """Whether the search in `folder` has come to its end."""
    return _told(folder).results.get("close", {}).get("status") == "finished"


def _told(folder: Path) -> Story:
    return story(folder) if (folder / FILE).exists() else Story()


def _underway(
    plans: Sequence[Plan], facts: Facts, boards: Sequence[Board], beside: Beside
) -> list[Underway]:
    only_searched = {one.name for one in beside.plans}
    return [
        Underway(one, facts, board, beside.of.get(one.name, ""), one.name not in only_searched)
        for one, board in zip(plans, boards, strict=True)
    ]


def _deliver_rest(planned: Plan) -> int:
    """Of a search that has ended; raises ValueError where nobody answers."""
    uri = planned.tracking_uri
    plan.check_tracking(planned, offline=False)
    with locked(planned.folder):
        mirror, board = Mirror(planned.folder, uri, planned.artifacts), Board()
        complete = deliver_rest(mirror, board)
        board.say(report.where_to_look(planned, mirror.runs()))
    return 0 if complete else 1


def refuse_settings(given: dict[str, Any]) -> None:
    """Raise ValueError where --resume was given settings."""
    if given:
        flag = next(iter(given)).replace("_", "-")
        raise ValueError(f"--resume reads the settings it was started with, got --{flag} too")


def show_plan(settings: Settings) -> int:
    """Print what would run; run nothing, write nothing."""
    planned = plan.make(settings)
    Board().console.print(report.plan_table(planned))
    return 0


def _open(plans: Sequence[Plan], boards: Sequence[Board]) -> Facts:
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
    return facts


def _carry_out(searches: Sequence[Underway], resume_command: str) -> int:
    """The whole story, under locks, with signals heard and every run closed at the end; the exit status."""
    board, first = searches[0].board, searches[0].planned
    mirror: Mirror | None = None
    with ExitStack() as locks, students.interruptible():
        for one in searches:
            locks.enter_context(locked(one.planned.folder))
            one.journal = Journal(one.planned.folder)
        uri, problem, hurried = first.tracking_uri, None, False
        for one in searches:
            one.planned = plan.without_secrets(one.planned)
        try:
            n_cpus = first.slots * first.settings.cpus_per_trial
            with cluster.running(n_cpus), students.interruptible():
                for one in searches:
                    _make_ready(one)
                folder, *others = (one.planned.folder for one in searches)
                patience = 0 if first.settings.tracking_offline else PATIENCE
                mirror = Mirror(folder, uri, first.artifacts, others, patience=patience)
                status = _search_and_confirm(searches, resume_command)
        except Interrupted as interrupted:
            _close_all(searches, "interrupted")
            board.say(f"Interrupted. Go on with: {resume_command}")
            status = 128 + interrupted.signal
            hurried = True
        except BaseException as error:
            problem = room.cause(error, first.folder)
            with suppress(OSError) if problem else nullcontext():
                _close_all(searches, "interrupted" if problem else "failed")
            if problem is None:
                raise
            board.say(escape(room.in_words(first.folder, problem, resume_command)))
            status = 1
        finally:
            for one in searches:
                one.journal.close()
            if mirror and problem is None:  # without room the mirror goes on alone
                _farewell(mirror, board, first, hurried=hurried)
    return status


def _make_ready(one: Underway) -> None:
    """The journal begun, the teacher there, the student's numbers chosen, and what its trials share."""
    planned, journal, board, facts = one.planned, one.journal, one.board, one.facts
    if board.story.search:
        journal.write("resumed")
    else:
        journal_search(planned, facts, journal)
    _warm_up(planned, journal, board)
    probing = _start_probe(planned, facts)
    once = partial(_once, planned)
    teacher = teaching.teach(planned, whole(facts), journal, board, once)
    precision, milliseconds = cluster.wait(probing)
    board.say(f"student: {planned.student} in {precision}{_in_words(milliseconds)}")
    journal.write("precision", chosen=str(precision), milliseconds=milliseconds)
    board.say(f"teacher's part: {planned.teacher_part(facts.n_train).reason}")
    one.task = _task(planned, facts, teacher, precision)
    journal.write("task", **ingredients.record(planned, one.task))


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
        description=report.question(planned),
        settings=settings,
        facts={**shown, "space": ", ".join(f"{k}: {v}" for k, v in planned.space.items())},
    )


def _warm_up(planned: Plan, journal: Journal, board: Board) -> None:
    """Copy the trials of a warm start into the journal, where that has not been done."""
    if planned.settings.warm_start and "warm" not in board.story.results:
        board.take(journal.write("warm", sync=True, **warm.given(planned)))
        for words in board.story.results["warm"]["words"]:
            board.say(f"warm start: {words}")


def _start_probe(planned: Plan, facts: Facts) -> Any:
    """In which numbers the student is fastest, found out beside the teacher's training."""
    s = planned.settings
    # what a clock chooses may be another thing when the search is repeated
    forced = {"auto": False if s.batch_mode else None, "bfloat16": True, "channels_last": True}
    return _submit(
        planned,
        probed,
        planned.student,
        facts,
        planned.recipe.batch_size,
        forced.get(s.precision, False),
        forced.get(s.memory_format, False),
        planned.out / "cache" / "probes",
    )


def _in_words(milliseconds: dict[str, float]) -> str:
    if not milliseconds:
        return ""
    return " (" + ", ".join(f"{way} {ms:.1f} ms" for way, ms in milliseconds.items()) + " a step)"


def _task(planned: Plan, facts: Facts, teacher: Teacher, precision: Precision) -> Task:
    """What all trials share; what the method does once a search is done here."""
    prepared = ""
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
        planned.settings.cpus_per_trial - 1,
        planned.asked,
    )


def _once(planned: Plan, function: Any, *arguments: Any, meanwhile: Any = lambda: None) -> Any:
    """The answer of `function(*arguments, device)`, run on the cluster with a trial's resources."""
    return cluster.wait(_submit(planned, function, *arguments), meanwhile)


def _submit(planned: Plan, function: Any, *arguments: Any) -> Any:
    """Start `function(*arguments, device)` on the cluster."""
    settings = planned.settings
    device = "cuda" if settings.gpus_per_trial else "cpu"
    return cluster.submit(
        function, *arguments, device, cpus=settings.cpus_per_trial, gpus=settings.gpus_per_trial
    )


def _search_and_confirm(searches: Sequence[Underway], resume_command: str) -> int:
    """The search, the finalists over seeds, the test set once, the report; the worst exit status."""
    for one in searches:
        recovery.settle(one.journal, one.board, partial(students.checkpoints, one.planned))
    _train(students.search, searches, resume_command)
    for one in searches:
        _take_baseline(one, searches)
    left = [one for one in searches if one.open and not _ends_here(one)]
    _train(_retrain, left, resume_command)
    for one in left:
        if one.open:
            _judge_and_report(one, alone=len(searches) == 1)
    ends = [one.board.story.results["close"]["status"] for one in searches]
    return int(any(end != "finished" for end in ends))


def _train(
    make: Callable[..., list[Strand]], searches: Sequence[Underway], resume_command: str
) -> None:
    """Train what all of them have left; a search whose trials fail in a row is given up, others go on."""
    given_up = students.train(_strands(make, searches))
    for one in searches:
        if one.planned.name in given_up:
            _close_one(one, "failed")
            reason = given_up[one.planned.name]
            one.board.say(escape(f"Given up: {reason} Then go on with: {resume_command}"))


def _judge_and_report(one: Underway, *, alone: bool) -> None:
    if not alone:
        one.board.console.print(Text(f"\n{one.planned.name}", style="bold"))
    try:
        _judge(one)
    except ValueError as error:
        if alone:
            raise
        one.board.say(f"not reported: {error}")  # the others are
        _close_one(one, "failed")


def _judge(one: Underway) -> None:
    planned, task, journal, board = one.planned, one.task, one.journal, one.board
    answer = verdict.judge(planned, task, journal, board, partial(_submit, planned))
    report.write(planned, task, board.story, answer, journal)
    _close_one(one, "finished")
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
        told = now[0] if now else _told(one.planned.out / one.baseline)
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
        _close_one(one, "finished" if usable else "failed")
    return not one.open


def _close_one(one: Underway, status: str) -> None:
    _close(one.journal, one.board, status)
    one.open = False


def _close_all(searches: Sequence[Underway], status: str) -> None:
    """End the boards, and close the searches that have not come to an end by themselves."""
    for one in searches:
        one.board.end()
        if one.open:
            _close_one(one, status)


def _say_unmet(one: Underway) -> None:
    """No trial keeps the constraints: say so and how near the nearest came."""
    planned, told = one.planned, one.board.story
    page = {"question": report.question(planned), "command": report.command(planned)}
    unmet.write(planned, told, one.journal, page)
    _close_one(one, "failed")
    for sentence in unmet.sentences(planned, told):
        one.board.say(sentence)
    one.board.say(f"report    {planned.folder / 'report.html'}")


def _close(journal: Journal, board: Board, status: str) -> None:
    """Say how it ended, of every student that had not, and of the search."""
    for student in board.story.students.values():
        if student.status == "running":
            board.story.add(journal.write("end", id=student.id, status="interrupted"))
    if board.story.search or journal.path.stat().st_size:
        board.story.add(journal.write("close", status=status, sync=True))


def _farewell(mirror: Mirror, board: Board, planned: Plan, *, hurried: bool) -> None:
    """Wait until MLflow has everything, and say where to look; after a signal it goes on alone after a moment."""
    try:
        with board.waiting("handing the rest to MLflow"):
            complete = mirror.finish(HURRIED_SECONDS if hurried else None)
    except Interrupted:  # who is impatient now has lost nothing
        complete = False
    if not complete:
        board.say(
            escape(f"MLflow has not got everything yet ({mirror.trouble()}); nothing is lost: ")
            + f"{command('--resume', planned)} delivers the rest"
        )
    state = mirror.runs()
    if state.refused:
        board.say(f"MLflow did not take {state.refused} records: {planned.folder / LOG} says why")
    board.say(report.where_to_look(planned, state))


def command(flag: str, planned: Plan) -> str:
    """`python tune.py --resume NAME`, with --out where it is not the default."""
    out = planned.settings.out
    return f"python tune.py {flag} {planned.name}" + (
        f" --out {out}" if out != Path("runs") else ""
    )
