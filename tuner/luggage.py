"""The code that goes to a cluster's machines, as Ray's runtime environment: they need no checkout.

kdtune's own packages always go, and nothing beside them. Where the settings name a user's own function for a network
(`package.module:factory`), the current folder goes too, without what is no code.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tuner.settings import Settings

PACKAGES = ("tuner", "trainables", "search_spaces")
EXCLUDED = (  # by Ray from all that is sent, so that none may match a file of kdtune's
    ".?*",  # hidden files, but not ".": Ray calls the whole folder so, and would send nothing
    *("__pycache__", "*.pyc", "node_modules", "venv", "runs", "mlruns", "artifacts"),
    *("*.arrow", "*.safetensors", "*.pt", "*.pth", "*.ckpt", "*.npy", "*.npz", "*.parquet", "*.h5"),
    *("*.png", "*.jpg", "*.jpeg", "*.JPEG", "*.zip", "*.tar", "*.gz", "*.db"),
)
FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
LARGEST = 200 * 2**20  # bytes of the user's folder; Ray takes no more than 500 MiB, packed


def environment(settings: Settings, here: Path) -> dict[str, Any]:
    """Ray's runtime environment; raises ValueError where the user's folder is too large to be sent."""
    own = Path(__file__).parents[1]
    packed: dict[str, Any] = {
        "py_modules": [str(own / name) for name in PACKAGES],
        "env_vars": {
            **{"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "RAY_AUTH_MODE": "token"},
            **visible(settings.gpus_per_trial > 0),
        },
        "excludes": list(EXCLUDED),
    }
    if any(_factory(text) for text in _named(settings)):
        check_size(here)
        packed["working_dir"] = str(here)
    return packed


def visible(use_gpus: bool) -> dict[str, str]:
    """For workers: Ray shows a trial its own GPUs, but all of a node's to one that asked for none."""
    return {} if use_gpus else {"CUDA_VISIBLE_DEVICES": ""}


def check_size(folder: Path) -> None:
    """Raise ValueError where what would be sent of `folder` is too much, with its largest file."""
    files = {path: path.stat().st_size for path in sent(folder)}
    if sum(files.values()) > LARGEST:
        largest = max(files, key=files.__getitem__)
        raise ValueError(
            f"the current folder, sent to the nodes for the sake of your own functions, must be at most "
            f"{LARGEST / 2**20:.0f} MiB, got {sum(files.values()) / 2**20:,.0f} MiB in {folder}, "
            f"{files[largest] / 2**20:,.0f} of it in {largest.relative_to(folder)}: start from a folder with code alone"
        )


def sent(folder: Path) -> Iterator[Path]:
    """The files of a folder that are not left out."""
    for root, folders, files in os.walk(folder):
        for names in (folders, files):
            names[:] = [n for n in names if not any(fnmatch(n, rule) for rule in EXCLUDED)]
        yield from (path for name in files if (path := Path(root, name)).is_file())


def _named(settings: Settings) -> list[str]:
    """Where the settings may name a user's network: choices of students stand in a space."""
    space = Path(settings.space or "")
    texts = space.read_text(encoding="utf-8").splitlines() if space.is_file() else []
    return [settings.student or "", *settings.teacher, *settings.set, *texts]


def _factory(text: str) -> bool:
    """Whether `package.module:factory` may be in it, as opposed to FILE.pt and torchvision:NAME."""
    found = (word for word in re.split(r"[\s=(),\[\]#]", text) if FACTORY.fullmatch(word))
    return any(word.partition(":")[0] not in ("torchvision", "timm", "mlflow") for word in found)
