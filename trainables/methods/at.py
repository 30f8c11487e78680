"""Match where the teacher looks: the energy of its feature maps over space.

Zagoruyko, Komodakis. Paying More Attention to Attention. 2017. arXiv:1612.03928, section 3.1.

    Q(F) = vec(mean_c |F_c|^p),  Qn = Q / ||Q||_2

    norm = squared     L = lambda * CE + alpha * T^2 * KL + beta * sum_j mean (Qn(F_s,j) - Qn(F_t,j))^2
    norm = euclidean   L = lambda * CE + alpha * T^2 * KL + beta * 1/2 sum_j mean_b ||Qn(F_s,j) - Qn(F_t,j)||_2

j runs over the stages, after their activation, without the stem; the first mean is over batch and positions. The
squared form, beta = 1000 and p = 2 are the authors' code, RepDistiller and mdistiller; the euclidean form is the
paper's. (mean_c for sum_c changes nothing: Qn is normalised.) `decay` lets beta fall linearly to 0, for use with KD.

Maps of unequal size: the larger feature map is average-pooled first and the attention taken then, as published. So
that attention maps can be kept instead of feature maps, `prepare` notes the sizes at which the two networks meet. A
dead map has Qn = 0 and a bounded gradient. Networks of unequal depth are matched from the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from trainables.contract import Batch, Context, Method, Outputs, Scalar
from trainables.losses import (
    full,
    hard_and_soft,
    one_of,
    pairs,
    pooled_to,
    safe_norm,
    too_few_maps,
    unit,
)

NORMS = ("squared", "euclidean")


class Attention(NamedTuple):
    """What the teacher looks at, one map a stage."""

    logits: Tensor  # (B, C)
    maps: tuple[Tensor, ...]  # mean_c |F_c|^p, each (B, H_l, W_l), at the smaller network's sizes


def energy(maps: Tensor, p: int) -> Tensor:
    """mean_c |F_c|^p of (B, c, H, W): (B, H, W); raises ValueError for p below 1."""
    if p < 1:
        raise ValueError(f"p must be 1 or more, got {p!r}")
    maps = full(maps)
    powered = maps.pow(p) if p % 2 == 0 else maps.abs().pow(p)  # an even power needs no |.|
    return powered.mean(1)


def attention_gap(student_map: Tensor, teacher_energy: Tensor, p: int, norm: str) -> Tensor:
    """One stage's term, from (B, c, H, W) and (B, h, w): h not above H."""
    ours = unit(energy(pooled_to(student_map, teacher_energy.shape[-1]), p).flatten(1))
    gap = ours - unit(teacher_energy.flatten(1))
    if one_of("norm", norm, NORMS) == "squared":
        return (gap**2).mean()
    return safe_norm(gap).mean() / 2


def prepare(context: Context, outputs: Iterator[Outputs]) -> dict[str, Tensor]:
    """The heights at which the two networks' stages meet; looks at no image."""
    stages = pairs(context.student.features[1:], context.teacher.features[1:])
    return {"sizes": torch.tensor([min(s.shape[-1], t.shape[-1]) for s, t in stages])}


def target(teacher: Outputs, prepared: Mapping[str, Tensor], *, p: int = 2) -> Attention:
    """The energies of the stages that the student has too."""
    sizes = prepared["sizes"].tolist()
    maps = teacher.features[len(teacher.features) - len(sizes) :]
    pooled = [pooled_to(full(t), size) for t, size in zip(maps, sizes, strict=True)]
    return Attention(teacher.logits, tuple(energy(t, p) for t in pooled))


def loss(
    student: Outputs,
    target: Attention,
    batch: Batch,
    *,
    beta: Scalar = 1000.0,
    lambda_: Scalar = 1.0,
    alpha: Scalar = 0.0,
    temperature: Scalar = 4.0,
    p: int = 2,
    norm: str = "squared",
    decay: bool = False,
) -> dict[str, Tensor]:
    """CE, KD and the attention gap, summed over stages."""
    stages = pairs(student.features[1:], target.maps)
    gaps = [attention_gap(s, t, p, norm) for s, t in stages]
    weight = beta * (1 - batch.progress) if decay else beta
    return {
        **hard_and_soft(student, target.logits, batch, lambda_, alpha, temperature),
        "attention": weight * torch.stack(gaps).sum(),
    }


def refuse(context: Context, **_: object) -> str | None:
    """Attention is compared stage by stage."""
    return too_few_maps(context)


METHOD = Method(
    paper="arXiv:1612.03928",
    loss=loss,
    smooths=True,
    target=target,
    prepare=prepare,
    needs=frozenset({"features"}),
    refuse=refuse,
    choices={"norm": NORMS},
)
