"""Train one student of a past search again, alone, and say whether it is the same in every epoch.

Its run in MLflow holds all that this takes (the tag kd.replay): the student's config, what the search's students
share, and the checksums of the data and the teacher that it learnt from, which must still be there. Nothing is written
to MLflow. A population's member is trained as it was: from the weights of those it went on from, trained again too.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trainables.champion import save_champion
from trainables.checkpoint import read_state
from trainables.trainable import Task, Trial, alone
from tuner import store
from tuner.ingredients import made_with, network_of, task_of
from tuner.progress import Board
from tuner.recorded import Recorded, ask

DIFFERENT = 1  # exit status
KEPT = "replays"  # folder in OUT of students that were trained again
LARGEST = sys.float_info.max  # what MLflow's stores hold for infinity
REASONS = {
    "torch": "another version of torch",
    "code": "the training code of kdtune has changed",
    "machine": "another processor",
}


class Difference(NamedTuple):
    """Where a student that was trained again departs from what is recorded of it."""

    epoch: int
    name: str
    recorded: float
    found: float


def run(run_id: str, given: dict[str, Any]) -> int:
    """Train the student of that run again; 0 where all is equal, else 1. Raises ValueError where it cannot be done."""
    records, out = ask(given, "--replay")
    asked = records.student(run_id)
    if not asked.history:
        raise ValueError(f"--replay must be a student with an epoch behind it, got none: {run_id}")
    place = out or Path(asked.record["out"])
    store.at_hand(place, asked.search)
    board = Board()
    task = task_of(asked.record, place)
    config = asked.record["config"]
    board.say(
        f"[bold]{config['label']}[/bold], {len(asked.history)} epochs, as recorded in {run_id}"
    )
    with tempfile.TemporaryDirectory() as states:
        replay = Replay(task, asked, records.beside, Path(states), board)
        last = replay.all()
        folder = keep(task, asked, last, place)
    return verdict(replay.differences, asked, task, folder, board)


class Replay:
    """Trains a student again, epoch by epoch, and those whose weights it took over as far as it takes."""

    def __init__(
        self,
        task: Task,
        asked: Recorded,
        beside: Callable[[Recorded, str], Recorded],
        folder: Path,
        board: Board,
    ) -> None:
        self.task, self.asked, self.beside = task, asked, beside
        self.folder, self.board = folder, board
        self.trial: Trial | None = None
        self.students = {asked.record["config"]["id"]: asked}
        self.differences: list[Difference] = []

    def all(self) -> Path:
        """The checkpoint after the last recorded epoch; every epoch has been compared by then."""
        last = max(self.asked.history)
        for epoch in (*(at for at in sorted(self.asked.changes) if at < last), last):
            found = self.after(self.asked, epoch)
        return found

    def after(self, one: Recorded, epoch: int) -> Path:
        """The checkpoint of a student after `epoch`, trained for it unless it is there."""
        config = one.record["config"]
        folder = self.folder / f"{config['id']}-{epoch}"
        if folder.exists():
            return folder
        config = {**config, "hyper": one.hyper_at(epoch)}
        began = max((at for at in one.changes if at < epoch), default=0)
        if began:
            source = self._student(one.changes[began]["from"])
            config["restore_from"] = str(self.after(source, began))
        trial = self._trial(config)
        for at in range(began + 1, epoch + 1):
            self._step(trial, one, at)
        folder.mkdir()
        trial.save_checkpoint(str(folder))
        return folder

    def _student(self, identity: str) -> Recorded:
        if identity not in self.students:
            self.students[identity] = self.beside(self.asked, identity)
        return self.students[identity]

    def _trial(self, config: dict[str, Any]) -> Trial:
        if self.trial is None:
            self.trial = alone(self.task, config)
        else:
            self.trial.reset_config(config)
        return self.trial

    def _step(self, trial: Trial, one: Recorded, epoch: int) -> None:
        found = trial.step()
        if found["failed"]:
            raise ValueError(
                f"a student must be trainable again, got in epoch {epoch}: {found['failed']}"
            )
        if one is not self.asked:
            return
        recorded = one.history.get(epoch, {})
        differences = compare(epoch, recorded, found)
        self.differences += differences
        equal = f"equal in {len(compared(recorded))} metrics"
        words = in_words(differences[0]) if differences else equal
        self.board.say(
            f"epoch {epoch}: val accuracy {found['val/accuracy']:.2%}, "
            f"recorded {recorded.get('val/accuracy', math.nan):.2%}, {words}"
        )


def compared(recorded: Mapping[str, float]) -> list[str]:
    """The metrics that depend on the training alone: what the clock says, and who asked the teacher first, does not."""
    clocks = [n for n in recorded if n.endswith("seconds") or n == "latency_ms"]
    return sorted(n for n in recorded if n not in clocks and not n.startswith("teacher/"))


def compare(
    epoch: int, recorded: Mapping[str, float], found: Mapping[str, Any]
) -> list[Difference]:
    """Where an epoch differs from its record; a missing value is NaN, and NaN equals NaN."""
    differences = []
    for name in compared(recorded):
        was, is_ = recorded[name], as_stored(float(found.get(name, math.nan)))
        if was != is_ and not (math.isnan(was) and math.isnan(is_)):
            differences.append(Difference(epoch, name, was, is_))
    return differences


def as_stored(value: float) -> float:
    """A metric as MLflow's stores give it back: they hold the largest number for infinity."""
    return math.copysign(LARGEST, value) if math.isinf(value) else value


def keep(task: Task, asked: Recorded, checkpoint: Path, out: Path) -> Path:
    """Write the student's weights and what rebuilds the network, below `out`/replays; the folder."""
    folder = out / KEPT / asked.run_id
    folder.mkdir(parents=True, exist_ok=True)
    network = network_of(asked.record, asked.hyper_at(max(asked.history)))
    save_champion(folder, {**network, "run": asked.run_id}, task.facts, read_state(checkpoint))
    return folder


def verdict(
    differences: list[Difference], asked: Recorded, task: Task, folder: Path, board: Board
) -> int:
    """Say whether all was equal, or where it first was not and why that may be; the exit status."""
    board.say(f"weights: {folder}")
    if not differences:
        board.say(f"Equal to the recorded run in every metric of {len(asked.history)} epochs.")
        return 0
    board.say(f"First difference: {in_words(differences[0])}.")
    now = made_with("cuda" if task.use_gpu else "cpu")
    board.say(f"The likely reason: {likely_reason(asked.record['with'], now)}.")
    return DIFFERENT


def in_words(one: Difference) -> str:
    """Where, what came, what is recorded, and by how much they differ."""
    return (
        f"{one.name} of epoch {one.epoch} is {one.found!r}, recorded {one.recorded!r}, "
        f"by {abs(one.found - one.recorded):.2g}"
    )


def likely_reason(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Why numbers may differ, by what was recorded of the machine and the programs."""
    found = [
        f"{words} ({then.get(name)} then, {now[name]} now)"
        for name, words in REASONS.items()
        if then.get(name) != now[name]
    ]
    return "; ".join(found) or "a processor of another model, or other libraries below torch"
