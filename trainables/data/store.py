"""One part of a dataset as an Arrow file: written once, checked once a search, memory-mapped by every process.

A row is an image, its pixels or the path where they are, and its label. What the file holds stands in its schema's
metadata: version, dataset, classes, counts, mean, std, and the SHA-256 of pixels (or paths) and labels.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from trainables.data.decoding import Images, Labels
from trainables.files import renamed

VERSION = 2  # of the files' layout
METADATA = b"kdtune"
METADATA_CRC = b"kdtune.crc32"
# What Arrow, JSON and NumPy raise for a file that is not as it was written.
DAMAGES = (
    pa.ArrowException,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
)
DIGEST = 16  # bytes that tell images apart


class Stored(NamedTuple):
    """An Arrow file, memory-mapped."""

    images: Tensor | pa.Array  # (N, channels, H, W) uint8, or N paths
    labels: Tensor  # (N,) int64
    about: dict[str, Any]  # the metadata


def write(path: Path, images: Images | list[str], labels: Labels, about: dict[str, Any]) -> str:
    """Store one part, whole or not at all; its checksum."""
    if isinstance(images, list):
        column, shape = pa.array(images, pa.large_string()), []
    else:
        shape = list(images.shape[1:])
        column = pa.FixedSizeListArray.from_arrays(
            pa.array(images.reshape(-1)), int(np.prod(shape))
        )
    columns = [column, pa.array(labels)]
    sha256 = checksum(columns)
    known = {"version": VERSION, **about, "n": len(labels), "shape": shape, "sha256": sha256}
    names = ["image" if shape else "path", "label"]
    write_batch(path, pa.record_batch(columns, names=names), known)
    return sha256


def read(path: Path) -> Stored:
    """Memory-map one part."""
    batch, about = read_batch(path)
    labels = frozen(batch.column("label").to_numpy(zero_copy_only=True))
    if not about["shape"]:
        return Stored(batch.column("path"), labels, about)
    pixels = batch.column("image").flatten().to_numpy(zero_copy_only=True)
    return Stored(frozen(pixels.reshape(-1, *about["shape"])), labels, about)


def damage(path: Path, sha256: str) -> str:
    """What is wrong with a stored part, in words; "" where nothing is. Reads all of it."""
    try:
        batch, about = read_batch(path)
        batch.validate(full=True)
        found = checksum(batch.columns)
    except FileNotFoundError:
        return "it is missing"
    except DAMAGES as error:
        return f"it cannot be read ({' '.join(str(error).split())[:200]})"
    return "" if found == about.get("sha256") == sha256 else "its checksum is another"


def checksum(columns: list[pa.Array]) -> str:
    """SHA-256 over the buffers of images or paths, then labels."""
    seen = hashlib.sha256()
    for column in columns:
        flat = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
        for buffer in flat.buffers()[1:]:
            seen.update(memoryview(buffer))
    return seen.hexdigest()


def duplicates(decoded_images: list[Images], labels: list[Labels]) -> dict[str, int]:
    """Groups of images that are the same in every pixel, over the training and the test part.

    `groups` is their number, `train_and_test` of those with members in both parts, `within_train` with several in
    training, `different_labels` of those that are labelled in two ways.
    """
    groups: dict[bytes, list[tuple[int, int]]] = {}
    for part, (images, known) in enumerate(zip(decoded_images, labels, strict=True)):
        for image, label in zip(images, known.tolist(), strict=True):
            digest = hashlib.blake2b(image.tobytes(), digest_size=DIGEST).digest()
            groups.setdefault(digest, []).append((part, label))
    several = [group for group in groups.values() if len(group) > 1]
    parts = [[part for part, _ in group] for group in several]
    return {
        "groups": len(several),
        "train_and_test": sum(len(set(found)) == 2 for found in parts),
        "within_train": sum(found.count(0) > 1 for found in parts),
        "different_labels": sum(len({label for _, label in group}) > 1 for group in several),
    }


def write_batch(path: Path, batch: pa.RecordBatch, about: dict[str, Any]) -> None:
    """One record batch as an Arrow file with metadata, whole or not at all."""
    about = {"version": VERSION, **about, "types": [str(kind) for kind in batch.schema.types]}
    told = {METADATA: json.dumps(about).encode(), METADATA_CRC: _crc(about)}
    batch = batch.replace_schema_metadata(told)
    with renamed(path) as temporary:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())


def read_batch(path: Path) -> tuple[pa.RecordBatch, dict[str, Any]]:
    """The record batch of an Arrow file, memory-mapped, and its metadata; ValueError, naming it, where it is damaged.

    The metadata are checked against their checksum; files that were written before there was one are read without.
    """
    try:
        return _read_batch(path)
    except FileNotFoundError:
        raise
    except DAMAGES as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} must be a whole Arrow file, got a damaged one ({reason}); the next search makes it again"
        ) from None


def _read_batch(path: Path) -> tuple[pa.RecordBatch, dict[str, Any]]:
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        batch = reader.get_batch(0)
    found = batch.schema.metadata or {}
    about = json.loads(found.get(METADATA, b"{}"))
    if not isinstance(about, dict) or found.get(METADATA_CRC, _crc(about)) != _crc(about):
        raise ValueError("its metadata are damaged")
    types = [str(kind) for kind in batch.schema.types]
    if about.get("types", types) != types:
        raise ValueError("its columns are of other types")
    return batch, about


def _crc(about: Any) -> bytes:
    return f"{zlib.crc32(json.dumps(about, sort_keys=True).encode()):08x}".encode()


def frozen(array: np.ndarray[Any, Any]) -> Tensor:
    """A tensor over read-only memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that it cannot be written to: nobody writes
        return torch.from_numpy(array)
