"""Means and intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

CONFIDENCE = 0.95
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
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    return Interval(mean, _quantile(n) * deviation / math.sqrt(n), n)


def paired(a: Sequence[float], b: Sequence[float]) -> Interval:
    """The interval of a - b, seed by seed; raises ValueError where they are not of one length."""
    return interval([x - y for x, y in zip(a, b, strict=True)])


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
    deviation = seen.half_width * math.sqrt(n) / _quantile(n)
    enough = (
        n
        for n in range(2, MOST_SEEDS + 1)
        if _quantile(n) * deviation / math.sqrt(n) < abs(seen.mean)
    )
    return next(enough, None)


def _quantile(n: int) -> float:
    """Student's t of n values, so that the interval covers CONFIDENCE."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))
