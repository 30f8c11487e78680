"""More trials for a search that exists: `--resume NAME --trials N` brings it to N trials in all.

Trials and confirmed students that are there stay and are not trained again. What the test set has answered already
cannot be unseen, so the journal, the terminal and the report say how often it was opened.
"""

from __future__ import annotations

from typing import Any

from tuner import settings_file
from tuner.budgets import ASKED
from tuner.journal import Journal, Story
from tuner.plan import Plan
from tuner.settings import Settings, make


def extended(settings: Settings, told: Story, trials: Any) -> Settings:
    """The settings with so many trials in all; how they are drawn and stopped stays as it was decided first.

    Raises ValueError where there is nothing to extend.
    """
    first = told.search.get("settings", {})
    kept = {name: first[name] for name in ("search", "scheduler") if name in first}
    found = make({**settings.model_dump(), **kept, "trials": trials})
    begun, event = len(told.of_kind("search")), told.results.get("budget")
    must = "--trials must be more than the search has begun"
    if found.search == "grid":
        raise ValueError(f"{must}, which a grid cannot: all its cells are tried")
    if found.scheduler == "pbt":
        raise ValueError(f"{must}, which a population cannot: it is trained together")
    if event and event["reason"] != ASKED:
        raise ValueError(f"{must}, which its budget does not let: it ended by {event['reason']}")
    if found.trials <= begun:
        raise ValueError(f"{must}, {begun}, got {found.trials}")
    return found


def check(planned: Plan) -> None:
    """Raise ValueError where a plan has but one trial to try."""
    if not planned.searched:
        raise ValueError("--trials must find something searched, got a search of fixed values")


def begin(planned: Plan, told: Story) -> None:
    """Write the new settings and the journal's event; the caller holds the search's lock."""
    old = settings_file.read(planned.folder)
    kept = ("trials", "search", "scheduler")
    new = old.model_copy(update={name: getattr(planned.settings, name) for name in kept})
    settings_file.write(planned.folder, new)
    journal = Journal(planned.folder)
    opened = times_opened(told)
    counts = {"before": old.trials, "trials": new.trials, "opened": opened}
    told.add(journal.write("extended", sync=True, **counts))
    journal.close()


def times_opened(told: Story) -> int:
    """How often the test set has been opened."""
    before: int = told.results.get("extended", {}).get("opened", 0)
    return before + ("test_opened" in told.results)


def opening(times: int) -> str:
    """How often the test set was opened and why, for the terminal and the report."""
    if times < 2:
        return "once"
    nth = "a second time" if times == 2 else f"{times} times"
    return f"{nth} (the search was extended after the answer had been seen)"
