"""Match predictions on a weak and a strong view, at five temperatures, by sample, by batch and by class.

Jin, Wang, Lin. Multi-level Logit Distillation. CVPR 2023.

    P_T = softmax(z_s / T), Q_T = softmax(z_t / T), of the weak view, both (B, C); T runs over (temperature, 2, 3, 5, 6)
    L = lambda * (CE_weak + CE_strong) + alpha * sum_T [ KL_T,weak + KL_T,strong ]
      + beta * sum_T [ |P P' - Q Q'|^2 / B + |P' P - Q' Q|^2 / C ],      KL_T with its T^2

Defaults: alpha 0.9, lambda 1 - alpha = 0.1, beta 0.9, temperature 4, so T in {2, 3, 4, 5, 6}. The authors train 480
epochs, twice the usual, and every epoch shows each network two views of each image.

Departures from the released code. There each weak-view term is also multiplied by the mean of a 0/1 mask that keeps
the less confident half of the samples (or classes): the terms are means already when the mask meets them, so it selects
nothing and only scales by about 1/2. Here no mask is applied; beta 0.45 gives that scale to the batch and class terms.
There the strong view's KL at T = 2 and 6 is fed the weak view's logits; here it gets the strong view's. The batch and
class terms of the strong view, computed and unused there, are not computed. `standardize` (LSKD, arXiv:2403.01427) acts
on the KLs alone, as in LSKD's code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.contract import Batch, Inputs, Logits, Method, Outputs, Scalar
from trainables.losses import cross_entropy, softened_kl, standardized

FURTHER_TEMPERATURES = (2.0, 3.0, 5.0, 6.0)


def batch_and_class_gap(
    student_logits: Tensor, teacher_logits: Tensor, temperature: Scalar
) -> tuple[Tensor, Tensor]:
    """|P P' - Q Q'|^2 / B and |P' P - Q' Q|^2 / C."""
    p, q = (student_logits / temperature).softmax(-1), (teacher_logits / temperature).softmax(-1)
    by_batch = ((p @ p.T - q @ q.T) ** 2).sum() / p.shape[0]
    return by_batch, ((p.T @ p - q.T @ q) ** 2).sum() / p.shape[1]


def inputs() -> Inputs:
    """Two views of each image, the second a strong one, in two passes."""
    return Inputs(blocks=2, forwards=(1, 1), strong=(False, True))


def loss(
    student: Outputs,
    target: Logits,
    batch: Batch,
    *,
    temperature: Scalar = 4.0,
    alpha: Scalar = 0.9,
    beta: Scalar = 0.9,
    lambda_: Scalar | None = None,
    standardize: bool = False,
) -> dict[str, Tensor]:
    """Hard labels on both views; the three levels."""
    weak_s, _ = student.logits.chunk(2)
    weak_t, _ = target.logits.chunk(2)
    s, t = student.logits, target.logits
    if standardize:
        s, t = standardized(s), standardized(t)
    temperatures = (temperature, *FURTHER_TEMPERATURES)
    # the mean over both views' rows is half the sum of the two views' means
    kd = torch.stack([2 * softened_kl(s, t, each) for each in temperatures]).sum()
    gaps = [batch_and_class_gap(weak_s, weak_t, each) for each in temperatures]
    return {
        "ce": (1 - alpha if lambda_ is None else lambda_)
        * 2
        * cross_entropy(student.logits, batch.labels, batch.smoothing),
        "kd": alpha * kd,
        "mlkd_batch": beta * torch.stack([by_batch for by_batch, _ in gaps]).sum(),
        "mlkd_class": beta * torch.stack([by_class for _, by_class in gaps]).sum(),
    }


METHOD = Method(
    paper="Multi-level Logit Distillation, CVPR 2023",
    loss=loss,
    smooths=True,
    inputs=inputs,
    needs=frozenset({"batch"}),
)
