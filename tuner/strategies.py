"""How configurations are chosen and which trials end early: the names, what `auto` means, and what makes no sense.

Names and rules only, so that --help, --list and --plan need neither Optuna nor Ray; samplers.py and schedulers.py do
the work. The rules come from simulated searches (benchmarks/search_quality.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from search_spaces import Domain
from tuner.objectives import USUAL, Goals

SEARCHES = {
    "auto": "gp for up to 4 numeric dimensions, 250 trials, one objective and no early stopping, tpe otherwise",
    "tpe": "tree of Parzen estimators: any space, any number of trials, learns from stopped trials",
    "gp": "Gaussian process: few numeric dimensions, few trials, each trained in full",
    "cmaes": "evolution of a normal distribution: numeric dimensions, hundreds of trials",
    "qmc": "Sobol points: spreads evenly, learns nothing",
    "nsga2": "genetic algorithm: hundreds of trials, any space",
    "random": "random points: the baseline of every search",
    "grid": "every combination of grid(...) and choice(...) values",
}
SCHEDULERS = {
    "auto": "none below 24 trials or where trials are judged by more than accuracy, else asha",
    "asha": "successive halving, mildly: a trial in the lowest third of a rung ends",
    "hyperband": "asha in three brackets: first rung at a quarter, at half, or never; hedges over slow learners",
    "median": "a trial ends where its best is below the median of the others' mean accuracy so far",
    "pbt": "population-based training: the worst quarter goes on from the best quarter's weights, settings changed",
    "none": "every trial is trained in full",
}
FEWEST_TO_STOP = 24  # trials; below, a rung says too little and early stopping saves little
ENDED = 1 / 3  # of a rung; half, as is usual, loses more where slow learners end higher
MOST_FOR_GP = 4  # dimensions; beyond, 32 trials tell a Gaussian process too little
MOST_GP_TRIALS = 250  # its time grows with the cube of them: a second a suggestion at about 600
FEWEST_OTHERS = 5  # trials whose mean the median rule compares with
FEWEST_MEMBERS = 4  # of a population: a quarter of it is one
FEWEST_RUNGS = 4  # epochs that hyperband's quarters need
FOR_SEVERAL = ("tpe", "gp", "nsga2", "qmc", "random", "grid")  # searches with several objectives
DRAWN_AT_ONCE = ("qmc", "random")  # learn nothing, so that a whole population can be drawn


def scheduler_of(asked: str, n_trials: int, goals: Goals = USUAL) -> str:
    """The scheduler that `asked` means for so many trials."""
    if asked != "auto":
        return asked
    return "asha" if n_trials >= FEWEST_TO_STOP and not goals.in_full else "none"


def search_of(
    asked: str,
    scheduler: str,
    searched: Mapping[str, Domain],
    n_trials: int,
    goals: Goals = USUAL,
) -> str:
    """The sampler that `asked` means beside a scheduler in a space.

    A population is drawn before any of it is trained: there evenly spread points are all that can be had. For several
    objectives it is tpe, as in Optuna: nsga2 takes hundreds of trials, and gp a model of each objective.
    """
    if asked != "auto":
        return asked
    if scheduler == "pbt":
        return "qmc"
    plain = all(not domain.values and not domain.when for domain in searched.values())
    few = 0 < len(searched) <= MOST_FOR_GP and n_trials <= MOST_GP_TRIALS and not goals.several
    return "gp" if plain and scheduler == "none" and few else "tpe"


def cutoff(recorded: Collection[float]) -> float:
    """The accuracy at a rung below which a trial ends: ENDED of those recorded there (one at least) lie lower.

    Where it falls between two of them it lies between them in proportion, as a percentile does.
    """
    ranked = sorted(recorded)
    place = ENDED * (len(ranked) - 1)
    low = int(place)
    above = ranked[min(low + 1, len(ranked) - 1)]
    return ranked[low] + (place - low) * (above - ranked[low])


def check_goals(search: str, scheduler: str, goals: Goals) -> None:
    """Raise ValueError where a sampler or a scheduler cannot work towards the objectives and constraints."""
    if goals.several and search not in FOR_SEVERAL:
        raise ValueError(
            f"--search must be one of {', '.join(FOR_SEVERAL)} for several objectives, got {search}"
        )
    if scheduler != "none" and goals.in_full:
        raise ValueError(
            f"--scheduler must be none or auto here, because {goals.in_full}, got {scheduler}"
        )


def check_search(search: str, searched: Mapping[str, Domain]) -> None:
    """Raise ValueError where a sampler cannot sample the space."""
    if search == "grid":
        loose = [name for name, domain in searched.items() if domain.word not in ("grid", "choice")]
        if loose or not searched:
            got = f"{loose[0]}: {searched[loose[0]]}" if loose else "nothing searched"
            raise ValueError(
                f"--search grid must have every searched dimension as grid(...), got {got}"
            )
        return
    grids = [name for name, domain in searched.items() if domain.word == "grid"]
    if grids:
        raise ValueError(
            f"grid(...) must go with --search grid, got {grids[0]} under --search {search}"
        )
    numeric = [name for name, domain in searched.items() if not domain.values and not domain.when]
    if search == "cmaes" and len(numeric) < 2:
        raise ValueError(
            "--search cmaes must have at least 2 numeric dimensions without conditions, "
            f"got {', '.join(numeric) or 'none'}"
        )


def check_scheduler(
    scheduler: str, asked_search: str, n_trials: int, epochs: int, changeable: Iterable[str]
) -> None:
    """Raise ValueError where a scheduler makes no sense; `changeable` is what may change while a student is trained.

    `epochs` are those of a full training.
    """
    if scheduler in ("asha", "median") and epochs < 2:
        raise ValueError(f"--scheduler {scheduler} must have at least 2 epochs, got {epochs}")
    if scheduler == "hyperband" and epochs < FEWEST_RUNGS:
        raise ValueError(
            f"--scheduler hyperband must have at least {FEWEST_RUNGS} epochs, got {epochs}"
        )
    if scheduler == "median" and n_trials <= FEWEST_OTHERS:
        raise ValueError(
            f"--scheduler median must have more than {FEWEST_OTHERS} trials to compare, got {n_trials}"
        )
    if scheduler == "pbt":
        _check_population(asked_search, n_trials, epochs, list(changeable))


def _check_population(asked_search: str, n_trials: int, epochs: int, changeable: list[str]) -> None:
    if asked_search not in ("auto", *DRAWN_AT_ONCE):
        raise ValueError(
            f"--scheduler pbt must go with --search auto, {' or '.join(DRAWN_AT_ONCE)}, "
            f"because its population is drawn before anything can be learnt, got {asked_search}"
        )
    if n_trials < FEWEST_MEMBERS:
        raise ValueError(
            f"--scheduler pbt must have at least {FEWEST_MEMBERS} trials, got {n_trials}"
        )
    if epochs < 2:
        raise ValueError(f"--scheduler pbt must have at least 2 epochs, got {epochs}")
    if not changeable:
        raise ValueError(
            "--scheduler pbt must search something that can change during training (a number of the loss, lr, "
            "weight_decay or momentum, without a condition), got nothing of the kind"
        )
