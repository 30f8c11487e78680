"""A teacher trained on labels: a recipe that its dataset fixes, a state after each epoch to go on from."""

from __future__ import annotations

from pathlib import Path

import torch

from trainables import models, records
from trainables.checkpoint import read_state, write_state
from trainables.data.sources import Source
from trainables.data.splits import Facts, open_split
from trainables.methods import load as load_method
from trainables.models.normalized import Normalized
from trainables.recipe import Recipe
from trainables.teacher import build_for
from trainables.training import Training, validate

PROGRESS = "progress.json"
VERSION = 1  # of it


def recipe_of(model: str, source: Source, epochs: int | None = None) -> Recipe:
    """How a teacher of a dataset is trained, whatever its students' recipe; `epochs` in place of the dataset's.

    RepDistiller's: sgd with Nesterov momentum, batches of 64, weight decay 5e-4, a peak rate of 0.05 or the network's
    own; the rate falls in a cosine, where RepDistiller's falls in steps.
    """
    return Recipe(
        epochs=epochs or source.teacher_epochs,
        batch_size=64,
        optimizer="sgd",
        lr=models.entry(model).teacher_lr,
        weight_decay=5e-4,
        augment=source.augment,
    )


def train(
    name: str, facts: Facts, recipe: Recipe, folder: Path, seed: int, device: str = "cpu"
) -> Normalized:
    """Train a teacher, from the state in `folder` on where there is one; `progress` tells how far it is.

    Raises ValueError where it diverges.
    """
    data, val = open_split(facts, "train"), open_split(facts, "val")
    method = load_method("vanilla")
    torch.set_num_threads(1)
    run = Training(method, {}, recipe, seed, lambda: build_for(name, facts), data, device=device)
    _go_on(run, folder)
    while run.epoch < recipe.epochs:
        _, divergence = run.train_epoch()
        if divergence:
            raise ValueError(
                f"the teacher {name} must train without diverging, got a loss that is no number in epoch "
                f"{divergence.epoch}; take another network, or its weights as {name}:FILE"
            )
        accuracy = validate(run.student, val, device)["accuracy"]
        write_state(folder, run.state())
        records.write(folder / PROGRESS, {"epoch": run.epoch, "accuracy": accuracy}, VERSION)
    student: Normalized = run.student  # type: ignore[assignment]
    return student


def _go_on(run: Training, folder: Path) -> None:
    try:
        state = read_state(folder)
    except ValueError:  # none, or a damaged one: from the beginning
        return
    run.load(state)


def progress(folder: Path) -> tuple[int, float]:
    """(epochs trained, validation accuracy) of a teacher under way; (0, 0) before its first epoch, or when damaged."""
    try:
        told = records.read(folder / PROGRESS, VERSION, "")
        return int(told["epoch"]), float(told["accuracy"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0.0
