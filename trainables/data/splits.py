"""Train, validation and test as Arrow files: decoded once, memory-mapped by every process of a node.

Training and selection see `train` and `val` only. The test images lie in a file of their own, which `sealed.py`
opens and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from trainables.data.sources import Decoded, Images, Labels, decode, source

VERSION = 1  # of the files' layout
SPLIT_SEED = 0  # one split for all searches, so that teachers can be shared between them


@dataclass(frozen=True)
class Facts:
    """What a search needs to know about its data without opening it."""

    dataset: str
    folder: str
    classes: tuple[str, ...]
    channels: int
    size: int  # height and width, pixels
    n_train: int
    n_val: int
    n_test: int
    mean: tuple[float, ...]  # of the training pixels in [0, 1], a channel
    std: tuple[float, ...]
    split_hash: str  # of the training and validation indices
    sha256: dict[str, str]  # of each file

    @property
    def n_classes(self) -> int:
        """C."""
        return len(self.classes)


class Split(NamedTuple):
    """One part of the data, memory-mapped."""

    images: Tensor  # (N, channels, H, W) uint8
    labels: Tensor  # (N,) int64


def prepare(dataset: str, root: Path, cache: Path) -> Facts:
    """Decode, split and store a dataset under `cache`, or find it stored; raises ValueError.

    The validation part is a stratified, seeded fraction of the published training set.
    """
    fraction = source(dataset).val_fraction
    key = hashlib.sha256(f"{VERSION}/{dataset}/{root}/{fraction}/{SPLIT_SEED}".encode())
    folder = cache / f"{dataset}-{key.hexdigest()[:12]}"
    facts_file = folder / "facts.json"
    if not facts_file.exists():
        _store(dataset, decode(dataset, root), fraction, folder)
    stored = json.loads(facts_file.read_text(encoding="utf-8"))
    lists = {name: tuple(stored[name]) for name in ("classes", "mean", "std")}
    return Facts(**{**stored, **lists, "folder": str(folder)})


def open_split(facts: Facts, part: Literal["train", "val"]) -> Split:
    """The training or validation images; raises ValueError for anything else, the test set above all."""
    if part not in ("train", "val"):
        raise ValueError(f"training and selection may open train and val, got {part!r}")
    return read(Path(facts.folder) / f"{part}.arrow", facts)


def read(path: Path, facts: Facts) -> Split:
    """Memory-map one Arrow file of images and labels."""
    with pa.memory_map(str(path)) as source_, pa.ipc.open_file(source_) as reader:
        batch = reader.get_batch(0)
    pixels = batch.column("image").flatten().to_numpy(zero_copy_only=True)
    labels = batch.column("label").to_numpy(zero_copy_only=True)
    shape = (-1, facts.channels, facts.size, facts.size)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # torch warns that the memory is read-only: it is, and nobody writes
        return Split(torch.from_numpy(pixels.reshape(shape)), torch.from_numpy(labels))


def divide(labels: Labels, fraction: float) -> tuple[Labels, Labels]:
    """Stratified, seeded (training, validation) indices, each sorted."""
    from sklearn.model_selection import train_test_split

    indices = np.arange(len(labels))
    train, val = train_test_split(
        indices, test_size=fraction, stratify=labels, random_state=SPLIT_SEED
    )
    return np.sort(train), np.sort(val)


def _store(dataset: str, decoded: Decoded, fraction: float, folder: Path) -> None:
    train, val = divide(decoded.train_labels, fraction)
    pixels = decoded.train_images[train]
    parts = {
        "train": (pixels, decoded.train_labels[train]),
        "val": (decoded.train_images[val], decoded.train_labels[val]),
        "test": (decoded.test_images, decoded.test_labels),
    }
    folder.mkdir(parents=True, exist_ok=True)
    hashes = {part: _write(folder / f"{part}.arrow", *arrays) for part, arrays in parts.items()}
    flat = pixels.transpose(1, 0, 2, 3).reshape(pixels.shape[1], -1)
    facts = Facts(
        dataset=dataset,
        folder=str(folder),
        classes=decoded.classes,
        channels=pixels.shape[1],
        size=pixels.shape[2],
        n_train=len(train),
        n_val=len(val),
        n_test=len(decoded.test_labels),
        mean=tuple(float(channel.mean() / 255) for channel in flat),
        std=tuple(float(channel.std() / 255) for channel in flat),
        split_hash=hashlib.sha256(train.tobytes() + b"/" + val.tobytes()).hexdigest(),
        sha256=hashes,
    )
    rename_into(folder / "facts.json", json.dumps(asdict(facts), indent=1).encode())


def _write(path: Path, images: Images, labels: Labels) -> str:
    values = pa.array(images.reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(values, int(np.prod(images.shape[1:])))
    batch = pa.record_batch([column, pa.array(labels)], names=["image", "label"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    content = sink.getvalue()
    rename_into(path, memoryview(content))
    return hashlib.sha256(content).hexdigest()


def rename_into(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that it is either there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
