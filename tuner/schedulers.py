"""Which trials are stopped early: ASHA made safe, or none.

NaN, missing   a diverged trial ends itself and is not recorded at any rung
a tie          goes on: only an accuracy below the rung's cutoff stops a trial
first phases   have ranked_epoch 0, below every rung, and are not ranked
the default    the first trial is trained in full, whatever its rungs say: everything is compared with it
"""

from __future__ import annotations

import math
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from tuner.samplers import METRIC

REDUCTION = 2  # half of the trials at a rung go on


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

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """CONTINUE or STOP."""
        if not rankable(result):
            return TrialScheduler.CONTINUE
        action = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if trial.config["number"] == 0 else action

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Record the last rung, unless the trial diverged."""
        if rankable(result):
            super().on_trial_complete(tune_controller, trial, result)
        else:
            self._trial_info.pop(trial.trial_id, None)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Forget a trial that failed."""
        self._trial_info.pop(trial.trial_id, None)

    def replay(self, histories: list[tuple[str, list[dict[str, Any]]]]) -> None:
        """Fill the rungs with what past trials reported: (id, results in order)."""
        for identity, results in histories:
            for result in results:
                if rankable(result) and result["ranked_epoch"] > 0:
                    for milestone, recorded in self._brackets[0]._rungs:
                        if result["ranked_epoch"] == milestone:
                            recorded[identity] = result[METRIC]


def rankable(result: dict[str, Any]) -> bool:
    """Whether a report may enter a rung."""
    bad = result.get("diverged") or result.get("failed")
    return not bad and math.isfinite(result.get(METRIC, math.nan))


def make(scheduler: str, epochs: int, grace: int) -> TrialScheduler:
    """The scheduler of that name."""
    return SafeASHA(epochs, grace) if scheduler == "asha" else FIFOScheduler()
