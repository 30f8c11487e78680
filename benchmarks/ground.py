"""Made-up images and untrained networks where a search has its own: what a step costs does not depend on them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from trainables.contract import Outputs
from trainables.data.splits import Facts, Split
from trainables.precision import Precision, probe
from trainables.recipe import Recipe
from trainables.seeding import seeded
from trainables.teacher import Teacher, build_for
from trainables.trainable import Task, Workplace, resident
from trainables.training import Training

BATCH_SIZE = 64
CACHE_BYTES = 10**9
LR = 0.001  # a rate at which nothing diverges


@dataclass(frozen=True)
class Pair:
    """Two networks and the shape of their images."""

    teacher: str
    student: str
    channels: int
    size: int
    n_classes: int
    n_steps: int  # of an epoch here: few where one takes long
    augment: str  # of the dataset that the pair is known for

    def __str__(self) -> str:
        """`lenet5 -> lenet5_half`."""
        return f"{self.teacher} -> {self.student}"


class MadeUp(Workplace):
    """A worker's place with made-up images in memory; validation has as many as training."""

    def __init__(
        self, pair: Pair, folder: Path, augment: str, precision: Precision, device: str = "cpu"
    ) -> None:
        torch.set_num_threads(1)
        self.device = torch.device(device)
        self.train = self.val = resident(images_of(pair), self.device)
        facts = facts_of(pair, folder)
        self.task = Task(
            facts,
            teacher_of(pair, facts, folder),
            pair.student,
            Recipe(epochs=2, batch_size=BATCH_SIZE, lr=LR, augment=augment),
            use_gpu=device == "cuda",
            precision=precision,
            cache_folder=str(folder / "targets"),
            cache_bytes=CACHE_BYTES,
        )

    def student(self) -> Training:
        """A student of kd at its published setting."""
        return self.training({"method": "kd", "seed": 0, "hyper": {}})


def images_of(pair: Pair) -> Split:
    """Random pixels and labels for an epoch."""
    generator, n = torch.Generator().manual_seed(0), pair.n_steps * BATCH_SIZE
    shape = (n, pair.channels, pair.size, pair.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return Split(images, torch.randint(0, pair.n_classes, (n,), generator=generator))


def facts_of(pair: Pair, folder: Path) -> Facts:
    """What there is to know about the images."""
    n, half = pair.n_steps * BATCH_SIZE, (0.5,) * pair.channels
    return Facts(
        dataset="made up",
        folder=str(folder),
        classes=tuple(map(str, range(pair.n_classes))),
        channels=pair.channels,
        size=pair.size,
        n_train=n,
        n_val=n,
        n_test=0,
        mean=half,
        std=half,
        split_hash="made up",
        sha256={"train": "made up"},
    )


def teacher_of(pair: Pair, facts: Facts, folder: Path) -> Teacher:
    """An untrained teacher on disk."""
    with seeded(0, "teacher"):
        content = save(build_for(pair.teacher, facts).state_dict())
    (folder / "weights.safetensors").write_bytes(content)
    return Teacher(str(folder), pair.teacher, 0.0, hashlib.sha256(content).hexdigest(), 0)


def fastest(pair: Pair, folder: Path, device: str = "cpu") -> Precision:
    """How the student would be trained there: what a search's probe finds."""
    facts = facts_of(pair, folder)
    images = (images_of(pair).images[:BATCH_SIZE].float() / 255).to(device)
    return probe(lambda: build_for(pair.student, facts), images)[0]


class Plain(nn.Module):
    """A network as others know it: normalised images in, logits out."""

    def __init__(self, name: str, facts: Facts) -> None:
        super().__init__()
        with seeded(0, name):
            self.body = build_for(name, facts).body

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, C)."""
        outputs: Outputs = self.body(images)
        return outputs.logits
