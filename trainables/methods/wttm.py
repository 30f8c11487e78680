"""ttm, with more weight on the samples about which the teacher is less certain.

Zheng, Yang. Knowledge Distillation Based on Transformed Teacher Matching. 2024. arXiv:2402.11148 (WTTM).

    q = softmax(gamma * z_t),   U = sum_c softmax(z_t)_c^gamma
    L = lambda * CE + beta * mean_i U_i * KL(q_i || softmax(z_s)_i)

U lies between 1 (certain, gamma < 1) and C^(1 - gamma) (uniform). At gamma = 1, U = 1 and this is ttm.

Defaults: lambda 1, gamma 0.2, beta 4. They are those of the one command that the authors print for WTTM, where it
stands beside CRD; no other is published with the code. `standardize` is LSKD (arXiv:2403.01427).
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
    gamma: Scalar = 0.2,
    beta: Scalar = 4.0,
    lambda_: Scalar = 1.0,
    standardize: bool = False,
) -> dict[str, Tensor]:
    """Hard labels, and the weighted transformed teacher."""
    s, t = student.logits, target.logits
    if standardize:
        s, t = standardized(s), standardized(t)
    weight = (gamma * t.log_softmax(-1)).logsumexp(-1).exp()
    return {
        "ce": lambda_ * cross_entropy(student.logits, batch.labels, batch.smoothing),
        "wttm": beta * (weight * kl_each(s, gamma * t, 1.0)).mean(),
    }


METHOD = Method(paper="arXiv:2402.11148", loss=loss, smooths=True, bounds={"gamma": NON_NEGATIVE})
