"""Match the teacher's logits (an example of a method in another package).

L = lambda * CE(y, z_s) + beta * mean (z_s - z_t)^2
"""

from __future__ import annotations

from torch import Tensor

from trainables.contract import Batch, Logits, Method, Outputs, Scalar
from trainables.losses import cross_entropy


def loss(
    student: Outputs, target: Logits, batch: Batch, *, beta: Scalar = 1.0, lambda_: Scalar = 1.0
) -> dict[str, Tensor]:
    """The weighted terms by name."""
    gap = ((student.logits - target.logits) ** 2).mean()
    hard = cross_entropy(student.logits, batch.labels, batch.smoothing)
    return {"ce": lambda_ * hard, "mine": beta * gap}


METHOD = Method(paper="arXiv:0000.00000", loss=loss, smooths=True)
