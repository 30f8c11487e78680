"""Attacks on images in [0, 1], radius in pixels, normalisation inside the model.

FGSM alone can call a student robust that is not: saturated logits (a high temperature makes them) have a
cross-entropy gradient of exactly zero. So the margin and the DLR loss are attacked too, and the share of zero
gradients is counted beside them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.evaluation.predictions import logits_of, right
from trainables.evaluation.threats import Threat, climb, start, uniform

STEPS = 10  # of the short PGD
TINY = 1e-12  # keeps DLR finite where the largest and the third largest logit are equal
LossEach = Callable[[Tensor, Tensor], Tensor]  # (B, C), (B,) -> (B,), what an attack makes larger


def cross_entropy_each(logits: Tensor, labels: Tensor) -> Tensor:
    """CE of each image: (B,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def margin_each(logits: Tensor, labels: Tensor) -> Tensor:
    """The best wrong logit minus the right one, of each image: (B,); above 0 where it is fooled."""
    chosen = F.one_hot(labels, logits.shape[-1]).bool()
    return logits.masked_fill(chosen, -torch.inf).amax(-1) - (logits * chosen).sum(-1)


def dlr_each(logits: Tensor, labels: Tensor) -> Tensor:
    """The difference of logits ratio: the margin over the gap between the largest and the third largest logit, (B,).

    Croce, Hein 2020, arXiv:2003.01690, section 4: whatever the logits' scale, the loss is the same. It needs three
    classes at least; raises ValueError below.
    """
    if logits.shape[-1] < 3:
        raise ValueError(f"DLR must have at least 3 classes, got {logits.shape[-1]}")
    best = logits.topk(3, -1).values
    return margin_each(logits, labels) / (best[:, 0] - best[:, 2] + TINY)


def targeted_margin_each(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """The logit of a wrong class of one's choice minus the right one, of each image: (B,)."""
    pair = logits.gather(-1, torch.stack([targets, labels], -1))
    return pair[:, 0] - pair[:, 1]


LOSSES: dict[str, LossEach] = {
    "ce": cross_entropy_each,
    "margin": margin_each,
    "dlr": dlr_each,
}


def losses_for(n_classes: int) -> dict[str, LossEach]:
    """The losses that can be attacked: all from three classes, no DLR with two; raises ValueError below."""
    if n_classes < 2:
        raise ValueError(f"attacked models must tell at least 2 classes apart, got {n_classes}")
    return {name: loss for name, loss in LOSSES.items() if name != "dlr" or n_classes > 2}


def look(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    loss: LossEach,
    targets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The logits, and d loss_i / d image_i in the shape of `images`; what is not a number in it becomes 0.

    With `targets` the loss is their margin.
    """
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = logits_of(model, images)
        each = (
            loss(logits, labels)
            if targets is None
            else targeted_margin_each(logits, labels, targets)
        )
        gradient = torch.autograd.grad(each.sum(), images)[0]
    return logits.detach(), gradient.nan_to_num()


def input_gradient(model: nn.Module, images: Tensor, labels: Tensor, loss: LossEach) -> Tensor:
    """d loss_i / d image_i: the shape of `images`."""
    return look(model, images, labels, loss)[1]


def sign_noise(threat: Threat, images: Tensor, draws: torch.Generator) -> Tensor:
    """Images after a random step as long as FGSM's: what the radius does without any attack."""
    step = (uniform(images, draws) < 0.5).to(images) * 2 - 1
    return climb(threat, images, images, step, threat.epsilon)


def fgsm(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    loss: LossEach = cross_entropy_each,
) -> Tensor:
    """One step of the whole radius, clamped to [0, 1] (Goodfellow et al. 2015, arXiv:1412.6572).

    In L2 the step goes along the gradient, not along its sign.
    """
    gradient = input_gradient(model, images, labels, loss)
    return climb(threat, images, images, gradient, threat.epsilon)


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    threat: Threat,
    draws: torch.Generator | None,
    *,
    loss: LossEach = margin_each,
    targets: Tensor | None = None,
    steps: int = STEPS,
    stop_when_fooled: bool = True,
) -> Tensor:
    """Steps up the loss from a random start, kept within the threat (Madry et al. 2018, arXiv:1706.06083).

    Untargeted steps are all 2.5 epsilon / steps long. With `targets` (B,) the margin to that class is climbed, in
    steps that shrink from 2 epsilon to 0 in a straight line (after Gowal et al. 2019, arXiv:1910.09338). An image is
    left as it is from the moment that it fools the model, unless the examples are meant for another one. Without
    `draws` the climb starts at the image itself (Kurakin et al. 2017, arXiv:1607.02533).
    """
    found = images.clone() if draws is None else start(threat, images, draws)
    standing = torch.arange(len(labels), device=images.device)
    for step in range(steps):
        aimed = None if targets is None else targets[standing]
        logits, gradient = look(model, found[standing], labels[standing], loss, aimed)
        if stop_when_fooled:
            still = right(logits, labels[standing])
            standing, gradient = standing[still], gradient[still]
            if not len(standing):
                break
        size = 2.5 / steps if targets is None else 2 * (1 - step / steps)
        found[standing] = climb(
            threat, images[standing], found[standing], gradient, size * threat.epsilon
        )
    return found


@torch.no_grad()
def wrong_class(model: nn.Module, images: Tensor, labels: Tensor, place: int) -> Tensor:
    """The class that comes in at `place` (0 first) among the wrong ones, of each image: (B,)."""
    logits = logits_of(model, images)
    chosen = F.one_hot(labels, logits.shape[-1]).bool()
    return logits.masked_fill(chosen, -torch.inf).argsort(-1, descending=True)[:, place]


@torch.no_grad()
def survives(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Whether each image is classified right: (B,) bool; NaN logits count as wrong."""
    return right(logits_of(model, images), labels)


def flat(gradient: Tensor) -> Tensor:
    """Whether each image's gradient is exactly 0 in every pixel: (B,) bool."""
    return (gradient.flatten(1) == 0).all(1)
