"""The watchdog: a trial that says nothing for too long has its worker ended, and goes on in a fresh one.

A trial may be silent, between two reports, for

    10 times the longest epoch of any trial so far, and at least 5 minutes;
    before its own first report also 10 times an epoch as reckoned from a step of its networks measured on the CPU,
    and at least 30 minutes: the teacher answers for the first time, and files are read for the first time.

`--hang-after SECONDS` takes the place of the 5 and the 30 minutes, never of the multiples, so an epoch that is only
slow is not taken for a hang. Only running trials are watched: those that wait for a slot or for their population are
not. Time counts while the driver's own loop turns: a laptop that slept has not hung its trials.
"""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from tuner import cluster
from tuner.journal import Student
from tuner.progress import duration

TIMES = 10  # the longest epoch
FLOOR = 300.0  # seconds
FIRST_FLOOR = 1800.0  # seconds, before a trial's first report
LONGEST_TICK = 5.0  # seconds that one turn of the driver's loop counts at most


@dataclass
class Patience:
    """How long a trial may be silent, in seconds."""

    hang_after: float | None = None  # the user's floor
    longest: float = 0.0  # silence that ended in a report, of any trial

    def limit(self, first: bool, expected: Callable[[], float]) -> float:
        """For a trial with a report of its own, or before its `first`; `expected` reckons an epoch, when asked."""
        floor = self.hang_after or (FIRST_FLOOR if first else FLOOR)
        known = max(floor, TIMES * self.longest)
        return max(known, TIMES * expected()) if first else known


@dataclass
class Watched:
    """A trial under watch."""

    trial: Trial
    since: float  # the last sign of life, by the watchdog's clock
    first: bool  # nothing reported yet
    worker: tuple[str, int] | None = None  # host and process id, once it has reported


class Watchdog(tune.Callback):
    """Looks at every turn of Tune's loop, which goes on while trials hang."""

    def __init__(
        self,
        patience: Patience,
        expected: Callable[[Mapping[str, Any]], float],
        on_hang: Callable[[Trial, str], None],
    ) -> None:
        """`expected(config)` reckons the seconds of an epoch; `on_hang(trial, reason)` hears of each before its end."""
        self.patience, self.expected, self.on_hang = patience, expected, on_hang
        self.watched: dict[str, Watched] = {}  # by Ray's name for the trial
        self.now = 0.0
        self.looked = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles its callbacks."""
        return {}

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A worker has taken the trial up."""
        self.watched[trial.trial_id] = Watched(trial, self.now, True)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """A report: how long it took is what others are measured by."""
        one = self.watched.setdefault(trial.trial_id, Watched(trial, self.now, True))
        self.patience.longest = max(self.patience.longest, self.now - one.since)
        one.since, one.first = self.now, False
        one.worker = (str(result.get("hostname", "")), int(result.get("pid", 0)))

    def on_trial_save(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A checkpoint is a sign of life, too."""
        if trial.trial_id in self.watched:
            self.watched[trial.trial_id].since = self.now

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Nothing to watch any more."""
        self.watched.pop(trial.trial_id, None)

    on_trial_error = on_trial_recover = on_trial_complete

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """End the workers of those that have been silent for too long."""
        looked, self.looked = self.looked, time.monotonic()
        self.now += min(self.looked - looked, LONGEST_TICK)
        for one in list(self.watched.values()):
            silent = self.now - one.since
            if one.trial.status == Trial.RUNNING and silent > self._limit(one, silent):
                self.on_hang(one.trial, f"no report for {duration(silent)}")
                one.since = self.now  # its end takes a moment to arrive
                _end_worker(one)

    def _limit(self, one: Watched, silent: float) -> float:
        """The measured reckoning is only asked for where it could save the trial."""
        if silent <= self.patience.limit(one.first, lambda: 0.0):
            return silent
        return self.patience.limit(one.first, lambda: self.expected(one.trial.config))


def longest_epoch(students: Iterable[Student]) -> float:
    """Seconds of the longest epoch that is known; 0 without any."""
    totals = [[0.0, *(epoch.get("seconds", 0.0) for epoch in s.history)] for s in students]
    gaps = [after - before for t in totals for before, after in pairwise(t)]
    return max(gaps, default=0.0)


def _end_worker(one: Watched) -> None:
    """By its process id where it is on this machine, for one that is stopped hears nothing; by Ray in any case."""
    host, process = one.worker or ("", 0)
    if process and host == platform.node():
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    cluster.kill(one.trial.temporary_state.ray_actor)
