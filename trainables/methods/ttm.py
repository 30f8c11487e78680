"""Soften the teacher by a power, and leave the student's temperature at 1.

Zheng, Yang. Knowledge Distillation Based on Transformed Teacher Matching. 2024. arXiv:2402.11148 (TTM).

    q = softmax(z_t)^gamma / sum_c softmax(z_t)_c^gamma = softmax(gamma * z_t)
    L = lambda * CE + beta * KL(q || softmax(z_s))

This is distillation with teacher temperature 1 / gamma and student temperature 1; there is no T^2. At gamma = 1 it is
kd's soft term at T = 1.

Defaults: lambda 1, gamma 0.1, beta 45 (the authors' command for VGG-13 to VGG-8). `standardize` is LSKD
(arXiv:2403.01427).
"""

from __future__ import annotations

from torch import Tensor

from trainables.contract import NON_NEGATIVE, Batch, Logits, Method, Outputs, Scalar
from trainables.losses import cross_entropy, kl_each, standardized


def loss(
    student: Outputs,
    target: Logits,
    batch: Batch,
    *,
    gamma: Scalar = 0.1,
    beta: Scalar = 45.0,
    lambda_: Scalar = 1.0,
    standardize: bool = False,
) -> dict[str, Tensor]:
    """Hard labels, and the transformed teacher."""
    s, t = student.logits, target.logits
    if standardize:
        s, t = standardized(s), standardized(t)
    return {
        "ce": lambda_ * cross_entropy(student.logits, batch.labels, batch.smoothing),
        "ttm": beta * kl_each(s, gamma * t, 1.0).mean(),
    }


METHOD = Method(paper="arXiv:2402.11148", loss=loss, smooths=True, bounds={"gamma": NON_NEGATIVE})
