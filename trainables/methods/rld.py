"""Learn the teacher's confidence, and its ranking of the classes below the true one.

Sun, Chen, Lyu, Chen, Chen, Wang. Knowledge Distillation with Refined Logits. 2024. arXiv:2408.07703.

    b_s = (p_y, 1 - p_y) of the student, b_t = (max p, 1 - max p) of the teacher, at temperature T_scd
    M = the classes whose teacher logit is below that of y;  p^ = softmax over M of z / T
    L = lambda * CE + ramp * [ scd * T_scd^2 * KL(b_t || b_s) + mcd * T^2 * KL(p^_t || p^_s) ]

    ramp = min(progress / warmup, 1)

Defaults: lambda 1, scd 1 (the paper's alpha), mcd 8 (its beta), T 4, T_scd 1, warm-up 20 of 240 epochs, for every pair.
Where the teacher ranks y last, M is empty and the second term 0. Ties with y are outside M, as in the published code.

Departures: 1 - p is computed from the other classes' logits and M's complement is left out exactly, so nothing is the
log of a rounded 0; the ramp rises with every step, not every epoch. `standardize` is LSKD (arXiv:2403.01427).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from trainables.contract import (
    NON_NEGATIVE,
    POSITIVE,
    SHARE,
    Batch,
    Logits,
    Method,
    Outputs,
    Scalar,
)
from trainables.losses import cross_entropy, kl_among_each, log_share, ramp, standardized


def confidence_kl(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """KL from the student's (p_y, 1 - p_y) to the teacher's (max p, 1 - max p), batch mean."""
    log_p = log_share(t, F.one_hot(t.argmax(-1), t.shape[-1]).bool())
    log_q = log_share(s, F.one_hot(labels, s.shape[-1]).bool())
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def loss(
    student: Outputs,
    target: Logits,
    batch: Batch,
    *,
    temperature: Scalar = 4.0,
    scd_temperature: Scalar = 1.0,
    scd: Scalar = 1.0,
    mcd: Scalar = 8.0,
    lambda_: Scalar = 1.0,
    warmup: Scalar = 20 / 240,
    standardize: bool = False,
) -> dict[str, Tensor]:
    """Hard labels, the sample's confidence and the masked correlation of classes."""
    s, t = student.logits, target.logits
    if standardize:
        s, t = standardized(s), standardized(t)
    of_true = (F.one_hot(batch.labels, t.shape[-1]) * t).sum(-1, keepdim=True)
    masked = kl_among_each(s / temperature, t / temperature, t < of_true).mean()
    confidence = confidence_kl(s / scd_temperature, t / scd_temperature, batch.labels)
    rise = ramp(batch.progress, warmup)
    return {
        "ce": lambda_ * cross_entropy(student.logits, batch.labels, batch.smoothing),
        "rld_confidence": scd * rise * scd_temperature**2 * confidence,
        "rld_below": mcd * rise * temperature**2 * masked,
    }


METHOD = Method(
    paper="arXiv:2408.07703",
    loss=loss,
    smooths=True,
    bounds={
        "scd": NON_NEGATIVE,
        "mcd": NON_NEGATIVE,
        "scd_temperature": POSITIVE,
        "warmup": SHARE,
    },
)
