"""What most of the networks are: stages one after the other, ReLU between their blocks, a neck, a classifier.

A block takes an activated map and returns the next one before its activation; its `bn` is the BatchNorm2d that came
last before that point, on all channels, or None.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.contract import Outputs


class ConvNorm(nn.Module):
    """Convolution (padded to keep the size at stride 1) and batch normalisation: the plainest block."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: int,
        stride: int = 1,
        *,
        groups: int = 1,
        bias: bool = False,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        padding = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(n_in, n_out, kernel, stride, padding, groups=groups, bias=bias)
        self.bn = nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_out, H / stride, W / stride), not activated."""
        return self.bn(self.conv(x))


class Stage(nn.Module):
    """Blocks with ReLU between them, after an optional pooling; forward returns the last map, not activated."""

    def __init__(self, blocks: Sequence[nn.Module], pool: nn.Module | None = None) -> None:
        super().__init__()
        self.pool = pool or nn.Identity()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) of the last block."""
        first, *others = self.blocks
        pre = first(self.pool(x))
        for block in others:
            pre = block(F.relu(pre))
        return pre


class Mean(nn.Module):
    """Global average pooling."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) of (B, C, H, W)."""
        return x.mean((2, 3))


class Staged(nn.Module):
    """Feature maps: every stage's last one, the stem's first."""

    def __init__(
        self,
        stages: Sequence[Stage],
        width: int,
        n_classes: int,
        neck: nn.Module | None = None,
    ) -> None:
        """`neck` makes the embedding of `width` from the last map; the mean where None."""
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.neck = neck or Mean()
        self.classifier = nn.Linear(width, n_classes)
        self.norms = tuple(stage.blocks[-1].bn for stage in stages)

    def forward(self, x: Tensor) -> Outputs:
        """Outputs with one map a stage."""
        preacts: list[Tensor] = []
        features: list[Tensor] = []
        for stage in self.stages:
            preacts.append(stage(x))
            x = F.relu(preacts[-1])
            features.append(x)
        embedding = self.neck(x)
        return Outputs(self.classifier(embedding), embedding, tuple(features), tuple(preacts))
