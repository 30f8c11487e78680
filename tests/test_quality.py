"""Calibration and agreement by hand, against torchmetrics and scikit-learn, and at their edges."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torch import Tensor

from trainables.evaluation.quality import (
    adaptive_ece,
    agreement,
    brier,
    calibration,
    ece,
    nll,
    wilson,
)


def random_logits(n: int = 500, classes: int = 5, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(n, classes, generator=g)
    return logits, torch.randint(0, classes, (n,), generator=g)


def says(*confidences: float) -> Tensor:
    """Logits (N, 2) whose first class has these probabilities."""
    p = torch.tensor(confidences, dtype=torch.float64)
    return torch.stack([p.log(), (1 - p).log()], -1)


@pytest.mark.parametrize("scale", [0.3, 2.0, 10.0])
def test_ece_against_torchmetrics(scale: float) -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    logits, labels = random_logits(scale=scale)
    expected = multiclass_calibration_error(logits.double().softmax(-1), labels, 5, n_bins=15)
    assert ece(logits, labels) == pytest.approx(expected.item(), abs=1e-6)


def test_nll_and_brier_against_scikit_learn() -> None:
    logits, labels = random_logits()
    p = logits.double().softmax(-1).numpy()
    assert nll(logits, labels) == pytest.approx(log_loss(labels, p))
    expected = brier_score_loss(labels, p, labels=list(range(5)), scale_by_half=False)
    assert brier(logits, labels) == pytest.approx(expected)


def test_ece_by_hand() -> None:
    """Two images at .9, one right: |.9 - .5| * 2/4; two at .7, both right: |.7 - 1| * 2/4."""
    logits, labels = says(0.9, 0.9, 0.7, 0.7), torch.tensor([0, 1, 0, 0])
    assert ece(logits, labels) == pytest.approx(0.2 + 0.15)


def test_adaptive_ece_by_hand() -> None:
    """Two bins of two by confidence: (.6, .7) with one right, (.8, .95) with both."""
    logits, labels = says(0.8, 0.6, 0.95, 0.7), torch.tensor([0, 1, 0, 0])
    expected = abs(0.65 - 0.5) / 2 + abs(0.875 - 1) / 2
    assert adaptive_ece(logits, labels, bins=2) == pytest.approx(expected)


def test_fewer_images_than_bins() -> None:
    """A bin an image: the mean of |confidence - right|."""
    logits, labels = says(0.8, 0.6), torch.tensor([0, 1])
    assert adaptive_ece(logits, labels) == pytest.approx((0.2 + 0.6) / 2)


def test_the_right_temperature_scales_back() -> None:
    """Logits three times too large, divided by three, are the logits; the plain numbers stay beside them."""
    logits, labels = random_logits()
    plain, found = calibration(logits, labels), calibration(3 * logits, labels, temperature=3.0)
    for name, value in plain.items():
        assert found[f"{name}_scaled"] == pytest.approx(value)
    assert found["nll"] > plain["nll"]
    assert found["temperature"] == 3


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_temperatures_that_are_none(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be above 0 and finite"):
        calibration(*random_logits(), temperature=temperature)


@pytest.mark.parametrize("measure", [nll, brier, ece, adaptive_ece])
def test_logits_that_are_not_numbers_show(measure: object) -> None:
    logits, labels = random_logits()
    logits[3] = math.nan
    assert math.isnan(measure(logits, labels))  # type: ignore[operator]


def test_agreement_by_hand() -> None:
    """Labels 0; the teacher misses two of four, of which the student repairs one; of the other two it loses one."""
    teacher = torch.tensor([[2.0, 0], [2, 0], [0, 2], [0, 2]])
    student = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])
    found = agreement(student, teacher, torch.zeros(4, dtype=torch.long))
    assert (found["teacher_wrong"], found["repaired"], found["eta_s"]) == (2, 1, 0.5)
    assert (found["teacher_right"], found["lost"], found["eta_f"]) == (2, 1, 0.5)
    assert found["top1"] == 0.5


def test_eta_is_over_the_whole_split() -> None:
    """One mistake in one batch, repaired, three in another, none repaired: 1/4, not the mean of 1 and 0."""
    labels = torch.zeros(8, dtype=torch.long)
    wrong = torch.tensor([1, 0, 0, 0, 1, 1, 1, 0]).bool()
    teacher = torch.where(wrong[:, None], torch.tensor([0.0, 1]), torch.tensor([1.0, 0]))
    student = teacher.clone()
    student[0] = torch.tensor([1.0, 0])
    assert agreement(student, teacher, labels)["eta_s"] == 0.25


def test_a_student_that_is_its_teacher() -> None:
    """KL 0, agreement 1, nothing repaired and nothing lost; no teacher's mistakes, no share of them."""
    logits, labels = random_logits()
    found = agreement(logits, logits, labels)
    assert (found["top1"], found["kl"], found["repaired"], found["lost"]) == (1, 0, 0, 0)
    perfect = torch.nn.functional.one_hot(labels).float()
    assert "eta_s" not in agreement(logits, perfect, labels)
    assert "eta_f" not in agreement(logits, perfect, (labels + 1) % 5)


def test_kl_against_torch() -> None:
    """KL(teacher || student), torch's kl_div with the arguments in its own order."""
    teacher, labels = random_logits()
    student = teacher.flip(0)
    told, said = teacher.double().log_softmax(-1), student.double().log_softmax(-1)
    expected = torch.nn.functional.kl_div(said, told, log_target=True, reduction="batchmean")
    assert agreement(student, teacher, labels)["kl"] == pytest.approx(expected.item())


def test_wilson_by_hand() -> None:
    """500 of 1000: 50 % and 3.1 points, as the normal has it too; never outside [0, 1]; nothing known of nothing."""
    low, high = wilson(500, 1000)
    assert (low, high) == (pytest.approx(0.469, abs=1e-3), pytest.approx(0.531, abs=1e-3))
    assert wilson(0, 10) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert wilson(0, 0) == (0.0, 1.0)
