"""Telling datasets apart by confidence, against scikit-learn's curves."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from trainables.evaluation.ood import auroc, detection, fpr95, scores


@pytest.mark.parametrize("levels", [5, 1000])
def test_auroc_and_fpr95_against_scikit_learn(levels: int) -> None:
    """With many ties and with few."""
    g = torch.Generator().manual_seed(0)
    own = (torch.randn(300, generator=g) * levels / 5).round()
    other = ((torch.randn(200, generator=g) - 1) * levels / 5).round()
    truth, score = [1] * 300 + [0] * 200, torch.cat([own, other])
    assert auroc(own, other) == pytest.approx(roc_auc_score(truth, score))
    false, true, _ = roc_curve(truth, score, drop_intermediate=False)
    assert fpr95(own, other) == pytest.approx(false[true >= 0.95][0])


def test_scores_by_hand() -> None:
    """softmax of (ln 3, 0) is (3/4, 1/4); logsumexp is ln 4."""
    found = scores(torch.tensor([[math.log(3), 0.0]]))
    assert found["msp"].item() == pytest.approx(0.75)
    assert found["energy"].item() == pytest.approx(math.log(4))


def test_energy_sees_what_softmax_cannot() -> None:
    """The same logits but for a constant: MSP is blind (1/2), energy tells all apart."""
    own = torch.randn(50, 3, generator=torch.Generator().manual_seed(1)).double()
    found = detection(own + 20, own)
    assert found["msp_auroc"] == pytest.approx(0.5, abs=1e-6)
    assert (found["energy_auroc"], found["energy_fpr95"], found["n"]) == (1, 0, 50)


@pytest.mark.parametrize(("own", "other"), [([], [1.0]), ([1.0], []), ([math.nan], [1.0])])
def test_nothing_to_compare(own: list[float], other: list[float]) -> None:
    sides = torch.tensor(own), torch.tensor(other)
    assert math.isnan(auroc(*sides))
    assert math.isnan(fpr95(*sides))
