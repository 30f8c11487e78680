"""Seeded views: what image i looks like in epoch e depends on (seed, e, i) alone.

So every trial of a search shows its teacher and its student the same pixels, and a resumed trial sees what it would
have seen. Draws are made for a whole epoch at once, on the CPU; pixels a batch at a time, where the images are.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.data.randaugment import N_KINDS, randaugment
from trainables.seeding import generator

PAD = 4  # pixels on each side before a crop (He et al. 2016), at 32 pixels; see pad_of
DEGREES = 15.0  # of a rotation, at most (CCKD)
OPERATIONS, MAGNITUDE = (
    2,
    10,
)  # RandAugment(2, 10), as MLKD and LSKD have it; of torchvision's 31 magnitudes
PRESETS = ("none", "crop_flip", "crop_flip_rotate", "randaugment")


def pad_of(size: int) -> int:
    """The padding of a crop: 4 pixels at 32, in proportion elsewhere, at least 1."""
    return max(1, round(PAD * size / 32))


class Views:
    """The augmented views of one epoch of `n` images of height and width `size`.

    `crop_flip` pads with black, cuts and mirrors; `crop_flip_rotate` then turns by up to 15 degrees; `randaugment`
    then does two random operations. `strong` views have draws of their own and two random operations after the
    preset's, so that images whose views are not mirrored (digits) are not mirrored in strong views either.
    """

    def __init__(
        self, augment: str, n: int, size: int, seed: int, epoch: int, *, strong: bool = False
    ) -> None:
        if augment not in PRESETS:
            raise ValueError(f"augment must be one of {', '.join(PRESETS)}, got {augment!r}")
        g = generator(seed, "strong views" if strong else "views", epoch)
        self.moves = augment != "none"
        self.turns = augment == "crop_flip_rotate"
        self.operates = strong or augment == "randaugment"
        self.pad = pad_of(size)
        if self.moves:
            self.shift = torch.randint(0, 2 * self.pad + 1, (n, 2), generator=g)
            self.flip = torch.rand(n, generator=g) < 0.5
        if self.turns:
            self.degrees = DEGREES * (2 * torch.rand(n, generator=g) - 1)
        if self.operates:
            self.operations = torch.randint(0, N_KINDS, (n, OPERATIONS), generator=g)

    def __call__(self, images: Tensor, indices: Tensor) -> Tensor:
        """Views of `images` (B, channels, H, W) uint8, the training images `indices`: float in [0, 1]."""
        device = images.device
        if self.moves:
            shift, flip = self.shift[indices].to(device), self.flip[indices].to(device)
            images = crop_flip(images, shift, flip, self.pad)
        if self.turns:
            images = rotate(images, self.degrees[indices].to(device))
        if self.operates:
            images = randaugment(images, self.operations[indices], MAGNITUDE)
        return to_float(images)


def crop_flip(images: Tensor, shift: Tensor, flip: Tensor, pad: int) -> Tensor:
    """Zero-pad, cut at `shift` (B, 2) in [0, 2 pad], mirror where `flip` (B,); same shape and type."""
    n, channels, height, width = images.shape
    padded = F.pad(images, (pad, pad, pad, pad))
    rows = shift[:, :1] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(n, width)
    columns = shift[:, 1:] + torch.where(flip[:, None], width - 1 - columns, columns)
    where = (rows * padded.shape[-1])[:, :, None] + columns[:, None, :]
    picked = padded.flatten(2).gather(2, where.view(n, 1, -1).expand(n, channels, -1))
    return picked.view(images.shape)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn images (B, channels, H, W) about their middle, anticlockwise by `degrees` (B,); nearest pixel, black."""
    n, channels, height, width = images.shape
    angle = (degrees * (math.pi / 180)).view(n, 1, 1)
    cos, sin = angle.cos(), angle.sin()
    y = (torch.arange(height, device=images.device) - (height - 1) / 2).view(1, height, 1)
    x = (torch.arange(width, device=images.device) - (width - 1) / 2).view(1, 1, width)
    column = (cos * x - sin * y + (width - 1) / 2).round().long()
    row = (sin * x + cos * y + (height - 1) / 2).round().long()
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    where = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    picked = images.flatten(2).gather(2, where.view(n, 1, -1).expand(n, channels, -1))
    return picked.view(images.shape) * inside[:, None]


def to_float(images: Tensor) -> Tensor:
    """uint8 pixels as float32 in [0, 1]."""
    return images.to(torch.float32).div_(255)
