"""How pictures look: colours that everyone can tell apart, a marker for each, axes on the domain's own scale."""

from __future__ import annotations

from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from search_spaces import Domain
from tuner.figures.seen import Seen, ends, is_log, on_axis
from tuner.journal import Student

# Okabe and Ito's palette, safe for colour-blind readers
BLUE, GREY, ORANGE, PURPLE, BLACK = "#0072B2", "#8C8C8C", "#D55E00", "#CC79A7", "#000000"
MAP = "viridis"
MOST_TICKS = 6  # of listed numbers, each with a tick of its own
WIDTH = 6.4  # inches; at 130 dots an inch as wide as the report
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 130,
    "savefig.dpi": 130,
}


class Look(NamedTuple):
    """An outcome's colour and marker, so that colour is never alone."""

    colour: str
    marker: str
    label: str


LOOK = {
    "finished": Look(BLUE, "o", "trained in full"),
    "stopped": Look(GREY, "v", "stopped early"),
    "diverged": Look(BLACK, "x", "diverged"),
    "failed": Look(PURPLE, "s", "failed"),
    "hung": Look(PURPLE, "s", "hung"),
    "out of memory": Look(PURPLE, "s", "out of memory"),
}


def look(student: Student) -> Look:
    """What stands for a trial's outcome; one that was interrupted for good counts as failed."""
    return LOOK.get(student.status, LOOK["failed"])


def new(height: float, columns: int = 1, rows: int = 1, **more: Any) -> tuple[Figure, Any]:
    """A figure of the report's width, and its axes."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **more)


def hollow(axes: Axes, students: list[Student], x: list[float], y: list[float]) -> None:
    """Marks of the trials that were not trained in full: outlines alone."""
    for status, style in LOOK.items():
        at = [i for i, one in enumerate(students) if look(one) is style and status != "finished"]
        if at:
            outline: Any = {"facecolors": "none", "edgecolors": "#444444"}
            paint: Any = {"c": style.colour} if style.marker == "x" else outline
            axes.scatter(
                [x[i] for i in at],
                [y[i] for i in at],
                marker=style.marker,
                s=34,
                linewidths=1.1,
                label=style.label,
                zorder=3,
                clip_on=False,
                **paint,
            )


def marked(axes: Axes, seen: Seen, x: dict[str, float], y: dict[str, float]) -> None:
    """A ring around the published default and a star on the chosen trial, where they (by id) have a place here."""
    ring: Any = {"s": 190, "facecolors": "none", "edgecolors": ORANGE, "lw": 1.8, "zorder": 5}
    star: Any = {"s": 230, "marker": "*", "c": ORANGE, "edgecolors": "white", "lw": 1, "zorder": 6}
    for student, mark in ((seen.default, ring), (seen.winner, star)):
        if student is not None and student.id in x and student.id in y:
            label = seen.role(student) if mark is star else "published default"
            axes.scatter(x[student.id], y[student.id], label=label, clip_on=False, **mark)


def line(seen: Seen, one: Student, otherwise: dict[str, Any]) -> dict[str, Any]:
    """How a trial's line looks: the chosen one and the default stand out, the rest as given."""
    if one is seen.winner:
        return {"color": ORANGE, "lw": 2.6, "zorder": 6, "label": seen.role(one)}
    if one is seen.default:
        return {"color": ORANGE, "lw": 1.8, "ls": "--", "zorder": 5, "label": seen.role(one)}
    return otherwise


def legend_above(figure: Figure, axes: Axes) -> None:
    """One row of names above the picture, each once."""
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    if once:
        figure.legend(
            once.values(),
            once.keys(),
            fontsize=8,
            frameon=False,
            loc="outside upper center",
            ncols=len(once),
            columnspacing=1.2,
            handletextpad=0.4,
            markerscale=0.8,
        )


def scale(axes: Axes, axis: str, name: str, domain: Domain) -> None:
    """Label, scale and ticks of one dimension."""
    getattr(axes, f"set_{axis}label")(name)
    ticks = getattr(axes, f"{axis}axis")
    if not on_axis(domain):
        ticks.set_major_locator(FixedLocator(range(len(domain.values))))
        ticks.set_ticklabels([str(value) for value in domain.values])
        getattr(axes, f"set_{axis}lim")(-0.5, len(domain.values) - 0.5)
        return
    if is_log(domain):
        getattr(axes, f"set_{axis}scale")("log")
        low, high = ends(domain)
        ticks.set_major_locator(LogLocator(subs=(1,) if high / low >= 1000 else (1, 2, 5)))
        ticks.set_minor_formatter(NullFormatter())
        ticks.set_major_formatter(FuncFormatter(short))
    if 0 < len(domain.values) <= MOST_TICKS:
        ticks.set_major_locator(FixedLocator([float(value) for value in domain.values]))
        ticks.set_minor_locator(NullLocator())


def short(value: float, position: int = 0) -> str:
    """`0.05`, `4.47`, `1e-4`: three digits, as few letters as say it; for axes, which pass a position too."""
    if not 0 < value < 0.001:
        return f"{value:.3g}"
    digits, _, power = f"{value:.2e}".partition("e")
    return f"{float(digits):g}e{int(power)}"
