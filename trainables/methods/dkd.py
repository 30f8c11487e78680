"""Weigh separately what the teacher says about the true class and about the others.

Zhao, Cui, Song, Qiu, Liang. Decoupled Knowledge Distillation. 2022. arXiv:2203.08679.

    b = (p_y, 1 - p_y) with p = softmax(z / T);  p^ = softmax over the classes other than y of z / T
    L = lambda * CE + ramp * T^2 * [ tckd * KL(b_t || b_s) + nckd * KL(p^_t || p^_s) ]

    ramp = min(progress / warmup, 1)

Defaults: lambda 1, tckd 1 (the paper's alpha), nckd 8 (its beta; 2 to 8 by pair on CIFAR-100, 0.5 on ImageNet), T 4,
warm-up 20 of 240 epochs. Other reported settings: nckd 2 for ResNet-56/110 pairs, 6 for VGG-13 and WRN pairs.

Departures: 1 - p_y is computed from the other classes' logits, so it does not round to 0 (the published code takes the
log of a rounded probability: infinite for confident logits); the true class is left out exactly instead of being
lowered by 1000; the ramp rises with every step, not every epoch. With two classes the second term is 0.
`standardize` is LSKD (arXiv:2403.01427).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from trainables.contract import NON_NEGATIVE, SHARE, Batch, Logits, Method, Outputs, Scalar
from trainables.losses import cross_entropy, kl_among_each, log_share, ramp, standardized


def target_class_kl(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """KL between the two networks' (p_y, 1 - p_y), batch mean."""
    true_class = F.one_hot(labels, s.shape[-1]).bool()
    log_p, log_q = log_share(t, true_class), log_share(s, true_class)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def other_classes_kl(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """KL between the two networks' distributions over the classes other than y, batch mean."""
    return kl_among_each(s, t, ~F.one_hot(labels, s.shape[-1]).bool()).mean()


def loss(
    student: Outputs,
    target: Logits,
    batch: Batch,
    *,
    temperature: Scalar = 4.0,
    tckd: Scalar = 1.0,
    nckd: Scalar = 8.0,
    lambda_: Scalar = 1.0,
    warmup: Scalar = 20 / 240,
    standardize: bool = False,
) -> dict[str, Tensor]:
    """Hard labels, and the two parts."""
    s, t = student.logits, target.logits
    if standardize:
        s, t = standardized(s), standardized(t)
    s, t = s / temperature, t / temperature
    scale = ramp(batch.progress, warmup) * temperature**2
    return {
        "ce": lambda_ * cross_entropy(student.logits, batch.labels, batch.smoothing),
        "dkd_target": tckd * scale * target_class_kl(s, t, batch.labels),
        "dkd_others": nckd * scale * other_classes_kl(s, t, batch.labels),
    }


METHOD = Method(
    paper="arXiv:2203.08679",
    loss=loss,
    smooths=True,
    bounds={"tckd": NON_NEGATIVE, "nckd": NON_NEGATIVE, "warmup": SHARE},
)
