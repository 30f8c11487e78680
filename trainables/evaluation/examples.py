"""A few adversarial examples of one network, kept for a picture: images before and after, and who says what of them.

The first image of each class that the network gets right, in the split's order: chosen before anything is attacked, so
that the picture shows failures of the attack too. The examples are made for that network (PGD on the margin, as in
`attacks.py`); others are shown the same images. As in CCKD (arXiv:2006.01683), where they are made by FGSM alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from trainables.data.splits import Split
from trainables.data.views import to_float
from trainables.evaluation.attacks import pgd
from trainables.evaluation.predictions import judged, logits_of, predict, right
from trainables.evaluation.threats import Threat
from trainables.files import rename_into
from trainables.seeding import generator

FILE = "examples.safetensors"
SHOWN = 6  # examples side by side that can still be seen
STEPS = 20


@dataclass(frozen=True)
class Examples:
    """Images before and after an attack, and what each network says of both."""

    clean: Tensor  # (N, channels, H, W) in [0, 1]
    adversarial: Tensor  # the same
    labels: list[int]
    said: dict[
        str, list[list[int]]
    ]  # network -> (class of the clean image, of the adversarial one), N times
    classes: list[str]
    threat: str


def make(
    model: nn.Module,
    others: Mapping[str, nn.Module],
    data: Split,
    threat: Threat,
    classes: tuple[str, ...],
    *,
    seed: int,
    device: torch.device | str = "cpu",
) -> Examples:
    """Attack `model` ("tuned"), show the result to the `others` too; no example where it gets nothing right."""
    networks = {"tuned": model, **others}
    with judged(model):
        known = right(predict(model, data.images, device), data.labels)
        rows = _first_of_each(data.labels, known)[:SHOWN]
        labels = data.labels[rows].to(device)
        clean = to_float(data.images[rows]).to(device)
        draws = generator(seed, "examples")
        found = pgd(model, clean, labels, threat, draws, steps=STEPS) if len(rows) else clean
    said = {}
    for name, network in networks.items():
        with judged(network), torch.no_grad():
            pair = [logits_of(network, shown).argmax(-1) for shown in (clean, found)]
        said[name] = torch.stack(pair, -1).tolist()
    images = clean.cpu(), found.detach().cpu()
    return Examples(*images, labels.tolist(), said, list(classes), threat.name)


def _first_of_each(labels: Tensor, known: Tensor) -> Tensor:
    """The first row of each class among those that are `known` (N,) bool; classes without one are left out."""
    first = [((labels == one) & known).nonzero()[:1, 0] for one in labels.unique()]
    return torch.cat(first) if first else labels[:0]


def write(folder: Path, found: Examples) -> Path:
    """The whole file or nothing."""
    told = {name: value for name, value in asdict(found).items() if not isinstance(value, Tensor)}
    images = {"clean": found.clean.contiguous(), "adversarial": found.adversarial.contiguous()}
    told_in_file = torch.tensor(list(json.dumps(told).encode()), dtype=torch.uint8)
    rename_into(folder / FILE, save({**images, "told": told_in_file}))
    return folder / FILE


def read(folder: Path) -> Examples | None:
    """What lies in `folder`; None where nothing does."""
    if not (folder / FILE).exists():
        return None
    content = load((folder / FILE).read_bytes())
    told = json.loads(bytes(content.pop("told").tolist()))
    return Examples(content["clean"], content["adversarial"], **told)
