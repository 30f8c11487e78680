"""Match the distribution of the teacher's neurons' selectivity patterns, by maximum mean discrepancy.

Huang, Wang. Like What You Like: Knowledge Distill via Neuron Selectivity Transfer. 2017. arXiv:1707.01219, section 4.

    f = F_c / ||F_c||_2 over the positions of channel c
    own = sum_stages mean_b [ mean_{c,c'} k(t_c, t_c') + mean_{c,c'} k(s_c, s_c') - 2 mean_{c,c'} k(s_c, t_c') ]

    kernel = poly     k(a, b) = (a . b)^2
    kernel = linear   k(a, b) = a . b
    kernel = gauss    k(a, b) = exp(-||a - b||^2 / (2 sigma^2))

sigma^2 is the mean squared distance of a sample's student-teacher pairs, one for all three means (else the sum is no
discrepancy) and held constant in the gradient. Stages after activation, without the stem; the larger map is
average-pooled to the smaller one's size. beta = 50 is published for poly (RepDistiller, mdistiller) and linear, 100 for
gauss; the paper writes lambda / 2 for beta. The first mean has no gradient; the authors' code drops it, RepDistiller
keeps it for the value. A dead channel stays 0. Needs B * c_s * c_t (and B * c_s^2, B * c_t^2) numbers of memory.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trainables.contract import Batch, Context, Method, Outputs, Scalar
from trainables.losses import Maps, hard_and_soft, matched, one_of, stage_maps, too_few_maps, unit

KERNELS = ("poly", "linear", "gauss")
SMALLEST_BANDWIDTH = 1e-6  # of sigma^2, where all channels are alike

Kernel = Callable[[Tensor, Tensor], Tensor]  # (B, c, P), (B, c', P) -> (B,), the mean over c, c'


def poly(a: Tensor, b: Tensor) -> Tensor:
    """Mean of (a . b)^2 over all pairs."""
    return ((a @ b.mT) ** 2).mean((-2, -1))


def linear(a: Tensor, b: Tensor) -> Tensor:
    """Mean of a . b over all pairs, which is the product of the means."""
    return (a.mean(-2) * b.mean(-2)).sum(-1)


def gauss(bandwidth: Tensor) -> Kernel:
    """Mean of exp(-||a - b||^2 / (2 bandwidth)) over all pairs, for (B,) bandwidths sigma^2."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-squared_distances(a, b) / (2 * bandwidth[:, None, None])).exp().mean((-2, -1))

    return kernel


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(B, c, P), (B, c', P) -> (B, c, c')."""
    squares = (a**2).sum(-1)[..., :, None] + (b**2).sum(-1)[..., None, :]
    return (squares - 2 * (a @ b.mT)).clamp(min=0)


def mean_squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """(B, c, P), (B, c', P) -> (B,): the mean over c, c', from the means of either, without the pairs."""
    return (a**2).sum(-1).mean(-1) + (b**2).sum(-1).mean(-1) - 2 * linear(a, b)


def discrepancy(student_map: Tensor, teacher_map: Tensor, kernel: str) -> Tensor:
    """Squared maximum mean discrepancy of two (B, c, H, W) maps of one size, batch mean."""
    s, t = unit(student_map.flatten(2)), unit(teacher_map.flatten(2))
    k: Kernel = linear if one_of("kernel", kernel, KERNELS) == "linear" else poly
    if kernel == "gauss":
        k = gauss(mean_squared_distance(s.detach(), t).clamp(min=SMALLEST_BANDWIDTH))
    return (k(t, t) + k(s, s) - 2 * k(s, t)).mean()


def loss(
    student: Outputs,
    target: Maps,
    batch: Batch,
    *,
    beta: Scalar = 50.0,
    lambda_: Scalar = 1.0,
    alpha: Scalar = 0.0,
    temperature: Scalar = 4.0,
    kernel: str = "poly",
) -> dict[str, Tensor]:
    """CE, KD and the discrepancy, summed over stages."""
    stages = matched(student.features[1:], target.maps)
    gaps = [discrepancy(s, t, kernel) for s, t in stages]
    return {
        **hard_and_soft(student, target.logits, batch, lambda_, alpha, temperature),
        "nst": beta * torch.stack(gaps).sum(),
    }


def refuse(context: Context, **_: object) -> str | None:
    """Selectivity is compared stage by stage."""
    return too_few_maps(context)


METHOD = Method(
    paper="arXiv:1707.01219",
    loss=loss,
    smooths=True,
    target=stage_maps,
    needs=frozenset({"features", "teacher"}),
    refuse=refuse,
    choices={"kernel": KERNELS},
)
