"""How accuracy falls with the radius of an attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from trainables.evaluation import sanity
from tuner import evaluation_report
from tuner.figures import style
from tuner.figures.seen import Seen
from tuner.statistics import interval

TITLE = "Accuracy by radius"
LOOKS = {  # by the name that tables show: colour, line, marker
    "plain student": (style.GREY, "-", "s"),
    "published default": (style.ORANGE, "--", "v"),
    "tuned": (style.BLUE, "-", "o"),
    "teacher": (style.BLACK, ":", "D"),
}
OTHER = (style.PURPLE, "-.", "^")
CLEAN = 0.5  # where radius 0 stands on the log axis, in 255ths
TICKS = (1, 2, 4, 8, 16, 32, 64, 128, 255)


def draw(seen: Seen) -> tuple[Figure, str] | None:
    """Accuracy by radius, up to all of [0, 1], of every row and the teacher; nothing where nothing was attacked."""
    networks = evaluation_report.networks(dict(seen.answer))
    lines = {who: radii(measured) for who, measured in networks.items() if who != "champion"}
    if not any(len(line) > 1 for line in lines.values()):
        return None
    figure, axes = style.new(3.6)
    hidden = [who for who in lines if evaluation_report.flags(networks[who]).startswith("masked")]
    for who, line in lines.items():
        colour, dashes, marker = LOOKS.get(who, OTHER)
        name = f"{who}, masked" if who in hidden else who
        look: Any = {"color": colour, "ls": dashes, "marker": marker, "ms": 4}
        axes.plot(list(line), list(line.values()), label=name, **look)
    axes.set_xscale("log", base=2)
    axes.set_xticks([CLEAN, *TICKS], ["none", *map(str, TICKS)])
    axes.minorticks_off()
    axes.set_xlabel("L-infinity radius, 255ths of the pixels' range")
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(-3, 103)
    style.legend_above(figure, axes)
    return figure, _in_words(seen, hidden)


def radii(measured: Mapping[str, Any]) -> dict[float, float]:
    """Mean accuracy over seeds in percent by radius in 255ths, clean first; {} where there is no curve."""
    found = {
        255 * threat.epsilon: measured[f"robust/curve/{threat.name}"]
        for threat in sanity.CURVE
        if f"robust/curve/{threat.name}" in measured
    }
    if found:
        found = {CLEAN: measured["clean/accuracy"], **found}
    return {radius: 100 * interval(_listed(values)).mean for radius, values in found.items()}


def _listed(value: Any) -> list[float]:
    return value if isinstance(value, list) else [value]


def _in_words(seen: Seen, hidden: list[str]) -> str:
    said = (
        f"Accuracy under PGD-10 on the margin, each radius attacked on its own, on {sanity.CURVE_IMAGES} test images "
        f"at most (mean over {len(seen.answer['seeds'])} seeds). Where every image is allowed, at 255, none may stand."
    )
    if not hidden:
        return said
    return f"{said} Masked gradients ({', '.join(hidden)}): the attack is blind there, the line an upper bound."
