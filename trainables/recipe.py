"""How a network is trained, whatever its loss: optimiser, learning-rate schedule, batch size, augmentation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from torch import nn

from trainables.data.views import PRESETS
from trainables.optimizers import SGD, Adam, AdamW, Optimizer

LEARNING_RATES = {"sgd": 0.05, "adam": 1e-3, "adamw": 1e-3}  # where none is given
OPTIMIZERS = tuple(LEARNING_RATES)
BELOW_1 = ("momentum", "warmup_fraction", "label_smoothing")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained, whatever its loss."""

    epochs: int = 16
    batch_size: int = 64
    optimizer: str = "sgd"  # of OPTIMIZERS; sgd is with Nesterov momentum
    lr: float = 0.05  # the peak
    momentum: float = 0.9  # of sgd
    weight_decay: float = 5e-4
    warmup_fraction: float = 0.1  # of all steps, linear; then a half cosine to 0
    augment: str = "none"
    label_smoothing: float = 0.0  # of the hard-label term, and of no other

    def changed(self, values: Mapping[str, Any]) -> Recipe:
        """This recipe with those of `values` that name its parts.

        Another optimiser comes with its own usual rate where neither `values` nor this recipe has chosen one.
        """
        known = {name: value for name, value in values.items() if name in RECIPE_KEYS}
        if self.lr == LEARNING_RATES[self.optimizer] and "optimizer" in known:
            known = {"lr": LEARNING_RATES[known["optimizer"]], **known}
        return replace(self, **known)


RECIPE_KEYS = tuple(part.name for part in fields(Recipe))
POSITIVE = ("epochs", "batch_size", "lr")


def check_recipe(name: str, value: Any) -> None:
    """Raise ValueError where `value` cannot be the part `name` of a recipe."""
    if name == "optimizer":
        if value not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {value!r}")
        return
    if name == "augment":
        if value not in PRESETS:
            raise ValueError(f"augment must be one of {', '.join(PRESETS)}, got {value!r}")
        return
    kind, word = (int, "whole") if name in ("epochs", "batch_size") else (int | float, "finite")
    if isinstance(value, bool) or not isinstance(value, kind) or not math.isfinite(value):
        raise ValueError(f"{name} must be a {word} number, got {value!r}")
    if value < 0 or (name in POSITIVE and value == 0):
        raise ValueError(
            f"{name} must be {'above 0' if name in POSITIVE else '0 or more'}, got {value!r}"
        )
    if name in BELOW_1 and value >= 1:
        raise ValueError(f"{name} must be below 1, got {value!r}")


def learning_rate(recipe: Recipe, progress: float) -> float:
    """The step's rate: linear warm-up, then a half cosine down to 0 at progress 1."""
    if progress < recipe.warmup_fraction:
        return recipe.lr * progress / recipe.warmup_fraction
    share = (progress - recipe.warmup_fraction) / (1 - recipe.warmup_fraction)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * share))


def make_optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> Optimizer:
    """The recipe's optimiser; its learning rate is set before every step."""
    common = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        return SGD(parameters, momentum=recipe.momentum, **common)
    return (Adam if recipe.optimizer == "adam" else AdamW)(parameters, **common)
