"""The Pareto front: the points that no other point beats.

NaN      such a point is on no front and beats nobody
a tie    equal points are on the front together
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = Sequence[float]  # more is better in every place


def dominates(one: Point, other: Point) -> bool:
    """Whether `one` is at least as good everywhere and better somewhere."""
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def front(points: Sequence[Point]) -> list[int]:
    """The places of the points that nobody dominates, in their order.

    Sorted from the best first value down, a point can only be dominated by an earlier one that is on the front itself.
    """
    whole = [i for i, point in enumerate(points) if not any(map(math.isnan, point))]
    kept: list[int] = []
    for i in sorted(whole, key=lambda i: tuple(points[i]), reverse=True):
        if not any(dominates(points[j], points[i]) for j in kept):
            kept.append(i)
    return sorted(kept)
