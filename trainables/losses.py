"""Pieces that two or more methods use. Logits are (B, C); everything is a batch mean unless it says otherwise."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.contract import Batch, Outputs, Scalar

EPS = 1e-12  # under a square root or a division, against NaN gradients at 0


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: Scalar = 0.0) -> Tensor:
    """Mean of -sum_c q_c log softmax(logits)_c with q = (1 - smoothing) onehot + smoothing / C."""
    return cross_entropy_each(logits, labels, smoothing).mean()


def cross_entropy_each(logits: Tensor, labels: Tensor, smoothing: Scalar = 0.0) -> Tensor:
    """The same, one value a sample: (B,)."""
    log_p = logits.log_softmax(-1)
    hard = -(F.one_hot(labels, logits.shape[-1]) * log_p).sum(-1)
    return (1 - smoothing) * hard - smoothing * log_p.mean(-1)


def soft_cross_entropy_each(logits: Tensor, probabilities: Tensor) -> Tensor:
    """-sum_c p_c log softmax(logits)_c for given (B, C) probabilities: (B,)."""
    return -(probabilities * logits.log_softmax(-1)).sum(-1)


def kl_each(student_logits: Tensor, teacher_logits: Tensor, temperature: Scalar) -> Tensor:
    """KL(softmax(teacher / T) || softmax(student / T)), no T^2: (B,)."""
    log_p = (teacher_logits / temperature).log_softmax(-1)
    log_q = (student_logits / temperature).log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def softened_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: Scalar) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), batch mean (Hinton et al. 2015)."""
    return temperature**2 * kl_each(student_logits, teacher_logits, temperature).mean()


def standardized(logits: Tensor) -> Tensor:
    """Each row to mean 0 and (unbiased) deviation 1 (LSKD, arXiv:2403.01427); a constant row becomes 0.

    Needs at least two classes.
    """
    centred = logits - logits.mean(-1, keepdim=True)
    variance = (centred**2).sum(-1, keepdim=True) / (logits.shape[-1] - 1)
    return centred / ((variance + EPS).sqrt() + 1e-7)


def hard_and_soft(
    student: Outputs,
    target_logits: Tensor,
    batch: Batch,
    lambda_: Scalar,
    alpha: Scalar,
    temperature: Scalar,
) -> dict[str, Tensor]:
    """lambda CE + alpha T^2 KL: what stands beside a feature or relational method's own term."""
    return {
        "ce": lambda_ * cross_entropy(student.logits, batch.labels),
        "kd": alpha * softened_kl(student.logits, target_logits, temperature),
    }


def pooled_to(maps: Tensor, size: int) -> Tensor:
    """(B, c, h, w) average-pooled to (B, c, size, size) where it is larger; unchanged where it is not."""
    return F.adaptive_avg_pool2d(maps, size) if maps.shape[-1] > size else maps


def same_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two stage maps with the larger one average-pooled to the smaller one's height and width."""
    size = min(a.shape[-1], b.shape[-1])
    return pooled_to(a, size), pooled_to(b, size)


def safe_norm(x: Tensor, dim: int | tuple[int, ...] = -1, *, keepdim: bool = False) -> Tensor:
    """Euclidean norm whose gradient is finite at 0."""
    return ((x**2).sum(dim, keepdim=keepdim) + EPS).sqrt()


def unit(x: Tensor, dim: int = -1, eps: float = 1e-6) -> Tensor:
    """x divided by max(norm, eps): a zero row stays zero with a bounded gradient."""
    return x / torch.clamp(safe_norm(x, dim, keepdim=True), min=eps)
