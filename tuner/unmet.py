"""The end of a search in which no trial keeps the constraints: a report that says so, with the nearest trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuner import pages, standing
from tuner.journal import Story, Student
from tuner.plan import Plan
from tuner.progress import settings_in_words

SHOWN = 20  # trials in the report, the nearest first


def nobody(planned: Plan, told: Story) -> bool:
    """Whether constraints left no trial to go on with: some ended as they should, and none of them keeps all."""
    trials = told.of_kind("search")
    ended = any(s.status in ("finished", "infeasible") for s in trials)
    unmet = not any(standing.feasible(planned, s) for s in trials)
    return bool(planned.goals.constraints) and ended and unmet


def sentences(planned: Plan, told: Story) -> list[str]:
    """What happened, and how near the nearest trial came."""
    trials = told.of_kind("search")
    bounds = ", ".join(map(str, planned.goals.constraints))
    said = [
        f"No trial of {len(trials)} keeps the constraints ({bounds}), so nothing was confirmed."
    ]
    nearest = standing.nearest(planned, trials)
    if nearest is None:
        return said
    unmet = "; ".join(planned.goals.unmet(standing.outcomes(planned, nearest)))
    return [*said, f"Nearest: {nearest.id} ({settings_in_words(nearest.hyper)}): {unmet}."]


def rows(planned: Plan, told: Story) -> list[list[str]]:
    """The trials, the nearest first; header first."""
    asked = planned.goals.constraints
    table = [["trial", "how it ended", *map(str, asked), "settings"]]

    def gap(student: Student) -> tuple[float, int]:
        return planned.goals.gap(standing.outcomes(planned, student)), student.number

    for student in sorted(told.of_kind("search"), key=gap)[:SHOWN]:
        known = standing.outcomes(planned, student)
        cells = [f"{known[one.name]:.6g}" if one.name in known else "" for one in asked]
        table.append([student.id, student.status, *cells, settings_in_words(student.hyper)])
    return table


def write(planned: Plan, told: Story, page: dict[str, Any]) -> list[Path]:
    """report.md and report.html into the search's folder; `page` has the question and the command."""
    found = {"planned": planned, "sentences": sentences(planned, told), "rows": rows(planned, told)}
    return pages.write("unmet", {**page, **found}, planned.folder)
