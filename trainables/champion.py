"""A trained student as it leaves the house: weights as safetensors, and what rebuilds the network around them.

A champion is a folder with `champion.safetensors` and `champion.json` (version, network, data facts, settings).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor, nn

from trainables.data.splits import Facts, rename_into
from trainables.models.normalized import LogitsOnly
from trainables.seeding import seeded
from trainables.teacher import build_for

VERSION = 1
WEIGHTS = "champion.safetensors"


def save_champion(
    folder: Path, student: str, facts: Facts, weights: Mapping[str, Tensor], about: dict[str, Any]
) -> Path:
    """Write the student's weights and record; the weights' path."""
    content = save({name: tensor.contiguous() for name, tensor in weights.items()})
    record = {
        "version": VERSION,
        "student": student,
        "sha256": hashlib.sha256(content).hexdigest(),
        "facts": asdict(facts),
        **about,
    }
    rename_into(folder / WEIGHTS, content)
    rename_into(folder / "champion.json", json.dumps(record, indent=1).encode())
    return folder / WEIGHTS


def load_champion(folder: Path) -> nn.Module:
    """The network in eval mode: images in [0, 1] (B, channels, H, W) in, logits (B, C) out.

    Raises ValueError where the weights are not those recorded.
    """
    record = json.loads((folder / "champion.json").read_text(encoding="utf-8"))
    content = (folder / WEIGHTS).read_bytes()
    if record["version"] != VERSION or hashlib.sha256(content).hexdigest() != record["sha256"]:
        raise ValueError(f"a champion must match its record, got other weights in {folder / WEIGHTS}")
    with seeded(0, "champion"):
        model = build_for(record["student"], Facts(**record["facts"]))
    model.load_state_dict(load(content))
    return LogitsOnly(model).eval()
