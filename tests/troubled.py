"""A user's network with a bug that shows in training only, and trials that go wrong in every way."""

from __future__ import annotations

from typing import Any

from torch import nn


def raising(n_classes: int, channels: int, size: int) -> nn.Module:
    """A small network whose gradients raise a ValueError."""
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    last = nn.Linear(4, n_classes)
    last.register_full_backward_hook(_bug)
    return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), *pool, last)


def _bug(*_: Any) -> None:
    raise ValueError("the gradient must be finite, got a bug")


def trainable() -> type:
    """A trainable that does what its trial's id says; made here, so that workers need no module of it."""
    import os
    import time
    from pathlib import Path

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
