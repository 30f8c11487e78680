"""What a search is after: the words, what samplers are told, who may be finalist, and one real search with a front."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState
from ray.tune.schedulers import FIFOScheduler
from torch import Tensor, nn

import tune
from search_spaces import Domain
from tests.conftest import Command
from tests.test_training import config as trial_config
from tests.test_training import place, played, same, task
from tests.test_training import trial as worker_of
from trainables.evaluation.suite import evaluate
from trainables.evaluation.threats import linf
from trainables.measuring import MEASURES, NOTHING, Asked, measure
from trainables.models.facts import table
from trainables.trainable import Workplace
from tuner import confirm, goals_report, plan, sizes, standing, students, unmet
from tuner.journal import Story, Student, story
from tuner.objectives import KNOWN, USUAL, Constraint, Goals, goals, in_words, parse
from tuner.plan import Plan
from tuner.progress import Board
from tuner.samplers import METRIC, Config, SafeOptunaSearch
from tuner.settings import make
from tuner.strategies import FOR_SEVERAL, SEARCHES

__all__ = ["place", "task"]  # fixtures
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
    words = "n_parameters (min), val/accuracy (max): a front; finalists by val/accuracy"
    assert words in told and words == in_words(planned(objective=[two[1], two[3]]).goals)
    assert "latency_ms < 50, known after the last epoch" in told
    assert tune.main([*KD, "--plan"]) == 0
    assert "searched for" not in capsys.readouterr().out


def test_sizes_known_before_are_those_of_the_table() -> None:
    """Against facts.json; a method that deploys an adapter leaves more than its student."""
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
    """After 9 trials, diverged and too large ones among them, against a searcher that was never interrupted."""
    uninterrupted = searcher(search, asked)
    past = play(uninterrupted, 9)
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


def test_the_journal_tells_the_study_what_the_trials_told() -> None:
    """A finished trial's objectives and its gap, and one that was too large, as `replay` gets them."""
    asked = {"objective": ["val/accuracy", "val/ece"], "constraint": ["n_parameters < 5000"]}
    found = planned(**asked, set=["student=choice(convnet4,convnet8)"])
    last = {"val/ece": 0.1, "n_parameters": 1854.0}
    finished = trial(1, 0.9, last=last, hyper={"student": "convnet4"})
    large = trial(2, 0.0, history=[], status="infeasible", hyper={"student": "convnet8"})
    for student, values, gap in ((finished, [0.9, 0.1], -0.6292), (large, None, 0.3732)):
        _, result, error = students.as_past(found, student, FIFOScheduler(), Board())
        assert result is not None and not error
        assert found.goals.values(result) == values
        assert found.goals.gap(result) == pytest.approx(gap)


def trial(number: int, accuracy: float, worst: float = 0.0, **more: Any) -> Student:
    """A search's trial after its last epoch."""
    hyper = more.pop("hyper", {"temperature": 1.0 + number, "alpha": 0.5})
    last = {"val/accuracy": accuracy, "robust/worst": worst, **more.pop("last", {})}
    role = more.pop("role", "trial")
    known = {"status": "finished", "history": [last] * 4, **more}
    return Student(f"kd-{number:03d}", number, "search", role, "kd", 0, hyper, 4, **known)


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


def test_the_report_of_a_search_that_nobody_passed(tmp_path: Path) -> None:
    """Both pages say it as the terminal does."""
    found = planned(constraint=["val/accuracy >= 0.9"], out=tmp_path, name="x")
    found.folder.mkdir()
    told = Story(students={"kd-000": trial(0, 0.8)})
    written = unmet.write(found, told, {"question": "Which?", "command": "python tune.py"})
    assert [path.name for path in written] == ["report.md", "report.html"]
    for path in written:
        page = path.read_text().replace("&gt;", ">")
        assert all(said in page for said in unmet.sentences(found, told))


def test_a_masked_student_is_marked_and_counts_as_0() -> None:
    """Its robust accuracy as measured would beat all others; table and sentences say why it does not."""
    found = planned(objective=["val/accuracy", "robust/worst"])
    masked = {"flags/zero_gradients": 1.0, "robust/linf_0.15/worst": 0.9}
    trials = [
        trial(0, 0.5, 0.1, role="default"),
        trial(1, 0.8, 0.3),
        trial(2, 0.9, 0.0, last=masked),
    ]
    told = Story(students={s.id: s for s in trials})
    table = goals_report.rows(found, told)
    assert [row[0] for row in table[1:]] == ["kd-002", "kd-001", "kd-000"]
    assert table[1][2:4] == ["0.00", "masked"]
    assert table[3][3] == "published default, not on the front"
    said = goals_report.sentences(found, told, {"winner": "finalist-1"})
    assert "The published default is not: kd-001 is at least as good in everything." in said
    assert "Masked gradients (kd-002): robust accuracy counts as 0 there." in said


def test_values_as_tables_show_them() -> None:
    shown = {"val/accuracy": "12.35", "n_parameters": "1,234,567", "latency_ms": "0.1235"}
    values = {"val/accuracy": 0.123456, "n_parameters": 1234567.0, "latency_ms": 0.123456}
    assert {name: KNOWN[name].shown(value) for name, value in values.items()} == shown
    assert KNOWN["val/ece"].shown(None) == KNOWN["val/ece"].shown(math.nan) == ""
    assert USUAL.usual and not BOTH.usual


@pytest.fixture(scope="module")
def measured(place: Callable[[str], Workplace]) -> Workplace:
    """A workplace whose trials measure all that there is to measure."""
    asked = Asked(tuple(MEASURES), epsilon=0.1, seed=0)
    return Workplace(replace(place("cckd_t_reg").task, asked=asked))


def test_a_trial_measures_after_its_last_epoch_alone(measured: Workplace, tmp_path: Path) -> None:
    """The share of samples used is the mean over epochs; a worker that goes on from a checkpoint tells the same."""
    config = trial_config("cckd_t_reg", regulation=0.3)
    worker = worker_of(measured, config)
    told = played(worker, 3)
    worker.save_checkpoint(str(tmp_path))
    told += played(worker, 1)
    extra = {"val/ece", "robust/worst", "latency_ms", "samples_used", "flags/count"}
    assert not extra & {name for one in told[:3] for name in one} and extra <= set(told[3])
    used = [one["train/samples_used"] for one in told]
    assert told[3]["samples_used"] == pytest.approx(sum(used) / 4)
    (again,) = played(worker_of(measured, {**config, "restore_from": str(tmp_path)}), 1)
    assert {**again, "latency_ms": 0} == {**told[3], "latency_ms": 0}


def test_measuring_changes_nothing(measured: Workplace) -> None:
    """Accuracy, loss and state of the last epoch, against a worker that measures nothing."""
    config = trial_config("cckd_t_reg")
    plain = Workplace(replace(measured.task, asked=NOTHING))
    one, other = worker_of(measured, config), worker_of(plain, config)
    last, bare = played(one, 4)[-1], played(other, 4)[-1]
    assert {name: last[name] for name in bare} == bare
    assert same(one.run.state(), other.run.state())


def test_robustness_is_the_suites_and_nothing_where_gradients_are_masked(
    measured: Workplace,
) -> None:
    """Against `evaluate` in the quick tier; logits times 10^6 saturate, so that gradients vanish."""
    model = measured.build("convnet4")
    asked = Asked(("robust/worst",), epsilon=0.02, seed=0)
    found = measure(asked, model, measured.val, "cpu")
    suite = evaluate(model, measured.val, "quick", linf(0.02), seed=0)
    name = "robust/linf_0.02/worst"
    assert (found[name], found["flags/count"]) == (suite[name], suite["flags/count"])
    saturated = measure(asked, Louder(model), measured.val, "cpu")
    assert saturated["flags/zero_gradients"] == 1 and saturated["robust/worst"] == 0


class Louder(nn.Module):
    """The network with its logits times 10^6."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits * 1e6


def test_a_student_that_is_too_large_is_not_trained(measured: Workplace) -> None:
    """One report, no epoch, nothing built and nothing saved."""
    config = {**trial_config("kd"), "infeasible": "too large", "known": {"n_parameters": 9.0}}
    worker = worker_of(measured, config)
    (told,) = played(worker, 1)
    assert (told["infeasible"], told["epoch"], told["done"]) == ("too large", 0, True)
    assert told["n_parameters"] == 9.0 and worker.student is None


class Done(NamedTuple):
    """A finished search for a front."""

    folder: Path
    command: Command
    told: Story


BOUNDS = ("--constraint", "n_parameters < 20000", "--constraint", "val/ece < 0.9")
FRONT = (
    *("--method", "kd", "--trials", "8", "--epochs", "3", "--search", "random"),
    *("--set", "student=choice(convnet4,convnet8,convnet16)"),
    *("--objective", "val/accuracy", "--objective", "n_parameters", *BOUNDS),
    *("--confirm-top", "1", "--confirm-seeds", "2", "--evaluate", "none"),
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tune: Callable[..., Command]) -> Done:
    out = tmp_path_factory.mktemp("runs")
    command = tune(*FRONT, "--out", out, "--name", "front")
    assert command.status == 0, command.err
    return Done(out / "front", command, story(out / "front"))


def test_the_journal_has_what_was_asked(done: Done) -> None:
    """Sizes by student, calibration after the last epoch; the largest student is infeasible and was not trained."""
    size = {"convnet4": 1854, "convnet8": 6866}
    trials = done.told.of_kind("search")
    assert {s.status for s in trials} == {"finished", "infeasible"}
    for one in trials:
        student = one.hyper["student"]
        assert (one.status == "infeasible") == (student == "convnet16")
        assert (len(one.history) == 0) == (student == "convnet16")
        if one.history:
            assert one.history[-1]["n_parameters"] == size[student]
            assert ["val/ece" in metrics for metrics in one.history] == [False, False, True]


def test_the_front_is_in_report_picture_terminal_and_mlflow(done: Done) -> None:
    """Against the journal, by brute force: who has both higher accuracy and no more parameters."""
    trials = [s for s in done.told.of_kind("search") if s.complete]
    spots = {s.id: (s.accuracy, -s.history[-1]["n_parameters"]) for s in trials}
    front = [
        name
        for name, (a, p) in spots.items()
        if not any(b >= a and q >= p and (b, q) != (a, p) for b, q in spots.values())
    ]
    line = f"Pareto front: {', '.join(front)}, of {len(trials)} trials"
    for page in ("report.md", "report.html"):
        assert line in (done.folder / page).read_text()
    assert line in done.command.out
    picture = done.folder / "figures" / "front-val_accuracy-n_parameters.png"
    assert picture.read_bytes()[:4] == b"\x89PNG"
    with sqlite3.connect(done.folder.parent / "mlflow.db") as connection:
        sql = (
            "select k.value from tags k join tags t on k.run_uuid = t.run_uuid "
            "where k.key = 'kd.key' and t.key = 'kd.pareto' and t.value = 'true'"
        )
        assert sorted(connection.execute(sql).fetchall()) == [(name,) for name in sorted(front)]


def test_the_winner_keeps_the_constraints(done: Done) -> None:
    """The largest student is never chosen, and the report says that the bounds hold over the seeds."""
    answer = done.told.results["answer"]
    assert answer["hyper"]["student"] != "convnet16"
    assert "keeps the constraints on the mean over the seeds too" in done.command.out
