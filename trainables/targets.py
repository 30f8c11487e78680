"""Where a student's targets come from: from the cache that all trials share, or from a live teacher, step by step.

A target can be kept where it depends on the view alone and an epoch of it is small. Views that never change (augment
none) are asked about once, image by image, for all epochs; others once an epoch, in the very batches of that epoch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from trainables import objective
from trainables.contract import Inputs, Method, Outputs
from trainables.data.feed import Shown
from trainables.data.splits import Split
from trainables.data.views import to_float
from trainables.methods import arguments
from trainables.recipe import Recipe
from trainables.teacher_cache import TargetCache
from trainables.training import Entry, Form, Training

AHEAD = 4  # epochs that a process computes while it waits for another's
EPOCHS_KEPT = 4  # at least, or the cache would be emptied as fast as it is filled


@dataclass(frozen=True)
class Choice:
    """Whether targets are kept, and what they weigh."""

    kept: bool
    by_image: bool  # one entry for all epochs, since no view ever changes
    epoch_bytes: int
    reason: str  # in words, for the plan and the report
    form: Form | None = None  # of a target


class Recall:
    """Brings an epoch's targets to a training: from the cache, made there first where nobody has."""

    def __init__(self, cache: TargetCache, choice: Choice, about: Mapping[str, Any]) -> None:
        self.cache, self.choice, self.about = cache, choice, dict(about)
        self.entry: Entry | None = None  # of all epochs, where there is one for all
        self.found = False  # whether the last epoch's targets had been made by another, or before
        self.live = False  # whether it had to do without

    def __call__(self, training: Training) -> Entry | None:
        """The coming epoch's targets on the training's device; None where they took too long to come."""
        if self.entry is not None:
            self.found = True
            return self.entry
        last = training.epoch + 1 if self.choice.by_image else training.recipe.epochs
        epochs = range(training.epoch, min(training.epoch + 1 + AHEAD, last))
        keys = [{**self.about, **key_of(training, epoch, self.choice.by_image)} for epoch in epochs]
        try:
            leaves, self.found = self.cache.fetch(
                keys, lambda number: self._compute(training, epochs[number])
            )
        except OSError as error:  # a full disk must not end a trial that can do without
            warnings.warn(f"no cache of teacher outputs, a live teacher: {error}", stacklevel=2)
            leaves, self.found = None, False
        self.live = leaves is None
        if leaves is None or self.choice.form is None:
            return None
        moved = tuple(leaf.to(training.device) for leaf in leaves)
        entry = Entry(moved, self.choice.form, self.choice.by_image)
        self.entry = entry if self.choice.by_image else None
        return entry

    def _compute(self, training: Training, epoch: int) -> tuple[Tensor, ...]:
        shown = every_image(training.data, training.recipe.batch_size)
        if not self.choice.by_image:
            feed = training.feed(epoch)
            shown = (feed(step) for step in range(feed.n_steps))
        steps = [tensors(training.targets(some)) for some in shown]
        join = torch.cat if self.choice.by_image else torch.stack
        return tuple(join(list(leaves)) for leaves in zip(*steps, strict=True))


def choose(
    method: Method,
    settings: Mapping[str, Any],
    recipe: Recipe,
    seen: Outputs,
    prepared: Mapping[str, Tensor],
    n_train: int,
    limit_bytes: int,
) -> Choice:
    """Decide for one configuration from what the teacher says of a few images: `seen` (any B)."""
    if method.target is None:
        return Choice(False, False, 0, "no teacher")
    if not limit_bytes or not can_keep(method):
        why = (
            "the method takes whole feature maps or gradients"
            if limit_bytes
            else "the cache is off"
        )
        return Choice(False, False, 0, f"live teacher: {why}")
    inputs = method.inputs(**arguments(method.inputs, dict(settings)))
    by_image = stays(method, inputs, recipe.augment)
    batch_size = min(recipe.batch_size, n_train)
    rows = batch_size if inputs.teacher_sees_mix else batch_size * inputs.blocks
    target = objective.target_of(method, _repeated(seen, rows), prepared, settings)
    step_bytes = sum(leaf.numel() * leaf.element_size() for leaf in tensors(target))
    steps = n_train // batch_size
    size = step_bytes * n_train // rows if by_image else step_bytes * steps
    if size * (1 if by_image else EPOCHS_KEPT) > limit_bytes:
        told = f"live teacher: {size / 1e6:,.0f} MB an epoch are too much for a cache of {limit_bytes / 1e6:,.0f} MB"
        return Choice(False, by_image, size, told)
    often = "once, the views stay the same" if by_image else "once an epoch"
    return Choice(True, by_image, size, f"computed {often}: {size / 1e6:,.1f} MB", Form.of(target))


def can_keep(method: Method) -> bool:
    """Whether a method's targets depend on the views alone and are small things made of the outputs."""
    return method.target is not None and not method.needs & {"teacher", "input_gradient"}


def stays(method: Method, inputs: Inputs, augment: str) -> bool:
    """Whether the target of an image is the same in every epoch and batch."""
    mixed = inputs.mix and inputs.teacher_sees_mix
    return (
        augment == "none" and not any(inputs.strong) and not mixed and "batch" not in method.needs
    )


def key_of(training: Training, epoch: int, by_image: bool) -> dict[str, Any]:
    """All that an epoch's targets depend on beside teacher, data and machine; the method counts by its target."""
    target, settings = training.method.target, training.settings
    assert target is not None
    key: dict[str, Any] = {
        "target": f"{target.__module__}.{target.__qualname__}",
        "choices": {k: repr(v) for k, v in arguments(target, dict(settings)).items()},
        "batch_size": training.recipe.batch_size,
    }
    if by_image:
        return key
    views = {"augment": training.recipe.augment, "seed": training.seed, "epoch": epoch}
    return {**key, **views, "inputs": training.inputs._asdict()}


def every_image(data: Split, batch_size: int) -> Iterator[Shown]:
    """The images as they are, in their order, a batch at a time."""
    for rows in torch.arange(len(data.labels)).split(batch_size):
        yield Shown(to_float(data.images[rows]), data.labels[rows], rows, None, None)


def tensors(target: Any) -> list[Tensor]:
    """The tensors that a target is made of."""
    return [leaf for leaf in tree_leaves(target) if isinstance(leaf, Tensor)]


def _repeated(seen: Outputs, rows: int) -> Outputs:
    """The outputs of a few images as if they were of `rows`."""

    def repeat(x: Any) -> Any:
        return (
            x.repeat(-(-rows // len(x)), *[1] * (x.ndim - 1))[:rows] if isinstance(x, Tensor) else x
        )

    return tree_map(repeat, seen)
