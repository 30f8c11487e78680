"""From Ray Tune's callbacks to the journal: what a trial reports is written down once, in order."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from rich.markup import escape

from tuner import failures, room
from tuner.budgets import REASON, Budgets
from tuner.failures import Failure, Tally
from tuner.journal import Journal
from tuner.objectives import KNOWN
from tuner.progress import Board
from tuner.shelf import Shelf

DRIVER_KEYS = (
    "epoch",
    "ranked_epoch",
    "seconds",
)  # beside those with a section, such as val/accuracy


class Recorder(tune.Callback):
    """Writes each student's start, epochs, retries and end; an epoch trained again is not written twice."""

    def __init__(
        self,
        journal: Journal,
        board: Board,
        shelf: Shelf,
        tally: Tally,
        budgets: Budgets | None = None,
    ) -> None:
        self.journal, self.board, self.shelf, self.tally = journal, board, shelf, tally
        self.stopped = budgets.stopped if budgets else set()  # ids that a budget ended
        self.alone = True  # whether Tune trains nothing but this search
        # of each student, as far as written
        self.epochs = {s.id: len(s.history) for s in board.story.students.values()}
        self.begun: set[str] = set()
        self.last: dict[str, dict[str, Any]] = {}
        self.damages: dict[str, str] = {}  # of each student's checkpoints, as far as told
        self.silent: dict[str, str] = {}  # who hung just now, in words
        self.kernel_kills = failures.kernel_kills()
        self.listening = False

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles its callbacks, and ours hold an open file."""
        return {}

    def setup(
        self, stop: Any = None, num_samples: Any = None, total_num_samples: Any = None, **info: Any
    ) -> None:
        """From now on Tune's own loop answers SIGUSR1."""
        self.listening = True

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """A student's first start; its retries have an event of their own."""
        self._begin(trial)
        self.board.refresh()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """One epoch."""
        identity = trial.config["id"]
        self.last[identity] = result
        damage = result.get("damage", "")
        if damage not in ("", self.damages.get(identity)):
            self.damages[identity] = damage
            after = f"goes on with epoch {result['epoch']}"
            self.board.say(escape(f"{identity} {after}: {damage}"))
        if result["failed"]:
            return
        if result["epoch"] <= self.epochs.get(identity, 0):
            again = self.journal.write("repeated", id=identity, epoch=result["epoch"])
            self.board.take(again)
            return
        self.epochs[identity] = result["epoch"]
        metrics = {k: v for k, v in result.items() if k in DRIVER_KEYS or is_metric(k)}
        ill = {"diverged": result["diverged"]} if result.get("diverged") else {}
        self.board.take(self.journal.write("epoch", id=identity, metrics=metrics, **ill))

    def on_checkpoint(
        self, iteration: int, trials: list[Trial], trial: Trial, checkpoint: Any, **info: Any
    ) -> None:
        """One more checkpoint, one older one less."""
        self.shelf.add(trial.config["id"], Path(checkpoint.path))

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Finished, stopped early, diverged, or not trained at all."""
        last = self.last.get(trial.config["id"], {})
        if last.get("failed"):
            self._no_room_is_no_failure(last["failed"])
            self._end(trial, "failed", last["failed"])
        elif last.get("infeasible"):
            self._end(trial, "infeasible", last["infeasible"])
        elif last.get("diverged"):
            self._end(
                trial, "diverged", f"{last['diverged']} was not finite in epoch {last['epoch']}"
            )
        else:
            complete = last.get("epoch", 0) >= trial.config["epochs"]
            reason = REASON if not complete and trial.config["id"] in self.stopped else ""
            self._end(trial, "finished" if complete else "stopped", reason)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Failed for good."""
        found = self._failure(trial)
        self._no_room_is_no_failure(found.reason)
        self._begin(trial)
        tries = trial.num_failures
        again = f" {tries} times" if found.kind == failures.LOST and tries > 1 else ""
        status = failures.FAILED if found.kind == failures.LOST else found.kind
        self._end(trial, status, f"{found.reason}{again}")

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Its worker is gone and it goes on in another; only where the worker was lost, more than once."""
        self._begin(trial)
        found = self._failure(trial)
        told = {"id": trial.config["id"], "kind": found.kind, "reason": found.reason}
        self.board.take(self.journal.write("retried", sync=True, **told))
        if found.kind != failures.LOST:
            trial.max_failures = trial.num_failures

    def hung(self, trial: Trial, reason: str) -> None:
        """The watchdog is about to end this trial's worker."""
        self.silent[trial.config["id"]] = reason

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Keep the picture fresh."""
        self.board.refresh()
        room.watch(self.journal.path.parent)

    def _no_room_is_no_failure(self, reason: str) -> None:
        """A student that could not write is trained later: raises NoRoomError, which ends the search."""
        if room.lacking(reason, self.journal.path.parent):
            raise room.NoRoomError(errno.ENOSPC, reason)

    def _begin(self, trial: Trial) -> None:
        """Write a student's start, once; one whose worker could not be set up has none but in its failure."""
        config = trial.config
        if config["id"] not in self.begun:
            self.begun.add(config["id"])
            told = {key: config[key] for key in TOLD}
            self.board.take(self.journal.write("student", **told))

    def _failure(self, trial: Trial) -> Failure:
        """Why its worker stopped."""
        silent = self.silent.pop(trial.config["id"], "")
        if silent:
            return Failure(failures.HUNG, silent)
        killed = failures.kernel_kills() > self.kernel_kills
        return failures.classified(text_of(trial), kernel_killed=killed)

    def _end(self, trial: Trial, status: str, reason: str = "") -> None:
        identity = trial.config["id"]
        self.board.take(
            self.journal.write("end", id=identity, status=status, reason=reason, sync=True)
        )
        self.shelf.end(self.board.story.students[identity])
        self.tally.add(status, reason)
        if self.tally.verdict and self.alone:
            os.kill(os.getpid(), signal.SIGUSR1)  # Tune finishes its step and returns


TOLD = ("id", "number", "kind", "role", "method", "seed", "hyper", "epochs", "label")


def is_metric(name: str) -> bool:
    """Whether a reported name has a section of ours (Ray's own have none) or is an objective."""
    sections = ("train", "val", "teacher", "robust", "flags")
    return name in KNOWN or name.partition("/")[0] in sections


def text_of(trial: Trial) -> str:
    """What Ray wrote of a trial's failures, on the driver's side; "" where a full disk or nothing let it write."""
    try:
        return Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    except (OSError, TypeError):
        return ""
