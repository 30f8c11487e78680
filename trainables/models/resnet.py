"""Residual networks for 32x32 images (He et al. 2016, arXiv:1512.03385, section 4.2), depth 6n + 2.

conv 3x3, three stages of n basic blocks (strides 1, 2, 2), the mean, the classifier. Where the shape changes the
shortcut is a 1x1 convolution, as in RepDistiller, mdistiller and most code (the paper's own has no parameters: 2,752
fewer in resnet20). resnet8x4 and resnet32x4 have a stem of 32 and stages of 64-128-256.
"""

from __future__ import annotations

from trainables.models.convnet import Residual
from trainables.models.initial import fan_out
from trainables.models.staged import ConvNorm, Stage, Staged

STRIDES = (1, 2, 2)


def build(
    *, depth: int, widths: tuple[int, int, int, int], n_classes: int, channels: int, size: int
) -> Staged:
    """ResNet of `depth` layers; `widths` are the stem's and the three stages'."""
    if size < 4:
        raise ValueError("at least 4x4 pixels are needed")
    blocks = (depth - 2) // 6
    stages = [Stage([ConvNorm(channels, widths[0], 3)])]
    for n_in, n_out, stride in zip(widths, widths[1:], STRIDES, strict=False):
        stage = [Residual(n_in, n_out, stride)]
        stage += [Residual(n_out, n_out, 1) for _ in range(blocks - 1)]
        stages.append(Stage(stage))
    model = Staged(stages, widths[-1], n_classes)
    fan_out(model)
    return model
