"""Match the flow between consecutive feature maps: the teacher's matrices of channel products.

Yim, Joo, Bae, Kim. A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer Learning.
CVPR 2017, section 3.

    G_i = F_i F_{i+1}^T / (h w)   of the maps i and i + 1, the stem's first, over positions
    own = sum_i mean (G_i^s - G_i^t)^2   (mean over batch and both channels)

    stages = first   first beta * own alone, then lambda * CE + alpha * T^2 * KL alone (the paper's two stages)
    stages = joint   all at once (Knowledge-Distillation-Zoo)

Of two consecutive maps the larger is average-pooled to the smaller one's size. beta = 50, mean squares and 30 initial
epochs before 240 (`first_share` = 1/9) are RepDistiller's; the paper weighs the matrices equally and prints no weight.
Student and teacher must have the same channels, stage by stage; networks of unequal depth are matched from the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from trainables.contract import Batch, Context, Method, Outputs, Phase, Scalar
from trainables.losses import (
    FIRST_SHARE,
    full,
    hard_and_soft,
    one_of,
    pairs,
    same_size,
    too_few_maps,
)

STAGES = ("first", "joint")


class Flows(NamedTuple):
    """The teacher's matrices."""

    logits: Tensor  # (B, C)
    matrices: tuple[Tensor, ...]  # each (B, c_i, c_{i+1})


def flow(lower: Tensor, upper: Tensor) -> Tensor:
    """G of (B, c, H, W) and (B, c', h, w): (B, c, c'), in float32 at least."""
    lower, upper = same_size(full(lower), full(upper))
    positions = lower.shape[-2] * lower.shape[-1]
    return lower.flatten(2) @ upper.flatten(2).mT / positions


def target(teacher: Outputs) -> Flows:
    """The matrices of the teacher's consecutive maps."""
    return Flows(teacher.logits, tuple(flow(a, b) for a, b in pairwise(teacher.features)))


def flow_term(student: Outputs, target: Flows) -> Tensor:
    """sum_i mean (G_i^s - G_i^t)^2."""
    ours = [flow(a, b) for a, b in pairwise(student.features)]
    gaps = [((s - t) ** 2).mean() for s, t in pairs(ours, target.matrices)]
    return torch.stack(gaps).sum()


def first_loss(
    student: Outputs, target: Flows, batch: Batch, *, beta: Scalar = 50.0
) -> dict[str, Tensor]:
    """The matrices alone: the classifier stays as it is."""
    return {"fsp": beta * flow_term(student, target)}


def loss(
    student: Outputs,
    target: Flows,
    batch: Batch,
    *,
    beta: Scalar = 50.0,
    lambda_: Scalar = 1.0,
    alpha: Scalar = 0.0,
    temperature: Scalar = 4.0,
    stages: str = "first",
) -> dict[str, Tensor]:
    """CE and KD, and the matrices where they are trained along with them."""
    found = hard_and_soft(student, target.logits, batch, lambda_, alpha, temperature)
    if one_of("stages", stages, STAGES) == "joint":
        found["fsp"] = beta * flow_term(student, target)
    return found


def share(*, stages: str = "first", first_share: Scalar = FIRST_SHARE) -> float:
    """Of all epochs, those of the matrices alone."""
    return float(first_share) if one_of("stages", stages, STAGES) == "first" else 0.0


def refuse(context: Context, **_: object) -> str | None:
    """The matrices must have the same shapes."""
    few = too_few_maps(context)
    ours, theirs = _channels(context.student.features), _channels(context.teacher.features)
    count = min(len(ours), len(theirs))
    if few or ours[len(ours) - count :] == theirs[len(theirs) - count :]:
        return few
    return (
        f"student and teacher must have the same channels stage by stage, got {ours} and {theirs}"
    )


def _channels(maps: Sequence[Tensor]) -> list[int]:
    return [m.shape[1] for m in maps]


METHOD = Method(
    paper="CVPR 2017: A Gift from Knowledge Distillation",
    loss=loss,
    smooths=True,
    target=target,
    needs=frozenset({"features", "equal_channels"}),
    first_phase=Phase(first_loss, share),
    refuse=refuse,
    choices={"stages": STAGES},
    bounds={"first_share": (0, 0.9)},
)
