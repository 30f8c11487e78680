"""VGG (Simonyan, Zisserman 2014, arXiv:1409.1556) with batch normalisation and one linear layer, as RepDistiller's.

Five groups of 3x3 convolutions, max-pool after the first three, after the fourth only from 64x64 pixels on: the last
two groups of a 32x32 image are both 4x4. vgg8 has one convolution a group. The embedding is the last map's mean.
"""

from __future__ import annotations

from torch import nn

from trainables.models.initial import fan_out, small_linear
from trainables.models.staged import ConvNorm, Stage, Staged

WIDTHS = (64, 128, 256, 512, 512)
LARGE = 64  # pixels a side from which the fourth group is pooled


def build(*, depths: tuple[int, ...], n_classes: int, channels: int, size: int) -> Staged:
    """VGG with `depths` convolutions in its groups, from 8x8 pixels on."""
    stages: list[Stage] = []
    n_in = channels
    for i, (n_out, depth) in enumerate(zip(WIDTHS, depths, strict=True)):
        blocks = [ConvNorm(n_in, n_out, 3, bias=True)]
        blocks += [ConvNorm(n_out, n_out, 3, bias=True) for _ in range(depth - 1)]
        pooled = 1 <= i <= 3 or (i == 4 and size >= LARGE)
        stages.append(Stage(blocks, nn.MaxPool2d(2) if pooled else None))
        n_in = n_out
    model = Staged(stages, n_in, n_classes)
    fan_out(model)
    small_linear(model)
    return model
