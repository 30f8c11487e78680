"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381) for 32x32 images at half its widths, as RepDistiller's.

Expansion 6, the stem has stride 2, ReLU where the paper has ReLU6, 1280 channels at the end whatever the width: 697,546
parameters at 10 classes. Feature maps are RepDistiller's: the stem's after its ReLU, then four block ends. A block's
end is linear, no activation follows before the next convolution, so there `features` and `preacts` are one map, signs
and all; `norms` has the BN that ends the block (before the addition where there is one).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.contract import Outputs
from trainables.models.initial import fan_out, small_linear
from trainables.models.staged import ConvNorm

STEM = 32
EMBEDDING = 1280
# channels, blocks, first stride, expansion
GROUPS = (
    (16, 1, 1, 1),
    (24, 2, 1, 6),
    (32, 3, 2, 6),
    (64, 4, 2, 6),
    (96, 3, 1, 6),
    (160, 3, 2, 6),
    (320, 1, 1, 6),
)
TAPS = (1, 2, 4, 6)  # groups whose end is a feature map


class Inverted(nn.Module):
    """conv 1x1 to `expansion` times the channels - depthwise conv 3x3 - linear conv 1x1; added where shapes agree."""

    def __init__(self, n_in: int, n_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = n_in * expansion
        self.expand = ConvNorm(n_in, wide, 1)
        self.depthwise = ConvNorm(wide, wide, 3, stride, groups=wide)
        self.project = ConvNorm(wide, n_out, 1)
        self.added = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_out, H / stride, W / stride), never activated."""
        out = self.project(F.relu(self.depthwise(F.relu(self.expand(x)))))
        return x + out if self.added else out


class MobileNetV2(nn.Module):
    """Feature maps: the stem and the ends of four groups."""

    def __init__(self, share: float, n_classes: int, channels: int) -> None:
        super().__init__()
        n_in = int(STEM * share)
        self.stem = ConvNorm(channels, n_in, 3, 2)
        groups: list[nn.Sequential] = []
        ends: list[nn.Module] = [self.stem.bn]
        for base, n_blocks, stride, expansion in GROUPS:
            n_out = int(base * share)
            blocks = [Inverted(n_in, n_out, stride, expansion)]
            blocks += [Inverted(n_out, n_out, 1, expansion) for _ in range(n_blocks - 1)]
            ends.append(blocks[-1].project.bn)
            groups.append(nn.Sequential(*blocks))
            n_in = n_out
        self.groups = nn.ModuleList(groups)
        self.last = ConvNorm(n_in, EMBEDDING, 1)
        self.classifier = nn.Linear(EMBEDDING, n_classes)
        self.norms = (ends[0], *(ends[i + 1] for i in TAPS))
        fan_out(self)
        small_linear(self)

    def forward(self, x: Tensor) -> Outputs:
        """Outputs with five maps; the embedding is the mean of a last, activated convolution."""
        preacts = [self.stem(x)]
        x = F.relu(preacts[0])
        features = [x]
        for i, group in enumerate(self.groups):
            x = group(x)
            if i in TAPS:
                preacts.append(x)
                features.append(x)
        embedding = F.relu(self.last(x)).mean((2, 3))
        return Outputs(self.classifier(embedding), embedding, tuple(features), tuple(preacts))


def build(*, share: float, n_classes: int, channels: int, size: int) -> MobileNetV2:
    """MobileNetV2 with `share` of its widths, from 16x16 pixels on."""
    if size < 16:
        raise ValueError("at least 16x16 pixels are needed")
    return MobileNetV2(share, n_classes, channels)
