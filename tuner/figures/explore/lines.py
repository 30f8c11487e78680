"""Figures of lines: all dimensions of a trial, its curve, its way over the rungs; nothing where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tuner import safety_report
from tuner.figures import curves as drawn
from tuner.figures.explore.common import ACCURACY, hover, new
from tuner.figures.seen import Seen, ends, is_log, on_axis, place, unit
from tuner.figures.style import BLUE, GREY, ORANGE, look
from tuner.journal import Student

FEW_POINTS = 8  # of a line that can be marked one by one


def parallel(seen: Seen) -> Any:
    """An axis for each dimension; ranges can be picked on them. The first axis tells the trials apart."""
    names = [name for name, domain in seen.planned.searched.items() if not domain.when]
    students = [one for one in seen.having(*names) if one.complete]
    if not names or not students:
        return None
    from plotly.graph_objects import Parcoords

    low, high = seen.limits
    percent = [100 * one.accuracy for one in students]
    dimensions = [
        {"label": "trial", "values": [one.number for one in students]},
        *(_dimension(seen, students, name) for name in names),
        {"label": "accuracy, %", "values": percent},
    ]
    line = {"color": percent, "colorscale": "Viridis", "cmin": low, "cmax": high, "showscale": True}
    figure = new(460)
    figure.add_trace(Parcoords(dimensions=dimensions, line=line))
    return figure


def curves(seen: Seen) -> Any:
    """Validation accuracy by epoch."""
    if not seen.students:
        return None
    found = {one.id: [100 * m["val/accuracy"] for m in one.history] for one in seen.students}
    paths = {key: (list(range(1, len(path) + 1)), path) for key, path in found.items()}
    window = list(drawn.window(seen))
    figure = new(520, xaxis={"title": "epoch"}, yaxis={"title": ACCURACY, "range": window})
    return figure.add_traces(_lines(seen, paths, lambda one: (look(one).colour, look(one).label)))


def rungs(seen: Seen) -> Any:
    """Accuracies from rung to rung; grey where a trial was or would have been stopped."""
    epochs = safety_report.epochs_of_rungs(seen.planned)
    if not epochs or not seen.whole:
        return None
    stopped = safety_report.stopped_at(seen.planned, seen.told)
    places = [*(f"epoch {epoch}" for epoch in epochs), "the end"]
    found = {one.id: drawn.heights(seen, one, epochs) for one in seen.students}
    paths = {key: (places[: len(path)], path) for key, path in found.items()}
    word = "ASHA would have stopped it" if seen.planned.scheduler == "none" else "stopped"

    def colour(one: Student) -> tuple[str, str]:
        return (GREY, word) if one.id in stopped else (BLUE, "went on")

    figure = new(480, yaxis={"title": ACCURACY}, xaxis={"categoryarray": places})
    return figure.add_traces(_lines(seen, paths, colour))


def _dimension(seen: Seen, students: list[Student], name: str) -> dict[str, Any]:
    """One axis: numbers on the domain's own scale with their values written, words evenly."""
    domain = seen.planned.searched[name]
    places = [place(seen, one, name) or 0.0 for one in students]
    if not on_axis(domain):
        words = [str(value) for value in domain.values]
        ticks = {"tickvals": list(range(len(words))), "ticktext": words}
        return {"label": name, "values": places, "range": [0, max(1, len(words) - 1)], **ticks}
    low, high = ends(domain)
    marks = [
        low * (high / low) ** (k / 4) if is_log(domain) else low + k / 4 * (high - low)
        for k in range(5)
    ]
    return {
        "label": name,
        "values": [unit(domain, value) for value in places],
        "range": [0, 1],
        "tickvals": [unit(domain, value) for value in marks],
        "ticktext": [f"{value:.3g}" for value in marks],
    }


def _lines(
    seen: Seen,
    paths: dict[str, tuple[list[Any], list[float]]],
    colour: Callable[[Student], tuple[str, str]],
) -> list[Any]:
    """A line for each trial, the default and the chosen one on top; `colour` gives colour and label."""
    from plotly.graph_objects import Scatter

    found: list[Any] = []
    for one in sorted(seen.students, key=lambda one: (one is seen.winner, one is seen.default)):
        x, y = paths[one.id]
        shade, label = colour(one)
        line: dict[str, Any] = {"color": shade, "width": 1}
        if seen.role(one):
            dash = "solid" if one is seen.winner else "dash"
            label, line = seen.role(one), {"color": ORANGE, "width": 3, "dash": dash}
        trace = Scatter(x=x, y=y, text=hover(seen, one), name=label, legendgroup=label, line=line)
        trace.mode = "lines+markers" if len(x) < FEW_POINTS else "lines"
        trace.showlegend = label not in {other.name for other in found}
        trace.hovertemplate = "%{text}<br>here: %{y:.2f} %<extra></extra>"
        found.append(trace)
    return found
