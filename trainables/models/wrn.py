"""Wide residual networks (Zagoruyko, Komodakis 2016, arXiv:1605.07146): wrn-d-k, depth d = 6n + 4, k times the widths.

conv 3x3 (16), three groups of n pre-activation blocks (16k, 32k, 64k; strides 1, 2, 2), BN - ReLU, mean, classifier.
No dropout. The sums that leave stem and groups are activated by the BN - ReLU that comes next, inside the next group's
first block or at the end: those are the feature maps, `preacts` the same after the BN and before the ReLU, `norms`
that BN. RepDistiller gives the same preacts, but the bare sums as features.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.contract import Outputs
from trainables.models.initial import fan_out

STEM = 16
WIDTHS = (16, 32, 64)
STRIDES = (1, 2, 2)


class PreActivation(nn.Module):
    """BN - ReLU - conv 3x3 - BN - ReLU - conv 3x3, added to its input; a 1x1 shortcut where channels differ."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(n_in)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(n_in, n_out, 1, stride, bias=False) if n_in != n_out else None

    def forward(self, x: Tensor) -> Tensor:
        """The sum, neither normalised nor activated."""
        return self.rest(x, F.relu(self.bn1(x)))

    def rest(self, x: Tensor, activated: Tensor) -> Tensor:
        """The same, given its input after BN - ReLU; a projected shortcut starts from there too."""
        inside = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return inside + (x if self.shortcut is None else self.shortcut(activated))


class WideResNet(nn.Module):
    """Feature maps: stem and groups, each after the BN - ReLU that follows it."""

    def __init__(self, depth: int, width: int, n_classes: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, STEM, 3, 1, 1, bias=False)
        groups: list[nn.ModuleList] = []
        n_in = STEM
        for base, stride in zip(WIDTHS, STRIDES, strict=True):
            n_out = base * width
            blocks = [PreActivation(n_in, n_out, stride)]
            blocks += [PreActivation(n_out, n_out, 1) for _ in range((depth - 4) // 6 - 1)]
            groups.append(nn.ModuleList(blocks))
            n_in = n_out
        self.groups = nn.ModuleList(groups)
        self.bn = nn.BatchNorm2d(n_in)
        self.classifier = nn.Linear(n_in, n_classes)
        self.norms = (*(group[0].bn1 for group in groups), self.bn)
        fan_out(self)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Outputs:
        """Outputs with four maps; the embedding is the last one's mean."""
        x = self.stem(x)
        preacts: list[Tensor] = []
        features: list[Tensor] = []
        for group in self.groups:
            first: PreActivation = group[0]  # type: ignore[index]
            preacts.append(first.bn1(x))
            features.append(F.relu(preacts[-1]))
            x = first.rest(x, features[-1])
            for block in group[1:]:  # type: ignore[index]
                x = block(x)
        preacts.append(self.bn(x))
        features.append(F.relu(preacts[-1]))
        embedding = features[-1].mean((2, 3))
        return Outputs(self.classifier(embedding), embedding, tuple(features), tuple(preacts))


def build(*, depth: int, width: int, n_classes: int, channels: int, size: int) -> WideResNet:
    """wrn-`depth`-`width`, from 4x4 pixels on; `depth` is 6n + 4."""
    if size < 4:
        raise ValueError("at least 4x4 pixels are needed")
    return WideResNet(depth, width, n_classes, channels)
