"""What a network says about images in [0, 1]: its logits, whether they are right, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainables.contract import Outputs
from trainables.data.splits import Pictures, Split
from trainables.data.views import to_float
from trainables.seeding import generator

BATCH = 500  # images at a time, without gradients


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """Float32 logits (B, C) of a network that gives Outputs, or logits themselves."""
    said = model(images)
    return (said.logits if isinstance(said, Outputs) else said).float()


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether each image is classified right: (B,) bool; logits that are not finite count as wrong."""
    return (logits.argmax(-1) == labels) & torch.isfinite(logits).all(-1)


@torch.no_grad()
def predict(model: nn.Module, images: Pictures, device: torch.device | str = "cpu") -> Tensor:
    """Logits (N, C) on the CPU for uint8 images (N, channels, H, W); the network's mode is left as it is."""
    parts = [logits_of(model, to_float(part).to(device)).cpu() for part in images.split(BATCH)]
    return torch.cat(parts)


def sample(data: Split, n: int, seed: int, purpose: str) -> Split:
    """`n` images drawn for one purpose, in the split's order; all of them where it has no more."""
    if n >= len(data.labels):
        return data
    drawn = torch.randperm(len(data.labels), generator=generator(seed, purpose))[:n].sort().values
    return Split(data.images[drawn], data.labels[drawn])


def batches_of(
    data: Split, chosen: Tensor, size: int, device: torch.device | str
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(rows, images in [0, 1], labels) of the `chosen` (N,) bool, `size` at a time, on the device but for the rows."""
    left = chosen.nonzero()[:, 0]
    for rows in left.split(size) if len(left) else ():
        yield rows, to_float(data.images[rows]).to(device), data.labels[rows].to(device)


@contextmanager
def judged(model: nn.Module) -> Iterator[nn.Module]:
    """The network in eval mode, its weights out of every graph, autocast off; all put back afterwards."""
    was_training = {module: module.training for module in model.modules()}
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kinds = {parameter.device.type for parameter in model.parameters()} or {"cpu"}
    try:
        model.eval()
        for parameter in learned:
            parameter.requires_grad_(False)
        with torch.autocast(next(iter(kinds)), enabled=False):
            yield model
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
        for module, training in was_training.items():
            module.training = training
