"""A state on disk with its checksum, each whole or not at all, read back as tensors and plain values only."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from trainables.files import rename_into

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
        recorded = (folder / f"{STATE}.sha256").read_bytes()
    except OSError as error:
        raise ValueError(f"a checkpoint must be readable, got {path}: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest().encode() != recorded:
        raise ValueError(f"a checkpoint must match its checksum, got a damaged one: {path}")
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = " ".join(str(error).split())[:100]
        raise ValueError(
            f"a checkpoint must hold tensors and plain values, got {path}: {reason}"
        ) from None
    if state.get("version") != VERSION:
        raise ValueError(
            f"a checkpoint must be of version {VERSION}, got {state.get('version')} in {path}"
        )
    return state


def read_newest(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """The state in `folder` or, where it is damaged, in the newest good folder beside it, and what was wrong.

    Folders of one trial are in their order by name. None where no good one is left.
    """
    earlier = [some for some in folder.parent.glob("checkpoint_*") if some.name < folder.name]
    problems: list[str] = []
    for place in (folder, *sorted(earlier, reverse=True)):
        try:
            return read_state(place), "; ".join(problems)
        except ValueError as error:
            problems.append(str(error))
    return None, "; ".join(problems)


def forget_state(folder: Path) -> None:
    """Take the state away, where there is one."""
    for name in (STATE, f"{STATE}.sha256"):
        (folder / name).unlink(missing_ok=True)
