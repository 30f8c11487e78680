"""What a search asks of a student beside accuracy and loss, measured once, after its last epoch, on validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from trainables.data.splits import Split
from trainables.evaluation import sanity
from trainables.evaluation.predictions import judged, predict, sample
from trainables.evaluation.quality import ece
from trainables.evaluation.robust import robust_numbers
from trainables.evaluation.threats import linf
from trainables.evaluation.tiers import TIERS
from trainables.models.normalized import latency_ms

ATTACKED = TIERS["quick"]


@dataclass(frozen=True)
class Asked:
    """What is to be measured, by the names of `MEASURES`."""

    names: tuple[str, ...] = ()
    epsilon: float = 0.0  # of the attacks: L-infinity, in pixels of [0, 1]
    seed: int = 0  # of the attacks: the same for all students of a search


NOTHING = Asked()


def measure(
    asked: Asked, model: nn.Module, val: Split, device: torch.device | str
) -> dict[str, float]:
    """The numbers that are asked for; the network is left as it was. NaN where the network's logits are not finite."""
    val = Split(val.images, val.labels.cpu())  # as the logits that they are compared with
    found: dict[str, float] = {}
    for name in asked.names:
        found |= MEASURES[name](asked, model, val, device)
    return found


def _calibration(
    asked: Asked, model: nn.Module, val: Split, device: torch.device | str
) -> dict[str, float]:
    """The calibration error as it is, without a temperature."""
    with judged(model):
        logits = predict(model, val.images, device)
    finite = bool(torch.isfinite(logits).all())
    return {"val/ece": ece(logits, val.labels) if finite else float("nan")}


def _robustness(
    asked: Asked, model: nn.Module, val: Split, device: torch.device | str
) -> dict[str, float]:
    """All robust numbers of the quick tier with their flags, and `robust/worst`: 0 where gradients are masked."""
    against = linf(asked.epsilon)
    some = sample(val, ATTACKED.n_attacked or len(val.labels), asked.seed, "attacked")
    with judged(model):
        found = robust_numbers(
            model, some, ATTACKED, against, {}, asked.seed, device, 1, lambda what, share: None
        )
    return {**found, "robust/worst": sanity.objective(found, against[0])}


def _latency(
    asked: Asked, model: nn.Module, val: Split, device: torch.device | str
) -> dict[str, float]:
    """The median over single images, while other trials may run beside."""
    with judged(model):
        return {"latency_ms": latency_ms(model, val.images.shape[1:])}


MEASURES: dict[str, Callable[[Asked, nn.Module, Split, torch.device | str], dict[str, float]]] = {
    "val/ece": _calibration,
    "robust/worst": _robustness,
    "latency_ms": _latency,
}
