"""Attacks by hand on linear models, and the mask that fools FGSM and not PGD on the margin."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tests.attacked import Linear, Net, made_up, trained_net
from trainables.contract import Outputs
from trainables.data.splits import Split
from trainables.evaluation import sanity
from trainables.evaluation.attacks import (
    cross_entropy_each,
    dlr_each,
    fgsm,
    input_gradient,
    losses_for,
    margin_each,
    pgd,
    sign_noise,
    survives,
    targeted_margin_each,
    wrong_class,
)
from trainables.evaluation.threats import Threat
from trainables.evaluation.worst_case import Budget, stand

EPSILON = 0.1
WITHIN = Threat("linf", EPSILON)
SHORT = Budget(10, ("ce", "margin"), targets=1)


@pytest.fixture(scope="module")
def trained() -> Net:
    return trained_net()


TWO_PIXELS = torch.tensor([[1.0, 0.0], [0.0, 2.0]])  # z_0 = x_0, z_1 = 2 x_1
IMAGE = torch.tensor([0.8, 0.3]).view(1, 1, 1, 2)
LABEL = torch.tensor([0])


@pytest.mark.parametrize(
    ("logits", "label", "margin"),
    [
        ([3.0, 1.0, 2.0], 0, -1.0),
        ([3.0, 1.0, 2.0], 1, 2.0),
        ([1.0, 1.0, 0.0], 0, 0.0),
        ([-5.0, -7.0, -9.0], 2, 4.0),
    ],
)
def test_margin_by_hand(logits: list[float], label: int, margin: float) -> None:
    """The best wrong logit minus the right one; negative logits too."""
    assert margin_each(torch.tensor([logits]), torch.tensor([label])).tolist() == [margin]


def test_dlr_by_hand() -> None:
    """(z_best_wrong - z_right) / (z_1 - z_3): (5 - 9) / (9 - 2) and, misread, (9 - 5) / (9 - 2)."""
    logits = torch.tensor([[9.0, 5.0, 2.0, 1.0]])
    assert dlr_each(logits, torch.tensor([0])).item() == pytest.approx(-4 / 7)
    assert dlr_each(logits, torch.tensor([1])).item() == pytest.approx(4 / 7)


def test_dlr_does_not_see_the_logits_scale_or_shift(trained: Net) -> None:
    """An identity of the loss; equal logits give 0, not NaN."""
    data = made_up(50, seed=8)
    logits = trained(data.images.float() / 255).logits.double()
    moved = dlr_each(1000 * logits + 7, data.labels)
    torch.testing.assert_close(moved, dlr_each(logits, data.labels))
    assert dlr_each(torch.zeros(1, 3), torch.tensor([2])).item() == 0


def test_dlr_needs_three_classes() -> None:
    with pytest.raises(ValueError, match="DLR must have at least 3 classes, got 2"):
        dlr_each(torch.zeros(1, 2), LABEL)
    assert list(losses_for(3)) == ["ce", "margin", "dlr"]
    assert list(losses_for(2)) == ["ce", "margin"]
    with pytest.raises(ValueError, match="at least 2 classes apart, got 1"):
        losses_for(1)


def test_targets_by_hand() -> None:
    """Wrong classes of [3, 1, 2] with label 2 are 0, then 1; their margins 3 - 2 and 1 - 2."""
    model = Linear(torch.eye(3))
    images, label = torch.tensor([3.0, 1.0, 2.0]).view(1, 1, 1, 3), torch.tensor([2])
    found = [wrong_class(model, images, label, place) for place in (0, 1)]
    assert [target.item() for target in found] == [0, 1]
    logits = model(images).logits
    assert [targeted_margin_each(logits, label, target).item() for target in found] == [1, -1]


def test_targeted_steps_go_to_their_class() -> None:
    """Of two wrong classes with opposite slopes each is reached by its own corner, and by that alone."""
    model = Linear(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))  # class 0 says nothing
    images = torch.full((1, 1, 1, 2), 0.5)
    for target, corner in ((1, [0.6, 0.5]), (2, [0.5, 0.6])):
        aimed = torch.tensor([target])
        found = pgd(model, images, LABEL, WITHIN, None, targets=aimed, stop_when_fooled=False)
        assert found.flatten().tolist() == pytest.approx(corner)


def test_a_fooled_image_is_left_alone() -> None:
    """The first step of 0.1 fools: PGD stops there, and goes on to the corner for another network."""
    found = [
        pgd(
            Linear(TWO_PIXELS), IMAGE, LABEL, Threat("linf", 0.2), None, steps=5, stop_when_fooled=s
        )
        for s in (True, False)
    ]
    assert found[0].flatten().tolist() == pytest.approx([0.7, 0.4])
    assert found[1].flatten().tolist() == pytest.approx([0.6, 0.5])


def test_a_gradient_that_is_not_a_number_moves_nothing() -> None:
    """sqrt at 0 inside the network: images stay images."""

    class Root(nn.Module):
        def forward(self, images: Tensor) -> Outputs:
            flat = images.flatten(1)
            return Outputs((flat - flat).abs().sqrt() * flat, flat)

    found = fgsm(Root(), IMAGE, LABEL, WITHIN)
    assert torch.equal(found, IMAGE)


def test_margin_gradient_by_hand() -> None:
    """margin = 2 x_1 - x_0: gradient (-1, 2)."""
    assert input_gradient(Linear(TWO_PIXELS), IMAGE, LABEL, margin_each).flatten().tolist() == [
        -1,
        2,
    ]


def test_cross_entropy_gradient_by_hand() -> None:
    """(p_0 - 1) * dz_0 + p_1 * dz_1 = p_1 * (-1, 2), with p_1 = 1 / (1 + exp(0.8 - 0.6))."""
    p = 1 / (1 + math.exp(0.2))
    found = input_gradient(Linear(TWO_PIXELS), IMAGE, LABEL, cross_entropy_each)
    assert found.flatten().tolist() == pytest.approx([-p, 2 * p], rel=1e-5)


def test_gradients_are_each_images_own() -> None:
    """A batch of five against one at a time: a sum over images, not a mean."""
    g = torch.Generator().manual_seed(1)
    model, images = Linear(torch.randn(3, 4, generator=g)), torch.rand(5, 1, 2, 2, generator=g)
    labels = torch.tensor([0, 1, 2, 0, 1])
    together = input_gradient(model, images, labels, cross_entropy_each)
    alone = [
        input_gradient(model, images[i : i + 1], labels[i : i + 1], cross_entropy_each)
        for i in range(5)
    ]
    torch.testing.assert_close(together, torch.cat(alone))


def test_fgsm_by_hand() -> None:
    """Signs (-1, 1) times 0.1: (0.7, 0.4); the prediction turns, since 0.7 < 0.8."""
    model = Linear(TWO_PIXELS)
    found = fgsm(model, IMAGE, LABEL, WITHIN)
    assert found.flatten().tolist() == pytest.approx([0.7, 0.4])
    assert survives(model, IMAGE, LABEL).tolist() == [True]
    assert survives(model, found, LABEL).tolist() == [False]


def test_fgsm_stays_an_image() -> None:
    assert fgsm(
        Linear(TWO_PIXELS), torch.tensor([0.05, 0.95]).view(1, 1, 1, 2), LABEL, WITHIN
    ).flatten().tolist() == [0, 1]


def test_pgd_on_a_linear_model_is_the_corner() -> None:
    """The margin of a linear model is largest at x + epsilon * sign(W_other - W_right), wherever it started."""
    draws = torch.Generator().manual_seed(0)
    found = pgd(Linear(TWO_PIXELS), IMAGE, LABEL, WITHIN, draws, stop_when_fooled=False)
    assert found.flatten().tolist() == pytest.approx([0.7, 0.4])


@pytest.mark.parametrize("epsilon", [0.0, 0.03, 0.3, 2.0])
@pytest.mark.parametrize(("norm", "order"), [("linf", torch.inf), ("l2", 2)])
def test_attacks_stay_within_epsilon_and_the_picture(
    trained: Net, norm: str, order: float, epsilon: float
) -> None:
    """The distance, by torch's own norm; noise and targeted steps too."""
    data, threat = made_up(40, seed=1), Threat(norm, epsilon)
    images, draws = data.images.float() / 255, torch.Generator().manual_seed(0)
    targets = (data.labels + 1) % 4
    for found in (
        sign_noise(threat, images, draws),
        fgsm(trained, images, data.labels, threat),
        pgd(trained, images, data.labels, threat, draws),
        pgd(trained, images, data.labels, threat, draws, targets=targets),
    ):
        away = torch.linalg.vector_norm((found - images).flatten(1), ord=order, dim=1)
        assert away.max() <= epsilon + 1e-5
        assert 0 <= found.min() <= found.max() <= 1


def test_pgd_is_at_least_as_strong_as_fgsm_on_the_margin(trained: Net) -> None:
    """The margin after ten steps against after one of the same size, where the net is not linear any more."""
    data = made_up(100, seed=2)
    images = data.images.float() / 255
    threat = Threat("linf", 0.2)
    by_step = fgsm(trained, images, data.labels, threat, margin_each)
    draws = torch.Generator().manual_seed(0)
    by_pgd = pgd(trained, images, data.labels, threat, draws, stop_when_fooled=False)
    with torch.no_grad():
        one, ten = (margin_each(trained(x).logits, data.labels) for x in (by_step, by_pgd))
        clean = margin_each(trained(images).logits, data.labels)
    assert (one > clean).all()
    assert (ten > one).float().mean() > 0.7
    assert ten.mean() > one.mean() + 0.5


class Ridge(nn.Module):
    """Wrong only where the first pixel is within 0.025 of 0.5, so that attacks step over it."""

    def forward(self, images: Tensor) -> Outputs:
        wrong = 0.5 - 20 * (images[:, 0, 0, :1] - 0.5).abs()
        return Outputs(torch.cat([torch.zeros_like(wrong), wrong], -1), wrong)


def test_a_clean_mistake_that_an_attack_puts_right_is_a_mistake() -> None:
    """All 50 images are misread at 0.51; most are read right after a step of 0.3."""
    images = torch.full((50, 1, 1, 2), 130, dtype=torch.uint8)
    data = Split(images, torch.zeros(50, dtype=torch.long))
    pixels, draws = images.float() / 255, torch.Generator().manual_seed(0)
    assert survives(
        Ridge(), fgsm(Ridge(), pixels, data.labels, Threat("linf", 0.3)), data.labels
    ).all()
    assert survives(
        Ridge(), pgd(Ridge(), pixels, data.labels, Threat("linf", 0.3), draws), data.labels
    ).any()
    found = stand(Ridge(), data, Threat("linf", 0.3), SHORT, 2).metrics()
    assert found["fgsm"] == found["pgd_margin"] == found["worst"] == 0


@pytest.mark.parametrize(
    ("weight", "share"), [([[1.0, 0.0], [2.0, 0.0]], 0), ([[1.0, 1.0]] * 2, 1)]
)
def test_a_zero_gradient_is_one_in_every_pixel(weight: list[list[float]], share: float) -> None:
    """The first model ignores one pixel of two, the second tells no class from another."""
    images = torch.full((4, 1, 1, 2), 100, dtype=torch.uint8)
    data = Split(images, torch.zeros(4, dtype=torch.long))
    assert sanity.gradients(Linear(torch.tensor(weight)), data)["zero_gradients"] == share


def test_pgd_starts_where_its_seed_says(trained: Net) -> None:
    data = made_up(20, seed=7)
    images = data.images.float() / 255
    first, again, other = (
        pgd(trained, images, data.labels, WITHIN, torch.Generator().manual_seed(s), steps=0)
        for s in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_nan_logits_do_not_survive() -> None:
    """argmax of NaN is a class too, and may be the right one."""
    model = Linear(torch.full((2, 2), math.nan))
    for label in (0, 1):
        assert survives(model, IMAGE, torch.tensor([label])).tolist() == [False]


def test_attacks_leave_weights_and_gradients_alone(trained: Net) -> None:
    before = [p.clone() for p in trained.parameters()]
    for parameter in trained.parameters():
        parameter.grad = None
    data = made_up(20)
    pgd(trained, data.images.float() / 255, data.labels, WITHIN, torch.Generator())
    assert all(torch.equal(a, b) for a, b in zip(before, trained.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in trained.parameters())
