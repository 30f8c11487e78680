"""A trained student as it leaves the house: weights as safetensors, and what rebuilds the network around them.

A champion is a folder: `champion.safetensors` and `champion.json` (version, networks, method, data, checksum).
Where the method changes the student at inference (simkd's projector), its adapter is part of the weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from trainables import methods, objective, records
from trainables.checkpoint import read_state
from trainables.data.splits import Facts
from trainables.files import rename_into
from trainables.models.normalized import LogitsOnly
from trainables.seeding import seeded
from trainables.stages import Stages
from trainables.teacher import build_for, untrained

VERSION = 1
WEIGHTS = "champion.safetensors"
RECORD = "champion.json"


def rebuild(
    about: Mapping[str, Any], facts: Facts, state: Mapping[str, Mapping[str, Tensor]]
) -> nn.Module:
    """The network that a checkpoint's state describes, as it is judged, in eval mode.

    `about` names student, teacher, method and hyper; `state` holds student and adapter.
    """
    method = methods.load(about["method"])
    with seeded(0, "rebuild"):
        stages = Stages(*map(tuple, about.get("stages", ((), ()))))
        student = Stages.only(build_for(about["student"], facts), stages.student)
        student.load_state_dict(state["student"])
        if method.deploy is None:
            return student.eval()
        images = torch.rand(2, facts.channels, facts.size, facts.size)
        labels = torch.arange(facts.n_classes)
        teacher = Stages.only(
            untrained(about["teacher"], facts), stages.teacher
        )  # for its shapes; its weights play no part
        context = objective.look(student, teacher, images, labels, facts.n_classes)
        values = {**objective.defaults(method), **about["hyper"]}
        adapter = objective.build_adapter(method, context, values)
    if adapter is None:
        return student.eval()
    adapter.load_state_dict(state["adapter"])
    return method.deploy(student, adapter).eval()


def save_champion(
    folder: Path, about: Mapping[str, Any], facts: Facts, state: Mapping[str, Mapping[str, Tensor]]
) -> Path:
    """Write the weights that are needed at inference and their record; the weights' path."""
    needed = ["student"] + (["adapter"] if methods.load(about["method"]).deploy else [])
    tensors = {
        f"{part}.{name}": x.contiguous() for part in needed for name, x in state[part].items()
    }
    content = save(tensors)
    sha256 = hashlib.sha256(content).hexdigest()
    record = {"sha256": sha256, "facts": asdict(facts), **about}
    rename_into(folder / WEIGHTS, content)
    records.write(folder / RECORD, record, VERSION)
    return folder / WEIGHTS


def read_record(folder: Path) -> dict[str, Any]:
    """What `champion.json` says; raises ValueError, naming the file, where it is damaged."""
    cure = "take it from MLflow's registry, or search again"
    record = records.read(folder / RECORD, VERSION, cure)
    missing = {"sha256", "facts", "student", "teacher", "method", "hyper"} - record.keys()
    if missing:
        raise ValueError(f"{folder / RECORD} must tell {min(missing)}, got nothing of it; {cure}")
    return record


def load_champion(folder: Path) -> nn.Module:
    """The network in eval mode: images in [0, 1] (B, channels, H, W) in, logits (B, C) out.

    Raises ValueError where the weights are not those recorded, or the record is damaged.
    """
    record = read_record(folder)
    return LogitsOnly(rebuild(record, Facts(**record["facts"]), _tensors(folder, record))).eval()


def read_weights(folder: Path) -> dict[str, dict[str, Tensor]]:
    """A student's state for `rebuild`, from a champion's folder or a checkpoint's; raises ValueError as they do."""
    if (folder / RECORD).exists():
        return _tensors(folder, read_record(folder))
    return read_state(folder)


def _tensors(folder: Path, record: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    content = (folder / WEIGHTS).read_bytes()
    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        raise ValueError(
            f"a champion must match its record, got other weights in {folder / WEIGHTS}"
        )
    state: dict[str, dict[str, Tensor]] = {"student": {}, "adapter": {}}
    for name, tensor in load(content).items():
        part, _, rest = name.partition(".")
        state[part][rest] = tensor
    return state
