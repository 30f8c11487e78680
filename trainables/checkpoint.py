"""A state on disk with its checksum, each whole or not at all, read back as tensors and plain values only."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainables.data.splits import rename_into

STATE = "state.pt"
VERSION = 1


def write_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write `state` and its checksum into `folder`."""
    buffer = io.BytesIO()
    torch.save({**state, "version": VERSION}, buffer)
    content = buffer.getvalue()
    rename_into(folder / STATE, content)
    rename_into(folder / f"{STATE}.sha256", hashlib.sha256(content).hexdigest().encode())


def read_state(folder: Path) -> dict[str, Any]:
    """The state in `folder`; raises ValueError, naming the file, where it is damaged or of another version."""
    path = folder / STATE
    try:
        content = path.read_bytes()
        recorded = (folder / f"{STATE}.sha256").read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"a checkpoint must be readable, got {path}: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != recorded:
        raise ValueError(f"a checkpoint must match its checksum, got a damaged one: {path}")
    state: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
    if state["version"] != VERSION:
        raise ValueError(
            f"a checkpoint must be of version {VERSION}, got {state['version']} in {path}"
        )
    return state


def forget_state(folder: Path) -> None:
    """Take the state away, where there is one."""
    for name in (STATE, f"{STATE}.sha256"):
        (folder / name).unlink(missing_ok=True)
