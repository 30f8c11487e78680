"""Match the teacher's embedding, and what the teacher's classifier says of the student's.

Yang, Martinez, Bulat, Tzimiropoulos. Knowledge Distillation via Softmax Regression Representation Learning. ICLR 2021.

    h_s = pool(ReLU(BN(conv1x1(F_s))))
    own = mean (h_s - h_t)^2 + mean (W_t h_s + b_t - z_t)^2

F_s is the student's last map after its activation, h_t the teacher's embedding, W_t and b_t its classifier, frozen.
Both halves weigh 1, and beta = 1 scales them together, as in the authors' code; the squares are means over batch and
channels, over batch and classes. As there, the maps are compared by their means over space ("statistics"), so sizes
play no part. Other code puts the convolution after the pooling.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from trainables.adapters import FrozenHead, conv1x1_bn, not_pooled
from trainables.contract import Batch, Context, Embedded, Method, Outputs, Scalar, embedding_target
from trainables.losses import full, hard_and_soft


class Regressed(NamedTuple):
    """The student's embedding in the teacher's space."""

    embedding: Tensor  # (B, c_t)
    logits: Tensor  # (B, C), the teacher's classifier's


class Transfer(nn.Module):
    """The convolution and a frozen copy of the teacher's classifier."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        n_in, n_out = context.student.features[-1].shape[1], context.teacher.features[-1].shape[1]
        self.transfer = nn.Sequential(*conv1x1_bn(n_in, n_out), nn.ReLU())
        self.head = FrozenHead(context.teacher_model.classifier)  # type: ignore[arg-type]

    def forward(self, student: Outputs, target: Embedded, batch: Batch) -> Regressed:
        """h_s and what the teacher's classifier says of it."""
        embedding = self.transfer(student.features[-1]).mean((2, 3))
        return Regressed(embedding, self.head(embedding))


def loss(
    student: Outputs,
    target: Embedded,
    batch: Batch,
    *,
    beta: Scalar = 1.0,
    lambda_: Scalar = 1.0,
    alpha: Scalar = 0.0,
    temperature: Scalar = 4.0,
) -> dict[str, Tensor]:
    """CE, KD, the embeddings' and the logits' squared differences."""
    adapted = student.adapted
    return {
        **hard_and_soft(student, target.logits, batch, lambda_, alpha, temperature),
        "statistics": beta * ((full(adapted.embedding) - full(target.embedding)) ** 2).mean(),
        "regression": beta * ((full(adapted.logits) - full(target.logits)) ** 2).mean(),
    }


def adapter(context: Context) -> Transfer:
    """The convolution and the classifier's copy."""
    return Transfer(context)


def refuse(context: Context, **_: object) -> str | None:
    """The teacher's classifier must read the pooled last map."""
    return not_pooled(context)


METHOD = Method(
    paper="ICLR 2021: Softmax Regression Representation Learning",
    loss=loss,
    smooths=True,
    target=embedding_target,
    needs=frozenset({"features"}),
    adapter=adapter,
    refuse=refuse,
)
