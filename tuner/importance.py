"""How much each searched hyperparameter decided: Optuna's fANOVA over the trials that were trained in full.

Hutter, Hoos, Leyton-Brown. An Efficient Approach for Assessing Hyperparameter Importance. ICML 2014: a random forest is
fitted to (setting, validation accuracy); a dimension's importance is the share of the forest's variance that it
explains alone. Shares sum to 1 over the dimensions; what two do together is in neither. From few trials they are rough.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial

from search_spaces import Domain
from tuner.journal import Story, Student
from tuner.plan import Plan
from tuner.samplers import distribution

FEWEST = 8  # trials; a forest of fewer has nothing to split
RESAMPLES, CUT = 20, 2  # and how many at either end are left out of the range
TREES, RESAMPLE_TREES = 64, 8  # Optuna's own; of a resample, where twenty must not take long
MOST_RESAMPLED = 64  # trials; the forests of more take long, and their shares hardly move


@dataclass(frozen=True)
class Share:
    """A dimension's part in the differences between trials."""

    name: str
    share: float  # of 1
    low: float  # the middle of what resampled trials give; the share itself where nothing was resampled
    high: float


@dataclass(frozen=True)
class Importances:
    """The shares, largest first; none where they could not be had, and why."""

    shares: tuple[Share, ...]
    said: str

    def rows(self) -> list[list[str]]:
        """Percent, header first; nothing without shares."""
        found = [
            [one.name, f"{100 * one.share:.0f}", f"{100 * one.low:.0f} to {100 * one.high:.0f}"]
            for one in self.shares
        ]
        return [["hyperparameter", "importance", "range"], *found] if found else []


def importances(planned: Plan, told: Story) -> Importances:
    """Each dimension's share, of those that every trial has."""
    domains = {name: domain for name, domain in planned.searched.items() if not domain.when}
    trials = _trials(domains, told.of_kind("search"))
    reason = _why_not(planned, domains, trials)
    if reason:
        return Importances((), reason)
    shares = _shares(trials, TREES)
    draws = random.Random(planned.settings.seed)
    resamples = RESAMPLES if len(trials) <= MOST_RESAMPLED else 0
    again = [
        _shares(draws.choices(trials, k=len(trials)), RESAMPLE_TREES) for _ in range(resamples)
    ]
    found = (
        _with_range(name, shares[name], [one[name] for one in again if one]) for name in shares
    )
    ordered = tuple(sorted(found, key=lambda one: -one.share))
    return Importances(ordered, _in_words(planned, ordered, len(trials)))


def _with_range(name: str, share: float, again: list[float]) -> Share:
    """A share with the range of resampled ones, their extremes left out; it always holds the share itself."""
    middle = sorted(again)[CUT : len(again) - CUT]
    return Share(name, share, min([share, *middle]), max([share, *middle]))


def _why_not(
    planned: Plan, domains: dict[str, Domain], trials: Sequence[FrozenTrial]
) -> str | None:
    """Why there are no numbers, or None."""
    if planned.scheduler == "pbt":
        return "No importances: a population changes its settings in mid-training."
    if len(domains) < 2:
        return "No importances: fewer than two hyperparameters were searched in every trial."
    if len(trials) < FEWEST:
        return f"No importances: they need {FEWEST} trials trained in full, and {len(trials)} were."
    if len({trial.value for trial in trials}) < 2:
        return "No importances: all trials ended equal."
    return None


def _trials(domains: dict[str, Domain], students: Sequence[Student]) -> list[FrozenTrial]:
    """The trials trained in full as Optuna keeps them; a first trial outside a grid is left out."""
    distributions = {name: distribution(domain) for name, domain in domains.items()}
    return [
        optuna.trial.create_trial(
            params={name: one.hyper[name] for name in domains},
            distributions=distributions,
            value=one.accuracy,
        )
        for one in students
        if one.complete
        and all(domain.holds(one.hyper.get(name)) for name, domain in domains.items())
    ]


def _shares(trials: Sequence[FrozenTrial], n_trees: int) -> dict[str, float]:
    """fANOVA's shares; nothing where all trials are equal."""
    if len({trial.value for trial in trials}) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dimensions that one resample does not vary
        found = get_param_importances(
            study, evaluator=FanovaImportanceEvaluator(n_trees=n_trees, seed=0)
        )
    return {name: float(share) for name, share in found.items()}


def _in_words(planned: Plan, shares: Sequence[Share], n: int) -> str:
    """Who decided most, and how far that can be trusted."""
    first, *others = shares
    said = [
        f"{first.name} decided most: {100 * first.share:.0f} % of what single hyperparameters explain of the "
        f"differences between the {n} trials trained in full (fANOVA).",
        "What two do only together is in none of the numbers.",
    ]
    if n <= MOST_RESAMPLED:
        said.append("From so few trials they are rough: the range is over resampled trials.")
    rivals = [one.name for one in others if one.high >= first.low]
    if rivals:
        said.append(f"The ranges overlap: it may as well be {' or '.join(rivals)}.")
    conditional = [name for name, domain in planned.searched.items() if domain.when]
    if conditional:
        said.append(f"Left out, as not every trial has it: {', '.join(conditional)}.")
    return " ".join(said)
