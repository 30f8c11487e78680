"""Temperature scaling (Guo, Pleiss, Sun, Weinberger. On Calibration of Modern Neural Networks. ICML 2017.
arXiv:1706.04599, section 4.2): the one temperature at which a network's confidence fits its accuracy best.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LOWEST, HIGHEST = 0.01, 100.0  # temperatures


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T in [0.01, 100] of least negative log-likelihood of softmax(z / T), for (N, C) logits, (N,) labels.

    Where no T does better than 1 (constant logits) it is 1. Where all are right T is small: there is nothing to be
    unsure about. Raises ValueError for no samples, and for logits that are not finite.
    """
    from scipy.optimize import minimize_scalar

    if len(labels) == 0 or not torch.isfinite(logits).all():
        got = "none" if len(labels) == 0 else "others"
        raise ValueError(f"logits must be finite and of at least one sample, got {got}")
    exact = logits.double()

    def loss(log_temperature: float) -> float:
        return nll(exact, labels, math.exp(log_temperature))

    bounds = (math.log(LOWEST), math.log(HIGHEST))  # one minimum: the loss is convex in 1 / T
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x) if found.fun < loss(0.0) else 1.0


def nll(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of softmax(z / T), nats a sample."""
    return float(torch.nn.functional.cross_entropy(logits / temperature, labels))
