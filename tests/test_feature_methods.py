"""The methods that compare feature maps: values by hand, and the published computations written out independently."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.world import Head, World, outputs, world
from trainables.adapters import ConvReg, FrozenHead
from trainables.contract import Batch, Context, Outputs
from trainables.losses import matched
from trainables.methods import (
    ab,
    at,
    at_grad,
    fitnet,
    fsp,
    ft,
    load,
    margin_relu,
    nst,
    reviewkd,
    simkd,
    srrl,
    vid,
)
from trainables.objective import target_of, terms

OWN = {
    "fitnet": "hint",
    "at": "attention",
    "at_grad": "gradient",
    "nst": "nst",
    "fsp": "fsp",
    "vid": "vid",
    "ft": "factors",
    "margin_relu": "margin_relu",
    "reviewkd": "review",
    "simkd": "projection",
    "srrl": "statistics",
}


def maps(*rows: list[float]) -> Tensor:
    """One sample of one-row maps, a channel each: (1, channels, 1, width)."""
    return torch.tensor(rows, dtype=torch.float64)[None, :, None, :]


def normal(*shape: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def main_terms(made: World) -> dict[str, Tensor]:
    return terms(made.method, made.values, made.student, made.target, made.batch, made.adapter)[0]


def first_terms(made: World) -> dict[str, Tensor]:
    phase = made.method.first_phase
    assert phase is not None
    return terms(phase, made.values, made.student, made.target, made.batch, made.adapter)[0]


def stages(made: World) -> list[tuple[Tensor, Tensor]]:
    """The world's stage maps after activation, all of equal size."""
    teacher = [f.double() for f in made.context.teacher.features[1:]]
    return list(zip(made.student.features[1:], teacher, strict=True))


# what all of them share


@pytest.mark.parametrize("name", sorted(OWN))
def test_beta_scales_the_own_term_and_alpha_adds_plain_kd(name: str) -> None:
    """Against torch's kl_div and cross_entropy."""
    joint = {"stages": "joint"} if name in ("fitnet", "fsp") else {}
    one, two = (world(load(name), beta=b, lambda_=0.5, alpha=0.7, **joint) for b in (1.0, 3.0))
    found, tripled = main_terms(one), main_terms(two)
    torch.testing.assert_close(tripled[OWN[name]], 3 * found[OWN[name]])
    logits = one.student.logits
    if name == "simkd":
        logits = one.adapter(one.student, one.target, one.batch).logits  # type: ignore[misc]
    log_q = (logits / 4).log_softmax(-1)
    log_p = (one.target.logits / 4).log_softmax(-1)
    kl = F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    torch.testing.assert_close(found["kd"], 0.7 * 16 * kl)
    torch.testing.assert_close(found["ce"], 0.5 * F.cross_entropy(logits, one.batch.labels))


def test_published_weights() -> None:
    """METHODS in one line each: own weight, CE 1, no KD; simkd without CE."""
    published = {
        **{"fitnet": 100, "at": 1000, "at_grad": 1, "nst": 50, "fsp": 50, "vid": 1, "ab": 1},
        **{"ft": 200, "margin_relu": 1e-3, "reviewkd": 5, "simkd": 1, "srrl": 1},
    }
    for name, beta in published.items():
        values = {**world(load(name)).values}
        first = world(load(name), beta=0.0).values["beta"]
        assert float(values["beta"]) == pytest.approx(beta), name
        assert float(first) == 0.0
        wanted = (0.0 if name == "simkd" else 1.0, 0.0, 4.0)
        assert tuple(float(values[k]) for k in ("lambda", "alpha", "temperature")) == wanted, name


def test_unequal_depth_is_matched_from_the_end_and_the_larger_map_pooled() -> None:
    """2x2 pooled to 1x1 is the mean, here (1 + 2 + 3 + 4) / 4."""
    square = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2)
    small = torch.full((1, 3, 1, 1), 7.0)
    unmatched = torch.zeros(1, 1, 4, 4)
    ((s, t),) = matched([small], [unmatched, square])
    assert torch.equal(s, small)
    assert t.item() == 2.5
    ((s, t),) = matched([unmatched, square], [small])
    assert s.item() == 2.5
    assert torch.equal(t, small)


# fitnet


def test_fitnet_joint_against_mse_loss() -> None:
    """RepDistiller: 100 * MSELoss(ConvReg(f_s[2]), f_t[2])."""
    made = world(load("fitnet"), stages="joint")
    regressed = made.adapter.regress(made.student.features[2])  # type: ignore[union-attr, operator]
    wanted = 100 * F.mse_loss(regressed, made.context.teacher.features[2].double())
    torch.testing.assert_close(main_terms(made)["hint"], wanted)


def test_fitnet_two_stages_by_hand() -> None:
    """First 100 * mean((1 - 3)^2, (2 - 2)^2) = 200; then CE and KD alone."""
    made = world(load("fitnet"))
    assert set(main_terms(made)) == {"ce", "kd"}
    student = Outputs(
        made.student.logits,
        made.student.embedding,
        (maps([1, 2]),),
        adapted=fitnet.Hint(maps([1, 2])),
    )
    target = fitnet.Maps(made.target.logits, (maps([3, 2]),))
    assert fitnet.first_loss(student, target, made.batch)["hint"].item() == pytest.approx(200)


def test_fitnet_first_phase_trains_nothing_above_the_guided_layer() -> None:
    made = world(load("fitnet"))
    features = tuple(f.clone().requires_grad_() for f in made.student.features)
    made = made._replace(student=made.student._replace(features=features))
    total = sum(first_terms(made).values())
    found = torch.autograd.grad(total, features, allow_unused=True)  # type: ignore[type-var]
    assert [g is not None for g in found] == [False, False, True, False]


def test_fitnet_layer_is_clamped_to_what_exists() -> None:
    last, beyond = (world(load("fitnet"), stages="joint", layer=n) for n in (3, 9))
    torch.testing.assert_close(main_terms(last)["hint"], main_terms(beyond)["hint"])


@pytest.mark.parametrize("name", ["fitnet", "fsp", "ab"])
def test_share_of_the_first_phase(name: str) -> None:
    """30 of 30 + 240 epochs; none where everything is trained at once."""
    phase = load(name).first_phase
    assert phase is not None
    assert phase.share() == pytest.approx(1 / 9)
    assert phase.share(first_share=0.25) == 0.25
    if name != "ab":
        assert phase.share(stages="joint", first_share=0.25) == 0.0


@pytest.mark.parametrize(
    ("student", "teacher", "kernel"),
    [(8, 4, (3, 3)), (4, 8, (4, 4)), (4, 4, (1, 1)), (7, 5, (3, 3)), (3, 8, (3, 3))],
)
def test_conv_reg_fits_the_sizes(student: int, teacher: int, kernel: tuple[int, int]) -> None:
    """Half, double, equal, larger by two (valid 3x3), and the fallback that keeps the student's size."""
    made = ConvReg((2, 3, student, student), (2, 5, teacher, teacher))
    out = made(torch.rand(2, 3, student, student))
    size = student if (student, teacher) == (3, 8) else teacher
    assert out.shape == (2, 5, size, size)
    assert made.conv.kernel_size == kernel
    assert (out >= 0).all()


# at


def test_attention_by_hand() -> None:
    """F_s = (3, 4): Q = (9, 16), |Q| = sqrt(337). F_t = (1, 0): Qn = (1, 0). |gap|^2 = 2 - 2 * 9 / sqrt(337)."""
    energy = at.energy(maps([1, 0]), 2)
    squared = 2 - 18 / math.sqrt(337)
    mean = at.attention_gap(maps([3, 4]), energy, 2, "squared")
    norm = at.attention_gap(maps([3, 4]), energy, 2, "euclidean")
    assert mean.item() == pytest.approx(squared / 2, rel=1e-12)
    assert norm.item() == pytest.approx(math.sqrt(squared) / 2, rel=1e-12)


@pytest.mark.parametrize("p", [1, 2, 4])
def test_attention_against_the_published_computation(p: int) -> None:
    """normalize(mean_c F^p), mean of squares, summed over stages, times 1000."""
    made = world(load("at"), p=p)

    def look(f: Tensor) -> Tensor:
        return F.normalize(f.pow(p).mean(1).flatten(1))

    wanted = 1000 * sum(((look(s) - look(t)) ** 2).mean() for s, t in stages(made))
    torch.testing.assert_close(main_terms(made)["attention"], wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("ours", "theirs"), [(8, 4), (4, 8)])
def test_attention_pools_the_larger_feature_map_first(ours: int, theirs: int) -> None:
    """Pooling the attention instead gives another value."""
    made = world(load("at"))
    s, t = normal(6, 4, ours, ours).relu(), normal(6, 6, theirs, theirs, seed=1).relu()
    student, teacher = (
        made.student._replace(features=(s, s)),
        made.student._replace(features=(t, t)),
    )
    context = replace(made.context, student=student, teacher=teacher)
    target = target_of(made.method, teacher, at.prepare(context, iter(())), {"p": 2})

    def look(f: Tensor) -> Tensor:
        return F.normalize(F.adaptive_avg_pool2d(f, 4).pow(2).mean(1).flatten(1))

    found = at.loss(student, target, made.batch)["attention"]
    torch.testing.assert_close(found, 1000 * ((look(s) - look(t)) ** 2).mean())


def test_attention_weight_falls_to_nothing() -> None:
    still, falling = (world(load("at"), decay=d) for d in (False, True))
    half = falling._replace(batch=falling.batch._replace(progress=torch.tensor(0.75)))
    torch.testing.assert_close(main_terms(half)["attention"], main_terms(still)["attention"] / 4)


def test_a_dead_map_gives_a_bounded_gradient() -> None:
    dead = torch.zeros(2, 3, 4, 4, requires_grad=True)
    at.attention_gap(dead, at.energy(torch.rand(2, 3, 4, 4), 1), 1, "squared").backward()
    assert dead.grad is not None
    assert dead.grad.abs().max() < 1e7


# at_grad


def test_gradient_attention_by_hand() -> None:
    """|(3, 4) - 0| / 2 = 2.5 and |0 - 0| = 0: mean 1.25; no gradient from the equal pair."""
    made = world(load("at_grad"))
    ours = (
        torch.tensor([[3.0, 4.0], [1.0, 1.0]], dtype=torch.float64)
        .view(2, 1, 1, 2)
        .requires_grad_()
    )
    theirs = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64).view(2, 1, 1, 2)
    logits, labels = normal(2, 3), torch.tensor([0, 1])
    student = Outputs(logits, logits, input_gradient=ours)
    batch = made.batch._replace(labels=labels)
    found = at_grad.loss(student, at_grad.Sensitivity(logits, theirs), batch)["gradient"]
    assert found.item() == pytest.approx(1.25)
    (slope,) = torch.autograd.grad(found, ours)
    torch.testing.assert_close(slope.flatten(1), torch.tensor([[0.15, 0.2], [0.0, 0.0]]).double())


def test_gradient_attention_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="must carry input_gradient"):
        at_grad.target(Outputs(torch.zeros(1, 2), torch.zeros(1, 2)))


# nst


def test_selectivity_by_hand() -> None:
    """One channel each, s = (1, 0), t = (0.6, 0.8), s . t = 0.6, |s - t|^2 = 0.8 = sigma^2."""
    s, t = maps([2, 0]), maps([3, 4])
    wanted = {"linear": 2 - 1.2, "poly": 2 - 0.72, "gauss": 2 - 2 * math.exp(-0.5)}
    for kernel, value in wanted.items():
        assert nst.discrepancy(s, t, kernel).item() == pytest.approx(value, rel=1e-12), kernel


def test_selectivity_against_the_published_computation() -> None:
    """RepDistiller: every pair's product summed over positions and squared, means of the three kernels."""
    made = world(load("nst"))

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a[:, None] * b[:, :, None]).sum(-1).pow(2).mean()

    wanted = torch.zeros((), dtype=torch.float64)
    for s, t in stages(made):
        a, b = F.normalize(s.flatten(2), dim=2), F.normalize(t.flatten(2), dim=2)
        wanted = wanted + kernel(b, b) + kernel(a, a) - 2 * kernel(a, b)
    torch.testing.assert_close(main_terms(made)["nst"], 50 * wanted, rtol=1e-6, atol=0)


def test_linear_and_gauss_against_loops() -> None:
    s, t = normal(2, 3, 2, 2), normal(2, 4, 2, 2, seed=1)
    for kernel in ("linear", "gauss"):
        each = [_discrepancy(a.flatten(1), b.flatten(1), kernel) for a, b in zip(s, t, strict=True)]
        wanted = sum(each) / 2
        assert nst.discrepancy(s, t, kernel).item() == pytest.approx(wanted, rel=1e-9), kernel


def _discrepancy(s: Tensor, t: Tensor, kernel: str) -> float:
    s, t = (x / x.norm(dim=1, keepdim=True) for x in (s, t))
    spread = sum(float(((a - b) ** 2).sum()) for a in s for b in t) / (len(s) * len(t))

    def k(a: Tensor, b: Tensor) -> float:
        if kernel == "linear":
            return float(a @ b)
        return math.exp(-float(((a - b) ** 2).sum()) / (2 * spread))

    def mean(x: Tensor, y: Tensor) -> float:
        return sum(k(a, b) for a in x for b in y) / (len(x) * len(y))

    return mean(t, t) + mean(s, s) - 2 * mean(s, t)


@pytest.mark.parametrize("kernel", nst.KERNELS)
def test_selectivity_of_equal_maps_is_nothing(kernel: str) -> None:
    """Also when the channels come in another order."""
    s = normal(2, 4, 3, 3)
    assert nst.discrepancy(s, s.flip(1), kernel).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kernel", nst.KERNELS)
def test_selectivity_of_alike_channels_stays_finite(kernel: str) -> None:
    s = torch.ones(2, 4, 3, 3, requires_grad=True)
    value = nst.discrepancy(s, torch.ones(2, 5, 3, 3), kernel)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-5)
    assert s.grad is not None
    assert torch.isfinite(s.grad).all()


# fsp


def test_flow_by_hand() -> None:
    """(1, 2) . (3, 4) / 2 = 5.5 against (1, 0) . (1, 0) / 2 = 0.5: 5^2 = 25, times 50."""
    assert fsp.flow(maps([1, 2]), maps([3, 4])).item() == 5.5
    made = world(load("fsp"))
    student = Outputs(made.student.logits, made.student.embedding, (maps([1, 2]), maps([3, 4])))
    teacher = Outputs(made.student.logits, made.student.embedding, (maps([1, 0]), maps([1, 0])))
    found = fsp.first_loss(student, fsp.target(teacher), made.batch)["fsp"]
    assert found.item() == pytest.approx(1250)


def test_flow_against_the_published_computation() -> None:
    """RepDistiller: the larger map pooled, products of every two channels averaged over positions, mean squares."""
    made = world(load("fsp"), stages="joint")

    def flows(features: Any) -> list[Tensor]:
        found = []
        for low, high in pairwise(features):
            pooled = F.adaptive_avg_pool2d(low.double(), high.shape[-1])
            found.append((pooled[:, None] * high.double()[:, :, None]).mean((-2, -1)))
        return found

    both = zip(flows(made.student.features), flows(made.context.teacher.features), strict=True)
    wanted = 50 * sum(((s - t) ** 2).mean() for s, t in both)
    torch.testing.assert_close(main_terms(made)["fsp"], wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(first_terms(made)["fsp"], wanted, rtol=1e-6, atol=0)
    assert "fsp" not in main_terms(world(load("fsp")))


def test_fsp_refuses_unequal_channels() -> None:
    context = world(load("nst")).context
    message = fsp.refuse(context)
    assert message is not None
    assert "[4, 4, 8, 16]" in message
    assert "[6, 6, 12, 24]" in message
    assert fsp.refuse(world(load("fsp")).context) is None


# vid


def test_vid_by_hand() -> None:
    """mu = 1, value 3, variance 4: (4 / 4 + log 4) / 2."""
    found = vid.negative_log_likelihood(torch.tensor(1.0), torch.tensor(4.0), torch.tensor(3.0))
    assert found.item() == pytest.approx((1 + math.log(4)) / 2)


def test_vid_starts_at_variance_five_and_trains_it() -> None:
    made = world(load("vid"))
    assert made.adapter is not None
    for variance in made.adapter(made.student, made.target, made.batch).variances:
        torch.testing.assert_close(variance, torch.full_like(variance, 5.0), rtol=1e-6, atol=0)
    main_terms(made)["vid"].backward()
    for name, weight in made.adapter.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().max() > 0, name


def test_vid_against_the_published_computation() -> None:
    """Gaussian negative log likelihood without its constant; torch's gaussian_nll_loss is the oracle."""
    made = world(load("vid"))
    assert made.adapter is not None
    expected = made.adapter(made.student, made.target, made.batch)
    each = [
        F.gaussian_nll_loss(mean, t, variance.expand_as(t))
        for mean, variance, (_, t) in zip(
            expected.means, expected.variances, stages(made), strict=True
        )
    ]
    torch.testing.assert_close(main_terms(made)["vid"], torch.stack(each).sum())


# ab


def test_boundary_by_hand() -> None:
    """m = 1. (0.5, -1): 1.5^2. (-2, -1): 0. (0.5, 2): 0.5^2. (2, 1): 0. Sum 2.5."""
    s, t = torch.tensor([0.5, -2, 0.5, 2]), torch.tensor([-1.0, -1, 2, 1])
    assert ab.boundary(s, t, 1.0).item() == pytest.approx(2.5)


def test_boundary_against_the_published_computation() -> None:
    """RepDistiller's sums, layer weights 1/4, 1/2, 1, divided by B, times 3/1000."""
    made = world(load("ab"))
    assert made.adapter is not None
    total = 0.0
    for weight, s, t in zip(
        (0.25, 0.5, 1.0),
        made.adapter(made.student, made.target, made.batch).maps,
        made.target.maps,
        strict=True,
    ):
        for a, b in zip(s.flatten().tolist(), t.flatten().tolist(), strict=True):
            total += weight * ((a + 1) ** 2 if b <= 0 and a > -1 else 0.0)
            total += weight * ((a - 1) ** 2 if b > 0 and a <= 1 else 0.0)
    assert first_terms(made)["boundary"].item() == pytest.approx(total / 6 / 1000 * 3, rel=1e-9)
    assert set(main_terms(made)) == {"ce", "kd"}


def test_boundary_leaves_the_classifier_alone_and_equal_shapes_unconnected() -> None:
    made = world(load("ab"))
    logits = made.student.logits.clone().requires_grad_()
    made = made._replace(student=made.student._replace(logits=logits))
    (found,) = torch.autograd.grad(first_terms(made)["boundary"], logits, allow_unused=True)
    assert found is None
    same = replace(made.context, teacher=made.context.student)
    assert all(isinstance(c, nn.Identity) for c in ab.adapter(same).stages)


# ft


def test_factors_by_hand() -> None:
    """u_s = (1, 0), u_t = (0.6, 0.8). flat: (0.4 + 0.8) / 2. energy: (1, 0) against (0.36, 0.64) / sqrt(0.5392)."""
    s, t = maps([5, 0]), maps([3, 4])
    assert ft.factor_gap(s, t, "flat").item() == pytest.approx(0.6)
    norm = math.sqrt(0.36**2 + 0.64**2)
    wanted = (1 - 0.36 / norm + 0.64 / norm) / 2
    assert ft.factor_gap(s, t, "energy").item() == pytest.approx(wanted)


def test_factors_against_the_published_computation() -> None:
    """RepDistiller: normalize(mean_c u^2), mean absolute difference, times 200."""
    made = world(load("ft"))
    assert made.adapter is not None
    both = made.adapter(made.student, made.target, made.batch).factors, made.target.factors
    s, t = (F.normalize(u.pow(2).mean(1).flatten(1)) for u in both)
    torch.testing.assert_close(main_terms(made)["factors"], 200 * (s - t).abs().mean())
    assert made.target.factors.shape == (6, 12, 2, 2)  # half of the teacher's 24 channels


def test_paraphraser_is_the_same_every_time_and_leaves_the_random_stream_alone() -> None:
    context = world(load("nst")).context
    seen = [outputs(8, (6, 6, 12, 24), Head((6, 6, 12, 24), 5), seed) for seed in range(3)]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = ft.prepare(context, iter(seen))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    with torch.inference_mode():
        two = ft.prepare(context, iter(seen))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_paraphraser_learns_to_reconstruct() -> None:
    context = world(load("nst")).context
    made = outputs(16, (6, 6, 12, 24), Head((6, 6, 12, 24), 5), 0)
    errors = []
    for n in (1, 200):
        both = ft._paraphraser(made.features[-1])
        optimizer = torch.optim.SGD(both.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        for _ in range(n):
            ft._step(both, optimizer, made.features[-1])
        errors.append(F.mse_loss(both(made.features[-1]), made.features[-1]).item())
    assert errors[1] < 0.8 * errors[0]
    with pytest.raises(ValueError, match="one batch of maps or more"):
        ft.prepare(context, iter(()))


# margin_relu


def test_margin_by_hand() -> None:
    """b = 0.2, |g| = 0.5: 0.2 - 0.5 phi(0.4) / Phi(-0.4) = 0.2 - 0.5 * 0.368270 / 0.344578 = -0.33438."""
    found = margin_relu.margin(
        torch.tensor([0.2, 0.2, 5.0, -1.0]), torch.tensor([0.5, -0.5, 1.0, 0.0])
    )
    torch.testing.assert_close(found[:2], torch.full((2,), -0.33438).double(), rtol=0, atol=5e-6)
    assert found[2].item() == -3.0  # Phi(-5) is below 0.001
    assert found[3].item() == pytest.approx(-1.0)  # no scale: always -1


def test_margin_is_the_mean_below_zero() -> None:
    """Against the mean of a million draws."""
    draws = 0.7 * normal(1_000_000) - 0.3
    found = margin_relu.margin(torch.tensor([-0.3]), torch.tensor([0.7]))
    assert found.item() == pytest.approx(draws[draws < 0].mean().item(), abs=2e-3)


def test_partial_distance_by_hand() -> None:
    """m = -0.5. (-2, -1): 0. (0, -1): 0.5^2. (-1, 1): 2^2. (-0.1, -0.2): 0.1^2. (-0.3, -0.2): 0. Sum 4.26."""
    s, t = torch.tensor([-2, 0, -1, -0.1, -0.3]), torch.tensor([-1, -1, 1, -0.2, -0.2])
    assert margin_relu.partial_distance(s, t, torch.tensor(-0.5)).item() == pytest.approx(4.26)


def test_margin_relu_against_the_three_cases() -> None:
    """mdistiller's form of the same distance: three disjoint cases; weights 1/4, 1/2, 1, mean over the batch."""
    made = world(load("margin_relu"))
    assert made.adapter is not None
    connected = made.adapter(made.student, made.target, made.batch).maps
    total = torch.zeros((), dtype=torch.float64)
    for weight, s, t, m in zip(
        (0.25, 0.5, 1.0), connected, made.target.maps, made.target.margins, strict=True
    ):
        low = (s - m) ** 2 * ((s > m) & (t <= m))
        middle = (s - t) ** 2 * ((s > t) & (t > m) & (t <= 0))
        high = (s - t) ** 2 * (t > 0)
        total = total + weight * (low + middle + high).mean(0).sum()
    torch.testing.assert_close(main_terms(made)["margin_relu"], total / 1000)


def test_margin_relu_refuses_a_teacher_without_batch_norm() -> None:
    context = world(load("margin_relu")).context
    assert margin_relu.refuse(context) is None
    plain = Head((6, 6, 12, 24), 5)
    plain.norms = nn.ModuleList([nn.Identity()] * 4)
    message = margin_relu.refuse(replace(context, teacher_model=plain))
    assert message is not None
    assert "channels [6, 12, 24]" in message
    silent = replace(context, student=context.student._replace(preacts=()))
    assert "got 0 and 4" in (margin_relu.refuse(silent) or "")


# reviewkd


def test_hierarchical_distance_by_hand() -> None:
    """2x2, difference 1 everywhere: (1 + 1/2) / 1.5 = 1. Difference +-1: pooled 0, so 1 / 1.5."""
    t = torch.zeros(1, 1, 2, 2)
    flat, mixed = t + 1, torch.tensor([[1.0, -1.0], [1.0, -1.0]]).view(1, 1, 2, 2)
    assert reviewkd.hierarchical(flat, t).item() == pytest.approx(1)
    assert reviewkd.hierarchical(mixed, t).item() == pytest.approx(2 / 3)
    assert reviewkd.hierarchical(t[..., :1, :1] + 3, t[..., :1, :1]).item() == 9


@pytest.mark.parametrize("size", [1, 2, 4, 8, 7])
def test_hierarchical_distance_against_the_published_computation(size: int) -> None:
    s, t = normal(3, 5, size, size), normal(3, 5, size, size, seed=1)
    weights = {level: 2.0**-i for i, level in enumerate((4, 2, 1), 1)}
    if size <= 4:
        weights = {level: 2.0**-i for i, level in enumerate((n for n in (4, 2, 1) if n < size), 1)}
    total, shares = F.mse_loss(s, t), 1.0
    for level, weight in weights.items():
        total = total + weight * F.mse_loss(
            F.adaptive_avg_pool2d(s, level), F.adaptive_avg_pool2d(t, level)
        )
        shares += weight
    torch.testing.assert_close(reviewkd.hierarchical(s, t), total / shares)


def test_review_levels_end_in_the_teachers_shapes() -> None:
    made = world(load("reviewkd"))
    assert made.adapter is not None
    found = made.adapter(made.student, made.target, made.batch).maps
    assert [f.shape for f in found] == [t.shape for t in made.target.maps]
    teacher = made.context.teacher
    torch.testing.assert_close(made.target.maps[0], teacher.preacts[1].double())
    torch.testing.assert_close(made.target.maps[-1][:, :, 0, 0], teacher.embedding.double())


def test_review_fuses_as_published() -> None:
    """Two levels written out: z = sigmoid(conv([x, up])), x z_0 + up z_1, then the way out."""
    fusion = reviewkd.Fusion(3, 4, 5, fuse=True).eval()
    x, above = torch.rand(2, 3, 4, 4), torch.rand(2, 4, 2, 2)
    inward = fusion.inward(x)
    up = above.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert fusion.attention is not None
    z = fusion.attention(torch.cat([inward, up], 1)).sigmoid()
    fused = inward * z[:, 0][:, None] + up * z[:, 1][:, None]
    out, residual = fusion(x, above, torch.Size((4, 4)))
    torch.testing.assert_close(residual, fused)
    torch.testing.assert_close(out, fusion.outward(fused))


def test_review_warms_up() -> None:
    """Half of the warm-up done: half the weight; afterwards all of it."""
    made = world(load("reviewkd"), warmup=0.5)
    weights = [
        main_terms(made._replace(batch=made.batch._replace(progress=torch.tensor(p))))["review"]
        for p in (0.25, 0.5, 0.9)
    ]
    torch.testing.assert_close(weights[0] * 2, weights[1])
    torch.testing.assert_close(weights[1], weights[2])


# simkd


class Fixed(nn.Module):
    """A student that says the same whatever it sees."""

    def __init__(self, said: Outputs) -> None:
        super().__init__()
        self.said = said

    def forward(self, images: Tensor) -> Outputs:
        return self.said


def test_simkd_predicts_through_the_teachers_classifier() -> None:
    made = world(load("simkd"))
    assert made.adapter is not None
    assert made.method.deploy is not None
    deployed = made.method.deploy(Fixed(made.student), made.adapter).eval()
    found = deployed(made.batch.images)
    maps_ = made.adapter.project(made.student.features[-1])  # type: ignore[operator]
    wanted = made.context.teacher_model.classifier.double()(maps_.mean((2, 3)))  # type: ignore[operator, union-attr]
    torch.testing.assert_close(found.logits, wanted)
    torch.testing.assert_close(found.embedding, maps_.mean((2, 3)))
    assert found.features[-1] is made.student.features[-1]


def test_simkd_learns_from_the_map_alone() -> None:
    """Neither labels nor logits: those terms weigh 0; MSE against torch's."""
    made = world(load("simkd"))
    assert made.adapter is not None
    found = main_terms(made)
    assert found["ce"].item() == found["kd"].item() == 0
    projected = made.adapter(made.student, made.target, made.batch).map
    torch.testing.assert_close(found["projection"], F.mse_loss(projected, made.target.map))
    trained = {name for name, _ in made.adapter.named_parameters()}
    assert trained
    assert not any("head" in name for name in trained)


@pytest.mark.parametrize("size", [2, 4])
def test_simkd_pools_the_larger_map(size: int) -> None:
    """The student's before the projector, the teacher's in the loss."""
    context = world(load("simkd")).context
    teacher = context.teacher._replace(features=(torch.rand(6, 24, 3, 3),))
    student = context.student._replace(features=(torch.rand(6, 16, size, size),))
    projector = simkd.adapter(replace(context, student=student, teacher=teacher))
    smaller = min(size, 3)
    assert projector(student).map.shape == (6, 24, smaller, smaller)
    student = student._replace(adapted=projector(student))
    batch = Batch(*([torch.zeros(6, dtype=torch.long)] * 3), torch.tensor(0.0), torch.tensor(0.0))
    found = simkd.loss(student, simkd.target(teacher), batch)["projection"]
    wanted = F.mse_loss(projector(student).map, F.adaptive_avg_pool2d(teacher.features[0], smaller))
    torch.testing.assert_close(found, wanted)


def test_simkd_factor_sets_the_middle() -> None:
    context = world(load("simkd")).context
    assert [simkd.adapter(context, factor=f).project[0].out_channels for f in (2, 4, 8)] == [
        12,
        6,
        3,
    ]
    with pytest.raises(ValueError, match="from 1 to the teacher's 24 channels, got 0"):
        simkd.adapter(context, factor=0)


@pytest.mark.parametrize("name", ["simkd", "srrl"])
def test_a_classifier_that_does_not_read_the_pooled_map_is_refused(name: str) -> None:
    method, context = load(name), world(load(name)).context
    assert method.refuse is not None
    assert method.refuse(context) is None
    for embedding in (torch.rand(6, 30), context.teacher.embedding + 1):
        wrong = replace(context, teacher=context.teacher._replace(embedding=embedding))
        assert "must read the mean of its last feature map" in (method.refuse(wrong) or "")


def test_frozen_head_is_the_teachers_classifier() -> None:
    for bias in (True, False):
        classifier = nn.Linear(4, 3, bias=bias)
        head, x = FrozenHead(classifier), torch.rand(2, 4)
        torch.testing.assert_close(head(x), classifier(x))
        assert not list(head.parameters())
        assert "weight" in head.state_dict()


# srrl


def test_srrl_against_mse_loss() -> None:
    """Pooled maps and the teacher's classifier on them, each against torch's mse_loss."""
    made = world(load("srrl"))
    assert made.adapter is not None
    transferred = made.adapter.transfer(made.student.features[-1]).mean((2, 3))  # type: ignore[operator]
    said = made.context.teacher_model.classifier.double()(transferred)  # type: ignore[operator, union-attr]
    found = main_terms(made)
    torch.testing.assert_close(found["statistics"], F.mse_loss(transferred, made.target.embedding))
    torch.testing.assert_close(found["regression"], F.mse_loss(said, made.target.logits))


def test_srrl_by_hand() -> None:
    """Embedding (1, 3) against (0, 1): (1 + 4) / 2; logits (2, 0) against (0, 0): 4 / 2; beta 3."""
    adapted = srrl.Regressed(torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 0.0]]))
    student = Outputs(torch.zeros(1, 2), torch.zeros(1, 1), adapted=adapted)
    target = srrl.Embedded(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))
    batch = Batch(*([torch.zeros(1, dtype=torch.long)] * 3), torch.tensor(0.0), torch.tensor(0.0))
    found = srrl.loss(student, target, batch, beta=3.0)
    assert found["statistics"].item() == pytest.approx(7.5)
    assert found["regression"].item() == pytest.approx(6)


# networks that do not agree


def _context(student: list[tuple[int, int]], teacher: list[tuple[int, int]]) -> Context:
    def made(shapes: list[tuple[int, int]], seed: int) -> tuple[Outputs, Head]:
        preacts = tuple(
            normal(4, c, s, s, seed=seed + i).float() for i, (c, s) in enumerate(shapes)
        )
        features = tuple(p.relu() for p in preacts)
        head = Head(tuple(c for c, _ in shapes), 3)
        embedding = features[-1].mean((2, 3))
        gradient = normal(4, 1, 8, 8, seed=seed).float()
        logits = head.classifier(embedding).detach()
        return Outputs(logits, embedding, features, preacts, gradient), head.eval()

    (s, s_model), (t, t_model) = made(student, 0), made(teacher, 50)
    return Context(s, t, s_model, t_model, torch.arange(12) % 3, 3)


SHAPES = [
    ([(4, 8), (4, 8), (8, 4)], [(6, 16), (6, 16), (12, 8), (24, 4)]),  # shallower
    ([(4, 16), (4, 16), (8, 8), (16, 4)], [(6, 8), (12, 2)]),  # deeper, larger
    ([(4, 7), (4, 7), (8, 5)], [(6, 16), (6, 16), (12, 16)]),  # no whole ratio
]


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("name", sorted([*OWN, "ab"]))
def test_networks_of_other_depth_and_size_train(name: str, shapes: Any) -> None:
    """Finite terms, and a gradient to every parameter of the adapter in one phase or the other."""
    method, context = load(name), _context(*shapes)
    if method.refuse and method.refuse(context):
        assert name == "fsp"
        return
    if method.prepare:
        prepared = method.prepare(context, iter([context.teacher]))
        context = replace(context, prepared=prepared)
    adapter = method.adapter(context) if method.adapter else None
    target = target_of(method, context.teacher, context.prepared, {})
    labels = torch.tensor([0, 1, 2, 0])
    batch = Batch(labels, labels, labels, torch.tensor(1.0), torch.tensor(0.5))
    parts = [method, method.first_phase] if method.first_phase else [method]
    total = torch.zeros(())
    for part in parts:
        found = terms(part, {}, context.student, target, batch, adapter)[0].values()
        assert all(torch.isfinite(value) for value in found)
        total = total + sum(found)
    if adapter is not None:
        total.backward()
        assert all(p.grad is not None for p in adapter.parameters())


@pytest.mark.parametrize("name", ["fitnet", "at", "nst", "fsp", "vid", "ft", "reviewkd"])
def test_networks_without_maps_are_refused(name: str) -> None:
    method, context = load(name), _context(*SHAPES[0])
    bare = Outputs(context.student.logits, context.student.embedding)
    assert method.refuse is not None
    assert "got 0" in (method.refuse(replace(context, student=bare, teacher=bare)) or "")
