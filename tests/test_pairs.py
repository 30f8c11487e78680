"""Which methods of a league differ: the test of a pair, its correction, and what cannot be told."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from tuner import pairs
from tuner.statistics import deviation, holm, least_difference, paired_p

A, B = [0.91, 0.93, 0.92, 0.95], [0.90, 0.90, 0.91, 0.91]


def test_the_p_of_a_pair() -> None:
    """Against scipy.stats.ttest_rel."""
    assert paired_p(A, B) == pytest.approx(stats.ttest_rel(A, B).pvalue)


@pytest.mark.parametrize(
    ("a", "b", "p"), [([0.5, 0.6], [0.5, 0.6], 1.0), ([0.6, 0.7], [0.5, 0.6], math.nan)]
)
def test_without_a_spread(a: list[float], b: list[float], p: float) -> None:
    """All equal is no difference; all the same difference cannot be tested."""
    assert paired_p(a, b) == pytest.approx(p, nan_ok=True)


def test_one_seed_tells_nothing() -> None:
    assert math.isnan(paired_p([0.9], [0.8]))


@pytest.mark.parametrize(
    ("raw", "corrected"),
    [
        # by hand: 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04 * 1, which may not fall below the one before
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.6, 0.5], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([math.nan, 0.01], [math.nan, 0.02]),  # what cannot be tested was a test all the same
        ([], []),
    ],
)
def test_holm(raw: list[float], corrected: list[float]) -> None:
    assert holm(raw) == pytest.approx(corrected, nan_ok=True)


def test_the_least_difference_is_just_told() -> None:
    """Differences of that mean and spread have a p of 0.05 over the number of tests."""
    gaps = [-0.01, 0.0, 0.01, 0.02, 0.0]
    least = least_difference(deviation(gaps), 5, 10)
    mean = sum(gaps) / 5
    moved = [gap - mean + least for gap in gaps]
    assert paired_p(moved, [0.0] * 5) == pytest.approx(0.05 / 10)


CLEAR = {"at": [0.80, 0.81, 0.79], "kd": [0.90, 0.912, 0.891], "dkd": [0.901, 0.91, 0.89]}


def test_the_matrix_is_sorted_and_marks_what_differs() -> None:
    """By hand: dkd and kd are 0.07 points apart with a spread as large, at lies 10 points below both."""
    assert pairs.matrix(CLEAR) == [
        ["", "1", "2", "3"],
        ["1 kd", "", "+0.07", "+10.10*"],
        ["2 dkd", "", "", "+10.03*"],
        ["3 at", "", "", ""],
    ]


def test_how_many_differ_is_said_with_what_could_be_told() -> None:
    said = pairs.sentences(CLEAR)
    assert said[0].startswith(
        "2 of 3 pairs differ (paired t-test over 3 seeds, p < 0.05 after Holm"
    )
    spread = pairs.typical_spread(CLEAR)
    least = 100 * least_difference(spread, 3, 3)
    assert f"With 3 seeds and 3 pairs no difference under about {least:.2f} points" in said[1]


def test_one_method_alone_is_compared_with_nobody() -> None:
    assert pairs.sentences({"kd": [0.9, 0.8]}) == []
