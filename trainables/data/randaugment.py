"""RandAugment on batches of uint8 tensors: torchvision's fourteen operations, its strengths, nearest pixels, black.

Cubuk, Zoph, Shlens, Le. RandAugment. 2020. arXiv:1909.13719. torchvision's magnitudes are 31 steps, 0 to 30. Images
with the same operation and sign are done together; each operation treats every image by itself, so what an image
becomes does not depend on its batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

STEPS = 31  # torchvision's magnitudes
UNSIGNED = ("identity", "posterize", "solarize", "autocontrast", "equalize")
SIGNED = (
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
)
# (operation, sign): a signed operation is drawn as often as an unsigned one, half the time each way
KINDS = tuple((name, sign) for name in (*UNSIGNED, *SIGNED) for sign in (1, -1))
N_KINDS = len(KINDS)
TONE_RANGE = 0.9  # of brightness, color, contrast, sharpness


def randaugment(images: Tensor, kinds: Tensor, magnitude: int) -> Tensor:
    """`images` (B, channels, H, W) uint8 after the operations `kinds` (B, n), each an index into KINDS, in turn."""
    for step in range(kinds.shape[1]):
        changed = images.clone()
        for kind in kinds[:, step].unique().tolist():
            rows = (kinds[:, step] == kind).nonzero()[:, 0].to(images.device)
            changed[rows] = operate(images[rows], KINDS[kind], magnitude)
        images = changed
    return images


def operate(images: Tensor, kind: tuple[str, int], magnitude: int) -> Tensor:
    """One operation with its sign on (B, channels, H, W) uint8, at `magnitude` of STEPS - 1."""
    from torchvision.transforms.v2 import functional  # slow to import, and few need it

    name, sign = kind
    if name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"):
        return _move(images, name, sign, magnitude)
    if name in ("brightness", "color", "contrast", "sharpness"):
        return _tone(images, name, 1 + sign * strength(TONE_RANGE, magnitude))
    if name == "posterize":
        return functional.posterize(images, round(8 - 4 * magnitude / (STEPS - 1)))
    if name == "solarize":
        return functional.solarize(images, 255 * (1 - strength(1.0, magnitude)))
    if name == "autocontrast":
        return functional.autocontrast(images)
    return functional.equalize(images) if name == "equalize" else images


def strength(most: float, magnitude: int) -> float:
    """A share of `most`, rounded as torchvision rounds it, because pixels are cut off to whole numbers."""
    return float(torch.linspace(0.0, most, STEPS)[magnitude])


def _move(images: Tensor, name: str, sign: int, magnitude: int) -> Tensor:
    from torchvision.transforms.v2 import functional

    kind, _, axis = name.partition("_")
    along = [axis == "x", axis == "y"]
    if kind == "rotate":
        return functional.rotate(images, sign * strength(30.0, magnitude))
    if kind == "shear":  # about the corner, as PIL has it
        degrees = math.degrees(math.atan(sign * strength(0.3, magnitude)))
        shear = [degrees * on for on in along]
        return functional.affine(images, 0.0, [0, 0], 1.0, shear, center=[0, 0])
    side = images.shape[-1] if axis == "x" else images.shape[-2]
    offset = [int(sign * strength(150 / 331 * side, magnitude)) * on for on in along]
    return functional.affine(images, 0.0, offset, 1.0, [0.0, 0.0])


def _tone(images: Tensor, name: str, factor: float) -> Tensor:
    from torchvision.transforms.v2 import functional

    change = {
        "brightness": functional.adjust_brightness,
        "color": functional.adjust_saturation,
        "contrast": functional.adjust_contrast,
        "sharpness": functional.adjust_sharpness,
    }
    return change[name](images, factor)
