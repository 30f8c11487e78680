"""A small set of common corruptions, made here: `corruption/lite`, which is not CIFAR-10-C and is not called so.

Constants of Hendrycks, Dietterich 2019 (arXiv:1903.12261) for CIFAR, severities 1 to 5: made for 32x32 pixels and
taken as they are at every size, so blurs and pixels weigh more on smaller images. Drawn anew from the seed, for one
channel or three.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from trainables.data.views import to_float

SEVERITIES = 5


class Corruption(NamedTuple):
    """Images (B, channels, H, W) in [0, 1], a level and draws -> images, clamped by who calls."""

    make: Callable[[Tensor, float, torch.Generator], Tensor]
    levels: tuple[float, ...]  # of each severity


def corrupt(images: Tensor, name: str, severity: int, draws: torch.Generator) -> Tensor:
    """uint8 images under a corruption of LITE at a severity of 1 to 5, uint8 again; raises ValueError for others.

    Fractions of a grey level are cut off, as in the official files.
    """
    if name not in LITE:
        raise ValueError(f"corruption must be one of {', '.join(LITE)}, got {name!r}")
    if severity not in range(1, SEVERITIES + 1):
        raise ValueError(f"severity must be 1 to {SEVERITIES}, got {severity}")
    made = LITE[name].make(to_float(images), LITE[name].levels[severity - 1], draws)
    # a 1000th keeps whole levels whole in float32
    return (made.clamp(0, 1) * 255 + 1e-3).to(torch.uint8)


def gaussian_noise(images: Tensor, deviation: float, draws: torch.Generator) -> Tensor:
    """Normal noise on every value."""
    return images + deviation * torch.randn(images.shape, generator=draws)


def shot_noise(images: Tensor, photons: float, draws: torch.Generator) -> Tensor:
    """Poisson counts of so many photons at white."""
    return torch.poisson(images * photons, generator=draws) / photons


def impulse_noise(images: Tensor, share: float, draws: torch.Generator) -> Tensor:
    """A share of all values turned black or white, half each."""
    draw = torch.rand(images.shape, generator=draws)
    return torch.where(draw < share, (draw < share / 2).to(images), images)


def gaussian_blur(images: Tensor, sigma: float, _: torch.Generator) -> Tensor:
    """A Gaussian of `sigma` pixels, cut off at four of them; the border's values go on outside."""
    rows, columns = (_blur_matrix(n, sigma) for n in images.shape[-2:])
    return rows @ images @ columns.T


def defocus_blur(images: Tensor, level: float, _: torch.Generator) -> Tensor:
    """A disk of a radius, itself blurred over 3x3 pixels; `level` is the radius, which decides that blur."""
    if min(images.shape[-2:]) < 3:
        raise ValueError(f"defocus_blur must have at least 3x3 pixels, got {tuple(images.shape)}")
    kernel = _disk(level, ALIAS_BLUR[level]).expand(images.shape[1], 1, 5, 5)
    padded = F.pad(images, (2, 2, 2, 2), mode="reflect")
    return F.conv2d(padded, kernel, groups=images.shape[1])


def brightness(images: Tensor, more: float, _: torch.Generator) -> Tensor:
    """The value in hue-saturation-value raised: all channels in proportion, black to grey."""
    value = images.amax(1, keepdim=True)
    brighter = (value + more).clamp(max=1)
    return torch.where(value > 0, images * (brighter / value.clamp(min=1e-12)), brighter)


def contrast(images: Tensor, share: float, _: torch.Generator) -> Tensor:
    """That share of each channel's distance from its mean over the image."""
    mean = images.mean((2, 3), keepdim=True)
    return mean + (images - mean) * share


def pixelate(images: Tensor, scale: float, _: torch.Generator) -> Tensor:
    """Fewer pixels, each the mean of a block, spread over the old size: PIL's BOX filter down and up."""
    rows, columns = (_pixel_matrix(n, scale) for n in images.shape[-2:])
    return rows @ images @ columns.T


def jpeg_compression(images: Tensor, quality: float, _: torch.Generator) -> Tensor:
    """Through a JPEG file and back, by PIL: the library that the published files were made with."""
    levels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    back = [_through_jpeg(one, int(quality)) for one in levels]
    return to_float(torch.from_numpy(np.stack(back)).permute(0, 3, 1, 2).contiguous())


ALIAS_BLUR = {0.3: 0.4, 0.4: 0.5, 0.5: 0.6, 1.0: 0.2, 1.5: 0.1}  # radius -> the disk's own blur
LITE = {
    "gaussian_noise": Corruption(gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": Corruption(shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": Corruption(impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "defocus_blur": Corruption(defocus_blur, tuple(ALIAS_BLUR)),
    "gaussian_blur": Corruption(gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "brightness": Corruption(brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": Corruption(contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "pixelate": Corruption(pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg_compression": Corruption(jpeg_compression, (80, 65, 58, 50, 40)),
}


def _through_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    """(H, W, 1 or 3) uint8, as read back."""
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(
        file, "JPEG", quality=quality
    )
    return np.asarray(Image.open(file)).reshape(pixels.shape)


def _bell(sigma: float, reach: int) -> Tensor:
    """(2 reach + 1,) weights of a Gaussian, summing to 1."""
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    return weights / weights.sum()


def _blur_matrix(n: int, sigma: float) -> Tensor:
    """(n, n): what each pixel of a line takes of each, the line's ends repeated."""
    reach = int(4 * sigma + 0.5)
    taken = (torch.arange(n)[:, None] + torch.arange(-reach, reach + 1)).clamp(0, n - 1)
    return torch.zeros(n, n).scatter_add_(1, taken, _bell(sigma, reach).expand(n, -1))


def _pixel_matrix(n: int, scale: float) -> Tensor:
    """(n, n): means over the blocks of a line of int(n * scale) pixels, at least one."""
    few = max(1, int(n * scale))
    # block i holds the pixels of [i n / few, (i + 1) n / few), both ends rounded half up
    edges = [math.floor(i * n / few + 0.5) for i in range(few + 1)]
    matrix = torch.zeros(n, n)
    for pixel in range(n):
        block = int((pixel + 0.5) * few / n)
        low, high = edges[block], edges[block + 1]
        matrix[pixel, low:high] = 1 / (high - low)
    return matrix


def _disk(radius: float, sigma: float) -> Tensor:
    """(5, 5): a disk of at most two pixels' radius, blurred by 3x3."""
    away = torch.arange(-2, 3)
    disk = (away[:, None] ** 2 + away**2 <= radius**2).float()
    bell = _bell(sigma, 1)
    return F.conv2d((disk / disk.sum())[None, None], torch.outer(bell, bell)[None, None], padding=1)
