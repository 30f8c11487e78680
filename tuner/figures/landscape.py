"""Where the trials lie: a map of two dimensions, coloured by validation accuracy between and at the trials."""

from __future__ import annotations

from matplotlib.figure import Figure

from tuner.figures import style
from tuner.figures.seen import Seen
from tuner.figures.surface import surface

TITLE = "Where the trials lie"


def draw(seen: Seen) -> tuple[Figure, str] | None:
    """The map; nothing where fewer than two numbers were searched."""
    pair = seen.pair
    if pair is None:
        return None
    figure, axes = style.new(4.4)
    for axis, name in zip("xy", pair, strict=True):
        style.scale(axes, axis, name, seen.planned.searched[name])
    low, high = seen.limits
    colours = {"cmap": style.MAP, "vmin": low, "vmax": high}
    between = surface(seen, pair)
    if between is not None:
        axes.pcolormesh(*between, **colours, shading="nearest", alpha=0.75, rasterized=True)
    students = seen.having(*pair)
    x, y = ({one.id: float(one.hyper[name]) for one in students} for name in pair)
    whole = [one for one in students if one.complete]
    shown = axes.scatter(
        [x[one.id] for one in whole],
        [y[one.id] for one in whole],
        c=[100 * one.accuracy for one in whole],
        **colours,
        s=52,
        edgecolors="black",
        linewidths=0.8,
        label="trained in full",
        zorder=4,
        clip_on=False,
    )
    rest = [one for one in students if not one.complete]
    style.hollow(axes, rest, [x[one.id] for one in rest], [y[one.id] for one in rest])
    style.marked(axes, seen, x, y)
    bar = figure.colorbar(shown, ax=axes, label="validation accuracy, %", extend="min")
    bar.outline.set_visible(False)
    style.legend_above(figure, axes)
    return figure, _caption(seen, pair, len(whole), len(rest), between is not None)


def _caption(seen: Seen, pair: tuple[str, str], n_whole: int, n_rest: int, filled: bool) -> str:
    said = [
        f"Each mark is a trial at its {pair[0]} and {pair[1]}: {n_whole} circles trained in full, coloured by "
        f"validation accuracy, and {n_rest} outlines that were not.",
        seen.marks_in_words(),
    ]
    if filled:
        said.append(
            "The ground is what a Gaussian process reads between the circles; where none is near it is blank."
        )
    others = [name for name in seen.planned.searched if name not in pair]
    if others:
        said.append(f"Not on the map: {', '.join(others)}, which vary from mark to mark.")
    return " ".join(said)
