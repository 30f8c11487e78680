"""Match a target between the teacher's answer and the label, nearer to the teacher where it is right.

Mishra, Sundaram. Confidence Conditioned Knowledge Distillation. 2021. arXiv:2107.06993 (CCKD-T).

    lambda_i = softmax(z_t)_{i, y_i}
    y_C = lambda * softmax(z_t / T) + (1 - lambda) * onehot(y)
    L = mean_i H(y_C, softmax(z_s / T))_i

H is the soft cross-entropy. The paper divides y_C by its L1 norm; the norm is 1 already, so that step is left out.
At T = 1 this is cckd_l exactly.

Defaults: T = 1, lambda_i from the teacher at temperature 1, no T^2 (yuranusduke/Confidence-Conditioned-Knowledge-
Distillation; the paper's own T is not known to us). `lambda_temperature: same` takes lambda_i at T, as the paper's
algorithm reads; `scale_by_t2` multiplies the loss by T^2. `standardize` (LSKD, arXiv:2403.01427) acts on both networks'
logits; lambda_i sees them as they are. Departure from that code: log_softmax instead of the log of a softmax.

Label smoothing, where the recipe has any, acts on onehot(y), as it does in cckd_l's hard share.

In the words of the objective: `beta` weighs the method's own term, `lambda` adds plain CE (0 published).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from trainables.contract import Batch, Logits, Method, Outputs, Scalar
from trainables.losses import (
    cross_entropy,
    one_of,
    smoothed,
    soft_cross_entropy_each,
    standardized,
)

LAMBDA_TEMPERATURES = ("one", "same")


def true_class_confidence(
    teacher_logits: Tensor, labels: Tensor, temperature: Scalar, lambda_temperature: str
) -> Tensor:
    """lambda_i: the teacher's probability of the true class, at temperature 1 or at the same T: (B,)."""
    if one_of("lambda_temperature", lambda_temperature, LAMBDA_TEMPERATURES) == "same":
        teacher_logits = teacher_logits / temperature
    true_class = F.one_hot(labels, teacher_logits.shape[-1])
    return (true_class * teacher_logits.softmax(-1)).sum(-1)


def own_term_each(
    student_logits: Tensor,
    teacher_logits: Tensor,
    batch: Batch,
    temperature: Scalar,
    lambda_temperature: str,
    scale_by_t2: bool,
    standardize: bool,
) -> Tensor:
    """H(y_C, softmax(z_s / T)), one value a sample: (B,)."""
    trust = true_class_confidence(teacher_logits, batch.labels, temperature, lambda_temperature)
    if standardize:
        student_logits, teacher_logits = standardized(student_logits), standardized(teacher_logits)
    soft = (teacher_logits / temperature).softmax(-1)
    hard = smoothed(F.one_hot(batch.labels, soft.shape[-1]), batch.smoothing)
    wanted = trust.unsqueeze(-1) * soft + (1 - trust.unsqueeze(-1)) * hard
    each = soft_cross_entropy_each(student_logits / temperature, wanted)
    return temperature**2 * each if scale_by_t2 else each


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
    """The conditioned soft cross-entropy."""
    each = own_term_each(
        student.logits,
        target.logits,
        batch,
        temperature,
        lambda_temperature,
        scale_by_t2,
        standardize,
    )
    return {
        "ce": lambda_ * cross_entropy(student.logits, batch.labels, batch.smoothing),
        "cckd": beta * each.mean(),
    }


METHOD = Method(
    paper="arXiv:2107.06993",
    loss=loss,
    smooths=True,
    choices={"lambda_temperature": LAMBDA_TEMPERATURES},
)
