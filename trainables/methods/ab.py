"""Make the student's neurons fire where the teacher's do: match activation boundaries, in a first phase.

Heo, Lee, Yun, Choi. Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons. AAAI 2019.
arXiv:1811.03233, section 3.

    s = c(P_s),  t = P_t   (maps before their activation; c the connector)
    rho(s, t) = (s + m)^2 [s > -m and t <= 0] + (s - m)^2 [s <= m and t > 0]
    own = 3/1000 * sum_j 2^(j - n + 1) * sum rho(s_j, t_j) / B   over the stages j = 0 ... n - 1, without the stem

    first  beta * own alone (student and connectors; the classifier stays as it is)
    then   lambda * CE + alpha * T^2 * KL alone

m = 1, beta = 1, the factor 3/1000, the halving from the last stage down, and 30 initial epochs before 240
(`first_share` = 1/9) are RepDistiller's. A connector is the identity where the shapes agree, else a convolution that
fits the sizes and batch norm (1x1 for equal sizes); where it cannot fit, the teacher's map is average-pooled.
Knowledge-Distillation-Zoo trains jointly with margin 2 and beta = 10. Networks of unequal depth are matched from the
end. The sum over a map is taken in float32 at least.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainables.adapters import ConvReg
from trainables.contract import NON_NEGATIVE, Batch, Context, Method, Outputs, Phase, Scalar
from trainables.losses import FIRST_SHARE, Maps, hard_and_soft, matched, pairs, too_few_maps

SCALE = 3 / 1000


class Connected(NamedTuple):
    """The student's maps in the teacher's shapes, before activation."""

    maps: tuple[Tensor, ...]  # each (B, c_t, h, w)


class Connectors(nn.Module):
    """c of every stage."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        stages = pairs(context.student.preacts[1:], context.teacher.preacts[1:])
        self.stages = nn.ModuleList(
            nn.Identity() if s.shape[1:] == t.shape[1:] else ConvReg(s.shape, t.shape, relu=False)
            for s, t in stages
        )

    def forward(self, student: Outputs, target: Maps, batch: Batch) -> Connected:
        """One map a stage."""
        stages = pairs(student.preacts[1:], target.maps)
        return Connected(tuple(c(s) for c, (s, _) in zip(self.stages, stages, strict=True)))


def target(teacher: Outputs) -> Maps:
    """The teacher's logits and its stages' maps before activation."""
    return Maps(teacher.logits, teacher.preacts[1:])


def boundary(s: Tensor, t: Tensor, margin: Scalar) -> Tensor:
    """Sum of rho over everything; rho is relu(m + s)^2 where t <= 0, and relu(m - s)^2 where t > 0."""
    side = torch.where(t > 0, -1.0, 1.0)
    return ((margin + side * s).relu() ** 2).sum()


def first_loss(
    student: Outputs, target: Maps, batch: Batch, *, beta: Scalar = 1.0, margin: Scalar = 1.0
) -> dict[str, Tensor]:
    """The boundaries alone, the last stage's with weight 1."""
    stages = matched(student.adapted.maps, target.maps)
    own = [2.0 ** (j - len(stages) + 1) * boundary(s, t, margin) for j, (s, t) in enumerate(stages)]
    return {"boundary": beta * SCALE * torch.stack(own).sum() / target.logits.shape[0]}


def loss(
    student: Outputs,
    target: Maps,
    batch: Batch,
    *,
    lambda_: Scalar = 1.0,
    alpha: Scalar = 0.0,
    temperature: Scalar = 4.0,
) -> dict[str, Tensor]:
    """CE and KD."""
    return hard_and_soft(student, target.logits, batch, lambda_, alpha, temperature)


def adapter(context: Context) -> Connectors:
    """A connector for each stage."""
    return Connectors(context)


def share(*, first_share: Scalar = FIRST_SHARE) -> float:
    """Of all epochs, those of the boundaries alone."""
    return float(first_share)


def refuse(context: Context, **_: object) -> str | None:
    """Boundaries are compared stage by stage, before activation."""
    found = len(context.student.preacts), len(context.teacher.preacts)
    if min(found) < 2:
        return (
            "student and teacher must each give 2 feature maps or more before their activation, "
            f"got {found[0]} and {found[1]}"
        )
    return too_few_maps(context)


METHOD = Method(
    paper="arXiv:1811.03233",
    loss=loss,
    smooths=True,
    target=target,
    needs=frozenset({"features", "preacts", "teacher"}),
    adapter=adapter,
    first_phase=Phase(first_loss, share),
    refuse=refuse,
    bounds={"first_share": (0, 0.9), "margin": NON_NEGATIVE},
)
