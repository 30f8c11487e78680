"""Match what the teacher's loss is sensitive to: its gradient with respect to the image.

Zagoruyko, Komodakis. Paying More Attention to Attention. 2017. arXiv:1612.03928, section 3.2.

    J = d CE_i / d image_i
    L = lambda * CE + alpha * T^2 * KL + beta * 1/2 mean_i ||J_s,i - J_t,i||_2

The norm runs over all of an image's channels and pixels. The student's gradient is itself differentiated (two
backward passes), so a step costs two to three times as much. No code of the authors' exists and the paper prints no
weight for it; beta = 1 is ours. Equal gradients give 0 with gradient 0, where the plain norm gives NaN. The
flip-invariant variant of the same section is not offered.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from trainables.contract import Batch, Method, Outputs, Scalar
from trainables.losses import full, hard_and_soft, safe_norm


class Sensitivity(NamedTuple):
    """The teacher's logits and its gradient."""

    logits: Tensor  # (B, C)
    input_gradient: Tensor  # (B, channels, H, W)


def target(teacher: Outputs) -> Sensitivity:
    """Raises ValueError where nobody computed the gradient."""
    return Sensitivity(teacher.logits, _gradient(teacher))


def loss(
    student: Outputs,
    target: Sensitivity,
    batch: Batch,
    *,
    beta: Scalar = 1.0,
    lambda_: Scalar = 1.0,
    alpha: Scalar = 0.0,
    temperature: Scalar = 4.0,
) -> dict[str, Tensor]:
    """CE, KD and the distance of the gradients."""
    gap = full(_gradient(student)) - full(target.input_gradient)
    return {
        **hard_and_soft(student, target.logits, batch, lambda_, alpha, temperature),
        "gradient": beta * safe_norm(gap.flatten(1)).mean() / 2,
    }


def _gradient(outputs: Outputs) -> Tensor:
    if outputs.input_gradient is None:
        raise ValueError("outputs must carry input_gradient for gradient attention, got None")
    return outputs.input_gradient


METHOD = Method(
    paper="arXiv:1612.03928",
    loss=loss,
    smooths=True,
    target=target,
    needs=frozenset({"input_gradient", "teacher"}),
)
