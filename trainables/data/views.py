"""Seeded views: what image i looks like in epoch e depends on (seed, e, i) alone.

So every trial of a search shows its teacher and its student the same pixels, and a resumed trial sees what it would
have seen. Draws are made for a whole epoch at once, pixels a batch at a time, on tensors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.seeding import generator

PAD = 4  # pixels on each side before a crop (He et al. 2016), at 32 pixels; see pad_of
PRESETS = ("none", "crop_flip")


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

    def __call__(self, images: Tensor, indices: Tensor) -> Tensor:
        """Views of `images` (B, channels, H, W) uint8, the training images `indices`: float in [0, 1]."""
        if self.augment == "crop_flip":
            images = crop_flip(images, self.shift[indices], self.flip[indices], self.pad)
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


def to_float(images: Tensor) -> Tensor:
    """uint8 pixels as float32 in [0, 1]."""
    return images.to(torch.float32).div_(255)
