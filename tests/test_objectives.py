"""What a search is after: the words, what samplers are told, who may be finalist, and one real search with a front."""

from __future__ import annotations

import math
from typing import Any

import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState

import tune
from search_spaces import Domain
from tuner import confirm, plan, sizes, standing, students, unmet
from tuner.journal import Story, Student
from tuner.objectives import KNOWN, USUAL, Constraint, Goals, goals, in_words, parse
from tuner.plan import Plan
from tuner.samplers import METRIC, Config, SafeOptunaSearch
from tuner.settings import make
from tuner.strategies import FOR_SEVERAL, SEARCHES

KD = ("--method", "kd")
SPACE = {"temperature": Domain("loguniform", 1, 20), "alpha": Domain("uniform", 0, 1)}
TWO = goals(("val/accuracy", "val/ece"), ())
BOTH = goals(("val/accuracy", "n_parameters"), ("n_parameters < 5000", "val/ece <= 0.1"))


def planned(**given: Any) -> Plan:
    return plan.make(make({"method": "kd", **given}))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a refusal, status 2; --plan would print otherwise."""
    with pytest.raises(SystemExit) as stop:
        tune.main([*KD, "--plan", *arguments])
    told = capsys.readouterr()
    assert (stop.value.code, told.out, told.err.count("\n")) == (2, "", 1)
    return told.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n_parameters < 300000", Constraint("n_parameters", "<", 300000)),
        (" val/accuracy>=.5 ", Constraint("val/accuracy", ">=", 0.5)),
        ("latency_ms <= 1.5e-1", Constraint("latency_ms", "<=", 0.15)),
        ("multiply_adds>1E3", Constraint("multiply_adds", ">", 1000)),
    ],
)
def test_constraints_are_read(text: str, expected: Constraint) -> None:
    """By hand; what is written is read again as the same."""
    assert parse(text) == expected == parse(str(expected))


BAD = [
    (("--objective", "val/acuracy"), "--objective must be one of val/accuracy, val/loss"),
    (("--objective", "val/acuracy"), "did you mean 'val/accuracy'?, got 'val/acuracy'"),
    (("--objective", "val/ece", "--objective", "val/ece"), "must name each objective once"),
    (("--constraint", "n_parameters == 3"), "--constraint must be NAME, one of < <= > >=, and"),
    (("--constraint", "n_parameters < 3 or 1"), "and a number, as in n_parameters < 300000, got"),
    (("--constraint", "__import__('os') < 3"), "--constraint must be NAME, one of"),
    (("--constraint", "params < 3"), "--constraint must be one of val/accuracy"),
    (("--constraint", "n_parameters < nan"), "--constraint must be NAME, one of"),
    (("--constraint", "val/accuracy > 1.2"), "must be one that can be met (val/accuracy lies from"),
    (("--constraint", "val/accuracy > 1"), "must be one that can be met (val/accuracy lies from"),
    (("--constraint", "latency_ms < 0"), "must be one that can be met (latency_ms is 0 or more)"),
    (
        ("--constraint", "val/loss < 1", "--constraint", "val/loss >= 1"),
        "--constraint must be met by some val/loss, got ['val/loss < 1', 'val/loss >= 1']",
    ),
    (
        ("--constraint", "n_parameters < 100"),
        "--constraint must be met by a student of the space, got convnet4: n_parameters must be < 100",
    ),
    (
        ("--set", "student=choice(convnet4,convnet8)", "--constraint", "multiply_adds <= 10"),
        "| convnet8: multiply_adds must be <= 10, got ",
    ),
    (
        ("--objective", "samples_used"),
        "samples_used must be reported by the method's trials, as those of cckd_t_reg do, got kd",
    ),
    (("--constraint", "samples_used < 0.5"), "samples_used must be reported by the method's trial"),
    (
        ("--objective", "val/accuracy", "--objective", "val/ece", "--search", "cmaes"),
        "--search must be one of tpe, gp, nsga2, qmc, random, grid for several objectives, got cma",
    ),
    (
        ("--objective", "val/accuracy", "--objective", "val/ece", "--scheduler", "asha"),
        "--scheduler must be none or auto here, because only fully trained trials enter a front",
    ),
    (
        ("--objective", "robust/worst", "--scheduler", "median"),
        "because trials are stopped by val/accuracy, not by robust/worst, got median",
    ),
    (
        ("--constraint", "latency_ms < 9", "--scheduler", "asha"),
        "because latency_ms < 9 is known after the last epoch only, got asha",
    ),
]


@pytest.mark.parametrize(("flags", "line"), BAD, ids=lambda part: str(part)[-60:])
def test_bad_input(flags: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on standard error, status 2, nothing on standard output."""
    assert line in refused(capsys, *flags)


@pytest.mark.parametrize(
    ("value", "gap"), [(1000.0, 0.0), (500.0, -0.5), (1500.0, 0.5), (math.nan, math.inf)]
)
def test_gap_by_hand(value: float, gap: float) -> None:
    """In bounds: 1500 lies half of 1000 beyond it; 0 or below exactly where the bound is kept."""
    bound = Constraint("n_parameters", "<=", 1000)
    assert bound.gap(value) == gap and bound.met(value) == (gap <= 0)


def test_a_strict_bound_is_broken_by_itself() -> None:
    """Optuna takes 0 for met: the gap at the bound lies above it."""
    strict = Constraint("val/accuracy", ">", 0.0)
    assert not strict.met(0.0) and strict.gap(0.0) > 0


def test_the_worst_gap_counts_and_what_is_missing_is_unmet() -> None:
    """n_parameters 6000 is 0.2 bounds above 5000; a missing calibration error speaks neither way, and is not kept."""
    known = {"n_parameters": 6000.0, "val/ece": 0.05}
    assert BOTH.gap(known) == pytest.approx(0.2) and not BOTH.met(known)
    assert BOTH.gap({"n_parameters": 4000.0}) == pytest.approx(-0.2)
    assert BOTH.unmet({"n_parameters": 4000.0}) == ["val/ece must be <= 0.1, got nothing measured"]
    assert BOTH.unmet(known) == ["n_parameters must be < 5000, got 6,000"]


@pytest.mark.parametrize(
    ("given", "search", "scheduler"),
    [
        ({"trials": 32, "objective": ["val/accuracy", "n_parameters"]}, "tpe", "none"),
        ({"trials": 32, "objective": ["val/ece"]}, "gp", "none"),
        ({"trials": 32, "constraint": ["val/ece < 0.5"]}, "gp", "none"),
        ({"trials": 32, "constraint": ["n_parameters < 5000"]}, "tpe", "asha"),
        ({"trials": 32, "objective": ["val/accuracy"]}, "tpe", "asha"),
    ],
)
def test_auto(given: dict[str, Any], search: str, scheduler: str) -> None:
    """No early stopping where accuracy is not all; tpe for a front."""
    found = planned(**given)
    assert (found.search, found.scheduler) == (search, scheduler)


def test_plan_says_what_is_searched_for(capsys: pytest.CaptureFixture[str]) -> None:
    """Rows that a search for accuracy alone does not have."""
    two = ("--objective", "n_parameters", "--objective", "val/accuracy")
    assert tune.main([*KD, "--plan", *two, "--constraint", "latency_ms<50"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    words = "n_parameters (min) and val/accuracy (max): a front; finalists by val/accuracy"
    assert words in told and words == in_words(planned(objective=[two[1], two[3]]).goals)
    assert "latency_ms < 50, known after the last epoch" in told
    assert tune.main([*KD, "--plan"]) == 0
    assert "searched for" not in capsys.readouterr().out


def test_sizes_known_before_are_those_of_the_table() -> None:
    """Against facts.json; a method that deploys an adapter leaves more than its student."""
    from trainables.models.facts import table

    names = ("n_parameters", "multiply_adds")
    asked = {"objective": names, "set": ["student=choice(convnet4,convnet8)"]}
    known = sizes.known(planned(**asked), {"student": "convnet8"})
    facts = table()["convnet8"]
    assert known == {"n_parameters": facts["parameters"], "multiply_adds": facts["multiply_adds"]}
    with_adapter = sizes.known(planned(method="simkd", objective=names, student="convnet8"), {})
    assert all(with_adapter[name] > known[name] for name in names)
    assert sizes.known(planned(), {}) == {}


def searcher(search: str, asked: Goals, n_trials: int = 40) -> SafeOptunaSearch:
    def complete(number: int, drawn: dict[str, Any]) -> Config:
        return {"id": f"kd-{number:03d}", "number": number, "hyper": drawn}

    published = {"temperature": 4.0, "alpha": 0.9}
    return SafeOptunaSearch(SPACE, search, 1, 0, complete, published, n_trials, None, asked)


def ending(config: Config) -> dict[str, Any]:
    """Accuracy is best at alpha 0.3, calibration at alpha 0.8; size grows with T; every fifth diverges."""
    number, alpha = config["number"], config["hyper"]["alpha"]
    bad = number % 5 == 4
    told = {METRIC: math.nan if bad else 0.9 - (alpha - 0.3) ** 2, "val/ece": (alpha - 0.8) ** 2}
    told["n_parameters"] = 1000.0 * config["hyper"]["temperature"]
    if number % 7 == 3:
        early = {"epoch": 0, "epochs": 8, "infeasible": "too large", METRIC: math.nan}
        return {**early, "n_parameters": 9000.0, "diverged": "", "failed": ""}
    return {**told, "epoch": 8, "epochs": 8, "diverged": "ce" if bad else "", "failed": ""}


def play(found: SafeOptunaSearch, n: int) -> list[Config]:
    configs = []
    for _ in range(n):
        configs.append(found.suggest(f"ray-{found.number}"))
        found.on_trial_complete(f"ray-{configs[-1]['number']}", ending(configs[-1]))
    return configs


@pytest.mark.parametrize("asked", [TWO, BOTH], ids=["two", "constrained"])
@pytest.mark.parametrize("search", [name for name in FOR_SEVERAL if name != "grid"])
def test_several_objectives_are_searched_and_replayed(search: str, asked: Goals) -> None:
    """After 12 trials, diverged and too large ones among them, against a searcher that was never interrupted."""
    uninterrupted = searcher(search, asked)
    past = play(uninterrupted, 12)
    ways = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    assert uninterrupted.study.directions == ways
    resumed = searcher(search, asked)
    resumed.replay([(config, ending(config), False) for config in past])
    assert play(resumed, 2) == play(uninterrupted, 2)


@pytest.mark.parametrize("search", [name for name in SEARCHES if name not in ("auto", "grid")])
def test_how_a_broken_constraint_is_told(search: str) -> None:
    """With its gap to those who heed it, its values kept; to the others pruned, or with the worst value so far."""
    asked = goals(("val/accuracy",), ("n_parameters < 5000",))
    found = searcher(search, asked)
    usual = {"epoch": 8, "epochs": 8, "diverged": "", "failed": ""}
    for n, (accuracy, size) in enumerate([(0.7, 1000.0), (0.8, 1000.0), (0.9, 6000.0)]):
        found.suggest(f"ray-{n}")
        found.on_trial_complete(f"ray-{n}", {**usual, METRIC: accuracy, "n_parameters": size})
    told = found.study.trials[2]
    if search in ("tpe", "gp", "nsga2"):
        assert (told.value, told.constraints) == (0.9, {"constraints": pytest.approx(0.2)})
        assert found.study.best_value == 0.8
    elif search == "cmaes":
        assert (told.state, told.value) == (TrialState.COMPLETE, 0.7)
    else:
        assert (told.state, told.value) == (TrialState.PRUNED, None)


def test_too_large_a_student_is_told_without_a_value() -> None:
    """tpe: pruned with its gap; gp and nsga2, which ignore what was pruned: the worst of each objective so far."""
    config = {"epochs": 8, "infeasible": "too large", "known": {"n_parameters": 9000.0}}
    for search in ("tpe", "gp", "nsga2"):
        found = searcher(search, BOTH)
        for n, accuracy in enumerate((0.7, 0.8)):
            found.suggest(f"ray-{n}")
            last = {METRIC: accuracy, "n_parameters": 100.0 + n, "val/ece": 0.0}
            end = {"epoch": 8, "epochs": 8, "diverged": "", "failed": ""}
            found.on_trial_complete(f"ray-{n}", {**last, **end})
        found.suggest("large")
        found.on_trial_complete("large", students.not_trained(config))
        told = found.study.trials[2]
        assert told.constraints == {"constraints": pytest.approx(0.8)}
        expected = (
            (TrialState.PRUNED, None) if search == "tpe" else (TrialState.COMPLETE, [0.7, 101])
        )
        assert (told.state, told.values) == expected


def trial(number: int, accuracy: float, worst: float = 0.0, **more: Any) -> Student:
    """A search's trial after its last epoch."""
    hyper = more.pop("hyper", {"temperature": 1.0 + number, "alpha": 0.5})
    last = {"val/accuracy": accuracy, "robust/worst": worst, **more.pop("last", {})}
    known = {"status": "finished", "history": [last] * 4, **more}
    return Student(f"kd-{number:03d}", number, "search", "trial", "kd", 0, hyper, 4, **known)


def test_finalists_are_chosen_by_accuracy_where_it_is_asked_for_else_by_the_first() -> None:
    """Higher accuracy against higher robustness; NaN comes last."""
    trials = [trial(1, 0.9, 0.1), trial(2, 0.8, 0.3), trial(3, 0.7, math.nan)]
    for asked, order in (
        (["val/accuracy"], [1, 2, 3]),
        (["robust/worst", "val/accuracy"], [1, 2, 3]),
        (["robust/worst"], [2, 1, 3]),
        (["robust/worst", "val/ece"], [2, 1, 3]),
    ):
        chosen = confirm.finalists(planned(objective=asked), trials)
        assert [s.number for s in chosen] == order


def test_who_breaks_a_constraint_is_no_finalist_and_not_on_the_front() -> None:
    """Whatever its accuracy; nor is who was not measured, stopped or diverged."""
    asked = {"objective": ["val/accuracy", "val/ece"], "constraint": ["robust/worst >= 0.2"]}
    found = planned(**asked)
    trials = [
        trial(1, 0.99, 0.1, last={"val/ece": 0.0}),
        trial(2, 0.8, 0.2, last={"val/ece": 0.1}),
        trial(3, 0.9, 0.3, last={"val/ece": 0.2}),
        trial(4, 0.8, 0.2, last={"val/ece": 0.2}),
        trial(5, 0.99, 0.3, last={"val/ece": math.nan}),
        trial(6, 0.99, 0.3, last={"val/ece": 0.0}, status="diverged"),
        trial(7, 0.99, 0.3, last={"val/ece": 0.0}, status="stopped"),
    ]
    assert [s.number for s in standing.front(found, trials)] == [2, 3]
    assert {s.number for s in standing.entered(found, trials)} == {2, 3, 4}
    assert not {1, 6} & {s.number for s in confirm.finalists(found, trials)}


def test_the_winner_keeps_the_constraints_over_the_seeds_where_anyone_does() -> None:
    """The finalist of higher accuracy breaks the bound on the mean of its seeds; without any that keeps it, it wins."""
    found = planned(constraint=["val/loss < 1"], confirm_seeds=2)

    def told(losses: dict[str, float]) -> Story:
        accuracies = {"default": 0.5, "finalist-1": 0.9, "finalist-2": 0.8}
        names = [(role, seed) for role in accuracies for seed in (1, 2)]
        return Story(
            students={
                f"{role}-seed{seed}": trial(0, accuracies[role], last={"val/loss": losses[role]})
                for role, seed in names
            }
        )

    options = confirm.contenders(found, [trial(1, 0.9), trial(2, 0.8)])
    kept = {"default": 0.5, "finalist-1": 1.5, "finalist-2": 0.5}
    assert confirm.choose(found, told(kept), options).role == "finalist-2"
    assert confirm.choose(found, told(dict.fromkeys(kept, 1.5)), options).role == "finalist-1"


def test_nobody_keeps_the_constraints() -> None:
    """Accuracy 0.80 misses 0.9 by 0.11 bounds, 0.85 by 0.06: that is the nearest, and the one line says by what."""
    found = planned(constraint=["val/accuracy >= 0.9"])
    trials = [trial(0, 0.8), trial(1, 0.85), trial(2, 0.0, status="failed", history=[])]
    told = Story(students={s.id: s for s in trials})
    assert unmet.nobody(found, told)
    said = unmet.sentences(found, told)
    assert said[0].startswith("No trial of 3 keeps the constraints (val/accuracy >= 0.9)")
    assert said[1].startswith("Nearest: kd-001") and "must be >= 0.9, got 0.85" in said[1]
    assert [row[0] for row in unmet.rows(found, told)[1:]][-2:] == ["kd-001", "kd-000"]
    assert not unmet.nobody(planned(), told)
    assert not unmet.nobody(found, Story(students={s.id: s for s in (*trials, trial(3, 0.9))}))


def test_values_as_tables_show_them() -> None:
    shown = {"val/accuracy": "12.35", "n_parameters": "1,234,567", "latency_ms": "0.1235"}
    values = {"val/accuracy": 0.123456, "n_parameters": 1234567.0, "latency_ms": 0.123456}
    assert {name: KNOWN[name].shown(value) for name, value in values.items()} == shown
    assert KNOWN["val/ece"].shown(None) == KNOWN["val/ece"].shown(math.nan) == ""
    assert USUAL.usual and not BOTH.usual
