"""Datasets by name: what is known of each before it is read. Nothing here imports torch.

A name is one of SOURCES, `folder:PATH` for a user's images, or `package.module:factory` for a user's dataset.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces import nearest

FOLDER = "folder:"
FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
PATTERNS = {  # names that stand for many
    "folder:PATH": "your images: PATH/train/<class>/*, PATH/test/<class>/*, if you like PATH/val/<class>/*",
    "package.module:factory": "your own factory(root, part) -> torch Dataset of (image, label), part train or test",
}


@dataclass(frozen=True)
class Source:
    """What is known of a dataset before it is read."""

    name: str  # fit for a file's name
    summary: str
    channels: int
    size: int  # height and width, pixels
    n_classes: int
    teacher: str  # the models a search takes unless told otherwise
    student: str
    equal_student: str  # likewise, for methods that need the teacher's channels
    epochs: int  # of a student
    teacher_epochs: int
    val_fraction: float | None  # of the published training set; None: it comes with validation
    augment: str
    # of the attacks, L-infinity, in pixels: undefended networks keep some accuracy there
    epsilon: float
    reader: str  # "scikit-learn", "torchvision", "folders" or "factory"
    torchvision: str = ""  # the class that reads it
    folder: str = ""  # where it lies below the data root
    files: str = ""  # what lies there
    archive: str = ""  # what torchvision unpacks instead, below the data root
    origin: str = ""  # where it comes from, and how large that is


LENETS: dict[str, Any] = {
    "teacher": "lenet5",
    "student": "lenet5_half",
    "equal_student": "lenet5",
    "epochs": 20,
    "teacher_epochs": 20,
    "augment": "none",
    "epsilon": 0.1,
}
RESNETS: dict[str, Any] = {
    "teacher": "resnet56",
    "student": "resnet20",
    "equal_student": "resnet20",
    "epochs": 60,
    "teacher_epochs": 200,
    "augment": "crop_flip",
    "epsilon": 1 / 255,  # at the usual 8/255 nothing undefended is left to compare
}
LARGE_RESNETS: dict[str, Any] = {
    **RESNETS,
    "teacher": "torchvision:resnet50",
    "student": "torchvision:resnet18",
    "equal_student": "torchvision:resnet50",
    "teacher_epochs": 90,
}
CONVNETS: dict[str, Any] = {
    **LENETS,
    "teacher": "convnet16res",
    "student": "convnet4",
    "equal_student": "convnet16",
    "epsilon": 0.15,
}
MNIST: dict[str, Any] = {
    **LENETS,
    "channels": 1,
    "size": 28,
    "n_classes": 10,
    "val_fraction": 0.1,
    "reader": "torchvision",
    "files": "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, "
    "t10k-labels-idx1-ubyte, or each with .gz",
}
CIFAR: dict[str, Any] = {
    **RESNETS,
    "channels": 3,
    "size": 32,
    "val_fraction": 0.1,
    "reader": "torchvision",
}
ENTRIES = (
    Source(
        "digits",
        "1,797 handwritten digits, 8x8 grey, inside scikit-learn",
        channels=1,
        size=8,
        n_classes=10,
        val_fraction=0.5,
        reader="scikit-learn",
        **CONVNETS,
    ),
    Source(
        "mnist",
        "70,000 handwritten digits, 28x28 grey",
        torchvision="MNIST",
        folder="MNIST/raw",
        origin="12 MB from ossci-datasets.s3.amazonaws.com",
        **MNIST,
    ),
    Source(
        "fashion_mnist",
        "70,000 articles of clothing, 28x28 grey",
        torchvision="FashionMNIST",
        folder="FashionMNIST/raw",
        origin="31 MB from fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        **MNIST,
    ),
    Source(
        "cifar10",
        "60,000 photographs of 10 classes, 32x32 colour",
        n_classes=10,
        torchvision="CIFAR10",
        folder="cifar-10-batches-py",
        files="data_batch_1 to data_batch_5, test_batch, batches.meta",
        archive="cifar-10-python.tar.gz",
        origin="171 MB from www.cs.toronto.edu/~kriz",
        **CIFAR,
    ),
    Source(
        "cifar100",
        "60,000 photographs of 100 classes, 32x32 colour",
        n_classes=100,
        torchvision="CIFAR100",
        folder="cifar-100-python",
        files="train, test, meta",
        archive="cifar-100-python.tar.gz",
        origin="169 MB from www.cs.toronto.edu/~kriz",
        **CIFAR,
    ),
    Source(
        "cinic10",
        "270,000 photographs of CIFAR-10's classes, 32x32 colour, its own validation part",
        channels=3,
        size=32,
        n_classes=10,
        val_fraction=None,
        reader="folders",
        folder="CINIC-10",
        files="train/, valid/ and test/, each of ten class folders of PNG files",
        origin="CINIC-10.tar.gz, 650 MB, at https://datashare.ed.ac.uk/handle/10283/3192",
        **{**RESNETS, "teacher_epochs": 140},
    ),
    Source(
        "imagenet",
        "1,331,167 photographs of 1,000 classes, read from their files, 224x224 colour",
        channels=3,
        size=224,
        n_classes=1000,
        val_fraction=0.04,
        reader="folders",
        folder="imagenet",
        files="train/ and val/, each of 1,000 class folders of JPEG files, for the classes' names "
        "ILSVRC2012_devkit_t12.tar.gz; torchvision.datasets.ImageNet(FOLDER, 'train') unpacks the published archives",
        origin="about 150 GB, after registration, at https://image-net.org",
        **LARGE_RESNETS,
    ),
)
SOURCES = {entry.name: entry for entry in ENTRIES}


def names() -> tuple[str, ...]:
    """The datasets that come with kdtune; PATTERNS has the names that stand for many."""
    return tuple(SOURCES)


def source(name: str, root: Path, image_size: int | None = None) -> Source:
    """The entry of a dataset; raises ValueError for an unknown name and for images that cannot be found.

    For `folder:PATH` the folder is listed and some images are opened; a factory is called and its first image taken.
    `root` is handed to factories. `image_size` changes the height and width of what is read image by image.
    """
    if name.startswith(FOLDER):
        from trainables.data import folders

        return folders.describe(Path(name.removeprefix(FOLDER)), image_size)
    if name in SOURCES:
        return _resized(SOURCES[name], image_size)
    if FACTORY.fullmatch(name):
        from trainables.data import factories

        return factories.describe(name, root, image_size)
    known = (*SOURCES, *PATTERNS)
    raise ValueError(f"unknown dataset {name!r}{nearest(name, known)}; known: {', '.join(known)}")


def download(name: str, root: Path) -> str:
    """What must be downloaded before a dataset can be read, in words; "" where nothing must."""
    entry = SOURCES.get(name)
    if entry is None or not entry.torchvision:
        return ""
    if (root / entry.folder).is_dir() or (entry.archive and (root / entry.archive).is_file()):
        return ""
    return f"downloading {entry.torchvision}, {entry.origin}, into {root / Path(entry.folder).parts[0]}"


def absolute(name: str) -> str:
    """A dataset's name as it is understood from any folder."""
    if not name.startswith(FOLDER):
        return name
    return FOLDER + str(Path(name.removeprefix(FOLDER)).expanduser().resolve())


def usual(channels: int, size: int) -> dict[str, Any]:
    """Networks, epochs, augmentation and epsilon for images of a user's own, by their size."""
    if size <= 16:
        found = CONVNETS
    elif size == 28 and channels == 1:
        found = LENETS
    else:
        found = RESNETS if size <= 64 else LARGE_RESNETS
    return {**found, "augment": "none" if channels == 1 else "crop_flip"}


def _resized(entry: Source, size: int | None) -> Source:
    if size in (None, entry.size):
        return entry
    if entry.reader != "folders":
        raise ValueError(
            f"--image-size must be left out or {entry.size} for {entry.name}, got {size}; it is for images that are "
            "read one by one: folder:PATH, factories, cinic10, imagenet"
        )
    assert size is not None
    changed = {**vars(entry), "size": size, "summary": f"{entry.summary}, resized to {size}x{size}"}
    return Source(**{**changed, **usual(entry.channels, size)})
