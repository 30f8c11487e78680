"""One student on several processes (ranks), each passing its own rows of every batch; what comes out is that of one.

What the network says of its rows is gathered, so that every rank has the loss of the whole batch, with relations
between samples, adapters, banks and draws; going back, each passes its own rows alone. Batch-norm statistics are of all
rows. The ranks' gradients of the student then add up to those of one process; those of the adapter are the whole on
each rank already.

Torch's DistributedDataParallel averages the losses of parts, which is another loss where samples are compared with each
other, and knows neither a gradient inside a step (at_grad) nor several passes before one; its SyncBatchNorm neither
runs on a CPU nor is differentiable twice. What it has ahead is that it sends gradients while others are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainables.contract import Outputs


class RankLostError(RuntimeError):
    """Another rank does not answer any more."""


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is; torch's default process group joins them."""

    number: int = 0
    count: int = 1

    @property
    def alone(self) -> bool:
        """Whether there is one process, which talks to nobody."""
        return self.count == 1

    def own(self, rows: Tensor) -> Tensor:
        """This rank's part of (B, ...) rows; the first ranks have one more where they do not divide evenly."""
        return rows.tensor_split(self.count)[self.number]

    def shared(self, say: Callable[..., Outputs], needs: Iterable[str], *batch: Tensor) -> Outputs:
        """What `say(*batch)` gives of a whole batch, each rank having said its part; of maps those in `needs` alone."""
        if self.alone:
            return say(*batch)
        seen, rows, needed = say(*map(self.own, batch)), len(batch[0]), frozenset(needs)

        def whole(own: Tensor) -> Tensor:
            return _Whole.apply(own, self, rows)

        return Outputs(
            whole(seen.logits),
            whole(seen.embedding),
            tuple(map(whole, seen.features)) if "features" in needed else (),
            tuple(map(whole, seen.preacts)) if "preacts" in needed else (),
            None if seen.input_gradient is None else whole(seen.input_gradient),
        )

    def synchronise(self, student: nn.Module) -> None:
        """Let the student's batch norms take their statistics over all ranks from now on."""
        if not self.alone:
            for norm in norms(student):
                norm.forward = partial(_normalised, norm, self)  # type: ignore[method-assign]

    def same_start(self, *parts: nn.Module | None) -> None:
        """Give every rank the first one's weights and buffers, lest roundings add up over the epochs."""
        if self.alone:
            return
        with _together():
            for part in filter(None, parts):
                for value in (*part.parameters(), *part.buffers()):
                    distributed.broadcast(value.detach(), 0)

    def join_gradients(self, student: nn.Module, adapter: nn.Module | None) -> None:
        """Make every rank's gradients those of one process."""
        if self.alone:
            return
        _add_up(student.parameters())
        if adapter is not None:
            _add_up(adapter.parameters(), 1 / self.count)

    def all(self, holds: bool, device: torch.device) -> bool:
        """Whether it holds on every rank."""
        if self.alone:
            return holds
        said = torch.tensor(int(holds), device=device)
        with _together():
            distributed.all_reduce(said, distributed.ReduceOp.MIN)
        return bool(said)


ALONE = Ranks()


def norms(network: nn.Module) -> Iterator[_BatchNorm]:
    """The network's batch norms that are torch's own; raises ValueError for one with another forward pass."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            if type(module).forward is not _BatchNorm.forward:
                raise ValueError(
                    "a student on several GPUs must have torch's own batch normalisation, got "
                    f"{type(module).__module__}.{type(module).__name__}"
                )
            yield module


@contextmanager
def _together() -> Iterator[None]:
    """Something that all ranks do at once; raises RankLostError where one does not."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise RankLostError(f"another rank does not answer: {error}") from error


def _add_up(parameters: Iterable[nn.Parameter], share: float = 1.0) -> None:
    """Add the ranks' gradients up, all in one message, times `share`."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    with _together():
        distributed.all_reduce(flat)
    parts = (flat * share).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view(gradient.shape))


class _Whole(torch.autograd.Function):
    """Every rank's rows, in order; going back, this rank's own part of the gradient, which all ranks have whole."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks, rows: int) -> Tensor:
        ctx.ranks = ranks
        sizes = [len(part) for part in torch.empty(rows, 0).tensor_split(ranks.count)]
        padded = own.new_zeros(sizes[0], *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in sizes]
        with _together():
            distributed.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return ctx.ranks.own(gradients[0]), None, None


class _Sum(torch.autograd.Function):
    """The sum over ranks, of which each uses its own copy; so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        whole = part.clone()
        with _together():
            distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _Sum.apply(gradients[0].contiguous())


def _normalised(norm: _BatchNorm, ranks: Ranks, x: Tensor) -> Tensor:
    """Batch normalisation of this rank's rows by the statistics of all; as always in eval mode."""
    if not norm.training:
        return _BatchNorm.forward(norm, x)
    values = x if x.dtype == torch.float64 else x.float()
    axes, shape = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
    count = values.new_tensor([x.numel() / x.shape[1]])
    sums: Tensor = _Sum.apply(torch.cat([values.sum(axes), count]))
    mean, total = sums[:-1] / sums[-1], sums[-1].detach()
    centred = values - mean.view(shape)
    variance: Tensor = _Sum.apply((centred * centred).sum(axes)) / total
    _remember(norm, mean.detach(), variance.detach() * total / (total - 1))
    scale = (variance + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    normal = centred * scale.view(shape)
    return (normal if norm.bias is None else normal + norm.bias.view(shape)).to(x.dtype)


@torch.no_grad()
def _remember(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics, as torch's own batch norm does."""
    if norm.running_mean is None or norm.running_var is None:
        return
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    share = 1 / float(norm.num_batches_tracked or 1) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), share)
