"""StudentNet: four blocks of conv 3x3 (64) - BN - ReLU - max-pool, then the classifier on what is left, flattened.

The repository that it comes from (a fork of JoonyoungYi/KD-pytorch) speaks of three blocks; its code has four.
At 32x32x3 and 10 classes: 115,658 parameters. Feature maps: each block's, before pooling.
"""

from __future__ import annotations

from torch import nn

from trainables.models.staged import ConvNorm, Stage, Staged

WIDTH = 64
N_BLOCKS = 4


def build(*, n_classes: int, channels: int, size: int) -> Staged:
    """StudentNet, from 16x16 pixels on."""
    side = size // 2**N_BLOCKS
    if side < 1:
        raise ValueError("at least 16x16 pixels are needed")
    stages = [Stage([ConvNorm(channels, WIDTH, 3, bias=True)])]
    stages += [
        Stage([ConvNorm(WIDTH, WIDTH, 3, bias=True)], nn.MaxPool2d(2)) for _ in range(N_BLOCKS - 1)
    ]
    neck = nn.Sequential(nn.MaxPool2d(2), nn.Flatten())
    return Staged(stages, WIDTH * side * side, n_classes, neck)
