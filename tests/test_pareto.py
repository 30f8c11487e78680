"""The Pareto front, against a brute force over all pairs."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.pareto import dominates, front

STEADY = settings(deadline=None, derandomize=True)
COARSE = st.integers(0, 4).map(float) | st.just(math.nan)  # few values, so that ties are common
POINTS = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(COARSE, min_size=n, max_size=n), max_size=12)
)


@STEADY
@given(POINTS)
def test_the_front_is_what_nobody_dominates(points: list[list[float]]) -> None:
    """Every pair compared, points with NaN left out."""
    whole = [i for i, point in enumerate(points) if not any(map(math.isnan, point))]

    def beaten(i: int) -> bool:
        return any(
            all(a >= b for a, b in zip(points[j], points[i], strict=True))
            and points[j] != points[i]
            for j in whole
        )

    assert front(points) == [i for i in whole if not beaten(i)]


@STEADY
@given(POINTS.filter(bool))
def test_order_and_copies_change_nothing(points: list[list[float]]) -> None:
    """The front as a set of points is that of the reversed list, and of the list twice over."""
    found = {tuple(points[i]) for i in front(points)}
    backwards, twice = points[::-1], points + points
    assert {tuple(backwards[i]) for i in front(backwards)} == found
    assert {tuple(twice[i]) for i in front(twice)} == found


def test_by_hand() -> None:
    """(1, 3), (2, 2) and (3, 1) do not beat each other; (1, 1) is beaten by (2, 2); equal points stand together."""
    points = [(1.0, 3.0), (1.0, 1.0), (2.0, 2.0), (3.0, 1.0), (2.0, 2.0), (math.nan, 9.0)]
    assert front(points) == [0, 2, 3, 4]
    assert dominates((2.0, 2.0), (1.0, 2.0)) and not dominates((2.0, 2.0), (2.0, 2.0))


def test_nothing_and_one_objective() -> None:
    assert front([]) == []
    assert front([(1.0,), (3.0,), (2.0,), (3.0,)]) == [1, 3]
