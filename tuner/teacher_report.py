"""What the report says of the teacher: where it came from, how good it is, and which temperature suits it itself."""

from __future__ import annotations

from typing import Any

from tuner.plan import Plan

AGREEING = 1.5  # factor between two temperatures that are called the same
HEADER = ("teacher", "source", "normalisation", "val", "recorded", "NLL at T = 1", "T", "NLL at T")


def rows(teacher: dict[str, Any]) -> list[list[str]]:
    """The teacher and, where it is an ensemble, its members; header first, percent and nats, on validation."""
    return [list(HEADER), _row(teacher), *map(_row, teacher["members"])]


def _row(teacher: dict[str, Any]) -> list[str]:
    recorded = teacher["recorded"]
    return [
        teacher["model"],
        teacher["source"],
        teacher["normalisation"],
        f"{100 * teacher['val']:.2f}",
        "" if recorded is None else f"{100 * recorded:.2f}",
        f"{teacher['nll']:.4f}",
        f"{teacher['temperature']:.3g}",
        f"{teacher['calibrated_nll']:.4f}",
    ]


def sentences(planned: Plan, answer: dict[str, Any]) -> list[str]:
    """Whether the temperature that calibrates the teacher is the one that teaches best; what flatters it."""
    teacher, own = answer["teacher"], answer["teacher"]["temperature"]
    said = f"The teacher is best calibrated at T = {own:.3g}"
    if "temperature" in planned.searched:
        found = answer["hyper"]["temperature"]
        which = "the search's best temperature"
        if answer["winner"] == "default":
            which = "the search found no better temperature than the published one, which"
        said += f"; {which} is {found:.3g}: {_compared(own, found)}"
    words = [said + "."]
    if teacher["elsewhere"]:
        words.append(
            "It was trained elsewhere and may have seen the validation images: its accuracy there may flatter it."
        )
    return words


def _compared(own: float, found: float) -> str:
    factor = max(own / found, found / own)
    if factor <= AGREEING:
        return f"they agree within a factor of {AGREEING:g}"
    side = "above" if found > own else "below"
    return f"they do not agree, it lies a factor of {factor:.2g} {side}"
