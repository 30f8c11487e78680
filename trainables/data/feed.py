"""What each step of an epoch shows: which images, as which views, grouped or mixed as the method's inputs say."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainables.contract import Inputs
from trainables.data.splits import Split
from trainables.data.views import Views
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
    """One epoch of steps; all draws are made at its start, from (seed, purpose, epoch)."""

    def __init__(self, data: Split, inputs: Inputs, recipe: Recipe, seed: int, epoch: int) -> None:
        self.data, self.inputs = data, inputs
        n, size = len(data.labels), data.images.shape[-1]
        self.batch_size = min(recipe.batch_size, n)
        self.n_steps = n // self.batch_size  # the ragged last batch is dropped
        self.orders = [torch.randperm(n, generator=generator(seed, "order", epoch))]
        for block in range(1, inputs.blocks):
            self.orders.append(
                self.orders[0]
                if inputs.strong[block : block + 1] == (True,)
                else torch.randperm(n, generator=generator(seed, f"order of block {block}", epoch))
            )
        self.views = Views(recipe.augment, n, size, seed, epoch)
        self.strong = Views("strong", n, size, seed, epoch) if any(inputs.strong) else None
        self.weights = mixing_weights(inputs, self.n_steps, seed, epoch) if inputs.mix else None

    def __call__(self, step: int) -> Shown:
        """The images of one step."""
        here = slice(step * self.batch_size, (step + 1) * self.batch_size)
        rows = [order[here] for order in self.orders]
        strong = (*self.inputs.strong, *(False,) * (len(rows) - len(self.inputs.strong)))
        parts = []
        for some, is_strong in zip(rows, strong, strict=True):
            views = self.strong if is_strong and self.strong else self.views
            parts.append(views(self.data.images[some], some))
        images, indices = _in_a_row(parts), _in_a_row(rows)
        if self.weights is None:
            return Shown(images, self.data.labels[indices], indices, None, None)
        weights = self.weights[step]
        mixed = sum((w * part for w, part in zip(weights, parts, strict=True)), torch.zeros(()))
        return Shown(mixed, self.data.labels[indices], indices, weights, images)


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
