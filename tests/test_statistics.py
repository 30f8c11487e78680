"""Means and intervals over seeds, against scipy and by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tuner.statistics import MOST_SEEDS, Interval, interval, paired, seeds_needed

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


def scaled(differences: list[float], n: int) -> list[float]:
    """n values with the mean and the (n - 1) deviation of `differences`."""
    mean = sum(differences) / len(differences)
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / (len(differences) - 1))
    signs = [1.0] * (n // 2) + [-1.0] * (n // 2) + [0.0] * (n % 2)
    size = deviation * math.sqrt((n - 1) / (2 * (n // 2)))
    return [mean + size * sign for sign in signs]


@pytest.mark.parametrize(
    "differences",
    [[0.01, 0.02], [0.01, -0.005, 0.02, 0.0, 0.004], [-0.02, 0.01, -0.03], [0.1, 0.11]],
)
def test_seeds_needed_against_scipy_on_made_up_seeds(differences: list[float]) -> None:
    """The first n whose n values, of the same mean and deviation, have a t-test with p below 0.05."""
    enough = (
        n for n in range(2, 200) if stats.ttest_1samp(scaled(differences, n), 0).pvalue < 0.05
    )
    assert seeds_needed(differences) == next(enough)


@pytest.mark.parametrize(
    ("differences", "needed"),
    [
        ([0.01, 0.01, 0.01], 2),  # no spread: any two do
        ([0.01, -0.01], None),  # a mean of 0
        ([0.0, 0.0], None),
        ([0.01, math.nan], None),
        ([1.0, -0.999], None),  # more than MOST_SEEDS
    ],
)
def test_seeds_needed_at_the_edges(differences: list[float], needed: int | None) -> None:
    assert seeds_needed(differences) == needed
    assert needed is None or needed <= MOST_SEEDS


def test_seeds_needed_wants_two_differences() -> None:
    with pytest.raises(ValueError, match="at least two differences, got 1"):
        seeds_needed([0.1])
