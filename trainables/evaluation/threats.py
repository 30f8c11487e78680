"""How far an attack may go: a norm and a radius in pixels of [0, 1], and the steps that stay within.

A radius means nothing without its units. The same number in normalised units is another attack, so published radii
that were given in those are converted here, by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

NORMS = ("linf", "l2")
EIGHT_BITS = 255
LARGEST_OF_EIGHT_BITS = 32  # radii up to 32/255 are named in 255ths, where they are whole ones


class Threat(NamedTuple):
    """All images within `epsilon` of an image, in pixels of [0, 1], and themselves in [0, 1]."""

    norm: str  # of NORMS; "l2" over all pixels and channels of an image
    epsilon: float

    @property
    def name(self) -> str:
        """As in metric names: linf_8_255, linf_0.1, l2_0.5."""
        whole = round(self.epsilon * EIGHT_BITS)
        exact = math.isclose(self.epsilon * EIGHT_BITS, whole, rel_tol=1e-9)
        if self.norm == "linf" and exact and 0 < whole <= LARGEST_OF_EIGHT_BITS:
            return f"linf_{whole}_255"
        return f"{self.norm}_{self.epsilon:g}"


def linf(*epsilons: float) -> tuple[Threat, ...]:
    """L-infinity threats, in pixels."""
    return tuple(Threat("linf", epsilon) for epsilon in epsilons)


# Small enough that undefended networks differ, up to what AutoAttack and RobustBench use.
COLOUR = (*linf(2 / 255, 4 / 255, 8 / 255), Threat("l2", 0.5))
GREY = linf(0.025, 0.05, 0.1)
OF_DATASETS = {
    "digits": linf(0.05, 0.1, 0.15),
    "mnist": linf(0.1, 0.15, 0.3),
    "fashion_mnist": GREY,
}


class Published(NamedTuple):
    """A radius as a paper or its code states it: in units of the image divided by `std`."""

    epsilon: float
    std: float  # 1 where the attacked images were in [0, 1]


# "cckd" is the public code of CCKD (arXiv:2006.01683): it attacks MNIST and Fashion-MNIST in [0, 1], CIFAR in [-1, 1].
PRESETS = {
    "cckd": {
        "mnist": Published(0.15, 1.0),
        "fashion_mnist": Published(0.05, 1.0),
        "cifar10": Published(0.05, 0.5),
    }
}


def threats_for(dataset: str, channels: int) -> tuple[Threat, ...]:
    """What a dataset is attacked with; by its channels where it is not a known one."""
    return OF_DATASETS.get(dataset, GREY if channels == 1 else COLOUR)


def preset(name: str, dataset: str) -> Threat:
    """A published radius, converted to pixels; raises ValueError where there is none of that name for the dataset."""
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    if dataset not in PRESETS[name]:
        raise ValueError(
            f"preset {name} must be for one of {', '.join(PRESETS[name])}, got {dataset!r}"
        )
    published = PRESETS[name][dataset]
    return Threat("linf", published.epsilon * published.std)


def check(threats: Sequence[Threat]) -> None:
    """Raise ValueError for a norm that is not known or a radius that is not a finite number of at least 0."""
    for norm, epsilon in threats:
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
        if not 0 <= epsilon < math.inf:
            raise ValueError(f"epsilon must be at least 0 and finite, got {epsilon}")


def start(threat: Threat, images: Tensor, draws: torch.Generator) -> Tensor:
    """A random image within the threat, for each of (B, channels, H, W).

    L-infinity: uniform over the box. L2: a random direction, the length uniform in the ball's volume, then clamped.
    """
    if threat.norm == "linf":
        low, high = _box(threat, images)
        return low + uniform(images, draws) * (high - low)
    direction = torch.randn(images.shape, generator=draws).to(images.device)
    length = threat.epsilon * uniform(images[:, :1, :1, :1], draws) ** (1 / images[0].numel())
    return (images + length * _unit(direction)).clamp(0, 1)


def climb(threat: Threat, images: Tensor, found: Tensor, gradient: Tensor, size: float) -> Tensor:
    """`found` moved by `size` up the gradient, the steepest way in the threat's norm, and back within the threat.

    A zero gradient moves nothing.
    """
    if threat.norm == "linf":
        low, high = _box(threat, images)
        return torch.minimum(torch.maximum(found + size * gradient.sign(), low), high)
    away = found + size * _unit(gradient) - images
    length = away.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    shorter = away * (threat.epsilon / length.clamp(min=1e-12)).clamp(max=1)
    return (images + shorter).clamp(
        0, 1
    )  # the image lies in the box, so clamping only comes nearer


def uniform(like: Tensor, draws: torch.Generator) -> Tensor:
    """Uniform draws of the shape of `like`, made on the CPU so that every device sees the same."""
    return torch.rand(like.shape, generator=draws).to(like.device)


def _box(threat: Threat, images: Tensor) -> tuple[Tensor, Tensor]:
    return (images - threat.epsilon).clamp(min=0), (images + threat.epsilon).clamp(max=1)


def _unit(x: Tensor) -> Tensor:
    return x / x.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
