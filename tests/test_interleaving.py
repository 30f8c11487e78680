"""Several searches on the same workers: whose turn it is, who hears of what, and that each decides as it does alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train._internal.storage import StorageContext
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from tests import test_samplers as sampled
from tests.test_schedulers import EPOCHS, GRACE, report
from tuner.failures import Tally
from tuner.interleaving import CHECKPOINTS, OwnRules, Recorders, Strand, Turns, groups
from tuner.population import Population
from tuner.samplers import Config, Listed, SafeOptunaSearch
from tuner.schedulers import SafeASHA, SafeMedian, make

ANY: Any = None  # what nobody looks at


def strand(name: str, searcher: Any = None, n_ended: int = 0, **parts: Any) -> Strand:
    planned: Any = SimpleNamespace(name=name, folder=parts.get("folder", Path(name)), batch=0)
    scheduler = parts.get("scheduler") or make("none", EPOCHS, GRACE)
    recorder = parts.get("recorder") or SimpleNamespace(tally=Tally(1), alone=True)
    return Strand(planned, ANY, searcher, scheduler, recorder, 9, n_ended, lambda: None)


def listed(name: str, n: int, n_ended: int = 0) -> Strand:
    configs = [
        {"id": f"{name}{i}", "number": i, "search": name} for i in range(n_ended, n_ended + n)
    ]
    return strand(name, Listed(configs), n_ended)


def dealt(turns: Turns) -> list[str]:
    """Ids in the order in which they are dealt, until there are no more."""
    found: list[str] = []
    while (config := turns.suggest(f"ray-{len(found)}")) != Searcher.FINISHED:
        found.append(config["id"])
    return found


def test_searches_are_dealt_in_turn_and_a_short_one_ends_early() -> None:
    turns = Turns([listed("a", 3), listed("b", 1), listed("c", 2)])
    assert dealt(turns) == ["a0", "b0", "c0", "a1", "c1", "a2"]


def test_who_was_behind_before_an_interruption_catches_up() -> None:
    """By hand: a has ended 2 trials, b none: b's first two come first."""
    assert dealt(Turns([listed("a", 1, 2), listed("b", 3)])) == ["b0", "b1", "a2", "b2"]


def test_a_search_whose_trials_fail_is_given_up_and_the_others_go_on() -> None:
    """Three failures of one kind in a row, without a success, are the limit (failures.FEWEST)."""
    failing, fine = listed("a", 5), listed("b", 2)
    turns = Turns([failing, fine])
    assert [turns.suggest(f"ray-{n}")["id"] for n in range(2)] == ["a0", "b0"]
    for _ in range(3):
        failing.recorder.tally.add("failed", "ValueError: no")
    assert dealt(turns) == ["b1"]


def test_a_search_that_waits_is_passed_over() -> None:
    waiting: Any = SimpleNamespace(suggest=lambda trial_id: None)
    turns = Turns([strand("a", waiting), listed("b", 1)])
    assert turns.suggest("ray-0")["id"] == "b0"
    assert turns.suggest("ray-1") is None


@pytest.mark.parametrize("search", ["tpe", "gp", "nsga2", "qmc"])
def test_each_search_draws_what_it_draws_alone(search: str) -> None:
    """Against the same two searches one after the other, each told of a trial's end before its next."""

    def made(seed: int) -> SafeOptunaSearch:
        return sampled.searcher(search, n_trials=8, seed=seed)

    alone = {name: sampled.play(made(seed), 8) for seed, name in enumerate("ab")}
    turns = Turns([strand(name, made(seed)) for seed, name in enumerate("ab")])
    together: dict[str, list[Config]] = {"a": [], "b": []}
    for i in range(16):
        config = turns.suggest(f"ray-{i}")
        together["ab"[i % 2]].append(config)
        turns.on_trial_complete(f"ray-{i}", result=sampled.ending(config))
    assert together == alone


class Controlled:
    """Stands for Ray's trial."""

    def __init__(self, search: str, number: int) -> None:
        self.config = {"search": search, "id": f"kd-{number:03d}", "number": number}
        self.storage: Any = None

    def set_storage(self, storage: Any) -> None:
        self.storage = storage


def test_each_rule_hears_of_its_own_trials_alone() -> None:
    """Ids repeat from search to search: b's good trials do not stop a's."""
    rules = {"a": SafeASHA(EPOCHS, GRACE), "b": SafeMedian(EPOCHS, GRACE)}
    own = OwnRules([strand(name, scheduler=rule) for name, rule in rules.items()])
    for number in range(1, 7):
        own.on_trial_result(ANY, Controlled("b", number), report(GRACE, 0.9))
    assert own.on_trial_result(ANY, Controlled("a", 7), report(GRACE, 0.1)) == "CONTINUE"
    stopped = own.on_trial_result(ANY, Controlled("b", 7), report(GRACE, 0.1))
    assert stopped == TrialScheduler.STOP
    assert list(rules["b"].curves) == [f"kd-{n:03d}" for n in range(1, 8)]


def test_checkpoints_lie_in_the_searchs_own_folder(tmp_path: Path) -> None:
    """By Ray's own storage, which accepts the place; the trial's own is changed, not the one that all were given."""
    trial: Any = Controlled("a", 0)
    shared = StorageContext(tmp_path / "league", "x", trial_dir_name="kd-000")
    trial.storage = shared
    OwnRules([strand("a", folder=tmp_path / "a")]).on_trial_add(ANY, trial)
    assert trial.storage.trial_fs_path == str(tmp_path / "a" / CHECKPOINTS / "kd-000")
    trial.storage._check_validation_file()
    assert shared.trial_fs_path == str(tmp_path / "league" / "x" / "kd-000")


def test_each_recorder_hears_of_its_own_trials_and_of_every_step() -> None:
    heard: list[tuple[str, str]] = []

    def recorder(name: str) -> Any:
        return SimpleNamespace(
            on_trial_start=lambda iteration, trials, trial, **_: heard.append((name, "start")),
            on_step_end=lambda iteration, trials, **_: heard.append((name, "step")),
        )

    recorders: Any = Recorders([strand(name, recorder=recorder(name)) for name in "ab"])
    recorders.on_trial_start(iteration=0, trials=[], trial=Controlled("b", 0))
    recorders.on_step_end(iteration=0, trials=[])
    assert heard == [("b", "start"), ("a", "step"), ("b", "step")]


def test_a_population_is_trained_by_itself() -> None:
    population = Population(4, 2, {}, 0, lambda _: {}, lambda *_: None)
    strands = [strand("a"), strand("b", scheduler=population), strand("c")]
    assert [[one.name for one in group] for group in groups(strands)] == [["a", "c"], ["b"]]
