"""How the trials learnt, and what happened to them at the rungs."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tuner import safety_report
from tuner.figures import style
from tuner.figures.seen import Seen
from tuner.journal import Student
from tuner.strategies import cutoff

LEARNING, RUNGS = "How the trials learnt", "Who was stopped where"


def draw(seen: Seen) -> tuple[Figure, str] | None:
    """Validation accuracy by epoch, coloured by outcome; the chosen trial and the default stand out."""
    if not seen.students:
        return None
    figure, axes = style.new(3.8)
    for one in seen.students:
        known = style.look(one)
        plain = {"color": known.colour, "lw": 0.9, "alpha": 0.7, "zorder": 2}
        _curve(axes, one, style.line(seen, one, plain))
    axes.set_ylim(*window(seen))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation accuracy, %")
    style.legend_above(figure, axes)
    counts = Counter(style.look(one).label for one in seen.students)
    ended = ", ".join(f"{n} {label}" for label, n in counts.items())
    said = (
        f"Validation accuracy of every trial by epoch ({ended}); a mark shows where a trial ended."
    )
    return figure, f"{said} {seen.marks_in_words('Thick line', 'Dashed line')}"


def _curve(axes: Axes, one: Student, look: dict[str, Any]) -> None:
    values = [100 * metrics["val/accuracy"] for metrics in one.history]
    axes.plot(range(1, len(values) + 1), values, **look)
    known = style.look(one)
    axes.plot(
        len(values),
        values[-1],
        color=look["color"],
        marker=known.marker,
        ms=5,
        ls="",
        label=None if "label" in look else known.label,
        zorder=look["zorder"],
    )


def window(seen: Seen) -> tuple[float, float]:
    """Of accuracy: from a little below all that came after the first quarter of the epochs."""
    first = seen.planned.recipe.epochs // 4
    late = [100 * m["val/accuracy"] for one in seen.students for m in one.history[first:]]
    values = sorted(filter(math.isfinite, late))
    if not values:
        return 0.0, 100.0
    return values[len(values) // 50] - 2, min(100.5, values[-1] + 1)


def rungs(seen: Seen) -> tuple[Figure, str] | None:
    """Each trial's accuracy from rung to rung, and where it was or would have been stopped; nothing without rungs."""
    epochs = safety_report.epochs_of_rungs(seen.planned)
    if not epochs or not seen.whole:
        return None
    stopped = safety_report.stopped_at(seen.planned, seen.told)
    figure, axes = style.new(3.8)
    paths = {one.id: heights(seen, one, epochs) for one in seen.students}
    for one in seen.students:
        ended = (
            safety_report.rung_of(seen.planned, one, stopped[one.id]) if one.id in stopped else 0
        )
        _trace(axes, seen, one, paths[one.id], epochs.index(ended) if ended in epochs else None)
    for position in range(len(epochs)):
        there = [path[position] for path in paths.values() if len(path) > position]
        if there:
            cut = cutoff(there)
            axes.plot(
                [position - 0.12, position + 0.12], [cut, cut], color="black", lw=2.2, zorder=7
            )
    axes.plot([], [], color="black", lw=2.2, label="a third lies below")
    values = sorted(value for path in paths.values() for value in path)
    axes.set_ylim(values[len(values) // 40] - 1, min(100.5, values[-1] + 1))
    axes.set_xticks(range(len(epochs) + 1), [*(f"epoch {epoch}" for epoch in epochs), "the end"])
    axes.set_xlim(-0.3, len(epochs) + 0.3)
    axes.set_ylabel("validation accuracy, %")
    style.legend_above(figure, axes)
    return figure, _rungs_in_words(seen, len(stopped))


def heights(seen: Seen, one: Student, epochs: list[int]) -> list[float]:
    """Accuracies in percent at the rungs that the trial reached, and at its end where it was trained in full."""
    found = [safety_report.at_rung(seen.planned, one, epoch) for epoch in epochs]
    there = [100 * value for value in found if math.isfinite(value)]
    return [*there, 100 * one.accuracy] if one.complete else there


def _trace(axes: Axes, seen: Seen, one: Student, path: list[float], ended: int | None) -> None:
    """One trial's line: blue where it went on, grey where it was or would have been stopped, a triangle there."""
    colour = style.BLUE if ended is None else style.GREY
    label = "went on" if ended is None else None
    plain = {"color": colour, "lw": 0.9, "alpha": 0.75, "zorder": 2, "label": label}
    axes.plot(range(len(path)), path, marker=".", ms=4, **style.line(seen, one, plain))
    if ended is not None:
        stop: Any = {"edgecolors": "#444444", "facecolors": "white", "zorder": 6}
        label = "stopped there" if one.status == "stopped" else "ASHA would have stopped it"
        axes.scatter(ended, path[ended], marker="v", s=38, label=label, **stop)


def _rungs_in_words(seen: Seen, n_stopped: int) -> str:
    said = (
        "Each line is a trial, from rung to rung; below the bar lies a third of all that got there, where each was "
        "compared with those that had come before it."
    )
    if seen.planned.scheduler == "none":
        return f"{said} No trial was stopped; triangles show where ASHA would have stopped {n_stopped}."
    return f"{said} Triangles: {n_stopped} trials were stopped there."
