"""What the report says of the teacher's mistakes: how many a student repeats, repairs, and makes of its own.

After CCKD (arXiv:2006.01683), over the whole test set; the counts are those of `trainables/evaluation/quality.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tuner.confirm import ROLES
from tuner.statistics import interval

HEADER = ("network", "repeated", "repaired", "own mistakes", "repeated, %")


def rows(answer: dict[str, Any]) -> list[list[str]]:
    """Images a network, mean over seeds with its interval; header first; nothing where it was not measured."""
    found = [
        [ROLES[role], *_cells(row["measured"])]
        for role, row in answer["rows"].items()
        if "agreement/teacher_wrong" in row["measured"]
    ]
    return [list(HEADER), *found] if found else []


def sentences(answer: dict[str, Any]) -> list[str]:
    """How many mistakes there were to repeat; nothing where it was not measured."""
    known = [row["measured"].get("agreement/teacher_wrong") for row in answer["rows"].values()]
    counts = next((count for count in known if count), None)
    if counts is None:
        return []
    tuned = answer["rows"]["tuned"]["measured"]
    n_wrong, n_right = int(counts[0]), int(tuned["agreement/teacher_right"][0])
    if not n_wrong:
        return [f"The teacher gets all {n_right} test images right: there is no mistake to repeat."]
    return [
        f"The teacher gets {n_wrong} of {n_wrong + n_right} test images wrong; the tuned student repeats "
        f"{interval(_repeated(tuned)).mean:.1f} of these mistakes on average, "
        "which it may have learnt from it, and repairs the rest."
    ]


def _repeated(measured: Mapping[str, Any]) -> list[float]:
    """Of the teacher's mistakes those that the student makes too, seed by seed: whatever it answers."""
    pairs = zip(measured["agreement/teacher_wrong"], measured["agreement/repaired"], strict=True)
    return [wrong - repaired for wrong, repaired in pairs]


def _cells(measured: Mapping[str, Any]) -> list[str]:
    repeated, repaired = _repeated(measured), measured["agreement/repaired"]
    shares = [
        1 - r / n for r, n in zip(repaired, measured["agreement/teacher_wrong"], strict=True) if n
    ]
    # counts: an interval's text multiplies by 100
    means = [interval([v / 100 for v in some]) for some in (repeated, repaired)]
    lost = interval([v / 100 for v in measured["agreement/lost"]])
    return [*(one.text() for one in (*means, lost)), interval(shares).text() if shares else ""]
