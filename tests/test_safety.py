"""What a rung knew of the end, by hand."""

from __future__ import annotations

import math

import pytest

from tuner.safety import rungs, warning

PARALLEL = [[0.1 + i / 10, 0.2 + i / 10, 0.3 + i / 10] for i in range(6)]
CROSSING = [[0.6 - i / 10, 0.5, 0.4 + i / 10] for i in range(6)]


def test_curves_that_do_not_cross_are_safe() -> None:
    """Ranks are the same at every epoch."""
    found = rungs(PARALLEL, [1, 2])
    assert [(r.epoch, r.n, r.correlation, r.drops_winner) for r in found] == [
        (1, 6, pytest.approx(1), False),
        (2, 6, pytest.approx(1), False),
    ]
    assert warning(found) == ""


def test_curves_that_cross_drop_the_winner() -> None:
    """Ranks turned round: -1 at the first rung; at the second all are equal, which says nothing."""
    first, second = rungs(CROSSING, [1, 2])
    assert first.correlation == pytest.approx(-1)
    assert first.drops_winner
    assert math.isnan(second.correlation)
    assert not second.drops_winner
    told = warning([first, second])
    assert "would have dropped the winner at epoch 1:" in told
    assert "-1.00 at epoch 1)" in told


def test_spearman_by_hand() -> None:
    """Ranks 1 2 3 4 5 against 2 1 3 5 4: rho = 1 - 6 * (1 + 1 + 0 + 1 + 1) / (5 * 24) = 0.8."""
    ends = [0.2, 0.1, 0.3, 0.5, 0.4]
    curves = [[(i + 1) / 10, end] for i, end in enumerate(ends)]
    assert rungs(curves, [1])[0].correlation == pytest.approx(0.8)


def test_stopped_and_diverged_trials_are_left_out() -> None:
    """Shorter curves and curves with NaN: only those that reached the end can be compared with it."""
    more = [*PARALLEL, [0.9, 0.9], [0.9, math.nan, math.nan], []]
    assert rungs(more, [1, 2]) == rungs(PARALLEL, [1, 2])


@pytest.mark.parametrize("curves", [[], [[]], [[math.nan]], PARALLEL[:4]])
def test_too_few_to_say(curves: list[list[float]]) -> None:
    """No trial, or fewer than five: no correlation, no warning."""
    found = rungs(curves, [1])
    assert all(math.isnan(rung.correlation) for rung in found)
    assert warning(found) == ""


def test_of_equal_ends_the_earlier_wins() -> None:
    """The winner is the first trial, low at the rung; the second, which ends equal, was high."""
    curves = [[0.1, 0.9], [0.8, 0.9], [0.5, 0.5], [0.6, 0.5], [0.4, 0.3]]
    assert rungs(curves, [1])[0].drops_winner
    assert not rungs([curves[1], curves[0], *curves[2:]], [1])[0].drops_winner


def test_a_rung_outside_is_refused() -> None:
    with pytest.raises(ValueError, match="within the 3 epochs of a trial, got 4"):
        rungs(PARALLEL, [4])
