"""Learn the temperature against the student: it moves to where the soft term is hardest, more so as training goes on.

Li, Li, Yang, Zhao, Song, Luo, Li, Yang. Curriculum Temperature for Knowledge Distillation. 2022. arXiv:2211.16231.

    T = lowest + span * sigmoid(theta)
    L = lambda * CE + alpha * mean T^2 KL(softmax(z_t / T) || softmax(z_s / T))

theta gets the gradient of L times -reversal * (1 - cos(pi * min(progress / warmup, 1))) / 2: from nothing to the full
reversed gradient. `kind: global` has one theta, 1 at the start; `kind: instance` has one a sample, from a small network
that sees both networks' probabilities, sorted by the teacher's, with no gradient into the student.

Defaults: alpha 0.9, lambda 1 - alpha = 0.1, lowest 1 (there t_start), span 20 (there t_end), so T in (1, 21);
reversal 1; warm-up 10 of 240 epochs.

Departures: the warm-up rises with every step, not every epoch. The instance network here is two linear layers with
batch normalisation between, its last one 0 at the start, so T starts at lowest + span / 2 for every sample; the
authors' looks at the first classes of that ranking only, as many as they fix. Both give T^2 inside the mean.
`standardize` is LSKD (arXiv:2403.01427).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainables.contract import (
    NON_NEGATIVE,
    POSITIVE,
    SHARE,
    Batch,
    Context,
    Logits,
    Method,
    Outputs,
    Scalar,
)
from trainables.losses import cross_entropy, kl_each, one_of, ramp, standardized

KINDS = ("global", "instance")
HIDDEN = 256  # of the instance network


class Adapted(NamedTuple):
    """The raw temperature, its gradient already reversed."""

    theta: Tensor  # (1,) or (B,)


class Curriculum(nn.Module):
    """theta, and how strongly its gradient is reversed by now."""

    def __init__(self, kind: str, n_classes: int, reversal: float, warmup: float) -> None:
        super().__init__()
        self.reversal, self.warmup = reversal, warmup
        self.theta: nn.Parameter | None = None
        self.network: nn.Sequential | None = None
        if one_of("kind", kind, KINDS) == "global":
            self.theta = nn.Parameter(torch.ones(1))
            return
        last = nn.Linear(HIDDEN, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        first = nn.Linear(2 * n_classes, HIDDEN)
        self.network = nn.Sequential(first, nn.BatchNorm1d(HIDDEN), nn.ReLU(), last)

    def forward(self, student: Outputs, target: Logits, batch: Batch) -> Adapted:
        """theta as it is; going back, its gradient times a factor from 0 to -reversal."""
        theta = self.raw(student.logits.detach(), target.logits)
        risen = ramp(batch.progress, self.warmup)
        factor = -self.reversal * (1 - torch.cos(math.pi * risen)) / 2
        return Adapted(theta.detach() + factor * (theta - theta.detach()))

    def raw(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """theta with its ordinary gradient."""
        if self.network is None:
            assert self.theta is not None
            return self.theta
        p, order = teacher_logits.softmax(-1).sort(-1, descending=True)
        seen = torch.cat([p, student_logits.softmax(-1).gather(-1, order)], -1)
        first, norm, *rest = self.network
        hidden = first(seen)
        if len(hidden) > 1 or not self.training:  # one sample has no batch statistics
            hidden = norm(hidden)
        for layer in rest:
            hidden = layer(hidden)
        return hidden.squeeze(-1)


def adapter(
    context: Context, *, kind: str = "global", reversal: Scalar = 1.0, warmup: Scalar = 10 / 240
) -> Curriculum:
    """The learned temperature."""
    return Curriculum(kind, context.n_classes, float(reversal), float(warmup))


def loss(
    student: Outputs,
    target: Logits,
    batch: Batch,
    *,
    alpha: Scalar = 0.9,
    lambda_: Scalar | None = None,
    lowest: Scalar = 1.0,
    span: Scalar = 20.0,
    standardize: bool = False,
) -> dict[str, Tensor]:
    """Hard labels, and the soft term at the learned temperature."""
    s, t = student.logits, target.logits
    if standardize:
        s, t = standardized(s), standardized(t)
    temperature = (lowest + span * student.adapted.theta.sigmoid()).unsqueeze(-1)  # (1 or B, 1)
    each = temperature.squeeze(-1) ** 2 * kl_each(s, t, temperature)
    return {
        "ce": (1 - alpha if lambda_ is None else lambda_)
        * cross_entropy(student.logits, batch.labels, batch.smoothing),
        "kd": alpha * each.mean(),
    }


METHOD = Method(
    paper="arXiv:2211.16231",
    loss=loss,
    smooths=True,
    adapter=adapter,
    bounds={
        "alpha": SHARE,
        "lowest": POSITIVE,
        "span": NON_NEGATIVE,
        "reversal": NON_NEGATIVE,
        "warmup": SHARE,
    },
    choices={"kind": KINDS},
)
