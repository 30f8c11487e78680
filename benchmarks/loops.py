"""One epoch of plain knowledge distillation in five ways: the contenders of `epoch`.

Each function prepares what may be prepared and gives back a function that trains one epoch. All see the same images,
train the same networks at batch 64 with SGD, momentum and weight decay, and weigh the same two terms.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

from benchmarks.ground import BATCH_SIZE, LR, MadeUp, Plain

Epoch = Callable[[], object]
TEMPERATURE, ALPHA = 4.0, 0.9
CACHING = "1.1.4"  # torchdistill's last version with a cache
WORKERS = 8  # processes of the shared loop's DataLoader beside a GPU, as RepDistiller has them
SGD = {"lr": LR, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}


def loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float | Tensor = TEMPERATURE,
    alpha: float | Tensor = ALPHA,
) -> Tensor:
    """The published distillation loss, as tutorials write it."""
    soft = F.kl_div(
        F.log_softmax(student / temperature, 1),
        F.softmax(teacher / temperature, 1),
        reduction="batchmean",
    )
    return (1 - alpha) * F.cross_entropy(student, labels) + alpha * temperature**2 * soft


def trial(place: MadeUp) -> Epoch:
    """A trial's first epoch, its targets in the cache."""
    run = place.student()
    run.train_epoch()  # fills the cache

    def epoch() -> None:
        run.epoch = 0
        run.train_epoch()

    return epoch


def bare(place: MadeUp) -> Epoch:
    """The student alone, on ready batches of normalised floats with the teacher's logits, in the trial's precision."""
    precision = place.task.precision
    student = precision.arranged(known(place, place.task.student).train())
    optimizer = torch.optim.SGD(student.parameters(), fused=True, **SGD)
    batches = ready(place)

    def epoch() -> None:
        for pixels, labels, taught in batches:
            with fast(place):
                logits = student(pixels)
            optimizer.zero_grad()
            loss(logits.float(), taught, labels).backward()
            optimizer.step()

    return epoch


def known(place: MadeUp, name: str) -> Plain:
    """A network as others know it, on the place's device."""
    return Plain(name, place.task.facts).to(place.device)


def ready(place: MadeUp) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Batches of normalised floats in the student's memory format, with labels and the teacher's logits."""
    layout = torch.channels_last if place.task.precision.channels_last else torch.contiguous_format
    teacher = known(place, place.task.teacher.model).eval()
    found = []
    for images, labels in zip(*(part.split(BATCH_SIZE) for part in place.train), strict=True):
        pixels = ((images.float() / 255 - 0.5) / 0.5).contiguous(memory_format=layout)
        with torch.no_grad():
            found.append((pixels, labels, teacher(pixels)))
    return found


def fast(place: MadeUp) -> AbstractContextManager[Any]:
    """Autocast, where the student is trained so."""
    kind = place.device.type
    return torch.autocast(kind, torch.bfloat16) if place.task.precision.bfloat16 else nullcontext()


class Pictures(Dataset[Any]):
    """The images as PIL pictures, cut, mirrored and normalised one by one, as torchvision's datasets are."""

    def __init__(self, place: MadeUp) -> None:
        facts = place.task.facts
        images = place.train.images[:].cpu()
        self.pixels = images.permute(0, 2, 3, 1).squeeze(-1).contiguous().numpy()
        self.labels = place.train.labels.tolist()
        self.change = transforms.Compose(
            [
                transforms.RandomCrop(facts.size, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(facts.mean, facts.std),
            ]
        )

    def __len__(self) -> int:
        """N."""
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        """(channels, H, W) and its label."""
        return self.change(Image.fromarray(self.pixels[i])), self.labels[i]


def shared(place: MadeUp) -> Epoch:
    """The loop of RepDistiller, mdistiller and the tutorials: DataLoader, the teacher in each step, float32."""
    teacher = known(place, place.task.teacher.model).eval()
    student = known(place, place.task.student).train()
    optimizer = torch.optim.SGD(student.parameters(), **SGD)
    workers = WORKERS if place.device.type == "cuda" else 0
    loader = DataLoader(
        *(Pictures(place), BATCH_SIZE),
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )

    def epoch() -> None:
        for pixels, truth in loader:
            images, labels = pixels.to(place.device), truth.to(place.device)
            with torch.no_grad():
                taught = teacher(images)
            optimizer.zero_grad()
            loss(student(images), taught, labels).backward()
            optimizer.step()

    return epoch


def torchdistill_version() -> str:
    """The installed version, or nothing."""
    try:
        return version("torchdistill")
    except PackageNotFoundError:
        return ""


def torchdistill(place: MadeUp, cache: Path | None) -> Epoch:
    """torchdistill's own loop, with its cache of the teacher's outputs in `cache`, or without."""
    from torchdistill.core.distillation import DistillationBox

    logging.disable(logging.INFO)
    teacher = known(place, place.task.teacher.model).eval()
    student = known(place, place.task.student)
    box = DistillationBox(
        *(teacher, student, {"train": Pictures(place)}, box_settings(cache)),
        *(place.device, None, False, 1),
    )

    def epoch() -> None:
        box.pre_epoch_process(epoch=0)
        for pixels, truth, kept in box.train_data_loader:
            images, labels = pixels.to(place.device), truth.to(place.device)
            box.post_forward_process(loss=box.forward_process(images, labels, kept))

    if cache is not None:
        epoch()  # fills it
    return epoch


def box_settings(cache: Path | None) -> dict[str, Any]:
    """What torchdistill's configuration files say for plain knowledge distillation."""
    loader: dict[str, Any] = {
        "dataset_id": "train",
        "sampler": {"class_or_func": RandomSampler},
        "kwargs": {"batch_size": BATCH_SIZE, "drop_last": True},
        **({"cache_output": str(cache)} if cache else {}),
    }
    whole = {"forward_proc": "forward_batch_only"}
    criterion = {
        "key": "KDLoss",
        "kwargs": {
            **{f"{who}_module_path": "." for who in ("student", "teacher")},
            **{f"{who}_module_io": "output" for who in ("student", "teacher")},
            "temperature": TEMPERATURE,
            "alpha": 1 - ALPHA,
        },
    }
    return {
        "num_epochs": 1,
        "train_data_loader": loader,
        "teacher": {**whole, "requires_grad": False},
        "student": {**whole, "requires_grad": True},
        "optimizer": {"key": "SGD", "kwargs": dict(SGD)},
        "criterion": {
            "key": "WeightedSumLoss",
            "kwargs": {"sub_terms": {"kd": {"criterion": criterion, "weight": 1.0}}},
        },
    }
