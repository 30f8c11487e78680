"""A user's network with a bug that shows in training only, and trials that go wrong in every way."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from trainables.contract import Outputs


def raising(n_classes: int, channels: int, size: int) -> nn.Module:
    """A small network whose gradients raise a ValueError."""
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    last = nn.Linear(4, n_classes)
    last.register_full_backward_hook(_bug)
    return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), *pool, last)


def _bug(*_: Any) -> None:
    raise ValueError("the gradient must be finite, got a bug")


class Activated(nn.BatchNorm2d):
    """Batch normalisation with a forward pass of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def normalising(n_classes: int, channels: int, size: int) -> nn.Module:
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(nn.Conv2d(channels, 4, 3), Activated(4), *pool, nn.Linear(4, n_classes))


class Lonely(nn.Module):
    """A small network that, on the second of several processes and for the first time, does something else."""

    def __init__(self, instead: Callable[[], None], n_classes: int, channels: int) -> None:
        super().__init__()
        self.instead = instead
        self.layers = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.classifier = nn.Linear(4, n_classes)

    def forward(self, images: Tensor) -> Outputs:
        mark = Path(os.environ["KDTUNE_TEST_MARKS"], "mark")
        if self.training and distributed.is_initialized() and distributed.get_rank() == 1:
            Path(os.environ["KDTUNE_TEST_MARKS"], f"process-{os.getpid()}").touch()
            if not mark.exists():
                mark.touch()
                self.instead()
        embedding = self.layers(images).mean((2, 3))
        return Outputs(self.classifier(embedding), embedding)


def allocating(n_classes: int, channels: int, size: int) -> nn.Module:
    return Lonely(_allocate, n_classes, channels)


def dying(n_classes: int, channels: int, size: int) -> nn.Module:
    return Lonely(partial(os._exit, 9), n_classes, channels)


def _allocate() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def trainable() -> type:
    """A trainable that does what its trial's id says; made here, so that workers need no module of it."""
    import time

    from ray import tune

    class Troubled(tune.Trainable):  # type: ignore[misc]
        """Reports three epochs unless it hangs, dies or runs out of memory in the second."""

        def setup(self, config: dict[str, Any]) -> None:
            self.epoch = 0
            if config["id"].startswith("broken"):
                raise ValueError("no data")

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.config, self.epoch = new_config, 0
            if new_config["id"].startswith("reset") and self._first():
                os._exit(1)
            return True

        def step(self) -> dict[str, Any]:
            trouble = self.config["id"]
            if self.epoch == 1 and (trouble.endswith("always") or self._first()):
                if trouble.startswith("hangs"):
                    time.sleep(1000)
                if trouble.startswith("dies"):
                    os._exit(1)
                if trouble.startswith("allocates"):
                    raise MemoryError("no room")
            self.epoch += 1
            told = {"epoch": self.epoch, "ranked_epoch": self.epoch, "seconds": 0.0}
            failed = "ValueError: a bug" if trouble.startswith("raises") else ""
            end = {"epochs": 3, "diverged": "", "failed": failed}
            done = self.epoch >= 3 or bool(failed)
            return {**told, **end, "val/accuracy": 0.5, "done": done}

        def _first(self) -> bool:
            """Whether this is the first time; a file remembers it over the worker's death."""
            path = Path(self.config["folder"], self.config["id"])
            known = path.exists()
            path.touch()
            return not known

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            Path(checkpoint_dir, "epoch").write_text(str(self.epoch))

        def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]
            self.epoch = int(Path(checkpoint, "epoch").read_text())

    return Troubled
