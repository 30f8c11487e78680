"""AutoAttack, standard version (Croce, Hein 2020, arXiv:2003.01690), through the optional extra `autoattack`.

APGD on the cross-entropy, targeted APGD on DLR, targeted FAB and 5,000 queries of Square: hours on a CPU, so it is
for the final model, and sees only what still stands.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import Tensor, nn

from trainables.data.splits import Split
from trainables.evaluation.attacks import survives
from trainables.evaluation.predictions import batches_of, logits_of
from trainables.evaluation.threats import Threat
from trainables.seeding import seed_of, seeded

BATCH = 250
NORMS = {"linf": "Linf", "l2": "L2"}
TARGETS = 9  # classes that its targeted attacks go for, at most
FEWEST_CLASSES = 4  # targeted DLR divides by a gap that takes four logits


def check(n_classes: int) -> None:
    """Raise ValueError where AutoAttack is not installed, or where the classes are too few for it."""
    if importlib.util.find_spec("pyautoattack") is None:
        raise ValueError(
            "the tier full must have AutoAttack, got none: python -m pip install 'kdtune[autoattack]'"
        )
    if n_classes < FEWEST_CLASSES:
        raise ValueError(f"AutoAttack must have at least {FEWEST_CLASSES} classes, got {n_classes}")


def stands(
    model: nn.Module,
    data: Split,
    threat: Threat,
    before: Tensor,
    n_classes: int,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Which images (N,) of those in `before` (N,) stand AutoAttack as well; torch's own stream is left where it was."""
    from pyautoattack import AutoAttack

    attack = AutoAttack(
        lambda images: logits_of(model, images),
        device=device,
        eps=threat.epsilon,
        norm=NORMS[threat.norm],
        seed=seed_of(seed, "autoattack") % 2**31,
    )
    for targeted in (attack.apgd_targeted, attack.fab):
        targeted.n_target_classes = min(TARGETS, n_classes - 1)
    after = before.clone()
    for rows, images, labels in batches_of(data, before, BATCH, device):
        with seeded(seed, "autoattack"):
            found, _ = attack.run_standard_evaluation(images, labels, batch_size=BATCH)
        after[rows] = survives(model, found, labels).cpu()
    return after
