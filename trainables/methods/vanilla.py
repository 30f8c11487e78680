"""The student alone, on the labels.

The baseline of every comparison: the same recipe and seeds as the distilled students, no teacher.

    L = CE(y, z_s)
"""

from __future__ import annotations

from torch import Tensor

from trainables.contract import Batch, Method, Outputs
from trainables.losses import cross_entropy


def loss(student: Outputs, target: None, batch: Batch) -> dict[str, Tensor]:
    """CE(y, z_s)."""
    return {"ce": cross_entropy(student.logits, batch.labels, batch.smoothing)}


METHOD = Method(paper="the baseline", loss=loss, smooths=True, target=None)
