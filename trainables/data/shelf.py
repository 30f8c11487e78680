"""Where decoded datasets stand: found and checked, or decoded and stored, once for all searches.

DATA_ROOT/kdtune/<dataset>-<key>/ holds an Arrow file of each part, `data.json` (what they hold, written last) and the
splits. Where the data root cannot be written to, a cache folder takes its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from trainables import records
from trainables.data import factories, folders, store
from trainables.data.decoding import Decoded, decode
from trainables.data.rows import statistics
from trainables.data.sources import Source

RECORD = "data.json"
PARTS = ("train", "test")
TOLD = (
    "dataset",
    "classes",
    "n_train",
    "n_test",
    "n_published_val",
    "channels",
    "size",
    "streamed",
    "sha256",
    "duplicates",
)
Say = Callable[[str], None]


def places(entry: Source, dataset: str, root: Path, cache: Path) -> tuple[Path, Path]:
    """The folders where a dataset may be stored: below the data root, or else below the cache."""
    mark = ""
    if entry.reader == "folders":
        mark = folders.fingerprint(dataset, root)
    if entry.reader == "factory":
        mark = factories.fingerprint(dataset)
    key = hashlib.sha256(f"{store.VERSION}/{dataset}/{entry.size}/{mark}".encode()).hexdigest()
    name = f"{entry.name}-{key[:12]}"
    of_root = hashlib.sha256(str(root).encode()).hexdigest()[:8]
    return root / "kdtune" / name, cache / of_root / name


def stored(
    entry: Source, dataset: str, root: Path, where: Sequence[Path], say: Say
) -> dict[str, Any]:
    """The record of a dataset, and its `folder`; decodes it where it is not stored yet, or damaged."""
    for folder in where:
        if not (folder / RECORD).is_file():
            continue
        try:
            record = read_record(folder)
        except ValueError as error:
            say(str(error))
            continue
        wrong = {p: store.damage(folder / f"{p}.arrow", record["sha256"][p]) for p in PARTS}
        if not any(wrong.values()):
            return {**record, "folder": str(folder)}
        for part, reason in wrong.items():
            if reason:
                say(f"{folder / part}.arrow is damaged ({reason}): decoding the images again")
    decoded = decode(entry, dataset, root)
    if decoded.remark:
        say(decoded.remark)
    folder, record = written(where, lambda folder: _write(entry, decoded, folder))
    return {**record, "folder": str(folder)}


def read_record(folder: Path) -> dict[str, Any]:
    """What `data.json` says; raises ValueError, naming the file, where it is damaged."""
    cure = "the images are decoded again"
    record = records.read(folder / RECORD, store.VERSION, cure)
    missing = set(TOLD) - record.keys()
    if missing:
        raise ValueError(f"{folder / RECORD} must tell {min(missing)}, got nothing of it; {cure}")
    return record


def written(where: Sequence[Path], write: Callable[[Path], Any]) -> tuple[Path, Any]:
    """The first folder that `write` can write to, and what it returned; raises ValueError where none can be."""
    for folder in where:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return folder, write(folder)
        except OSError as error:
            reason = error.strerror or error
    raise ValueError(
        f"images must be stored somewhere, got {folder}, which cannot be written to: {reason}"
    )


def _write(entry: Source, decoded: Decoded, folder: Path) -> dict[str, Any]:
    """Both parts, then the record."""
    images, test_images = decoded.train_images, decoded.test_images
    streamed = isinstance(images, list)
    known: dict[str, Any] = {
        "dataset": entry.name,
        "classes": decoded.classes,
        "n_train": len(decoded.train_labels),
        "n_test": len(decoded.test_labels),
    }
    shape, seen, twins = (entry.channels, entry.size), {}, {}
    if not isinstance(images, list) and not isinstance(test_images, list):
        shape = images.shape[1:3]
        mean, std = statistics(torch.from_numpy(images).split(1000))
        seen = {"mean": mean, "std": std}
        labels = [decoded.train_labels, decoded.test_labels]
        twins = store.duplicates([images, test_images], labels)
    hashes = {
        "train": store.write(
            folder / "train.arrow", images, decoded.train_labels, {**known, **seen}
        ),
        "test": store.write(folder / f"{PARTS[1]}.arrow", test_images, decoded.test_labels, known),
    }
    record = {
        **known,
        "n_published_val": decoded.n_published_val,
        "channels": shape[0],
        "size": shape[1],
        "streamed": streamed,
        "duplicates": twins,
        "sha256": hashes,
    }
    records.write(folder / RECORD, record, store.VERSION)
    return read_record(folder)
