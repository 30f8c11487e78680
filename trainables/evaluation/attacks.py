"""L-infinity attacks in pixel space: images in [0, 1], epsilon in pixels, normalisation inside the model.

FGSM alone can call a student robust that is not: saturated logits (a high temperature makes them) have a
cross-entropy gradient of exactly zero. So a margin loss is attacked too, and the share of zero gradients reported.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.data.splits import Split
from trainables.data.views import to_float
from trainables.seeding import generator

STEPS = 10  # of the short PGD
N_IMAGES = 1000  # attacked at most
LossEach = Callable[[Tensor, Tensor], Tensor]  # (B, C), (B,) -> (B,), what an attack makes larger


def cross_entropy_each(logits: Tensor, labels: Tensor) -> Tensor:
    """CE of each image: (B,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin_each(logits: Tensor, labels: Tensor) -> Tensor:
    """The best wrong logit minus the right one, of each image: (B,); above 0 where it is fooled."""
    right = F.one_hot(labels, logits.shape[-1]).bool()
    return logits.masked_fill(right, -torch.inf).amax(-1) - (logits * right).sum(-1)


def input_gradient(model: nn.Module, images: Tensor, labels: Tensor, loss: LossEach) -> Tensor:
    """d loss_i / d image_i: the shape of `images`."""
    images = images.detach().requires_grad_()
    value = loss(model(images).logits.float(), labels).sum()
    return torch.autograd.grad(value, images)[0]


def fgsm(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    loss: LossEach = cross_entropy_each,
) -> Tensor:
    """One signed step of size epsilon, clamped to [0, 1] (Goodfellow et al. 2015, arXiv:1412.6572)."""
    step = epsilon * input_gradient(model, images, labels, loss).sign()
    return (images + step).clamp(0, 1)


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    draws: torch.Generator,
    steps: int = STEPS,
    loss: LossEach = margin_each,
) -> Tensor:
    """Signed steps of 2.5 epsilon / steps from a random start, projected (Madry et al. 2018, arXiv:1706.06083)."""
    low, high = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)
    noise = torch.rand(images.shape, generator=draws, device="cpu").to(images.device)
    found = low + noise * (high - low)
    for _ in range(steps):
        step = 2.5 * epsilon / steps * input_gradient(model, found, labels, loss).sign()
        found = torch.minimum(torch.maximum(found + step, low), high)
    return found


def robustness(
    model: nn.Module, data: Split, epsilon: float, device: torch.device | str = "cpu", seed: int = 0
) -> dict[str, float]:
    """Accuracy under FGSM and a short PGD, counting clean mistakes as failures, and the zero-gradient share.

    On a fixed, seeded subset of at most N_IMAGES. `fgsm` attacks the cross-entropy, `pgd_margin` the margin; `worst`
    counts an image only where it survives both. `zero_gradients` is the share of images whose cross-entropy gradient
    is exactly 0 in every pixel: above 1 % `fgsm` says nothing.
    """
    model.eval()
    rows = torch.randperm(len(data.labels), generator=generator(seed, "attacked"))[:N_IMAGES]
    draws = generator(seed, "attack")
    counts = dict.fromkeys(("fgsm", "pgd_margin", "worst", "zero_gradients"), 0)
    for part in rows.split(250):
        images, labels = to_float(data.images[part]).to(device), data.labels[part].to(device)
        clean = survives(model, images, labels)
        by_fgsm = clean & survives(model, fgsm(model, images, labels, epsilon), labels)
        by_pgd = clean & survives(model, pgd(model, images, labels, epsilon, draws), labels)
        gradient = input_gradient(model, images, labels, cross_entropy_each)
        counts["fgsm"] += int(by_fgsm.sum())
        counts["pgd_margin"] += int(by_pgd.sum())
        counts["worst"] += int((by_fgsm & by_pgd).sum())
        counts["zero_gradients"] += int((gradient.flatten(1) == 0).all(1).sum())
    return {name: count / len(rows) for name, count in counts.items()}


@torch.no_grad()
def survives(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Whether each image is classified right: (B,) bool; NaN logits count as wrong."""
    logits = model(images).logits
    return (logits.argmax(-1) == labels) & torch.isfinite(logits).all(-1)
