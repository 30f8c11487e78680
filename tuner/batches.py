"""Searches that repeat exactly: trials in batches, so that no decision depends on which of them ends first.

All suggestions of a batch are drawn before the sampler is told of any of its results; those it is told in order of
number, once the whole batch has ended. Early stopping hears a batch's reports as if it were trained in lockstep: epoch
by epoch, and in each epoch by number, whoever comes first in truth. A trial that may be stopped at its epoch is paused
there until all that live of its batch have come as far. So the search depends on its settings alone, not on the number
of slots: a batch is worked off with as many as there are. With batches of one it is a search of one trial at a time.

NaN, missing   a diverged student ends itself; nobody waits for it, nor for one that failed
a tie          goes on, as the rule that decides says; of equals the lower number is heard first
a resumed one  an unfinished batch is finished first; who waits in it trains its last epoch again, and waits once more
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from tuner.budgets import Budgets
from tuner.samplers import METRIC, Config, Listed, SafeOptunaSearch
from tuner.schedulers import ById, InOrder, rankable

Past = tuple[Config, dict[str, Any] | None, bool]  # config, last result while ended, whether failed


class Lockstep:
    """Lets a stopping rule hear one batch after the other by (epoch, number), in whatever order its reports come."""

    def __init__(self, rule: ById, size: int, n_trials: int) -> None:
        self.rule, self.size, self.n_trials = rule, size, n_trials
        self.batch = 0
        self.heard: dict[int, int] = {}  # by number: the last epoch reported
        self.held: dict[tuple[int, int], tuple[str, dict[str, Any]]] = {}  # (epoch, number)
        self.ended: set[int] = set()
        self.stopped: set[int] = set()  # by the rule; all of them have ended too

    def hear(self, identity: str, number: int, result: dict[str, Any]) -> None:
        """Hold a report back; one of an epoch that was reported before is ignored."""
        epoch = int(result["epoch"])
        if epoch > self.heard.get(number, 0):
            self.heard[number] = epoch
            self.held[epoch, number] = identity, result

    def end(self, number: int) -> None:
        """A student that has ended is waited for no more; what it had reported counts."""
        self.ended.add(number)

    def settle(self) -> None:
        """Let the rule hear all that no report can come before any more, and go on to the next batch after the last."""
        while True:
            reached = self._reached()
            due = [at for at in self.held if at[1] in self._members and _before(at[0], reached)]
            if due:
                self._decide(*min(due))
            elif reached is None and self._members:
                self.batch += 1
            else:
                return

    def waits(self, number: int) -> bool:
        """Whether a student's last report may stop it, and has not been heard by the rule."""
        held = self.held.get((self.heard.get(number, 0), number))
        return (
            held is not None and rankable(held[1]) and self.rule.may_stop(held[0], number, held[1])
        )

    @property
    def _members(self) -> range:
        first = self.batch * self.size
        return range(first, min(first + self.size, self.n_trials))

    def _reached(self) -> int | None:
        """The epoch that all living members of the batch have reported; None where none lives."""
        living = (n for n in self._members if n not in self.ended)
        return min((self.heard.get(n, 0) for n in living), default=None)

    def _decide(self, epoch: int, number: int) -> None:
        identity, result = self.held.pop((epoch, number))
        if not rankable(result):
            return
        if self.rule.decide(identity, number, result) == TrialScheduler.STOP:
            if epoch < result["epochs"]:
                self.stopped.add(number)
            self.ended.add(number)


def _before(epoch: int, reached: int | None) -> bool:
    return reached is None or epoch <= reached


class InLockstep(InOrder):
    """A stopping rule under Tune that decides for batches in lockstep; those whose turn has not come are paused."""

    def __init__(
        self, rule: ById, size: int, n_trials: int, budgets: Budgets | None = None
    ) -> None:
        super().__init__()
        self.budgets = budgets
        self.lockstep = Lockstep(rule, size, n_trials)
        self.trials: dict[int, Trial] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles its scheduler; the journal is what is resumed from."""
        return {}

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Metric and mode are set here and nowhere else."""
        return True

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """One more of the batch."""
        self.trials[trial.config["number"]] = trial

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """STOP, PAUSE until the others have come as far, or CONTINUE."""
        number = trial.config["number"]
        self.lockstep.hear(trial.config["id"], number, result)
        self.lockstep.settle()
        # where an interrupted search had gone on from is no place to begin from after this one
        trial.set_config({k: v for k, v in trial.config.items() if k != "restore_from"})
        if number in self.lockstep.stopped:
            return TrialScheduler.STOP
        waits = self.lockstep.waits(number) and not self.over
        return TrialScheduler.PAUSE if waits else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """The last report counts as any other; nobody waits for the next."""
        self.lockstep.hear(trial.config["id"], trial.config["number"], result)
        self._ended(trial)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Nobody waits for a student that failed for good; one whose worker was lost goes on in another."""
        if not trial.should_recover():
            self._ended(trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Nor for one that was stopped while it waited."""
        self._ended(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The student that is furthest behind, after those were stopped that had waited for it."""
        for number, trial in sorted(self.trials.items()):
            if trial.status == Trial.PAUSED and self._ends(number, trial):
                tune_controller.stop_trial(trial)
        free = [
            number
            for number, trial in self.trials.items()
            if trial.status == Trial.PENDING
            or (trial.status == Trial.PAUSED and (self.over or not self.lockstep.waits(number)))
        ]
        behind = min(free, key=lambda n: (self.lockstep.heard.get(n, 0), n), default=None)
        return None if behind is None else self.trials[behind]

    @property
    def over(self) -> bool:
        """Whether a budget is used up: the others of the batch may never come as far."""
        return self.budgets is not None and self.budgets.over

    def _ends(self, number: int, trial: Trial) -> bool:
        """Whether a student that waits was stopped by the rule, or ends because a budget is used up."""
        if number in self.lockstep.stopped:
            return True
        return self.budgets is not None and self.budgets.ends(trial.config["id"], number)

    def replay(
        self, reports: Iterable[tuple[str, int, dict[str, Any]]], ended: Collection[int]
    ) -> set[str]:
        """Take past reports (id, number, result) and the numbers that have ended; the ids that the rule stopped."""
        names = {}
        for identity, number, result in reports:
            names[number] = identity
            self.lockstep.hear(identity, number, result)
        for number in ended:
            self.lockstep.end(number)
        self.lockstep.settle()
        return {names[number] for number in self.lockstep.stopped}

    def _ended(self, trial: Trial) -> None:
        self.lockstep.end(trial.config["number"])
        self.lockstep.settle()


class InBatches(Searcher):
    """Hands out the next batch when the last has ended, and tells the search of the last before it."""

    def __init__(self, inner: SafeOptunaSearch | Listed, size: int) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.inner, self.size = inner, size
        self.batch = 0
        self.alive: dict[str, int] = {}  # Tune's ids of the batch -> numbers
        self.last: dict[str, dict[str, Any]] = {}  # what each has reported last
        self.ended: dict[int, tuple[str, dict[str, Any] | None, bool]] = {}  # of the batch

    def suggest(self, trial_id: str) -> Any:
        """The next trial's config, None while the batch before is not done, or FINISHED."""
        coming = self.inner.coming
        if coming is not None and coming // self.size != self.batch:
            if self.alive:
                return None
            self._turn_to(coming)
        config = self.inner.suggest(trial_id)
        if coming is not None:
            self.alive[trial_id] = coming
        return config

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Remembered for a trial that is stopped while it waits, whose end comes without a result."""
        self.last[trial_id] = result

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Keep how the trial ended until its batch has; a second ending of the same trial is ignored."""
        if trial_id in self.alive:
            known = result or self.last.get(trial_id)
            self.ended[self.alive.pop(trial_id)] = trial_id, known, error

    def replay(self, past: Iterable[Past]) -> None:
        """Bring an Optuna search to where an interrupted one left it, batch by batch; `past` as there."""
        assert isinstance(self.inner, SafeOptunaSearch)
        for config, result, error in past:
            number = config["number"]
            if number // self.size != self.batch:
                self._turn_to(number)
            ended = result is not None or error
            trial_id = self.inner.recall(config, ended=ended)
            if ended:
                self.ended[number] = trial_id, result, error

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: a resumed search is told its past by the journal."""

    def _turn_to(self, number: int) -> None:
        """Tell of the batch that is done, by number, and turn to that of `number`."""
        for _, (trial_id, result, error) in sorted(self.ended.items()):
            self.inner.on_trial_complete(trial_id, result, error)
        self.ended.clear()
        self.batch = number // self.size
