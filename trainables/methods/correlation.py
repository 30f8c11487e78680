"""Make the student's relations between samples those of the teacher (Correlation Congruence).

Peng, Jin, Liu, Zhou, Wu, Liu, Zhang, Zhou. Correlation Congruence for Knowledge Distillation. 2019. arXiv:1904.01802.

Two published forms share the name; `variant` chooses.

    delta   D = |W_s e_s + b_s - (W_t e_t + b_t)|, (B, 128);   L_own = mean_{i < B} sum_d D_i D_{i+1}
            The authors' code as RepDistiller has it: consecutive samples of the batch, so their order matters. Both
            linear maps are trained.
    rbf     K_ij = exp(-2 gamma) sum_{p <= degree} (2 gamma)^p / p! cos(e_i, e_j)^p;   L_own = mean_ij (K_s - K_t)^2
            The paper's Gaussian kernel by its Taylor series, as in Knowledge-Distillation-Zoo; nothing is trained.

    L = lambda * CE + alpha * T^2 KL + beta * L_own

Defaults: lambda 1, alpha 0, delta, beta 0.02 (RepDistiller). For rbf the published betas are 100 (Zoo) and 0.003
(torchdistill, ImageNet), gamma 0.4, degree 2. torchdistill calls this CCKD; cckd_l and its kin are another method.

Nothing keeps the trained maps of delta from making both embeddings constant; then its term is 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainables.contract import (
    AT_LEAST_1,
    NON_NEGATIVE,
    POSITIVE,
    Batch,
    Context,
    Embedded,
    Method,
    Outputs,
    Scalar,
    embedding_target,
)
from trainables.losses import delta_congruence, direction, hard_and_soft, one_of

VARIANTS = ("delta", "rbf")


class Adapted(NamedTuple):
    """Both embeddings in one space."""

    student: Tensor  # (B, embedding_size)
    teacher: Tensor


class Embed(nn.Module):
    """A linear map each for the student's and the teacher's embedding."""

    def __init__(self, student_size: int, teacher_size: int, size: int) -> None:
        super().__init__()
        self.student = nn.Linear(student_size, size)
        self.teacher = nn.Linear(teacher_size, size)

    def forward(self, student: Outputs, target: Embedded, batch: Batch) -> Adapted:
        """Both embeddings, mapped."""
        return Adapted(self.student(student.embedding), self.teacher(target.embedding))


def adapter(context: Context, *, variant: str = "delta", embedding_size: int = 128) -> Embed | None:
    """The maps of `delta`; none for `rbf`."""
    if one_of("variant", variant, VARIANTS) == "rbf":
        return None
    sizes = context.student.embedding.shape[-1], context.teacher.embedding.shape[-1]
    return Embed(*sizes, embedding_size)


def kernel(embedding: Tensor, gamma: Scalar, degree: int) -> Tensor:
    """The (B, B) Taylor series of the Gaussian kernel on unit vectors."""
    e = direction(embedding)
    cosine = e @ e.mT
    powers = [(2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(degree + 1)]
    return math.e ** (-2 * gamma) * torch.stack(powers).sum(0)


def loss(
    student: Outputs,
    target: Embedded,
    batch: Batch,
    *,
    temperature: Scalar = 4.0,
    alpha: Scalar = 0.0,
    beta: Scalar = 0.02,
    lambda_: Scalar = 1.0,
    variant: str = "delta",
    gamma: Scalar = 0.4,
    degree: int = 2,
) -> dict[str, Tensor]:
    """Hard labels, plain KD, and the congruence."""
    if one_of("variant", variant, VARIANTS) == "delta":
        own = delta_congruence(student.adapted.student, student.adapted.teacher)
    else:
        s, t = student.embedding, target.embedding
        own = ((kernel(s, gamma, degree) - kernel(t, gamma, degree)) ** 2).mean()
    return {
        **hard_and_soft(student, target.logits, batch, lambda_, alpha, temperature),
        "correlation": beta * own,
    }


METHOD = Method(
    paper="arXiv:1904.01802",
    loss=loss,
    smooths=True,
    target=embedding_target,
    adapter=adapter,
    needs=frozenset({"batch"}),
    bounds={"gamma": POSITIVE, "degree": NON_NEGATIVE, "embedding_size": AT_LEAST_1},
    choices={"variant": VARIANTS},
    exceptions={"order": "the published delta form multiplies consecutive samples"},
)
