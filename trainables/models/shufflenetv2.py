"""ShuffleNetV2 (Ma et al. 2018, arXiv:1807.11164) for 32x32 images, in two variants of the same units.

stem (24, full size), stages of 4, 8 and 4 units, conv 1x1, mean, classifier.

`shufflenetv2`: RepDistiller's 1x. 1x1 stem; maps of stem and stages; 1,263,278 parameters at 10 classes.
`shufflenetv2_x0.5` to `_x2.0`: those of PkuDavidGuan/Distillation. 3x3 stem, biases before the BNs, halving units
whose main branch keeps its input's channels, and a fifth map, the last convolution's. Their code puts ReLU before each
branch and none at its end; that is the same function, so here too `preacts` are what leaves a unit and `features` the
same after ReLU.

Half of a unit's channels pass by untouched (already activated: ReLU leaves them) and are shuffled among the others, so
no batch normalisation stands before the activation of a stage's end: None in `norms`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainables.models.shufflenetv1 import shuffled
from trainables.models.staged import ConvNorm, Mean, Stage, Staged

STEM = 24
DEPTHS = (4, 8, 4)


def _main(n_in: int, middle: int, n_out: int, stride: int, bias: bool) -> nn.Sequential:
    return nn.Sequential(
        ConvNorm(n_in, middle, 1, bias=bias),
        nn.ReLU(),
        ConvNorm(middle, middle, 3, stride, groups=middle, bias=bias),
        ConvNorm(middle, n_out, 1, bias=bias),
    )


class Unit(nn.Module):
    """Half of the channels through conv 1x1 - depthwise conv 3x3 - conv 1x1, the other half as they are; shuffled."""

    bn = None

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.main = _main(width // 2, width // 2, width // 2, 1, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W), not activated."""
        kept, used = x.chunk(2, 1)
        return shuffled(torch.cat([kept, self.main(used)], 1), 2)


class Halving(nn.Module):
    """All channels through both branches, each of which halves the map and makes half of the new channels."""

    bn = None
    main: nn.Module
    side: nn.Module

    def __init__(self, n_in: int, n_out: int, *, slim: bool) -> None:
        """`slim`: a main branch that narrows at once, no biases; the other variant has that branch first."""
        super().__init__()
        half, bias = n_out // 2, not slim
        side = nn.Sequential(
            ConvNorm(n_in, n_in, 3, 2, groups=n_in, bias=bias), ConvNorm(n_in, half, 1, bias=bias)
        )
        branches = {"main": _main(n_in, half if slim else n_in, half, 2, bias), "side": side}
        for name in ("side", "main") if slim else ("main", "side"):
            self.add_module(name, branches[name])

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_out, H / 2, W / 2), not activated."""
        return shuffled(torch.cat([self.side(x), self.main(x)], 1), 2)


def build(
    *, widths: tuple[int, int, int, int], slim: bool, n_classes: int, channels: int, size: int
) -> Staged:
    """ShuffleNetV2 of three stages' widths and the embedding's, from 8x8 pixels on; `slim`: RepDistiller's."""
    if size < 8:
        raise ValueError("at least 8x8 pixels are needed")
    *stage_widths, embedding = widths
    bias = not slim
    stages = [Stage([ConvNorm(channels, STEM, 1 if slim else 3, bias=bias)])]
    n_in = STEM
    for n_out, depth in zip(stage_widths, DEPTHS, strict=True):
        units: list[nn.Module] = [Halving(n_in, n_out, slim=slim)]
        units += [Unit(n_out, bias) for _ in range(depth - 1)]
        stages.append(Stage(units))
        n_in = n_out
    last = ConvNorm(n_in, embedding, 1, bias=bias)
    if slim:
        return Staged(stages, embedding, n_classes, nn.Sequential(last, nn.ReLU(), Mean()))
    return Staged([*stages, Stage([last])], embedding, n_classes)
