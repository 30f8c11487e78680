"""kd and vanilla against worked values and identities."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tests.world import world
from trainables.methods import load
from trainables.methods.kd import soft_term
from trainables.objective import terms

S = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
T = torch.tensor([[0.0, 2.0]], dtype=torch.float64)


def test_softened_kl_by_hand() -> None:
    """T = 2: p = softmax(0, 1) = (a, 1 - a) with a = 1 / (1 + e), q = softmax(0.5, 0); 4 * KL(p || q)."""
    a = 1 / (1 + math.e)
    q = math.exp(0.5) / (1 + math.exp(0.5))
    by_hand = 4 * (a * math.log(a / q) + (1 - a) * math.log((1 - a) / (1 - q)))
    assert soft_term(S, T, 2.0, "cse").item() == pytest.approx(by_hand, rel=1e-12)


def test_mse_by_hand() -> None:
    """T = 2, two classes: both differences are d = q - a, so T^2 / 2 * mean = 2 d^2."""
    d = math.exp(0.5) / (1 + math.exp(0.5)) - 1 / (1 + math.e)
    assert soft_term(S, T, 2.0, "mse").item() == pytest.approx(2 * d * d, rel=1e-12)
    assert soft_term(S, T, 2.0, "mse_logit").item() == pytest.approx((1 + 4) / 2)


def test_kl_and_soft_cross_entropy_share_their_gradient() -> None:
    g = torch.Generator().manual_seed(0)
    s, t = (torch.randn(6, 5, generator=g, dtype=torch.float64) for _ in range(2))
    s.requires_grad_()
    temperature = 3.0
    (kl,) = torch.autograd.grad(soft_term(s, t, temperature, "cse"), s)
    soft = (
        -((t / temperature).softmax(-1) * (s / temperature).log_softmax(-1)).sum(-1).mean()
        * temperature**2
    )
    torch.testing.assert_close(kl, torch.autograd.grad(soft, s)[0])


def test_terms_add_up_to_the_convex_form() -> None:
    """Against torch's own kl_div (batchmean) and cross_entropy."""
    made = world(load("kd"), temperature=5.0, alpha=0.3)
    found, _ = terms(made.method, made.values, made.student, made.target, made.batch)
    s, t = made.student.logits, made.target.logits
    kl = F.kl_div(
        (s / 5).log_softmax(-1), (t / 5).log_softmax(-1), log_target=True, reduction="batchmean"
    )
    torch.testing.assert_close(found["kd"], 0.3 * 25 * kl)
    torch.testing.assert_close(found["ce"], 0.7 * F.cross_entropy(s, made.batch.labels))


def test_lambda_replaces_one_minus_alpha() -> None:
    made = world(load("kd"), alpha=0.3, lambda_=2.0)
    found, _ = terms(made.method, made.values, made.student, made.target, made.batch)
    torch.testing.assert_close(
        found["ce"], 2 * F.cross_entropy(made.student.logits, made.batch.labels)
    )


def test_label_smoothing_against_torch() -> None:
    made = world(load("vanilla"))
    batch = made.batch._replace(smoothing=torch.tensor(0.2))
    found, _ = terms(made.method, made.values, made.student, made.target, batch)
    expected = F.cross_entropy(made.student.logits, batch.labels, label_smoothing=0.2)
    torch.testing.assert_close(found["ce"], expected)


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode must be one of cse, mse, mse_logit, got 'kl'"):
        soft_term(S, T, 2.0, "kl")
