"""Seeded views: what image i looks like in epoch e depends on (seed, e, i) alone.

So every trial of a search shows its teacher and its student the same pixels, and a resumed trial sees what it would
have seen. Draws are made for a whole epoch at once, pixels a batch at a time, on tensors.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.seeding import generator

PAD = 4  # pixels on each side before a crop (He et al. 2016), at 32 pixels; see pad_of
PRESETS = ("none", "crop_flip", "strong")

N_STRONG = 8  # draws of a strong view


def pad_of(size: int) -> int:
    """The padding of a crop: 4 pixels at 32, in proportion elsewhere, at least 1."""
    return max(1, round(PAD * size / 32))


class Views:
    """The augmented views of one epoch of `n` images of height and width `size`."""

    def __init__(self, augment: str, n: int, size: int, seed: int, epoch: int) -> None:
        if augment not in PRESETS:
            raise ValueError(f"augment must be one of {', '.join(PRESETS)}, got {augment!r}")
        self.augment = augment
        if augment == "crop_flip":
            g = generator(seed, "views", epoch)
            self.pad = pad_of(size)
            self.shift = torch.randint(0, 2 * self.pad + 1, (n, 2), generator=g)
            self.flip = torch.rand(n, generator=g) < 0.5
        if augment == "strong":
            self.draws = torch.rand(n, N_STRONG, generator=generator(seed, "strong views", epoch))

    def __call__(self, images: Tensor, indices: Tensor) -> Tensor:
        """Views of `images` (B, channels, H, W) uint8, the training images `indices`: float in [0, 1]."""
        if self.augment == "crop_flip":
            images = crop_flip(images, self.shift[indices], self.flip[indices], self.pad)
        if self.augment == "strong":
            return strong(to_float(images), self.draws[indices])
        return to_float(images)


def crop_flip(images: Tensor, shift: Tensor, flip: Tensor, pad: int) -> Tensor:
    """Zero-pad, cut at `shift` (B, 2) in [0, 2 pad], mirror where `flip` (B,); same shape and type."""
    n, _, height, width = images.shape
    padded = F.pad(images, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    rows = shift[:, :1] + torch.arange(height)
    columns = torch.arange(width).expand(n, width)
    columns = shift[:, 1:] + torch.where(flip[:, None], width - 1 - columns, columns)
    picked = padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def strong(images: Tensor, draws: Tensor) -> Tensor:
    """Rotate, scale, shift, change contrast and brightness, cut a square out, by (B, N_STRONG) draws in [0, 1).

    Takes and gives floats in [0, 1]. A tensor form of what RandAugment (arXiv:1909.13719) does to an image, every
    operation at once with a random strength: up to 30 degrees, 20 % of scale, 12.5 % of shift, 40 % of contrast, 0.2
    of brightness, a square of a quarter of the width.
    """
    n, _, height, width = images.shape
    centred = 2 * draws - 1
    angle, scale = centred[:, 0] * math.radians(30), 1 + 0.2 * centred[:, 1]
    cos, sin = angle.cos() * scale, angle.sin() * scale
    shift = 0.25 * centred[:, 2:4]  # grid units: the image is 2 wide
    rows = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], 1).view(n, 2, 3)
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False)
    mean = moved.mean((1, 2, 3), keepdim=True)
    toned = mean + (moved - mean) * (1 + 0.4 * centred[:, 4]).view(-1, 1, 1, 1)
    toned = (toned + 0.2 * centred[:, 5].view(-1, 1, 1, 1)).clamp(0, 1)
    side = max(1, width // 4)
    top, left = ((draws[:, i] * (height - side + 1)).long() for i in (6, 7))
    y, x = torch.arange(height), torch.arange(width)
    in_rows = (y >= top[:, None]) & (y < top[:, None] + side)
    in_columns = (x >= left[:, None]) & (x < left[:, None] + side)
    return toned.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)


def to_float(images: Tensor) -> Tensor:
    """uint8 pixels as float32 in [0, 1]."""
    return images.to(torch.float32).div_(255)
