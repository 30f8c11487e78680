"""Keep the shape of the batch: distances between pairs of embeddings and angles between triples.

Park, Kim, Lu, Cho. Relational Knowledge Distillation. 2019. arXiv:1904.05068.

    d_ij = |e_i - e_j| / mean of all distances between different samples
    a_ijk = cos of the angle at e_i between e_j and e_k
    L = lambda * CE + alpha * T^2 KL + beta * [ distance * mean_ij h(d^s, d^t) + angle * mean_ijk h(a^s, a^t) ]

h is the smooth L1 (Huber) loss at 1; the means are over all B^2 pairs and B^3 triples, i = j among them.

Defaults: lambda 1, alpha 0, beta 1, distance 25, angle 50, on the embedding (RepDistiller). The original's metric
learning takes 1 and 2. `source: logits` compares logits instead (the relational sweep of Comparative KD, with alpha 1).

Samples with the same embedding have distance 1e-6 and angles 0, without a gradient. The angles take B^2 * D numbers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.contract import (
    NON_NEGATIVE,
    Batch,
    Embedded,
    Method,
    Outputs,
    Scalar,
    embedding_target,
)
from trainables.losses import EPS, direction, hard_and_soft, one_of

SOURCES = ("embedding", "logits")


def distances(differences: Tensor) -> Tensor:
    """(B, B) distances in units of their mean over different samples, from (B, B, D); all 0 for one sample."""
    n = differences.shape[0]
    different = ~torch.eye(n, dtype=torch.bool, device=differences.device)
    raw = (differences**2).sum(-1).clamp(min=EPS).sqrt() * different
    return raw / (raw.sum() / max(n * (n - 1), 1)).clamp(min=EPS)


def angles(differences: Tensor) -> Tensor:
    """(B, B, B) cosines: [i, j, k] between the directions from i to j and from i to k."""
    towards = direction(differences)
    return towards @ towards.mT


def loss(
    student: Outputs,
    target: Embedded,
    batch: Batch,
    *,
    temperature: Scalar = 4.0,
    alpha: Scalar = 0.0,
    beta: Scalar = 1.0,
    lambda_: Scalar = 1.0,
    distance: Scalar = 25.0,
    angle: Scalar = 50.0,
    source: str = "embedding",
) -> dict[str, Tensor]:
    """Hard labels, plain KD, and the two relations."""
    own, theirs = (student.embedding, target.embedding)
    if one_of("source", source, SOURCES) == "logits":
        own, theirs = student.logits, target.logits
    s, t = own.unsqueeze(0) - own.unsqueeze(1), theirs.unsqueeze(0) - theirs.unsqueeze(1)
    return {
        **hard_and_soft(student, target.logits, batch, lambda_, alpha, temperature),
        "rkd_distance": beta * distance * F.smooth_l1_loss(distances(s), distances(t)),
        "rkd_angle": beta * angle * F.smooth_l1_loss(angles(s), angles(t)),
    }


METHOD = Method(
    paper="arXiv:1904.05068",
    loss=loss,
    smooths=True,
    target=embedding_target,
    needs=frozenset({"batch"}),
    bounds={"distance": NON_NEGATIVE, "angle": NON_NEGATIVE},
    choices={"source": SOURCES},
)
