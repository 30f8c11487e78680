"""In which numbers and in which order in memory a student is trained: measured where it is not said.

bfloat16 autocast and channels-last make residual networks two to three times as fast on a CPU and small LeNets slower,
so a probe tries the four combinations on the student, the device and the batch at hand, and keeps the plain one unless
another is clearly faster. Weights, losses and optimiser stay in float32.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from trainables.contract import Outputs

CLEARLY = 1.1  # times faster than the plain combination, to be preferred to it
HOPELESS = 2.0  # times slower than the plain combination
ROUNDS = 3  # at least
SECONDS = 1.0  # of the whole probe, beside its first steps


@dataclass(frozen=True)
class Precision:
    """How a network's forward and backward passes are computed."""

    bfloat16: bool = False
    channels_last: bool = False

    def arranged(self, network: nn.Module) -> nn.Module:
        """The network with its weights in this memory format."""
        if self.channels_last:
            return network.to(memory_format=torch.channels_last)
        return network

    def outputs(self, network: nn.Module, images: Tensor) -> Outputs:
        """The network's outputs, float32, differentiable."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        if not self.bfloat16:
            return network(images)
        with torch.autocast(images.device.type, torch.bfloat16):
            seen: Outputs = network(images)
        return tree_map(lambda x: x.float() if isinstance(x, Tensor) else x, seen)

    def __str__(self) -> str:
        """`bfloat16, channels last`."""
        number = "bfloat16" if self.bfloat16 else "float32"
        return f"{number}, channels last" if self.channels_last else number


PLAIN = Precision()


def probe(
    build: Callable[[], nn.Module],
    images: Tensor,
    bfloat16: bool | None = None,
    channels_last: bool | None = None,
) -> tuple[Precision, dict[str, float]]:
    """The fastest way to train a network on one batch of `images`, and milliseconds a step by way.

    What is given is not tried otherwise. Takes about a second, more only where a few steps do.
    """
    numbers = (False, True) if bfloat16 is None else (bfloat16,)
    orders = (False, True) if channels_last is None else (channels_last,)
    options = [Precision(*both) for both in itertools.product(numbers, orders)]
    if len(options) == 1:
        return options[0], {}
    options = _worth_trying(options, build, images)
    medians = _medians([stepper(option, build(), images) for option in options])
    best = min(range(len(options)), key=medians.__getitem__)
    chosen = options[best] if medians[0] > CLEARLY * medians[best] else options[0]
    return chosen, {str(option): ms for option, ms in zip(options, medians, strict=True)}


def _worth_trying(
    options: list[Precision], build: Callable[[], nn.Module], images: Tensor
) -> list[Precision]:
    """The first option, and those not hopeless on two images: bfloat16 without hardware for it is 20 times slower."""
    first, *others = [
        min(stepper(option, build(), images[:2])() for _ in range(2)) for option in options
    ]
    kept = [
        option
        for option, seconds in zip(options[1:], others, strict=True)
        if seconds < HOPELESS * first
    ]
    return [options[0], *kept]


def _medians(steps: list[Callable[[], float]]) -> list[float]:
    """Milliseconds a step of each, taken in turn."""
    for step in steps:
        step()
    times: list[list[float]] = [[] for _ in steps]
    deadline = time.perf_counter() + SECONDS
    while len(times[0]) < ROUNDS or time.perf_counter() < deadline:
        for step, seconds in zip(steps, times, strict=True):
            seconds.append(step())
    return [1000 * statistics.median(seconds) for seconds in times]


def stepper(option: Precision, network: nn.Module, images: Tensor) -> Callable[[], float]:
    """A function that takes one step forth and back and gives its seconds."""
    network = option.arranged(network.to(images.device).train())

    def step() -> float:
        started = time.perf_counter()
        option.outputs(network, images).logits.logsumexp(-1).mean().backward()
        network.zero_grad()
        if images.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return step
