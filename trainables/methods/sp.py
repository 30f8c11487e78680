"""Make the same pairs of samples look alike to the student as to the teacher.

Tung, Mori. Similarity-Preserving Knowledge Distillation. 2019. arXiv:1907.09682.

    A = maps of a stage as (B, c h w);   G = rows of A A' divided by their norm
    L = lambda * CE + alpha * T^2 KL + beta * sum over stages of |G_t - G_s|^2 / B^2

Defaults: lambda 1, alpha 0, beta 3000, the last stage (RepDistiller, mdistiller). `layers: all` adds the others and the
stem, as one public implementation does over its four maps; stages are then paired from the last one back. A sample
whose maps are 0 has a row of zeros, without a gradient. Student and teacher may differ in channels and size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from trainables.contract import Batch, Context, Method, Outputs, Scalar
from trainables.losses import direction, hard_and_soft, one_of, pairs

LAYERS = ("last", "all")


class Target(NamedTuple):
    """The maps that are compared, and the logits."""

    logits: Tensor
    maps: tuple[Tensor, ...]


def target(teacher: Outputs, *, layers: str = "last") -> Target:
    """The teacher's last map, or all."""
    return Target(teacher.logits, chosen(teacher.features, layers))


def chosen(features: tuple[Tensor, ...], layers: str) -> tuple[Tensor, ...]:
    """The maps that `layers` names."""
    return features[-1:] if one_of("layers", layers, LAYERS) == "last" else features


def similarities(maps: Tensor) -> Tensor:
    """(B, B): rows of unit length from (B, c, h, w)."""
    flat = maps.flatten(1)
    return direction(flat @ flat.mT)


def loss(
    student: Outputs,
    target: Target,
    batch: Batch,
    *,
    temperature: Scalar = 4.0,
    alpha: Scalar = 0.0,
    beta: Scalar = 3000.0,
    lambda_: Scalar = 1.0,
    layers: str = "last",
) -> dict[str, Tensor]:
    """Hard labels, plain KD, and the pairwise similarities."""
    gaps = [
        ((similarities(t) - similarities(s)) ** 2).mean()
        for s, t in pairs(chosen(student.features, layers), target.maps)
    ]
    return {
        **hard_and_soft(student, target.logits, batch, lambda_, alpha, temperature),
        "sp": beta * torch.stack(gaps).sum(),
    }


def refuse(context: Context, *, layers: str = "last", **_: object) -> str | None:
    """Why the networks cannot be compared, or None."""
    if context.student.features and context.teacher.features:
        return None
    return "student and teacher must each have a feature map, got none"


METHOD = Method(
    paper="arXiv:1907.09682",
    loss=loss,
    smooths=True,
    target=target,
    needs=frozenset({"features", "batch"}),
    refuse=refuse,
    choices={"layers": LAYERS},
)
