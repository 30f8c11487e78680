"""From Ray Tune's callbacks to the journal: what a trial reports is written down once, in order."""

from __future__ import annotations

import errno
import shutil
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from rich.markup import escape

from tuner import room
from tuner.budgets import REASON, Budgets
from tuner.journal import Journal
from tuner.objectives import KNOWN
from tuner.progress import Board

CHECKPOINTS_KEPT = 2  # of each trial: should the newest be damaged, the one before is good
DRIVER_KEYS = (
    "epoch",
    "ranked_epoch",
    "seconds",
)  # beside those with a section, such as val/accuracy


class Recorder(tune.Callback):
    """Writes each student's start, epochs and end; a retried epoch is not written twice."""

    def __init__(
        self,
        journal: Journal,
        board: Board,
        epochs_before: dict[str, int],
        budgets: Budgets | None = None,
    ) -> None:
        self.journal, self.board = journal, board
        self.stopped = budgets.stopped if budgets else set()  # ids that a budget ended
        self.epochs = dict(epochs_before)  # of each student, as far as written
        self.begun: set[str] = set()
        self.checkpoints: dict[str, list[str]] = {}  # folders of each student, as far as kept
        self.last: dict[str, dict[str, Any]] = {}
        self.damages: dict[str, str] = {}  # of each student's checkpoints, as far as told
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
        """A student's first start; retries after a lost worker are no news."""
        config = trial.config
        if config["id"] not in self.begun:
            self.begun.add(config["id"])
            told = {key: config[key] for key in TOLD}
            self.board.take(self.journal.write("student", **told))
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
        if not result["failed"] and result["epoch"] > self.epochs.get(identity, 0):
            self.epochs[identity] = result["epoch"]
            metrics = {k: v for k, v in result.items() if k in DRIVER_KEYS or is_metric(k)}
            self.board.take(self.journal.write("epoch", id=identity, metrics=metrics))

    def on_checkpoint(
        self, iteration: int, trials: list[Trial], trial: Trial, checkpoint: Any, **info: Any
    ) -> None:
        """Delete a student's checkpoints but for the newest."""
        kept = self.checkpoints.setdefault(trial.config["id"], [])
        kept.append(checkpoint.path)
        while len(kept) > CHECKPOINTS_KEPT:
            shutil.rmtree(kept.pop(0), ignore_errors=True)

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
        reason = reason_of(trial)
        self._no_room_is_no_failure(reason)
        self._end(trial, "failed", reason)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Keep the picture fresh."""
        self.board.refresh()
        room.watch(self.journal.path.parent)

    def _no_room_is_no_failure(self, reason: str) -> None:
        """A student that could not write is trained later: raises NoRoomError, which ends the search."""
        if room.lacking(reason, self.journal.path.parent):
            raise room.NoRoomError(errno.ENOSPC, reason)

    def _end(self, trial: Trial, status: str, reason: str = "") -> None:
        identity = trial.config["id"]
        self.board.take(
            self.journal.write("end", id=identity, status=status, reason=reason, sync=True)
        )


TOLD = ("id", "number", "kind", "role", "method", "seed", "hyper", "epochs", "label")


def is_metric(name: str) -> bool:
    """Whether a reported name has a section of ours (Ray's own have none) or is an objective."""
    sections = ("train", "val", "teacher", "robust", "flags")
    return name in KNOWN or name.partition("/")[0] in sections


def reason_of(trial: Trial) -> str:
    """The last line of what a trial raised."""
    try:
        text = str(trial.get_error())
    except (
        Exception
    ) as problem:  # Ray unpickles its own error file, which a full disk may have cut short
        text = str(problem)
    lines = [some.strip() for some in text.splitlines() if some.strip()]
    return lines[-1][:500] if lines else "unknown"
