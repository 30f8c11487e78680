"""Which configuration is tried next: Optuna behind Ray's OptunaSearch made safe, or a list.

The only file that imports optuna. What Ray's own OptunaSearch gets wrong and this one does not:

    a diverged trial (NaN)   Ray: RUNNING in the study for ever. Here: PRUNED without a value, which TPE ranks last.
    a failed trial           FAIL, which samplers ignore: a broken worker says nothing of the configuration.
    a stopped trial          Ray: COMPLETE with its last value. Here: PRUNED with its last value and epoch.
    a tie                    Optuna keeps the order of arrival.
    the random stream        seeded anew by (seed, trial number): a resumed search draws what it would have drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from search_spaces import Domain
from trainables.seeding import seed_of

METRIC = "val/accuracy"
Config = dict[str, Any]


def distribution(domain: Domain) -> BaseDistribution:
    """Optuna's form of a domain; integers exclude their upper end, as in Ray Tune."""
    if domain.values:
        return CategoricalDistribution(domain.values)
    if domain.word in ("randint", "lograndint"):
        return IntDistribution(
            int(domain.low), int(domain.high) - 1, log=domain.word == "lograndint"
        )
    if domain.word == "quniform":
        return FloatDistribution(domain.low, domain.high, step=domain.step)
    return FloatDistribution(domain.low, domain.high, log=domain.word == "loguniform")


def make_sampler(
    search: str, n_dimensions: int, slots: int, seed: int
) -> optuna.samplers.BaseSampler:
    """TPE with a start-up fitted to dimensions and concurrency, or random draws."""
    if search == "random":
        return optuna.samplers.RandomSampler(seed)
    startup = max(n_dimensions + 2, slots)
    return optuna.samplers.TPESampler(
        n_startup_trials=startup, multivariate=True, constant_liar=True, seed=seed
    )


class SafeOptunaSearch(OptunaSearch):
    """OptunaSearch over flat names; `complete` turns (number, drawn values) into a trial's config."""

    def __init__(
        self,
        space: Mapping[str, Domain],
        search: str,
        slots: int,
        seed: int,
        complete: Callable[[int, dict[str, Any]], Config],
        first: Mapping[str, Any],
        n_trials: int,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.distributions = {name: distribution(domain) for name, domain in space.items()}
        self.search_seed, self.complete_config, self.n_trials = seed, complete, n_trials
        self.sampler_kind, self.slots, self.first = search, slots, dict(first)
        self.number = 0
        self.waiting: list[Config] = []  # unfinished trials of an interrupted search, to go on with
        super().__init__(
            self.distributions,
            metric=METRIC,
            mode="max",
            sampler=optuna.samplers.RandomSampler(seed),
        )

    @property
    def study(self) -> optuna.Study:
        """Optuna's study, which Ray's constructor makes."""
        return cast(optuna.Study, self._ot_study)

    def suggest(self, trial_id: str) -> Any:
        """The next trial's config, or FINISHED."""
        if self.waiting:
            config = self.waiting.pop(0)
            self._ot_trials[trial_id] = config.pop("study_trial")
            return config
        if self.number >= self.n_trials:
            return Searcher.FINISHED
        number, self.number = self.number, self.number + 1
        self._ot_trials[trial_id] = self._ask(number)
        return self.complete_config(number, dict(self._ot_trials[trial_id].params))

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: values are told at the end, so that a retried epoch cannot be told twice."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study how the trial ended; a second ending of the same trial is ignored."""
        if trial_id in self._completed_trials:
            return
        self._completed_trials.add(trial_id)
        tell(self.study, self._ot_trials[trial_id], result, error=error)

    def replay(self, past: Iterable[tuple[Config, dict[str, Any] | None, bool]]) -> None:
        """Bring the study to where an interrupted search left it.

        `past` holds, by number, (config, last result or None while unfinished, whether it failed). Unfinished ones are
        handed out again first.
        """
        for config, result, error in past:
            trial = self._ask(config["number"], {k: config["hyper"][k] for k in self.distributions})
            self.number = config["number"] + 1
            if result is None and not error:
                self.waiting.append({**config, "study_trial": trial})
            else:
                tell(self.study, trial, result, error=error)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: a resumed search is told its past by the journal."""

    def _ask(self, number: int, known: dict[str, Any] | None = None) -> optuna.Trial:
        """A new trial in the study: of known values, of the first trial's, or of the sampler's."""
        values = known or (self.first if number == 0 else None)
        if values:
            self.study.enqueue_trial(values)
        seed = seed_of(self.search_seed, "suggest", number) % 2**32
        self.study.sampler = make_sampler(
            self.sampler_kind, len(self.distributions), self.slots, seed
        )
        return self.study.ask(fixed_distributions=self.distributions)


def tell(
    study: optuna.Study, trial: optuna.Trial, result: dict[str, Any] | None, *, error: bool
) -> None:
    """Tell the study one trial's end; NaN and missing values never reach it."""
    value = (result or {}).get(METRIC)
    if error or result is None or result.get("failed"):
        study.tell(trial, state=TrialState.FAIL)
    elif result.get("diverged") or value is None or not math.isfinite(value):
        study.tell(trial, state=TrialState.PRUNED)
    elif result["epoch"] < result["epochs"]:
        trial.report(value, result["epoch"])
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, value)


class Listed(Searcher):
    """A fixed list of configs, in order: a grid, or the confirmation's students."""

    def __init__(self, configs: Iterable[Config]) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.configs = list(configs)

    def suggest(self, trial_id: str) -> Any:
        """The next config, or FINISHED."""
        return self.configs.pop(0) if self.configs else Searcher.FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing to learn from."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: a resumed search is told its past by the journal."""
