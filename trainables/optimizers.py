"""The optimisers of a recipe: torch's own updates, fused, with no more around them than a training needs.

`torch.optim.SGD` and its like import torch's compiler in every process that makes one, which takes as long as importing
torch itself; the functions below them, which hold the formulas, do not. What is kept of a parameter has torch's names,
so that either reads the other's checkpoints.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.sgd import sgd

BETAS, EPSILON = (0.9, 0.999), 1e-8  # torch's and the papers'


class Optimizer(ABC):
    """Moves parameters against their gradients; what is set of it may be changed between two steps."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float
    ) -> None:
        self.parameters = list(parameters)
        self.lr, self.weight_decay = lr, weight_decay
        self.state: dict[int, dict[str, Tensor]] = {}  # by the parameter's number

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move the parameters that have a gradient."""
        moved = [
            (i, p, laid_out(p.grad, p)) for i, p in enumerate(self.parameters) if p.grad is not None
        ]
        if moved:
            numbers, parameters, gradients = map(list, zip(*moved, strict=True))
            self._move(numbers, parameters, gradients)

    @abstractmethod
    def _move(
        self, numbers: list[int], parameters: list[Tensor], gradients: list[Tensor]
    ) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on, beside what is set."""
        return {"state": {number: dict(kept) for number, kept in sorted(self.state.items())}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; `state` may be of torch's optimiser of the same name, and of another memory format."""
        self.state = {int(number): dict(kept) for number, kept in state["state"].items()}
        for number, kept in self.state.items():
            parameter = self.parameters[number]
            for name, value in kept.items():
                kept[name] = laid_out(value.to(parameter.device), parameter)


def laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """A gradient or what is kept of a parameter, in the parameter's memory format.

    torch's fused updates go through both as they lie in memory and ask no questions.
    """
    if value.shape != parameter.shape or value.stride() == parameter.stride():
        return value
    steps = zip(value.shape, value.stride(), parameter.stride(), strict=True)
    if all(length == 1 or one == other for length, one, other in steps):
        return value
    return torch.empty_like(parameter).copy_(value)


class SGD(Optimizer):
    """With Nesterov's momentum, as torch has it; plain where that is 0."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
    ) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay)
        self.momentum = momentum

    def _move(self, numbers: list[int], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        buffers = [self.state.get(number, {}).get("momentum_buffer") for number in numbers]
        sgd(
            parameters,
            gradients,
            buffers,
            fused=True,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            lr=self.lr,
            dampening=0.0,
            nesterov=self.momentum > 0,
            maximize=False,
        )
        for number, buffer in zip(numbers, buffers, strict=True):
            if buffer is not None:
                self.state[number] = {"momentum_buffer": buffer}


class Adam(Optimizer):
    """Kingma and Ba, arXiv:1412.6980; weight decay is added to the gradient."""

    decoupled = False

    def _move(self, numbers: list[int], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        for number, parameter in zip(numbers, parameters, strict=True):
            if number not in self.state:
                self.state[number] = _begun(parameter)
        kept = [self.state[number] for number in numbers]
        adam(
            parameters,
            gradients,
            [one["exp_avg"] for one in kept],
            [one["exp_avg_sq"] for one in kept],
            [],
            [one["step"] for one in kept],
            fused=True,
            decoupled_weight_decay=self.decoupled,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=self.lr,
            weight_decay=self.weight_decay,
            eps=EPSILON,
            maximize=False,
        )


class AdamW(Adam):
    """Loshchilov and Hutter, arXiv:1711.05101: weight decay is taken from the weights themselves."""

    decoupled = True


def _begun(parameter: Tensor) -> dict[str, Tensor]:
    """What Adam keeps of a parameter, before its first step."""
    return {
        "step": torch.zeros((), device=parameter.device),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": torch.zeros_like(parameter),
    }
