"""Whether a robust number can be believed: signs of masked gradients, after AutoAttack's flags and Carlini's checklist.

Carlini et al. 2019, arXiv:1902.06705; Athalye et al. 2018, arXiv:1802.00420; Croce, Hein 2020, arXiv:2003.01690. Each
flag is a 0/1 number beside the measurements that it comes from. A flag of MASKING means that attacks along the
gradient say too much good of the model; the others, that the number answers another question.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from trainables.data.splits import Split
from trainables.data.views import to_float
from trainables.evaluation.attacks import cross_entropy_each, flat, look, margin_each, pgd, survives
from trainables.evaluation.predictions import right, sample
from trainables.evaluation.threats import Threat, linf
from trainables.seeding import generator

ZERO_SHARE = 0.01  # of images without a gradient, from which an attack along it says nothing
STRONGER = 0.02  # points of accuracy by which an attack that should not win may win
OTHERS_SHARE = 0.01  # of images that only noise or transferred examples fool
NOISE_COST = 0.10  # points of accuracy that random signs may cost
CURVE = linf(*(k / 255 for k in (1, 2, 4, 8, 16, 32, 64, 128, 255)))
SHORT_CURVE = linf(*(k / 255 for k in (8, 32, 255)))  # small radii cost most: more images stand
CURVE_IMAGES = 250  # one image is 0.4 points, so that STRONGER is five
RANDOM = 1e-4  # relative change of logits between two calls, as AutoAttack allows
BATCH = 250

MASKING = {
    "zero_gradients": "the gradient is exactly 0 for 1 % of the images or more",
    "weaker_pgd": "PGD fools fewer images than FGSM",
    "masked_cross_entropy": "an attack on the margin or DLR fools many more images than one on the cross-entropy",
    "stronger_others": "noise or another network's examples fool images that the model's own gradient does not",
    "curve_rises": "accuracy rises with the radius",
    "curve_stays": "accuracy stays above 0 where every image is allowed",
    "random_logits": "the same images give other logits a second time",
    "softmax_outputs": "the outputs are probabilities, not logits",
}
CAVEATS = {
    "noise_costs": "random signs alone cost 10 points: the radius is too large for this data",
    "near_chance": "clean accuracy is no better than chance",
}


def flagged(found: Mapping[str, float]) -> list[str]:
    """What speaks against the robust numbers in `found`, a sentence a flag that is raised; empty where nothing does."""
    known = {**MASKING, **CAVEATS}
    return [why for name, why in known.items() if found.get(f"flags/{name}", 0.0) > 0]


def masked(found: Mapping[str, float]) -> bool:
    """Whether any flag of MASKING is raised."""
    return any(found.get(f"flags/{name}", 0.0) > 0 for name in MASKING)


def objective(found: Mapping[str, float], threat: Threat) -> float:
    """What a search for robustness maximises: the worst case, and 0 where the gradients are masked.

    A masked student's number is only an upper bound, so nothing of it counts. NaN where the threat was not measured.
    """
    worst = found.get(f"robust/{threat.name}/worst", float("nan"))
    return 0.0 if masked(found) else worst


def gradients(
    model: nn.Module, data: Split, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """The shares of images whose gradient is 0 in every pixel or not a number, and the mean largest logit."""
    losses = {"zero_gradients": cross_entropy_each, "zero_gradients_margin": margin_each}
    sums = dict.fromkeys((*losses, "max_logit"), 0.0)
    for images, labels in _batches(data, device):
        for name, loss in losses.items():
            logits, gradient = look(model, images, labels, loss)
            sums[name] += int(flat(gradient).sum())
        sums["max_logit"] += float(logits.amax(-1).sum())
    return {name: total / len(data.labels) for name, total in sums.items()}


def curve(
    model: nn.Module,
    data: Split,
    seed: int = 0,
    device: torch.device | str = "cpu",
    radii: Sequence[Threat] = CURVE,
) -> dict[str, float]:
    """Accuracy under PGD-10 on the margin, radius by radius up to all of [0, 1], on CURVE_IMAGES seeded images.

    Each radius is attacked on its own, unlike `worst`, so that a rise would show.
    """
    few = sample(data, CURVE_IMAGES, seed, "curve")
    found = {}
    for threat in radii:
        draws, stands = generator(seed, f"curve {threat.name}"), 0
        for images, labels in _batches(few, device):
            clean = survives(model, images, labels)
            seen = images[clean], labels[clean]
            if clean.any():
                stands += int(survives(model, pgd(model, *seen, threat, draws), seen[1]).sum())
        found[threat.name] = stands / len(few.labels)
    return found


def model_flags(logits: Tensor, again: Tensor, labels: Tensor) -> dict[str, bool]:
    """The flags that need no attack, from logits (N, C), and those of the first images asked for again (M, C)."""
    first = logits[: len(again)].nan_to_num()
    moved = (first - again.nan_to_num()).norm(dim=-1)
    sums_to_one = (logits.sum(-1) - 1).abs().max() < 1e-4
    accuracy = right(logits, labels).double().mean().item()
    return {
        "random_logits": bool((moved > RANDOM * first.norm(dim=-1)).any()),
        "softmax_outputs": bool(sums_to_one and logits.min() >= 0),
        "near_chance": accuracy <= 1 / logits.shape[-1],
    }


def threat_flags(measured: Mapping[str, float]) -> dict[str, bool]:
    """The flags of one threat, from what `worst_case.Stand.metrics` gives; NaN raises none of them."""
    margins = [measured[name] for name in ("pgd_margin", "pgd_dlr") if name in measured]
    return {
        "weaker_pgd": measured["pgd_ce"] > measured["fgsm"] + OTHERS_SHARE,
        "masked_cross_entropy": any(m < measured["pgd_ce"] - STRONGER for m in margins),
        "stronger_others": any(
            share > OTHERS_SHARE for name, share in measured.items() if name.startswith("only_")
        ),
        "noise_costs": measured["noise"] < measured["clean"] - NOISE_COST,
    }


def overall_flags(shares: Mapping[str, float], radii: Mapping[str, float]) -> dict[str, bool]:
    """The flags of zero gradients and of the curve, from `gradients` and `curve` (smallest radius first)."""
    heights = list(radii.values())
    return {
        "zero_gradients": max(shares["zero_gradients"], shares["zero_gradients_margin"])
        >= ZERO_SHARE,
        "curve_rises": any(later > earlier + STRONGER for earlier, later in pairwise(heights)),
        "curve_stays": heights[-1] > STRONGER,
    }


def _batches(data: Split, device: torch.device | str) -> Iterator[tuple[Tensor, Tensor]]:
    for images, labels in zip(data.images.split(BATCH), data.labels.split(BATCH), strict=True):
        yield to_float(images).to(device), labels.to(device)
