"""`--status NAME`: how far a search or league is, from its journal alone; its driver is not asked and not disturbed."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from tuner import budgets
from tuner.control import RECORD, driver, find, searches
from tuner.journal import FILE, Story, Student, read, so_far
from tuner.progress import COUNTED, best_of, duration, make_console, settings_in_words

PHASES = {"search": "searching", "confirm": "confirming", "judge": "judging on the test set"}
ENDS = {
    "finished": "finished",
    "interrupted": "interrupted",
    "failed": "failed",
    "": "ended without a word",  # killed, or its machine went down
}


def show(name: str, given: dict[str, Any]) -> int:
    """Print it; 0. Raises ValueError for a name that is not known, or settings beside it."""
    folder = find(name, given, "status")
    league = (folder / RECORD).is_file()
    lines = league_lines(folder) if league else search_lines(folder, time.time())
    for line in lines:
        make_console().print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def league_lines(folder: Path) -> list[str]:
    """A line for the league and one for each of its searches."""
    process, each = driver(folder), searches(folder)
    state = f"running (process {process})" if process else "not running"
    return [f"{folder.name}: {state}, {len(each)} searches", *(_line(one) for one in each)]


def search_lines(folder: Path, now: float) -> list[str]:
    """What a search is doing, its trials, budgets and best, and what is being trained; `now` in seconds."""
    told, process = so_far(folder), driver(folder)
    lines = [f"{folder.name}: {_state(told, process)}"]
    if not told.search:
        return lines
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(told.search["time"]))
    lines.append(f"begun     {since}, {duration(now - told.search['time'])} ago")
    lines.append(f"trials    {_trials(told)}")
    if told.of_kind("confirm", "baseline"):
        lines.append(f"confirm   {_counted(told.of_kind('confirm', 'baseline'))}")
    settings = told.search["settings"]
    lines += [
        f"budget    {line}" for line in budgets.left(settings, told, _seconds(folder, told, now))
    ]
    best = best_of(told.of_kind("search"))
    lines += [f"best      {_student(best)}"] if best else []
    return lines + [
        f"{'running' if process else 'open':<9} {_student(one)}, begun {duration(now - begun)} ago"
        for one, begun in _open(folder, told)
    ]


def _open(folder: Path, told: Story) -> list[tuple[Student, float]]:
    """Students that have not ended, with the time of their last begin."""
    begun = {e["id"]: e["time"] for e, _ in read(folder / FILE) if e["event"] == "student"}
    under_way = ("running", "interrupted")
    return [(s, begun[s.id]) for s in told.students.values() if s.status in under_way]


def _line(folder: Path) -> str:
    """One search in a line."""
    told = so_far(folder)
    if not told.search:
        return f"{folder.name}: not begun"
    best = best_of(told.of_kind("search"))
    said = f"; best {_student(best)}" if best else ""
    return f"{folder.name}: {_state(told, driver(folder))}; {_trials(told)}{said}"


def _state(told: Story, process: str | None) -> str:
    """Running or not, and where it is or how it ended."""
    if process:
        doing = PHASES.get(told.results.get("phase", {}).get("name", ""), "preparing")
        return f"running (process {process}), {doing}"
    end = told.results.get("close", {}).get("status", "")
    name = told.search.get("name", "")
    again = f"; --resume {name} goes on" if name and end in ("", "interrupted") else ""
    return f"not running, {ENDS[end]}{again}"


def _trials(told: Story) -> str:
    """`12 of 32: 2 running, 8 finished, 2 stopped; 180 epochs`, and what ended the search."""
    trials = told.of_kind("search")
    settings = told.search["settings"]
    n = (told.results.get("extended") or settings)["trials"]
    epochs = sum(len(student.history) for student in trials)
    words = f"{len(trials)} of {n}: {_counted(trials)}; {epochs} epochs"
    return "; ".join(filter(None, (words, budgets.in_words(told))))


def _counted(students: list[Student]) -> str:
    counts = Counter(student.status for student in students)
    names = (*COUNTED, *sorted(set(counts) - set(COUNTED)))
    return ", ".join(f"{counts[name]} {name}" for name in names if counts[name]) or "none"


def _student(one: Student) -> str:
    accuracy = f", val accuracy {one.accuracy:.2%}" if one.history else ""
    epoch = f"epoch {len(one.history)}/{one.epochs}"
    return f"{one.id} {epoch}{accuracy}, {settings_in_words(one.hyper)}"


def _seconds(folder: Path, told: Story, now: float) -> float:
    """What the search phase has taken; up to `now` where it goes on."""
    events = [event for event, _ in read(folder / FILE)]
    if driver(folder) and told.results.get("phase", {}).get("name") == "search":
        events.append({"event": "now", "time": now})
    return budgets.search_seconds(events)
