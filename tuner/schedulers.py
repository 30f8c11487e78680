"""Which trials are stopped early: ASHA made safe, or none.

NaN, missing   a diverged trial ends itself and is not recorded at any rung
a tie          goes on: only an accuracy below the rung's cutoff stops a trial
first phases   have ranked_epoch 0, below every rung, and are not ranked
a resumed one  goes on in the rungs it stands in: rungs know a student by its id, not by Ray's name for one attempt
the default    the first trial is trained in full, whatever its rungs say: everything is compared with it
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from tuner.samplers import METRIC

REDUCTION = 2  # half of the trials at a rung go on
FIRST_ARRIVALS = 3  # trials that pass a rung before it stops any: a cutoff of one or two is luck


class SafeASHA(ASHAScheduler):
    """Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934) on the validation accuracy."""

    def __init__(self, epochs: int, grace: int) -> None:
        super().__init__(
            time_attr="ranked_epoch",
            metric=METRIC,
            mode="max",
            max_t=epochs,
            grace_period=grace,
            reduction_factor=REDUCTION,
        )

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Metric and mode are set here and nowhere else."""
        return True

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Rungs go by the student's id, which a resumed search keeps, not by Ray's."""
        student: Any = Known(trial.config["id"])
        super().on_trial_add(tune_controller, student)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """CONTINUE or STOP."""
        if not rankable(result):
            return TrialScheduler.CONTINUE
        return self._decide(trial.config["id"], trial.config["number"], result)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Record the last rung, unless the trial diverged or failed."""
        if rankable(result):
            self._decide(trial.config["id"], trial.config["number"], result)
        self._trial_info.pop(trial.config["id"], None)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Forget a trial that failed."""
        self._trial_info.pop(trial.config["id"], None)

    def replay(self, reports: list[tuple[str, int, dict[str, Any]]]) -> set[str]:
        """Take past reports (id, number, result) in their order; the ids that were to be stopped at their last."""
        stopped = set()
        for identity, number, result in reports:
            stopped.discard(identity)
            if rankable(result) and self._decide(identity, number, result) == TrialScheduler.STOP:
                stopped.add(identity)
        return stopped

    def _decide(self, identity: str, number: int, result: dict[str, Any]) -> str:
        rungs = self._brackets[0]._rungs
        epoch = result[self._time_attr]
        due = [
            recorded
            for milestone, recorded in rungs
            if epoch >= milestone and identity not in recorded
        ]
        few = bool(due) and len(due[0]) < FIRST_ARRIVALS
        student: Any = Known(identity)
        action = self._brackets[0].on_result(student, epoch, result[METRIC])
        return TrialScheduler.CONTINUE if few or number == 0 else action


class Known(NamedTuple):
    """What Ray's rungs ask of a trial."""

    trial_id: str


def rankable(result: dict[str, Any]) -> bool:
    """Whether a report may enter a rung."""
    value = result.get(METRIC)
    bad = result.get("diverged") or result.get("failed")
    return not bad and value is not None and math.isfinite(value)


def make(scheduler: str, epochs: int, grace: int) -> TrialScheduler:
    """The scheduler of that name."""
    return SafeASHA(epochs, grace) if scheduler == "asha" else FIFOScheduler()
