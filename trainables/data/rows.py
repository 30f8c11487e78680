"""Chosen rows of memory-mapped images, and what can be said of images batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


class Rows:
    """A view of the rows `rows` of `base` (N, channels, H, W): nothing is copied before it is asked for.

    It has of a tensor what its readers use: `[rows]`, `len`, `shape`, `split`.
    """

    def __init__(self, base: Tensor, rows: Tensor) -> None:
        self.base, self.rows = base, rows
        self.shape = torch.Size((len(rows), *base.shape[1:]))

    def __len__(self) -> int:
        """N."""
        return len(self.rows)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """A copy of the images at `rows` (B,) of this view: (B, channels, H, W)."""
        return self.base.index_select(0, self.rows[rows])

    def split(self, size: int) -> Iterator[Tensor]:
        """All images in order, `size` at a time."""
        return (self.base.index_select(0, some) for some in self.rows.split(size))


def statistics(batches: Iterable[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of uint8 pixels in [0, 1], a channel, over batches (B, channels, H, W)."""
    counts: Tensor | None = None
    for images in batches:
        channels = images.transpose(0, 1).flatten(1)
        found = torch.stack([torch.bincount(channel, minlength=256) for channel in channels])
        counts = found if counts is None else counts + found
    assert counts is not None
    share = counts.double() / counts.sum(1, keepdim=True)
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (share * values).sum(1)
    variance = (share * (values - mean[:, None]) ** 2).sum(1)
    return tuple(mean.tolist()), tuple(variance.sqrt().tolist())
