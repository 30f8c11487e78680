"""Trainable pieces that two or more methods put between student and teacher. Shapes are (B, channels, H, W)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.contract import Context


class ConvReg(nn.Module):
    """Map a student's feature map to the teacher's shape: one convolution, batch norm and, if asked, ReLU.

    3x3 with stride 2 where the student's map is twice as large, 4x4 transposed with stride 2 where it is half as
    large, else a valid convolution as wide as the sizes differ (1x1 for equal sizes), as RepDistiller has it. A
    smaller student map of any other size keeps its size (3x3), as in the code of SimKD; pool the teacher's to it.
    """

    def __init__(
        self, student_shape: Sequence[int], teacher_shape: Sequence[int], *, relu: bool = True
    ) -> None:
        super().__init__()
        self.conv = _between(student_shape, teacher_shape)
        self.bn = nn.BatchNorm2d(teacher_shape[1])
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(B, teacher's channels, H, W)."""
        x = self.bn(self.conv(x))
        return F.relu(x) if self.relu else x


def _between(student_shape: Sequence[int], teacher_shape: Sequence[int]) -> nn.Module:
    _, n_in, *size = student_shape
    _, n_out, *wanted = teacher_shape
    if all(s == 2 * t for s, t in zip(size, wanted, strict=True)):
        return nn.Conv2d(n_in, n_out, 3, stride=2, padding=1)
    if all(2 * s == t for s, t in zip(size, wanted, strict=True)):
        return nn.ConvTranspose2d(n_in, n_out, 4, stride=2, padding=1)
    if all(s >= t for s, t in zip(size, wanted, strict=True)):
        return nn.Conv2d(n_in, n_out, (1 + size[0] - wanted[0], 1 + size[1] - wanted[1]))
    return nn.Conv2d(n_in, n_out, 3, padding=1)


def conv1x1_bn(n_in: int, n_out: int) -> nn.Sequential:
    """1x1 convolution without bias, drawn from N(0, 2 / n_out), then batch norm."""
    conv = nn.Conv2d(n_in, n_out, 1, bias=False)
    nn.init.normal_(conv.weight, 0.0, math.sqrt(2 / n_out))
    return nn.Sequential(conv, nn.BatchNorm2d(n_out))


class FrozenHead(nn.Module):
    """A copy of the teacher's classifier that nobody trains: (B, D) to (B, C)."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, classifier: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", classifier.weight.detach().clone())
        bias = classifier.bias.detach().clone() if classifier.bias is not None else None
        self.register_buffer("bias", bias)

    def forward(self, embedding: Tensor) -> Tensor:
        """The teacher's logits for this embedding."""
        return F.linear(embedding, self.weight, self.bias)


def not_pooled(context: Context) -> str | None:
    """Why the teacher's classifier cannot be fed with a pooled map in place of its last one, or None."""
    teacher = context.teacher
    if not teacher.features or not context.student.features:
        found = len(context.student.features), len(teacher.features)
        return f"student and teacher must each have a feature map, got {found[0]} and {found[1]}"
    pooled = teacher.features[-1].mean((2, 3))
    shape, wanted = tuple(teacher.embedding.shape[1:]), tuple(pooled.shape[1:])
    same = shape == wanted and torch.allclose(
        teacher.embedding, pooled, rtol=1e-2, atol=1e-2 * float(pooled.abs().max())
    )
    if same:
        return None
    return (
        "the teacher's classifier must read the mean of its last feature map over space, "
        f"got an embedding of shape {shape} beside a map of shape {tuple(teacher.features[-1].shape[1:])}"
    )
