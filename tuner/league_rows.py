"""The rows of a league table: finished searches by tuned test accuracy, and what they are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner import baselines, evaluation_report
from tuner.descriptions import HEADER
from tuner.progress import settings_in_words
from tuner.statistics import interval, paired

BESIDE = {"vanilla": "plain", "vanilla-tuned": "tuned plain", "kd-tuned": "tuned plain KD"}
Ranked = tuple[float, list[str]]  # test accuracy, and the row


def table(answers: Mapping[str, dict[str, Any]]) -> list[list[str]]:
    """The rows of searches (name -> answer), best first, header first."""
    rows = [*(row(name, answer) for name, answer in answers.items()), *beside(answers)]
    header = ["search", *HEADER[1:]]
    return [header, *(cells for _, cells in sorted(rows, key=lambda pair: -pair[0]))]


def row(name: str, answer: dict[str, Any]) -> Ranked:
    """One search."""
    found, tuned = answer["rows"], answer["rows"]["tuned"]
    gaps = [
        paired(tuned["accuracy"], found[role]["accuracy"]).text(signed=True)
        if role in found
        else ""
        for role in ("vanilla", "default")
    ]
    if answer["winner"] == "default":
        gaps[1] = "the same"
    val, test = (interval(tuned[part]) for part in ("val", "accuracy"))
    setting = settings_in_words(answer["hyper"])
    return test.mean, [name, val.text(), test.text(), *gaps, *_robust(answer, tuned), setting]


def beside(answers: Mapping[str, dict[str, Any]]) -> list[Ranked]:
    """The plain student and each tuned baseline, once for each network; named after its search where they differ."""
    others: dict[str, tuple[list[float], Ranked]] = {}
    for search, answer in answers.items():
        student = answer["registered_as"].rpartition("-")[2]
        for role in ("vanilla", *baselines.ROLES):
            if role not in answer["rows"]:
                continue
            name, found = f"{BESIDE[role]} {student}", answer["rows"][role]["accuracy"]
            if name in others and others[name][0] != found:
                name = f"{name} of {search}"
            others.setdefault(name, (found, _beside(name, answer, role)))
    return [ranked for _, ranked in others.values()]


def _beside(name: str, answer: dict[str, Any], role: str) -> Ranked:
    """A network that the methods are compared with."""
    found = answer["rows"][role]
    val, test = (interval(found[key]) for key in ("val", "accuracy"))
    setting = "" if role == baselines.PLAIN else settings_in_words(found["hyper"])
    return test.mean, [name, val.text(), test.text(), "", "", *_robust(answer, found), setting]


def _robust(answer: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Two cells: the worst case and its flags, empty where nothing was attacked."""
    return evaluation_report.cells(answer, found) or ["", ""]
