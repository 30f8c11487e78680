"""A search over made-up curves, run both ways: in an event loop, and through Ray Tune.

The loop asks the very same sampler and scheduler objects that a search has, in the order in which Ray's controller asks
them, and gives each trial to the next free of some simulated workers. With one worker both ways train the same trials.
"""

from __future__ import annotations

import heapq
import itertools
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, Protocol

import tuner  # noqa: F401  sets Ray's environment, which Ray reads when it is imported

# isort: split
from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from benchmarks.curves import World
from search_spaces import Domain
from tuner import schedulers, strategies
from tuner.cluster import running
from tuner.samplers import METRIC, Config, SafeOptunaSearch
from tuner.students import make_tuner, quiet

TRIALS, MANY_TRIALS = 32, 128
FINALISTS, SEEDS = 3, 5  # of a confirmation, as a search's defaults are
FURTHER = 10**6  # number of the first student that no trial of the search was


class Landscape(Protocol):
    """What is searched: made up (curves.py) or measured (truth.py); hashable."""

    @property
    def seed(self) -> int:
        """Of the search."""

    @property
    def epochs(self) -> int:
        """Of a student."""

    @property
    def grace(self) -> int:
        """Epochs before a trial may be stopped, as plan.py has it for so many epochs."""

    @property
    def space(self) -> dict[str, Domain]:
        """What is searched."""

    @property
    def published(self) -> dict[str, float]:
        """The first trial."""

    def loss(self, hyper: Mapping[str, Any]) -> float:
        """Points below the best, at the end and without noise."""

    def accuracy(self, hyper: Mapping[str, Any], number: int, epoch: int) -> float:
        """What student `number` reports after `epoch`, as a share."""


class Strategy(NamedTuple):
    """What is tried: names as the user gives them."""

    search: str
    scheduler: str
    n_trials: int = TRIALS

    def name(self) -> str:
        """A row's first cell."""
        more = "" if self.n_trials == TRIALS else f", {self.n_trials} trials"
        return f"{self.search}, {self.scheduler}{more}"


class Case(NamedTuple):
    """One search."""

    world: Landscape
    strategy: Strategy
    workers: int


class Answer(NamedTuple):
    """What a search comes to; regrets are points below the best there is, without noise."""

    regret: float  # of the trial that read best
    confirmed: float  # of the setting that the confirmation takes
    epochs: int  # that the trials trained


@dataclass
class Trained:
    """A trial that has ended, or is under way."""

    config: Config
    accuracies: list[float] = field(default_factory=list)


class SimTrial(NamedTuple):
    """What a scheduler sees of Ray's trial."""

    trial_id: str
    config: Config


def parts(case: Case) -> tuple[Searcher, TrialScheduler]:
    """The sampler and the scheduler that a search of this kind has."""
    world, asked = case.world, case.strategy
    scheduler = strategies.scheduler_of(asked.scheduler, asked.n_trials)

    def complete(number: int, drawn: dict[str, Any]) -> Config:
        return {"id": f"kd-{number:03d}", "number": number, "hyper": drawn, "epochs": world.epochs}

    searcher = SafeOptunaSearch(
        world.space,
        strategies.search_of(asked.search, scheduler, world.space, asked.n_trials),
        case.workers,
        world.seed,
        complete,
        world.published,
        asked.n_trials,
    )
    return searcher, schedulers.make(scheduler, world.epochs, world.grace)


def report(world: Landscape, config: Config, epoch: int) -> dict[str, Any]:
    """What a trial reports after an epoch."""
    accuracy = world.accuracy(config["hyper"], config["number"], epoch)
    told = {METRIC: accuracy, "epoch": epoch, "ranked_epoch": epoch, "epochs": world.epochs}
    return {**told, "diverged": "", "failed": "", "done": epoch >= world.epochs}


def play(case: Case) -> list[Trained]:
    """The search in the event loop: an epoch takes one unit of time, whoever is first is first."""
    searcher, scheduler = parts(case)
    trials: list[Trained] = []
    under_way: list[tuple[int, int]] = []  # (time of its next report, position in trials)

    def start(now: int) -> None:
        config = searcher.suggest(f"t{len(trials)}")
        if config != Searcher.FINISHED:
            heapq.heappush(under_way, (now + 1, len(trials)))
            trials.append(Trained(config))

    for _ in range(case.workers):
        start(0)
    while under_way:
        now, position = heapq.heappop(under_way)
        if step(case.world, trials[position], f"t{position}", searcher, scheduler):
            start(now)
        else:
            heapq.heappush(under_way, (now + 1, position))
    return trials


def step(
    world: Landscape, trial: Trained, identity: str, searcher: Searcher, scheduler: TrialScheduler
) -> bool:
    """Train a trial one epoch and ask the scheduler; whether it has ended."""
    result = report(world, trial.config, len(trial.accuracies) + 1)
    trial.accuracies.append(result[METRIC])
    seen: Any = SimTrial(identity, trial.config)
    nobody: Any = None
    if not result["done"] and (
        scheduler.on_trial_result(nobody, seen, result) != TrialScheduler.STOP
    ):
        return False
    scheduler.on_trial_complete(nobody, seen, result)
    searcher.on_trial_complete(identity, result)
    return True


def judge(case: Case) -> Answer:
    """What a search finds, what its confirmation takes, and the epochs that its trials trained."""
    world, trials = case.world, play(case)
    whole = [trial for trial in trials if len(trial.accuracies) == world.epochs]
    ranked = sorted(whole, key=lambda trial: -trial.accuracies[-1])
    best = [trial.config["hyper"] for trial in ranked[:FINALISTS]]
    epochs = sum(len(trial.accuracies) for trial in trials)
    return Answer(world.loss(best[0]), world.loss(confirmed(world, best)), epochs)


def confirmed(world: Landscape, finalists: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The setting that a search takes: of finalists and the published default the best mean over further seeds."""
    contenders = [world.published, *finalists]

    def mean(place: int) -> float:
        numbers = range(FURTHER + place * SEEDS, FURTHER + (place + 1) * SEEDS)
        last = (world.accuracy(contenders[place], number, world.epochs) for number in numbers)
        return fmean(last)

    return contenders[max(range(len(contenders)), key=mean)]


class Simulated(tune.Trainable):
    """The trial as Ray sees it."""

    def setup(self, config: Config, world: Landscape | None = None) -> None:
        """Before the first epoch."""
        assert world is not None
        self.world = world
        self.reset_config(config)

    def reset_config(self, new_config: Config) -> bool:
        """Become another trial."""
        self.config, self.epoch = new_config, 0
        return True

    def step(self) -> dict[str, Any]:
        """One epoch."""
        self.epoch += 1
        return report(self.world, self.config, self.epoch)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing that anybody reads."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: nobody fails here."""


class Listener(tune.Callback):
    """Hears what every trial reports."""

    def __init__(self) -> None:
        self.trials: dict[str, Trained] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """One epoch."""
        config = {k: trial.config[k] for k in ("id", "number", "hyper", "epochs")}
        heard = self.trials.setdefault(config["id"], Trained(config))
        heard.accuracies.append(result[METRIC])


def through_ray(case: Case, folder: Path) -> list[Trained]:
    """The same search through Ray Tune, with one worker."""
    searcher, scheduler = parts(case)
    listener = Listener()
    trainable = tune.with_resources(tune.with_parameters(Simulated, world=case.world), {"cpu": 1})
    n_trials = case.strategy.n_trials
    with quiet():
        make_tuner(trainable, searcher, scheduler, n_trials, 1, folder, [listener]).fit()
    return [listener.trials[key] for key in sorted(listener.trials)]


def check_ray(seeds: Sequence[int]) -> tuple[int, float]:
    """Run some searches both ways: how many, and seconds of one through Ray.

    Raises ValueError where the two ways part.
    """
    cases = [
        Case(World(n, crossing, seed), Strategy(*strategy), 1)
        for seed, (n, crossing), strategy in itertools.product(
            seeds, ((2, False), (4, True)), (("tpe", "asha"), ("gp", "none"))
        )
    ]
    started = time.monotonic()
    with running(1), tempfile.TemporaryDirectory() as folder:
        for i, case in enumerate(cases):
            if through_ray(case, Path(folder) / str(i)) != play(case):
                raise ValueError(f"both ways must give the same trials, got others in {case}")
    return len(cases), (time.monotonic() - started) / len(cases)
