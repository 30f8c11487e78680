"""Warm start: what earlier searches found, told to the sampler before its first own suggestion.

Their trials guide and do not count: none of them is a trial, a finalist or a result of the new search. They are copied
into its journal, so that it goes on the same when the earlier search has been deleted.

    trained in full       told as such
    stopped early         told as this search's own stopped ones are
    diverged, failed      left out: why is not known to hold here
    outside the domains   left out, and counted; refused where nothing is left
    a dimension missing   refused: the sampler would have to guess it
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from search_spaces import Domain
from search_spaces.conditions import settle
from tuner.control import find
from tuner.journal import FILE, Story, Student, story
from tuner.plan import Plan

LEARNERS = ("tpe", "gp", "cmaes", "nsga2")
ASKED = (  # what makes the question of a search, beside its space
    *("method", "dataset", "subset", "teacher", "student", "epochs"),
    *("batch_size", "lr", "optimizer", "augment"),
)


def given(planned: Plan) -> dict[str, Any]:
    """The content of the journal's event: trials, in order, and what a person should know, in words.

    Raises ValueError where an earlier search is not there, its space is another, or the sampler learns nothing.
    """
    if planned.search not in LEARNERS or not planned.searched:
        got = f"--search {planned.search}" if planned.searched else "nothing searched"
        raise ValueError(
            f"--warm-start must go with a sampler that learns ({', '.join(LEARNERS)}), got {got}"
        )
    trials, words = [], []
    for name in planned.settings.warm_start:
        told = _read(planned, name)
        found = [s for s in told.of_kind("search") if s.status in ("finished", "stopped")]
        usable = _usable(planned, name, [student for student in found if student.history])
        trials += [{"source": name, "id": s.id, **_lesson(planned, s)} for s in usable]
        words.append(_in_words(planned, name, told, len(usable), len(found)))
    return {"trials": trials, "words": words}


def lessons(told: Story) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What the journal's event tells the sampler: (values, last result) of each trial."""
    return [
        (one["values"], one["result"]) for one in told.results.get("warm", {}).get("trials", [])
    ]


def _read(planned: Plan, name: str) -> Story:
    folder = find(name, {"out": planned.out}, "warm-start")
    if name == planned.name or not (folder / FILE).exists():
        raise ValueError(f"--warm-start must name an earlier search with trials, got {name!r}")
    return story(folder)


def _usable(planned: Plan, name: str, found: list[Student]) -> list[Student]:
    """Those whose values this search could have drawn; raises ValueError where there is none."""
    if not found:
        raise ValueError(
            f"--warm-start must name a search with finished trials, got none in {name}"
        )
    missing = _outside(planned, found, lambda domain, value: value is None)
    if missing:
        there = {key for student in found for key in student.hyper}
        matching = [key for key in planned.searched if key in there and key not in missing]
        raise ValueError(
            f"a warm start must have tried every dimension that is searched, got {name}, "
            f"matching dimensions: {', '.join(matching) or 'none'}; missing: {', '.join(missing)}"
        )
    usable = [student for student in found if not _outside(planned, [student], _is_outside)]
    if not usable:
        where = _outside(planned, found, _is_outside)
        raise ValueError(
            f"a warm start must have trials inside the space, got none in {name}; outside it: "
            + ", ".join(f"{key} ({planned.searched[key]})" for key in where)
        )
    return usable


def _is_outside(domain: Domain, value: Any) -> bool:
    return not domain.holds(value)


def _outside(planned: Plan, found: Iterable[Student], wrong: Any) -> list[str]:
    """The dimensions of which a trial has a `wrong` value, where its conditions hold."""
    names: list[str] = []
    for student in found:
        values = _values(planned, student)
        names += [key for key, value in values.items() if wrong(planned.searched[key], value)]
    return list(dict.fromkeys(names))


def _values(planned: Plan, student: Student) -> dict[str, Any]:
    """The trial's values of what is searched here; None where it has none."""
    return settle(planned.searched, planned.known, lambda name, _: student.hyper.get(name))


def _lesson(planned: Plan, student: Student) -> dict[str, Any]:
    epochs = len(student.history) if student.complete else student.epochs
    result = {"val/accuracy": student.accuracy, "epoch": len(student.history), "epochs": epochs}
    return {"values": _values(planned, student), "result": result}


def _in_words(planned: Plan, name: str, told: Story, n_usable: int, n_found: int) -> str:
    """`12 trials of kd-digits-1`, what of them was left out, and which other question they answered."""
    said = f"{n_usable} trial{'s' if n_usable != 1 else ''} of {name}"
    if n_usable < n_found:
        said += f" ({n_found - n_usable} outside the space left out)"
    settings: Mapping[str, Any] = told.search.get("settings", {})
    own = planned.settings.model_dump(mode="json")
    own |= {"teacher": planned.teacher, "student": planned.student}
    own |= {"epochs": planned.recipe.epochs}
    other = [
        f"{key} {settings.get(key)}, here {own[key]}"
        for key in ASKED
        if settings.get(key) != own[key]
    ]
    if not other:
        return said
    return f"{said}; they answered another question ({'; '.join(other)}) and only guide this one"
