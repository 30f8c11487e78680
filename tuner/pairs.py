"""Which methods of a league differ: a paired t-test for each pair of tuned ones, corrected for their number (Holm).

The same seeds for all, so that luck of the seed cancels. What is not told apart is not shown to be equal: a sentence
says how large a difference these seeds could have told.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tuner.statistics import CONFIDENCE, deviation, holm, least_difference, paired, paired_p

LEVEL = 1 - CONFIDENCE


@dataclass(frozen=True)
class Pair:
    """Two methods compared, the better on average first."""

    better: str
    worse: str
    difference: float
    p: float  # corrected; NaN where the seeds tell no spread

    @property
    def differs(self) -> bool:
        """Whether it is told from 0."""
        return self.p < LEVEL


def compare(accuracies: Mapping[str, Sequence[float]]) -> list[Pair]:
    """Every pair of methods (name -> test accuracy, seed by seed), by mean accuracy; ties keep their order."""
    names = sorted(accuracies, key=lambda name: -math.fsum(accuracies[name]))
    couples = list(itertools.combinations(names, 2))
    corrected = holm([paired_p(accuracies[a], accuracies[b]) for a, b in couples])
    return [
        Pair(a, b, paired(accuracies[a], accuracies[b]).mean, p)
        for (a, b), p in zip(couples, corrected, strict=True)
    ]


def sentences(accuracies: Mapping[str, Sequence[float]]) -> list[str]:
    """How many pairs differ, and how large a difference can be told at all; nothing with fewer than two methods."""
    found = compare(accuracies)
    if not found:
        return []
    n_seeds = len(accuracies[found[0].better])
    n_told = sum(pair.differs for pair in found)
    verb = "differs" if n_told == 1 else "differ"
    said = f"{n_told} of {len(found)} pairs {verb} (paired t-test over {n_seeds} seeds, p < {LEVEL:.2g} after Holm)."
    spread = typical_spread(accuracies)
    if not spread:
        return [said]
    least = 100 * least_difference(spread, n_seeds, len(found))
    return [
        said,
        f"With {n_seeds} seeds and {len(found)} pairs no difference under about {least:.2f} points can be told, at the "
        f"spread seen here ({100 * spread:.2f} points from seed to seed); what is not told apart need not be equal.",
    ]


def typical_spread(accuracies: Mapping[str, Sequence[float]]) -> float:
    """The standard deviation of the pairs' differences over seeds, pooled; 0 with fewer than two seeds."""
    gaps = [
        [x - y for x, y in zip(a, b, strict=True)]
        for a, b in itertools.combinations(accuracies.values(), 2)
    ]
    if not gaps or len(gaps[0]) < 2:
        return 0.0
    return math.sqrt(math.fsum(deviation(gap) ** 2 for gap in gaps) / len(gaps))


def matrix(accuracies: Mapping[str, Sequence[float]]) -> list[list[str]]:
    """Row minus column in points, header first, a method's number standing for it in the header; `*` where they differ.

    The upper half alone: the lower is the same with the other sign.
    """
    found = {(pair.better, pair.worse): pair for pair in compare(accuracies)}
    names = sorted(accuracies, key=lambda name: -math.fsum(accuracies[name]))
    rows = [["", *(str(n) for n in range(1, len(names) + 1))]]
    for n, a in enumerate(names, 1):
        cells = [_cell(found.get((a, b))) for b in names]
        rows.append([f"{n} {a}", *cells])
    return rows


def _cell(pair: Pair | None) -> str:
    if pair is None:
        return ""
    return f"{100 * pair.difference:+.2f}{'*' if pair.differs else ''}"
