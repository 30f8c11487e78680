"""Match, for each sample, how likely each other sample of the batch is as its neighbour.

Passalis, Tefas. Learning Deep Representations with Probabilistic Knowledge Transfer. 2018. arXiv:1803.10837.

    k_ij = (cos(e_i, e_j) + 1) / 2,   p_ij = k_ij / sum_j k_ij
    L = lambda * CE + alpha * T^2 KL + beta * mean_ij p^t_ij log((p^t_ij + 1e-7) / (p^s_ij + 1e-7))

The mean is over all B^2 pairs, i = j among them, and the cosine divides by |e| + 1e-7, as in the authors' code.

Defaults: lambda 1, alpha 0, beta 30000 (RepDistiller, mdistiller; 10000 in Knowledge-Distillation-Zoo). A sample whose
embedding is 0 is equally near to all others.
"""

from __future__ import annotations

from torch import Tensor

from trainables.contract import Batch, Embedded, Method, Outputs, Scalar, embedding_target
from trainables.losses import hard_and_soft, safe_norm

PKT_EPS = 1e-7


def neighbours(embedding: Tensor) -> Tensor:
    """(B, B) probabilities from (B, D); rows add up to 1."""
    scaled = embedding / (safe_norm(embedding, keepdim=True) + PKT_EPS)
    near = (scaled @ scaled.mT + 1) / 2
    return near / near.sum(-1, keepdim=True)


def loss(
    student: Outputs,
    target: Embedded,
    batch: Batch,
    *,
    temperature: Scalar = 4.0,
    alpha: Scalar = 0.0,
    beta: Scalar = 30000.0,
    lambda_: Scalar = 1.0,
) -> dict[str, Tensor]:
    """Hard labels, plain KD, and the neighbourhoods."""
    p, q = neighbours(target.embedding), neighbours(student.embedding)
    return {
        **hard_and_soft(student, target.logits, batch, lambda_, alpha, temperature),
        "pkt": beta * (p * ((p + PKT_EPS) / (q + PKT_EPS)).log()).mean(),
    }


METHOD = Method(
    paper="arXiv:1803.10837",
    loss=loss,
    smooths=True,
    target=embedding_target,
    needs=frozenset({"batch"}),
)
