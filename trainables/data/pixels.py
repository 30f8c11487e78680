"""One picture of any size and kind as uint8 pixels (channels, size, size)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

GREY_MODES = ("L", "1")
SMALL = 64  # pixels: up to here images keep their size unless told otherwise
USUAL_SIZE = 224


def load(path: str | Path, channels: int) -> Image.Image:
    """The picture in a file, grey or RGB; raises ValueError, naming the file, where it cannot be read."""
    try:
        with Image.open(path) as image:
            return plain(image, channels)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"an image must be readable, got {path}: {reason}") from None


def centre(image: Image.Image, size: int) -> Tensor:
    """The shorter side resized to `size`, the middle cut out, as torchvision's Resize and CenterCrop do it.

    uint8 (channels, size, size).
    """
    width, height = image.size
    if min(width, height) != size:
        short = min(width, height)
        width, height = size * width // short, size * height // short
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    cut = np.array(image.crop((left, top, left + size, top + size)))
    return torch.from_numpy(cut.reshape(size, size, -1)).permute(2, 0, 1).contiguous()


def usual_size(width: int, height: int) -> int:
    """The side that images are resized to unless told otherwise: their shorter one up to SMALL, else USUAL_SIZE."""
    return min(width, height) if min(width, height) <= SMALL else USUAL_SIZE


def as_picture(image: Any) -> Image.Image:
    """A PIL image from what a dataset gives: PIL, uint8 array (H, W) or (H, W, C), uint8 tensor (C, H, W).

    Raises ValueError for anything else.
    """
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, Tensor):
        image = image.permute(1, 2, 0).numpy() if image.ndim == 3 else image.numpy()
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3):
        kind = (
            f"{image.dtype} of {image.ndim} axes"
            if hasattr(image, "ndim")
            else type(image).__name__
        )
        raise ValueError(
            "an image must be PIL's, a uint8 array (H, W[, channels]) or a uint8 tensor (channels, H, W), "
            f"got {kind}; leave ToTensor and Normalize out"
        )
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim == 3 and image.shape[2] != 3:
        raise ValueError(f"an image must have 1 or 3 channels, got {image.shape[2]}")
    return Image.fromarray(image)


def plain(image: Image.Image, channels: int) -> Image.Image:
    """Grey for one channel, else RGB."""
    return image.convert("L" if channels == 1 else "RGB")
