"""The pictures of a search with several objectives: one for each pair, with the pair's own front as a line."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from tuner import confirm, pareto, standing
from tuner.figures.seen import Seen
from tuner.figures.style import new
from tuner.journal import Story, Student
from tuner.objectives import BEFORE, Objective
from tuner.plan import Plan

FRONT, OTHERS, RING, PLAIN = "#0072B2", "#999999", "#D55E00", "#009E73"  # Okabe and Ito's
WIDE = 10.0  # times the smallest value, from which sizes are drawn on a log scale
Values = tuple[float, float]


def draw(seen: Seen) -> Iterator[tuple[str, Figure, str]]:
    """Name, figure and what it says of every pair of objectives; none where there is one objective."""
    for first, second in itertools.combinations(seen.planned.goals.objectives, 2):
        figure, axes = new(3.6)
        title = f"Pareto front: {first.words} and {second.words}. "
        caption = title + _pair(axes, seen.planned, seen.told, (second, first))
        names = "-".join(one.name.replace("/", "_") for one in (first, second))
        yield f"front-{names}", figure, caption


def _pair(
    axes: Axes,
    planned: Plan,
    told: Story,
    pair: tuple[Objective, Objective],
) -> str:
    """The trials over two objectives (x, y); what the picture shows, in words."""
    trials = told.of_kind("search")
    may, on_front = standing.entered(planned, trials), standing.front(planned, trials)
    spots = {s.id: _spot(standing.outcomes(planned, s), pair) for s in may}
    _line(axes, list(spots.values()), pair)
    dominated = [s for s in may if s not in on_front]
    _marks(axes, dominated, spots, (OTHERS, "v", "dominated"), 2)
    _marks(axes, on_front, spots, (FRONT, "o", "on the front"), 5)
    default = trials[0]
    if default.id in spots:
        look: Any = {"s": 160, "facecolors": "none", "edgecolors": RING, "linewidths": 1.5}
        axes.scatter(*spots[default.id], label="published default", zorder=4, **look)
    plain = standing.mean(planned, confirm.plain_students(planned, told))
    if all(one.name in plain for one in pair):
        axes.scatter(*_spot(plain, pair), color=PLAIN, marker="D", s=45, label="plain", zorder=3)
    for axis, one in zip("xy", pair, strict=True):
        _scale(axes, axis, one, [spot["xy".index(axis)] for spot in spots.values()])
    axes.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
    return (
        f"Each mark is a trial trained in full, by {pair[1].words} and {pair[0].words}; circles are on the front of "
        "all objectives, triangles are dominated, the line is the front of these two, the ring is the published "
        "default, the diamond the plain student (mean over the confirmation's seeds)."
    )


def _spot(known: standing.Outcomes, pair: tuple[Objective, Objective]) -> Values:
    """Where a mark stands: shares in percent."""
    x, y = (known[one.name] * (100 if one.unit == "%" else 1) for one in pair)
    return x, y


def _marks(
    axes: Axes,
    some: list[Student],
    spots: dict[str, Values],
    look: tuple[str, str, str],
    layer: int,
) -> None:
    """`look` is colour, marker and label; a higher `layer` lies above."""
    if some:
        colour, marker, label = look
        x, y = zip(*(spots[s.id] for s in some), strict=True)
        axes.scatter(x, y, color=colour, marker=marker, s=45, label=label, zorder=layer)


def _line(axes: Axes, spots: list[Values], pair: tuple[Objective, Objective]) -> None:
    """The front of two objectives, as stairs: between two of its points nothing better than the worse was found."""
    points = [[one.better(v) for one, v in zip(pair, spot, strict=True)] for spot in spots]
    ends = sorted(spots[i] for i in pareto.front(points))
    if len(ends) > 1:
        # with x to be low a point's y holds to its right, with x to be high to its left
        where: Literal["post", "pre"] = "post" if pair[0].direction == "min" else "pre"
        axes.step(*zip(*ends, strict=True), where=where, color=FRONT, lw=1, zorder=1)


def _scale(axes: Axes, axis: str, one: Objective, values: list[float]) -> None:
    better = "higher is better" if one.direction == "max" else "lower is better"
    getattr(axes, f"set_{axis}label")(f"{one.heading} ({better})")
    if one.known != BEFORE:
        return
    ticks = getattr(axes, f"{axis}axis")
    if values and min(values) > 0 and max(values) / min(values) >= WIDE:
        getattr(axes, f"set_{axis}scale")("log")
        ticks.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ticks.set_minor_formatter(NullFormatter())
    ticks.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
