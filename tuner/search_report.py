"""What the report shows of the search itself: importance, pictures, early stopping, and every trial in words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner import figures, safety_report
from tuner.figures import Picture, Seen, explore
from tuner.importance import Importances, importances
from tuner.journal import Story
from tuner.plan import Plan
from tuner.progress import settings_in_words

PAGE = "search.html"
MOST_TRIALS = 60  # rows that somebody reads; the journal has all


@dataclass(frozen=True)
class LookBack:
    """The part of the report that looks back on the trials."""

    importances: Importances
    pictures: dict[str, Picture]  # by name; those that there was something to draw for
    page: Path  # the same to explore, one HTML file
    early: list[list[str]]  # a row a rung, header first
    early_words: list[str]
    trials: list[list[str]]  # best first, header first
    n_trials: int

    @property
    def fronts(self) -> list[Picture]:
        """One a pair of objectives, where there are several."""
        return [picture for name, picture in self.pictures.items() if name.startswith("front-")]

    @property
    def files(self) -> list[Path]:
        """What goes into the search's MLflow run."""
        return [*(picture.path for picture in self.pictures.values()), self.page]


def look_back(planned: Plan, told: Story, answer: dict[str, Any]) -> LookBack:
    """Draw everything into the search's folder, and gather what is said of it."""
    seen = Seen(planned, told, answer, importances(planned, told))
    folder = planned.folder / "figures"
    pictures = figures.draw(seen, folder)
    explore.write(seen, folder / PAGE)
    return LookBack(
        seen.importances,
        pictures,
        folder / PAGE,
        safety_report.rows(planned, told),
        safety_report.sentences(planned, told),
        trial_rows(told),
        len(told.of_kind("search")),
    )


def trial_rows(told: Story) -> list[list[str]]:
    """The pictures' data: the best trials, those trained in full first, then those that got furthest."""
    header = ["trial", "settings", "outcome", "epochs", "val, last epoch", "val, best epoch"]
    students = told.of_kind("search")
    students.sort(key=lambda one: (not one.complete, -len(one.history), -one.accuracy, one.number))
    rows = [
        [
            one.id,
            settings_in_words(one.hyper),
            one.status,
            str(len(one.history)),
            f"{100 * one.accuracy:.2f}",
            f"{100 * one.best_accuracy:.2f}",
        ]
        for one in students[:MOST_TRIALS]
    ]
    return [header, *rows]
