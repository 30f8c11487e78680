"""Match the teacher's maps before their activation, except where both are negative enough.

Heo, Kim, Yun, Park, Kwak, Choi. A Comprehensive Overhaul of Feature Distillation. ICCV 2019. arXiv:1904.01866,
section 3.

    s = c(P_s),  t' = max(P_t, m_channel)   (maps before their activation; c a 1x1 convolution and batch norm)
    d(s, t') = (s - t')^2 where s > t' or t' > 0, else 0
    own = sum_j 2^(j - n + 1) * sum d(s_j, t'_j) / B   over the stages j = 0 ... n - 1, without the stem

m is a channel's mean below zero, E[x | x < 0] of x ~ N(b, g^2), from the shift b and scale g of the teacher's batch
norm right before the activation: m = b - |g| phi(b / |g|) / Phi(-b / |g|), or -3 |g| where Phi(-b / |g|) <= 0.001.
beta = 1e-3 is the authors' for 32-pixel images (1e-4 ImageNet, 1e-5 detection and segmentation) and mdistiller's.

Departures: the teacher stays in eval mode, as the caller hands it over (the authors' and mdistiller's runs in train
mode, with the statistics of the batch). A scale of 0 gives m = min(b, 0), the limit, where the authors' code divides
by it. The larger map is average-pooled to the smaller one's size (the student's before c). Networks of unequal depth
are matched from the end. The sum over a map is taken in float32 at least.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainables.adapters import conv1x1_bn
from trainables.contract import Batch, Context, Method, Outputs, Scalar
from trainables.losses import hard_and_soft, matched, pairs

RARE = 0.001  # chance of a negative value below which the mean below zero is not worth taking
SMALLEST_SCALE = 1e-12  # of |g|, against a division by 0


class Margins(NamedTuple):
    """The teacher's maps before activation and its channels' margins."""

    logits: Tensor  # (B, C)
    maps: tuple[Tensor, ...]  # each (B, c_t, H, W)
    margins: tuple[Tensor, ...]  # each (1, c_t, 1, 1)


class Connected(NamedTuple):
    """The student's maps with the teacher's channels, before activation."""

    maps: tuple[Tensor, ...]  # each (B, c_t, h, w)


class Connectors(nn.Module):
    """c of every stage."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        stages = pairs(context.student.preacts[1:], context.teacher.preacts[1:])
        self.stages = nn.ModuleList(conv1x1_bn(s.shape[1], t.shape[1]) for s, t in stages)

    def forward(self, student: Outputs, target: Margins, batch: Batch) -> Connected:
        """One map a stage."""
        stages = matched(student.preacts[1:], target.maps)
        return Connected(tuple(c(s) for c, (s, _) in zip(self.stages, stages, strict=True)))


def margin(shift: Tensor, scale: Tensor) -> Tensor:
    """E[x | x < 0] of x ~ N(shift, scale^2), a channel each, in float64; -3 |scale| where x < 0 is rare."""
    mean, deviation = shift.double(), scale.double().abs().clamp(min=SMALLEST_SCALE)
    chance = torch.special.ndtr(-mean / deviation)
    density = (-((mean / deviation) ** 2) / 2).exp() / math.sqrt(2 * math.pi)
    rare = chance <= RARE
    below = mean - deviation * density / torch.where(rare, 1.0, chance)
    return torch.where(rare, -3 * scale.double().abs(), below)


def prepare(context: Context, outputs: Iterator[Outputs]) -> dict[str, Tensor]:
    """Each stage's margins, the first stage's first; looks at no image."""
    norms = list(context.teacher_model.norms)[1:]  # type: ignore[arg-type]
    return {
        f"margin{j}": margin(norm.bias.detach(), norm.weight.detach()).float().view(1, -1, 1, 1)
        for j, norm in enumerate(norms)
    }


def target(teacher: Outputs, prepared: Mapping[str, Tensor]) -> Margins:
    """The teacher's stages before activation."""
    maps = teacher.preacts[1:]
    margins = tuple(prepared[f"margin{j}"].to(m) for j, m in enumerate(maps))
    return Margins(teacher.logits, maps, margins)


def partial_distance(s: Tensor, t: Tensor, margin: Tensor) -> Tensor:
    """Sum of d over everything."""
    t = torch.maximum(t, margin)
    return (((s > t) | (t > 0)) * (s - t) ** 2).sum()


def loss(
    student: Outputs,
    target: Margins,
    batch: Batch,
    *,
    beta: Scalar = 1e-3,
    lambda_: Scalar = 1.0,
    alpha: Scalar = 0.0,
    temperature: Scalar = 4.0,
) -> dict[str, Tensor]:
    """CE, KD and the partial distances, the last stage's with weight 1."""
    stages = matched(student.adapted.maps, target.maps)
    margins = target.margins[len(target.margins) - len(stages) :]
    own = [
        2.0 ** (j - len(stages) + 1) * partial_distance(s, t, m)
        for j, ((s, t), m) in enumerate(zip(stages, margins, strict=True))
    ]
    return {
        **hard_and_soft(student, target.logits, batch, lambda_, alpha, temperature),
        "margin_relu": beta * torch.stack(own).sum() / target.logits.shape[0],
    }


def adapter(context: Context) -> Connectors:
    """A connector for each stage."""
    return Connectors(context)


def refuse(context: Context, **_: object) -> str | None:
    """Both networks must show their maps before activation, the teacher with batch norm right before it."""
    found = len(context.student.preacts), len(context.teacher.preacts)
    if min(found) < 2:
        return (
            "student and teacher must each give 2 feature maps or more before their activation, "
            f"got {found[0]} and {found[1]}"
        )
    norms = list(getattr(context.teacher_model, "norms", ()))
    kinds = [type(norm).__name__ if norm is not None else "none" for norm in norms]
    wanted = [m.shape[1] for m in context.teacher.preacts[1:]]
    usable = [_channels(norm) for norm in norms[1:]]
    if len(norms) == found[1] and usable == wanted:
        return None
    return (
        "the teacher must have batch norm with weights right before each stage's activation "
        f"(channels {wanted}), got {', '.join(kinds) or 'none'}"
    )


def _channels(norm: object) -> int | None:
    if not isinstance(norm, nn.BatchNorm2d) or not norm.affine:
        return None
    return norm.num_features


METHOD = Method(
    paper="arXiv:1904.01866",
    loss=loss,
    smooths=True,
    target=target,
    needs=frozenset({"features", "preacts", "teacher"}),
    adapter=adapter,
    prepare=prepare,
    refuse=refuse,
)
