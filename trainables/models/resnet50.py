"""ResNet-50 with bottleneck blocks (He et al. 2016, arXiv:1512.03385) for 32x32 images: 3x3 stem, no max-pool.

As RepDistiller's: 23,520,842 parameters at 10 classes. Not the basic-block network of depth 50 that some CIFAR code
calls resnet50. The embedding is the last map's mean.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.models.initial import fan_out
from trainables.models.staged import ConvNorm, Stage, Staged

STEM = 64
DEPTHS = (3, 4, 6, 3)
WIDTHS = (64, 128, 256, 512)  # inside the blocks
STRIDES = (1, 2, 2, 2)
EXPANSION = 4


class Bottleneck(nn.Module):
    """conv 1x1 - conv 3x3 - conv 1x1 to four times the width, with a 1x1 projection where the shape changes."""

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        n_out = width * EXPANSION
        self.reduce = ConvNorm(n_in, width, 1)
        self.middle = ConvNorm(width, width, 3, stride)
        self.conv = nn.Conv2d(width, n_out, 1, bias=False)
        self.bn = nn.BatchNorm2d(n_out)
        same = n_in == n_out and stride == 1
        self.shortcut = nn.Identity() if same else ConvNorm(n_in, n_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The sum, not activated: (B, 4 * width, H / stride, W / stride)."""
        inside = F.relu(self.middle(F.relu(self.reduce(x))))
        return self.bn(self.conv(inside)) + self.shortcut(x)


def build(*, n_classes: int, channels: int, size: int) -> Staged:
    """ResNet-50, from 8x8 pixels on."""
    if size < 8:
        raise ValueError("at least 8x8 pixels are needed")
    stages = [Stage([ConvNorm(channels, STEM, 3)])]
    n_in = STEM
    for width, depth, stride in zip(WIDTHS, DEPTHS, STRIDES, strict=True):
        blocks = [Bottleneck(n_in, width, stride)]
        n_in = width * EXPANSION
        blocks += [Bottleneck(n_in, width, 1) for _ in range(depth - 1)]
        stages.append(Stage(blocks))
    model = Staged(stages, n_in, n_classes)
    fan_out(model)
    return model
