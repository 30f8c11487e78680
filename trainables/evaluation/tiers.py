"""How much is measured of a network: three tiers, by what they cost.

Why these attacks: on 500 test images of Fashion-MNIST and an undefended half LeNet-5, PGD-20 on three losses and then
on the three likeliest wrong classes left 47.4 % standing at 0.025 and 10.0 % at 0.05. PGD-50 from five starts and on
nine classes left 47.0 % and 9.0 % at eight times the cost; further starts alone found next to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainables.evaluation.sanity import CURVE, SHORT_CURVE
from trainables.evaluation.threats import Threat
from trainables.evaluation.worst_case import Budget


@dataclass(frozen=True)
class Tier:
    """How much is measured."""

    summary: str
    budget: Budget
    n_attacked: int | None = None  # a fixed, seeded subset; all where None
    curve: tuple[Threat, ...] = CURVE  # radii of the sanity check
    corruptions: bool = False
    n_transferred: int = 0  # images that examples of the teacher and of other networks are tried on
    autoattack: bool = False


TIERS = {
    "quick": Tier(
        "for each finished trial, on validation: PGD-10 on two losses, then on 3 classes each, 1000 images at most",
        Budget(10, ("ce", "margin"), targets=3),
        n_attacked=1000,
        curve=SHORT_CURVE,
    ),
    "standard": Tier(
        "for finalists, baselines and teacher, on test: PGD-20 on three losses, then on 3 classes each; corruptions",
        Budget(20, ("ce", "margin"), ("dlr",), targets=3),
        corruptions=True,
        n_transferred=1000,
    ),
    "full": Tier(
        "for the champion, on test: PGD-50 on three losses from 5 starts and on 9 classes, then AutoAttack",
        Budget(50, ("ce", "margin", "dlr"), targets=9, restarts=5),
        corruptions=True,
        n_transferred=1000,
        autoattack=True,
    ),
}
