"""What a search spent, and what the cache of the teacher's outputs saved it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuner.journal import Story, Student
from tuner.progress import duration


@dataclass(frozen=True)
class TeacherCosts:
    """Epochs by where their targets came from, and seconds."""

    found: int  # epochs whose targets had been computed before, or by another trial
    computed: int
    live: int  # epochs with a teacher of their own
    seconds_found: float
    seconds_computed: float

    @property
    def hit_rate(self) -> float:
        """Share of the epochs that could be read; 0 where there were none."""
        return self.found / max(1, self.found + self.computed)

    @property
    def saved_seconds(self) -> float:
        """What the epochs that were read would have cost at the mean price of those computed; never below 0."""
        each = self.seconds_computed / max(1, self.computed)
        return max(0.0, self.found * each - self.seconds_found)


def teacher_costs(students: Iterable[Student]) -> TeacherCosts:
    """Summed over all epochs of all students that had a teacher."""
    found = computed = live = 0
    seconds_found = seconds_computed = 0.0
    for student in students:
        for epoch in student.history:
            if "teacher/found" not in epoch:
                continue
            if epoch.get("teacher/live"):
                live += 1
            elif epoch["teacher/found"]:
                found, seconds_found = found + 1, seconds_found + epoch["teacher/seconds"]
            else:
                computed, seconds_computed = (
                    computed + 1,
                    seconds_computed + epoch["teacher/seconds"],
                )
    return TeacherCosts(found, computed, live, seconds_found, seconds_computed)


def in_words(costs: TeacherCosts, folder: Path) -> str:
    """One sentence for the report and the last lines; "" where no student had a teacher."""
    if costs.found + costs.computed == 0:
        return f"A live teacher answered in {costs.live} epochs." if costs.live else ""
    size = sum(path.stat().st_size for path in folder.glob("*.arrow")) / 1e6
    also = f"; a live one answered in {costs.live}" if costs.live else ""
    return (
        f"The teacher's outputs were computed for {costs.computed} epochs and read for {costs.found} "
        f"({costs.hit_rate:.0%}){also}; that saved about {duration(costs.saved_seconds)} of training time. "
        f"The cache holds {size:,.1f} MB."
    )


def rows(told: Story, n_train: int) -> list[list[str]]:
    """Students, epochs, seconds of training and teacher passes of each part of the search; header first."""
    header = ["", "students", "epochs", "seconds of training", "teacher passes", "passes saved"]
    parts = {"search": ("search",), "confirmation": ("confirm", "baseline")}
    found = {name: told.of_kind(*kinds) for name, kinds in parts.items()}
    found["together"] = [student for some in found.values() for student in some]
    return [header, *([name, *_spent(some, n_train)] for name, some in found.items())]


def _spent(students: Sequence[Student], n_train: int) -> list[str]:
    """A teacher's pass is one image; an epoch has `n_train` of them, of a method that repeats views more."""
    seconds = sum(one.history[-1].get("seconds", 0.0) for one in students if one.history)
    taught = teacher_costs(students)
    passes = (taught.computed + taught.live) * n_train, taught.found * n_train
    n_epochs = sum(len(one.history) for one in students)
    return [f"{len(students)}", f"{n_epochs:,}", f"{seconds:,.0f}", *(f"{n:,}" for n in passes)]
