"""Train students under Ray Tune: the search's trials and the confirmation's retraining, one way for both."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pyarrow.fs import FileSystem
from ray import tune
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, TuneConfig
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from trainables.trainable import Task, Trial, not_trained
from tuner import (
    cluster,
    evictions,
    failures,
    interleaving,
    schedulers,
    shelf,
    sizes,
    starting,
    warm,
)
from tuner.batches import InBatches, InLockstep
from tuner.budgets import Budgets
from tuner.failures import Tally
from tuner.interleaving import CHECKPOINTS, Recorders, Strand
from tuner.journal import Journal, Student
from tuner.objectives import KNOWN
from tuner.pace import Pace
from tuner.plan import Plan
from tuner.population import Change, Member, Population, ranked_accuracy
from tuner.progress import Board
from tuner.recorder import Recorder
from tuner.samplers import METRIC, Config, Listed, SafeOptunaSearch
from tuner.settings import LOCAL
from tuner.shelf import Shelf
from tuner.storage import through
from tuner.watchdog import Patience, Watchdog, longest_epoch

MAX_FAILURES = 3  # of a trial's worker, before the trial counts as failed


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


class _Signals:
    """What the handlers know: which signal came, and whether Tune's loop is listening."""

    received = 0
    recorder: Recorder | Recorders | None = None


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


def search(planned: Plan, task: Task, journal: Journal, board: Board) -> list[Strand]:
    """The search's trials that have not ended yet, for `train`, as far as budgets go; none where all have."""
    budgets = Budgets(planned.settings, planned.n_trials, journal, board)
    budgets.end_the_rest()
    scheduler = _scheduler(planned, journal, board, budgets)
    past = board.story.of_kind("search")
    searcher: Searcher
    if planned.search == "grid" or not planned.searched:
        cells = planned.grid if planned.search == "grid" else [planned.published]
        configs = [trial_config(planned, number, cell) for number, cell in enumerate(cells)]
        waiting = [s.id for s in past if _waits(s, scheduler)]
        searcher = Listed(unfinished(planned, configs, past, board, waiting), budgets.refuses)
        if planned.batch:
            searcher = InBatches(searcher, planned.batch)
    else:
        first = {n: v for n, v in planned.published.items() if n in planned.searched}
        optuna_search = SafeOptunaSearch(
            planned.searched,
            planned.search,
            planned.batch or planned.slots,
            planned.settings.seed,
            lambda number, drawn: trial_config(planned, number, {**drawn, **planned.fixed}),
            first if all(value is not None for value in first.values()) else {},
            planned.n_trials,
            planned.known,
            planned.goals,
            budgets.refuses,
        )
        optuna_search.learn(warm.lessons(board.story))
        made = InBatches(optuna_search, planned.batch) if planned.batch else optuna_search
        made.replay([as_past(planned, student, scheduler, board) for student in past])
        searcher = made
    n_ended = len([s for s in past if _ended(s)])
    if n_ended == planned.n_trials or (budgets.over and past and n_ended == len(past)):
        return []

    def begin() -> None:
        board.take(journal.write("phase", name="search"))
        budgets.begin()
        after = planned.n_confirmed * planned.recipe.epochs
        board.begin(f"search {planned.name}", ("search",), planned.n_trials, epochs_after=after)

    left = planned.n_trials - n_ended
    recorder = recording(planned, journal, board, budgets)
    return [Strand(planned, task, searcher, scheduler, recorder, left, n_ended, begin, budgets)]


def recording(
    planned: Plan, journal: Journal, board: Board, budgets: Budgets | None = None
) -> Recorder:
    """What writes down a search's next trials."""
    past = board.story.students.values()
    kept = Shelf(planned.folder / CHECKPOINTS, planned.settings.confirm_top, past)
    return Recorder(journal, board, kept, Tally(planned.slots), budgets)


def train(strands: Sequence[Strand]) -> dict[str, str]:
    """Train what all of these have left, side by side as far as that can be; raises Interrupted.

    Searches that were given up, because too many of their trials had failed in the same way, by name with the reason.
    """
    for group in interleaving.groups(strands):
        for strand in group:
            strand.begin()
        try:
            _fit(group)
        finally:
            for strand in group:
                strand.recorder.board.end()
        for strand in group:
            if strand.budgets:
                strand.budgets.end_the_rest()
    verdicts = {one.name: one.recorder.tally.verdict for one in strands}
    return {name: reason for name, reason in verdicts.items() if reason}


def _fit(strands: Sequence[Strand]) -> None:
    """One run of Ray Tune; raises Interrupted where a signal ended it."""
    first, alone = strands[0].planned, len(strands) == 1
    resources = {"cpu": first.settings.cpus_per_trial, "gpu": first.settings.gpus_per_trial}
    resources |= cluster.resources(first.settings)
    tasks = {one.name: one.task for one in strands}
    courier = cluster.courier()
    given = tune.with_parameters(Trial, tasks=tasks, courier=courier)
    trainable = tune.with_resources(given, resources)
    searcher, scheduler, recorder = interleaving.parts(strands)
    home = first.folder if alone else first.out / (first.settings.experiment or first.name)
    n_students = sum(one.n_left for one in strands)
    stops = interleaving.OwnBudgets(strands)
    callbacks: list[tune.Callback] = [recorder, _watchdog(strands)]
    tuner = make_tuner(
        trainable,
        searcher,
        scheduler,
        n_students,
        _limit(first),
        home,
        callbacks,
        stops,
        through(courier) if courier else None,
    )
    _Signals.recorder = recorder
    evictions.survive()
    starting.quicken(alone=courier is None)
    try:
        with quiet():
            tuner.fit()
    finally:
        _Signals.recorder = None
    if _Signals.received:
        raise Interrupted(_Signals.received)


def _limit(planned: Plan) -> int | None:
    """Trials at once; None for as many as find room, on a cluster that may grow."""
    s = planned.settings
    return planned.slots if s.address == LOCAL else s.max_concurrent


def _watchdog(strands: Sequence[Strand]) -> Watchdog:
    """One for all trials that are trained side by side."""
    own = {one.name: one for one in strands}
    paces = {one.name: Pace(one.planned, one.task) for one in strands}
    past = (s for one in strands for s in one.recorder.board.story.students.values())
    patience = Patience(strands[0].planned.settings.hang_after, longest_epoch(past))
    return Watchdog(
        patience,
        lambda config: paces[config["search"]].epoch_seconds(config),
        lambda trial, reason: own[trial.config["search"]].recorder.hung(trial, reason),
    )


def make_tuner(
    trainable: Any,
    searcher: Searcher,
    scheduler: TrialScheduler,
    n_students: int,
    slots: int | None,
    folder: Path,
    callbacks: list[tune.Callback],
    stops: Callable[[str, Mapping[str, Any]], bool] | None = None,
    storage: FileSystem | None = None,
) -> tune.Tuner:
    """Ray's Tuner as every search uses it; checkpoints go to `folder`/checkpoints; `stops` may end a trial at a report.

    A population is handed out whole, and so is a batch, `slots` of it at a time by Ray's own resources: who waits for a
    turn is alive, and would count for a limit. `storage` is the file system of `folder`, this machine's unless told.
    """
    waits = isinstance(scheduler, Population) or isinstance(searcher, InBatches)
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
            name=CHECKPOINTS,
            storage_path=str(folder),
            storage_filesystem=storage,
            verbose=0,
            stop=stops,
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
        "search": planned.name,
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


def unfinished(
    planned: Plan,
    configs: Sequence[Config],
    past: Sequence[Student],
    board: Board,
    waiting: Collection[str] = (),
) -> list[Config]:
    """The configs of students that have not ended, to be gone on with from their newest checkpoint.

    Those of `waiting` train their last epoch again.
    """
    known = {student.id: student for student in past}
    again = {student.id: len(student.history) for student in past if student.id in waiting}
    return [
        with_checkpoint(
            planned,
            config,
            again.get(config["id"], _next_epoch(known.get(config["id"]))),
            board.say,
        )
        for config in configs
        if config["id"] not in known or not _ended(known[config["id"]])
    ]


def _next_epoch(student: Student | None) -> int:
    """The first epoch that the journal does not tell of: a journal cut short may be behind the checkpoints."""
    return 1 + (len(student.history) if student else 0)


def with_checkpoint(
    planned: Plan, config: Config, before: int, say: Callable[[str], None]
) -> Config:
    """A config that goes on from its student's newest good checkpoint of an epoch `before` that one, if any."""
    found = newest_checkpoint(planned, config["id"], before, say)
    return {**config, "restore_from": str(found)} if found else config


def newest_checkpoint(
    planned: Plan,
    identity: str,
    before: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Path | None:
    """The newest checkpoint of a student that can be read, of an epoch `before` that one where it is given."""
    good = [
        (epoch, folder)
        for folder, epoch in checkpoints(planned, identity, say).items()
        if before is None or epoch < before
    ]
    return max(good)[1] if good else None


def checkpoints(
    planned: Plan, identity: str, say: Callable[[str], None] = lambda _: None
) -> dict[Path, int]:
    """A student's checkpoints that can be read, with their epochs; the others are said."""
    return shelf.readable(planned.folder / CHECKPOINTS / identity, say)


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


def _scheduler(planned: Plan, journal: Journal, board: Board, budgets: Budgets) -> TrialScheduler:
    """The search's scheduler, as far as an interrupted search had brought it."""
    if planned.scheduler == "pbt":
        return _population(planned, journal, board, budgets)
    scheduler = schedulers.make(planned.scheduler, planned.recipe.epochs, planned.grace)
    if not isinstance(scheduler, schedulers.ById):
        return scheduler
    if planned.batch:
        scheduler = InLockstep(scheduler, planned.batch, planned.n_trials, budgets)
    _catch_up(scheduler, journal, board)
    return scheduler


def _catch_up(scheduler: schedulers.ById | InLockstep, journal: Journal, board: Board) -> None:
    """Tell the scheduler what was reported before, and end those that were to be stopped just then."""
    results = {s.id: _as_results(s) for s in board.story.of_kind("search")}
    reports = [
        (identity, board.story.students[identity].number, results[identity][epoch - 1])
        for identity, epoch in board.story.reports
        if identity in results
    ]
    if isinstance(scheduler, InLockstep):
        ended = [s.number for s in board.story.of_kind("search") if _ended(s)]
        stopped = scheduler.replay(reports, ended)
    else:
        stopped = scheduler.replay(reports)
    for identity in sorted(stopped):
        if not _ended(board.story.students[identity]):
            board.take(journal.write("end", id=identity, status="stopped", sync=True))


def _population(planned: Plan, journal: Journal, board: Board, budgets: Budgets) -> Population:
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
        budgets,
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
    planned: Plan, student: Student, scheduler: TrialScheduler, board: Board
) -> tuple[Config, dict[str, Any] | None, bool]:
    """What a searcher is told of an earlier student: its config, its last result if it has ended, whether it failed."""
    config = trial_config(planned, student.number, student.hyper)
    if not _ended(student):
        before = len(student.history) if _waits(student, scheduler) else _next_epoch(student)
        return with_checkpoint(planned, config, before, board.say), None, False
    if student.status == "infeasible":
        return config, not_trained(config), False
    results = _as_results(student)
    return config, results[-1] if results else None, student.status in failures.ERRORS


def _waits(student: Student, scheduler: TrialScheduler) -> bool:
    """Whether an unfinished student waits for others where it stands."""
    if isinstance(scheduler, Population):
        return scheduler.waits_at(len(student.history))
    return isinstance(scheduler, InLockstep) and scheduler.lockstep.waits(student.number)


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
