"""Soft cross-entropy on the true class, and on the other classes after both networks' are normalised alone.

Yang, Zeng, Li, Zhang, Yuan, Li. From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with
Normalized Loss and Customized Soft Labels. 2023. arXiv:2303.13005 (NKD).

    p = softmax(z) at temperature 1;  p^ = softmax over the classes other than y of z / T
    L = lambda * CE + beta * [ -mean p_{t,y} log p_{s,y}  -  gamma * T^2 * mean sum_{c != y} p^_{t,c} log p^_{s,c} ]

Defaults: lambda 1, beta 1, gamma 1.5, T 1. The terms are cross-entropies, as in the paper; their gradient is the KL's.
With two classes the second is 0.

Departure: in the authors' released code the mask that should drop the true class keeps every class. This is the paper's
form. `standardize` (LSKD, arXiv:2403.01427) acts on the logits inside the bracket.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.contract import NON_NEGATIVE, Batch, Logits, Method, Outputs, Scalar
from trainables.losses import cross_entropy, log_softmax_among, standardized


def loss(
    student: Outputs,
    target: Logits,
    batch: Batch,
    *,
    temperature: Scalar = 1.0,
    gamma: Scalar = 1.5,
    beta: Scalar = 1.0,
    lambda_: Scalar = 1.0,
    standardize: bool = False,
) -> dict[str, Tensor]:
    """Hard labels, the true class's part and the others' part."""
    s, t = student.logits, target.logits
    if standardize:
        s, t = standardized(s), standardized(t)
    true_class = F.one_hot(batch.labels, s.shape[-1])
    on_target = -(true_class * t.softmax(-1) * s.log_softmax(-1)).sum(-1).mean()
    others = true_class == 0
    p = torch.where(others, log_softmax_among(t / temperature, others).exp(), 0.0)
    on_others = -(p * log_softmax_among(s / temperature, others)).sum(-1).mean()
    return {
        "ce": lambda_ * cross_entropy(student.logits, batch.labels, batch.smoothing),
        "nkd_target": beta * on_target,
        "nkd_others": beta * gamma * temperature**2 * on_others,
    }


METHOD = Method(paper="arXiv:2303.13005", loss=loss, smooths=True, bounds={"gamma": NON_NEGATIVE})
