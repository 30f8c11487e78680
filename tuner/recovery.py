"""What a driver that died in mid-sentence had not written down: who had finished, and who had diverged.

A student's last report is written before its end is. Where the driver dies between the two, the student would be
trained past its last epoch, or would diverge a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from tuner.journal import Event, Journal, Story, Student
from tuner.progress import Board

Ending = tuple[str, str, str]  # id, status, reason


def settle(journal: Journal, board: Board, checkpoints: Callable[[str], dict[Path, int]]) -> None:
    """Write down the ends that are known; `checkpoints(id)` gives a student's good ones with their epochs."""
    for identity, status, reason in list(endings(board.story, checkpoints)):
        told: Event = journal.write("end", id=identity, status=status, reason=reason, sync=True)
        board.take(told)


def endings(told: Story, checkpoints: Callable[[str], dict[Path, int]]) -> Iterator[Ending]:
    """Students whose last report was their last; one whose last weights were not saved trains that epoch again."""
    for student in told.students.values():
        if student.status not in ("running", "interrupted"):
            continue
        if student.diverging:
            yield student.id, "diverged", diverged_in_words(student)
            continue
        trained = len(student.history) >= student.epochs
        if trained and max(checkpoints(student.id).values(), default=0) >= student.epochs:
            yield student.id, "finished", ""


def diverged_in_words(student: Student) -> str:
    """Which term stopped being a number, and when."""
    return f"{student.diverging} was not finite in epoch {len(student.history)}"
