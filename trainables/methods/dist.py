"""Keep the teacher's ranking: correlate probabilities within each sample and within each class.

Huang, You, Wang, Qian, Xu. Knowledge Distillation from a Stronger Teacher. 2022. arXiv:2205.10536.

    p = softmax(z_s / T), q = softmax(z_t / T), both (B, C); r is Pearson's correlation
    L = lambda * CE + beta * T^2 * [ inter * (1 - mean_b r(p_b, q_b)) + intra * (1 - mean_c r(p_{.c}, q_{.c})) ]

r divides by |a| |b| + 1e-8, so that a constant row or column has r = 0.

Defaults: lambda 1, beta 2, inter 1 (the paper's beta), intra 1 (its gamma), T 4 on CIFAR-100; the paper takes T 1 on
ImageNet. alpha > 0 adds plain KD at `temperature`; `dist_temperature` then gives DIST a T of its own (the relational
sweep of Comparative KD: DIST at 1 beside KD at 4). With two classes r over a sample is 1 or -1 and teaches nothing.
`standardize` is LSKD (arXiv:2403.01427).
"""

from __future__ import annotations

from torch import Tensor

from trainables.contract import NON_NEGATIVE, POSITIVE, Batch, Logits, Method, Outputs, Scalar
from trainables.losses import cross_entropy, safe_norm, softened_kl, standardized

CORRELATION_EPS = 1e-8


def uncorrelated(a: Tensor, b: Tensor) -> Tensor:
    """1 - the mean over rows of Pearson's correlation of a's and b's rows."""
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return 1 - ((a * b).sum(-1) / (safe_norm(a) * safe_norm(b) + CORRELATION_EPS)).mean()


def loss(
    student: Outputs,
    target: Logits,
    batch: Batch,
    *,
    temperature: Scalar = 4.0,
    alpha: Scalar = 0.0,
    beta: Scalar = 2.0,
    lambda_: Scalar = 1.0,
    inter: Scalar = 1.0,
    intra: Scalar = 1.0,
    dist_temperature: Scalar | None = None,
    standardize: bool = False,
) -> dict[str, Tensor]:
    """Hard labels, plain KD, and the two relations."""
    s, t = student.logits, target.logits
    if standardize:
        s, t = standardized(s), standardized(t)
    own = temperature if dist_temperature is None else dist_temperature
    p, q = (s / own).softmax(-1), (t / own).softmax(-1)
    return {
        "ce": lambda_ * cross_entropy(student.logits, batch.labels, batch.smoothing),
        "kd": alpha * softened_kl(s, t, temperature),
        "dist_inter": beta * inter * own**2 * uncorrelated(p, q),
        "dist_intra": beta * intra * own**2 * uncorrelated(p.T, q.T),
    }


METHOD = Method(
    paper="arXiv:2205.10536",
    loss=loss,
    smooths=True,
    needs=frozenset({"batch"}),
    bounds={
        "inter": NON_NEGATIVE,
        "intra": NON_NEGATIVE,
        "dist_temperature": POSITIVE,
    },
)
