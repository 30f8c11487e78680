"""Batches: the same search whoever ends first, on any number of slots, and after an interruption."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from search_spaces import Domain
from tuner import schedulers
from tuner.batches import InBatches, InLockstep, Lockstep
from tuner.samplers import METRIC, Config, Listed, SafeOptunaSearch
from tuner.schedulers import ById

SPACE = {"temperature": Domain("loguniform", 1, 20), "alpha": Domain("uniform", 0, 1)}
EPOCHS, N_TRIALS = 8, 12
ANY: Any = None
Reports = list[tuple[str, int, dict[str, Any]]]


def report(number: int, hyper: dict[str, Any], epoch: int) -> dict[str, Any]:
    """Curves that cross; trial 5 diverges in its third epoch, trial 6 is trained twice as long."""
    epochs = 2 * EPOCHS if number == 6 else EPOCHS
    final = 0.9 - 0.3 * abs(hyper["alpha"] - 0.7) - 0.02 * math.log(hyper["temperature"])
    accuracy = final * (1 - math.exp(-epoch * (0.2 + hyper["alpha"])))
    told = {"epoch": epoch, "ranked_epoch": epoch, "epochs": epochs, METRIC: accuracy}
    return {**told, "diverged": "kd" if (number, epoch) == (5, 3) else "", "failed": ""}


@dataclass(eq=False)
class Made:
    """What the scheduler sees of Ray's trial."""

    trial_id: str
    config: Config
    status: str = Trial.PENDING
    epoch: int = 0
    recovers: bool = False

    def should_recover(self) -> bool:
        return self.recovers

    def set_config(self, config: Config) -> None:
        self.config = config


@dataclass
class Story:
    """What a search leaves behind: in the order of its reports, and how its trials ended."""

    configs: dict[int, Config] = field(default_factory=dict)
    reports: Reports = field(default_factory=list)
    ends: dict[int, tuple[str, int]] = field(default_factory=dict)  # status, epoch

    def history(self, number: int) -> list[dict[str, Any]]:
        return [result for _, of, result in self.reports if of == number]


def optuna_search(search: str) -> SafeOptunaSearch:
    def complete(number: int, drawn: dict[str, Any]) -> Config:
        return {"id": f"kd-{number:03d}", "number": number, "hyper": drawn}

    first = {"temperature": 4.0, "alpha": 0.9}
    return SafeOptunaSearch(SPACE, search, 4, 0, complete, first, N_TRIALS)


def scheduler_of(name: str, size: int) -> FIFOScheduler | InLockstep:
    rule = schedulers.make(name, EPOCHS, 2)
    return InLockstep(rule, size, N_TRIALS) if isinstance(rule, ById) else FIFOScheduler()


class Tune:
    """A search in Tune's order: who is chosen trains an epoch at a time, on some slots, in an order left to chance."""

    def __init__(self, searcher: Searcher, scheduler: Any, slots: int, seed: int) -> None:
        self.searcher, self.scheduler, self.slots = searcher, scheduler, slots
        self.draws = random.Random(seed)
        self.trials: list[Made] = []
        self.told = Story()

    def stop_trial(self, trial: Any) -> None:
        """As Ray does it for a paused trial: without a result."""
        self.scheduler.on_trial_remove(self, trial)
        self.searcher.on_trial_complete(trial.trial_id)
        self._end(trial, "stopped")

    def run(self, epochs: int | None = None) -> Story:
        """To the end, or for so many epochs in all."""
        while epochs is None or len(self.told.reports) < epochs:
            self._ask()
            while sum(t.status == Trial.RUNNING for t in self.trials) < self.slots:
                chosen = self._chosen()
                if chosen is None:
                    break
                chosen.status = Trial.RUNNING
                self.told.configs.setdefault(chosen.config["number"], dict(chosen.config))
            running = [t for t in self.trials if t.status == Trial.RUNNING]
            if not running:
                return self.told
            self._step(self.draws.choice(running))
        return self.told

    def _ask(self) -> None:
        if not any(t.status == Trial.PENDING for t in self.trials):
            trial_id = f"ray-{len(self.trials)}-{self.draws.random()}"
            config = self.searcher.suggest(trial_id)
            if isinstance(config, dict):
                made = Made(trial_id, config, epoch=config.get("trained", 0))
                self.trials.append(made)
                self.scheduler.on_trial_add(self, made)

    def _chosen(self) -> Made | None:
        if isinstance(self.scheduler, InLockstep):
            found: Any = self.scheduler.choose_trial_to_run(self)
            return found
        return next((t for t in self.trials if t.status == Trial.PENDING), None)

    def _step(self, trial: Any) -> None:
        trial.epoch += 1
        number, identity = trial.config["number"], trial.config["id"]
        result = report(number, trial.config["hyper"], trial.epoch)
        if len(self.told.history(number)) < trial.epoch:
            self.told.reports.append((identity, number, result))
        done = result["diverged"] or trial.epoch >= result["epochs"]
        action = TrialScheduler.STOP
        if not done:
            action = self.scheduler.on_trial_result(self, trial, result)
        if action == TrialScheduler.PAUSE:
            trial.status = Trial.PAUSED
        if action != TrialScheduler.STOP:
            self.searcher.on_trial_result(trial.trial_id, result)
            return
        self.scheduler.on_trial_complete(self, trial, result)
        self.searcher.on_trial_complete(trial.trial_id, result)
        self._end(trial, ("diverged" if result["diverged"] else "finished") if done else "stopped")

    def _end(self, trial: Any, status: str) -> None:
        trial.status = Trial.TERMINATED
        self.told.ends[trial.config["number"]] = status, trial.epoch


def searched(search: str, rule: str, size: int, slots: int, seed: int) -> Story:
    return Tune(InBatches(optuna_search(search), size), scheduler_of(rule, size), slots, seed).run()


def outcome(told: Story) -> dict[int, Any]:
    return {n: (told.configs[n]["hyper"], told.ends[n]) for n in sorted(told.configs)}


RULES = ["asha", "hyperband", "median", "none"]


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=8, deadline=None, database=None)
@given(st.integers(1, 6), st.integers(0, 10**6))
def test_arrival_and_slots_decide_nothing(rule: str, slots: int, seed: int) -> None:
    """Against two slots in another order: the same suggestions and the same ends, each at the same epoch."""
    expected = outcome(searched("tpe", rule, 4, 2, seed=0))
    assert len(expected) == N_TRIALS
    assert outcome(searched("tpe", rule, 4, slots, seed)) == expected
    stopped = [n for n, (_, (status, _)) in expected.items() if status == "stopped"]
    assert bool(stopped) == (rule != "none") and expected[5][1] == ("diverged", 3)


@pytest.mark.parametrize("search", ["gp", "cmaes", "nsga2", "qmc", "random"])
def test_every_sampler_repeats(search: str) -> None:
    """Two orders of arrival on different numbers of slots."""
    assert outcome(searched(search, "asha", 4, 1, 1)) == outcome(searched(search, "asha", 4, 3, 2))


@pytest.mark.parametrize("rule", RULES)
def test_batches_of_one_are_one_trial_at_a_time(rule: str) -> None:
    """Against the same search without batches on one slot."""
    plain = Plain(optuna_search("tpe"), schedulers.make(rule, EPOCHS, 2), 1, 0).run()
    alone = Tune(InBatches(optuna_search("tpe"), 1), scheduler_of(rule, 1), 3, 5)
    alone.searcher.inner.slots = 4  # type: ignore[attr-defined]
    assert outcome(alone.run()) == outcome(plain)


class Plain(Tune):
    """One trial after the other, without batches."""

    def _ask(self) -> None:
        if all(t.status == Trial.TERMINATED for t in self.trials):
            super()._ask()

    def _chosen(self) -> Made | None:
        return next((t for t in self.trials if t.status == Trial.PENDING), None)


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=10, deadline=None, database=None)
@given(st.integers(1, 80), st.integers(0, 10**6))
def test_resumed_equals_uninterrupted(rule: str, epochs: int, seed: int) -> None:
    """Cut off after any report, with what the journal would hold; on another number of slots from then on."""
    expected = searched("tpe", rule, 4, 2, seed=0)
    cut = Tune(InBatches(optuna_search("tpe"), 4), scheduler_of(rule, 4), 3, seed).run(epochs)
    assert outcome(resumed(cut, rule, seed + 1)) == outcome(expected)


def resumed(cut: Story, rule: str, seed: int) -> Story:
    """The rest of a search, from reports, configs and ends alone."""
    scheduler = scheduler_of(rule, 4)
    ends = dict(cut.ends)
    if isinstance(scheduler, InLockstep):
        stopped = scheduler.replay(cut.reports, list(ends))
        for identity in stopped:
            number = int(identity[3:])
            ends.setdefault(number, ("stopped", len(cut.history(number))))
    past = []
    for number, config in sorted(cut.configs.items()):
        history = cut.history(number)
        waits = isinstance(scheduler, InLockstep) and scheduler.lockstep.waits(number)
        trained = {"trained": len(history) - waits}
        ended = number in ends
        past.append((config if ended else config | trained, history[-1] if ended else None, False))
    searcher = InBatches(optuna_search("tpe"), 4)
    searcher.replay(past)
    tune = Tune(searcher, scheduler, 2, seed)
    tune.told = Story(dict(cut.configs), list(cut.reports), ends)
    return tune.run()


def test_a_list_goes_in_batches_too() -> None:
    """The third of batches of two is handed out when the first two have ended, and not before."""
    made = InBatches(Listed([{"number": n} for n in range(3)]), 2)
    assert [made.suggest(name) for name in "abc"] == [{"number": 0}, {"number": 1}, None]
    made.on_trial_complete("b")
    assert made.suggest("c") is None
    made.on_trial_complete("a")
    assert made.suggest("c") == {"number": 2}
    assert made.suggest("d") == Searcher.FINISHED


def test_nobody_waits_for_a_failed_student() -> None:
    """By hand: three of four wait at the rung; the fourth fails in its first epoch, and they go on."""
    made = InLockstep(schedulers.SafeASHA(EPOCHS, 2), 4, 4)
    trials: list[Any] = [Made(f"ray-{n}", {"id": f"kd-{n:03d}", "number": n}) for n in range(4)]
    for trial in trials:
        made.on_trial_add(ANY, trial)
    for trial in trials[:3]:
        told = report(trial.config["number"], {"alpha": 0.5, "temperature": 4.0}, 2)
        pauses = trial.config["number"] > 0  # the default is never stopped, and need not wait
        action = made.on_trial_result(ANY, trial, told)
        assert action == (TrialScheduler.PAUSE if pauses else TrialScheduler.CONTINUE)
        trial.status = Trial.PAUSED if pauses else Trial.RUNNING
    trials[3].status = Trial.RUNNING
    assert made.choose_trial_to_run(ANY) is None
    trials[3].recovers = True  # its worker was lost, and it goes on in another: it is waited for
    made.on_trial_error(ANY, trials[3])
    assert made.choose_trial_to_run(ANY) is None
    trials[3].recovers = False
    made.on_trial_error(ANY, trials[3])
    assert made.choose_trial_to_run(ANY) is trials[1]


def test_a_report_is_heard_once() -> None:
    """A retried epoch with another accuracy changes nothing."""
    lockstep = Lockstep(schedulers.SafeASHA(EPOCHS, 2), 1, 4)
    told = report(0, {"alpha": 0.5, "temperature": 4.0}, 2)
    for accuracy in (0.5, 0.9):
        lockstep.hear("kd-000", 0, {**told, METRIC: accuracy})
        lockstep.settle()
    rungs: Any = lockstep.rule._brackets[0]._rungs  # type: ignore[attr-defined]
    assert rungs[-1][1] == {"kd-000": 0.5}
