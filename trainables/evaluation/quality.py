"""How good the probabilities are, and how much a student says what its teacher says: pure functions of logits.

Everything is over a whole split at once. Logits that are not finite make NLL, Brier score and calibration errors NaN;
they count as wrong answers wherever answers are counted.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.evaluation.predictions import right

BINS = 15  # of the calibration errors, as Guo et al. 2017 (arXiv:1706.04599) take them
Z_95 = 1.959964  # the normal's 97.5 % quantile


def nll(logits: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood, in nats."""
    return F.cross_entropy(logits.double(), labels).item()


def brier(logits: Tensor, labels: Tensor) -> float:
    """Mean squared distance of the probabilities from the label's corner, summed over classes: in [0, 2]."""
    wanted = F.one_hot(labels, logits.shape[-1])
    return (logits.double().softmax(-1) - wanted).square().sum(-1).mean().item()


def ece(logits: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Expected calibration error of the top class: |confidence - accuracy| over bins of equal width, by their share.

    Bins are (low, high]; an empty one counts nothing.
    """
    confidence, hit = _top(logits, labels)
    edges = torch.linspace(0, 1, bins + 1, dtype=confidence.dtype)[1:-1]
    return _gap(confidence, hit, torch.bucketize(confidence, edges), bins)


def adaptive_ece(logits: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """The same over bins of equal counts, in the order of confidence (Nguyen, O'Connor 2015, arXiv:1508.05154).

    Ties in confidence stay in the order of the images; fewer images than bins make one bin an image.
    """
    confidence, hit = _top(logits, labels)
    order = confidence.argsort(stable=True)
    bins = min(bins, len(labels))
    place = torch.arange(len(labels)) * bins // max(len(labels), 1)
    return _gap(confidence[order], hit[order], place, bins)


def calibration(
    logits: Tensor, labels: Tensor, temperature: float | None = None
) -> dict[str, float]:
    """All four by name, and with a `temperature` (fitted on validation) those of logits / temperature as `…_scaled`."""
    measures = {"nll": nll, "brier": brier, "ece": ece, "adaptive_ece": adaptive_ece}
    found = {name: measure(logits, labels) for name, measure in measures.items()}
    if temperature is None:
        return found
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be above 0 and finite, got {temperature}")
    scaled = {
        f"{k}_scaled": measure(logits / temperature, labels) for k, measure in measures.items()
    }
    return {**found, **scaled, "temperature": temperature}


def agreement(student: Tensor, teacher: Tensor, labels: Tensor) -> dict[str, float]:
    """How far a student's answers are its teacher's, from both their logits (N, C).

    `top1` is the share of equal answers, `kl` the mean KL(teacher || student) at temperature 1, in nats (Stanton et
    al. 2021, arXiv:2106.05945). `eta_s` is the share of the teacher's mistakes that the student repairs, `eta_f` the
    share of its right answers that the student loses (CCKD, arXiv:2006.01683), over the whole split, with the counts
    that they are made of. A share of nothing is left out: a teacher without mistakes has no `eta_s`.
    """
    student, teacher = student.double(), teacher.double()
    knows, learnt = right(teacher, labels), right(student, labels)
    counts = {
        "teacher_wrong": int((~knows).sum()),
        "repaired": int((~knows & learnt).sum()),
        "teacher_right": int(knows.sum()),
        "lost": int((knows & ~learnt).sum()),
    }
    told, said = teacher.log_softmax(-1), student.log_softmax(-1)
    found = {
        "top1": (student.argmax(-1) == teacher.argmax(-1)).double().mean().item(),
        "kl": (told.exp() * (told - said)).sum(-1).mean().item(),
        **{name: float(count) for name, count in counts.items()},
    }
    if counts["teacher_wrong"]:
        found["eta_s"] = counts["repaired"] / counts["teacher_wrong"]
    if counts["teacher_right"]:
        found["eta_f"] = counts["lost"] / counts["teacher_right"]
    return found


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927); (0, 1) of nothing."""
    if n == 0:
        return 0.0, 1.0
    share, spread = successes / n, Z_95**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def _top(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence in the answer and whether it is right: (N,) each, float64."""
    return logits.double().softmax(-1).amax(-1), right(logits, labels).double()


def _gap(confidence: Tensor, hit: Tensor, place: Tensor, bins: int) -> float:
    """Sum over bins of |sum of confidence - hits| / N."""
    difference = torch.zeros(bins, dtype=torch.float64)
    difference.index_add_(0, place, confidence - hit)
    return (difference.abs().sum() / max(len(hit), 1)).item()
