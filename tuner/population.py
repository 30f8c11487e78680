"""Population-based training (Jaderberg et al. 2017, arXiv:1711.09846): settings that change while students are trained.

All trials are one population. Every `interval` epochs it waits until everyone has arrived; then each of the worst
quarter takes over the weights and the setting of one of the best quarter, with those values changed that may change.
Ray's own goes on without waiting, so that who is compared with whom depends on the clock; it draws from Python's global
stream, refuses a searcher, and forgets everything on resume. Here a decision depends on the seed and the reports alone.

NaN, missing   a diverged student ends itself, and is neither source nor target; so is a student that failed or is done
a tie          goes on; of equals the earlier counts as better
first phases   have ranked_epoch 0: such a student is neither source nor target
the default    the first trial is never changed; it may be a source
a resumed one  a turn that was interrupted is finished first, the same way; who waits at an unfinished one trains its
               last epoch again, from the checkpoint before it, and waits once more
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from search_spaces import Domain
from trainables.checkpoint import STATE
from trainables.files import rename_into
from trainables.seeding import seed_of
from tuner.budgets import Budgets
from tuner.samplers import METRIC
from tuner.schedulers import InOrder, rankable

SHARE = 4  # one in so many is replaced, and as many are sources
FACTORS = (0.8, 1.2)  # the paper's
RESAMPLED = 0.25  # probability that a value is drawn anew instead


class Member(NamedTuple):
    """A student at a turn."""

    identity: str
    number: int
    accuracy: float | None  # None where it is not ranked
    hyper: dict[str, Any]


class Change(NamedTuple):
    """What a turn decides for one student."""

    identity: str
    source: str  # the student whose weights it takes over
    hyper: dict[str, Any]  # with which it goes on


def turn(members: list[Member], epoch: int, space: Mapping[str, Domain], seed: int) -> list[Change]:
    """Who is replaced by whom after `epoch`, and with which values each goes on; the same for any order of members."""
    ranked = [m for m in members if m.accuracy is not None]
    ranked.sort(key=lambda m: (-(m.accuracy or 0.0), m.number))
    n = min(max(1, len(ranked) // SHARE), len(ranked) // 2)
    changes = []
    for loser in ranked[len(ranked) - n :]:
        draws = random.Random(seed_of(seed, f"turn {epoch}", loser.number))
        source = draws.choice(ranked[:n])
        if loser.number > 0 and loser.accuracy != source.accuracy:
            hyper = {**source.hyper, **perturbed(source.hyper, space, draws)}
            changes.append(Change(loser.identity, source.identity, hyper))
    return changes


def perturbed(
    hyper: Mapping[str, Any], space: Mapping[str, Domain], draws: random.Random
) -> dict[str, Any]:
    """New values of what may change: times 0.8 or 1.2, or now and then drawn anew; inside the space."""
    found = {}
    for name, domain in space.items():
        anew = draws.random() < RESAMPLED
        share, factor = draws.random(), draws.choice(FACTORS)
        found[name] = inside(domain, at(domain, share) if anew else hyper[name] * factor)
    return found


def at(domain: Domain, share: float) -> float:
    """The value at a share of the domain's own scale."""
    if domain.word.startswith("log"):
        return float(domain.low * (domain.high / domain.low) ** share)
    return domain.low + (domain.high - domain.low) * share


def inside(domain: Domain, value: float) -> float:
    """The nearest value that the domain holds."""
    low, high = map(float, domain.ends())
    step = domain.step or (1.0 if domain.word in ("randint", "lograndint") else 0.0)
    near = low + round((value - low) / step) * step if step else value
    return min(max(near, low), high)


class Population(InOrder):
    """Pauses students at each turn and lets them go on after it; holds any number of students on any number of slots.

    `checkpoints(id)` gives the folders of a student's checkpoints by epoch; `on_change(change, epoch)` writes a change
    down after the weights have been taken over.
    """

    def __init__(
        self,
        size: int,
        interval: int,
        space: Mapping[str, Domain],
        seed: int,
        checkpoints: Callable[[str], dict[Path, int]],
        on_change: Callable[[Change, int], None],
        budgets: Budgets | None = None,
    ) -> None:
        super().__init__()
        self.budgets = budgets
        self.size, self.interval, self.space, self.seed = size, interval, dict(space), seed
        self.checkpoints, self.on_change = checkpoints, on_change
        self.decided = 0  # the epoch of the last turn
        self.trials: dict[str, Trial] = {}
        self.arrived: dict[str, tuple[int, float | None]] = {}  # by id: epoch, accuracy
        self.ended: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles its scheduler, and ours writes to an open file; the journal is what is resumed from."""
        return {}

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Metric and mode are set here and nowhere else."""
        return True

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """One more of the population, or one whose worker was lost and that goes on in another."""
        self.trials[trial.config["id"]] = trial
        self.ended.discard(trial.config["id"])

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """PAUSE at a turn, else CONTINUE."""
        epoch = int(result["epoch"])
        self.arrived[trial.config["id"]] = (epoch, ranked_accuracy(result))
        # where an interrupted search had gone on from is no place to begin from after this one
        trial.set_config({k: v for k, v in trial.config.items() if k != "restore_from"})
        at_turn = epoch % self.interval == 0 and not self.over
        return TrialScheduler.PAUSE if at_turn else TrialScheduler.CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """A student that is done is waited for no more."""
        self.ended.add(trial.config["id"])

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Nor is one that failed."""
        self.ended.add(trial.config["id"])

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Nor is one that was taken out."""
        self.ended.add(trial.config["id"])

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The student that is furthest behind; those who wait for a turn wait, and end where none will come."""
        epoch = self.decided + self.interval
        living = [t for i, t in self.trials.items() if i not in self.ended]
        if self.over:
            return self._last_ones(tune_controller, living)
        at_turn = [t for t in living if t.status == Trial.PAUSED and self._epoch(t) == epoch]
        if len(self.trials) == self.size and living and len(at_turn) == len(living):
            self._take_turn(at_turn, epoch)
        free = [
            t
            for t in living
            if t.status == Trial.PENDING
            or (t.status == Trial.PAUSED and self._epoch(t) <= self.decided)
        ]
        return min(free, key=lambda t: (self._epoch(t), t.config["number"]), default=None)

    @property
    def over(self) -> bool:
        """Whether a budget is used up: there will be no turn any more."""
        return self.budgets is not None and self.budgets.over

    def _last_ones(self, tune_controller: Any, living: list[Trial]) -> Trial | None:
        """End those that wait; whoever is to be trained in full goes on."""
        assert self.budgets is not None
        for trial in living:
            waits = trial.status == Trial.PAUSED
            if waits and self.budgets.ends(trial.config["id"], trial.config["number"]):
                tune_controller.stop_trial(trial)
        free = [t for t in living if t.status in (Trial.PENDING, Trial.PAUSED)]
        return free[0] if free else None

    def waits_at(self, epoch: int) -> bool:
        """Whether a student that has trained so far waits for a turn."""
        return epoch > self.decided and epoch % self.interval == 0

    def carry_out(self, members: list[Member], epoch: int, done: Collection[str]) -> list[Change]:
        """Take a turn: weights first, then the record of it; those who are `done` have both."""
        changes = turn(members, epoch, self.space, self.seed)
        for change in changes:
            if change.identity not in done:
                take_over(change, epoch, self.checkpoints)
                self.on_change(change, epoch)
        return changes

    def _epoch(self, trial: Trial) -> int:
        return self.arrived.get(trial.config["id"], (0, None))[0]

    def _take_turn(self, trials: list[Trial], epoch: int) -> None:
        configs = [trial.config for trial in trials]
        members = [
            Member(c["id"], c["number"], self.arrived[c["id"]][1], c["hyper"]) for c in configs
        ]
        for change in self.carry_out(members, epoch, ()):
            trial, source = self.trials[change.identity], self.trials[change.source]
            new = {"hyper": change.hyper, "epochs": source.config["epochs"]}
            trial.set_config({**trial.config, **new})
        self.decided = epoch


def ranked_accuracy(result: dict[str, Any]) -> float | None:
    """What a student is ranked by; None where it is not."""
    ranked = rankable(result) and result["ranked_epoch"] > 0
    return float(result[METRIC]) if ranked else None


def take_over(change: Change, epoch: int, checkpoints: Callable[[str], dict[Path, int]]) -> None:
    """Put the source's state of `epoch` in the place of the student's own; raises ValueError where there is none."""
    sources = [folder for folder, at in checkpoints(change.source).items() if at == epoch]
    if not sources:
        raise ValueError(
            f"a source must have its checkpoint of epoch {epoch}, got none for {change.source}"
        )
    for folder, found in checkpoints(change.identity).items():
        if found == epoch:
            for name in (STATE, f"{STATE}.sha256"):
                rename_into(folder / name, (sources[-1] / name).read_bytes())
