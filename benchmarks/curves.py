"""Made-up learning curves of distilled students, for trying whole searches in seconds.

    accuracy(x, e) = end(x) - GAP * decay(e / EPOCHS; rate(x)) + noise
    end(x)         = TOP - loss(x)
    decay(t; r)    = (exp(-r t) - exp(-r)) / (1 - exp(-r))            1 at the start, 0 at the end

x are the hyperparameters on their own scales, each in [0, 1]: log T, alpha, and in 4 dimensions log lr and log beta.
loss is a bowl around an optimum that every seed draws anew from the middle 60 % of each axis: a ridge over
(log T, alpha), which trade off against each other, narrow in log lr, wide in log beta. Its sizes are made up:

    loss(x) = 6 (dT + da)^2 + 1.5 (dT - da)^2 + 12 dlr^2 + 3 dbeta^2

parallel   every student learns at RATE
crossing   slow learners end higher: rate = RATE / (1 + SLOWER q), with q = exp(-loss / 2) the student's quality. Of 32
           random students, ranks half-way go with ranks at the end by a Spearman correlation of 0.3 in 2 and 0.7 in
           4 dimensions, and in every third or fourth such set the best at the end lies below the median half-way
           (60 seeds). That is much: it is there to see what early stopping loses where it is wrong.

Noise, Gaussian: one draw a student (SEED_SD, what another seed changes at the end of training) and one an epoch
(EPOCH_SD, how validation accuracy wanders from epoch to epoch). Both as measured on Fashion-MNIST, lenet5_half on 6,000
images (truth.py: the median of 64 settings).
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search_spaces import Domain

EPOCHS = 16
GRACE = 8  # as plan.py has it for 16 epochs
TOP = 90.0  # percent; the best that can be had
GAP = 20.0  # points between the start and the end of a training
RATE = 4.0
SLOWER = 3.0
SEED_SD = 0.45  # points
EPOCH_SD = 0.31  # points
SPACE = {
    "temperature": Domain("loguniform", 1, 20),
    "alpha": Domain("uniform", 0, 1),
    "lr": Domain("loguniform", 0.005, 0.5),
    "beta": Domain("loguniform", 0.1, 10),
}
PUBLISHED = {"temperature": 4.0, "alpha": 0.9, "lr": 0.05, "beta": 1.0}


@dataclass(frozen=True)
class World:
    """One made-up distillation: its dimensions, whether curves cross, and the seed of its optimum and its noise."""

    n_dimensions: int
    crossing: bool
    seed: int
    epochs = EPOCHS
    grace = GRACE

    @property
    def space(self) -> dict[str, Domain]:
        """What is searched."""
        return dict(list(SPACE.items())[: self.n_dimensions])

    @property
    def published(self) -> dict[str, float]:
        """The first trial."""
        return {name: PUBLISHED[name] for name in self.space}

    def loss(self, hyper: Mapping[str, Any]) -> float:
        """Points below the best, at the end and without noise: the regret of a setting."""
        draws = random.Random(f"optimum {self.seed}")
        away = [
            share(domain, hyper[name]) - draws.uniform(0.2, 0.8)
            for name, domain in self.space.items()
        ]
        bowl = 6 * (away[0] + away[1]) ** 2 + 1.5 * (away[0] - away[1]) ** 2
        return bowl + sum(w * d * d for w, d in zip((12, 3), away[2:], strict=False))

    def accuracy(self, hyper: Mapping[str, Any], number: int, epoch: int) -> float:
        """What student `number` reports after `epoch`, as a share."""
        lost = self.loss(hyper)
        rate = RATE / (1 + SLOWER * math.exp(-lost / 2)) if self.crossing else RATE
        decay = (math.exp(-rate * epoch / EPOCHS) - math.exp(-rate)) / (1 - math.exp(-rate))
        noise = random.Random(f"student {self.seed} {number}").gauss(0, SEED_SD)
        noise += random.Random(f"epoch {self.seed} {number} {epoch}").gauss(0, EPOCH_SD)
        return (TOP - lost - GAP * decay + noise) / 100


def share(domain: Domain, value: float) -> float:
    """Where a value lies on its domain's own scale, in [0, 1]."""
    if domain.word == "loguniform":
        return math.log(value / domain.low) / math.log(domain.high / domain.low)
    return (value - domain.low) / (domain.high - domain.low)
