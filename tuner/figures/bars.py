"""What tuning gained, and which hyperparameter decided."""

from __future__ import annotations

from matplotlib.figure import Figure

from tuner.confirm import ROLES
from tuner.figures import style
from tuner.figures.seen import Seen
from tuner.statistics import interval, paired

IMPORTANCE = "Which hyperparameter decided"
MOST = 12  # bars that can still be read


def gain(seen: Seen) -> tuple[Figure, str]:
    """Test accuracy of each role over seeds, the seeds joined."""
    figure, axes = style.new(3.6)
    rows = {role: row["accuracy"] for role, row in seen.answer["rows"].items()}
    at = range(len(rows))
    for i, values in enumerate(zip(*rows.values(), strict=True)):
        label = None if i else "one seed"
        percent = [100 * value for value in values]
        axes.plot(at, percent, color="#BBBBBB", lw=1, marker=".", zorder=1, label=label)
    means = [interval(values) for values in rows.values()]
    axes.errorbar(
        at,
        [100 * m.mean for m in means],
        [100 * m.half_width for m in means],
        fmt="o",
        color=style.BLUE,
        capsize=4,
        zorder=2,
        label="mean, 95 % interval",
    )
    axes.set_xticks(at, [ROLES[role] for role in rows])
    axes.margins(x=0.2)
    axes.set_ylim(top=min(axes.get_ylim()[1], 101))
    axes.set_ylabel("test accuracy, %")
    style.legend_above(figure, axes)
    gaps = [
        f"{paired(rows['tuned'], rows[role]).text(signed=True)} points over the {ROLES[role]}"
        for role in rows
        if role not in ("tuned", seen.answer["winner"])
    ]
    n = len(seen.answer["seeds"])
    said = f"Test accuracy over {n} seeds (grey, joined by seed), mean and 95 % interval."
    return figure, f"{said} Tuned: {'; '.join(gaps)}." if gaps else said


def importance(seen: Seen) -> tuple[Figure, str] | None:
    """A bar for each hyperparameter, with the range over resampled trials; nothing without numbers."""
    shares = seen.importances.shares[:MOST]
    if not shares:
        return None
    figure, axes = style.new(0.9 + 0.42 * len(shares))
    names = [one.name for one in shares]
    percent = [100 * one.share for one in shares]
    spread = [
        [100 * (one.share - one.low) for one in shares],
        [100 * (one.high - one.share) for one in shares],
    ]
    axes.barh(
        names,
        percent,
        xerr=spread,
        height=0.6,
        color=style.BLUE,
        alpha=0.6,
        ecolor="#444444",
        capsize=3,
    )
    axes.margins(y=0.1)
    axes.invert_yaxis()
    axes.set_xlim(0, 105)
    axes.set_xlabel("importance, % of what single hyperparameters explain")
    told = ", ".join(f"{one.name} {100 * one.share:.0f} %" for one in shares)
    return (
        figure,
        f"Importance by fANOVA: {told}. Whiskers: the range over resampled trials.",
    )
