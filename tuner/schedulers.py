"""Which trials are stopped early: ASHA made safe, HyperBand's brackets of it, the median rule, or none.

NaN, missing   a diverged trial ends itself and is not recorded at any rung
a tie          goes on: only an accuracy below the cutoff stops a trial
first phases   have ranked_epoch 0, below every rung, and are not ranked
epochs differ  where they are searched: a rung is a share of the trial's own, so that annealed is compared with annealed
a resumed one  goes on in the rungs it stands in: rungs know a student by its id, not by Ray's name for one attempt
the default    the first trial is trained in full, whatever its rungs say: everything is compared with it

Ray's own HyperBand pauses trials until a whole bracket has arrived, and waits for ever where one of them fails; its
median rule counts a trial's last report twice and takes NaN for a best. Both forget everything on resume. `pbt` is in
population.py.
"""

from __future__ import annotations

import math
from functools import cache
from statistics import fmean, median
from typing import Any, NamedTuple

from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from tuner.samplers import METRIC
from tuner.strategies import FEWEST_OTHERS, cutoff

REDUCTION = 2  # from rung to rung, in epochs
FIRST_ARRIVALS = 3  # trials that pass a rung before it stops any: a cutoff of one or two is luck
BRACKETS = 3  # of HyperBand: first rung at its grace, at twice that, and none


class InOrder(FIFOScheduler):
    """Trials run in the order in which they came; finding the next one does not take longer with each that ended."""

    n_ended = 0  # of the trials that came first, without a gap

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The first that has not begun, else the first that is paused; Ray's own looks at all there ever were."""
        trials = tune_controller.get_trials()
        while self.n_ended < len(trials) and trials[self.n_ended].is_finished():
            self.n_ended += 1
        for status in (Trial.PENDING, Trial.PAUSED):
            for trial in trials[self.n_ended :]:
                if trial.status == status:
                    return trial
        return None


class ById:
    """What every stopping rule here shares: it hears each report once, in order, under the student's id."""

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Metric and mode are set here and nowhere else."""
        return True

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Nothing: a student is known by its first report."""

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """CONTINUE or STOP."""
        if not rankable(result):
            return TrialScheduler.CONTINUE
        return self.decide(trial.config["id"], trial.config["number"], result)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Record the last report, unless the trial diverged or failed."""
        if rankable(result):
            self.decide(trial.config["id"], trial.config["number"], result)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Nothing: what a trial reported before it failed was reported."""

    def replay(self, reports: list[tuple[str, int, dict[str, Any]]]) -> set[str]:
        """Take past reports (id, number, result) in their order; the ids that were to be stopped at their last."""
        stopped = set()
        for identity, number, result in reports:
            stopped.discard(identity)
            if rankable(result) and self.decide(identity, number, result) == TrialScheduler.STOP:
                stopped.add(identity)
        return stopped

    def decide(self, identity: str, number: int, result: dict[str, Any]) -> str:
        """Record a report that may be ranked; CONTINUE or STOP."""
        raise NotImplementedError

    def may_stop(self, identity: str, number: int, result: dict[str, Any]) -> bool:
        """Whether `decide` could say STOP to a report that may be ranked, whatever the others have reported."""
        raise NotImplementedError


class SafeASHA(ById, InOrder, ASHAScheduler):
    """Asynchronous successive halving (Li et al. 2020, arXiv:1810.05934) on the validation accuracy.

    Rungs stand at doublings of the grace period, and the lowest third of a rung ends there, not the lower half.

    With several brackets it is asynchronous HyperBand: a trial belongs to one bracket, by its number, and bracket b has
    its first rung at grace * REDUCTION^b. Trials are dealt to brackets as HyperBand (Li et al. 2018, arXiv:1603.06560)
    does; nobody waits for anybody. The last bracket of HyperBand's three has no rung below the end.
    """

    def __init__(self, epochs: int, grace: int, brackets: int = 1) -> None:
        super().__init__(
            time_attr="ranked_epoch",
            metric=METRIC,
            mode="max",
            max_t=epochs,
            grace_period=grace,
            reduction_factor=REDUCTION,
            brackets=brackets,
        )
        for bracket in self._brackets:
            bracket.cutoff = _cutoff  # type: ignore[method-assign]

    def decide(self, identity: str, number: int, result: dict[str, Any]) -> str:
        """Record a report at the rung it has passed; STOP below the rung's cutoff."""
        bracket = self._brackets[bracket_of(number, len(self._brackets))]
        place = place_of(result, self._max_t)
        due = self._due(identity, number, place)
        few = bool(due) and len(due[0]) < FIRST_ARRIVALS
        student: Any = Known(identity)
        action = bracket.on_result(student, place, result[METRIC])  # type: ignore[arg-type]
        return TrialScheduler.CONTINUE if few or number == 0 else action

    def may_stop(self, identity: str, number: int, result: dict[str, Any]) -> bool:
        """Where the trial stands at a rung that it has not been recorded at."""
        return number > 0 and bool(self._due(identity, number, place_of(result, self._max_t)))

    def _due(self, identity: str, number: int, place: float) -> list[dict[str, float]]:
        """The rungs that a trial has passed and not been recorded at, highest first."""
        bracket = self._brackets[bracket_of(number, len(self._brackets))]
        return [
            recorded
            for milestone, recorded in bracket._rungs
            if place >= milestone and identity not in recorded
        ]


class SafeMedian(ById, InOrder):
    """The median stopping rule of Vizier (Golovin et al. 2017, section 3.2.2), from the grace epoch on.

    A trial ends where its best accuracy so far lies below the median of the others' mean accuracies, each mean taken
    from the grace epoch to this one, over at least FEWEST_OTHERS others that have come as far.
    """

    def __init__(self, epochs: int, grace: int) -> None:
        super().__init__()
        self.epochs, self.grace = epochs, grace
        self.curves: dict[str, dict[float, float]] = {}  # by id: place -> accuracy

    def decide(self, identity: str, number: int, result: dict[str, Any]) -> str:
        """Record a report; STOP below the median."""
        place = place_of(result, self.epochs)
        own = self.curves.setdefault(identity, {})
        own[place] = result[METRIC]
        if place < self.grace or number == 0:
            return TrialScheduler.CONTINUE
        means = [
            fmean(value for at, value in curve.items() if self.grace <= at <= place)
            for other, curve in self.curves.items()
            if other != identity and max(curve) >= place
        ]
        behind = len(means) >= FEWEST_OTHERS and max(own.values()) < median(means)
        return TrialScheduler.STOP if behind else TrialScheduler.CONTINUE

    def may_stop(self, identity: str, number: int, result: dict[str, Any]) -> bool:
        """From the grace epoch on."""
        return number > 0 and place_of(result, self.epochs) >= self.grace


def _cutoff(recorded: dict[str, float]) -> float | None:
    """Ray's own is the median where rungs double."""
    return cutoff(recorded.values()) if recorded else None


class Known(NamedTuple):
    """What Ray's rungs ask of a trial."""

    trial_id: str


@cache
def bracket_of(number: int, brackets: int) -> int:
    """The bracket of a trial: shares REDUCTION^s / (s + 1), s counted from the last bracket, dealt out evenly."""
    weights = [REDUCTION**s / (s + 1) for s in reversed(range(brackets))]
    before = [bracket_of(n, brackets) for n in range(number)] if brackets > 1 else [0] * number
    owed = [
        (number + 1) * weight / sum(weights) - before.count(b) for b, weight in enumerate(weights)
    ]
    return owed.index(max(owed))


def place_of(result: dict[str, Any], epochs: int) -> float:
    """How far a trial has come, in epochs of a trial of `epochs`: the share of its own that are ranked."""
    return float(result["ranked_epoch"]) * epochs / float(result["epochs"])


def rankable(result: dict[str, Any]) -> bool:
    """Whether a report may be ranked."""
    value = result.get(METRIC)
    bad = result.get("diverged") or result.get("failed")
    return not bad and value is not None and math.isfinite(value)


def make(scheduler: str, epochs: int, grace: int) -> TrialScheduler:
    """The stopping rule of that name; `pbt`, which stops nobody, is made by population.py."""
    if scheduler == "median":
        return SafeMedian(epochs, grace)
    if scheduler in ("asha", "hyperband"):
        return SafeASHA(epochs, grace, BRACKETS if scheduler == "hyperband" else 1)
    return InOrder()
