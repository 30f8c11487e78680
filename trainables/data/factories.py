"""A user's own dataset: `package.module:factory`.

    def factory(root: Path, part: str) -> torch.utils.data.Dataset

is called with the data root and "train" or "test". What it returns has `__len__` and gives (image, label): a PIL image,
a uint8 array (H, W) or (H, W, channels), or a uint8 tensor (channels, H, W); a label from 0. Where it has `classes`,
they are the classes' names. Images are resized to one size (`--image-size`), read once, and kept decoded until the
module's file changes. Nothing of the training set's own random transforms belongs in there: views are drawn later.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data import pixels
from trainables.data.decoding import STREAM_ABOVE, Decoded, Images, Labels, fits
from trainables.data.sources import Source, usual
from trainables.factory import named

VAL_FRACTION = 0.1
PARTS = ("train", "test")


def look_up(name: str) -> Callable[[Path, str], Any]:
    """The function that `package.module:factory` names; raises ValueError where there is none."""
    return named(name, "(root, part)", Path(), "train")


def describe(name: str, root: Path, size: int | None) -> Source:
    """The entry of a user's dataset: the factory is called, its first image taken; raises ValueError."""
    dataset = look_up(name)(root, "train")
    image = _picture(name, dataset, 0)
    channels = 1 if image.mode in pixels.GREY_MODES else 3
    size = size or pixels.usual_size(*image.size)
    n_classes = len(_classes(dataset, lambda: _labels(name, dataset)))
    if not fits(len(dataset), channels, size):
        raise ValueError(
            f"a factory's images must fit in {STREAM_ABOVE // 2**30} GiB decoded, got {len(dataset):,}; "
            "give them as folder:PATH, which reads them when they are shown"
        )
    kind = "grey" if channels == 1 else "colour"
    return Source(
        name.partition(":")[2],
        f"{len(dataset):,} training images of {n_classes} classes from {name}, {size}x{size} {kind}",
        channels=channels,
        size=size,
        n_classes=n_classes,
        val_fraction=VAL_FRACTION,
        reader="factory",
        **usual(channels, size),
    )


def decode(name: str, root: Path, entry: Source) -> Decoded:
    """All images of both parts; raises ValueError, naming the item, for what is no image or no label."""
    train, test = (look_up(name)(root, part) for part in PARTS)
    parts = [_read(name, dataset, entry) for dataset in (train, test)]
    classes = _classes(train, lambda: parts[0][1])
    for part, (_, labels) in zip(PARTS, parts, strict=True):
        if not len(labels) or labels.min() < 0 or labels.max() >= len(classes):
            got = f"{labels.min()} to {labels.max()}" if len(labels) else "no image"
            raise ValueError(
                f"labels of {name} must be from 0 to {len(classes) - 1}, got {got} in {part}"
            )
    return Decoded(*parts[0], *parts[1], classes)


def fingerprint(name: str) -> str:
    """Changes when the module's file does."""
    file = importlib.import_module(name.partition(":")[0]).__file__
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def _read(name: str, dataset: Any, entry: Source) -> tuple[Images, Labels]:
    images = np.empty((len(dataset), entry.channels, entry.size, entry.size), dtype=np.uint8)
    for i in range(len(dataset)):
        picture = pixels.plain(_picture(name, dataset, i), entry.channels)
        images[i] = pixels.centre(picture, entry.size).numpy()
    return images, _labels(name, dataset)


def _picture(name: str, dataset: Any, i: int) -> Any:
    try:
        return pixels.as_picture(dataset[i][0])
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise ValueError(f"item {i} of {name} must be (image, label): {error}") from None


def _labels(name: str, dataset: Any) -> Labels:
    """Every label, from `targets` where the dataset has them."""
    known = getattr(dataset, "targets", None)
    found = known if known is not None else [dataset[i][1] for i in range(len(dataset))]
    try:
        return np.array([int(label) for label in found], dtype=np.int64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"labels of {name} must be whole numbers, got {error}") from None


def _classes(dataset: Any, labels: Callable[[], Labels]) -> tuple[str, ...]:
    known = getattr(dataset, "classes", None)
    return tuple(map(str, known if known is not None else range(int(labels().max()) + 1)))
