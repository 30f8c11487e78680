"""What all pictures of a search are drawn from, and the words that go with them."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from search_spaces import Domain
from tuner.importance import Importances
from tuner.journal import Story, Student
from tuner.plan import Plan
from tuner.progress import settings_in_words

TEMPERATURE = "temperature"
USUAL_PAIR = (TEMPERATURE, "alpha")
WIDE = 8  # a grid whose ends differ by this factor is read on a log scale


@dataclass(frozen=True)
class Picture:
    """A figure on disk with what it says, for those who cannot see it."""

    path: Path
    caption: str
    title: str  # a few words, for those who hear the caption anyway

    @property
    def inline(self) -> str:
        """The PNG as a data URI, so that a page is one file."""
        return "data:image/png;base64," + base64.b64encode(self.path.read_bytes()).decode()


@dataclass(frozen=True)
class Seen:
    """A finished search as pictures show it."""

    planned: Plan
    told: Story
    answer: Mapping[str, Any]
    importances: Importances

    @cached_property
    def students(self) -> list[Student]:
        """The search's trials that trained at least one epoch."""
        return [one for one in self.told.of_kind("search") if one.history]

    @cached_property
    def whole(self) -> list[Student]:
        """Those trained in full."""
        return [one for one in self.students if one.complete]

    @property
    def winner(self) -> Student | None:
        """The trial that the confirmation chose."""
        return self.told.students.get(self.answer["trial"])

    @property
    def default(self) -> Student | None:
        """The trial of the published setting."""
        first = self.students[0] if self.students else None
        return first if first and first.number == 0 else None

    @property
    def calibrated(self) -> float | None:
        """The temperature at which the teacher's own probabilities are best calibrated, where that is known."""
        found: float | None = self.answer.get("teacher", {}).get("temperature")
        return found

    def role(self, student: Student) -> str:
        """What a trial is beside one of many: chosen, the published default, both, or nothing."""
        if student is self.winner:
            return "chosen: the published default" if student is self.default else "chosen"
        return "published default" if student is self.default else ""

    @cached_property
    def numeric(self) -> dict[str, Domain]:
        """The dimensions that lie on an axis of numbers."""
        return {name: domain for name, domain in self.planned.searched.items() if on_axis(domain)}

    @property
    def pair(self) -> tuple[str, str] | None:
        """The two dimensions of the map: temperature and alpha, else the two most important, else the first two."""
        names = [name for name, domain in self.numeric.items() if not domain.when]
        if set(USUAL_PAIR) <= set(names):
            return USUAL_PAIR
        order = [one.name for one in self.importances.shares]
        names.sort(key=lambda name: order.index(name) if name in order else len(order))
        return (names[0], names[1]) if len(names) > 1 else None

    def having(self, *names: str) -> list[Student]:
        """The trials that have values of all these dimensions."""
        return [one for one in self.students if all(place(self, one, n) is not None for n in names)]

    @property
    def limits(self) -> tuple[float, float]:
        """Of colours, in percent: from the worst tenth of the trials trained in full to the best."""
        values = sorted(100 * one.accuracy for one in self.whole or self.students)
        if not values:
            return 0.0, 100.0
        low = values[len(values) // 10]
        return (low, values[-1]) if values[-1] > low else (low - 1, low + 1)

    def in_words(self, student: Student) -> str:
        """`temperature 3.1, alpha 0.8 (94.66 %)`."""
        return f"{settings_in_words(student.hyper)} ({100 * student.accuracy:.2f} %)"

    def marks_in_words(self, chosen: str = "Star", default: str = "Ring") -> str:
        """What is marked and how: the chosen trial and the published default, a sentence each."""
        marked = {
            chosen: self.winner,
            default: self.default if self.default is not self.winner else None,
        }
        return " ".join(
            f"{mark}: {self.role(one)}, {self.in_words(one)}."
            for mark, one in marked.items()
            if one
        )


def on_axis(domain: Domain) -> bool:
    """Whether a domain's values are numbers."""
    return not any(isinstance(value, str | bool) for value in domain.values)


def ends(domain: Domain) -> tuple[float, float]:
    """The lowest and highest value of a domain of numbers."""
    if domain.values:
        numbers = [float(value) for value in domain.values]
        return min(numbers), max(numbers)
    return domain.low, domain.high


def is_log(domain: Domain) -> bool:
    """Whether it is read on a log scale."""
    low, high = ends(domain)
    return domain.word.startswith("log") or bool(domain.values and low > 0 and high / low >= WIDE)


def unit(domain: Domain, value: float) -> float:
    """A value's place between the ends of its domain, 0 to 1, on the domain's own scale; beyond them at the end.

    A grid's published default may lie beyond.
    """
    low, high = ends(domain)
    value = min(high, max(low, value))
    if is_log(domain):
        low, high, value = math.log(low), math.log(high), math.log(value)
    return (value - low) / (high - low) if high > low else 0.5


def from_unit(domain: Domain, share: float) -> float:
    """The value at a place between the ends."""
    low, high = ends(domain)
    if is_log(domain):
        return low * (high / low) ** share
    return low + share * (high - low)


def place(seen: Seen, student: Student, name: str) -> float | None:
    """A trial's place on a dimension: its value, or the position of its word among the choices; None without one."""
    value = student.hyper.get(name)
    if value is None:
        return None
    domain = seen.planned.searched[name]
    if on_axis(domain):
        return float(value)
    return float(domain.values.index(value)) if value in domain.values else None
