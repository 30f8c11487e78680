"""Datasets by name: decoded once into uint8 images and labels.

`digits` comes with scikit-learn. The others are torchvision's: read from `root` where they lie there already,
downloaded there where they do not.
"""

from __future__ import annotations

import shutil
import urllib.error
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from search_spaces import nearest

Images = npt.NDArray[np.uint8]  # (N, channels, H, W)
Labels = npt.NDArray[np.int64]  # (N,)


@dataclass(frozen=True)
class Source:
    """What is known of a dataset before it is read."""

    summary: str
    channels: int
    size: int  # height and width, pixels
    n_classes: int
    teacher: str  # the models a search takes unless told otherwise
    student: str
    equal_student: str  # likewise, for methods that need the teacher's channels
    epochs: int
    teacher_epochs: int
    val_fraction: float
    augment: str
    epsilon: (
        float  # of the attacks, L-infinity, in pixels: undefended networks keep some accuracy there
    )
    torchvision: str = ""  # the class that reads it; scikit-learn's digits where empty


@dataclass(frozen=True)
class Decoded:
    """A whole dataset in memory; only `splits.prepare` sees the test part."""

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    classes: tuple[str, ...]


SOURCES = {
    "digits": Source(
        "1,797 handwritten digits, 8x8 grey, inside scikit-learn",
        channels=1,
        size=8,
        n_classes=10,
        teacher="convnet16res",
        student="convnet4",
        equal_student="convnet16",
        epochs=20,
        teacher_epochs=20,
        val_fraction=0.5,
        augment="none",
        epsilon=0.15,
    ),
    "mnist": Source(
        "70,000 handwritten digits, 28x28 grey",
        channels=1,
        size=28,
        n_classes=10,
        teacher="lenet5",
        student="lenet5_half",
        equal_student="lenet5",
        epochs=20,
        teacher_epochs=20,
        val_fraction=0.1,
        augment="none",
        epsilon=0.1,
        torchvision="MNIST",
    ),
    "fashion_mnist": Source(
        "70,000 articles of clothing, 28x28 grey",
        channels=1,
        size=28,
        n_classes=10,
        teacher="lenet5",
        student="lenet5_half",
        equal_student="lenet5",
        epochs=20,
        teacher_epochs=20,
        val_fraction=0.1,
        augment="none",
        epsilon=0.1,
        torchvision="FashionMNIST",
    ),
}
DIGITS_TEST = 599  # images; scikit-learn names no test set, so a fixed stratified third is one


def names() -> tuple[str, ...]:
    """The datasets that come with kdtune."""
    return tuple(SOURCES)


def source(name: str) -> Source:
    """The entry of a dataset; raises ValueError for an unknown name."""
    if name not in SOURCES:
        known = ", ".join(SOURCES)
        raise ValueError(f"unknown dataset {name!r}{nearest(name, SOURCES)}; known: {known}")
    return SOURCES[name]


def decode(name: str, root: Path) -> Decoded:
    """Read a dataset; raises ValueError, naming the folder, where it is neither there nor to be had."""
    entry = source(name)
    return _torchvision(entry.torchvision, root) if entry.torchvision else _digits()


def _digits() -> Decoded:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    train, test = train_test_split(
        np.arange(len(images)), test_size=DIGITS_TEST, stratify=bunch.target, random_state=0
    )
    labels = bunch.target.astype(np.int64)
    classes = tuple(str(name) for name in bunch.target_names)
    return Decoded(images[train], labels[train], images[test], labels[test], classes)


def _torchvision(class_name: str, root: Path) -> Decoded:
    import torchvision.datasets

    factory = getattr(torchvision.datasets, class_name)
    folders = [path for path in (root / class_name, root, *root.parents) if not path.exists()]
    try:
        train, test = (factory(root, train=part, download=True) for part in (True, False))
    except (RuntimeError, urllib.error.URLError, OSError) as error:
        if folders:  # torchvision made them for files that never came
            shutil.rmtree(folders[-1], ignore_errors=True)
        raise ValueError(
            f"{class_name} must lie in {root / class_name} or be downloadable, got: {_one_line(error)}; "
            "give its folder with --data-root"
        ) from None
    return Decoded(*_arrays(train), *_arrays(test), tuple(train.classes))


def _arrays(dataset: Any) -> tuple[Images, Labels]:
    pixels = np.asarray(dataset.data)
    images = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images), np.asarray(dataset.targets, dtype=np.int64)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
