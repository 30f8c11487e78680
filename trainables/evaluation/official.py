"""The published corrupted test sets, read from a folder that the user has: CIFAR-10-C, CIFAR-100-C, MNIST-C.

CIFAR (zenodo.org/record/2535967, CC BY 4.0): `NAME.npy` (50000, 32, 32, 3) uint8, severity s in rows (s - 1) * 10000 …,
and `labels.npy`. MNIST (zenodo.org/record/3239543): `NAME/test_images.npy` (10000, 28, 28, 1), `NAME/test_labels.npy`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from trainables.data.splits import Split

CIFAR = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur"),
    *("zoom_blur", "snow", "frost", "fog", "brightness", "contrast", "elastic_transform"),
    *("pixelate", "jpeg_compression"),
)
CIFAR_EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")  # reported apart, if there
MNIST = (
    *("shot_noise", "impulse_noise", "glass_blur", "motion_blur", "shear", "scale", "rotate"),
    *("brightness", "translate", "stripe", "fog", "spatter", "dotted_line", "zigzag"),
    "canny_edges",
)


class Official(NamedTuple):
    """A published set on disk."""

    name: str  # cifar10_c, cifar100_c or mnist_c, as in metric names
    folder: Path
    main: tuple[str, ...]  # what the mean is over
    extra: tuple[str, ...]


def find(folder: Path, channels: int, size: int, n_classes: int) -> Official:
    """The set in `folder`, for images of so many channels, pixels and classes.

    Raises ValueError where the folder holds neither layout whole (a mean over fewer corruptions is another number),
    or where the set's images are not of that kind.
    """
    if (folder / "labels.npy").exists():
        found = Official(f"cifar{n_classes}_c", folder, CIFAR, CIFAR_EXTRA)
        kind, files = (3, 32), [folder / f"{name}.npy" for name in CIFAR]
        fits = n_classes in (10, 100)
    else:
        found = Official("mnist_c", folder, MNIST, ())
        kind, files = (1, 28), [folder / name / "test_images.npy" for name in MNIST]
        fits = n_classes == 10
    missing = [str(file.relative_to(folder)) for file in files if not file.exists()]
    if missing:
        raise ValueError(
            f"{folder} must hold all {len(files)} corruptions of CIFAR-10-C, CIFAR-100-C or MNIST-C, "
            f"got none of {', '.join(missing)}"
        )
    if kind != (channels, size) or not fits:
        raise ValueError(
            f"the corrupted images must be of the dataset's kind ({channels} channels, {size} pixels, "
            f"{n_classes} classes), got {found.name} in {folder}"
        )
    for name in available(found):
        shape = tuple(read(found, name).images.shape)
        if shape[1:] != (channels, size, size):
            raise ValueError(
                f"{folder / name} must hold images of {channels} channels and {size} pixels, got {shape}"
            )
    return found


def read(official: Official, corruption: str) -> Split:
    """All images of one corruption, severity after severity, memory-mapped, and their labels; raises ValueError."""
    if official.main == MNIST:
        part = official.folder / corruption
        images, labels = _load(part / "test_images.npy"), _load(part / "test_labels.npy")
    else:
        images = _load(official.folder / f"{corruption}.npy")
        labels = _load(official.folder / "labels.npy")
    if images.ndim != 4 or len(images) != len(labels) or images.dtype != np.uint8:
        raise ValueError(
            f"{corruption} must hold uint8 images (N, height, width, channels) with N labels, "
            f"got {images.dtype} {images.shape} and {len(labels)}"
        )
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    return Split(pixels, torch.from_numpy(labels.astype(np.int64)))


def available(official: Official) -> tuple[str, ...]:
    """The corruptions to read: the main ones, and what there is of the extra ones."""
    here = (name for name in official.extra if (official.folder / f"{name}.npy").exists())
    return (*official.main, *here)


def _load(path: Path) -> np.ndarray:
    try:
        # copy-on-write: torch wants memory that could be written, the file stays as it is
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} must be a whole NumPy array, got another file: {error}") from None
