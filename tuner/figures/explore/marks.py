"""Figures of marks: the map, one dimension at a time, importance. Each gives nothing where it has nothing to show."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from tuner.figures.explore.common import ACCURACY, hover, new
from tuner.figures.seen import Seen, is_log, on_axis, place
from tuner.figures.style import BLUE, LOOK, ORANGE, look
from tuner.figures.surface import surface
from tuner.journal import Student

SYMBOLS = {"o": "circle", "v": "triangle-down-open", "x": "x-thin-open", "s": "square-open"}
COLUMNS = 3
Place = Callable[[Student], float | None]


def landscape(seen: Seen) -> Any:
    """The map of two dimensions."""
    pair = seen.pair
    if pair is None:
        return None
    figure = new(560, xaxis=_axis(seen, pair[0]), yaxis=_axis(seen, pair[1]))
    figure.add_traces(_ground(seen, pair))
    return figure.add_traces(_marks(seen, seen.having(*pair), *(_along(seen, n) for n in pair)))


def _ground(seen: Seen, pair: tuple[str, str]) -> list[Any]:
    """What lies between the trials, where enough of them were trained in full."""
    from plotly.graph_objects import Heatmap

    between, (low, high) = surface(seen, pair), seen.limits
    if between is None:
        return []
    return [
        Heatmap(
            x=between.x,
            y=between.y,
            z=between.accuracy.astype("float32"),
            colorscale="Viridis",
            zmin=low,
            zmax=high,
            opacity=0.75,
            hoverinfo="skip",
            colorbar={"title": {"text": ACCURACY, "side": "right"}},
        )
    ]


def slices(seen: Seen) -> Any:
    """A panel for each dimension, with one scale of accuracy."""
    from plotly.subplots import make_subplots

    names = list(seen.planned.searched)
    if not names or not seen.students:
        return None
    columns = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = make_subplots(rows, columns, shared_yaxes=True)
    for i, name in enumerate(names):
        at = {"row": i // columns + 1, "col": i % columns + 1}
        marks = _marks(seen, seen.having(name), _along(seen, name), _percent, showlegend=i == 0)
        for trace in marks:
            figure.add_trace(trace, **at)
        figure.update_xaxes(**_axis(seen, name), **at)
    figure.update_yaxes(title=ACCURACY, col=1)
    return figure.update_layout(height=340 * rows, legend={"orientation": "h", "y": 1.1})


def importance(seen: Seen) -> Any:
    """A bar for each hyperparameter, with the range over resampled trials."""
    shares = seen.importances.shares[::-1]
    if not shares:
        return None
    from plotly.graph_objects import Bar

    above = [100 * (one.high - one.share) for one in shares]
    below = [100 * (one.share - one.low) for one in shares]
    bars = Bar(
        x=[100 * one.share for one in shares],
        y=[one.name for one in shares],
        orientation="h",
        error_x={"symmetric": False, "array": above, "arrayminus": below},
        marker={"color": BLUE},
        hovertemplate="%{y}: %{x:.0f} %<extra></extra>",
    )
    figure = new(160 + 40 * len(shares), xaxis={"title": "importance, %", "range": [0, 105]})
    return figure.add_trace(bars)


def _marks(seen: Seen, students: list[Student], x: Place, y: Place, **more: Any) -> list[Any]:
    """A trace for each outcome, then ring and star; `x` and `y` give a student's place."""
    low, high = seen.limits
    found = []
    for known in LOOK.values():
        some = [one for one in students if look(one) is known]
        style: dict[str, Any] = {"color": known.colour}
        if known is LOOK["finished"]:
            style = {"color": list(map(_percent, some)), "colorscale": "Viridis", "cmin": low}
            style |= {"cmax": high, "line": {"width": 1, "color": "black"}}
        if some:
            marker = {"symbol": SYMBOLS[known.marker], "size": 10, **style}
            found.append(_trace(seen, some, x, y, name=known.label, marker=marker, **more))
    for special, symbol, edge in (
        (seen.default, "circle-open", {"width": 2, "color": ORANGE}),
        (seen.winner, "star", {"width": 1, "color": "white"}),
    ):
        if special is not None and any(special is one for one in students):
            label = seen.role(special) if special is seen.winner else "published default"
            marker = {"symbol": symbol, "size": 18, "color": ORANGE, "line": edge}
            found.append(_trace(seen, [special], x, y, name=label, marker=marker, **more))
    return found


def _trace(seen: Seen, some: list[Student], x: Place, y: Place, **look: Any) -> Any:
    """Marks of one look; each says which trial it is."""
    from plotly.graph_objects import Scatter

    return Scatter(
        x=list(map(x, some)),
        y=list(map(y, some)),
        text=[hover(seen, one) for one in some],
        hovertemplate="%{text}<extra></extra>",
        mode="markers",
        legendgroup=look["name"],
        **look,
    )


def _along(seen: Seen, name: str) -> Place:
    """Where a student lies on a dimension."""
    return lambda one: place(seen, one, name)


def _percent(one: Student) -> float:
    return 100 * one.accuracy


def _axis(seen: Seen, name: str) -> dict[str, Any]:
    """Title, scale and, for words, ticks of one dimension."""
    domain = seen.planned.searched[name]
    if not on_axis(domain):
        words = [str(value) for value in domain.values]
        return {"title": name, "tickvals": list(range(len(words))), "ticktext": words}
    return {"title": name, "type": "log" if is_log(domain) else "linear"}
