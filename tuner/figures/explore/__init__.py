"""One page to explore a search: every mark says which trial it is; opens without a network, plotly's script inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape

from tuner.figures import bars, curves, landscape, slices
from tuner.figures.explore import lines, marks
from tuner.figures.seen import Seen


def write(seen: Seen, path: Path) -> None:
    """The page, as one file; about 5 MB, nearly all of it plotly's script."""
    figures: dict[str, Callable[[Seen], Any]] = {
        landscape.TITLE: marks.landscape,
        slices.SLICES: marks.slices,
        slices.PARALLEL: lines.parallel,
        curves.LEARNING: lines.curves,
        curves.RUNGS: lines.rungs,
        bars.IMPORTANCE: marks.importance,
    }
    made = {title: figure for title, drawer in figures.items() if (figure := drawer(seen))}
    parts = {title: _inline(figure, first=not i) for i, (title, figure) in enumerate(made.items())}
    folder = Path(__file__).parents[2]
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=select_autoescape(["html.jinja"])
    )
    page = environment.get_template("explore.html.jinja")
    path.write_text(page.render(name=seen.planned.name, parts=parts), encoding="utf-8")


def _inline(figure: Any, *, first: bool) -> str:
    """A figure as a part of the page, the script with the first one."""
    figure.update_layout(template="plotly_white", margin={"t": 40, "b": 50, "l": 60, "r": 20})
    settings = {"displaylogo": False, "responsive": True}
    return str(figure.to_html(full_html=False, include_plotlyjs=first, config=settings))
