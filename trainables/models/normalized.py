"""A network with its own normalisation inside, so that everyone hands it pixels in [0, 1]."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainables.contract import Outputs


class Normalized(nn.Module):
    """(x - mean) / std, then the network; of its feature maps those in `stages`, or all."""

    mean: Tensor  # (1, channels, 1, 1)
    std: Tensor
    stages: tuple[int, ...] = ()  # numbers of the maps that are shown; empty: all of them

    def __init__(self, body: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Outputs:
        """Outputs for (B, channels, H, W) images in [0, 1]."""
        seen: Outputs = self.body((images - self.mean) / self.std)
        if not self.stages:
            return seen
        return seen._replace(
            features=tuple(seen.features[i] for i in self.stages),
            preacts=tuple(seen.preacts[i] for i in self.stages) if seen.preacts else (),
        )

    @property
    def classifier(self) -> nn.Linear:
        """The last layer, embedding to logits."""
        return self.body.classifier  # type: ignore[return-value]

    @property
    def norms(self) -> Any:
        """The batch normalisation before each feature map's activation, or None where there is none."""
        norms: Any = self.body.norms
        return [norms[i] for i in self.stages] if self.stages and len(norms) else norms


class LogitsOnly(nn.Module):
    """A network as it leaves the house: images in [0, 1] in, logits (B, C) out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C)."""
        return self.model(images).logits


def n_parameters(model: nn.Module) -> int:
    """Trainable parameters, and the weights that a frozen layer keeps as buffers; running statistics do not count."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    kept = (b for name, b in model.named_buffers() if name.rpartition(".")[2] in ("weight", "bias"))
    return trained + sum(b.numel() for b in kept)


@torch.no_grad()
def multiply_adds(model: nn.Module, shape: Sequence[int]) -> int:
    """Products in convolutions and linear layers for one image of `shape` (channels, H, W), in eval mode."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, *shape))
    return counter.get_total_flops() // 2  # it counts the product and the sum


@torch.inference_mode()
def latency_ms(model: nn.Module, shape: Sequence[int], n: int = 30) -> float:
    """Median milliseconds for one image of `shape` (channels, H, W), on the model's device, after a warm-up."""
    image = torch.zeros(1, *shape, device=next(model.parameters()).device)
    seconds = []
    for _ in range(n + 3):
        started = time.perf_counter()
        model.eval()(image)
        if image.is_cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[3:])
