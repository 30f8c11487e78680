"""Several searches on the same workers: one run of Ray Tune whose trials belong to different searches, dealt in turn.

Each search keeps its own sampler, stopping rule, journal and folder, and hears of its own trials alone, in the order in
which they happen: with one worker it decides what it would decide by itself. A trial's config says whose it is
(`search`).

who is next    the search that has handed out the fewest, of those before an interruption too; of equals the first
a search ends  early where its sampler has no more to give; the others go on
who waits      members of a population and of a batch wait for each other, and others on the same workers may outrun
               them: such a search is trained by itself
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partialmethod
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from trainables.trainable import Task
from tuner.budgets import Budgets
from tuner.plan import Plan
from tuner.population import Population
from tuner.recorder import Recorder
from tuner.samplers import METRIC
from tuner.schedulers import InOrder

CHECKPOINTS = "checkpoints"  # below a search's folder


@dataclass
class Strand:
    """What one search has left to train: trials of its search, or students of its confirmation."""

    planned: Plan
    task: Task
    searcher: Searcher
    scheduler: TrialScheduler
    recorder: Recorder
    n_left: int
    n_ended: int  # before
    begin: Callable[[], None]  # shows that it begins
    budgets: Budgets | None = None  # what may end it before its trials are used up

    @property
    def name(self) -> str:
        """Of its search."""
        return self.planned.name


def groups(strands: Sequence[Strand]) -> list[list[Strand]]:
    """Those that are trained side by side, one group after the other."""
    waiting = [one.planned.batch > 0 or isinstance(one.scheduler, Population) for one in strands]
    alone = [[one] for one, waits in zip(strands, waiting, strict=True) if waits]
    together = [one for one, waits in zip(strands, waiting, strict=True) if not waits]
    return [together, *alone] if together else alone


class Turns(Searcher):
    """Asks the search whose turn it is for its next trial, and tells each of its own."""

    def __init__(self, strands: Sequence[Strand]) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.searchers = {one.name: one.searcher for one in strands}
        self.tallies = {one.name: one.recorder.tally for one in strands}
        self.given = {one.name: one.n_ended for one in strands}
        self.open = [one.name for one in strands]
        self.owners: dict[str, Searcher] = {}  # by Ray's name for the trial

    def suggest(self, trial_id: str) -> Any:
        """The next config; None where all wait for something; FINISHED where none has any more."""
        for name in sorted(self.open, key=lambda name: self.given[name]):
            if self.tallies[name].verdict:  # given up; the others go on
                self.open.remove(name)
                continue
            config = self.searchers[name].suggest(trial_id)
            if config == Searcher.FINISHED:
                self.open.remove(name)
            elif config is not None:
                self.given[name] += 1
                self.owners[trial_id] = self.searchers[name]
                return config
        return None if self.open else Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Tell the search whose trial it is."""
        self.owners[trial_id].on_trial_result(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the search whose trial it was."""
        self.owners[trial_id].on_trial_complete(trial_id, result=result, error=error)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: a resumed search is told its past by its journal."""


class OwnRules(InOrder):
    """Asks each search's own stopping rule about its trials, and sends their checkpoints to its own folder."""

    def __init__(self, strands: Sequence[Strand]) -> None:
        super().__init__()
        self.rules = {one.name: one.scheduler for one in strands}
        self.folders = {one.name: one.planned.folder for one in strands}

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """A new trial."""
        settle(trial, self.folders[trial.config["search"]])
        self._rule(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """CONTINUE or STOP."""
        return self._rule(trial).on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """A trial that ended by itself."""
        self._rule(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """A trial that failed."""
        self._rule(trial).on_trial_error(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """A trial that was taken out."""
        self._rule(trial).on_trial_remove(tune_controller, trial)

    def _rule(self, trial: Trial) -> TrialScheduler:
        return self.rules[trial.config["search"]]


def settle(trial: Trial, folder: Path) -> None:
    """Have Ray keep the trial's checkpoints in its search's own folder, as it does for a search alone.

    Ids repeat from search to search; its own place also keeps Ray from giving the second of a name another one.
    """
    own = copy.copy(trial.storage)
    assert own is not None
    own.storage_fs_path = folder.parent.as_posix()
    own.experiment_dir_name = f"{folder.name}/{CHECKPOINTS}"
    own._create_validation_file()  # without its mark there Ray writes nothing
    trial.set_storage(own)


class OwnBudgets:
    """Asks each search's own budgets whether a trial's report is its last."""

    def __init__(self, strands: Sequence[Strand]) -> None:
        self.budgets = {one.name: one.budgets for one in strands if one.budgets}

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Ray's form of it."""
        budgets = self.budgets.get(result["config"]["search"])
        return budgets is not None and budgets.stops(trial_id, result)


class Recorders(tune.Callback):
    """Hands what happens to a trial to its search's own recorder, and what happens to all to each."""

    def __init__(self, strands: Sequence[Strand]) -> None:
        self.recorders = {one.name: one.recorder for one in strands}
        for recorder in self.recorders.values():
            recorder.alone = False
        self.listening = False

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles its callbacks, and the recorders hold open files."""
        return {}

    def setup(self, *spec: Any, **info: Any) -> None:
        """From now on Tune's own loop answers SIGUSR1."""
        for recorder in self.recorders.values():
            recorder.setup(*spec, **info)
        self.listening = True

    def _each(self, hook: str, iteration: int, trials: list[Trial], **info: Any) -> None:
        for recorder in self.recorders.values():
            getattr(recorder, hook)(iteration, trials, **info)

    def _own(
        self, hook: str, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        getattr(self.recorders[trial.config["search"]], hook)(iteration, trials, trial, **info)

    on_step_begin = partialmethod(_each, "on_step_begin")
    on_step_end = partialmethod(_each, "on_step_end")
    on_trial_start = partialmethod(_own, "on_trial_start")
    on_trial_result = partialmethod(_own, "on_trial_result")
    on_trial_complete = partialmethod(_own, "on_trial_complete")
    on_trial_error = partialmethod(_own, "on_trial_error")
    on_trial_recover = partialmethod(_own, "on_trial_recover")
    on_checkpoint = partialmethod(_own, "on_checkpoint")


def parts(strands: Sequence[Strand]) -> tuple[Searcher, TrialScheduler, Recorder | Recorders]:
    """What Ray Tune is given: a search's own where it is alone, else what deals between them."""
    if len(strands) == 1:
        return strands[0].searcher, strands[0].scheduler, strands[0].recorder
    return Turns(strands), OwnRules(strands), Recorders(strands)
