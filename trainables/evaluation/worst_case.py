"""How many images stand whatever is tried on them: the worst case an image, over losses, restarts and targets.

Attacks run from cheap to dear, the dear ones on what still stands. An image that has fallen within a smaller radius
has fallen within a larger one of the same norm, so radii are gone through from the smallest and `worst` cannot rise.
Each plain PGD is run once on all images that are classified right, so that the losses can be compared with each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainables.data.splits import Split
from trainables.data.views import to_float
from trainables.evaluation.attacks import (
    fgsm,
    losses_for,
    pgd,
    sign_noise,
    survives,
    wrong_class,
)
from trainables.evaluation.predictions import batches_of
from trainables.evaluation.quality import wilson
from trainables.evaluation.threats import Threat
from trainables.seeding import generator

BATCH = 250  # images at a time: with gradients, a LeNet's maps of so many stay in a core's cache
Attack = Callable[[Tensor, Tensor], Tensor]  # images, labels -> images within the threat


class Budget(NamedTuple):
    """How hard each image is attacked."""

    steps: int  # of each PGD
    alone: tuple[str, ...]  # of attacks.LOSSES, tried on all images that are classified right
    then: tuple[str, ...] = ()  # losses for what still stands; with two classes DLR is left out
    targets: int = 0  # likeliest wrong classes that multi-targeted PGD goes for, one after another
    restarts: int = 1  # of every loss; those after the first for what still stands


class Stand(NamedTuple):
    """What each image stands: (N,) bool each, False where the clean image is misread already."""

    clean: Tensor
    alone: dict[str, Tensor]  # noise, fgsm, pgd_ce ...: each on all that is classified right
    gradients: Tensor  # whatever follows the model's own gradient, within smaller radii too
    worst: Tensor  # noise as well

    def metrics(self) -> dict[str, float]:
        """Accuracies, by attack; `worst` with its 95 % interval (Wilson) and the count `n` of images attacked.

        `only_noise` is the share of images that fall to random signs and to no gradient.
        """
        shares = {"clean": self.clean, **self.alone, "worst": self.worst}
        shares["only_noise"] = self.gradients & ~self.worst
        low, high = wilson(int(self.worst.sum()), len(self.worst))
        interval = {"worst_low": low, "worst_high": high, "n": float(len(self.worst))}
        return {name: part.double().mean().item() for name, part in shares.items()} | interval


def stand(
    model: nn.Module,
    data: Split,
    threat: Threat,
    budget: Budget,
    n_classes: int,
    *,
    before: Tensor | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    workers: int = 1,
    tell: Callable[[float], None] = lambda share: None,
) -> Stand:
    """Attack every image of `data` within one threat; the network is in eval mode already.

    `before` (N,) tells what stood a smaller radius of the same norm. Batches are attacked by `workers` threads at
    once, each with draws of its own, so their number changes no result. `tell` hears how much is done, in [0, 1].
    """

    def attacked(number: int, rows: Tensor) -> Stand:
        images, labels = to_float(data.images[rows]).to(device), data.labels[rows].to(device)
        draws = generator(seed, f"attack {threat.name}", number)
        alone, further = own_attacks(model, threat, budget, n_classes, draws)
        earlier = torch.ones_like(labels, dtype=torch.bool) if before is None else before[rows]
        return _batch(model, images, labels, earlier.to(device), alone, further)

    parts: list[Stand] = []
    batches = torch.arange(len(data.labels)).split(BATCH)
    with ThreadPoolExecutor(workers) as pool:
        for part in pool.map(attacked, range(len(batches)), batches):
            parts.append(part)
            tell(len(parts) / len(batches))
    return _joined(parts)


def own_attacks(
    model: nn.Module, threat: Threat, budget: Budget, n_classes: int, draws: torch.Generator
) -> tuple[dict[str, Attack], list[Attack]]:
    """What is measured alone (noise, FGSM, PGD on each loss), and what then follows on all that stands."""
    climb = partial(pgd, model, threat=threat, draws=draws, steps=budget.steps)
    known = losses_for(n_classes)
    first = {
        f"pgd_{name}": partial(climb, loss=known[name]) for name in budget.alone if name in known
    }
    later = [partial(climb, loss=known[name]) for name in budget.then if name in known]

    def noisy(images: Tensor, _: Tensor) -> Tensor:
        return sign_noise(threat, images, draws)

    def aimed(place: int, images: Tensor, labels: Tensor) -> Tensor:
        return climb(images, labels, targets=wrong_class(model, images, labels, place))

    targeted = [partial(aimed, place) for place in range(min(budget.targets, n_classes - 1))]
    restarts = [*first.values(), *later] * (budget.restarts - 1)
    alone: dict[str, Attack] = {"noise": noisy, "fgsm": partial(fgsm, model, threat=threat)}
    return {**alone, **first}, [*targeted, *later, *restarts]


def only_transferred(
    model: nn.Module,
    other: nn.Module,
    data: Split,
    stands: Tensor,
    threat: Threat,
    steps: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> float:
    """The share of all images that fall to examples made on another network, among those that stand (N,) so far.

    PGD on the other's margin, every step made whether it is fooled or not.
    """
    fallen = 0
    for number, (_, images, labels) in enumerate(batches_of(data, stands, BATCH, device)):
        draws = generator(seed, f"transfer {threat.name}", number)
        found = pgd(other, images, labels, threat, draws, steps=steps, stop_when_fooled=False)
        fallen += int((~survives(model, found, labels)).sum())
    return fallen / len(stands)


def _batch(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    before: Tensor,
    alone: Mapping[str, Attack],
    further: list[Attack],
) -> Stand:
    def left(among: Tensor, attack: Attack) -> Tensor:
        """`among` without the images that fall."""
        rows = among.nonzero()[:, 0]
        stands = among.clone()
        if len(rows):
            stands[rows] = survives(model, attack(images[rows], labels[rows]), labels[rows])
        return stands

    clean = survives(model, images, labels)
    singly = {name: left(clean, attack) for name, attack in alone.items()}
    gradients = torch.stack([before, *(singly[name] for name in singly if name != "noise")]).all(0)
    for attack in further:
        gradients = left(gradients, attack)
    return Stand(clean, singly, gradients, gradients & singly["noise"])


def _joined(parts: list[Stand]) -> Stand:
    alone = {name: torch.cat([p.alone[name] for p in parts]).cpu() for name in parts[0].alone}
    clean, gradients, worst = (
        torch.cat([getattr(p, name) for p in parts]).cpu()
        for name in ("clean", "gradients", "worst")
    )
    return Stand(clean, alone, gradients, worst)
