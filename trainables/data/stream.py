"""Images that stay in their files, because they are too many to keep decoded: read, cut and augmented when shown.

A DataLoader reads them, in the order that it is told, with torchvision's v2 transforms; each view is seeded by (seed,
epoch, row), so that it does not depend on batch or worker. Here `crop_flip` is RandomResizedCrop and a mirror (the
usual recipe for ImageNet), where images in memory are padded and shifted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trainables.data import pixels
from trainables.data.views import DEGREES, MAGNITUDE, OPERATIONS
from trainables.seeding import seed_of

if TYPE_CHECKING:
    from torchvision.transforms import v2


class Shot(NamedTuple):
    """How a row is shown in training; None in its place means the middle of the image, as it is."""

    augment: str
    seed: int
    epoch: int
    strong: bool  # RandAugment on top


class Streamed:
    """Images by row, read from the files at `paths`[`rows`].

    It has of a tensor what its readers use: `[rows]`, `len`, `shape`, `split`; the images are then the middle of each,
    its shorter side resized. Reading raises ValueError, naming the file, for a damaged image.
    """

    def __init__(
        self, paths: pa.Array, rows: Tensor, channels: int, size: int, workers: int = 0
    ) -> None:
        self.files = Files(paths, rows, channels, size)
        self.shape = torch.Size((len(rows), channels, size, size))
        self.workers = workers

    def __len__(self) -> int:
        """N."""
        return self.shape[0]

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """The images at `rows` (B,): (B, channels, H, W) uint8, read by this process."""
        wanted = torch.arange(len(self))[rows].tolist()
        return torch.stack([checked(self.files[row, None]) for row in wanted])

    def split(self, size: int) -> Iterator[Tensor]:
        """All images in order, `size` at a time."""
        return self._load([[(row, None) for row in some] for some in _batches(len(self), size)])

    def shots(self, batches: Iterable[list[tuple[int, Shot | None]]]) -> Iterator[Tensor]:
        """Augmented images, a batch (B, channels, H, W) uint8 for each of `batches` of (row, how it is shown)."""
        return self._load(batches)

    def _load(self, batches: Iterable[list[tuple[int, Shot | None]]]) -> Iterator[Tensor]:
        loader = DataLoader(
            self.files,
            batch_sampler=batches,  # any iterable of lists of keys
            collate_fn=list,
            num_workers=self.workers,
            generator=torch.Generator(),  # it draws a seed, which nobody needs, from torch's own stream
        )
        return (torch.stack([checked(found) for found in batch]) for batch in loader)


class Files(Dataset[Tensor | str]):
    """What the workers hold: (row, how it is shown) -> an image, or in words why it cannot be read."""

    def __init__(self, paths: pa.Array, rows: Tensor, channels: int, size: int) -> None:
        self.paths, self.rows, self.channels, self.size = paths, rows, channels, size

    def __getitem__(self, key: tuple[int, Shot | None]) -> Tensor | str:
        """The image, or in words why it cannot be read."""
        row, shot = key
        try:
            image = pixels.load(self.paths[int(self.rows[row])].as_py(), self.channels)
        except ValueError as error:  # an exception would come out of a worker as a page of text
            return str(error)
        return (
            pixels.centre(image, self.size) if shot is None else view(image, self.size, row, shot)
        )


def view(image: Image.Image, size: int, row: int, shot: Shot) -> Tensor:
    """One augmented view (channels, size, size) uint8, of v2 transforms under a seed of its own."""
    state = torch.get_rng_state()
    purpose = "strong view" if shot.strong else "view"
    torch.default_generator.manual_seed(seed_of(shot.seed, f"{purpose} of {row}", shot.epoch))
    try:
        return pixels.centre(transforms(shot.augment, size, strong=shot.strong)(image), size)
    finally:
        torch.set_rng_state(state)


def transforms(augment: str, size: int, *, strong: bool) -> v2.Transform:
    """The v2 transforms of a preset; the first cuts `size` pixels a side."""
    from torchvision.transforms import v2  # takes as long to import as a short trial

    steps: list[v2.Transform] = [v2.Resize(size), v2.CenterCrop(size)]
    if augment != "none":
        steps = [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]
    if augment == "crop_flip_rotate":
        steps.append(v2.RandomRotation(DEGREES))
    if strong or augment == "randaugment":
        steps.append(v2.RandAugment(OPERATIONS, MAGNITUDE))
    return v2.Compose(steps)


def checked(found: Tensor | str) -> Tensor:
    """An image; raises ValueError where a worker sent the reason instead."""
    if isinstance(found, str):
        raise ValueError(found)
    return found


def _batches(n: int, size: int) -> list[list[int]]:
    return [list(range(start, min(start + size, n))) for start in range(0, n, size)]
