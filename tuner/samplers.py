"""Which configuration is tried next: Optuna behind Ray's OptunaSearch made safe, or a list.

Beside importance.py, which looks back, the only file that imports optuna. What Ray's own OptunaSearch gets wrong and
this one does not:

    a diverged trial (NaN)   Ray: RUNNING in the study for ever. Here: tpe is told PRUNED without a value, which it
                             ranks last; the others, which ignore that, the worst value of the search so far.
    a failed trial           FAIL, which samplers ignore: a broken worker says nothing of the configuration.
    a stopped trial          Ray: COMPLETE with its last value. Here: PRUNED with its last value and epoch for tpe,
                             which learns as much from it; COMPLETE for gp, cmaes and nsga2, which ignore what was
                             pruned and would search on as if nobody had been there.
    a tie                    Optuna keeps the order of arrival.
    the random stream        seeded anew by (seed, trial number): a resumed search draws what it would have drawn.
    a condition              a dimension only where it holds (define by run); Ray's cannot be given first values there.
"""

from __future__ import annotations

import math
import warnings
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
from search_spaces.conditions import settle
from trainables.seeding import seed_of

METRIC = "val/accuracy"
COUNTING = ("cmaes", "nsga2", "qmc")  # samplers whose next draw depends on how many they have drawn
COMPLETE_ONLY = ("gp", "cmaes", "nsga2")  # samplers that ignore pruned trials
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


def startup_trials(n_dimensions: int, slots: int) -> int:
    """Random trials before a sampler believes its model: two more than dimensions, and one for each slot.

    Optuna's 10 are a third of a search of 32; what slots draw before the first result cannot be learnt from anyway.
    """
    return max(n_dimensions + 2, slots)


def make_sampler(
    search: str,
    distributions: Mapping[str, BaseDistribution],
    slots: int,
    seed: int,
    *,
    conditional: bool = False,
) -> optuna.samplers.BaseSampler:
    """The sampler of that name, with a start-up fitted to dimensions and concurrency.

    Where dimensions are `conditional`, tpe models those together that appear together; the others draw them at random.
    """
    samplers, startup = optuna.samplers, startup_trials(len(distributions), slots)
    if search == "tpe":
        return samplers.TPESampler(
            n_startup_trials=startup,
            multivariate=True,
            group=conditional,
            constant_liar=True,
            seed=seed,
        )
    if search == "gp":
        return samplers.GPSampler(
            n_startup_trials=startup, warn_independent_sampling=False, seed=seed
        )
    if search == "cmaes":
        return samplers.CmaEsSampler(
            n_startup_trials=startup, warn_independent_sampling=False, seed=seed
        )
    if search == "nsga2":
        return samplers.NSGAIISampler(population_size=2 * startup, seed=seed)
    if search == "qmc":
        return Sobol(distributions, seed)
    return samplers.RandomSampler(seed)


class Sobol(optuna.samplers.QMCSampler):
    """Scrambled Sobol points over the whole space.

    Optuna's own takes the space from the first trial that ended, and draws at random what is missing there.
    """

    def __init__(self, distributions: Mapping[str, BaseDistribution], seed: int) -> None:
        super().__init__(scramble=True, seed=seed, warn_independent_sampling=False)
        self.distributions = dict(distributions)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Every dimension, also those whose condition does not hold."""
        return {name: d for name, d in self.distributions.items() if not d.single()}


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
        known: Mapping[str, Any] | None = None,
    ) -> None:
        """`first` holds the first trial's values, if any; `known` what stands where a condition does not hold."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.known = dict(space), dict(known or {})
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
        self._tell(self._ot_trials[trial_id], result, error=error)

    def replay(self, past: Iterable[tuple[Config, dict[str, Any] | None, bool]]) -> None:
        """Bring the study to where an interrupted search left it.

        `past` holds, by number, (config, last result or None while unfinished, whether it failed). Unfinished ones are
        handed out again first.
        """
        for config, result, error in past:
            hyper = config["hyper"]
            trial = self._ask(config["number"], {k: hyper[k] for k in self.space if k in hyper})
            self.number = config["number"] + 1
            if result is None and not error:
                self.waiting.append({**config, "study_trial": trial})
            else:
                self._tell(trial, result, error=error)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: a resumed search is told its past by the journal."""

    def _ask(self, number: int, known: dict[str, Any] | None = None) -> optuna.Trial:
        """A new trial in the study: of known values, of the first trial's, or of the sampler's."""
        values = known or (self.first if number == 0 else None)
        if values:
            self.study.enqueue_trial(values)
        # a Sobol sequence has one seed; what learns or draws has one for each trial
        purpose = ("sobol", 0) if self.sampler_kind == "qmc" else ("suggest", number)
        seed = seed_of(self.search_seed, *purpose) % 2**32
        conditional = any(domain.when for domain in self.space.values())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.sampler = make_sampler(
                self.sampler_kind, self.distributions, self.slots, seed, conditional=conditional
            )
        trial = self.study.ask()
        if self.sampler_kind in COUNTING:
            _ = (
                trial.relative_params
            )  # counted even where the values are known already, as in a replay
        settle(self.space, self.known, lambda name, _: suggested(trial, name, self.distributions))
        return trial

    def _tell(self, trial: optuna.Trial, result: dict[str, Any] | None, *, error: bool) -> None:
        tell(self.study, trial, result, error=error, prunes=self.sampler_kind not in COMPLETE_ONLY)


def suggested(trial: optuna.Trial, name: str, distributions: Mapping[str, BaseDistribution]) -> Any:
    """The trial's value of one dimension."""
    d = distributions[name]
    if isinstance(d, CategoricalDistribution):
        return trial.suggest_categorical(name, d.choices)
    if isinstance(d, IntDistribution):
        return trial.suggest_int(name, d.low, d.high, step=d.step, log=d.log)
    assert isinstance(d, FloatDistribution)
    return trial.suggest_float(name, d.low, d.high, step=d.step, log=d.log)


def tell(
    study: optuna.Study,
    trial: optuna.Trial,
    result: dict[str, Any] | None,
    *,
    error: bool,
    prunes: bool = True,
) -> None:
    """Tell the study one trial's end; NaN and missing values never reach it.

    Without `prunes`, for samplers that ignore pruned trials, a stopped one is told as complete, and a diverged one with
    the worst value so far: 0 would be so far away that the others looked alike. The first of all is told as failed.
    """
    value = (result or {}).get(METRIC)
    if error or result is None or result.get("failed"):
        study.tell(trial, state=TrialState.FAIL)
    elif result.get("diverged") or value is None or not math.isfinite(value):
        worst = None if prunes else worst_value(study)
        if worst is not None:
            study.tell(trial, worst)
        else:
            study.tell(trial, state=TrialState.PRUNED if prunes else TrialState.FAIL)
    elif prunes and result["epoch"] < result["epochs"]:
        trial.report(value, result["epoch"])
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, value)


def worst_value(study: optuna.Study) -> float | None:
    """The lowest value that the study was told; None before the first."""
    told = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return min((t.value for t in told if t.value is not None), default=None)


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
