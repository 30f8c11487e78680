"""A user's network that takes as long to train as a file says, and learns the same."""

from __future__ import annotations

import os
import time
from pathlib import Path

from torch import Tensor, nn

PACE = "KDTUNE_TEST_PACE"  # the environment's name for the file: it holds the seconds of a step


class Unhurried(nn.Sequential):
    """Sleeps before a training step, where the environment names a file."""

    def forward(self, images: Tensor) -> Tensor:
        if self.training and PACE in os.environ:
            time.sleep(float(Path(os.environ[PACE]).read_text(encoding="ascii")))
        found: Tensor = super().forward(images)
        return found


def network(n_classes: int, channels: int, size: int) -> nn.Module:
    """A small one."""
    convolution = nn.Conv2d(channels, 8, 3, padding=1)
    pool = (nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return Unhurried(convolution, nn.ReLU(), *pool, nn.Linear(32, n_classes))
