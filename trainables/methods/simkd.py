"""Reuse the teacher's classifier: project the student's last map onto the teacher's and predict from there.

Chen, Mei, Zhang, Wang, Feng, Chen. Knowledge Distillation with the Reused Teacher Classifier. CVPR 2022.
arXiv:2203.14001, section 3.

    own = mean (P(F_s) - F_t)^2,   beta = 1;   prediction = W_t pool(P(F_s)) + b_t

P is 1x1 to c_t / factor channels, 3x3, 1x1 to c_t channels, each with batch norm and ReLU; F the last map after its
activation; the larger one is average-pooled to the smaller one's size (the student's before P). No labels and no soft
targets: lambda = alpha = 0 by default. factor = 2 is the published setting of the main tables; it adds the most
parameters of those published (2, 4, 8).

What leaves is student, projector and the teacher's classifier. lambda and alpha, where asked for, weigh the CE and KL
of that prediction; the authors' code would apply them to the student's own classifier, which nobody uses afterwards.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from trainables.adapters import FrozenHead, not_pooled
from trainables.contract import Batch, Context, Method, Outputs, Scalar
from trainables.losses import full, hard_and_soft, pooled_to, same_size


class LastMap(NamedTuple):
    """The teacher's logits and last map."""

    logits: Tensor  # (B, C)
    map: Tensor  # (B, c_t, H, W)


class Projected(NamedTuple):
    """The student seen through the projector and the teacher's classifier."""

    map: Tensor  # (B, c_t, h, w)
    embedding: Tensor  # (B, c_t)
    logits: Tensor  # (B, C)


class Projector(nn.Module):
    """P and a frozen copy of the teacher's classifier."""

    def __init__(self, context: Context, factor: int) -> None:
        super().__init__()
        ours, theirs = context.student.features[-1], context.teacher.features[-1]
        n_in, n_out = ours.shape[1], theirs.shape[1]
        n_middle = n_out // factor
        self.size = theirs.shape[-1]
        self.project = nn.Sequential(
            *_conv(n_in, n_middle, 1), *_conv(n_middle, n_middle, 3), *_conv(n_middle, n_out, 1)
        )
        self.head = FrozenHead(context.teacher_model.classifier)  # type: ignore[arg-type]

    def forward(
        self, student: Outputs, target: LastMap | None = None, batch: Batch | None = None
    ) -> Projected:
        """The projected map and what the teacher's classifier says of it; looks at the student alone."""
        maps = self.project(pooled_to(student.features[-1], self.size))
        embedding = maps.mean((2, 3))
        return Projected(maps, embedding, self.head(embedding))


class Reused(nn.Module):
    """What leaves: student, projector and the teacher's classifier as one network."""

    def __init__(self, student: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.projector = projector

    def forward(self, images: Tensor) -> Outputs:
        """The student's outputs with the projected embedding and logits."""
        outputs = self.student(images)
        projected = self.projector(outputs)
        return outputs._replace(logits=projected.logits, embedding=projected.embedding)


def target(teacher: Outputs) -> LastMap:
    """The teacher's last map."""
    return LastMap(teacher.logits, teacher.features[-1])


def loss(
    student: Outputs,
    target: LastMap,
    batch: Batch,
    *,
    beta: Scalar = 1.0,
    lambda_: Scalar = 0.0,
    alpha: Scalar = 0.0,
    temperature: Scalar = 4.0,
) -> dict[str, Tensor]:
    """The maps' squared difference; CE and KD of the projected prediction."""
    predicted = student._replace(logits=student.adapted.logits)
    s, t = same_size(full(student.adapted.map), full(target.map))
    return {
        **hard_and_soft(predicted, target.logits, batch, lambda_, alpha, temperature),
        "projection": beta * ((s - t) ** 2).mean(),
    }


def adapter(context: Context, *, factor: int = 2) -> Projector:
    """The projector and the classifier's copy; raises ValueError for a factor without a channel left."""
    channels = context.teacher.features[-1].shape[1]
    if not 1 <= factor <= channels:
        raise ValueError(
            f"factor must be from 1 to the teacher's {channels} channels, got {factor}"
        )
    return Projector(context, factor)


def refuse(context: Context, **_: object) -> str | None:
    """The teacher's classifier must read the pooled last map."""
    return not_pooled(context)


def _conv(n_in: int, n_out: int, size: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    conv = nn.Conv2d(n_in, n_out, size, padding=size // 2, bias=False)
    return conv, nn.BatchNorm2d(n_out), nn.ReLU()


METHOD = Method(
    paper="arXiv:2203.14001",
    loss=loss,
    smooths=True,
    target=target,
    needs=frozenset({"features", "teacher"}),
    adapter=adapter,
    deploy=Reused,
    refuse=refuse,
)
