"""Published accuracies beside ours: those of the same images and the same two networks, each with its protocol.

The numbers stand in published.yaml, one table a source. What differs between their protocol and ours is said in words:
without it the numbers invite a comparison that they do not bear.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from trainables.data.splits import Facts
from trainables.recipe import Recipe
from tuner.baselines import DISTILLED, PLAIN
from tuner.confirm import ROLES
from tuner.finished import Finished
from tuner.statistics import interval

FILE = Path(__file__).with_name("published.yaml")
HEADER = ("what", "test", "minus plain", "epochs", "runs", "judged", "source")
LAST = "last epoch"
FLATTERED = (
    "“best on test” chooses the epoch by the test set, which flatters by about 0.3 points; kdtune judges the "
    "last epoch"
)


@dataclass(frozen=True)
class Number:
    """One published accuracy, in percent, and how it came about."""

    method: str  # or "teacher"
    accuracy: float
    plain: float | None  # of the same source's student alone
    source: str
    protocol: dict[str, Any]


def numbers(dataset: str, teacher: str, student: str) -> list[Number]:
    """What is published of these images and networks, each number once: later sources copy earlier ones' baselines."""
    found: dict[tuple[str, float], Number] = {}
    for one in _all(dataset, f"{teacher} -> {student}"):
        found.setdefault((one.method, one.accuracy), one)
    return list(found.values())


def _all(dataset: str, pair: str) -> Iterator[Number]:
    for table in _tables():
        if table["dataset"] != dataset or pair not in table["pairs"]:
            continue
        place, rows = table["pairs"].index(pair), table["rows"]
        plain = rows[PLAIN][place]
        for method, values in rows.items():
            if values[place] is not None:
                known = table["source"], table["protocol"]
                yield Number(method, values[place], plain, *known)


@cache
def _tables() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    return found


def beside(found: Sequence[Finished]) -> dict[str, Any]:
    """Sentences, rows and differences for a report of one search or of several."""
    rows: list[list[str]] = []
    differs: list[str] = []
    missing = []
    for pair in _pairs(found):
        searches = [one for one in found if _pair(one) == pair]
        known = numbers(*pair)
        if not known:
            missing.append(f"{pair[1]} -> {pair[2]} on {pair[0]}")
            continue
        asked = {"teacher", PLAIN, DISTILLED, *(one.planned.settings.method for one in searches)}
        rows += [_published(one) for one in known if one.method in asked]
        rows += [row for one in searches for row in _ours(one)]
        shown = [one for one in known if one.method in asked]
        differs += [line for one in searches for line in differences(one, shown)]
    said = [f"Nothing published is known here of {', '.join(missing)}."] if missing else []
    if rows:
        said.append(
            "Numbers from elsewhere were got by another protocol: a difference from ours is not one of methods alone."
        )
    return {
        "sentences": said,
        "rows": [list(HEADER), *rows] if rows else [],
        "differs": list(dict.fromkeys(differs)),
    }


def _pair(one: Finished) -> tuple[str, str, str]:
    return one.facts.dataset, one.answer["teacher"]["model"], one.student


def _pairs(found: Sequence[Finished]) -> list[tuple[str, str, str]]:
    return list(dict.fromkeys(map(_pair, found)))


def _published(one: Number) -> list[str]:
    taught = one.plain is not None and one.method not in ("teacher", PLAIN)
    gain = f"{one.accuracy - (one.plain or 0):+.2f}" if taught else ""
    told = (str(one.protocol[name]) for name in ("epochs", "runs", "choice"))
    what = ROLES.get(one.method, one.method)  # the plain student by its row's name
    return [what, f"{one.accuracy:.2f}", gain, *told, one.source]


def _ours(one: Finished) -> list[list[str]]:
    """The teacher, the plain student, the published default and the tuned setting of a search."""
    rows, n = one.answer["rows"], str(len(one.answer["seeds"]))
    how = [str(one.planned.recipe.epochs), n, LAST, f"here, {one.name}"]
    teacher = one.answer["teacher"]["accuracy"]
    found = [["teacher", f"{100 * teacher:.2f}", "", "", "1", LAST, f"here, {one.name}"]]
    plain = rows.get(PLAIN, {}).get("accuracy")
    for role, row in rows.items():
        accuracy = interval(row["accuracy"])
        gaps = zip(row["accuracy"], plain, strict=True) if plain and role != PLAIN else ()
        gain = [a - b for a, b in gaps]
        said = interval(gain).text(signed=True) if gain else ""
        what = ROLES[role] if role == PLAIN else f"{one.planned.settings.method}, {ROLES[role]}"
        found.append([what, accuracy.text(), said, *how])
    return found


def differences(one: Finished, known: Sequence[Number]) -> list[str]:
    """What a reader has to know before numbers from elsewhere and a search's are set side by side."""
    recipe, facts = one.planned.recipe, one.facts
    said = [_data(one, facts)]
    for table in {number.source: number for number in known}.values():
        theirs = {
            name: table.protocol[name]
            for name, ours in (
                ("epochs", recipe.epochs),
                ("optimizer", recipe.optimizer),
                ("lr", recipe.lr),
            )
            if name in table.protocol and table.protocol[name] != ours
        }
        if theirs:
            words = ", ".join(f"{name} {value}" for name, value in theirs.items())
            said.append(f"{table.source}: {words}; {one.name}: {recipe_in_words(recipe)}")
    teachers = [number.accuracy for number in known if number.method == "teacher"]
    own = 100 * one.answer["teacher"]["accuracy"]
    if teachers:
        said.append(f"teacher: {teachers[0]:.2f} % there, {own:.2f} % in {one.name}")
    if any("best" in number.protocol["choice"] for number in known):
        said.append(FLATTERED)
    return said


def _data(one: Finished, facts: Facts) -> str:
    return (
        f"training images: {facts.n_train:,} in {one.name}, which holds {facts.n_val:,} out for validation; all of the "
        "published training set there, with nothing held out to choose by"
    )


def recipe_in_words(recipe: Recipe) -> str:
    """What a protocol is compared by."""
    return f"epochs {recipe.epochs}, optimizer {recipe.optimizer}, lr {recipe.lr:g}, batch size {recipe.batch_size}"
