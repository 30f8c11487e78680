"""Show the student a mixture of images, and ask for the mixture of their labels and of the teacher's answers.

Mixing: Zhang, Cisse, Dauphin, Lopez-Paz. mixup: Beyond Empirical Risk Minimization. 2017. arXiv:1710.09412. As a
baseline of distillation, for two and for three images: Wilf, Xu, Liang, Obolenskiy, Fried, Morency. Comparative
Knowledge Distillation. 2023. arXiv:2311.02253 (`mixup`, `mixup3` in its code).

    x = sum_k w_k x_k,   w from Beta(concentration, concentration)
    L = lambda * sum_k w_k CE(y_k, z_s(x)) + beta * sum_k w_k D(z_t(x_k), z_s(x))

`loss: ce` takes D = H(softmax(z_t), softmax(z_s)), at temperature 1; `loss: kl` takes D = T^2 KL at T. With
`teacher_view: single` the teacher sees the images alone, as in that baseline, which asks it once an image; with
`mixed` it sees x itself, and the sum over k becomes D(z_t(x), z_s(x)).

Defaults: lambda 1 (w_cls), beta 1 (w_rel), T 4, concentration 1, two images. For three, the weights are independent
draws divided by their sum. `standardize` (LSKD, arXiv:2403.01427) acts inside D.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from trainables.contract import POSITIVE, Batch, Inputs, Logits, Method, Outputs, Scalar
from trainables.losses import kl_each, one_of, smoothed, soft_cross_entropy_each, standardized

LOSSES = ("ce", "kl")
VIEWS = ("single", "mixed")


def inputs(
    *, sources: int = 2, teacher_view: str = "single", concentration: Scalar = 1.0
) -> Inputs:
    """`sources` images a sample, mixed into one; one pass of the student."""
    mixed = one_of("teacher_view", teacher_view, VIEWS) == "mixed"
    return Inputs(
        blocks=sources,
        mix=True,
        concentration=float(concentration),
        teacher_sees_mix=mixed,
        strong=(False,) * sources,
    )


def distance_each(s: Tensor, t: Tensor, temperature: Scalar, loss: str) -> Tensor:
    """D(z_t, z_s), one value a row: (...,)."""
    if one_of("loss", loss, LOSSES) == "ce":
        return soft_cross_entropy_each(s, t.softmax(-1))
    return temperature**2 * kl_each(s, t, temperature)


def loss(
    student: Outputs,
    target: Logits,
    batch: Batch,
    *,
    temperature: Scalar = 4.0,
    beta: Scalar = 1.0,
    lambda_: Scalar = 1.0,
    sources: int = 2,
    teacher_view: str = "single",
    loss: str = "ce",
    standardize: bool = False,
) -> dict[str, Tensor]:
    """The mixed hard labels, and the mixed teacher."""
    if batch.weights is None:
        raise ValueError("batch.weights must hold the mixing weights, got None")
    s, t = student.logits, target.logits
    if standardize:
        s, t = standardized(s), standardized(t)
    weights = batch.weights.unsqueeze(-1)  # (sources, 1)
    labels = F.one_hot(batch.labels.reshape(sources, -1), s.shape[-1])  # (sources, B, C)
    wanted = smoothed((weights.unsqueeze(-1) * labels).sum(0), batch.smoothing)
    if one_of("teacher_view", teacher_view, VIEWS) == "mixed":
        each = distance_each(s, t, temperature, loss)
    else:
        blocks = t.reshape(sources, *s.shape)
        each = (weights * distance_each(s, blocks, temperature, loss)).sum(0)
    return {
        "ce": lambda_ * soft_cross_entropy_each(student.logits, wanted).mean(),
        "mixup": beta * each.mean(),
    }


METHOD = Method(
    paper="arXiv:2311.02253",
    loss=loss,
    smooths=True,
    inputs=inputs,
    bounds={"concentration": POSITIVE},
    choices={"sources": (2, 3), "teacher_view": VIEWS, "loss": LOSSES},
)
