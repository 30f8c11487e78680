"""Means and intervals over seeds, against scipy and by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tuner.statistics import Interval, interval, paired

STEADY = settings(deadline=None, derandomize=True)
ACCURACY = st.integers(0, 599).map(lambda right: right / 599)


def test_by_hand() -> None:
    """1, 2, 3, 4: mean 2.5, deviation sqrt(5/3), t(0.975, 3) = 3.18245 from a table: half width 2.0543."""
    found = interval([1, 2, 3, 4])
    assert (found.mean, found.n) == (2.5, 4)
    assert found.half_width == pytest.approx(3.18245 * math.sqrt(5 / 3) / 2, rel=1e-5)


@pytest.mark.filterwarnings("ignore:Precision loss")  # of equal values
@STEADY
@given(st.lists(ACCURACY, min_size=2, max_size=12))
def test_against_scipys_t_test(values: list[float]) -> None:
    """stats.ttest_1samp's own 95 % interval."""
    found = interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.mean - found.half_width == pytest.approx(expected.low, abs=1e-9, nan_ok=True)
    assert found.mean + found.half_width == pytest.approx(expected.high, abs=1e-9, nan_ok=True)


@pytest.mark.filterwarnings("ignore:Precision loss")  # of equal values
@STEADY
@given(st.lists(st.tuples(ACCURACY, ACCURACY), min_size=2, max_size=9))
def test_paired_against_scipys_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    """stats.ttest_rel's interval: seeds are compared with themselves, their own spread cancels."""
    a, b = zip(*pairs, strict=True)
    found, expected = paired(a, b), stats.ttest_rel(a, b).confidence_interval(0.95)
    assert found.mean - found.half_width == pytest.approx(expected.low, abs=1e-9, nan_ok=True)
    assert found.mean + found.half_width == pytest.approx(expected.high, abs=1e-9, nan_ok=True)


def test_pairing_takes_the_seeds_spread_out() -> None:
    """b = a - 0.01 for very different seeds: exactly 0.01, width 0."""
    a = [0.5, 0.7, 0.9]
    found = paired(a, [x - 0.01 for x in a])
    assert found.mean == pytest.approx(0.01)
    assert found.half_width == pytest.approx(0, abs=1e-12)


def test_one_value_has_no_width() -> None:
    found = interval([0.5])
    assert (found.mean, found.n) == (0.5, 1)
    assert math.isnan(found.half_width)
    assert not found.resolved
    assert found.text() == "50.00"


def test_no_value_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one value, got none"):
        interval([])


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired([1, 2], [1])


def test_nan_is_passed_on() -> None:
    """A seed without a value makes no interval narrower."""
    found = interval([0.5, math.nan, 0.7])
    assert math.isnan(found.mean)
    assert not found.resolved


@pytest.mark.parametrize(
    ("mean", "half_width", "resolved"),
    [
        (0.02, 0.01, True),
        (-0.02, 0.01, True),
        (0.01, 0.02, False),
        (0.01, 0.01, False),
        (0.01, 0, True),
    ],
)
def test_resolved_means_that_0_lies_outside(mean: float, half_width: float, resolved: bool) -> None:
    assert Interval(mean, half_width, 5).resolved is resolved


def test_how_it_is_shown() -> None:
    """Percent, or points with a sign."""
    assert Interval(0.97418, 0.0031, 5).text() == "97.42 ± 0.31"
    assert Interval(0.0123, 0.004, 5).text(signed=True) == "+1.23 ± 0.40"
    assert Interval(-0.0123, math.nan, 1).text(signed=True) == "-1.23"
