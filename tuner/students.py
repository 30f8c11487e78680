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
from trainables.trainable import Task, Trial
from tuner import schedulers
from tuner.journal import Journal, Story, Student
from tuner.plan import Plan
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
    scheduler = schedulers.make(planned.settings.scheduler, planned.recipe.epochs, planned.grace)
    if isinstance(scheduler, schedulers.SafeASHA):
        _catch_up(scheduler, journal, board)
    past = board.story.of_kind("search")
    searcher: Searcher
    if planned.settings.search == "grid" or not planned.searched:
        cells = planned.grid if planned.settings.search == "grid" else [planned.published]
        configs = [trial_config(planned, number, cell) for number, cell in enumerate(cells)]
        searcher = Listed(unfinished(planned, configs, past))
    else:
        first = {name: planned.published[name] for name in planned.searched}
        optuna_search = SafeOptunaSearch(
            planned.searched,
            planned.settings.search,
            planned.slots,
            planned.settings.seed,
            lambda number, drawn: trial_config(planned, number, {**drawn, **planned.fixed}),
            first if all(value is not None for value in first.values()) else {},
            planned.n_trials,
        )
        optuna_search.replay([_as_past(planned, student, board.story) for student in past])
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
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(Trial, task=task), resources),
        tune_config=TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=n_students,
            max_concurrent_trials=planned.slots,
            reuse_actors=True,
            trial_dirname_creator=directory_name,
            trial_name_creator=directory_name,
        ),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=str(planned.folder),
            verbose=0,
            callbacks=[recorder],
            # no num_to_keep: with it Ray writes a snapshot of all trials at nearly every checkpoint
            checkpoint_config=CheckpointConfig(checkpoint_frequency=1),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
        ),
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


def trial_config(planned: Plan, number: int, hyper: dict[str, Any]) -> Config:
    """A search trial's config: plain values only."""
    role = "default" if number == 0 else "trial"
    return student_config(
        planned, f"{planned.settings.method}-{number:03d}", number, "search", role, hyper
    )


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

    return {
        "id": identity,
        "number": number,
        "kind": kind,
        "role": role,
        "method": method or planned.settings.method,
        "seed": planned.settings.seed if seed is None else seed,
        "hyper": hyper,
        "epochs": int(hyper.get("epochs", planned.recipe.epochs)),
        "label": f"{identity} {settings_in_words(hyper)}"[:200],
    }


def unfinished(planned: Plan, configs: Sequence[Config], past: Sequence[Student]) -> list[Config]:
    """The configs of students that have not ended, to be gone on with from their newest checkpoint."""
    known = {student.id: student for student in past}
    return [
        with_checkpoint(planned, config)
        for config in configs
        if config["id"] not in known or not _ended(known[config["id"]])
    ]


def with_checkpoint(planned: Plan, config: Config) -> Config:
    """A config that goes on from the newest good checkpoint of its student, if there is one."""
    found = newest_checkpoint(planned, config["id"])
    return {**config, "restore_from": str(found)} if found else config


def newest_checkpoint(planned: Plan, identity: str) -> Path | None:
    """The newest checkpoint of a student that can be read."""
    folders = (planned.folder / "checkpoints").glob(f"{identity}/checkpoint_*/{STATE}")
    good = []
    for path in folders:
        try:
            good.append((read_state(path.parent)["epoch"], path.parent))
        except ValueError:
            continue
    return max(good)[1] if good else None


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


def _catch_up(scheduler: schedulers.SafeASHA, journal: Journal, board: Board) -> None:
    """Fill the rungs with what was reported before, and end those that were to be stopped just then."""
    results = {s.id: _as_results(s) for s in board.story.of_kind("search")}
    reports = [
        (identity, board.story.students[identity].number, results[identity][epoch - 1])
        for identity, epoch in board.story.reports
        if identity in results
    ]
    for identity in scheduler.replay(reports):
        if not _ended(board.story.students[identity]):
            board.take(journal.write("end", id=identity, status="stopped", sync=True))


def _ended(student: Student) -> bool:
    return student.status not in ("running", "interrupted")


def _as_past(
    planned: Plan, student: Student, told: Story
) -> tuple[Config, dict[str, Any] | None, bool]:
    config = trial_config(planned, student.number, student.hyper)
    if not _ended(student):
        return with_checkpoint(planned, config), None, False
    results = _as_results(student)
    return config, results[-1] if results else None, student.status == "failed"


def _as_results(student: Student) -> list[dict[str, Any]]:
    """A student's history as its trial reported it."""
    last = len(student.history)
    return [
        {
            METRIC: metrics.get(METRIC),
            "epoch": i,
            "ranked_epoch": metrics.get("ranked_epoch", i),
            "epochs": student.epochs,
            "diverged": student.reason if student.status == "diverged" and i == last else "",
        }
        for i, metrics in enumerate(student.history, 1)
    ]
