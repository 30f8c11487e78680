"""The story of a search: prepare, teach, search, confirm, report."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from trainables import teacher as teachers
from trainables.data import sources
from trainables.data.splits import Facts, prepare, whole
from trainables.precision import Precision
from trainables.probing import probed
from trainables.teacher import Teacher
from trainables.trainable import Task
from tuner import claims, cluster, confirm, plan, recovery, report, students, teaching, verdict
from tuner.claims import SETTINGS
from tuner.failures import GaveUpError
from tuner.journal import FILE, VERSION, Journal, Story, story
from tuner.plan import Plan
from tuner.progress import Board, quiet_streams
from tuner.settings import Settings
from tuner.students import Interrupted
from tuner.tracking import Mirror

HURRIED_SECONDS = 3  # that a search ended by a signal waits for MLflow
LOCK = "driver.lock"


def run(settings: Settings, *, overwrite: bool = False) -> int:
    """Search from the beginning; the exit status. Raises ValueError for what cannot run, before anything is written."""
    planned = plan.make(settings)
    if not overwrite:
        claims.check_free(planned)
    planned = teaching.resolved(planned)
    board, facts = _open(planned)
    if overwrite and planned.folder.exists():
        with _locked(planned.folder):
            shutil.rmtree(planned.folder)
    places: dict[str, Any] = {"name": planned.name, "out": planned.out}
    places["data_root"] = planned.data_root
    if settings.teacher:
        places["teacher"] = tuple(one.text for one in planned.teachers)  # files by absolute paths
    places["dataset"] = sources.absolute(settings.dataset)
    claims.claim(planned, settings.model_copy(update=places).model_dump_json(indent=1))
    return _carry_out(planned, facts, board)


def resume(name: str, given: dict[str, Any]) -> int:
    """Go on with an interrupted search where it stopped; the exit status. ValueError where there is none."""
    out = Path(given.pop("out", Settings.model_fields["out"].default))
    refuse_settings(given)
    folder = out.expanduser().resolve() / name
    if not (folder / SETTINGS).is_file():
        known = sorted(path.parent.name for path in folder.parent.glob(f"*/{SETTINGS}"))
        raise ValueError(
            f"--resume must name a search in {folder.parent}, got {name!r}; known: {', '.join(known) or 'none'}"
        )
    settings = Settings.model_validate_json((folder / SETTINGS).read_text(encoding="utf-8"))
    told = story(folder) if (folder / FILE).exists() else Story()
    if told.results.get("close", {}).get("status") == "finished":
        raise ValueError(
            f"--resume must name an unfinished search, got {name!r}: its report is {folder / 'report.md'}"
        )
    planned = plan.make(settings.model_copy(update={"out": folder.parent}))
    if teaching.remembered(told) is None:
        planned = teaching.resolved(planned)
    board, facts = _open(planned)
    board.story = told
    return _carry_out(planned, facts, board)


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


def _open(planned: Plan) -> tuple[Board, Facts]:
    """The last checks, and the data: decoded and split before anything of the search is written."""
    plan.check_outside(planned)
    quiet_streams()
    board, s = Board(), planned.settings
    pair = f"{planned.teacher} -> {planned.student}"
    board.say(f"[bold]{planned.name}[/bold]: {s.method} on {s.dataset}, {pair}")
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
    return board, facts


def _carry_out(planned: Plan, facts: Facts, board: Board) -> int:
    """The whole story, under a lock, with signals heard and every run closed at the end."""
    with _locked(planned.folder), students.interruptible():
        journal = Journal(planned.folder)
        mirror: Mirror | None = None
        hurried = False
        try:
            n_cpus = planned.slots * planned.settings.cpus_per_trial
            with cluster.running(n_cpus), students.interruptible():
                if board.story.search:
                    journal.write("resumed")
                else:
                    journal_search(planned, facts, journal)
                probing = _start_probe(planned, facts)
                once = partial(_once, planned)
                teacher = teaching.teach(planned, whole(facts), journal, board, once)
                mirror = Mirror(planned.folder, planned.tracking_uri, planned.artifacts)
                precision, milliseconds = cluster.wait(probing)
                board.say(f"student: {planned.student} in {precision}{_in_words(milliseconds)}")
                journal.write("precision", chosen=str(precision), milliseconds=milliseconds)
                board.say(f"teacher's part: {planned.teacher_part(facts.n_train).reason}")
                task = _task(planned, facts, teacher, precision)
                status = _search_and_confirm(planned, task, journal, board)
        except Interrupted as interrupted:
            board.end()
            _close(journal, board, "interrupted")
            board.say(f"Interrupted. Go on with: {command('--resume', planned)}")
            status = 128 + interrupted.signal
            hurried = True
        except GaveUpError as reason:
            board.end()
            _close(journal, board, "failed")
            board.say(f"Given up: {reason} Then go on with: {command('--resume', planned)}")
            status = 1
        except BaseException:
            board.end()
            _close(journal, board, "failed")
            raise
        finally:
            journal.close()
            if mirror:
                _farewell(mirror, board, planned, hurried=hurried)
    return status


def journal_search(planned: Plan, facts: Facts, journal: Journal) -> None:
    """The journal's first event."""
    settings = {**planned.settings.model_dump(mode="json"), "name": planned.name}
    settings["tracking_uri"] = plan.redacted(planned.tracking_uri)
    settings |= {
        "teacher": planned.teacher,
        "student": planned.student,
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


def _start_probe(planned: Plan, facts: Facts) -> Any:
    """In which numbers the student is fastest, found out beside the teacher's training."""
    s = planned.settings
    forced = {"auto": None, "bfloat16": True, "channels_last": True}
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


def _search_and_confirm(planned: Plan, task: Task, journal: Journal, board: Board) -> int:
    """The search, the finalists over seeds, the test set once, the report; the exit status."""
    recovery.settle(journal, board, partial(students.checkpoints, planned))
    students.search(planned, task, journal, board)
    if not any(student.complete for student in board.story.of_kind("search")):
        _close(journal, board, "failed")
        board.say(
            f"No trial was trained to the end: {report.outcomes(board.story)}. See {planned.folder / FILE}"
        )
        return 1
    chosen = confirm.finalists(planned, board.story.of_kind("search"))
    confirm.retrain(planned, task, chosen, journal, board)
    submit = partial(_submit, planned)
    answer = verdict.judge(planned, task, journal, board, submit)
    report.write(planned, task, board.story, answer, journal)
    _close(journal, board, "finished")
    board.console.print(report.final_table(planned, board.story, answer))
    return 0


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
            complete = mirror.leave(HURRIED_SECONDS) if hurried else mirror.finish()
    except Interrupted:  # who is impatient now has lost nothing
        complete = False
    if not complete:
        board.say(
            f"MLflow has not got everything ({mirror.trouble() or 'no answer'}); nothing is lost: "
            f"{planned.folder / FILE} holds it"
        )
    board.say(report.where_to_look(planned, mirror.runs()))


def command(flag: str, planned: Plan) -> str:
    """`python tune.py --resume NAME`, with --out where it is not the default."""
    out = planned.settings.out
    return f"python tune.py {flag} {planned.name}" + (
        f" --out {out}" if out != Path("runs") else ""
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One driver a search; raises ValueError for the second."""
    import fcntl

    with (folder / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise ValueError(
                f"a search must have one driver, got a second for {folder.name} (process {file.read().strip()} runs it)"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
