"""LeNet-5 (LeCun et al. 1998) with batch normalisation and ReLU, as the CCKD experiments use it, and its half.

conv 5x5 (padding 2) - BN - ReLU - pool, conv 5x5 - BN - ReLU - pool, two hidden layers, classifier.
At 28x28x1 and 10 classes: 61,750 parameters; half: 15,760.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from trainables.contract import Outputs


class LeNet(nn.Module):
    """Feature maps: both convolutions', before pooling."""

    def __init__(
        self, widths: tuple[int, int, int, int], n_classes: int, channels: int, size: int
    ) -> None:
        super().__init__()
        first, second, hidden, last = widths
        side = (size // 2 - 4) // 2
        if side < 1:
            raise ValueError("at least 12x12 pixels are needed")
        self.conv1 = nn.Conv2d(channels, first, 5, padding=2)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 5)
        self.bn2 = nn.BatchNorm2d(second)
        self.fc1 = nn.Linear(second * side * side, hidden)
        self.fc2 = nn.Linear(hidden, last)
        self.classifier = nn.Linear(last, n_classes)
        self.norms = (self.bn1, self.bn2)

    def forward(self, x: Tensor) -> Outputs:
        """Outputs with maps of (first, H, W) and (second, H / 2 - 4, W / 2 - 4)."""
        pre1 = self.bn1(self.conv1(x))
        map1 = F.relu(pre1)
        pre2 = self.bn2(self.conv2(F.max_pool2d(map1, 2)))
        map2 = F.relu(pre2)
        hidden = F.relu(self.fc1(F.max_pool2d(map2, 2).flatten(1)))
        embedding = F.relu(self.fc2(hidden))
        return Outputs(self.classifier(embedding), embedding, (map1, map2), (pre1, pre2))


def build(*, widths: tuple[int, int, int, int], n_classes: int, channels: int, size: int) -> LeNet:
    """LeNet-5 of the given widths (two convolutions, two hidden layers)."""
    return LeNet(widths, n_classes, channels, size)
