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
    several objectives       a value each; whoever lacks one, diverged or not measured, is told as diverged.
    a constraint             tpe, gp and nsga2 are told by how much the worst one is missed; to the others, which ignore
                             that, such a trial is told as a diverged one. Broken before training: likewise, no value.
    a condition              a dimension only where it holds (define by run); Ray's cannot be given first values there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection
from optuna.trial import TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from search_spaces import Domain
from search_spaces.conditions import settle
from trainables.seeding import seed_of
from tuner.objectives import ACCURACY, USUAL, Goals

METRIC = ACCURACY.name  # what schedulers read
COUNTING = ("cmaes", "nsga2", "qmc")  # samplers whose next draw depends on how many they have drawn
COMPLETE_ONLY = ("gp", "cmaes", "nsga2")  # samplers that ignore pruned trials
CONSTRAINED = ("tpe", "gp", "nsga2")  # samplers that heed constraints
Config = dict[str, Any]


def nobody(number: int) -> bool:
    """Refuses no trial."""
    return False


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
        goals: Goals = USUAL,
        refuses: Callable[[int], bool] = nobody,
    ) -> None:
        """`first` holds the first trial's values, if any; `known` what stands where a condition does not hold.

        A trial whose number `refuses` says yes to is not handed out any more: a budget is used up.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.known = dict(space), dict(known or {})
        self.distributions = {name: distribution(domain) for name, domain in space.items()}
        self.search_seed, self.complete_config, self.n_trials = seed, complete, n_trials
        self.sampler_kind, self.slots, self.first = search, slots, dict(first)
        self.refuses, self.number, self.goals = refuses, 0, goals
        self.waiting: list[Config] = []  # unfinished trials of an interrupted search, to go on with
        super().__init__(
            self.distributions,
            metric=METRIC,
            mode="max",
            sampler=optuna.samplers.RandomSampler(seed),
        )
        way = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
        ways = [way[one.direction] for one in goals.objectives]
        self._ot_study: Any = optuna.create_study(directions=ways)

    @property
    def study(self) -> optuna.Study:
        """Optuna's study, in the place of the one that Ray's constructor makes."""
        return cast(optuna.Study, self._ot_study)

    @property
    def coming(self) -> int | None:
        """The number of the trial that is handed out next, or None."""
        waiting = [one["number"] for one in self.waiting if not self.refuses(one["number"])]
        if waiting:
            return int(waiting[0])
        return (
            self.number if self.number < self.n_trials and not self.refuses(self.number) else None
        )

    def suggest(self, trial_id: str) -> Any:
        """The next trial's config, or FINISHED."""
        self.waiting = [one for one in self.waiting if not self.refuses(one["number"])]
        if self.coming is None:
            return Searcher.FINISHED
        config = self.waiting.pop(0) if self.waiting else self._drawn()
        self._ot_trials[trial_id] = config.pop("study_trial")
        return config

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

    def learn(self, earlier: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        """Tell the study of other searches' trials, each (values, last result); before `replay` and the first trial."""
        for number, (values, result) in enumerate(earlier, -len(earlier)):
            self._tell(self._ask(number, values), result, error=False)

    def replay(self, past: Iterable[tuple[Config, dict[str, Any] | None, bool]]) -> None:
        """Bring the study to where an interrupted search left it.

        `past` holds, by number, (config, last result or None while unfinished, whether it failed). Unfinished ones are
        handed out again first.
        """
        for config, result, error in past:
            ended = result is not None or error
            trial_id = self.recall(config, ended=ended)
            if ended:
                self.on_trial_complete(trial_id, result, error)

    def recall(self, config: Config, *, ended: bool) -> str:
        """Ask for a past trial's values again; the id under which one that has ended is told of, others are handed out.

        A trial that had been drawn before it and never begun is drawn again, the same.
        """
        while self.number < config["number"]:
            self.waiting.append(self._drawn())
        hyper, trial_id = config["hyper"], f"past-{config['number']}"
        trial = self._ask(config["number"], {k: hyper[k] for k in self.space if k in hyper})
        self.number = config["number"] + 1
        if ended:
            self._ot_trials[trial_id] = trial
        else:
            self.waiting.append({**config, "study_trial": trial})
        return trial_id

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: a resumed search is told its past by the journal."""

    def _drawn(self) -> Config:
        """A new trial's config, with the study's trial in it."""
        number, self.number = self.number, self.number + 1
        trial = self._ask(number)
        return {**self.complete_config(number, dict(trial.params)), "study_trial": trial}

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
        tell(
            self.study,
            trial,
            result,
            error=error,
            prunes=self.sampler_kind not in COMPLETE_ONLY,
            heeds=self.sampler_kind in CONSTRAINED,
            goals=self.goals,
        )


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
    heeds: bool = True,
    goals: Goals = USUAL,
) -> None:
    """Tell the study one trial's end; NaN and missing values never reach it.

    Without `prunes`, for samplers that ignore pruned trials, a stopped one is told as complete, and a diverged one with
    the worst values so far: 0 would be so far away that the others looked alike. The first of all is told as failed.
    `heeds` says whether the sampler makes use of constraints.
    """
    if error or result is None or result.get("failed"):
        study.tell(trial, state=TrialState.FAIL)
        return
    values = goals.values(result)
    bad = bool(result.get("diverged") or result.get("infeasible")) or values is None
    if goals.constraints and heeds:
        # one number, and always one: gp wants as many of every trial
        trial.set_constraint("constraints", goals.gap(result))
    elif not goals.met(result):
        bad = True
    if bad or values is None:
        worst = None if prunes else worst_values(study)
        if worst is not None:
            study.tell(trial, worst)
        else:
            study.tell(trial, state=TrialState.PRUNED if prunes else TrialState.FAIL)
    elif prunes and result["epoch"] < result["epochs"]:
        trial.report(values[0], result["epoch"])
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, values)


def worst_values(study: optuna.Study) -> Sequence[float] | None:
    """The worst value of each objective that the study was told; None before the first."""
    told = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not told:
        return None
    ways = [min if way == StudyDirection.MAXIMIZE else max for way in study.directions]
    return [
        worst(some)
        for worst, some in zip(ways, zip(*(t.values for t in told), strict=True), strict=True)
    ]


class Listed(Searcher):
    """A fixed list of configs, in order: a grid, or the confirmation's students; those it `refuses` are left out."""

    def __init__(self, configs: Iterable[Config], refuses: Callable[[int], bool] = nobody) -> None:
        super().__init__(metric=METRIC, mode="max")
        self.configs, self.refuses = list(configs), refuses

    @property
    def coming(self) -> int | None:
        """The number of the trial that is handed out next, or None."""
        numbers = (int(config["number"]) for config in self.configs)
        return next((number for number in numbers if not self.refuses(number)), None)

    def suggest(self, trial_id: str) -> Any:
        """The next config, or FINISHED."""
        while self.configs:
            config = self.configs.pop(0)
            if not self.refuses(config["number"]):
                return config
        return Searcher.FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing to learn from."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: a resumed search is told its past by the journal."""
