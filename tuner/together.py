"""Students that take several GPUs each: one process a GPU, each with a part of every batch; what cannot be done so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from search_spaces import Domain
from trainables import objective, parallel
from trainables.contract import Context, Method
from trainables.seeding import seeded

RANDOM = nn.modules.dropout._DropoutNd


def ranks(gpus_per_trial: float) -> int:
    """Processes that train one student."""
    return max(1, int(gpus_per_trial))


def check_batches(n_ranks: int, known: Mapping[str, Any], searched: Mapping[str, Domain]) -> None:
    """Raise ValueError where a batch may have too few images for each rank to have one."""
    domain = searched.get("batch_size")
    smallest = min(map(int, domain.ends() if domain else (known["batch_size"],)))
    if smallest < n_ranks:
        raise ValueError(
            f"batch_size must be at least the {n_ranks} of --gpus-per-trial, which share a batch, got {smallest}"
        )


def check_networks(method: Method, contexts: Iterable[Context], values: Mapping[str, Any]) -> None:
    """Raise ValueError for a student whose statistics, or a method whose draws, would differ from rank to rank."""
    for context in contexts:
        for _ in parallel.norms(context.student_model):
            pass
        with seeded(0, "check"):
            adapter = objective.build_adapter(method, context, values)
        for module in adapter.modules() if adapter is not None else ():
            if isinstance(module, RANDOM):
                raise ValueError(
                    "--gpus-per-trial must be at most 1 for a method whose adapter draws at random by itself, got "
                    f"{type(module).__name__}"
                )
