"""Is it the teacher that it is said to be? Its accuracy on validation, against chance and against its record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from trainables.data.splits import Facts, Split
from trainables.data.views import to_float
from trainables.seeding import generator

Normalisation: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]  # mean, std

N_CHECKED = 2000  # validation images that a teacher is tried on each time
ABOVE_CHANCE = 1.5  # times the accuracy of guessing
STANDARD_ERRORS = 3.0  # above guessing; the lower of the two bars counts
OWN_TOLERANCE = 0.01  # below what was recorded on the same images: other kernels round otherwise
FOREIGN_TOLERANCE = 0.10  # below what a file records, on images we do not know
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# (mean, std) that published code of each dataset normalises with
PUBLISHED: dict[str, dict[str, Normalisation]] = {
    "mnist": {"MNIST's": ((0.1307,), (0.3081,))},
    "fashion_mnist": {"MNIST's": ((0.1307,), (0.3081,)), "its own": ((0.2860,), (0.3530,))},
    "cifar10": {
        "kuangliu's": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        "the pixels' own": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        "the WRN code's": ((0.4914, 0.4824, 0.4467), (0.2471, 0.2436, 0.2616)),
    },
    "cifar100": {
        "RepDistiller's": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
        "CIFAR-10's": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        "the WRN code's": ((0.4914, 0.4824, 0.4467), (0.2471, 0.2436, 0.2616)),
    },
    "cinic10": {"its authors'": ((0.4789, 0.4723, 0.4305), (0.2421, 0.2383, 0.2587))},
}


class Tried(NamedTuple):
    """What a network did on validation."""

    accuracy: float
    renamed: float  # with its classes in the order that suits its answers best


def normalisations(facts: Facts) -> dict[str, Normalisation]:
    """What a network of unknown normalisation may have been trained with, by name; the likeliest first."""
    n = facts.channels
    found = {"the training pixels'": (facts.mean, facts.std)}
    found |= PUBLISHED.get(facts.dataset, {})
    found |= {"none": ((0.0,) * n, (1.0,) * n), "0.5 and 0.5": ((0.5,) * n, (0.5,) * n)}
    if n == len(IMAGENET[0]):
        found["ImageNet's"] = IMAGENET
    return found


def checked_rows(n: int) -> Tensor:
    """At most N_CHECKED of n validation images, always the same, in order."""
    return torch.randperm(n, generator=generator(0, "teacher check"))[:N_CHECKED].sort().values


@torch.inference_mode()
def logits_on(
    model: nn.Module, data: Split, rows: Tensor, device: str = "cpu", batch_size: int = 500
) -> Tensor:
    """Logits (N, C), float32 on the CPU, for the images `rows`, in eval mode."""
    model.eval()
    parts = [
        model(to_float(data.images[some]).to(device)).logits.float().cpu()
        for some in rows.split(batch_size)
    ]
    return torch.cat(parts)


def accuracy_of(logits: Tensor, labels: Tensor) -> float:
    """Share of right answers; logits that are not finite count as wrong."""
    right = (logits.argmax(-1) == labels) & torch.isfinite(logits).all(-1)
    return float(right.double().mean())


def tried_on(logits: Tensor, labels: Tensor) -> Tried:
    """A network's accuracy, and that of the best one-to-one naming of its answers."""
    from scipy.optimize import linear_sum_assignment

    n = logits.shape[1]
    confusion = (labels * n + logits.argmax(-1)).bincount(minlength=n * n).view(n, n)
    rows, columns = linear_sum_assignment(confusion.numpy(), maximize=True)
    return Tried(accuracy_of(logits, labels), float(confusion[rows, columns].sum()) / len(labels))


def chance_of(labels: Tensor) -> float:
    """Accuracy of always naming the most frequent class."""
    return int(labels.bincount().max()) / len(labels)


def verify(
    name: str,
    logits: Tensor,
    labels: Tensor,
    recorded: float | None,
    tolerance: float,
    tried: Mapping[str, Tried],
    reason: str = "",
) -> float:
    """The accuracy; raises ValueError, with the likely reason, near chance or more than `tolerance` below `recorded`.

    `tried` tells how it did under the normalisations that were tried; `reason` is given where it is known.
    """
    accuracy, chance = accuracy_of(logits, labels), chance_of(labels)
    spread = math.sqrt(chance * (1 - chance) / len(labels))
    bar = min(ABOVE_CHANCE * chance, chance + STANDARD_ERRORS * spread)
    if not torch.isfinite(logits).all():
        raise ValueError(f"the teacher {name} must answer with numbers, got logits not finite")
    one_image = 1.5 / len(labels)  # which may change sides where kernels round otherwise
    expected = max(bar, (recorded or 0.0) - max(tolerance, one_image))
    if accuracy >= expected:
        return accuracy
    found = tried_on(logits, labels)
    reason = reason or likely_reason(expected, chance, found, tried)
    must = (
        f"beat chance ({chance:.1%})"
        if accuracy < bar
        else f"come near its recorded {recorded:.1%}"
    )
    raise ValueError(f"the teacher {name} must {must}, got {accuracy:.1%} on validation: {reason}")


def likely_reason(expected: float, chance: float, found: Tried, tried: Mapping[str, Tried]) -> str:
    """Why a teacher is far from `expected`: its normalisation, the order of its classes, or another file.

    Classes are in another order where some one-to-one naming of its answers would be right: at least half-way from
    guessing to all right, and as often as expected.
    """
    best = max(tried, key=lambda name: tried[name].accuracy, default="")
    if best and tried[best].accuracy >= max(expected, found.accuracy + OWN_TOLERANCE):
        return f"another normalisation would do ({best}: {tried[best].accuracy:.1%})"
    renamed = max(one.renamed for one in (found, *tried.values()))
    if renamed >= max(expected, (1 + chance) / 2):
        return f"its classes are in another order (in the best one it would be {renamed:.1%})"
    words = f"none of {len(tried)} normalisations helps, so " if tried else ""
    return f"{words}it is the wrong file or was trained on other data"
