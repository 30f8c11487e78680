"""Match the teacher's softened class probabilities.

Hinton, Vinyals, Dean. Distilling the Knowledge in a Neural Network. 2015. arXiv:1503.02531, section 2.

    L = (1 - alpha) * CE(y, z_s) + alpha * T^2 * KL(softmax(z_t / T) || softmax(z_s / T))

T^2 keeps the gradient of the soft term the same size for every T. `mode` chooses the soft term:

    cse        the above; its gradient is that of the soft cross-entropy, its value is the KL
    mse        T^2 / 2 * mean_{b,c} (softmax(z_s / T) - softmax(z_t / T))^2
    mse_logit  mean_{b,c} (z_s - z_t)^2 (Ba and Caruana 2014, arXiv:1312.6184); T plays no part

Given `lambda`, the hard term weighs lambda instead of 1 - alpha. The default T = 4, alpha = 0.9 is the one that
RepDistiller and mdistiller publish. `standardize` is LSKD (arXiv:2403.01427): both logits to mean 0, deviation 1.
"""

from __future__ import annotations

from torch import Tensor

from trainables.contract import Batch, Logits, Method, Outputs, Scalar
from trainables.losses import cross_entropy, softened_kl, standardized

MODES = ("cse", "mse", "mse_logit")


def soft_term(
    student_logits: Tensor, teacher_logits: Tensor, temperature: Scalar, mode: str
) -> Tensor:
    """The soft term alone, unweighted; raises ValueError for an unknown mode."""
    if mode == "cse":
        return softened_kl(student_logits, teacher_logits, temperature)
    if mode == "mse":
        gap = (student_logits / temperature).softmax(-1) - (teacher_logits / temperature).softmax(
            -1
        )
        return temperature**2 / 2 * (gap**2).mean()
    if mode == "mse_logit":
        return ((student_logits - teacher_logits) ** 2).mean()
    raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")


def loss(
    student: Outputs,
    target: Logits,
    batch: Batch,
    *,
    temperature: Scalar = 4.0,
    alpha: Scalar = 0.9,
    lambda_: Scalar | None = None,
    mode: str = "cse",
    standardize: bool = False,
) -> dict[str, Tensor]:
    """The hard and the soft term, weighted."""
    s, t = student.logits, target.logits
    if standardize:
        s, t = standardized(s), standardized(t)
    return {
        "ce": (1 - alpha if lambda_ is None else lambda_)
        * cross_entropy(student.logits, batch.labels, batch.smoothing),
        "kd": alpha * soft_term(s, t, temperature, mode),
    }


METHOD = Method(
    paper="arXiv:1503.02531",
    loss=loss,
    smooths=True,
    bounds={"alpha": (0, 1)},
    choices={"mode": MODES},
)
