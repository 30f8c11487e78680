"""The student alone, on the labels.

The baseline of every comparison: the same recipe and seeds as the distilled students, no teacher.

    L = CE(y, z_s), with label smoothing if asked: q = (1 - s) onehot(y) + s / C
"""

from __future__ import annotations

from torch import Tensor

from trainables.contract import Batch, Method, Outputs, Scalar
from trainables.losses import cross_entropy


def loss(
    student: Outputs,
    target: None,
    batch: Batch,
    *,
    label_smoothing: Scalar = 0.0,
) -> dict[str, Tensor]:
    """CE(y, z_s)."""
    return {"ce": cross_entropy(student.logits, batch.labels, label_smoothing)}


METHOD = Method(paper="the baseline", loss=loss, target=None)
