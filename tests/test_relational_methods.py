"""The relational methods against worked values, identities, and independent re-implementations of the public code."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.test_methods import leaves, rebuilt, total
from tests.world import World, world
from trainables.contract import Batch, Embedded, Outputs
from trainables.losses import softened_kl
from trainables.methods import load
from trainables.methods.correlation import Adapted
from trainables.methods.crd import Negatives, contrast
from trainables.methods.sp import Target
from trainables.objective import terms

RELATIONAL = ("rkd", "pkt", "correlation", "crd", "sp")
VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((name, {"alpha": 0.7, "temperature": 2.0}) for name in RELATIONAL),
    ("rkd", {"source": "logits"}),
    ("correlation", {"variant": "rbf"}),
    ("correlation", {"variant": "rbf", "degree": 4, "gamma": 1.0, "beta": 100.0}),
    ("crd", {"source": "logits", "embedding_size": 7}),
    ("crd", {"positive": "relax", "n_negatives": 5}),
    ("sp", {"layers": "all"}),
)


def drawn(rows: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, 5, generator=g).double(),
        torch.randn(rows, 9, generator=g).double(),
    )


def run(name: str, s: Tensor, t: Tensor, **given: Any) -> dict[str, float]:
    """The terms for these embeddings, with logits of their own."""
    g = torch.Generator().manual_seed(9)
    n = len(s)
    logits = [torch.randn(n, 3, generator=g).double() for _ in range(2)]
    batch = Batch(s, torch.arange(n) % 3, torch.arange(n), torch.tensor(0.0), torch.tensor(0.5))
    student, target = Outputs(logits[0], s.double()), Embedded(logits[1], t.double())
    return {k: float(v) for k, v in load(name).loss(student, target, batch, **given).items()}


def case_id(case: tuple[str, dict[str, Any]]) -> str:
    return "-".join([case[0], *(f"{k}={v}" for k, v in case[1].items())])


def terms_of(made: World) -> dict[str, Tensor]:
    if made.batch.generator is not None:
        made.batch.generator.manual_seed(3)
    return terms(made.method, made.values, made.student, made.target, made.batch, made.adapter)[0]


# every variant keeps the rules of the shared battery


@pytest.mark.parametrize("case", VARIANTS, ids=case_id)
def test_gradients_of_variants_against_finite_differences(case: tuple[str, Any]) -> None:
    """Oracle: central differences in float64 along a random direction."""
    made = world(load(case[0]), **case[1])
    flat, shape = leaves(made.student)
    value = total(made, rebuilt(flat, shape), made.method)
    gradients = torch.autograd.grad(value, flat, allow_unused=True)
    g = torch.Generator().manual_seed(0)
    v = [torch.randn(x.shape, generator=g, dtype=x.dtype) for x in flat]
    h = 1e-6
    up, down = (
        total(
            made,
            rebuilt([x.detach() + s * h * d for x, d in zip(flat, v, strict=True)], shape),
            made.method,
        )
        for s in (1, -1)
    )
    slope = sum((gr * d).sum() for gr, d in zip(gradients, v, strict=True) if gr is not None)
    torch.testing.assert_close(slope, (up - down) / (2 * h), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("edge", ["one_sample", "two_classes", "constant", "huge", "dead"])
@pytest.mark.parametrize("case", VARIANTS, ids=case_id)
def test_variants_stay_finite(case: tuple[str, Any], edge: str) -> None:
    sizes = {"one_sample": {"samples": 1}, "two_classes": {"classes": 2}}.get(edge, {})
    made = world(load(case[0]), edge=edge, **sizes, **case[1])
    flat, shape = leaves(made.student)
    value = total(made, rebuilt(flat, shape), made.method)
    assert torch.isfinite(value)
    parts = [*flat, *(made.adapter.parameters() if made.adapter else [])]
    for gradient in torch.autograd.grad(value, parts, allow_unused=True):
        assert gradient is None or torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", RELATIONAL)
def test_alpha_adds_plain_kd_and_lambda_weighs_the_labels(name: str) -> None:
    made = world(load(name), alpha=0.5, temperature=3.0, lambda_=2.0)
    found = terms_of(made)
    s, t = made.student.logits, made.target.logits
    torch.testing.assert_close(found["kd"], 0.5 * softened_kl(s, t, 3.0))
    torch.testing.assert_close(found["ce"], 2 * F.cross_entropy(s, made.batch.labels))


@pytest.mark.parametrize("name", RELATIONAL)
def test_float32_agrees_with_float64(name: str) -> None:
    made = world(load(name))
    wide = terms_of(made)
    narrow_of = torch.utils._pytree.tree_map(
        lambda x: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x,
        (made.values, made.student, made.target),
    )
    if made.adapter is not None:
        made.adapter.float()
    values, student, target = narrow_of
    narrow = terms_of(made._replace(values=values, student=student, target=target))
    for term, value in wide.items():
        torch.testing.assert_close(narrow[term].double(), value, rtol=1e-3, atol=1e-4)


# rkd


def rkd_by_expansion(s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The public form: distances from |a|^2 + |b|^2 - 2 a.b, mean over the positive ones, F.normalize for angles."""

    def distances(e: Tensor) -> Tensor:
        square = e.pow(2).sum(1)
        d = (square.unsqueeze(1) + square.unsqueeze(0) - 2 * e @ e.t()).clamp(min=1e-12).sqrt()
        d = d * (1 - torch.eye(len(e)).double())
        return d / d[d > 0].mean()

    def angles(e: Tensor) -> Tensor:
        towards = F.normalize(e.unsqueeze(0) - e.unsqueeze(1), p=2, dim=2)
        return torch.bmm(towards, towards.transpose(1, 2)).view(-1)

    return F.smooth_l1_loss(distances(s), distances(t)), F.smooth_l1_loss(angles(s), angles(t))


def test_rkd_against_the_expanded_form() -> None:
    s, t = drawn()
    distance, angle = rkd_by_expansion(s, t)
    found = run("rkd", s, t)
    assert found["rkd_distance"] == pytest.approx(25 * float(distance), rel=1e-9)
    assert found["rkd_angle"] == pytest.approx(50 * float(angle), rel=1e-9)


def test_rkd_by_hand() -> None:
    """Student at 0, 1, 2 on a line; teacher's triangle (0, 0), (1, 0), (0, 1).

    Distances: student 1, 1, 2 over 4/3: 3/4, 3/4, 3/2. Teacher 1, 1, r = sqrt 2 over m = (2 + r) / 3. Each pair stands
    twice in 9 places; the gaps are below 1, so h is half the square. Angles: an angle between a direction and itself
    agrees (1); student: 1 at the ends, -1 in the middle; teacher: 0 at (0, 0), 1 / r at the others. The gaps: 1, then
    1 + 1/r (above 1: h is the gap minus 1/2), then 1 - 1/r; each stands twice in 27.
    """
    s, t = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    r = math.sqrt(2)
    m = (2 + r) / 3
    gaps = [3 / 4 - 1 / m, 3 / 2 - 1 / m, 3 / 4 - r / m]  # pairs 01, 02, 12
    assert max(map(abs, gaps)) < 1
    distance = 2 * sum(gap**2 / 2 for gap in gaps) / 9
    angle = 2 * (1 / 2 + (1 + 1 / r - 1 / 2) + (1 - 1 / r) ** 2 / 2) / 27
    found = run("rkd", s, t)
    assert found["rkd_distance"] == pytest.approx(25 * distance)
    assert found["rkd_angle"] == pytest.approx(50 * angle)


def test_rkd_ignores_rotation_scale_and_shift() -> None:
    """A similarity of the student's space changes neither distances in units of their mean nor angles."""
    s, t = drawn()
    rotation, _ = torch.linalg.qr(
        torch.randn(5, 5, generator=torch.Generator().manual_seed(1)).double()
    )
    moved = 3 * s @ rotation + 2
    here, there = run("rkd", s, t), run("rkd", moved, t)
    assert here["rkd_distance"] == pytest.approx(there["rkd_distance"])
    assert here["rkd_angle"] == pytest.approx(there["rkd_angle"])
    assert run("rkd", moved, s)["rkd_distance"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("rows", [1, 2])
def test_rkd_of_duplicates_has_a_bounded_gradient(rows: int) -> None:
    s, t = drawn()
    twice = s[[*range(rows), *range(rows)]].requires_grad_()
    batch = Batch(s, torch.zeros(2 * rows).long(), torch.arange(2 * rows), t.sum(), t.sum())
    logits = torch.zeros(2 * rows, 3).double()
    found = load("rkd").loss(Outputs(logits, twice), Embedded(logits, t[: 2 * rows]), batch)
    (gradient,) = torch.autograd.grad(found["rkd_distance"] + found["rkd_angle"], twice)
    assert gradient.abs().max() < 1e3


# pkt


def pkt_by_rows(s: Tensor, t: Tensor) -> float:
    """The authors' formula, a row at a time."""
    eps, sum_ = 1e-7, 0.0

    def row(e: Tensor, i: int) -> Tensor:
        unit = e / (e.norm(dim=1, keepdim=True) + eps)
        near = (unit @ unit[i] + 1) / 2
        return near / near.sum()

    for i in range(len(s)):
        p, q = row(t, i), row(s, i)
        sum_ += float((p * torch.log((p + eps) / (q + eps))).sum())
    return sum_ / len(s) ** 2


def test_pkt_against_rows() -> None:
    s, t = drawn()
    assert run("pkt", s, t)["pkt"] == pytest.approx(30000 * pkt_by_rows(s, t), rel=1e-10)


def test_pkt_by_hand() -> None:
    """Student's two embeddings at a right angle: k = 1, 1/2, p = 2/3, 1/3. Teacher's equal: 1/2, 1/2.

    The mean over 4 pairs of p^t log(p^t / p^s) is [log(3/4) + log(3/2)] / 4, up to the 1e-7s.
    """
    s, t = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    by_hand = (math.log(3 / 4) + math.log(3 / 2)) / 4
    assert run("pkt", s, t, beta=1.0)["pkt"] == pytest.approx(by_hand, rel=1e-5)


# correlation


def test_correlation_delta_against_consecutive_rows() -> None:
    made = world(load("correlation"))
    part: Any = made.adapter
    v_s, v_t = part.student(made.student.embedding), part.teacher(made.target.embedding)
    delta = torch.abs(v_s - v_t)
    expected = 0.02 * torch.mean((delta[:-1] * delta[1:]).sum(1))
    torch.testing.assert_close(terms_of(made)["correlation"], expected)


def test_correlation_delta_by_hand() -> None:
    """|s - t| rows (1, 2), (3, 0), (1, 1): products 3 and 3, mean 3."""
    s = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 0.0]]).double()
    t = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, -1.0]]).double()
    batch = Batch(s, torch.tensor([0, 1, 0]), torch.arange(3), s.sum(), s.sum())
    student = Outputs(s, s, adapted=Adapted(s, t))
    found = load("correlation").loss(student, Embedded(s, t), batch, beta=1.0)
    assert found["correlation"].item() == pytest.approx(3)


def rbf_kernel(e: Tensor, gamma: float = 0.4, degree: int = 2) -> Tensor:
    """The public form: powers summed one at a time."""
    e = F.normalize(e, p=2, dim=-1)
    similarity, found = e @ e.t(), torch.zeros(len(e), len(e)).double()
    for p in range(degree + 1):
        factor = math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p)
        found += factor * similarity**p
    return found


def test_correlation_rbf_against_the_summed_powers() -> None:
    s, t = drawn()
    expected = 100 * F.mse_loss(rbf_kernel(s), rbf_kernel(t))
    found = run("correlation", s, t, variant="rbf", beta=100.0)
    assert found["correlation"] == pytest.approx(float(expected), rel=1e-10)


def test_correlation_rbf_tends_to_the_gaussian_kernel() -> None:
    """On unit vectors exp(-g |a - b|^2) = exp(-2 g) exp(2 g a.b); 12 terms of the series leave less than 1e-9."""
    s, t = (F.normalize(x, dim=1) for x in drawn())
    gauss = [torch.exp(-0.4 * torch.cdist(x, x) ** 2) for x in (s, t)]
    found = run("correlation", s, t, variant="rbf", beta=1.0, degree=12)
    assert found["correlation"] == pytest.approx(float(F.mse_loss(*gauss)), rel=1e-7)


def test_correlation_rbf_does_not_depend_on_the_order() -> None:
    s, t = drawn()
    order = torch.tensor([4, 1, 6, 0, 5, 2, 3])
    here = run("correlation", s, t, variant="rbf")["correlation"]
    assert run("correlation", s[order], t[order], variant="rbf")["correlation"] == pytest.approx(
        here
    )


# sp


def sp_loss(s: Tensor, t: Tensor, **given: Any) -> float:
    logits = torch.zeros(len(s), 3).double()
    batch = Batch(s, torch.zeros(len(s)).long(), torch.arange(len(s)), s.sum(), s.sum())
    student = Outputs(logits, logits, (s.double(),))
    return float(load("sp").loss(student, Target(logits, (t.double(),)), batch, **given)["sp"])


def test_sp_against_normalised_gram_matrices() -> None:
    g = torch.Generator().manual_seed(0)
    s, t = torch.randn(6, 3, 4, 4, generator=g), torch.randn(6, 5, 2, 2, generator=g)
    gram = [F.normalize(x @ x.t()) for x in (s.double().view(6, -1), t.double().view(6, -1))]
    expected = 3000 * (gram[1] - gram[0]).pow(2).sum() / 36
    assert sp_loss(s, t) == pytest.approx(float(expected), rel=1e-10)


def test_sp_by_hand() -> None:
    """Student's maps at a right angle: G = 1, rows (1, 0), (0, 1). Teacher's equal: rows (1, 1) / sqrt 2.

    Squares: 2 [(1 - 1/sqrt 2)^2 + 1/2] = 2 (2 - sqrt 2), over 4.
    """
    s = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(2, 2, 1, 1)
    t = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).view(2, 2, 1, 1)
    assert sp_loss(s, t, beta=1.0) == pytest.approx((2 - math.sqrt(2)) / 2)


def test_sp_on_all_maps_is_a_sum() -> None:
    made = world(load("sp"), layers="all")
    each = [sp_loss(s, t) for s, t in zip(made.student.features, made.target.maps, strict=True)]
    assert terms_of(made)["sp"].item() == pytest.approx(sum(each))
    assert len(world(load("sp")).target.maps) == 1


def test_a_dead_sample_has_no_gradient() -> None:
    s, t = drawn(rows=4)
    s[1] = 0
    maps = s.view(4, 5, 1, 1).requires_grad_()
    logits = torch.zeros(4, 3).double()
    batch = Batch(s, torch.zeros(4).long(), torch.arange(4), s.sum(), s.sum())
    target = Target(logits, (t.view(4, 9, 1, 1),))
    found = load("sp").loss(Outputs(logits, logits, (maps,)), target, batch)["sp"]
    (gradient,) = torch.autograd.grad(found, maps)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() < 1e5


# crd


def crd(**given: Any) -> Any:
    """A world before its first step, in float64."""
    made = world(load("crd"), **given)
    part: Any = made.adapter
    part.log_z.fill_(math.inf)
    return made, part


def seen(made: World) -> Any:
    assert made.adapter is not None and made.batch.generator is not None
    made.batch.generator.manual_seed(3)
    return made.adapter(made.student, made.target, made.batch)


def crd_by_banks(made: World, part: Any, rows: Tensor, z: list[float | None]) -> tuple[Any, ...]:
    """The public form: exponentials over Z, an explicit gather of the banks, logs of fractions."""
    n, k = len(part.student_bank), rows.shape[1] - 1
    v = [part.student(made.student.embedding), part.teacher(made.target.embedding)]
    v = [x / x.pow(2).sum(1, keepdim=True).pow(0.5) for x in v]
    losses = []
    for i, bank in enumerate((part.teacher_bank, part.student_bank)):
        weight = bank[rows.view(-1)].view(*rows.shape, -1)
        out = torch.exp(torch.bmm(weight, v[i].unsqueeze(-1)).squeeze(-1) / 0.07)
        if z[i] is None:
            z[i] = float(out.detach().mean()) * n
        out = out / z[i]
        positive = torch.log(out[:, 0] / (out[:, 0] + k / n + 1e-7))
        negative = torch.log((k / n) / (out[:, 1:] + k / n + 1e-7))
        losses.append(-(positive.sum() + negative.sum()) / len(rows))
    return losses, v, z


def rows_of(made: World, part: Any) -> Tensor:
    """The positive and the negatives that the adapter draws for this batch."""
    assert made.batch.generator is not None
    made.batch.generator.manual_seed(3)
    others = part.negatives.draw(made.batch.indices, part.count, made.batch.generator)
    return torch.cat([made.batch.indices.unsqueeze(1), others], 1)


@pytest.mark.parametrize("n_negatives", [4, 16384])
def test_crd_over_three_steps_against_explicit_banks(n_negatives: int) -> None:
    """Losses, Z of the first batch, and banks after each step."""
    made, part = crd(n_negatives=n_negatives)
    z: list[float | None] = [None, None]
    for step in range(3):
        made = made._replace(batch=made.batch._replace(indices=torch.arange(6) + 5 * step))
        (of_student, of_teacher), v, z = crd_by_banks(made, part, rows_of(made, part), z)
        found = terms_of(made)
        torch.testing.assert_close(found["crd_student"], 0.8 * of_student)
        torch.testing.assert_close(found["crd_teacher"], 0.8 * of_teacher)
        banks = [part.student_bank.clone(), part.teacher_bank.clone()]
        for bank, new in zip(banks, v, strict=True):
            mixed = bank[made.batch.indices] * 0.5 + new.detach() * 0.5
            bank[made.batch.indices] = mixed / mixed.norm(dim=1, keepdim=True)
        part.after_step(seen(made), made.batch)
        torch.testing.assert_close(part.student_bank, banks[0])
        torch.testing.assert_close(part.teacher_bank, banks[1])


def test_crd_by_hand() -> None:
    """Every score 0 and Z = N: P = 1 / N for all. N = 8, K = 2: P / (P + K / N) = 1/3, (K / N) / (P + K / N) = 2/3.

    L = ln 3 + 2 ln(3/2), up to the 1e-7.
    """
    value = contrast(
        torch.zeros(5, 3).double(), torch.tensor(math.log(8)), torch.tensor(0.25).double(), 0.07
    )
    assert value.item() == pytest.approx(math.log(3) + 2 * math.log(1.5), rel=1e-5)


def test_crd_forward_can_be_repeated_and_changes_nothing() -> None:
    made, part = crd(n_negatives=4)
    before = {name: value.clone() for name, value in part.state_dict().items()}
    first, second = seen(made), seen(made)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(value, before[name]) for name, value in part.state_dict().items())


def test_crd_constants_stay_those_of_the_first_batch() -> None:
    made, part = crd()
    part.after_step(seen(made), made.batch)
    first = part.log_z.clone()
    later = made._replace(student=made.student._replace(embedding=made.student.embedding * -3))
    part.after_step(seen(later), made.batch)
    assert torch.equal(part.log_z, first)


def test_crd_restored_goes_on_as_if_never_stopped() -> None:
    made, part = crd(n_negatives=4)
    part.after_step(seen(made), made.batch)
    other, fresh = crd(n_negatives=4)
    with torch.no_grad():
        for x in (fresh.student_bank, fresh.teacher_bank, *fresh.parameters()):
            x.add_(1.0)
    fresh.load_state_dict(part.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(seen(made), seen(other), strict=True))


@pytest.mark.parametrize("count", [1, 7, 12])
def test_negatives_are_different_images_of_other_classes(count: int) -> None:
    labels = torch.tensor([0, 1, 2, 1, 0, 2, 2, 1, 0, 2, 2, 2, 1, 0, 1, 0, 2, 1, 0])  # 6, 6 and 7
    table = Negatives(labels, 4)  # no image has the fourth class
    indices = torch.arange(len(labels)).repeat(20)
    chosen = table.draw(indices, count, torch.Generator().manual_seed(0))
    assert chosen.shape == (len(indices), count)
    assert (labels[chosen] != labels[indices].unsqueeze(1)).all()
    assert all(len(set(row.tolist())) == count for row in chosen)


def test_negatives_are_equally_likely() -> None:
    """Image 0 of class 0 among 5 others, 2 at a time: each in 2/5 of 20000 draws, within 5 standard deviations."""
    table = Negatives(torch.tensor([0, 1, 2, 1, 0, 2, 2]), 3)
    draws = table.draw(torch.zeros(20000).long(), 2, torch.Generator().manual_seed(0))
    counts = torch.bincount(draws.flatten(), minlength=7)
    assert counts[[0, 4]].sum() == 0
    spread = 5 * math.sqrt(20000 * 0.4 * 0.6)
    assert (counts[[1, 2, 3, 5, 6]] - 8000).abs().max() < spread


def test_relaxed_positives_are_of_the_same_class() -> None:
    labels = torch.tensor([0, 1, 2, 1, 0, 2, 2, 1, 0])
    table = Negatives(labels, 3)
    indices = torch.arange(9).repeat(30)
    chosen = table.same_class(indices, torch.Generator().manual_seed(0))
    assert (labels[chosen] == labels[indices]).all()
    assert set(chosen[indices == 2].tolist()) == {2, 5, 6}


def test_crd_needs_two_classes() -> None:
    context = world(load("crd")).context
    refuse = load("crd").refuse
    assert refuse is not None
    assert refuse(context) is None
    alone = replace(context, labels=torch.zeros(9).long())
    assert refuse(alone) == "the training split must hold two classes or more, got one"


def test_crd_survives_a_contrast_so_sharp_that_exponentials_overflow() -> None:
    """exp(1 / 0.001) is infinite in any float; the terms are not."""
    made, _ = crd(contrast_temperature=0.001)
    found = terms_of(made)
    assert torch.isfinite(found["crd_student"]) and torch.isfinite(found["crd_teacher"])
