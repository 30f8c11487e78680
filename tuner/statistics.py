"""Means and intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtr, stdtrit

CONFIDENCE = 0.95
EQUAL = 1e-12  # accuracies nearer than that are equal: they are counts of images over their number
MOST_SEEDS = 1000  # nobody trains more


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval (Student's t over seeds)."""

    mean: float
    half_width: float  # NaN with fewer than two values
    n: int

    @property
    def resolved(self) -> bool:
        """Whether 0 lies outside."""
        return abs(self.mean) > self.half_width

    def text(self, *, signed: bool = False) -> str:
        """In percent or points: `97.42 ± 0.31`."""
        mean = f"{100 * self.mean:+.2f}" if signed else f"{100 * self.mean:.2f}"
        return mean if math.isnan(self.half_width) else f"{mean} ± {100 * self.half_width:.2f}"


def interval(values: Sequence[float]) -> Interval:
    """The mean of `values` with its 95 % t-interval; NaN width with one value; raises ValueError with none."""
    if not values:
        raise ValueError("a mean must have at least one value, got none")
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Interval(mean, math.nan, n)
    return Interval(mean, _quantile(CONFIDENCE, n) * deviation(values) / math.sqrt(n), n)


def paired(a: Sequence[float], b: Sequence[float]) -> Interval:
    """The interval of a - b, seed by seed; raises ValueError where they are not of one length."""
    return interval([x - y for x, y in zip(a, b, strict=True)])


def paired_p(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of the paired t-test: how likely a difference as large, seed by seed, if there were none.

    1 where all are equal; NaN with fewer than two pairs, and where every pair differs by the same: no spread is seen.
    """
    gap = paired(a, b)
    if gap.n < 2:
        return math.nan
    error = gap.half_width / _quantile(CONFIDENCE, gap.n)
    if error <= EQUAL * max(1.0, abs(gap.mean)):
        return 1.0 if abs(gap.mean) <= EQUAL else math.nan
    return float(2 * stdtr(gap.n - 1, -abs(gap.mean) / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number (Holm 1979), in their order; NaN counts as a test and stays NaN."""
    order = sorted(range(len(p_values)), key=lambda i: (math.isnan(p_values[i]), p_values[i]))
    corrected, highest = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(order):
        if not math.isnan(p_values[i]):
            highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
            corrected[i] = highest
    return corrected


def least_difference(spread: float, n: int, n_tests: int) -> float:
    """The mean of n paired differences of standard deviation `spread` that is just told from 0 among so many tests.

    It is the first that Holm's procedure has to pass: p below 0.05 / n_tests.
    """
    return _quantile(1 - (1 - CONFIDENCE) / n_tests, n) * spread / math.sqrt(n)


def seeds_needed(differences: Sequence[float]) -> int | None:
    """How many seeds would tell a mean difference like this one from 0; None where MOST_SEEDS would not.

    With mean m and deviation s of the paired differences seen, the smallest n >= 2 with

        t(0.975, n - 1) * s / sqrt(n) < |m|

    that is, for which the 95 % t-interval would exclude 0 if mean and deviation stayed as they are. They will not: over
    n new seeds a true difference of this size is told from 0 about every second time, more often with more. None too
    for a mean of 0 or NaN. Raises ValueError with fewer than two differences.
    """
    n = len(differences)
    if n < 2:
        raise ValueError(f"a deviation must have at least two differences, got {n}")
    seen = interval(differences)
    spread = deviation(differences)
    enough = (
        n
        for n in range(2, MOST_SEEDS + 1)
        if _quantile(CONFIDENCE, n) * spread / math.sqrt(n) < abs(seen.mean)
    )
    return next(enough, None)


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample of two or more."""
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def _quantile(confidence: float, n: int) -> float:
    """Student's t that a mean of n values keeps within, two-sided."""
    return float(stdtrit(n - 1, (1 + confidence) / 2))
