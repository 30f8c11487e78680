"""AlexNet for 32x32 images with batch normalisation and without dropout, as the CCKD experiments use it, and its half.

conv 5x5 (no padding) - pool - conv 5x5 - pool - three convs 3x3 - pool - two hidden layers - classifier, pools 3x3
with stride 2, BN and ReLU after each convolution. The paper does not give the half; its code halves every width.
At 32x32x3 and 10 classes: 23,474,250 parameters; half: 5,882,922. Feature maps: the five convolutions', before pooling.
"""

from __future__ import annotations

from torch import nn

from trainables.models.staged import ConvNorm, Stage, Staged


def build(
    *, widths: tuple[int, ...], hidden: int, n_classes: int, channels: int, size: int
) -> Staged:
    """AlexNet with five convolutions of `widths` and two layers of `hidden`; from 19x19 pixels on."""
    side = size - 4
    for _ in range(3):
        side = (side - 3) // 2 + 1
    if side < 1:
        raise ValueError("at least 19x19 pixels are needed")
    pools = (None, nn.MaxPool2d(3, 2), nn.MaxPool2d(3, 2), None, None)
    kernels, paddings = (5, 5, 3, 3, 3), (0, 2, 1, 1, 1)
    ins = (channels, *widths[:-1])
    stages = [
        Stage([ConvNorm(n_in, n_out, kernel, bias=True, padding=padding)], pool)
        for n_in, n_out, kernel, padding, pool in zip(
            ins, widths, kernels, paddings, pools, strict=True
        )
    ]
    flat = widths[-1] * side * side
    neck = nn.Sequential(
        nn.MaxPool2d(3, 2),
        nn.Flatten(),
        *(nn.Linear(flat, hidden), nn.ReLU()),
        *(nn.Linear(hidden, hidden), nn.ReLU()),
    )
    return Staged(stages, hidden, n_classes, neck)
