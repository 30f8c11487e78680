"""Pieces that two or more methods use. Logits are (B, C); everything is a batch mean unless it says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.contract import Batch, Context, Outputs, Scalar

EPS = 1e-12  # under a square root or a division, against NaN gradients at 0
FIRST_SHARE = 30 / 270  # of all epochs for a first phase: RepDistiller has 30 before its 240


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: Scalar | None = None) -> Tensor:
    """Mean of -sum_c q_c log softmax(logits)_c with q = (1 - smoothing) onehot + smoothing / C; None is 0."""
    return cross_entropy_each(logits, labels, smoothing).mean()


def cross_entropy_each(logits: Tensor, labels: Tensor, smoothing: Scalar | None = None) -> Tensor:
    """The same, one value a sample: (B,)."""
    log_p = logits.log_softmax(-1)
    hard = F.nll_loss(log_p, labels, reduction="none")
    return hard if smoothing is None else (1 - smoothing) * hard - smoothing * log_p.mean(-1)


def smoothed(probabilities: Tensor, smoothing: Scalar | None) -> Tensor:
    """(1 - smoothing) p + smoothing / C of (B, C) labels or their mixtures; None leaves them as they are."""
    if smoothing is None:
        return probabilities
    return (1 - smoothing) * probabilities + smoothing / probabilities.shape[-1]


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
        "ce": lambda_ * cross_entropy(student.logits, batch.labels, batch.smoothing),
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
    """Euclidean norm, exact, with gradient 0 where it is 0 (the plain one has NaN there)."""
    square = (x**2).sum(dim, keepdim=keepdim)
    there = square > 0
    return torch.where(there, torch.where(there, square, 1.0).sqrt(), 0.0)


def unit(x: Tensor, dim: int = -1, eps: float = 1e-6) -> Tensor:
    """x divided by max(norm, eps): a zero row stays zero with a bounded gradient."""
    return x / torch.clamp(safe_norm(x, dim, keepdim=True), min=eps)


class Maps(NamedTuple):
    """A target of whole feature maps: too large to keep, so read from a live teacher."""

    logits: Tensor  # (B, C)
    maps: tuple[Tensor, ...]  # each (B, C_l, H_l, W_l)


def stage_maps(teacher: Outputs) -> Maps:
    """The teacher's logits and its stages' maps after activation, without the stem's."""
    return Maps(teacher.logits, teacher.features[1:])


def full(x: Tensor) -> Tensor:
    """x in float32 at least: sums over a map overflow float16 and lose digits in bfloat16."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def pairs(
    student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Which map of the student goes with which of the teacher: last with last, as far as both go."""
    count = min(len(student_maps), len(teacher_maps))
    own, theirs = (
        student_maps[len(student_maps) - count :],
        teacher_maps[len(teacher_maps) - count :],
    )
    return [(full(s), full(t)) for s, t in zip(own, theirs, strict=True)]


def matched(
    student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """The same, with the larger map of each pair average-pooled to the smaller one's size."""
    return [same_size(s, t) for s, t in pairs(student_maps, teacher_maps)]


def too_few_maps(context: Context, at_least: int = 2) -> str | None:
    """Why a method that compares stages cannot run here, or None; the stem counts as a map."""
    found = len(context.student.features), len(context.teacher.features)
    if min(found) >= at_least:
        return None
    return (
        f"student and teacher must each have {at_least} feature maps or more (the stem is the first), "
        f"got {found[0]} and {found[1]}"
    )


def one_of(name: str, value: str, choices: Sequence[str]) -> str:
    """`value`, or ValueError where it is not among the choices of hyperparameter `name`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value


def direction(x: Tensor, dim: int = -1) -> Tensor:
    """x / |x|; where |x| is below 1e-12 it is 0, with no gradient (that of F.normalize is 1e12 there)."""
    squares = (x**2).sum(dim, keepdim=True)
    present = squares > EPS**2
    return torch.where(present, x, 0.0) / torch.where(present, squares, 1.0).sqrt()


def log_softmax_among(logits: Tensor, among: Tensor) -> Tensor:
    """log_softmax over the classes of the (B, C) mask `among` alone, 0 for the others."""
    lowest = torch.finfo(logits.dtype).min / 2
    total = torch.where(among, logits, lowest).logsumexp(-1, keepdim=True)
    return torch.where(among, logits - total, 0.0)


def kl_among_each(student_logits: Tensor, teacher_logits: Tensor, among: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) over the classes of the mask alone: (B,); 0 where it is empty."""
    log_p = log_softmax_among(teacher_logits, among)
    log_q = log_softmax_among(student_logits, among)
    return (torch.where(among, log_p.exp(), 0.0) * (log_p - log_q)).sum(-1)


def log_share(logits: Tensor, inside: Tensor) -> Tensor:
    """log of softmax(logits)'s mass on the mask's classes and of the rest: (B, 2), exact however small."""
    lowest = torch.finfo(logits.dtype).min / 2
    parts = [torch.where(mask, logits, lowest).logsumexp(-1) for mask in (inside, ~inside)]
    return torch.stack(parts, -1) - logits.logsumexp(-1, keepdim=True)


def ramp(progress: Tensor, warmup: Scalar) -> Tensor:
    """min(progress / warmup, 1); 1 throughout where warmup is 0."""
    rising = (progress / (warmup + (warmup == 0))).clamp(max=1)
    return torch.where(torch.as_tensor(warmup > 0), rising, 1.0)


def delta_congruence(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over i of sum_d |s - t|_{i, d} |s - t|_{i + 1, d}: rows in order; 0 for one row."""
    delta = (student - teacher).abs()
    return (delta[:-1] * delta[1:]).sum() / max(len(delta) - 1, 1)
