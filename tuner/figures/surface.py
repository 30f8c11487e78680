"""Between the trials: accuracy over two dimensions, as a Gaussian process reads it from those trained in full."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tuner.figures.seen import Seen, from_unit, place, unit

FEWEST = 6  # trials; fewer say nothing of what lies between them
FAR = 0.22  # of an axis's length: further from every trial nothing is drawn
CELLS = 160


class Surface(NamedTuple):
    """A grid of the accuracies in percent; NaN far from every trial."""

    x: NDArray[np.float64]  # (CELLS,)
    y: NDArray[np.float64]  # (CELLS,)
    accuracy: NDArray[np.float64]  # (CELLS, CELLS), a row for each y


def surface(seen: Seen, pair: tuple[str, str]) -> Surface | None:
    """The map of two numeric dimensions; None with too few trials, or where all are equal.

    Accuracies below the scale of colours count as its lower end: one trial at chance would bend the rest out of sight.
    """
    domains = [seen.planned.searched[name] for name in pair]
    students = [one for one in seen.having(*pair) if one.complete]
    values = np.array([max(100 * one.accuracy, seen.limits[0]) for one in students])
    if len(students) < FEWEST or np.ptp(values) == 0:
        return None
    at = np.array(
        [
            [
                unit(domain, place(seen, one, name) or 0)
                for name, domain in zip(pair, domains, strict=True)
            ]
            for one in students
        ]
    )
    steps = np.linspace(0, 1, CELLS)
    cells = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    found = _between(at, values, cells)
    distance = np.sqrt(((cells[:, None] - at[None]) ** 2).sum(-1)).min(1)
    found[distance > FAR] = np.nan
    x, y = (np.array([from_unit(domain, share) for share in steps]) for domain in domains)
    return Surface(x, y, found.reshape(CELLS, CELLS))


def _between(
    at: NDArray[np.float64], values: NDArray[np.float64], cells: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The process's mean at `cells`, never outside the values seen."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    smooth = Matern([0.4, 0.4], (0.15, 5), nu=2.5)
    kernel = ConstantKernel(1.0, (0.05, 20)) * smooth + WhiteKernel(0.1, (1e-3, 2))
    process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length at its bound is fine in a picture
        process.fit(at, values)
    return np.clip(process.predict(cells), values.min(), values.max())
