"""The pictures of a search: PNG files for the report, and one page to explore."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from tuner.figures import bars, curves, fronts, landscape, radii, slices
from tuner.figures.seen import Picture, Seen
from tuner.figures.style import STYLE

__all__ = ["Picture", "Seen", "draw"]

Drawer = Callable[[Seen], tuple[Figure, str] | None]  # the figure and what it says
DRAWERS: dict[str, Drawer] = {
    "gain": bars.gain,
    "radii": radii.draw,
    "importance": bars.importance,
    "landscape": landscape.draw,
    "slices": slices.draw,
    "parallel": slices.parallel,
    "curves": curves.draw,
    "rungs": curves.rungs,
}


def draw(seen: Seen, folder: Path) -> dict[str, Picture]:
    """Every picture that there is something to draw for, by name, as PNG files in `folder`."""
    folder.mkdir(exist_ok=True)
    found = {}
    with mpl.rc_context(STYLE):
        for name, drawer in DRAWERS.items():
            drawn = drawer(seen)
            if drawn is not None:
                found[name] = _kept(folder, name, *drawn)
        for name, figure, caption in fronts.draw(seen):
            found[name] = _kept(folder, name, figure, caption)
    return found


def _kept(folder: Path, name: str, figure: Figure, caption: str) -> Picture:
    path = folder / f"{name}.png"
    figure.savefig(path)
    return Picture(path, caption)
