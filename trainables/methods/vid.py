"""Make the student's maps tell as much as possible about the teacher's: a variational bound on their information.

Ahn, Hu, Damianou, Lawrence, Dai. Variational Information Distillation for Knowledge Transfer. CVPR 2019.
arXiv:1904.05835, section 2.

    mu = r(F_s),   v_c = softplus(rho_c) + 1e-5
    own = sum_stages 1/2 mean [ (mu - F_t)^2 / v_c + log v_c ]

r is three 1x1 convolutions (c_s to c_t to c_t to c_t, ReLU between them), one for each stage; r and rho are trained
with the student (mdistiller leaves rho out of its optimiser). v starts at 5. The value may be negative. Stages after
activation, without the stem; the larger map is average-pooled to the smaller one's size, the student's before r.
beta = 1 is RepDistiller's, mdistiller's and Knowledge-Distillation-Zoo's.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.contract import Batch, Context, Method, Outputs, Scalar
from trainables.losses import (
    Maps,
    hard_and_soft,
    matched,
    pairs,
    same_size,
    stage_maps,
    too_few_maps,
)

INITIAL_VARIANCE = 5.0
SMALLEST_VARIANCE = 1e-5


class Gaussians(NamedTuple):
    """What the student expects of the teacher's maps."""

    means: tuple[Tensor, ...]  # each (B, c_t, h, w)
    variances: tuple[Tensor, ...]  # each (1, c_t, 1, 1)


class Regressors(nn.Module):
    """r and rho of every stage."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        stages = pairs(context.student.features[1:], context.teacher.features[1:])
        start = math.log(math.expm1(INITIAL_VARIANCE - SMALLEST_VARIANCE))
        self.means = nn.ModuleList(_regressor(s.shape[1], t.shape[1]) for s, t in stages)
        self.rho = nn.ParameterList(torch.full((t.shape[1],), start) for _, t in stages)

    def forward(self, student: Outputs, target: Maps, batch: Batch) -> Gaussians:
        """One Gaussian a channel and position."""
        stages = matched(student.features[1:], target.maps)
        means = [r(s) for r, (s, _) in zip(self.means, stages, strict=True)]
        variances = [(F.softplus(rho) + SMALLEST_VARIANCE).view(1, -1, 1, 1) for rho in self.rho]
        return Gaussians(tuple(means), tuple(variances))


def negative_log_likelihood(mean: Tensor, variance: Tensor, value: Tensor) -> Tensor:
    """1/2 mean [(mean - value)^2 / variance + log variance]."""
    return 0.5 * ((mean - value) ** 2 / variance + variance.log()).mean()


def loss(
    student: Outputs,
    target: Maps,
    batch: Batch,
    *,
    beta: Scalar = 1.0,
    lambda_: Scalar = 1.0,
    alpha: Scalar = 0.0,
    temperature: Scalar = 4.0,
) -> dict[str, Tensor]:
    """CE, KD and the bound, summed over stages."""
    stages = pairs(student.adapted.means, target.maps)
    terms = [
        negative_log_likelihood(mean, variance, same_size(mean, t)[1])
        for (mean, t), variance in zip(stages, student.adapted.variances, strict=True)
    ]
    return {
        **hard_and_soft(student, target.logits, batch, lambda_, alpha, temperature),
        "vid": beta * torch.stack(terms).sum(),
    }


def adapter(context: Context) -> Regressors:
    """Regressors and variances for each stage."""
    return Regressors(context)


def refuse(context: Context, **_: object) -> str | None:
    """The bound is taken stage by stage."""
    return too_few_maps(context)


def _regressor(n_in: int, n_out: int) -> nn.Sequential:
    widths = (n_in, n_out, n_out, n_out)
    convs = [nn.Conv2d(a, b, 1, bias=False) for a, b in pairwise(widths)]
    return nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])


METHOD = Method(
    paper="arXiv:1904.05835",
    loss=loss,
    smooths=True,
    target=stage_maps,
    needs=frozenset({"features", "teacher"}),
    adapter=adapter,
    refuse=refuse,
)
