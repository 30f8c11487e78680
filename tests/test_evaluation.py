"""The whole suite on small networks: a masked student found out, flags by hand, tiers, threats, workers."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.attacked import Linear, made_up, masked, trained_net
from trainables.contract import Outputs
from trainables.data.splits import Split
from trainables.evaluation import official, sanity
from trainables.evaluation.suite import Beside, evaluate
from trainables.evaluation.threats import Threat, linf, preset, threats_for
from trainables.evaluation.worst_case import Budget, only_transferred, stand

THREAT = Threat("linf", 0.1)
IN = "robust/linf_0.1"
SHORT = Budget(10, ("ce", "margin"), ("dlr",), targets=2, restarts=2)


def test_a_masked_student_is_flagged_and_never_praised() -> None:
    """Logits times 1000, the same answers: FGSM says far more robust, the worst case says the same as before."""
    net, data = trained_net(), made_up(120, seed=3)
    bare = evaluate(net, data, "quick", [THREAT])
    mask = evaluate(masked(net, 1000), data, "quick", [THREAT])
    assert mask[f"{IN}/fgsm"] > bare[f"{IN}/fgsm"] + 0.3
    assert mask[f"{IN}/pgd_ce"] > bare[f"{IN}/pgd_ce"] + 0.3
    assert mask[f"{IN}/worst"] == pytest.approx(bare[f"{IN}/worst"], abs=0.03)
    assert mask["flags/zero_gradients"] == mask["flags/masked_cross_entropy"] == 1
    assert sanity.masked(mask)
    assert sanity.objective(mask, THREAT) == 0
    assert not sanity.masked(bare)
    assert sanity.objective(bare, THREAT) == bare[f"{IN}/worst"] > 0


def test_flags_in_words() -> None:
    """A sentence for each that is raised; nothing measured raises nothing, and is worth NaN."""
    found = {"flags/zero_gradients": 1.0, "flags/noise_costs": 1.0, "flags/curve_rises": 0.0}
    assert sanity.flagged(found) == [
        sanity.MASKING["zero_gradients"],
        sanity.CAVEATS["noise_costs"],
    ]
    assert sanity.flagged({}) == []
    assert not sanity.masked({"flags/noise_costs": 1.0})
    assert math.isnan(sanity.objective({}, THREAT))


FAIR = {
    **{"clean": 0.9, "noise": 0.88, "fgsm": 0.5, "pgd_ce": 0.4, "pgd_margin": 0.41},
    **{"pgd_dlr": 0.4, "only_noise": 0.0, "worst": 0.39},
}


@pytest.mark.parametrize(
    ("change", "raised"),
    [
        ({}, set()),
        ({"pgd_ce": 0.52}, {"weaker_pgd", "masked_cross_entropy"}),
        ({"pgd_margin": 0.37}, {"masked_cross_entropy"}),
        ({"pgd_dlr": 0.37}, {"masked_cross_entropy"}),
        ({"only_noise": 0.02}, {"stronger_others"}),
        ({"only_transfer_teacher": 0.02}, {"stronger_others"}),
        ({"noise": 0.79}, {"noise_costs"}),
        ({"noise": math.nan}, set()),
    ],
)
def test_flags_of_a_threat_by_hand(change: dict[str, float], raised: set[str]) -> None:
    found = sanity.threat_flags({**FAIR, **change})
    assert {name for name, up in found.items() if up} == raised


@pytest.mark.parametrize(
    ("heights", "shares", "raised"),
    [
        ([9, 8, 7, 6, 5, 4, 3, 2, 0], (0.0, 0.0), set()),
        ([9, 8, 7, 6, 5, 6, 3, 2, 0], (0.009, 0.0), {"curve_rises"}),
        ([9, 8, 7, 6, 5, 4, 3, 2, 1], (0.0, 0.01), {"curve_stays", "zero_gradients"}),
    ],
)
def test_flags_of_the_curve_by_hand(
    heights: list[int], shares: tuple[float, float], raised: set[str]
) -> None:
    radii = {threat.name: h / 10 for threat, h in zip(sanity.CURVE, heights, strict=True)}
    zero = dict(zip(("zero_gradients", "zero_gradients_margin"), shares, strict=True))
    found = sanity.overall_flags(zero, radii)
    assert {name for name, up in found.items() if up} == raised


def test_flags_of_the_outputs_by_hand() -> None:
    """Probabilities, another answer the second time, and a network no better than chance."""
    labels = torch.tensor([0, 1, 2, 0])
    good = 3 * torch.nn.functional.one_hot(labels, 3).float()
    assert not any(sanity.model_flags(good, good, labels).values())
    assert sanity.model_flags(good.softmax(-1), good.softmax(-1), labels)["softmax_outputs"]
    assert sanity.model_flags(good, good[:2] + 0.01, labels)["random_logits"]
    assert sanity.model_flags(good, good, (labels + 1) % 3)["near_chance"]


class Staircase(nn.Module):
    """A trained net behind 8 grey levels: its gradient is 0 everywhere, though it is easily fooled."""

    def forward(self, images: Tensor) -> Outputs:
        return trained_net()(images.detach().mul(7).round() / 7 + 0 * images)


def test_a_network_without_gradients_is_flagged() -> None:
    """Shattered gradients (Athalye 2018): the worst case is high, so only the flags stand between it and praise."""
    found = evaluate(Staircase(), made_up(80, seed=4), "quick", [THREAT])
    assert found["robust/zero_gradients_margin"] == 1
    assert found["flags/zero_gradients"] == found["flags/curve_stays"] == 1
    assert sanity.objective(found, THREAT) == 0


def test_another_networks_examples_find_what_its_own_gradient_does_not() -> None:
    """The net under the staircase fools it; a network that knows nothing does not."""
    data, net = made_up(80, seed=4), trained_net()
    result = stand(Staircase(), data, THREAT, SHORT, 4)
    constant = Linear(torch.zeros(4, 64))
    shares = [
        only_transferred(Staircase(), other, data, result.worst, THREAT, 10)
        for other in (net, constant)
    ]
    assert shares[0] > 0.2
    assert shares[1] <= 0.02


def test_worst_is_every_attack_on_every_image() -> None:
    """Image by image no better than any single attack, than the smaller radius, than the clean image."""
    net, data = trained_net(), made_up(120, seed=5)
    small = stand(net, data, Threat("linf", 0.05), SHORT, 4)
    large = stand(net, data, THREAT, SHORT, 4, before=small.worst)
    for stands in (*large.alone.values(), large.clean, small.worst, large.gradients):
        assert (large.worst <= stands).all()
    assert 0 < large.worst.sum() < small.worst.sum()
    metrics = large.metrics()
    assert metrics["worst_low"] < metrics["worst"] < metrics["worst_high"]
    assert metrics["n"] == 120


def test_a_linear_models_worst_case_is_known() -> None:
    """Two classes: an image falls where epsilon * |w|_1 exceeds its margin (no pixel near its border)."""
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 16, generator=g)
    images = torch.randint(60, 196, (200, 1, 4, 4), generator=g, dtype=torch.uint8)
    model, flat = Linear(weight), images.float().flatten(1) / 255
    labels = (flat @ weight.T).argmax(-1)
    margin = (flat @ (weight[0] - weight[1])).abs()
    expected = margin > 0.05 * (weight[0] - weight[1]).abs().sum()
    result = stand(model, Split(images, labels), Threat("linf", 0.05), SHORT, 2)
    assert torch.equal(result.worst, expected)
    assert "pgd_dlr" not in result.metrics()


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_nothing(workers: int) -> None:
    """Against one; three batches, each with its own draws; torch's own stream is left alone."""
    data, before = made_up(600, seed=6), torch.get_rng_state()
    alone = stand(trained_net(), data, THREAT, SHORT, 4).metrics()
    assert stand(trained_net(), data, THREAT, SHORT, 4, workers=workers).metrics() == alone
    assert torch.equal(torch.get_rng_state(), before)


def test_standard_measures_what_its_tier_says() -> None:
    """Every section's names, progress that only grows to 1, the network left in its mode with its weights trainable."""
    net, data, told = trained_net(), made_up(60, seed=7), []
    net.train()
    teacher = trained_net(1)
    beside = Beside(
        teacher=teacher, train=made_up(), temperature=1.5, elsewhere={"digits": made_up(30, 8)}
    )
    threats = (THREAT, Threat("l2", 0.5))
    found = evaluate(net, data, "standard", threats, beside, tell=lambda *a: told.append(a))
    wanted = {
        *("clean/accuracy", "calibration/ece", "calibration/ece_scaled", "agreement/top1"),
        *("agreement_train/eta_f", "corruption/lite/mean", "corruption/lite/contrast"),
        *("ood/digits/msp_auroc", "robust/max_logit", "robust/curve/linf_8_255", "flags/count"),
        *(f"{IN}/worst", f"{IN}/only_transfer_teacher", "robust/l2_0.5/worst"),
    }
    assert wanted <= set(found)
    assert all(math.isfinite(value) for value in found.values())
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert (shares[0], told[-1]) == (0, ("done", 1.0))
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    net.eval()


def test_logits_and_outputs_are_judged_alike() -> None:
    """A network that gives bare logits, and the teacher's logits in place of the teacher."""
    net, data = trained_net(), made_up(60, seed=8)
    with torch.no_grad():
        logits = net(data.images.float() / 255).logits
    bare = nn.Sequential(net.body)
    one = evaluate(net, data, "quick", [THREAT], Beside(teacher=net))
    other = evaluate(bare, data, "quick", [THREAT], Beside(teacher_logits=logits))
    assert one == other


def test_published_corruptions_take_the_place_of_the_lite_set(tmp_path: Path) -> None:
    """A network that reads the grey level against files that are filled with theirs: right 15 times of 16."""
    levels = np.linspace(8, 248, 15).astype(np.uint8)
    for place, name in enumerate(official.MNIST):
        (tmp_path / name).mkdir()
        images = np.full((4, 28, 28, 1), levels[place])
        np.save(tmp_path / name / "test_images.npy", images)
        np.save(tmp_path / name / "test_labels.npy", np.full(4, 0 if place < 5 else 1))
    weight = torch.zeros(10, 784)
    weight[1] = 1 / 784  # class 1 above 0, class 0 at a constant
    net = Biased(weight, float(levels[4]) / 255 + 0.01)
    data = Split(torch.zeros(5, 1, 28, 28, dtype=torch.uint8), torch.zeros(5).long())
    found = evaluate(net, data, "standard", [], Beside(corrupted=tmp_path))
    assert found["corruption/mnist_c/mean"] == 1
    assert not any(name.startswith("corruption/lite") for name in found)


class Biased(nn.Module):
    """Class 1 where the mean pixel is above `threshold`, else class 0."""

    def __init__(self, weight: Tensor, threshold: float) -> None:
        super().__init__()
        self.weight, self.threshold = weight, threshold

    def forward(self, images: Tensor) -> Tensor:
        logits = images.flatten(1) @ self.weight.T - 1
        logits[:, 1] += 1
        logits[:, 0] += 1 + self.threshold
        return logits


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tier": "deep"}, "tier must be one of quick, standard, full, got 'deep'"),
        ({"against": [Threat("l1", 1.0)]}, "norm must be one of linf, l2, got 'l1'"),
        ({"against": linf(-0.1)}, "epsilon must be at least 0 and finite, got -0.1"),
        ({"data": made_up(0)}, "at least one image, got 0"),
        ({"model": Linear(torch.ones(1, 64))}, "at least 2 classes apart, got 1"),
        (
            {"beside": Beside(teacher_logits=torch.zeros(3, 4))},
            r"the teacher's logits must be \(20, 4\), got \(3, 4\)",
        ),
        ({"tier": "standard", "beside": Beside(corrupted=Path("nowhere"))}, "must hold all 15"),
    ],
)
def test_what_cannot_be_done_is_refused(change: dict[str, Any], message: str) -> None:
    asked = {"model": trained_net(), "data": made_up(20), "tier": "quick", "against": [THREAT]}
    with pytest.raises(ValueError, match=message) as caught:
        evaluate(**{**asked, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(
    importlib.util.find_spec("pyautoattack") is not None, reason="AutoAttack is installed"
)
def test_full_says_what_it_lacks() -> None:
    with pytest.raises(ValueError, match=r"must have AutoAttack, got none.*kdtune\[autoattack\]"):
        evaluate(trained_net(), made_up(20), "full", [THREAT])


def test_autoattack_finds_little_that_we_do_not() -> None:
    """The full tier, with the extra, on 40 images: none rises again, at most two more fall."""
    pytest.importorskip("pyautoattack")
    before = torch.get_rng_state()
    found = evaluate(trained_net(), made_up(40, seed=9), "full", [THREAT])
    ours, theirs = found[f"{IN}/worst"], found[f"{IN}/aa"]
    assert 0 <= ours - theirs <= 2 / 40
    assert theirs > 0
    assert {f"{IN}/pgd_dlr", f"{IN}/pgd_margin"} <= set(found)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("threat", "name"),
    [
        (Threat("linf", 8 / 255), "linf_8_255"),
        (Threat("linf", 0.1), "linf_0.1"),
        (Threat("linf", 0.2), "linf_0.2"),
        (Threat("linf", 0.0), "linf_0"),
        (Threat("l2", 0.5), "l2_0.5"),
    ],
)
def test_names_of_threats(threat: Threat, name: str) -> None:
    """51/255 is 0.2, and is called so."""
    assert threat.name == name


def test_published_radii_in_pixels() -> None:
    """0.05 where images lie in [-1, 1] is 0.025 in [0, 1]; MNIST's was in pixels already."""
    assert preset("cckd", "cifar10") == Threat("linf", 0.025)
    assert preset("cckd", "mnist") == Threat("linf", 0.15)
    with pytest.raises(ValueError, match="preset must be one of cckd, got 'rkd'"):
        preset("rkd", "mnist")
    with pytest.raises(ValueError, match=r"preset cckd must be for one of .* got 'digits'"):
        preset("cckd", "digits")


def test_threats_of_datasets() -> None:
    """Those that the tables are compared at; another dataset goes by its channels."""
    assert Threat("linf", 8 / 255) in threats_for("cifar100", 3)
    assert Threat("l2", 0.5) in threats_for("my_photos", 3)
    assert threats_for("fashion_mnist", 1) == threats_for("my_scans", 1)
    assert Threat("linf", 0.3) in threats_for("mnist", 1)
