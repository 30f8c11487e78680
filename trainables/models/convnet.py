"""Small convolutional networks for 8x8 images: a stem and three stages, widths w - w - 2w - 4w.

Plain (one 3x3 convolution a stage) for students, residual (He et al. 2016, basic blocks) for teachers.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.contract import Outputs


class Plain(nn.Module):
    """conv 3x3 - BN; forward returns the map before its activation."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(n_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_out, H / stride, W / stride)."""
        return self.bn(self.conv(x))


class Residual(nn.Module):
    """Basic block with a 1x1 projection where the shape changes; forward returns the sum, not activated."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.first = Plain(n_in, n_out, stride)
        self.conv = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(n_out)
        same = n_in == n_out and stride == 1
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_out, H / stride, W / stride)."""
        return self.bn(self.conv(F.relu(self.first(x)))) + self.shortcut(x)


class ConvNet(nn.Module):
    """Feature maps: the stem's and each stage's last."""

    def __init__(self, width: int, blocks: int, n_classes: int, channels: int) -> None:
        super().__init__()
        block = Residual if blocks else Plain
        self.stem = Plain(channels, width, 1)
        widths, strides = (width, 2 * width, 4 * width), (1, 2, 2)
        stages: list[nn.ModuleList] = []
        n_in = width
        for n_out, stride in zip(widths, strides, strict=True):
            stage = [block(n_in, n_out, stride)]
            stage += [block(n_out, n_out, 1) for _ in range(blocks - 1)]
            stages.append(nn.ModuleList(stage))
            n_in = n_out
        self.stages = nn.ModuleList(stages)
        self.classifier = nn.Linear(n_in, n_classes)
        self.norms = (self.stem.bn, *(stage[-1].bn for stage in stages))

    def forward(self, x: Tensor) -> Outputs:
        """Outputs with four maps; the embedding is the last one's mean."""
        preacts = [self.stem(x)]
        features = [F.relu(preacts[0])]
        for stage in self.stages:
            h = features[-1]
            for block in stage:  # type: ignore[attr-defined]
                pre = block(h)
                h = F.relu(pre)
            preacts.append(pre)
            features.append(h)
        embedding = features[-1].mean((2, 3))
        return Outputs(self.classifier(embedding), embedding, tuple(features), tuple(preacts))


def build(*, width: int, n_classes: int, channels: int, size: int, blocks: int = 0) -> ConvNet:
    """A network of `width`; `blocks` residual blocks a stage, or one plain convolution where 0."""
    if size < 4:
        raise ValueError("at least 4x4 pixels are needed")
    return ConvNet(width, blocks, n_classes, channels)
