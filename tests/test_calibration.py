"""The best temperature against a grid, and against logits whose temperature is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainables.evaluation.calibration import HIGHEST, LOWEST, best_temperature, nll
from trainables.seeding import generator


def sample(factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """20,000 labels drawn from softmax(z), and factor * z: the best temperature is `factor`."""
    g = generator(0, "calibration")
    logits = 2 * torch.randn(20_000, 5, generator=g)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=g)[:, 0]
    return factor * logits, labels


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_a_known_factor_is_found(factor: float) -> None:
    """Labels come from softmax(z): 2 % covers their sampling; scaling the logits scales T exactly."""
    assert best_temperature(*sample(factor)) == pytest.approx(factor, rel=0.02)
    assert best_temperature(*sample(factor)) == pytest.approx(
        factor * best_temperature(*sample()), rel=1e-4
    )


def test_no_temperature_of_a_grid_does_better() -> None:
    """Against 400 temperatures from 0.01 to 100."""
    logits, labels = sample(2.5)
    grid = torch.logspace(-2, 2, 400)
    losses = torch.tensor([nll(logits, labels, float(t)) for t in grid])
    best = best_temperature(logits, labels)
    assert nll(logits.double(), labels, best) <= float(losses.min()) + 1e-6
    assert best == pytest.approx(float(grid[losses.argmin()]), rel=0.03)


def test_edges() -> None:
    """All right and sure: the lowest; all wrong and sure: the highest; nothing to tell: 1; no numbers: refused."""
    labels = torch.arange(4)
    sure = 50 * torch.eye(4)
    assert best_temperature(-sure, labels) == pytest.approx(HIGHEST, rel=0.01)
    assert LOWEST <= best_temperature(0.01 * sure, labels) < 0.2
    assert best_temperature(torch.zeros(4, 4), labels) == 1.0
    for logits, some in ((torch.full((4, 4), torch.nan), labels), (sure[:0], labels[:0])):
        with pytest.raises(ValueError, match="logits must be finite and of at least one sample"):
            best_temperature(logits, some)
