"""What each step of an epoch shows: which images, as which views, grouped or mixed as the method's inputs say."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainables.contract import Inputs
from trainables.data.splits import Split
from trainables.data.stream import Shot, Streamed
from trainables.data.views import Views, to_float
from trainables.recipe import Recipe
from trainables.seeding import generator, seed_of


class Shown(NamedTuple):
    """One step's images; blocks lie one after the other."""

    images: Tensor  # what the student sees: (blocks * B or, mixed, B, channels, H, W) in [0, 1]
    labels: Tensor  # (blocks * B,)
    indices: Tensor  # (blocks * B,)
    weights: Tensor | None  # (blocks,) of the mixture
    singles: Tensor | None  # the single images, where `images` are mixtures


class Feed:
    """One epoch of steps; all draws are made at its start, from (seed, purpose, epoch).

    Steps may be asked for in any order; streamed images are read ahead, so in order is faster.
    """

    def __init__(self, data: Split, inputs: Inputs, recipe: Recipe, seed: int, epoch: int) -> None:
        self.data, self.inputs = data, inputs
        n = len(data.labels)
        self.batch_size = min(recipe.batch_size, n)
        self.n_steps = n // self.batch_size  # the ragged last batch is dropped
        self.strong = [inputs.strong[i : i + 1] == (True,) for i in range(inputs.blocks)]
        orders = [torch.randperm(n, generator=generator(seed, "order", epoch))]
        for block in range(1, inputs.blocks):
            orders.append(
                orders[0]
                if self.strong[block]
                else torch.randperm(n, generator=generator(seed, f"order of block {block}", epoch))
            )
        self.orders = [order.to(data.labels.device) for order in orders]
        self.seed, self.epoch, self.augment = seed, epoch, recipe.augment
        self.weights = mixing_weights(inputs, self.n_steps, seed, epoch) if inputs.mix else None
        self.reading: Iterator[Tensor] | None = None
        self.next_step = 0

    def __call__(self, step: int) -> Shown:
        """The images of one step."""
        rows = self._rows(step)
        parts = self._read(step) if isinstance(self.data.images, Streamed) else self._made(rows)
        images, indices = _in_a_row(parts), _in_a_row(rows)
        if self.weights is None:
            return Shown(images, self.data.labels[indices], indices, None, None)
        weights = self.weights[step]
        mixed = sum((w * part for w, part in zip(weights, parts, strict=True)), torch.zeros(()))
        return Shown(mixed, self.data.labels[indices], indices, weights, images)

    def _rows(self, step: int) -> list[Tensor]:
        """(B,) rows for each block."""
        here = slice(step * self.batch_size, (step + 1) * self.batch_size)
        return [order[here] for order in self.orders]

    @cached_property
    def _views(self) -> dict[bool, Views]:
        """The epoch's views, and its strong ones where a block is strong."""
        n, size = len(self.data.labels), self.data.images.shape[-1]
        return {
            strong: Views(self.augment, n, size, self.seed, self.epoch, strong=strong)
            for strong in {False, *self.strong}
        }

    def _made(self, rows: list[Tensor]) -> list[Tensor]:
        """Each block's views of images in memory: (B, channels, H, W) floats."""
        blocks = zip(rows, self.strong, strict=True)
        return [self._views[strong](self.data.images[some], some) for some, strong in blocks]

    def _read(self, step: int) -> list[Tensor]:
        """Each block's views of images in files; a step out of order begins to read anew."""
        assert isinstance(self.data.images, Streamed)
        if self.reading is None or step != self.next_step:
            self.reading = self.data.images.shots(self._shots(step))
        self.next_step = step + 1
        return list(to_float(next(self.reading)).split(self.batch_size))

    def _shots(self, first: int) -> Iterator[list[tuple[int, Shot | None]]]:
        """What a step shows, row by row and block after block, from step `first` on."""
        shots = [Shot(self.augment, self.seed, self.epoch, strong) for strong in self.strong]
        for step in range(first, self.n_steps):
            blocks = zip(self._rows(step), shots, strict=True)
            yield [(row, shot) for rows, shot in blocks for row in rows.tolist()]


def _in_a_row(blocks: list[Tensor]) -> Tensor:
    """Blocks one after the other; a single one is not copied."""
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def mixing_weights(inputs: Inputs, n_steps: int, seed: int, epoch: int) -> Tensor:
    """(steps, blocks) weights: (w, 1 - w) with w from a Beta for two images, else draws over their sum."""
    rng = np.random.default_rng(seed_of(seed, "mixing", epoch))
    draws = rng.beta(inputs.concentration, inputs.concentration, size=(n_steps, inputs.blocks))
    if inputs.blocks == 2:
        draws[:, 1] = 1 - draws[:, 0]
    return torch.from_numpy(draws / draws.sum(1, keepdims=True)).float()
