"""How well a network's confidence tells its own dataset from another one, from logits alone.

Scores are larger where the network feels at home: the largest softmax probability (Hendrycks, Gimpel 2017,
arXiv:1610.02136) and the negative energy logsumexp(logits) (Liu et al. 2020, arXiv:2010.03759).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PAIRS = {  # other images of the same shape; used where they lie here already
    "mnist": ("fashion_mnist",),
    "fashion_mnist": ("mnist",),
    "cifar10": ("cifar100",),
    "cifar100": ("cifar10",),
}


def scores(logits: Tensor) -> dict[str, Tensor]:
    """The scores of each image, (N,) each."""
    logits = logits.double()
    return {"msp": logits.softmax(-1).amax(-1), "energy": logits.logsumexp(-1)}


def detection(own: Tensor, other: Tensor) -> dict[str, float]:
    """Both scores' `…_auroc` and `…_fpr95`, from logits on the own (N, C) and the other dataset (M, C); M is `n`."""
    found = {}
    here, there = scores(own), scores(other)
    for name in here:
        found[f"{name}_auroc"] = auroc(here[name], there[name])
        found[f"{name}_fpr95"] = fpr95(here[name], there[name])
    return {**found, "n": float(len(other))}


def auroc(own: Tensor, other: Tensor) -> float:
    """The chance that an own image scores higher than another's, ties half (Mann, Whitney): 1 is best, 0.5 is blind.

    NaN where a side is empty or a score is NaN.
    """
    if not len(own) or not len(other) or torch.cat([own, other]).isnan().any():
        return math.nan
    _, group, sizes = torch.cat([own, other]).unique(return_inverse=True, return_counts=True)
    middle = sizes.cumsum(0).double() - (sizes.double() - 1) / 2  # rank of each group, from 1
    ranks = middle[group[: len(own)]].sum().item()
    return (ranks - len(own) * (len(own) + 1) / 2) / (len(own) * len(other))


def fpr95(own: Tensor, other: Tensor) -> float:
    """The share of the other dataset that passes where 95 % of the own images do: 0 is best; NaN as in `auroc`."""
    if not len(own) or not len(other) or torch.cat([own, other]).isnan().any():
        return math.nan
    threshold = own.sort(descending=True).values[math.ceil(0.95 * len(own)) - 1]
    return (other >= threshold).double().mean().item()
