"""A search in one line: what a league's table, and MLflow's experiment, say of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuner import evaluation_report
from tuner.progress import settings_in_words
from tuner.statistics import interval, paired

GAPS = ("test minus plain", "test minus default")
HEADER = ("method", "val", "test", *GAPS, "robust", "flags", "tuned setting")


def line(method: str, answer: dict[str, Any]) -> tuple[float, list[str]]:
    """Mean test accuracy of the tuned setting, to sort by, and a cell for each of HEADER; percent."""
    found, tuned = answer["rows"], answer["rows"]["tuned"]
    gaps = [
        paired(tuned["accuracy"], found[role]["accuracy"]).text(signed=True)
        if role in found
        else ""
        for role in ("vanilla", "default")
    ]
    if answer["winner"] == "default":
        gaps[1] = "the same"
    val, test = (interval(tuned[name]) for name in ("val", "accuracy"))
    setting = settings_in_words(answer["hyper"])
    return test.mean, [method, val.text(), test.text(), *gaps, *robust(answer, tuned), setting]


def robust(answer: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Two cells: the worst case and its flags, empty where nothing was attacked."""
    return evaluation_report.cells(answer, found) or ["", ""]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, header first."""
    written = ["| " + " | ".join(row) + " |" for row in rows]
    written.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(written)
