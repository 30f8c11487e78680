"""cckd_t on the samples that the student still gets wrong or is not yet sure of.

Mishra, Sundaram. Confidence Conditioned Knowledge Distillation. 2021. arXiv:2107.06993 (CCKD-T-REG).

    keep_i = argmax z_{s,i} != y_i  or  top1_i - top2_i < 1 - exp(-regulation * n),   n = 0, 1, ... the epoch
    L = 1/B sum_{i kept} H(y_C, softmax(z_s / T))_i

top1 and top2 are the student's two largest probabilities at T; y_C is cckd_t's. In epoch 0 only mistakes count.

Defaults: T = 1, regulation 0.01 (there `alpha`; yuranusduke/Confidence-Conditioned-Knowledge-Distillation). The sign in
the exponent is that of the paper's flow chart; its algorithm prints exp(alpha n).

Departures: the sum is divided by the batch size, not by the number kept, so that a step's size says how much is left
to learn. The code divides by the number kept, adds 1e-8 inside the logarithm, and steps the optimiser with no gradient
where nothing is kept. Here `keep` tells the loop, which takes no step then.

Switches and letters as in cckd_t; the plain CE of `lambda` (0 published) is over kept samples too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.contract import NON_NEGATIVE, Batch, Logits, Method, Outputs, Scalar
from trainables.losses import cross_entropy_each
from trainables.methods.cckd_t import LAMBDA_TEMPERATURES, own_term_each


def keep(
    student: Outputs,
    target: Logits,
    batch: Batch,
    *,
    temperature: Scalar = 1.0,
    regulation: Scalar = 0.01,
) -> Tensor:
    """The samples that are used: (B,) bool; none, some or all."""
    top = (student.logits / temperature).softmax(-1).topk(2, dim=-1).values
    sure_enough = 1 - torch.exp(-regulation * batch.epoch)
    wrong = student.logits.argmax(-1) != batch.labels
    return wrong | (top[..., 0] - top[..., 1] < sure_enough)


def loss(
    student: Outputs,
    target: Logits,
    batch: Batch,
    *,
    temperature: Scalar = 1.0,
    regulation: Scalar = 0.01,
    beta: Scalar = 1.0,
    lambda_: Scalar = 0.0,
    lambda_temperature: str = "one",
    scale_by_t2: bool = False,
    standardize: bool = False,
) -> dict[str, Tensor]:
    """The conditioned soft cross-entropy of the kept samples, over B."""
    kept = keep(student, target, batch, temperature=temperature, regulation=regulation)
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
        "ce": lambda_
        * (kept * cross_entropy_each(student.logits, batch.labels, batch.smoothing)).mean(),
        "cckd": beta * (kept * each).mean(),
    }


METHOD = Method(
    paper="arXiv:2107.06993",
    loss=loss,
    smooths=True,
    keep=keep,
    bounds={"regulation": NON_NEGATIVE},
    choices={"lambda_temperature": LAMBDA_TEMPERATURES},
)
