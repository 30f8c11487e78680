"""Train, validation and test: each dataset stored once, each split a file of indices into it.

`train.arrow` holds the whole published training set in its order; a split names the rows that are for training and
those for validation. Training and selection see these two only. The test images lie in a file of their own, which
`sealed.py` opens and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from trainables.data import shelf, store
from trainables.data.decoding import Labels
from trainables.data.dividing import divide, take
from trainables.data.rows import Rows, statistics
from trainables.data.sources import source
from trainables.data.stream import Streamed

SAMPLED = 5000  # streamed images whose mean and deviation stand for all


class Pictures(Protocol):
    """Images by row: a tensor, chosen rows of a memory-mapped one, or images still in their files."""

    @property
    def shape(self) -> torch.Size:
        """(N, channels, H, W)."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, rows: Any, /) -> Tensor:
        """uint8 (B, channels, H, W) for a LongTensor (B,) or a slice."""

    def split(self, split_size: int, /) -> Iterable[Tensor]:
        """All of them in order, so many at a time."""


class Split(NamedTuple):
    """One part of the data."""

    images: Pictures
    labels: Tensor  # (N,) int64


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
    mean: tuple[float, ...]  # of the whole training part in [0, 1], a channel; a subset keeps it
    std: tuple[float, ...]
    split_hash: str  # of the training and validation indices
    sha256: dict[str, str]  # of what is stored, "train" (validation included) and "test"
    split: str = ""  # the file of the indices
    whole_split: str = ""  # likewise without --subset
    streamed: bool = False  # too many to keep decoded: read when they are shown
    duplicates: dict[str, int] = field(default_factory=dict)  # store.duplicates; {} where streamed

    @property
    def n_classes(self) -> int:
        """C."""
        return len(self.classes)


def prepare(
    dataset: str,
    root: Path,
    cache: Path,
    *,
    val_fraction: float | None = None,
    subset: int | None = None,
    image_size: int | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Facts:
    """Decode, split and store a dataset, or find it stored; raises ValueError.

    It is stored below `root`, or below `cache` where `root` cannot be written to. Validation is a stratified, seeded
    fraction of the published training set, or the published one where there is one and `val_fraction` is None.
    `subset` takes so many images of training and validation together. `say` hears of damaged files, made again.
    """
    entry = source(dataset, root, image_size)
    where = shelf.places(entry, dataset, root, cache)
    record = shelf.stored(entry, dataset, root, where, say)
    where = Path(record["folder"]), where[1]
    fraction = entry.val_fraction if val_fraction is None else val_fraction
    name = "published" if fraction is None else f"{fraction:g}"
    facts = _with_split(_unsplit(record), f"split-{name}-all.arrow", where, fraction, None)
    if subset is None:
        return facts
    return _with_split(facts, f"split-{name}-{subset}.arrow", where, fraction, subset)


def open_split(facts: Facts, part: Literal["train", "val"], workers: int = 0) -> Split:
    """The training or validation images; raises ValueError for anything else, the test set above all.

    Streamed images are read by `workers` processes, or by the caller's own where 0.
    """
    if part not in ("train", "val"):
        raise ValueError(f"training and selection may open train and val, got {part!r}")
    train, val = _rows(facts)
    rows = store.frozen(train if part == "train" else val)
    return read(Path(facts.folder) / "train.arrow", facts, rows, workers)


def read(path: Path, facts: Facts, rows: Tensor | None = None, workers: int = 0) -> Split:
    """The chosen rows of a stored part, all where None; memory-mapped or streamed."""
    stored = store.read(path)
    labels = stored.labels if rows is None else stored.labels[rows]
    if isinstance(stored.images, Tensor):
        return Split(stored.images if rows is None else Rows(stored.images, rows), labels)
    rows = torch.arange(len(labels)) if rows is None else rows
    return Split(Streamed(stored.images, rows, facts.channels, facts.size, workers), labels)


def whole(facts: Facts) -> Facts:
    """The facts without --subset: what teachers are trained on. Raises ValueError where that split has gone."""
    found = _found(facts, Path(facts.whole_split))
    if found is None:
        raise ValueError(
            f"a split must stay where it was stored, got nothing in {facts.whole_split}"
        )
    return found


def _unsplit(record: dict[str, Any]) -> Facts:
    """The facts of a stored dataset before it is split, but for the validation part that comes with it."""
    names = ("dataset", "folder", "channels", "size", "n_test", "sha256", "streamed", "duplicates")
    n_val = record["n_published_val"]
    return Facts(
        **{name: record[name] for name in names},
        classes=tuple(record["classes"]),
        n_train=record["n_train"] - n_val,
        n_val=n_val,
        mean=(),
        std=(),
        split_hash="",
    )


def _with_split(
    facts: Facts, name: str, where: Sequence[Path], fraction: float | None, subset: int | None
) -> Facts:
    """`facts` with the split `name`, found or made; a `subset` is taken of the split that they have."""
    for folder in where:
        found = _found(facts, folder / name)
        if found is not None:
            return found
    labels = store.read(Path(facts.folder) / "train.arrow").labels.numpy()
    if subset is not None:
        train, val = take(labels, *_rows(facts), subset)
        mean, std = facts.mean, facts.std
    else:
        published = np.arange(facts.n_train), np.arange(facts.n_train, len(labels))
        train, val = published if fraction is None else divide(labels, fraction)
        mean, std = _normalisation(facts, train)
    about = {"n_train": len(train), "hash": _hash(train, val), "mean": mean, "std": std}
    about |= {"train_sha256": facts.sha256["train"], "subset": subset is not None}
    batch = pa.record_batch([pa.array(np.concatenate([train, val]))], names=["row"])
    folder, _ = shelf.written(where, lambda folder: store.write_batch(folder / name, batch, about))
    made = _found(facts, folder / name)
    assert made is not None
    return made


def _found(facts: Facts, path: Path) -> Facts | None:
    """`facts` with the split in `path`, or None where it is missing, damaged, or of other images."""
    try:
        batch, about = store.read_batch(path)
        rows = batch.column("row").to_numpy()
        train, val = np.split(rows, [about["n_train"]])
        if about["train_sha256"] != facts.sha256["train"] or about["hash"] != _hash(train, val):
            return None
    except store.DAMAGES:
        return None
    return replace(
        facts,
        n_train=len(train),
        n_val=len(val),
        mean=tuple(about["mean"]),
        std=tuple(about["std"]),
        split_hash=about["hash"],
        split=str(path),
        whole_split=facts.whole_split if about["subset"] else str(path),
    )


def _rows(facts: Facts) -> tuple[Labels, Labels]:
    """The stored (training, validation) rows."""
    batch, about = store.read_batch(Path(facts.split))
    rows = batch.column("row").to_numpy()
    return rows[: about["n_train"]], rows[about["n_train"] :]


def _hash(train: Labels, val: Labels) -> str:
    return hashlib.sha256(train.tobytes() + b"/" + val.tobytes()).hexdigest()


def _normalisation(facts: Facts, train: Labels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the training part, a channel; of SAMPLED of its images where they are streamed."""
    if facts.streamed:
        train = train[:: -(-len(train) // SAMPLED)]
    images = read(Path(facts.folder) / "train.arrow", facts, torch.from_numpy(train)).images
    return statistics(images.split(1000))
