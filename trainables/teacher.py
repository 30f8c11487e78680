"""The teacher: trained once or loaded, its accuracy measured and written down, frozen.

A teacher is one folder: `weights.safetensors` and `teacher.json` (version, model, data, recipe, accuracy, checksum).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from trainables import models, objective
from trainables.contract import Context, Outputs
from trainables.data.splits import Facts, open_split, rename_into
from trainables.data.views import to_float
from trainables.methods import load as load_method
from trainables.models.normalized import Normalized
from trainables.recipe import Recipe
from trainables.seeding import generator, seeded
from trainables.training import Training, validate

VERSION = 1
PROGRESS = "progress.json"
SEED = 0  # teachers are shared by searches of any seed


@dataclass(frozen=True)
class Teacher:
    """A trained teacher on disk."""

    folder: str
    model: str
    accuracy: float  # on the validation split
    sha256: str  # of the weights
    epochs: int


def build_for(name: str, facts: Facts) -> Normalized:
    """A network for a dataset, with the training split's normalisation; weights from torch's stream."""
    return models.build(
        name,
        n_classes=facts.n_classes,
        channels=facts.channels,
        size=facts.size,
        mean=facts.mean,
        std=facts.std,
    )


def folder_of(name: str, facts: Facts, recipe: Recipe, root: Path) -> Path:
    """Where the teacher `name` lies: one folder for each model, data split and recipe."""
    key = json.dumps([VERSION, name, facts.sha256["train"], facts.split_hash, asdict(recipe), SEED])
    return root / f"{facts.dataset}-{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def find(folder: Path) -> Teacher | None:
    """The teacher in `folder`, or None where it is missing, damaged or of another version."""
    try:
        record = json.loads((folder / "teacher.json").read_text(encoding="utf-8"))
        content = (folder / "weights.safetensors").read_bytes()
    except (OSError, ValueError):
        return None
    if record.get("version") != VERSION or hashlib.sha256(content).hexdigest() != record["sha256"]:
        return None
    known = {name: record[name] for name in ("model", "accuracy", "sha256", "epochs")}
    return Teacher(folder=str(folder), **known)


def train(
    name: str,
    facts: Facts,
    recipe: Recipe,
    folder: Path,
    device: str = "cpu",
) -> Teacher:
    """Train a teacher on labels, measure it on validation, store it; `progress` tells how far it is.

    Raises ValueError where it diverges or ends no better than chance: nothing can be learnt from it.
    """
    data, val = open_split(facts, "train"), open_split(facts, "val")
    method = load_method("vanilla")
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    run = Training(method, {}, recipe, SEED, lambda: build_for(name, facts), data, device=device)
    accuracy = 0.0
    for epoch in range(1, recipe.epochs + 1):
        _, divergence = run.train_epoch()
        if divergence:
            raise ValueError(
                f"the teacher {name} diverged in epoch {epoch}; lower --lr, got {recipe.lr:g}"
            )
        accuracy = validate(run.student, val, device)["accuracy"]
        rename_into(folder / PROGRESS, json.dumps([epoch, accuracy]).encode())
    if accuracy < 1.5 / facts.n_classes:
        raise ValueError(
            f"the teacher {name} must beat chance ({1 / facts.n_classes:.1%}), got {accuracy:.1%}"
        )
    content = save_tensors({k: v.contiguous().cpu() for k, v in run.student.state_dict().items()})
    teacher = Teacher(
        str(folder), name, accuracy, hashlib.sha256(content).hexdigest(), recipe.epochs
    )
    rename_into(folder / "weights.safetensors", content)
    record = {
        **asdict(teacher),
        "version": VERSION,
        "recipe": asdict(recipe),
        "dataset": facts.dataset,
    }
    rename_into(folder / "teacher.json", json.dumps(record, indent=1).encode())
    return teacher


def progress(folder: Path) -> tuple[int, float]:
    """(epochs trained, validation accuracy) of a teacher under way; (0, 0) before its first epoch."""
    try:
        epoch, accuracy = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0, 0.0
    return int(epoch), float(accuracy)


def load(teacher: Teacher, facts: Facts, device: torch.device | str = "cpu") -> nn.Module:
    """The frozen network, in eval mode; raises ValueError where its weights are not those recorded."""
    path = Path(teacher.folder) / "weights.safetensors"
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != teacher.sha256:
        raise ValueError(
            f"the teacher's weights must be those recorded, got a changed file {path}; delete its folder"
        )
    with seeded(SEED, "teacher"):
        model = build_for(teacher.model, facts)
    model.load_state_dict(load_tensors(content))
    return model.requires_grad_(False).eval().to(device)


def context_of(
    student: nn.Module, teacher: nn.Module, facts: Facts, prepared: Any = None
) -> Context:
    """What a method may look at: both networks' outputs for a few training images, and the labels."""
    data = open_split(facts, "train")
    images = to_float(data.images[:4]).to(next(teacher.parameters()).device)
    return objective.look(student, teacher, images, data.labels, facts.n_classes, prepared)


def outputs_on(
    teacher: nn.Module, facts: Facts, epochs: int, batch_size: int = 64
) -> Iterator[Outputs]:
    """The teacher's outputs on the clean training images in `epochs` seeded orders, a batch at a time."""
    device = next(teacher.parameters()).device
    data = open_split(facts, "train")
    for epoch in range(epochs):
        order = torch.randperm(len(data.labels), generator=generator(SEED, "prepare", epoch))
        for rows in order.split(batch_size):
            with torch.no_grad():
                yield teacher(to_float(data.images[rows]).to(device))


def prepare(
    method_name: str, teacher: Teacher, student: str, facts: Facts, root: Path, device: str = "cpu"
) -> str:
    """The file of what a method prepares once for its searches; made unless it is there, "" where it makes nothing."""
    method = load_method(method_name)
    if method.prepare is None:
        return ""
    key = json.dumps([VERSION, method_name, teacher.sha256, student, facts.sha256["train"]])
    path = root / f"{method_name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.safetensors"
    if not path.exists():
        torch.set_num_threads(1)
        network = load(teacher, facts, device)
        with seeded(SEED, "student"):
            context = context_of(build_for(student, facts).to(device), network, facts)
        made = method.prepare(context, outputs_on(network, facts, method.prepare_epochs))
        root.mkdir(parents=True, exist_ok=True)
        rename_into(path, save_tensors({k: v.contiguous().cpu() for k, v in made.items()}))
    return str(path)
