"""Trust the teacher as far as it believes in the true class: per sample, a share of soft and a share of hard loss.

Mishra, Sundaram. Confidence Conditioned Knowledge Distillation. 2021. arXiv:2107.06993 (CCKD-L).

    lambda_i = softmax(z_t)_{i, y_i}
    L = mean_i [ lambda_i * H(softmax(z_t / T), softmax(z_s / T))_i + (1 - lambda_i) * CE(y, z_s)_i ]

H is the soft cross-entropy, as in the paper; its value (not its gradient) exceeds the KL by the teacher's entropy.
At T = 1 this is cckd_t exactly.

Defaults: T = 1, lambda_i from the teacher at temperature 1, no T^2 (yuranusduke/Confidence-Conditioned-Knowledge-
Distillation; the paper's own T is not known to us). `lambda_temperature: same` takes lambda_i at T, as the paper's
algorithm reads; `scale_by_t2` multiplies H by T^2. The CE stands at temperature 1. `standardize` (LSKD,
arXiv:2403.01427) acts on the logits inside H; lambda_i and CE see them as they are.

Departure from that code: there a column of lambdas is multiplied with a row of losses, so that every sample is weighted
by the mean lambda of its batch. Here each sample has its own, as in the paper.

In the words of the objective: the terms are the method's own, `beta` weighs both, `lambda` adds plain CE (0 published).
"""

from __future__ import annotations

from torch import Tensor

from trainables.contract import Batch, Logits, Method, Outputs, Scalar
from trainables.losses import (
    cross_entropy,
    cross_entropy_each,
    soft_cross_entropy_each,
    standardized,
)
from trainables.methods.cckd_t import LAMBDA_TEMPERATURES, true_class_confidence


def loss(
    student: Outputs,
    target: Logits,
    batch: Batch,
    *,
    temperature: Scalar = 1.0,
    beta: Scalar = 1.0,
    lambda_: Scalar = 0.0,
    lambda_temperature: str = "one",
    scale_by_t2: bool = False,
    standardize: bool = False,
) -> dict[str, Tensor]:
    """The soft share and the hard share."""
    s, t = student.logits, target.logits
    trust = true_class_confidence(t, batch.labels, temperature, lambda_temperature)
    hard = cross_entropy_each(s, batch.labels, batch.smoothing)
    if standardize:
        s, t = standardized(s), standardized(t)
    soft = soft_cross_entropy_each(s / temperature, (t / temperature).softmax(-1))
    if scale_by_t2:
        soft = temperature**2 * soft
    return {
        "ce": lambda_ * cross_entropy(student.logits, batch.labels, batch.smoothing),
        "cckd_soft": beta * (trust * soft).mean(),
        "cckd_hard": beta * ((1 - trust) * hard).mean(),
    }


METHOD = Method(
    paper="arXiv:2107.06993",
    loss=loss,
    smooths=True,
    choices={"lambda_temperature": LAMBDA_TEMPERATURES},
)
