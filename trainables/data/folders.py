"""Image folders: a user's own, CINIC-10's and ImageNet's; one folder a class, below train/ and test/ and validation's.

What fits is decoded into arrays; of what does not, the paths are kept and the images read when they are shown.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from trainables.data import pixels
from trainables.data.decoding import Decoded, Images, Labels, fits
from trainables.data.sources import FOLDER, SOURCES, Source, usual

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
SAMPLED = 64  # images whose kind decides between grey and colour
LONGEST = 100  # bytes of a name in a file's name
VAL_FRACTION = 0.1  # where no validation folder comes with the images
TEST_FRACTION = 0.2  # likewise a test folder
DEVKIT, META = "ILSVRC2012_devkit_t12.tar.gz", "meta.bin"
LAYOUT = (
    "PATH/train/<class>/* and PATH/test/<class>/* (and PATH/val/<class>/*), or PATH/<class>/* alone"
)


class Parts(NamedTuple):
    """The folders of a set; each holds one folder a class."""

    train: Path
    val: Path | None
    test: Path | None


class Listing(NamedTuple):
    """Image files, class after class, each class's sorted."""

    paths: list[str]
    labels: list[int]


def describe(folder: Path, size: int | None) -> Source:
    """The entry of a user's folder; lists it and opens SAMPLED of its images at most; raises ValueError."""
    parts = _users_parts(folder)
    classes = class_names(parts.train)
    counts = {part: len(listing(path, classes).paths) for part, path in _present(parts).items()}
    paths = listing(parts.train, classes).paths
    channels, found = _look_at(paths)
    size = size or found
    kind = "grey" if channels == 1 else "colour"
    known = f"{sum(counts.values()):,} images of {len(classes)} classes in {folder}"
    return Source(
        _fit_name(folder.resolve().name),
        f"{known}, {size}x{size} {kind}",
        channels=channels,
        size=size,
        n_classes=len(classes),
        val_fraction=VAL_FRACTION if parts.val is None else None,
        reader="folders",
        **usual(channels, size),
    )


def decode(name: str, root: Path, entry: Source) -> Decoded:
    """Read the folders of a dataset; raises ValueError where something is missing or cannot be read."""
    parts = parts_of(name, root)
    classes = class_names(parts.train)
    found = {part: listing(path, classes) for part, path in _present(parts).items()}
    labels = {part: np.array(one.labels, dtype=np.int64) for part, one in found.items()}
    paths = {part: one.paths for part, one in found.items()}
    if parts.test is None:
        _take_test(paths, labels)
    n_val = len(paths.get("val", ()))
    train_paths = paths["train"] + paths.get("val", [])
    train_labels = np.concatenate([labels["train"], labels.get("val", labels["train"][:0])])
    images: Images | list[str] = train_paths
    test_images: Images | list[str] = paths["test"]
    if fits(len(train_paths) + len(paths["test"]), entry.channels, entry.size):
        images, test_images = (
            read(some, entry.channels, entry.size) for some in (train_paths, paths["test"])
        )
    remark = "" if parts.test else f"no test folder: a stratified {TEST_FRACTION:.0%} is set aside"
    titles = _titles(name, parts, classes)
    return Decoded(images, train_labels, test_images, labels["test"], titles, n_val, remark)


def fingerprint(name: str, root: Path) -> str:
    """Changes when a file of a user's folder does; of published sets, nothing."""
    if not name.startswith(FOLDER):
        return ""
    seen = hashlib.sha256()
    for folder in _present(parts_of(name, root)).values():
        for path in listing(folder, class_names(folder)).paths:
            known = Path(path).stat()
            seen.update(f"{path}/{known.st_size}/{known.st_mtime_ns}\n".encode())
    return seen.hexdigest()


def read(paths: list[str], channels: int, size: int) -> Images:
    """Decode many images on all cores: (N, channels, size, size)."""
    images = np.empty((len(paths), channels, size, size), dtype=np.uint8)

    def one(i: int) -> None:
        images[i] = pixels.centre(pixels.load(paths[i], channels), size).numpy()

    with ThreadPoolExecutor() as threads:  # PIL decodes without the interpreter's lock
        for _ in threads.map(one, range(len(paths))):
            pass
    return images


def parts_of(name: str, root: Path) -> Parts:
    """Where the folders of a dataset are; raises ValueError with the layout that is expected."""
    if name.startswith(FOLDER):
        return _users_parts(Path(name.removeprefix(FOLDER)))
    entry = SOURCES[name]
    val, test = ("valid", "test") if entry.val_fraction is None else (None, "val")
    for base in (root / entry.folder, root / name, root):
        if all((base / part).is_dir() for part in ("train", val, test) if part):
            return Parts(base / "train", base / val if val else None, base / test)
    raise ValueError(
        f"{name} must lie in {root / entry.folder} ({entry.files}), got no such folders; it cannot be downloaded here "
        f"({entry.origin}); name the folder that holds {entry.folder} with --data-root"
    )


def class_names(folder: Path) -> list[str]:
    """The class folders, sorted; raises ValueError where there are fewer than two."""
    found = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(found) < 2:
        raise ValueError(
            f"an image folder must hold a folder for each class, got {found} in {folder}"
        )
    return found


def listing(folder: Path, classes: list[str]) -> Listing:
    """All image files below the class folders; raises ValueError for a class that is empty or unknown."""
    if not any(p.is_dir() for p in folder.iterdir()) and _ground_truth(folder.parent):
        return _flat(folder, classes)
    strange = set(class_names(folder)) - set(classes)
    if strange:
        raise ValueError(
            f"the classes of {folder} must be those of training, got {min(strange)!r} too"
        )
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        some = sorted(_images_below(folder / name))
        if not some:
            raise ValueError(f"every class must have images, got none in {folder / name}")
        paths += some
        labels += [label] * len(some)
    return Listing(paths, labels)


def _images_below(folder: Path) -> list[str]:
    return [
        f"{where}/{name}"
        for where, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(EXTENSIONS) and not name.startswith(".")
    ]


def _users_parts(folder: Path) -> Parts:
    folder = folder.expanduser().resolve()
    if not folder.is_dir():
        raise ValueError(f"folder:PATH must be a folder with {LAYOUT}, got {folder}, which is none")
    val, test = (folder / part if (folder / part).is_dir() else None for part in ("val", "test"))
    if (folder / "train").is_dir():
        return Parts(folder / "train", val, test)
    if val or test:
        raise ValueError(f"folder:PATH must be laid out as {LAYOUT}, got no train in {folder}")
    return Parts(folder, None, None)


def _present(parts: Parts) -> dict[str, Path]:
    return {part: path for part, path in parts._asdict().items() if path is not None}


def _take_test(paths: dict[str, list[str]], labels: dict[str, Labels]) -> None:
    """Set a stratified, seeded part of the training images aside as test."""
    from trainables.data.splits import divide

    train, test = divide(labels["train"], TEST_FRACTION)
    every, known = paths["train"], labels["train"]
    for part, rows in (("train", train), ("test", test)):
        paths[part], labels[part] = [every[i] for i in rows], known[rows]


def _look_at(paths: list[str]) -> tuple[int, int]:
    """Channels, from some of the images, and the usual size, from the first."""
    some = paths[:: max(1, len(paths) // SAMPLED)][:SAMPLED]
    modes = set()
    for path in some:
        try:
            with Image.open(path) as image:
                modes.add(image.mode)
                if path == some[0]:
                    size = pixels.usual_size(*image.size)
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(f"an image must be readable, got {path}: {error}") from None
    return (1 if modes <= set(pixels.GREY_MODES) else 3), size


def _fit_name(text: str) -> str:
    fit = "".join(c if c.isalnum() or c in "._-" else "-" for c in text).strip(".-_") or "images"
    return fit.encode()[:LONGEST].decode(errors="ignore")


def _meta(folder: Path) -> tuple[dict[str, tuple[str, ...]], list[str]] | None:
    """ImageNet's (words by class folder, class folder of each validation image), where its devkit lies there."""
    from torchvision.datasets import imagenet

    if not (folder / META).is_file() and (folder / DEVKIT).is_file() and os.access(folder, os.W_OK):
        imagenet.parse_devkit_archive(folder)
    return imagenet.load_meta_file(folder) if (folder / META).is_file() else None


def _ground_truth(folder: Path) -> list[str]:
    meta = _meta(folder)
    return meta[1] if meta else []


def _flat(folder: Path, classes: list[str]) -> Listing:
    """ImageNet's validation images as they come: all in one folder, their classes in the devkit."""
    paths, truth = sorted(_images_below(folder)), _ground_truth(folder.parent)
    if len(paths) != len(truth):
        raise ValueError(f"{folder} must hold {len(truth)} images, got {len(paths)}")
    return Listing(paths, [classes.index(name) for name in truth])


def _titles(name: str, parts: Parts, classes: list[str]) -> tuple[str, ...]:
    """What the classes are called; ImageNet's folders have numbers for names."""
    meta = _meta(parts.train.parent) if name == "imagenet" else None
    return tuple(", ".join(meta[0][folder]) if meta else folder for folder in classes)
