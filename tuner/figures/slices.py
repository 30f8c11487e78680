"""Validation accuracy against each dimension alone, and all dimensions of a trial as one line."""

from __future__ import annotations

import math
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from search_spaces import Domain
from tuner.figures import style
from tuner.figures.seen import TEMPERATURE, Seen, ends, is_log, on_axis, place, unit

SLICES, PARALLEL = "One dimension at a time", "All dimensions of a trial"
COLUMNS = 3
MOST = 9  # panels or axes that can still be read
IN_A_ROW = 5  # names below axes that do not touch; more stand in two rows
ACCURACY = "validation accuracy, %"


def draw(seen: Seen) -> tuple[Figure, str] | None:
    """A panel for each dimension, with one scale of accuracy; nothing where nothing was searched."""
    names = list(seen.planned.searched)[:MOST]
    if not names or not seen.students:
        return None
    columns = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure, grid = style.new(0.4 + 2.6 * rows, columns, rows, sharey=True, squeeze=False)
    low, high = _range(seen)
    panels: list[Axes] = list(grid.flat)
    for axes, name in zip(panels, names, strict=False):
        _slice(axes, seen, name, low)
        axes.set_ylim(low, high)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    for row in grid:
        row[0].set_ylabel(ACCURACY)
    style.legend_above(figure, panels[0])
    said = f"Validation accuracy of each trial against {', '.join(names)}: circles trained in full, outlines not."
    below = sum(100 * one.accuracy < low for one in seen.students)
    if below:
        said += f" {below} trials below {low:.0f} % stand on the lower edge."
    if TEMPERATURE in names and seen.calibrated:
        said += f" Dotted: the temperature that calibrates the teacher, {seen.calibrated:.3g}."
    return figure, f"{said} {seen.marks_in_words()}"


def _slice(axes: Axes, seen: Seen, name: str, low: float) -> None:
    students = seen.having(name)
    x = {one.id: place(seen, one, name) or 0.0 for one in students}
    y = {one.id: max(low, 100 * one.accuracy) for one in students}
    whole = [one for one in students if one.complete]
    rest = [one for one in students if not one.complete]
    axes.scatter(
        [x[one.id] for one in whole],
        [y[one.id] for one in whole],
        s=34,
        c=style.BLUE,
        edgecolors="white",
        linewidths=0.5,
        label="trained in full",
        zorder=4,
        clip_on=False,
    )
    style.hollow(axes, rest, [x[one.id] for one in rest], [y[one.id] for one in rest])
    style.marked(axes, seen, x, y)
    style.scale(axes, "x", name, seen.planned.searched[name])
    if name == TEMPERATURE and seen.calibrated:
        axes.axvline(seen.calibrated, color="black", ls=":", lw=1.2, zorder=1)
    axes.grid(axis="y", color="#EEEEEE", zorder=0)


def _range(seen: Seen) -> tuple[float, float]:
    """Of accuracy: what the trials trained in full need, and a quarter more below for the others."""
    values = [100 * one.accuracy for one in seen.whole or seen.students]
    low, high = min(values), max(values)
    span = max(high - low, 1.0)
    return max(0.0, low - span / 4), high + span / 12


def parallel(seen: Seen) -> tuple[Figure, str] | None:
    """An axis for each dimension and one for accuracy, a line for each trial; nothing for a single dimension."""
    names = [name for name, domain in seen.planned.searched.items() if not domain.when][: MOST - 1]
    if len(names) < 2 or not seen.whole:
        return None
    figure, axes = style.new(3.8)
    low, high = seen.limits
    colours = mpl.colormaps[style.MAP]
    for one in sorted(seen.having(*names), key=lambda one: (one.complete, one.accuracy)):
        heights = [_height(seen, place(seen, one, name) or 0, name) for name in names]
        heights.append(_share(one.accuracy, low, high))
        plain: dict[str, Any] = {"color": "#CCCCCC", "lw": 0.7, "zorder": 1}
        if one.complete:
            plain = {"color": colours(heights[-1]), "lw": 1.4, "zorder": 3}
        axes.plot(range(len(heights)), heights, **style.line(seen, one, plain), clip_on=False)
    for x, name in enumerate(names):
        _axis(axes, x, _ticks(seen.planned.searched[name]))
    _axis(axes, len(names), {0.0: f"{low:.1f}", 1.0: f"{high:.1f}"}, ha="left")
    labels = [*names, "accuracy, %"]
    if len(labels) > IN_A_ROW:
        labels = ["\n" * (i % 2) + label for i, label in enumerate(labels)]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks([])
    axes.set_ylim(0, 1)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(axis="x", length=0, pad=8)
    style.legend_above(figure, axes)
    said = (
        f"Each line is a trial, from its {', '.join(names)} to its validation accuracy: coloured, light is better, "
        "where trained in full; thin and grey where not."
    )
    return figure, f"{said} {seen.marks_in_words('Thick line', 'Dashed line')}"


def _height(seen: Seen, value: float, name: str) -> float:
    """A value's height between 0 and 1; words stand evenly."""
    domain = seen.planned.searched[name]
    if on_axis(domain):
        return unit(domain, value)
    return value / max(1, len(domain.values) - 1)


def _share(accuracy: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (100 * accuracy - low) / (high - low)))


def _ticks(domain: Domain) -> dict[float, str]:
    """Height -> what is written there."""
    if not on_axis(domain):
        last = max(1, len(domain.values) - 1)
        return {i / last: str(value) for i, value in enumerate(domain.values)}
    low, high = ends(domain)
    middle = math.sqrt(low * high) if is_log(domain) else (low + high) / 2
    return {unit(domain, value): style.short(value) for value in (low, middle, high)}


def _axis(axes: Axes, x: int, ticks: dict[float, str], ha: str = "right") -> None:
    axes.axvline(x, color="black", lw=0.9, zorder=4)
    offset = -5 if ha == "right" else 5
    for height, text in ticks.items():
        axes.annotate(
            text,
            (x, height),
            (offset, 0),
            textcoords="offset points",
            ha=ha,
            va="center",
            fontsize=8.5,
            zorder=7,
            bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85},
        )
