"""The soft-label methods against worked values, identities, and independent re-implementations of the public code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import search_spaces
from tests.test_methods import leaves, rebuilt, total
from tests.world import World, world
from trainables.contract import Batch, Logits, Outputs
from trainables.losses import (
    kl_among_each,
    kl_each,
    log_share,
    log_softmax_among,
    ramp,
    softened_kl,
    standardized,
)
from trainables.methods import load
from trainables.methods.cckd_t_reg import keep
from trainables.methods.ckd import difference
from trainables.methods.dist import uncorrelated
from trainables.methods.dkd import other_classes_kl, target_class_kl
from trainables.objective import check, defaults, terms
from trainables.recipe import RECIPE_KEYS, check_recipe

LOGIT_METHODS = (
    *("cckd_l", "cckd_t", "cckd_t_reg", "dist", "dkd", "nkd", "ttm", "wttm"),
    *("ctkd", "rld", "mlkd", "mixup", "ckd"),
)
VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    *((name, {"standardize": True}) for name in LOGIT_METHODS),
    ("cckd_l", {"temperature": 3.0, "lambda_temperature": "same", "scale_by_t2": True}),
    ("cckd_t", {"temperature": 3.0, "lambda_temperature": "same", "scale_by_t2": True}),
    ("cckd_t_reg", {"temperature": 3.0, "lambda_temperature": "same", "regulation": 0.5}),
    ("dist", {"alpha": 1.0, "dist_temperature": 1.0}),
    ("dkd", {"warmup": 0.0, "temperature": 0.1}),
    ("rld", {"warmup": 1.0, "scd_temperature": 0.1}),
    ("mixup", {"sources": 3, "loss": "kl"}),
    ("mixup", {"teacher_view": "mixed"}),
    ("mixup", {"teacher_view": "mixed", "loss": "kl", "sources": 3}),
    ("ckd", {"group": 2, "loss": "mse"}),
    ("ckd", {"group": 4, "inner": "hint"}),
    ("ckd", {"group": 2, "inner": "vid"}),
    ("ckd", {"group": 3, "inner": "correlation", "inner_weight": 3.0}),
)


def made_of(
    s: Any, t: Any, labels: Any, progress: float = 0.5, epoch: float = 3.0, **more: Any
) -> tuple[Outputs, Logits, Batch]:
    """Given logits and labels as a loss sees them, in float64."""
    s, t = torch.as_tensor(s).double(), torch.as_tensor(t).double()
    y = torch.as_tensor(labels)
    batch = Batch(s, y, torch.arange(len(y)), torch.tensor(epoch), torch.tensor(progress), **more)
    return Outputs(s, s), Logits(t), batch


def run(name: str, s: Any, t: Any, labels: Any, **given: Any) -> dict[str, float]:
    """The loss's terms as numbers."""
    places = {k: given.pop(k) for k in ("progress", "epoch", "weights") if k in given}
    found = load(name).loss(*made_of(s, t, labels, **places), **given)
    return {term: float(value) for term, value in found.items()}


def drawn(rows: int = 7, classes: int = 6, scale: float = 3.0, seed: int = 0) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    s, t = (torch.randn(rows, classes, generator=g).double() * scale for _ in range(2))
    return s, t, torch.randint(0, classes, (rows,), generator=g)


def case_id(case: tuple[str, dict[str, Any]]) -> str:
    return "-".join([case[0], *(f"{k}={v}" for k, v in case[1].items())])


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
    torch.testing.assert_close(slope, (up - down) / (2 * h), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("edge", ["one_sample", "two_classes", "constant", "huge", "dead"])
@pytest.mark.parametrize("case", [*VARIANTS, ("ctkd", {"kind": "instance"})], ids=case_id)
def test_variants_stay_finite(case: tuple[str, Any], edge: str) -> None:
    sizes = {"one_sample": {"samples": 1}, "two_classes": {"classes": 2}}.get(edge, {})
    made = world(load(case[0]), edge=edge, **sizes, **case[1])
    flat, shape = leaves(made.student)
    value = total(made, rebuilt(flat, shape), made.method)
    assert torch.isfinite(value)
    parts = [*flat, *(made.adapter.parameters() if made.adapter else [])]
    for gradient in torch.autograd.grad(value, parts, allow_unused=True):
        assert gradient is None or torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", LOGIT_METHODS)
def test_float32_agrees_with_float64(name: str) -> None:
    made = world(load(name))
    if made.adapter is not None:
        made.adapter.float()
    single = torch.utils._pytree.tree_map(
        lambda x: x.float() if isinstance(x, Tensor) and x.is_floating_point() else x,
        (made.values, made.student, made.target, made.batch),
    )
    narrow, _ = terms(made.method, *single, made.adapter)
    if made.adapter is not None:
        made.adapter.double()
    wide, _ = terms(made.method, made.values, made.student, made.target, made.batch, made.adapter)
    for term, value in wide.items():
        torch.testing.assert_close(narrow[term].double(), value, rtol=1e-4, atol=1e-5)


# pieces


def test_log_softmax_among_against_a_smaller_softmax() -> None:
    s, _, _ = drawn()
    among = torch.tensor([True, False, True, True, False, True]).expand(7, 6)
    found = log_softmax_among(s, among)
    torch.testing.assert_close(found[:, [0, 2, 3, 5]], s[:, [0, 2, 3, 5]].log_softmax(-1))
    assert (found[:, [1, 4]] == 0).all()


def test_nothing_is_left_to_compare_among_no_classes() -> None:
    s, t, _ = drawn()
    assert (kl_among_each(s, t, torch.zeros_like(s, dtype=torch.bool)) == 0).all()


def test_log_share_where_the_probability_rounds_to_one() -> None:
    """softmax(200, 0, 0): p = 1 / (1 + 2 e^-200), so log p = -2 e^-200 = -0 and log(1 - p) = log 2 - 200."""
    inside = torch.tensor([[True, False, False]])
    found = log_share(torch.tensor([[200.0, 0.0, 0.0]]).double(), inside)
    torch.testing.assert_close(found, torch.tensor([[0.0, math.log(2) - 200]]).double())


@pytest.mark.parametrize(
    ("progress", "warmup", "expected"), [(0, 0, 1), (0.3, 0, 1), (0.1, 0.4, 0.25), (0.9, 0.4, 1)]
)
def test_ramp(progress: float, warmup: float, expected: float) -> None:
    assert ramp(torch.tensor(progress), warmup).item() == pytest.approx(expected)
    assert ramp(torch.tensor(progress), torch.tensor(float(warmup))).item() == pytest.approx(
        expected
    )


def test_standardized_against_mean_and_std() -> None:
    s, _, _ = drawn()
    torch.testing.assert_close(
        standardized(s), (s - s.mean(-1, keepdim=True)) / (s.std(-1, keepdim=True) + 1e-7)
    )


@pytest.mark.parametrize("name", LOGIT_METHODS)
def test_standardize_removes_the_scale_of_the_soft_terms(name: str) -> None:
    """Soft terms of (s, t) and of (2 s + 1, 3 t - 1) agree once both are standardised."""
    made = world(load(name), standardize=True)
    moved = made.student._replace(logits=2 * made.student.logits + 1)
    changed = made.target._replace(logits=3 * made.target.logits - 1)
    here, _ = terms(made.method, made.values, made.student, made.target, made.batch, made.adapter)
    there, _ = terms(made.method, made.values, moved, changed, made.batch, made.adapter)
    same = {
        "kd",
        "dist_inter",
        "dist_intra",
        "dkd_target",
        "dkd_others",
        "nkd_target",
        "nkd_others",
    }
    same |= {"ttm", "wttm", "rld_confidence", "rld_below", "mixup", "ckd", "ckd_labels"}
    for term in same & set(here):
        torch.testing.assert_close(here[term], there[term], rtol=1e-5, atol=1e-6)


# cckd


def test_cckd_by_hand() -> None:
    """Teacher (0, ln 3): p = (1/4, 3/4); label 1, so lambda = 3/4. Student (0, 0): every cross-entropy is ln 2.

    L: soft 3/4 ln 2, hard 1/4 ln 2. T: y_C = 3/4 (1/4, 3/4) + 1/4 (0, 1); ln 2 in all.
    """
    s, t = [[0.0, 0.0]], [[0.0, math.log(3)]]
    found = run("cckd_l", s, t, [1])
    assert found["cckd_soft"] == pytest.approx(0.75 * math.log(2))
    assert found["cckd_hard"] == pytest.approx(0.25 * math.log(2))
    assert run("cckd_t", s, t, [1])["cckd"] == pytest.approx(math.log(2))


def test_cckd_t_by_hand_at_a_temperature() -> None:
    """T = 2, teacher (0, 2 ln 3), student (2 ln 2, 0), label 0.

    softmax(z_t / 2) = (1/4, 3/4); lambda at T = 1: 1/10. y_C = (1/40 + 9/10, 3/40) = (37/40, 3/40).
    log softmax(z_s / 2) = (ln 2/3, ln 1/3).
    """
    found = run("cckd_t", [[2 * math.log(2), 0.0]], [[0.0, 2 * math.log(3)]], [0], temperature=2.0)
    assert found["cckd"] == pytest.approx(37 / 40 * math.log(3 / 2) + 3 / 40 * math.log(3))


def test_cckd_l_is_cckd_t_at_temperature_one() -> None:
    s, t, y = drawn()
    found = run("cckd_l", s, t, y)
    both = found["cckd_soft"] + found["cckd_hard"]
    assert both == pytest.approx(run("cckd_t", s, t, y)["cckd"], rel=1e-12)


def test_cckd_t2_multiplies_the_soft_part_only() -> None:
    s, t, y = drawn()
    plain = run("cckd_l", s, t, y, temperature=3.0)
    scaled = run("cckd_l", s, t, y, temperature=3.0, scale_by_t2=True)
    assert scaled["cckd_soft"] == pytest.approx(9 * plain["cckd_soft"])
    assert scaled["cckd_hard"] == pytest.approx(plain["cckd_hard"])


def test_cckd_lambda_at_the_same_temperature() -> None:
    """Oracle: the formula with lambda_i from softmax(t / T), a sample at a time."""
    s, t, y = drawn()
    found = run("cckd_t", s, t, y, temperature=2.0, lambda_temperature="same")
    expected = 0.0
    for i in range(len(y)):
        p = (t[i] / 2).softmax(-1)
        wanted = p[y[i]] * p + (1 - p[y[i]]) * F.one_hot(y[i], 6)
        expected -= (wanted * (s[i] / 2).log_softmax(-1)).sum() / len(y)
    assert found["cckd"] == pytest.approx(float(expected), rel=1e-12)


def kept(s: Any, labels: Any, epoch: float, **given: Any) -> list[bool]:
    student, target, batch = made_of(s, s, labels, epoch=epoch)
    return [bool(k) for k in keep(student, target, batch, **given)]


def test_self_regulation_keeps_mistakes_and_the_unsure() -> None:
    """Probabilities (.9, .1), (.55, .45), (.3, .7), all of class 0: margins .8, .1, and a mistake.

    Epoch 0: 1 - exp(0) = 0, mistakes only. Rate .1: epoch 2, 1 - exp(-.2) = .18; epoch 20, 1 - exp(-2) = .86.
    """
    s = torch.tensor([[0.9, 0.1], [0.55, 0.45], [0.3, 0.7]]).log()
    assert kept(s, [0, 0, 0], 0, regulation=0.1) == [False, False, True]
    assert kept(s, [0, 0, 0], 2, regulation=0.1) == [False, True, True]
    assert kept(s, [0, 0, 0], 20, regulation=0.1) == [True, True, True]


def test_cckd_t_reg_is_cckd_t_on_the_kept_over_the_batch() -> None:
    s, t, y = drawn(rows=9)
    mask = torch.tensor(kept(s, y, 3.0))
    assert 0 < mask.sum() < 9
    alone = run("cckd_t", s[mask], t[mask], y[mask])["cckd"]
    assert run("cckd_t_reg", s, t, y)["cckd"] == pytest.approx(alone * int(mask.sum()) / 9)


def test_cckd_t_reg_without_a_kept_sample_is_zero_with_zero_gradient() -> None:
    s = torch.tensor([[9.0, 0.0], [0.0, 9.0]]).double().requires_grad_()
    student, target, batch = made_of(s, s.detach(), [0, 1], epoch=0.0)
    value = load("cckd_t_reg").loss(student._replace(logits=s), target, batch)["cckd"]
    (gradient,) = torch.autograd.grad(value, s)
    assert value.item() == 0
    assert (gradient == 0).all()


# dist


def test_dist_by_hand() -> None:
    """Two samples, two classes, T = 1, student (p, 1 - p) rows (.6, .4), (.3, .7), teacher (.8, .2), (.9, .1).

    Rows: student +, - ; teacher +, +: correlations 1 and -1, mean 0, so inter = 1. Columns: class 0 is .6, .3 against
    .8, .9: falling against rising, -1; class 1 likewise: intra = 1 - (-1) = 2.
    """
    s = torch.tensor([[0.6, 0.4], [0.3, 0.7]]).double().log()
    t = torch.tensor([[0.8, 0.2], [0.9, 0.1]]).double().log()
    found = run("dist", s, t, [0, 1], temperature=1.0)
    assert found["dist_inter"] == pytest.approx(2 * 1, rel=1e-5)
    assert found["dist_intra"] == pytest.approx(2 * 2, rel=1e-5)


def test_dist_against_corrcoef() -> None:
    """Oracle: torch.corrcoef, a row or a column at a time."""
    s, t, y = drawn()
    p, q = (s / 4).softmax(-1), (t / 4).softmax(-1)
    by_row = [torch.corrcoef(torch.stack([p[i], q[i]]))[0, 1] for i in range(7)]
    by_class = [torch.corrcoef(torch.stack([p[:, c], q[:, c]]))[0, 1] for c in range(6)]
    found = run("dist", s, t, y, inter=0.5, intra=3.0, beta=1.5)
    inter, intra = 1 - sum(by_row) / 7, 1 - sum(by_class) / 6
    assert found["dist_inter"] == pytest.approx(1.5 * 0.5 * 16 * float(inter), rel=1e-6)
    assert found["dist_intra"] == pytest.approx(1.5 * 3.0 * 16 * float(intra), rel=1e-6)


def test_dist_keeps_plain_kd_at_its_own_temperature() -> None:
    s, t, y = drawn()
    beside = run("dist", s, t, y, alpha=1.0, temperature=4.0, dist_temperature=1.0)
    alone = run("dist", s, t, y, temperature=1.0)
    assert beside["kd"] == pytest.approx(float(softened_kl(s, t, 4.0)))
    assert beside["dist_intra"] == pytest.approx(alone["dist_intra"])


def test_constant_rows_have_no_correlation() -> None:
    assert uncorrelated(torch.ones(3, 4), torch.randn(3, 4)).item() == 1


# dkd, nkd, rld


def dkd_by_masking(s: Tensor, t: Tensor, y: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The public form: probabilities summed over masks, and the true class lowered by 1000."""
    true_class = F.one_hot(y, s.shape[1]).double()
    p, q = (t / temperature).softmax(1), (s / temperature).softmax(1)
    b_t, b_s = (
        torch.stack([(x * true_class).sum(1), (x * (1 - true_class)).sum(1)], 1) for x in (p, q)
    )
    tckd = F.kl_div(b_s.log(), b_t, reduction="sum") * temperature**2 / len(y)
    other_t = (t / temperature - 1000 * true_class).softmax(1)
    other_s = (s / temperature - 1000 * true_class).log_softmax(1)
    return tckd, F.kl_div(other_s, other_t, reduction="sum") * temperature**2 / len(y)


def test_dkd_against_masking() -> None:
    s, t, y = drawn()
    tckd, nckd = dkd_by_masking(s, t, y, 4.0)
    found = run("dkd", s, t, y, progress=0.5)
    assert found["dkd_target"] == pytest.approx(float(tckd), rel=1e-12)
    assert found["dkd_others"] == pytest.approx(8 * float(nckd), rel=1e-12)
    assert found["ce"] == pytest.approx(float(F.cross_entropy(s, y)))


def test_dkd_by_hand() -> None:
    """T = 1, student (ln 2, 0, 0): (1/2, 1/4, 1/4); teacher (ln 6, ln 3, 0): (6, 3, 1) / 10; label 0.

    b_s = (1/2, 1/2), b_t = (.6, .4). Others: student (1/2, 1/2), teacher (3/4, 1/4).
    """
    s, t = [[math.log(2), 0.0, 0.0]], [[math.log(6), math.log(3), 0.0]]
    found = run("dkd", s, t, [0], temperature=1.0)
    assert found["dkd_target"] == pytest.approx(0.6 * math.log(1.2) + 0.4 * math.log(0.8))
    assert found["dkd_others"] == pytest.approx(8 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)))


def test_dkd_parts_add_up_to_kd() -> None:
    """The paper's equation 7: KL = TCKD + (1 - p_y of the teacher) * NCKD, for one sample."""
    s, t, y = drawn(rows=1)
    rest = 1 - t.softmax(-1)[0, y[0]]
    both = target_class_kl(s, t, y) + rest * other_classes_kl(s, t, y)
    torch.testing.assert_close(both, kl_each(s, t, 1.0).mean())


@pytest.mark.parametrize(
    ("progress", "share"), [(0.0, 0.0), (1 / 24, 0.5), (1 / 12, 1.0), (0.9, 1.0)]
)
@pytest.mark.parametrize(("name", "term"), [("dkd", "dkd_others"), ("rld", "rld_below")])
def test_warmup_of_20_in_240_epochs(name: str, term: str, progress: float, share: float) -> None:
    s, t, y = drawn()
    full = run(name, s, t, y, progress=0.99)[term]
    assert run(name, s, t, y, progress=progress)[term] == pytest.approx(share * full, rel=1e-6)


def test_dkd_with_two_classes_has_nothing_beside_the_true_one() -> None:
    s, t, y = drawn(classes=2)
    assert run("dkd", s, t, y)["dkd_others"] == 0


def nkd_by_removal(s: Tensor, t: Tensor, y: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The paper's form with the true class cut out of every row."""
    rows = torch.arange(len(y))
    on_target = -(t.softmax(1)[rows, y] * s.log_softmax(1)[rows, y]).mean()
    others = F.one_hot(y, s.shape[1]) == 0
    s, t = (x[others].reshape(len(y), -1) / temperature for x in (s, t))
    return on_target, -(t.softmax(1) * s.log_softmax(1)).sum(1).mean()


def test_nkd_against_removal() -> None:
    s, t, y = drawn()
    on_target, on_others = nkd_by_removal(s, t, y, 2.0)
    found = run("nkd", s, t, y, temperature=2.0)
    assert found["nkd_target"] == pytest.approx(float(on_target), rel=1e-12)
    assert found["nkd_others"] == pytest.approx(1.5 * 4 * float(on_others), rel=1e-12)


def test_nkd_by_hand() -> None:
    """Student (ln 2, 0, 0), teacher (ln 6, ln 3, 0), label 0: -.6 ln(1/2), and 1.5 (3/4 + 1/4) ln 2."""
    found = run("nkd", [[math.log(2), 0.0, 0.0]], [[math.log(6), math.log(3), 0.0]], [0])
    assert found["nkd_target"] == pytest.approx(0.6 * math.log(2))
    assert found["nkd_others"] == pytest.approx(1.5 * math.log(2))


def rld_by_masking(s: Tensor, t: Tensor, y: Tensor, temperature: float, scd: float) -> Any:
    """The public form: -1e9 for the classes that the teacher does not rank below the true one."""

    def binary(z: Tensor, at: Tensor) -> Tensor:
        p = (z / scd).softmax(1).gather(1, at.unsqueeze(1))
        return torch.cat([p, 1 - p], 1)

    confidence = (
        F.kl_div(binary(s, y).log(), binary(t, t.argmax(1)), reduction="batchmean") * scd**2
    )
    mask = t >= t.gather(1, y.unsqueeze(1))
    low_s, low_t = ((z / temperature).masked_fill(mask, -1e9) for z in (s, t))
    below = F.kl_div(low_s.log_softmax(1), low_t.softmax(1), reduction="batchmean")
    return confidence, below * temperature**2


def test_rld_against_masking() -> None:
    s, t, y = drawn(rows=20)
    confidence, below = rld_by_masking(s, t, y, 4.0, 2.0)
    found = run("rld", s, t, y, scd_temperature=2.0)
    assert found["rld_confidence"] == pytest.approx(float(confidence), rel=1e-10)
    assert found["rld_below"] == pytest.approx(8 * float(below), rel=1e-10)


def test_rld_by_hand() -> None:
    """Teacher (8, 6, 3, 1) / 18, label 1: M = {2, 3}. Student (1, 1, 2, 4) / 8.

    Teacher's b = (8/18, 10/18), student's (1/8, 7/8). Below, at T = 1: teacher (3/4, 1/4), student (1/3, 2/3).
    """
    s = torch.tensor([[1.0, 1.0, 2.0, 4.0]]).double().log()
    t = torch.tensor([[8.0, 6.0, 3.0, 1.0]]).double().log()
    found = run("rld", s, t, [1], temperature=1.0)
    confidence = 8 / 18 * math.log(8 / 18 * 8) + 10 / 18 * math.log(10 / 18 * 8 / 7)
    below = 0.75 * math.log(0.75 * 3) + 0.25 * math.log(0.25 * 3 / 2)
    assert found["rld_confidence"] == pytest.approx(confidence)
    assert found["rld_below"] == pytest.approx(8 * below)


def test_rld_has_nothing_below_the_teachers_last_class() -> None:
    s, t, _ = drawn()
    assert run("rld", s, t, t.argmin(-1))["rld_below"] == 0


# ttm, wttm


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0])
def test_ttm_is_a_teacher_at_one_over_gamma_and_a_student_at_one(gamma: float) -> None:
    s, t, y = drawn()
    kl = F.kl_div(s.log_softmax(-1), (t / (1 / gamma)).softmax(-1), reduction="batchmean")
    assert run("ttm", s, t, y, gamma=gamma)["ttm"] == pytest.approx(45 * float(kl), rel=1e-10)


def test_wttm_against_the_power_transform() -> None:
    """Oracle: probabilities to a power, their sum as the weight, as in the authors' code."""
    s, t, y = drawn()
    powers = t.softmax(1) ** 0.2
    weight = powers.sum(1)
    q = powers / weight.unsqueeze(1)
    each = F.kl_div(s.log_softmax(1), q, reduction="none").sum(1)
    assert run("wttm", s, t, y)["wttm"] == pytest.approx(
        4 * float((weight * each).mean()), rel=1e-10
    )
    assert run("ttm", s, t, y, gamma=0.2, beta=1.0)["ttm"] == pytest.approx(float(each.mean()))


def test_wttm_by_hand() -> None:
    """Uniform teacher of 2 classes, gamma 1/2: U = 2 * 2^-1/2 = sqrt 2, q uniform. Student (1/4, 3/4)."""
    found = run("wttm", [[0.0, math.log(3)]], [[0.0, 0.0]], [0], gamma=0.5, beta=1.0)
    assert found["wttm"] == pytest.approx(math.sqrt(2) * 0.5 * math.log(4 / 3))


def test_ttm_by_hand() -> None:
    """gamma = 1/2, teacher (0, 2 ln 3): q = (1/4, 3/4). Student uniform: ln 2 - H(1/4)."""
    found = run("ttm", [[0.0, 0.0]], [[0.0, 2 * math.log(3)]], [0], gamma=0.5, beta=1.0)
    assert found["ttm"] == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))


def test_wttm_is_ttm_is_kd_at_gamma_one() -> None:
    s, t, y = drawn()
    ttm = run("ttm", s, t, y, gamma=1.0, beta=1.0)["ttm"]
    assert run("wttm", s, t, y, gamma=1.0, beta=1.0)["wttm"] == pytest.approx(ttm)
    assert ttm == pytest.approx(float(softened_kl(s, t, 1.0)))


# ctkd


def ctkd(progress: float = 0.5, **given: Any) -> tuple[World, dict[str, Tensor]]:
    made = world(load("ctkd"), **given)
    made = made._replace(batch=made.batch._replace(progress=torch.tensor(progress).double()))
    found, _ = terms(made.method, made.values, made.student, made.target, made.batch, made.adapter)
    return made, found


def test_ctkd_is_kd_at_its_temperature() -> None:
    """theta is 1 at the start, so T = 1 + 20 / (1 + 1 / e)."""
    made, found = ctkd()
    temperature = 1 + 20 / (1 + math.exp(-1))
    s, t = made.student.logits, made.target.logits
    torch.testing.assert_close(found["kd"], 0.9 * softened_kl(s, t, temperature))
    torch.testing.assert_close(found["ce"], 0.1 * F.cross_entropy(s, made.batch.labels))


@pytest.mark.parametrize(
    ("progress", "factor"), [(0.0, 0.0), (1 / 48, -0.5), (1 / 24, -1.0), (0.9, -1.0)]
)
def test_ctkd_reverses_its_gradient_along_half_a_cosine(progress: float, factor: float) -> None:
    """Oracle: autograd through T alone, times -(1 - cos(pi p)) / 2 with p the share of 10 in 240 epochs."""
    made, found = ctkd(progress)
    theta = torch.ones(1, dtype=torch.float64, requires_grad=True)
    temperature = 1 + 20 * theta.sigmoid()
    direct = 0.9 * softened_kl(made.student.logits, made.target.logits, temperature).sum()
    (plain,) = torch.autograd.grad(direct, theta)
    assert made.adapter is not None
    (reversed_,) = torch.autograd.grad(found["kd"], list(made.adapter.parameters()))
    torch.testing.assert_close(reversed_, factor * plain, rtol=1e-5, atol=1e-9)


def test_ctkd_by_instance_starts_at_the_middle_for_every_sample() -> None:
    """The last layer is 0 at the start: T = 1 + 20 / 2 = 11."""
    made, found = ctkd(kind="instance")
    s, t = made.student.logits, made.target.logits
    torch.testing.assert_close(found["kd"], 0.9 * softened_kl(s, t, 11.0))


def test_ctkd_by_instance_scales_each_sample_by_its_own_temperature() -> None:
    made, _ = ctkd(kind="instance")
    assert made.adapter is not None
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in made.adapter.parameters():
            p.copy_(torch.randn(p.shape, generator=g))
    found, student = terms(
        made.method, made.values, made.student, made.target, made.batch, made.adapter
    )
    temperatures = 1 + 20 * student.adapted.theta.sigmoid()
    each = [
        softened_kl(
            made.student.logits[i : i + 1], made.target.logits[i : i + 1], float(T.detach())
        )
        for i, T in enumerate(temperatures)
    ]
    torch.testing.assert_close(found["kd"], 0.9 * torch.stack(each).mean())


# mlkd, mixup


def mlkd_by_views(s: Tensor, t: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The public code without its masks, each view's KL fed that view's logits."""
    n = len(y) // 2
    found = {"ce": 0.1 * (F.cross_entropy(s[:n], y[:n]) + F.cross_entropy(s[n:], y[n:]))}
    kd = batch = of_class = torch.zeros((), dtype=torch.float64)
    for temperature in (4.0, 3.0, 5.0, 2.0, 6.0):
        for view in (slice(0, n), slice(n, None)):
            kd = kd + softened_kl(s[view], t[view], temperature)
        p, q = (s[:n] / temperature).softmax(1), (t[:n] / temperature).softmax(1)
        batch = batch + ((torch.mm(q, q.t()) - torch.mm(p, p.t())) ** 2).sum() / n
        of_class = of_class + ((torch.mm(q.t(), q) - torch.mm(p.t(), p)) ** 2).sum() / s.shape[1]
    return {**found, "kd": 0.9 * kd, "mlkd_batch": 0.9 * batch, "mlkd_class": 0.9 * of_class}


def test_mlkd_against_a_loop_over_views_and_temperatures() -> None:
    s, t, _ = drawn(rows=8)
    y = torch.tensor([0, 3, 2, 5]).repeat(2)
    found = run("mlkd", s, t, y)
    for term, expected in mlkd_by_views(s, t, y).items():
        assert found[term] == pytest.approx(float(expected), rel=1e-12), term


def test_mlkd_by_hand() -> None:
    """One image, two classes, student (1/2, 1/2), teacher (1, 0) at any T: logits +-1e6.

    Batch: P P' = 1/2, Q Q' = 1: (1/2)^2 = 1/4 for each of five T. Class: P'P is 1/4 everywhere, Q'Q = diag(1, 0):
    (9/16 + 3/16) / 2 = 3/8.
    """
    s, t = torch.zeros(2, 2), torch.tensor([[1e6, -1e6], [1e6, -1e6]])
    found = run("mlkd", s, t, [0, 0])
    assert found["mlkd_batch"] == pytest.approx(0.9 * 5 * 1 / 4)
    assert found["mlkd_class"] == pytest.approx(0.9 * 5 * 3 / 8)
    expected = 2 * math.log(2) * sum(temperature**2 for temperature in (4, 2, 3, 5, 6))
    assert found["kd"] == pytest.approx(0.9 * expected)


def mixed(loss: str, view: str = "single", sources: int = 2) -> tuple[dict[str, float], Any]:
    g = torch.Generator().manual_seed(1)
    s = torch.randn(4, 5, generator=g).double()
    rows = 4 if view == "mixed" else 4 * sources
    t = torch.randn(rows, 5, generator=g).double()
    y = torch.randint(0, 5, (4 * sources,), generator=g)
    w = torch.tensor([0.7, 0.2, 0.1] if sources == 3 else [0.7, 0.3]).double()
    given = {"loss": loss, "teacher_view": view, "sources": sources, "weights": w}
    return run("mixup", s, t, y, **given), (s, t, y, w)


@pytest.mark.parametrize("sources", [2, 3])
@pytest.mark.parametrize("loss", ["ce", "kl"])
def test_mixup_against_a_sum_over_sources(loss: str, sources: int) -> None:
    """Oracle: torch's cross_entropy with probabilities, and kl_div at T = 4, source by source."""
    found, (s, t, y, w) = mixed(loss, sources=sources)
    hard = sum(w[k] * F.cross_entropy(s, y[4 * k : 4 * k + 4]) for k in range(sources))
    soft: Any = 0.0
    for k in range(sources):
        teacher = t[4 * k : 4 * k + 4]
        if loss == "ce":
            soft += w[k] * F.cross_entropy(s, teacher.softmax(1))
        else:
            log_q, p = (s / 4).log_softmax(1), (teacher / 4).softmax(1)
            soft += w[k] * 16 * F.kl_div(log_q, p, reduction="batchmean")
    assert found["ce"] == pytest.approx(float(hard), rel=1e-12)
    assert found["mixup"] == pytest.approx(float(soft), rel=1e-12)


def test_mixup_by_hand() -> None:
    """Weights 3/4, 1/4, labels 0 and 1, a uniform student: every cross-entropy is ln 2. Soft labels likewise."""
    w = torch.tensor([0.75, 0.25]).double()
    found = run("mixup", [[0.0, 0.0]], [[0.0, 2.0], [1.0, 0.0]], [0, 1], weights=w)
    assert found == {"ce": pytest.approx(math.log(2)), "mixup": pytest.approx(math.log(2))}


def test_mixup_with_a_teacher_of_the_mixture_is_kd_on_it() -> None:
    found, (s, t, _, _) = mixed("kl", "mixed")
    assert found["mixup"] == pytest.approx(float(softened_kl(s, t, 4.0)), rel=1e-12)


def test_mixup_says_what_the_loop_shows() -> None:
    inputs = load("mixup").inputs(sources=3, teacher_view="mixed", concentration=0.4)
    assert (inputs.blocks, inputs.mix, inputs.teacher_sees_mix) == (3, True, True)
    assert inputs.concentration == 0.4
    assert len(inputs.strong) == 3


# ckd


def ckd_in_groups(s: Tensor, t: Tensor, y: Tensor, group: int, loss: str) -> tuple[Any, Any]:
    """A group at a time, from the definition."""
    n, hard, soft = len(y) // group, 0.0, 0.0
    n_positive = math.ceil(group / 2)
    for i in range(n):
        rows = [i + n * k for k in range(group)]
        ds, dt, dy = (
            x[rows[:n_positive]].mean(0) - x[rows[n_positive:]].mean(0)
            for x in (s, t, F.one_hot(y, s.shape[1]).double())
        )
        if loss == "kl":
            log_q = (ds / 4).log_softmax(0)
            hard += float(16 * F.kl_div(log_q, (dy / 4).softmax(0), reduction="sum")) / n
            soft += float(16 * F.kl_div(log_q, (dt / 4).softmax(0), reduction="sum")) / n
        else:
            hard, soft = hard + float(F.mse_loss(ds, dy)) / n, soft + float(F.mse_loss(ds, dt)) / n
    return hard, soft


@pytest.mark.parametrize("loss", ["kl", "mse"])
@pytest.mark.parametrize("group", [2, 3, 4])
def test_ckd_against_groups_one_at_a_time(group: int, loss: str) -> None:
    s, t, y = drawn(rows=12)
    hard, soft = ckd_in_groups(s, t, y, group, loss)
    found = run("ckd", s, t, y, group=group, loss=loss)
    assert found["ckd_labels"] == pytest.approx(hard, rel=1e-12)
    assert found["ckd"] == pytest.approx(soft, rel=1e-12)


def test_ckd_by_hand() -> None:
    """Two images, mse. Dz_s = (1, 0) - (0, 0), Dz_t = (3, 0) - (1, 1) = (2, -1), Dy = (1, 0) - (0, 1) = (1, -1).

    With labels: (0 + 1) / 2. With the teacher: (1 + 1) / 2.
    """
    found = run(
        "ckd", [[1.0, 0.0], [0.0, 0.0]], [[3.0, 0.0], [1.0, 1.0]], [0, 1], group=2, loss="mse"
    )
    assert found == {"ckd_labels": pytest.approx(0.5), "ckd": pytest.approx(1.0)}


def test_ckd_is_mse_kd_where_the_teacher_is_the_student_up_to_a_shift() -> None:
    """A constant added to all of the teacher's logits is no difference."""
    s, _, y = drawn(rows=6)
    assert run("ckd", s, s + 3.0, y, group=3, loss="mse")["ckd"] == pytest.approx(0, abs=1e-12)
    assert run("ckd", s, s + 3.0, y, group=3, loss="kl")["ckd"] == pytest.approx(0, abs=1e-12)


def test_ckd_passes_positive_and_negative_images_apart() -> None:
    assert [load("ckd").inputs(group=n).forwards for n in (2, 3, 4)] == [(1, 1), (2, 1), (2, 2)]


def test_ckd_keeps_the_teachers_maps_only_for_an_inner_loss() -> None:
    made = world(load("ckd"))
    assert made.adapter is None
    assert made.target.features == ()
    assert world(load("ckd"), inner="vid").target.features


def test_ckd_inner_correlation_against_its_definition() -> None:
    made = world(load("ckd"), group=2, inner="correlation")
    found, _ = terms(made.method, made.values, made.student, made.target, made.batch, made.adapter)
    part: Any = made.adapter
    e_s, e_t = made.student.embedding, made.target.embedding
    v_s = part.part.student(e_s[:6] - e_s[6:])
    v_t = part.part.teacher(e_t[:6] - e_t[6:])
    delta = (v_s - v_t).abs()
    expected = 0.02 * torch.mean((delta[:-1] * delta[1:]).sum(1))
    torch.testing.assert_close(found["ckd_correlation"], expected)


def test_ckd_inner_hint_against_its_definition() -> None:
    made = world(load("ckd"), group=2, inner="hint")
    found, _ = terms(made.method, made.values, made.student, made.target, made.batch, made.adapter)
    part: Any = made.adapter
    ds, dt = (difference(x.features[2], 2) for x in (made.student, made.target))
    expected = 100 * F.mse_loss(part.part(ds), dt)
    torch.testing.assert_close(found["ckd_hint"], expected)


def test_ckd_inner_vid_against_its_definition() -> None:
    """Oracle: 1/2 mean [(mu - dt)^2 / v + log v], mu from the regressors on the differences, v = 5 at the start."""
    made = world(load("ckd"), group=2, inner="vid")
    found, _ = terms(made.method, made.values, made.student, made.target, made.batch, made.adapter)
    part: Any = made.adapter
    expected = torch.zeros((), dtype=torch.float64)
    for k, regressor in enumerate(part.part.means, start=1):
        ds, dt = (difference(x.features[k], 2) for x in (made.student, made.target))
        expected = expected + 0.5 * ((regressor(ds) - dt) ** 2 / 5 + math.log(5)).mean()
    torch.testing.assert_close(found["ckd_vid"], expected, rtol=1e-5, atol=1e-6)


# the record


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("cckd_l", "lambda_temperature", "two", "must be one of one, same, got 'two'"),
        ("ckd", "group", 5, "must be one of 2, 3, 4, got 5"),
        ("dkd", "standardize", 1, "must be true or false, got 1"),
        ("crd", "n_negatives", 0, "must be 1 or more, got 0"),
        ("crd", "n_negatives", 2.5, "must be a whole number, got 2.5"),
        ("dkd", "warmup", 1.5, "must be from 0 to 1, got 1.5"),
        ("mixup", "concentration", 0.0, "must be above 0, got 0.0"),
    ],
)
def test_illegal_values_are_refused(name: str, key: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(load(name), key, value)


@pytest.mark.parametrize("name", LOGIT_METHODS)
def test_nothing_in_the_loss_waits_for_a_number(name: str) -> None:
    """The loss runs where values do not exist: shapes only, on torch's meta device."""
    made = world(load(name))
    if made.adapter is not None or name == "mixup":
        pytest.skip("built for a real device")
    to_meta: Callable[[Any], Any] = lambda x: x.to("meta") if isinstance(x, Tensor) else x  # noqa: E731
    student, target, values = torch.utils._pytree.tree_map(
        to_meta, (made.student, made.target, made.values)
    )
    batch = Batch(*(to_meta(x) for x in made.batch))
    found = load(name).loss(
        student,
        target,
        batch,
        **{("lambda_" if k == "lambda" else k): v for k, v in values.items()},
    )
    assert all(value.shape == () for value in found.values())


def test_adapters_are_modules_or_none() -> None:
    assert isinstance(world(load("ctkd")).adapter, nn.Module)
    assert world(load("ckd"), inner="none").adapter is None


def test_presets_of_the_public_sweeps_name_legal_values() -> None:
    """Each preset named after a method holds values that the method or the recipe takes."""
    methods = (*LOGIT_METHODS, "rkd", "pkt", "correlation", "crd", "sp")
    found = 0
    for preset in search_spaces.names():
        owners = [
            name for name in methods if preset.startswith(f"{name}_") and preset not in methods
        ]
        for key, domain in search_spaces.load(preset).items() if owners else ():
            values = domain.values if isinstance(domain, search_spaces.Domain) else (domain,)
            for value in values:
                if key in RECIPE_KEYS:
                    check_recipe(key, value)
                else:
                    check(load(max(owners, key=len)), key, value)
        found += bool(owners)
    assert found >= 10


@pytest.mark.parametrize("name", (*LOGIT_METHODS, "rkd", "pkt", "correlation", "crd", "sp"))
def test_the_published_setting_lies_inside_the_space(name: str) -> None:
    published = defaults(load(name))
    for key, domain in search_spaces.load(name).items():
        assert isinstance(domain, search_spaces.Domain)
        assert domain.holds(published[key]), key
        for end in domain.ends():
            check(load(name), key, end)
