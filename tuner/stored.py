"""A recorded student with its weights: from the id of its MLflow run to all that rebuilds and judges the network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.champion import RECORD
from trainables.data.splits import Facts
from tuner import ingredients, shelf, store
from tuner.interleaving import CHECKPOINTS
from tuner.journal import so_far
from tuner.recorded import Recorded, Records, ask
from tuner.replaying import KEPT


@dataclass(frozen=True)
class Stored:
    """A student whose weights lie on this machine."""

    run: Recorded
    records: Records
    about: dict[str, Any]  # what rebuilds its network
    facts: Facts
    weights: Path  # a folder for `trainables.champion.read_weights`
    place: Path  # OUT

    def in_words(self) -> str:
        """`kd-007 (kd, convnet4), 8 epochs, as recorded in RUN_ID`."""
        n, about = len(self.run.history), self.about
        name = f"{self.run.record['config']['id']} ({about['method']}, {about['student']})"
        return f"{name}, {n} epoch{'s' * (n > 1)}, as recorded in {self.run.run_id}"


def find(run_id: str, given: dict[str, Any], flag: str) -> Stored:
    """The student of a run, or the champion of a search's; raises ValueError where something of it is not there."""
    records, out = ask(given, flag)

    def champion(search: str) -> str:
        place = out or Path("runs").resolve()
        store.at_hand(place, search)
        folder = place / search
        answer = so_far(folder).results.get("answer")
        if answer is None:
            raise ValueError(f"{flag} must be a search with a champion, got none in {folder}")
        return str(answer["champion"]["student"])

    run = records.student_or_champion(run_id, champion)
    if not run.history:
        raise ValueError(f"{flag} must be a student with an epoch behind it, got none: {run_id}")
    place = out or Path(run.record["out"])
    store.at_hand(place, run.search)
    return Stored(
        run=run,
        records=records,
        about=ingredients.network_of(run.record, run.hyper_at(max(run.history))),
        facts=ingredients.facts_of(run.record["data"], place, flag),
        weights=_weights(run, place, flag),
        place=place,
    )


def _weights(run: Recorded, place: Path, flag: str) -> Path:
    """Where the weights after the last recorded epoch lie."""
    found = next(_kept(run, place), None)
    if found is None:
        folder = place / run.search / CHECKPOINTS / run.record["config"]["id"]
        raise ValueError(
            f"{flag} must find the student's weights, got none in {folder}, where only the best students' stay; "
            f"--replay {run.run_id} trains it again and keeps them"
        )
    return found


def _kept(run: Recorded, place: Path) -> Iterator[Path]:
    """The student's last checkpoint, then what a replay has kept."""
    checkpoints = shelf.readable(place / run.search / CHECKPOINTS / run.record["config"]["id"])
    yield from (path for path, epoch in checkpoints.items() if epoch == max(run.history))
    again = place / KEPT / run.run_id
    if (again / RECORD).exists():
        yield again
