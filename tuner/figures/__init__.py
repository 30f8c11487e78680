"""The pictures of a search: PNG files for the report, and one page to explore."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from tuner.figures import adversarial, bars, curves, fronts, landscape, radii, slices
from tuner.figures.seen import Picture, Seen
from tuner.figures.style import STYLE

__all__ = ["Picture", "Seen", "draw", "kept"]

Drawer = Callable[[Seen], tuple[Figure, str] | None]  # the figure and what it says
DRAWERS: dict[str, tuple[str, Drawer]] = {  # with its title
    "gain": ("What tuning gained", bars.gain),
    "radii": (radii.TITLE, radii.draw),
    "adversarial": ("Adversarial examples", adversarial.draw),
    "importance": (bars.IMPORTANCE, bars.importance),
    "landscape": (landscape.TITLE, landscape.draw),
    "slices": (slices.SLICES, slices.draw),
    "parallel": (slices.PARALLEL, slices.parallel),
    "curves": (curves.LEARNING, curves.draw),
    "rungs": (curves.RUNGS, curves.rungs),
}


def draw(seen: Seen, folder: Path) -> dict[str, Picture]:
    """Every picture that there is something to draw for, by name, as PNG files in `folder`."""
    folder.mkdir(exist_ok=True)
    found = {}
    with mpl.rc_context(STYLE):
        for name, (title, drawer) in DRAWERS.items():
            drawn = drawer(seen)
            if drawn is not None:
                found[name] = kept(folder, name, title, *drawn)
        for name, figure, caption in fronts.draw(seen):
            found[name] = kept(folder, name, "Pareto front", figure, caption)
    return found


def kept(folder: Path, name: str, title: str, figure: Figure, caption: str) -> Picture:
    """The figure as a PNG file of that name in `folder`."""
    path = folder / f"{name}.png"
    figure.savefig(path)
    return Picture(path, caption, title)
