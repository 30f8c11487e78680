"""The pictures: where the trials lie, how they learnt, and what tuning gained; colours that everyone can tell apart."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from search_spaces import Domain
from tuner.confirm import ROLES
from tuner.journal import Story, Student
from tuner.plan import Plan
from tuner.statistics import interval, paired

# Okabe and Ito's palette, safe for colour-blind readers; a marker each, so that colour is never alone.
LOOK = {
    "finished": ("#0072B2", "o", "trained in full"),
    "stopped": ("#999999", "v", "stopped early"),
    "diverged": ("#D55E00", "x", "diverged"),
    "failed": ("#CC79A7", "s", "failed"),
    "hung": ("#CC79A7", "s", "hung"),
    "out of memory": ("#CC79A7", "s", "out of memory"),
}
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 130,
}


@dataclass(frozen=True)
class Picture:
    """A figure on disk with what it says, for those who cannot see it."""

    path: Path
    title: str
    caption: str

    @property
    def inline(self) -> str:
        """The PNG as a data URI, so that a page is one file."""
        import base64

        return "data:image/png;base64," + base64.b64encode(self.path.read_bytes()).decode()


def draw(planned: Plan, told: Story, answer: dict[str, Any], folder: Path) -> list[Picture]:
    """All figures of a search, as PNG files in `folder`."""
    folder.mkdir(exist_ok=True)
    drawers: dict[str, tuple[Callable[..., str], str]] = {
        "gain": (_gain, "What tuning gained"),
        "trials": (_trials, "Where the trials lie"),
        "curves": (_curves, "How the trials learnt"),
    }
    pictures = []
    with plt.rc_context(STYLE):
        for name, (drawer, title) in drawers.items():
            figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
            caption = drawer(figure, axes, planned, told, answer)
            path = folder / f"{name}.png"
            figure.savefig(path)
            plt.close(figure)
            pictures.append(Picture(path, title, caption))
    return pictures


def _gain(figure: Figure, axes: Axes, planned: Plan, told: Story, answer: dict[str, Any]) -> str:
    """Test accuracy of each role over seeds, the seeds joined."""
    rows = {role: row["accuracy"] for role, row in answer["rows"].items()}
    for values in zip(*rows.values(), strict=True):
        axes.plot(
            range(len(rows)), [100 * v for v in values], color="#BBBBBB", lw=1, marker=".", zorder=1
        )
    means = [interval(values) for values in rows.values()]
    axes.errorbar(
        range(len(rows)),
        [100 * m.mean for m in means],
        [100 * m.half_width for m in means],
        fmt="o",
        color="#0072B2",
        capsize=4,
        zorder=2,
    )
    axes.set_xticks(range(len(rows)), [ROLES[role] for role in rows])
    axes.margins(x=0.2)
    axes.set_ylabel("test accuracy, %")
    gaps = [
        f"{paired(rows['tuned'], rows[role]).text(signed=True)} points over the {ROLES[role]}"
        for role in rows
        if role != "tuned"
    ]
    n = len(answer["seeds"])
    said = f"Test accuracy over {n} seeds (grey, joined by seed), mean and 95% interval."
    return f"{said} Tuned: {'; '.join(gaps)}." if gaps else said


def _trials(figure: Figure, axes: Axes, planned: Plan, told: Story, answer: dict[str, Any]) -> str:
    """The trials over the first two searched dimensions, coloured by validation accuracy."""
    numeric = [
        name
        for name, d in planned.searched.items()
        if not d.when and not any(isinstance(v, str | bool) for v in d.values)
    ]
    students = [s for s in told.of_kind("search") if s.history]
    if not numeric:
        axes.text(
            0.5, 0.5, "no numeric dimension was searched", ha="center", transform=axes.transAxes
        )
        return "No numeric dimension was searched."
    first, second = numeric[0], numeric[1] if len(numeric) > 1 else None
    shown = None
    for status, (_, marker, label) in LOOK.items():
        some = [s for s in students if s.status == status]
        if not some:
            continue
        x = [s.hyper[first] for s in some]
        y = [s.hyper[second] if second else 100 * s.accuracy for s in some]
        colours = [100 * s.accuracy for s in some]
        limits = _limits(students)
        shown = axes.scatter(
            x,
            y,
            c=colours,
            cmap="viridis",
            marker=marker,
            s=45,
            label=label,
            vmin=limits[0],
            vmax=limits[1],
        )
    if shown is not None:
        figure.colorbar(shown, ax=axes, label="validation accuracy, %")
        axes.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
    default = planned.published
    axes.scatter(
        default[first],
        default[second] if second else 100 * told.of_kind("search")[0].accuracy,
        s=160,
        facecolors="none",
        edgecolors="#D55E00",
        linewidths=1.5,
    )
    _scale(axes, "x", first, planned.searched[first])
    if second:
        _scale(axes, "y", second, planned.searched[second])
    else:
        axes.set_ylabel("validation accuracy, %")
    axes_named = f"{first} and {second}" if second else first
    return f"Each mark is a trial at its {axes_named}; the ring is the published default."


def _limits(students: list[Student]) -> tuple[float, float]:
    values = sorted(100 * s.accuracy for s in students)
    low = values[len(values) // 10]
    return (low, values[-1]) if values[-1] > low else (low - 1, low + 1)


def _scale(axes: Axes, axis: str, name: str, domain: Domain) -> None:
    getattr(axes, f"set_{axis}label")(name)
    if domain.word.startswith("log"):
        getattr(axes, f"set_{axis}scale")("log")
        ticks = getattr(axes, f"{axis}axis")
        decades = math.log10(domain.high / domain.low)
        ticks.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2.5 else (1,)))
        ticks.set_major_formatter(StrMethodFormatter("{x:g}"))
        ticks.set_minor_formatter(NullFormatter())


def _curves(figure: Figure, axes: Axes, planned: Plan, told: Story, answer: dict[str, Any]) -> str:
    """Validation accuracy by epoch, coloured by outcome."""
    labelled: set[str] = set()
    students = told.of_kind("search")
    for student in students:
        colour, marker, label = LOOK.get(student.status, LOOK["failed"])
        values = [100 * metrics["val/accuracy"] for metrics in student.history]
        if not values:
            continue
        axes.plot(range(1, len(values) + 1), values, color=colour, lw=0.9, alpha=0.75)
        axes.plot(
            len(values),
            values[-1],
            color=colour,
            marker=marker,
            ms=4,
            label=None if label in labelled else label,
        )
        labelled.add(label)
    last = [100 * m["val/accuracy"] for s in students for m in s.history[planned.grace - 1 :]]
    if last:
        axes.set_ylim(min(last) - 2, min(100.5, max(last) + 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("validation accuracy, %")
    axes.legend(fontsize=8, frameon=False)
    return "Validation accuracy of every trial by epoch; a mark shows where a trial ended."
