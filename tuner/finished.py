"""A finished search as its folder tells it: plan, data, journal. Nothing is trained, no image is read."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.champion import RECORD, read_record
from trainables.data.splits import Facts
from tuner import plan, settings_file, status
from tuner.journal import Story, so_far
from tuner.plan import Plan
from tuner.spaces import STUDENT


@dataclass(frozen=True)
class Finished:
    """A search with an answer."""

    planned: Plan
    facts: Facts
    told: Story

    @property
    def name(self) -> str:
        """The search's."""
        return self.planned.name

    @property
    def answer(self) -> dict[str, Any]:
        """What the confirmation came to."""
        return self.told.results["answer"]

    @property
    def student(self) -> str:
        """The network of what was chosen."""
        return str(self.answer["hyper"].get(STUDENT, self.planned.student))

    @property
    def tuned(self) -> list[float]:
        """Test accuracy of what was chosen, seed by seed."""
        found: list[float] = self.answer["rows"]["tuned"]["accuracy"]
        return found


def read(folder: Path) -> Finished:
    """The search in `folder`; raises ValueError, with what is missing, for one without an answer."""
    told = so_far(folder)
    if "answer" not in told.results:
        state = status.search_lines(folder, time.time())[0].partition(": ")[2]
        trials = f", {len(told.of_kind('search'))} trials begun" if told.search else ""
        raise ValueError(
            f"--report must name a search with an answer, got {folder.name!r}{trials}: {state}"
        )
    if not (folder / RECORD).is_file():
        raise ValueError(f"--report must find what the data were, got no {folder / RECORD}")
    facts = dict(read_record(folder)["facts"])
    lists = {name: tuple(facts[name]) for name in ("classes", "mean", "std")}
    return Finished(planned(folder), Facts(**{**facts, **lists}), told)


def planned(folder: Path) -> Plan:
    """Its plan, made again from its settings; raises ValueError where a file that they name has gone."""
    settings = settings_file.read(folder).model_copy(update={"out": folder.parent})
    return plan.without_secrets(plan.make(settings))
