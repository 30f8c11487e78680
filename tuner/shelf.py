"""Which checkpoints lie on the disk: of a student under way the two newest, of those that ended the best few.

A search's trial is retrained by the confirmation, so of trials that ended only the best by validation stay, and of
each its last. A confirmed student's last stays: it is judged on the test set, and one of them becomes the champion.
Resuming needs none but those of students that have not ended.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.markup import escape

from trainables.checkpoint import STATE, read_state
from tuner.failures import SUCCESSES
from tuner.journal import Student

KEPT = 2  # of a student under way: should the newest be damaged, the one before is good
UNDER_WAY = ("running", "interrupted")


class Shelf:
    """Keeps `folder`, with a folder of checkpoints a student, as small as it can be."""

    def __init__(self, folder: Path, n_best: int, past: Iterable[Student]) -> None:
        """`past` are the students known so far; what an earlier driver left of those that ended is taken away."""
        self.folder, self.n_best = folder, n_best
        self.saved: dict[str, list[Path]] = {}  # newest last
        ended = [student for student in past if student.status not in UNDER_WAY]
        self.best = best_of(ended, n_best)
        for student in ended:
            self._leave(
                student.id, newest(self.folder / student.id) if self._stays(student) else None
            )

    def add(self, identity: str, checkpoint: Path) -> None:
        """One more checkpoint of a student under way."""
        kept = self.saved.setdefault(identity, [])
        kept.append(checkpoint)
        del kept[:-KEPT]
        if len(kept) == KEPT:
            self._clear(identity, kept)

    def end(self, student: Student) -> None:
        """A student has ended; where it is one of the best, another may no longer be."""
        before = {one.id for one in self.best}
        self.best = best_of([*self.best, student], self.n_best)
        last = self.saved.pop(student.id, [None])[-1]
        self._leave(student.id, last if self._stays(student) else None)
        for identity in before - {one.id for one in self.best}:
            self._leave(identity, None)

    def _stays(self, student: Student) -> bool:
        if student.kind == "search":
            return student.id in {one.id for one in self.best}
        return student.status != "diverged"

    def _leave(self, identity: str, last: Path | None) -> None:
        self._clear(identity, [last] if last else [])

    def _clear(self, identity: str, kept: list[Path]) -> None:
        """Delete a student's checkpoints but for some; those that somebody has deleted already are no trouble."""
        names = {path.name for path in kept}
        for path in (self.folder / identity).glob("checkpoint_*"):
            if path.name not in names:
                shutil.rmtree(path, ignore_errors=True)


def best_of(students: Iterable[Student], n_best: int) -> list[Student]:
    """The best of the search's trials that ended well: trained in full, or furthest, then by validation accuracy."""
    good = [s for s in students if s.kind == "search" and s.status in SUCCESSES]
    ranked = sorted(good, key=lambda s: (not s.complete, -len(s.history), -s.accuracy, s.number))
    return ranked[:n_best]


def readable(folder: Path, say: Callable[[str], None] = lambda _: None) -> dict[Path, int]:
    """A student's checkpoints that can be read, with their epochs; the others are said."""
    good = {}
    for path in sorted(folder.glob(f"checkpoint_*/{STATE}")):
        try:
            good[path.parent] = int(read_state(path.parent)["epoch"])
        except ValueError as error:
            say(escape(f"{folder.name}: {error}; it goes on from an earlier one"))
    return good


def newest(folder: Path) -> Path | None:
    """The newest of a student's checkpoints that can be read."""
    found = readable(folder)
    return max(found, key=lambda path: (found[path], path)) if found else None
