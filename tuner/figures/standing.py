"""Where several searches stand: test accuracy over seeds, a row each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from tuner.figures import style
from tuner.statistics import interval

TITLE = "Where the searches stand"


def draw(tuned: Mapping[str, Sequence[float]]) -> tuple[Figure, str]:
    """Test accuracies (search -> a share a seed), the first on top; the figure and what it says."""
    figure, axes = style.new(1.2 + 0.4 * len(tuned))
    for place, values in enumerate(tuned.values()):
        mean = interval(values)
        seeds = [100 * value for value in values]
        look = {"color": "#BBBBBB", "ls": "", "marker": "."}
        axes.plot(seeds, [place] * len(seeds), label="one seed", zorder=1, **look)
        axes.errorbar(
            100 * mean.mean,
            place,
            xerr=100 * mean.half_width,
            fmt="o",
            color=style.BLUE,
            capsize=4,
            label="mean, 95 % interval",
        )
    axes.set_yticks(range(len(tuned)), list(tuned))
    axes.invert_yaxis()
    axes.margins(y=0.2)
    axes.set_xlabel("test accuracy, %")
    style.legend_above(figure, axes)
    told = "; ".join(f"{name} {interval(values).text()}" for name, values in tuned.items())
    return figure, f"Test accuracy in percent, mean and 95 % interval over seeds (grey): {told}."
