"""Train students under Ray Tune: the search's trials and the confirmation's retraining, one way for both."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ray import tune
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from trainables.checkpoint import STATE, read_state
from trainables.trainable import Task, Trial, not_trained
from tuner import schedulers, sizes
from tuner.journal import Journal, Student
from tuner.objectives import KNOWN
from tuner.plan import Plan
from tuner.population import Change, Member, Population, ranked_accuracy
from tuner.progress import Board
from tuner.recorder import Recorder
from tuner.samplers import METRIC, Config, Listed, SafeOptunaSearch

MAX_FAILURES = 3  # of a trial's worker, before the trial counts as failed


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


class _Signals:
    """What the handlers know: which signal came, and whether Tune's loop is listening."""

    received = 0
    recorder: Recorder | None = None


def _on_signal(number: int, frame: FrameType | None) -> None:
    if _Signals.received:
        os._exit(128 + number)
    _Signals.received = number
    if _Signals.recorder is not None and _Signals.recorder.listening:
        os.kill(os.getpid(), signal.SIGUSR1)  # Tune finishes its step and returns
    else:
        raise Interrupted(number)


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT and SIGTERM end the search in good order; a second one ends the process at once.

    Ray puts a handler of its own in SIGTERM's place when it starts, one that aborts: enter this again after that.
    """
    before = {
        number: signal.signal(number, _on_signal) for number in (signal.SIGINT, signal.SIGTERM)
    }
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def search(planned: Plan, task: Task, journal: Journal, board: Board) -> None:
    """Run the search's trials that have not ended yet; raises Interrupted."""
    scheduler = _scheduler(planned, journal, board)
    past = board.story.of_kind("search")
    searcher: Searcher
    if planned.search == "grid" or not planned.searched:
        cells = planned.grid if planned.search == "grid" else [planned.published]
        configs = [trial_config(planned, number, cell) for number, cell in enumerate(cells)]
        searcher = Listed(unfinished(planned, configs, past))
    else:
        first = {n: v for n, v in planned.published.items() if n in planned.searched}
        optuna_search = SafeOptunaSearch(
            planned.searched,
            planned.search,
            planned.slots,
            planned.settings.seed,
            lambda number, drawn: trial_config(planned, number, {**drawn, **planned.fixed}),
            first if all(value is not None for value in first.values()) else {},
            planned.n_trials,
            planned.known,
            planned.goals,
        )
        optuna_search.replay([as_past(planned, student, scheduler) for student in past])
        searcher = optuna_search
    left = planned.n_trials - len([s for s in past if _ended(s)])
    if left:
        after = planned.n_confirmed * planned.recipe.epochs
        board.begin(f"search {planned.name}", ("search",), planned.n_trials, after)
        fit(planned, task, searcher, scheduler, left, journal, board)


def fit(
    planned: Plan,
    task: Task,
    searcher: Searcher,
    scheduler: TrialScheduler,
    n_students: int,
    journal: Journal,
    board: Board,
) -> None:
    """Train `n_students` from `searcher`; raises Interrupted where a signal ended it."""
    settings = planned.settings
    before = {s.id: len(s.history) for s in board.story.students.values()}
    recorder = Recorder(journal, board, before)
    resources = {"cpu": settings.cpus_per_trial, "gpu": settings.gpus_per_trial}
    trainable = tune.with_resources(tune.with_parameters(Trial, task=task), resources)
    tuner = make_tuner(
        trainable, searcher, scheduler, n_students, planned.slots, planned.folder, [recorder]
    )
    _Signals.recorder = recorder
    try:
        with quiet():
            tuner.fit()
    finally:
        _Signals.recorder = None
        board.end()
    if _Signals.received:
        raise Interrupted(_Signals.received)


def make_tuner(
    trainable: Any,
    searcher: Searcher,
    scheduler: TrialScheduler,
    n_students: int,
    slots: int,
    folder: Path,
    callbacks: list[tune.Callback],
) -> tune.Tuner:
    """Ray's Tuner as every search uses it; checkpoints go to `folder`/checkpoints.

    A population is handed out whole, `slots` of it at a time by Ray's own resources: who waits for a turn is alive, and
    would count for a limit.
    """
    waits = isinstance(scheduler, Population)
    return tune.Tuner(
        trainable,
        tune_config=TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=n_students,
            max_concurrent_trials=None if waits else slots,
            reuse_actors=True,
            trial_dirname_creator=directory_name,
            trial_name_creator=directory_name,
        ),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=str(folder),
            verbose=0,
            callbacks=callbacks,
            # no num_to_keep: with it Ray writes a snapshot of all trials at nearly every checkpoint
            checkpoint_config=CheckpointConfig(checkpoint_frequency=1),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
        ),
    )


def trial_config(planned: Plan, number: int, hyper: dict[str, Any]) -> Config:
    """A search trial's config: plain values only."""
    role = "default" if number == 0 else "trial"
    config = student_config(
        planned, f"{planned.settings.method}-{number:03d}", number, "search", role, hyper
    )
    return {**config, "infeasible": sizes.infeasible(planned, hyper)}


def student_config(
    planned: Plan,
    identity: str,
    number: int,
    kind: str,
    role: str,
    hyper: dict[str, Any],
    *,
    method: str | None = None,
    seed: int | None = None,
) -> Config:
    """The config of one student; with the Task it is all that training it again takes."""
    from tuner.progress import settings_in_words

    name = method or planned.settings.method
    return {
        "id": identity,
        "number": number,
        "kind": kind,
        "role": role,
        "method": name,
        "seed": planned.settings.seed if seed is None else seed,
        "hyper": hyper,
        "epochs": int(hyper.get("epochs", planned.recipe.epochs)),
        "label": f"{identity} {settings_in_words(hyper)}"[:200],
        "known": sizes.known(planned, hyper, name),
    }


def unfinished(planned: Plan, configs: Sequence[Config], past: Sequence[Student]) -> list[Config]:
    """The configs of students that have not ended, to be gone on with from their newest checkpoint."""
    known = {student.id: student for student in past}
    return [
        with_checkpoint(planned, config)
        for config in configs
        if config["id"] not in known or not _ended(known[config["id"]])
    ]


def with_checkpoint(planned: Plan, config: Config, before: int | None = None) -> Config:
    """A config that goes on from its student's newest good checkpoint, if there is one; `before` an epoch, if given."""
    found = newest_checkpoint(planned, config["id"], before)
    return {**config, "restore_from": str(found)} if found else config


def newest_checkpoint(planned: Plan, identity: str, before: int | None = None) -> Path | None:
    """The newest checkpoint of a student that can be read, of an epoch `before` that one where it is given."""
    good = [
        (epoch, folder)
        for folder, epoch in checkpoints(planned, identity).items()
        if before is None or epoch < before
    ]
    return max(good)[1] if good else None


def checkpoints(planned: Plan, identity: str) -> dict[Path, int]:
    """A student's checkpoints that can be read, with their epochs."""
    folders = (planned.folder / "checkpoints").glob(f"{identity}/checkpoint_*/{STATE}")
    good = {}
    for path in sorted(folders):
        try:
            good[path.parent] = int(read_state(path.parent)["epoch"])
        except ValueError:
            continue
    return good


def directory_name(trial: TuneTrial) -> str:
    """A student's folder is called by its id."""
    return str(trial.config["id"])


@contextmanager
def quiet() -> Iterator[None]:
    """Ray Tune's own output has no say here; what matters is in the journal."""
    import logging
    import warnings

    loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.train")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def _scheduler(planned: Plan, journal: Journal, board: Board) -> TrialScheduler:
    """The search's scheduler, as far as an interrupted search had brought it."""
    if planned.scheduler == "pbt":
        return _population(planned, journal, board)
    scheduler = schedulers.make(planned.scheduler, planned.recipe.epochs, planned.grace)
    if isinstance(scheduler, schedulers.ById):
        _catch_up(scheduler, journal, board)
    return scheduler


def _catch_up(scheduler: schedulers.ById, journal: Journal, board: Board) -> None:
    """Tell the scheduler what was reported before, and end those that were to be stopped just then."""
    results = {s.id: _as_results(s) for s in board.story.of_kind("search")}
    reports = [
        (identity, board.story.students[identity].number, results[identity][epoch - 1])
        for identity, epoch in board.story.reports
        if identity in results
    ]
    for identity in scheduler.replay(reports):
        if not _ended(board.story.students[identity]):
            board.take(journal.write("end", id=identity, status="stopped", sync=True))


def _population(planned: Plan, journal: Journal, board: Board) -> Population:
    """The population of those that have not ended; a turn that was interrupted is finished here."""

    def on_change(change: Change, epoch: int) -> None:
        told = {"id": change.identity, "epoch": epoch, "hyper": change.hyper}
        board.take(journal.write("changed", sync=True, **told, **{"from": change.source}))

    def found(identity: str) -> dict[Path, int]:
        return checkpoints(planned, identity)

    past = board.story.of_kind("search")
    living = [s for s in past if not _ended(s)]
    made = Population(
        planned.n_trials - len(past) + len(living),
        planned.grace,
        planned.changeable,
        planned.settings.seed,
        found,
        on_change,
    )
    if len(past) == planned.n_trials:
        made.decided = _last_turn(living, made)
    return made


def _last_turn(living: Sequence[Student], made: Population) -> int:
    """The last turn that was taken; finished, where it was interrupted.

    A turn without a trace, though everybody had arrived, may lack their last checkpoints: it is taken again later.
    """
    epoch = min((len(s.history) for s in living), default=0) // made.interval * made.interval
    if epoch and all(len(s.history) == epoch for s in living):
        done = {s.id for s in living if any(change["epoch"] == epoch for change in s.changes)}
        if not done:
            return epoch - made.interval
        last = {s.id: _as_results(s)[-1] for s in living}
        members = [Member(s.id, s.number, ranked_accuracy(last[s.id]), s.hyper) for s in living]
        made.carry_out(members, epoch, done)
    return epoch


def _ended(student: Student) -> bool:
    return student.status not in ("running", "interrupted")


def as_past(
    planned: Plan, student: Student, scheduler: TrialScheduler
) -> tuple[Config, dict[str, Any] | None, bool]:
    """What a searcher is told of an earlier student: its config, its last result if it has ended, whether it failed."""
    config = trial_config(planned, student.number, student.hyper)
    if not _ended(student):
        epoch = len(student.history)
        waits = isinstance(scheduler, Population) and scheduler.waits_at(epoch)
        return with_checkpoint(planned, config, before=epoch if waits else None), None, False
    if student.status == "infeasible":
        return config, not_trained(config), False
    results = _as_results(student)
    return config, results[-1] if results else None, student.status == "failed"


def _as_results(student: Student) -> list[dict[str, Any]]:
    """A student's history as its trial reported it."""
    last = len(student.history)
    return [
        {
            METRIC: metrics.get(METRIC),
            **{name: metrics[name] for name in KNOWN if name in metrics},
            "epoch": i,
            "ranked_epoch": metrics.get("ranked_epoch", i),
            "epochs": student.epochs,
            "diverged": student.reason if student.status == "diverged" and i == last else "",
        }
        for i, metrics in enumerate(student.history, 1)
    ]
