"""The networks: one file a family. A network takes images in [0, 1] and returns Outputs.

Each has `classifier` (nn.Linear, embedding to logits) and `norms`, the BatchNorm2d or None right before each feature
map's activation. Nothing here imports torch before a network is built.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from search_spaces import nearest

if TYPE_CHECKING:
    from trainables.models.normalized import Normalized


@dataclass(frozen=True)
class Entry:
    """Where a network is built."""

    family: str  # the file
    summary: str
    options: dict[str, Any] = field(default_factory=dict)  # of the family's `build`


MODELS = {
    "convnet4": Entry("convnet", "four 3x3 convolutions, widths 4-4-8-16", {"width": 4}),
    "convnet8": Entry("convnet", "four 3x3 convolutions, widths 8-8-16-32", {"width": 8}),
    "convnet16": Entry("convnet", "four 3x3 convolutions, widths 16-16-32-64", {"width": 16}),
    "convnet16res": Entry(
        "convnet",
        "a stem and three residual blocks, widths 16-16-32-64",
        {"width": 16, "blocks": 1},
    ),
    "lenet5": Entry(
        "lenet", "LeNet-5 with batch normalisation (CCKD)", {"widths": (6, 16, 120, 84)}
    ),
    "lenet5_half": Entry("lenet", "the same at half its widths", {"widths": (3, 8, 60, 42)}),
}


def names() -> tuple[str, ...]:
    """Every network's name."""
    return tuple(MODELS)


def entry(name: str) -> Entry:
    """The entry of a network; raises ValueError for an unknown name."""
    if name not in MODELS:
        raise ValueError(
            f"unknown model {name!r}{nearest(name, MODELS)}; known: {', '.join(MODELS)}"
        )
    return MODELS[name]


def build(
    name: str,
    *,
    n_classes: int,
    channels: int,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Normalized:
    """A network for (channels, size, size) images in [0, 1], which it normalises itself.

    Weights come from torch's current random stream. Raises ValueError for an unknown name and for images that the
    network cannot take.
    """
    import torch

    from trainables.models.normalized import Normalized

    known = entry(name)
    family = importlib.import_module(f"{__name__}.{known.family}")
    try:
        body = family.build(n_classes=n_classes, channels=channels, size=size, **known.options)
        model = Normalized(body, mean, std)
        with torch.no_grad():
            model.eval()(torch.zeros(1, channels, size, size))
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{name} must be able to take the images, got {channels}x{size}x{size}: {reason}"
        ) from None
    return model.train()
