"""The searcher: what the study is told, and that a search that goes on suggests what it would have suggested."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from search_spaces import Domain, parse
from tuner.samplers import (
    METRIC,
    Config,
    Listed,
    SafeOptunaSearch,
    Sobol,
    distribution,
    make_sampler,
)
from tuner.strategies import SEARCHES, search_of

SPACE = {"temperature": Domain("loguniform", 1, 20), "alpha": Domain("uniform", 0, 1)}
PUBLISHED = {"temperature": 4.0, "alpha": 0.9}
EPOCHS = 8
OPTUNA = [name for name in SEARCHES if name not in ("auto", "grid")]


def searcher(
    search: str = "tpe", seed: int = 0, n_trials: int = 64, slots: int = 1, **more: Any
) -> SafeOptunaSearch:
    def complete(number: int, drawn: dict[str, Any]) -> Config:
        return {"id": f"kd-{number:03d}", "number": number, "hyper": drawn}

    given = {"space": SPACE, "first": PUBLISHED, **more}
    return SafeOptunaSearch(
        search=search, slots=slots, seed=seed, complete=complete, n_trials=n_trials, **given
    )


def result(accuracy: float | None, epoch: int = EPOCHS, **more: Any) -> dict[str, Any]:
    return {
        METRIC: accuracy,
        "epoch": epoch,
        "epochs": EPOCHS,
        "diverged": "",
        "failed": "",
        **more,
    }


def optimum(hyper: dict[str, Any]) -> float:
    """A made-up accuracy with its top at T = 8, alpha = 0.3."""
    return 0.9 - 0.1 * math.log2(hyper["temperature"] / 8) ** 2 - 0.3 * (hyper["alpha"] - 0.3) ** 2


def play(found: SafeOptunaSearch, n: int) -> list[Config]:
    """Suggest and tell `n` trials, one at a time; every third is stopped early, every seventh diverges."""
    configs = []
    for _ in range(n):
        config = found.suggest(f"ray-{found.number}")
        configs.append(config)
        found.on_trial_complete(f"ray-{config['number']}", ending(config))
    return configs


def ending(config: Config) -> dict[str, Any]:
    if config["number"] % 7 == 6:
        return result(math.nan, 3, diverged="ce")
    return result(optimum(config["hyper"]), 2 if config["number"] % 3 == 2 else EPOCHS)


def only_trial(
    last: dict[str, Any] | None, *, error: bool = False, search: str = "tpe"
) -> FrozenTrial:
    """What the study knows of a first trial that ended with `last`."""
    found = searcher(search)
    found.suggest("a")
    found.on_trial_complete("a", last, error=error)
    return found.study.trials[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("uniform(0, 1)", FloatDistribution(0, 1)),
        ("loguniform(1e-3, 1)", FloatDistribution(1e-3, 1, log=True)),
        ("quniform(0, 1, 0.25)", FloatDistribution(0, 1, step=0.25)),
        ("randint(1, 5)", IntDistribution(1, 4)),
        ("lograndint(2, 9)", IntDistribution(2, 8, log=True)),
        ("choice(a, b)", CategoricalDistribution(("a", "b"))),
        ("grid(1, 2)", CategoricalDistribution((1, 2))),
    ],
)
def test_distribution(text: str, expected: BaseDistribution) -> None:
    """By hand: integers exclude their end, as in Ray Tune, and Optuna includes it."""
    domain = parse("x", text)
    assert isinstance(domain, Domain)
    assert distribution(domain) == expected


@pytest.mark.parametrize("search", OPTUNA)
def test_the_first_trial_is_the_published_default(search: str) -> None:
    config = searcher(search).suggest("a")
    assert config == {"id": "kd-000", "number": 0, "hyper": PUBLISHED}


def test_without_a_published_value_the_first_is_drawn() -> None:
    """Inside the space."""
    hyper = searcher(first={}).suggest("a")["hyper"]
    assert all(SPACE[name].holds(value) for name, value in hyper.items())


@pytest.mark.parametrize("search", OPTUNA)
def test_same_seed_same_suggestions(search: str) -> None:
    """Another seed, other ones."""
    first, again, other = (play(searcher(search, seed), 15) for seed in (0, 0, 1))
    assert first == again
    assert [c["hyper"] for c in first[1:]] != [c["hyper"] for c in other[1:]]


@pytest.mark.parametrize("search", OPTUNA)
def test_suggestions_differ_and_lie_in_the_space(search: str) -> None:
    """Seeding each draw anew must not make the draws alike; a child may equal its parent, and a maximum stay one."""
    hypers = [config["hyper"] for config in play(searcher(search), 20)]
    n_different = len({tuple(h.items()) for h in hypers})
    assert n_different >= (14 if search == "nsga2" else 18)
    assert all(SPACE[name].holds(value) for h in hypers for name, value in h.items())


@pytest.mark.parametrize("search", OPTUNA)
@pytest.mark.parametrize("k", [0, 1, 5, 20])
def test_replayed_equals_uninterrupted(search: str, k: int) -> None:
    """After k trials, finished, stopped and diverged, against a searcher that was never interrupted."""
    uninterrupted = searcher(search)
    past = play(uninterrupted, k)
    resumed = searcher(search)
    resumed.replay([(config, ending(config), False) for config in past])
    assert play(resumed, 4) == play(uninterrupted, 4)
    assert [(t.state, t.value, t.params) for t in resumed.study.trials] == [
        (t.state, t.value, t.params) for t in uninterrupted.study.trials
    ]


def test_replay_with_two_at_once_equals_uninterrupted() -> None:
    """One finished, two under way: the same next suggestion; both under way are handed out again first."""
    uninterrupted = searcher(slots=2)
    configs = play(uninterrupted, 8)
    running = [uninterrupted.suggest(f"ray-{n}") for n in (8, 9)]
    resumed = searcher(slots=2)
    resumed.replay(
        [*((c, ending(c), False) for c in configs), *((c, None, False) for c in running)]
    )
    assert [resumed.suggest(f"again-{n}") for n in (8, 9)] == running
    resumed.on_trial_complete("again-8", ending(running[0]))
    uninterrupted.on_trial_complete("ray-8", ending(running[0]))
    assert resumed.suggest("next") == uninterrupted.suggest("next")


def test_a_failed_past_is_replayed_as_failed() -> None:
    found = searcher()
    found.replay([({"number": 0, "hyper": PUBLISHED}, None, True)])
    assert [t.state for t in found.study.trials] == [TrialState.FAIL]
    assert found.suggest("b")["number"] == 1


@pytest.mark.parametrize(
    ("last", "state", "value"),
    [
        (result(0.75), TrialState.COMPLETE, 0.75),
        (result(0.0), TrialState.COMPLETE, 0.0),
        (result(0.5, 3), TrialState.PRUNED, 0.5),
        (result(math.nan), TrialState.PRUNED, None),
        (result(math.inf), TrialState.PRUNED, None),
        (result(None), TrialState.PRUNED, None),
        (result(0.5, diverged="kd"), TrialState.PRUNED, None),
        (result(0.5, failed="OSError: disk"), TrialState.FAIL, None),
        (result(math.nan, 0, failed="OSError: disk"), TrialState.FAIL, None),
        (None, TrialState.FAIL, None),
    ],
)
def test_how_an_end_is_told(
    last: dict[str, Any] | None, state: TrialState, value: float | None
) -> None:
    """The table of the module's docstring; a trial is never left RUNNING."""
    told = only_trial(last)
    assert (told.state, told.value) == (state, value)


@pytest.mark.parametrize("search", ["gp", "cmaes", "nsga2"])
def test_what_ignores_pruned_trials_is_told_values(search: str) -> None:
    """A stopped trial is complete with its last value; a diverged one has the worst so far, the first of all none."""
    found = searcher(search)
    ends = [result(math.nan), result(0.8), result(0.5, 3), result(0.9, 2, diverged="ce")]
    for n, last in enumerate(ends):
        found.suggest(f"ray-{n}")
        found.on_trial_complete(f"ray-{n}", last)
    told = [(t.state, t.value) for t in found.study.trials]
    assert told[0] == (TrialState.FAIL, None)
    assert told[1:] == [(TrialState.COMPLETE, value) for value in (0.8, 0.5, 0.5)]


def test_an_error_is_a_failure_whatever_came_before() -> None:
    assert only_trial(result(0.99), error=True).state == TrialState.FAIL


def test_a_stopped_trial_is_told_at_its_epoch() -> None:
    """Optuna's intermediate values: the last one, at the epoch it belongs to."""
    assert only_trial(result(0.5, 3)).intermediate_values == {3: 0.5}


def test_a_second_ending_is_ignored() -> None:
    """Ray may report an end twice; the first counts."""
    found = searcher()
    found.suggest("a")
    found.on_trial_complete("a", result(0.5))
    found.on_trial_complete("a", result(0.9))
    found.on_trial_complete("a", error=True)
    assert [(t.state, t.value) for t in found.study.trials] == [(TrialState.COMPLETE, 0.5)]


def test_intermediate_reports_tell_nothing() -> None:
    found = searcher()
    found.suggest("a")
    found.on_trial_result("a", result(0.5, 1))
    assert found.study.trials[0].intermediate_values == {}
    assert found.study.trials[0].state == TrialState.RUNNING


def test_finished_after_n_trials() -> None:
    found = searcher(n_trials=3)
    assert [c["number"] for c in play(found, 3)] == [0, 1, 2]
    assert found.suggest("x") == Searcher.FINISHED
    assert len(found.study.trials) == 3


def test_finished_counts_the_replayed() -> None:
    past = play(searcher(n_trials=3), 2)
    found = searcher(n_trials=3)
    found.replay([(config, ending(config), False) for config in past])
    assert found.suggest("a")["number"] == 2
    assert found.suggest("b") == Searcher.FINISHED


def test_the_study_maximises_accuracy() -> None:
    found = searcher()
    play(found, 5)
    assert found.study.direction == StudyDirection.MAXIMIZE
    assert found.study.best_value == max(
        optimum(t.params) for t in found.study.get_trials(states=[TrialState.COMPLETE])
    )


def distance(hyper: dict[str, Any]) -> float:
    """To the optimum, each axis by its length on its own scale."""
    along = math.log(hyper["temperature"] / 8) / math.log(20), hyper["alpha"] - 0.3
    return math.hypot(*along)


def test_tpe_learns_what_random_does_not() -> None:
    """After 40 tells, the median over 5 seeds of the next 5 proposals' distance to the optimum."""
    medians = {}
    for search in ("tpe", "random"):
        found = [searcher(search, seed) for seed in range(5)]
        for one in found:
            play(one, 40)
        medians[search] = statistics.median(
            distance(config["hyper"]) for one in found for config in play(one, 5)
        )
    assert medians["tpe"] < 0.6 * medians["random"]


def test_samplers() -> None:
    """Start-up is fitted to dimensions and concurrency: max(d + 2, slots); half of nsga2's first population."""
    kinds = [TPESampler, GPSampler, CmaEsSampler]
    for n, slots, startup in ((2, 1, 4), (4, 2, 6), (2, 16, 16)):
        space = {f"x{i}": FloatDistribution(0, 1) for i in range(n)}
        made = [make_sampler(search, space, slots, 0) for search in ("tpe", "gp", "cmaes")]
        assert [type(sampler) for sampler in made] == kinds
        assert [sampler._n_startup_trials for sampler in made] == [startup] * 3  # type: ignore[attr-defined]
        genetic = make_sampler("nsga2", space, slots, 0)
        assert isinstance(genetic, NSGAIISampler)
        assert genetic.population_size == 2 * startup
    assert isinstance(make_sampler("random", space, 1, 0), RandomSampler)
    assert isinstance(make_sampler("qmc", space, 1, 0), Sobol)


@pytest.mark.parametrize("search", OPTUNA)
def test_every_sampler_has_its_model_in_use(search: str) -> None:
    """After 15 tells no draw is the one of a sampler that knows nothing of them; random and qmc draw blindly."""
    learnt, blind = searcher(search), searcher(search)
    play(learnt, 15)
    for _ in range(15):
        blind.suggest(f"ray-{blind.number}")
    same = learnt.suggest("next")["hyper"] == blind.suggest("next")["hyper"]
    assert same == (search in ("random", "qmc"))


def test_sobol_spreads_evenly() -> None:
    """16 points and the default: of 4 quarters of alpha each has 3 to 5, whoever runs beside."""
    found = searcher("qmc", slots=8)
    configs = [found.suggest(f"ray-{n}") for n in range(17)]
    quarters = [int(config["hyper"]["alpha"] * 4) for config in configs[1:]]
    assert all(3 <= quarters.count(n) <= 5 for n in range(4))


@pytest.mark.parametrize(
    ("scheduler", "space", "expected"),
    [
        ("none", {"a": "uniform(0,1)", "b": "loguniform(1,2)"}, "gp"),
        ("none", dict.fromkeys("abcd", "uniform(0,1)"), "gp"),
        ("none", dict.fromkeys("abcde", "uniform(0,1)"), "tpe"),
        ("none", {"a": "uniform(0,1)", "b": "choice(x,y)"}, "tpe"),
        ("none", {"a": "uniform(0,1) when b=x"}, "tpe"),
        ("asha", {"a": "uniform(0,1)"}, "tpe"),
        ("pbt", {"a": "uniform(0,1)"}, "qmc"),
        ("none", {}, "tpe"),
    ],
)
def test_auto(scheduler: str, space: dict[str, str], expected: str) -> None:
    """gp for up to 4 numeric dimensions without early stopping; a population cannot learn; else tpe."""
    domains = {name: parse(name, text) for name, text in space.items()}
    searched = {name: d for name, d in domains.items() if isinstance(d, Domain)}
    assert search_of("auto", scheduler, searched, 32) == expected
    assert search_of("nsga2", scheduler, searched, 32) == "nsga2"


@pytest.mark.parametrize(("n_trials", "expected"), [(250, "gp"), (251, "tpe")])
def test_auto_takes_no_gp_for_many_trials(n_trials: int, expected: str) -> None:
    searched = {"a": Domain("uniform", 0, 1)}
    assert search_of("auto", "none", searched, n_trials) == expected


CONDITIONAL = {
    "mode": Domain("choice", values=("kl", "mse")),
    "temperature": parse("temperature", "loguniform(1, 20) when mode=kl"),
    "alpha": Domain("uniform", 0, 1),
}


@pytest.mark.parametrize("search", OPTUNA)
def test_a_condition_decides_about_a_dimension(search: str) -> None:
    """The temperature is drawn where the mode is kl, and nowhere else; replayed equals uninterrupted here too."""

    def accuracy(config: Config) -> dict[str, Any]:
        return result(0.5 + 0.1 * config["hyper"]["alpha"] + (config["hyper"]["mode"] == "kl") / 9)

    def walk(one: SafeOptunaSearch, n: int) -> list[Config]:
        configs = []
        for _ in range(n):
            configs.append(one.suggest(f"ray-{one.number}"))
            one.on_trial_complete(f"ray-{configs[-1]['number']}", accuracy(configs[-1]))
        return configs

    first = {"mode": "kl", "temperature": 4.0, "alpha": 0.9}
    found = searcher(search, space=CONDITIONAL, first=first)
    past = walk(found, 14)
    assert {c["hyper"]["mode"] for c in past} == {"kl", "mse"}
    assert all(("temperature" in c["hyper"]) == (c["hyper"]["mode"] == "kl") for c in past)
    resumed = searcher(search, space=CONDITIONAL, first=first)
    resumed.replay([(config, accuracy(config), False) for config in past])
    assert walk(resumed, 3) == walk(found, 3)


def test_nothing_is_saved_by_ray(tmp_path: Any) -> None:
    """A resumed search is told its past by the journal."""
    searcher().save_to_dir(str(tmp_path))
    Listed([]).save_to_dir(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_list_is_handed_out_in_order() -> None:
    found = Listed([{"number": 0}, {"number": 1}])
    assert [found.suggest("a"), found.suggest("b"), found.suggest("c")] == [
        {"number": 0},
        {"number": 1},
        Searcher.FINISHED,
    ]
    found.on_trial_complete("a", None, error=True)
