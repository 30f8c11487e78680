"""Reading a dataset once, in its published order: as uint8 arrays, or as paths where the arrays would be too large.

`digits` comes with scikit-learn, others through torchvision, which downloads what is not there; image folders and
factories have files of their own.
"""

from __future__ import annotations

import shutil
import urllib.error
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from trainables.data.sources import Source

Images: TypeAlias = npt.NDArray[np.uint8]  # (N, channels, H, W)
Labels: TypeAlias = npt.NDArray[np.int64]  # (N,)
STREAM_ABOVE = 4 * 2**30  # bytes of pixels; larger sets are not decoded beforehand
DIGITS_TEST = 599  # images; scikit-learn names no test set, so a fixed stratified third is one


@dataclass(frozen=True)
class Decoded:
    """A whole dataset; only `splits.prepare` sees the test part."""

    train_images: Images | list[str]  # paths where the images stay in their files
    train_labels: Labels
    test_images: Images | list[str]
    test_labels: Labels
    classes: tuple[str, ...]
    n_published_val: int = 0  # the last of the training images, where validation comes with the set
    remark: str = ""  # what the user should know of how it was read


def decode(entry: Source, name: str, root: Path) -> Decoded:
    """Read a dataset; raises ValueError, naming the folder, where it is neither there nor to be had."""
    if entry.reader == "scikit-learn":
        return _digits()
    if entry.reader == "torchvision":
        return _torchvision(entry, root)
    if entry.reader == "factory":
        from trainables.data import factories

        return factories.decode(name, root, entry)
    from trainables.data import folders

    return folders.decode(name, root, entry)


def fits(n_images: int, channels: int, size: int) -> bool:
    """Whether so many images are decoded beforehand and kept in memory."""
    return n_images * channels * size * size <= STREAM_ABOVE


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


def _torchvision(entry: Source, root: Path) -> Decoded:
    import torchvision.datasets

    factory = getattr(torchvision.datasets, entry.torchvision)
    where = root / entry.folder
    absent = [path for path in (where, *where.parents) if not path.exists()]
    try:
        train, test = (factory(root, train=part, download=True) for part in (True, False))
    except (RuntimeError, urllib.error.URLError, OSError, EOFError, ValueError) as error:
        if absent:  # torchvision made them for files that never came
            shutil.rmtree(absent[-1], ignore_errors=True)
        raise ValueError(
            f"{entry.torchvision} must lie in {where} ({entry.files}) or be downloadable, "
            f"got: {' '.join(str(error).split())}; name the folder that holds {Path(entry.folder).parts[0]} with "
            "--data-root"
        ) from None
    return Decoded(*_arrays(train), *_arrays(test), tuple(train.classes))


def _arrays(dataset: Any) -> tuple[Images, Labels]:
    pixels = np.asarray(dataset.data)
    images = pixels[:, None] if pixels.ndim == 3 else pixels.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images), np.asarray(dataset.targets, dtype=np.int64)
