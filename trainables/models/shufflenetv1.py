"""ShuffleNet (Zhang et al. 2017, arXiv:1707.01083), three groups, for 32x32 images, as RepDistiller's.

1x1 stem of 24 at full size, stages of 4, 8 and 4 units (240, 480, 960), mean, classifier: 862,768 parameters at 10
classes. As there, ReLU follows the depthwise convolution too (the paper has none).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.models.staged import ConvNorm, Stage, Staged

STEM = 24
GROUPS = 3
WIDTHS = (240, 480, 960)
DEPTHS = (4, 8, 4)


def shuffled(x: Tensor, groups: int) -> Tensor:
    """Channels (B, groups * n, H, W) dealt out: the first of each group, then the second of each."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class Unit(nn.Module):
    """Grouped conv 1x1 - shuffle - depthwise conv 3x3 - grouped conv 1x1, added to its input.

    The first unit of a stage halves the map and is put beside its pooled input instead of added.
    """

    def __init__(self, n_in: int, n_out: int, *, halves: bool) -> None:
        super().__init__()
        made = n_out - n_in if halves else n_out
        middle = made // 4
        self.groups = 1 if n_in == STEM else GROUPS
        self.reduce = ConvNorm(n_in, middle, 1, groups=self.groups)
        self.depthwise = ConvNorm(middle, middle, 3, 2 if halves else 1, groups=middle)
        self.conv = nn.Conv2d(middle, made, 1, groups=GROUPS, bias=False)
        self.bn = nn.BatchNorm2d(made)
        self.halves = halves

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_out, H, W), or half the size, not activated."""
        inside = shuffled(F.relu(self.reduce(x)), self.groups)
        out = self.bn(self.conv(F.relu(self.depthwise(inside))))
        return torch.cat([out, F.avg_pool2d(x, 3, 2, 1)], 1) if self.halves else out + x


def build(*, n_classes: int, channels: int, size: int) -> Staged:
    """ShuffleNet, from 8x8 pixels on."""
    if size < 8:
        raise ValueError("at least 8x8 pixels are needed")
    stages = [Stage([ConvNorm(channels, STEM, 1)])]
    n_in = STEM
    for n_out, depth in zip(WIDTHS, DEPTHS, strict=True):
        units = [Unit(n_in, n_out, halves=True)]
        units += [Unit(n_out, n_out, halves=False) for _ in range(depth - 1)]
        stages.append(Stage(units))
        n_in = n_out
    return Staged(stages, n_in, n_classes)
