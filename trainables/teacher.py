"""The teacher: a folder on disk, all alike however it came, found again, loaded, frozen.

A teacher is one folder: `weights.safetensors` and `teacher.json` (version, network, its normalisation, data, where it
came from, accuracies, temperature, checksum). `teacher_ready.ready` makes it. An ensemble is its members' folders.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from trainables import models, objective, records
from trainables.contract import Context, Outputs
from trainables.data.splits import Facts, open_split
from trainables.data.views import to_float
from trainables.files import rename_into
from trainables.methods import load as load_method
from trainables.models.ensemble import Ensemble
from trainables.models.normalized import Normalized
from trainables.seeding import generator, seeded
from trainables.stages import Stages

VERSION = 2
RECORD = "teacher.json"
WEIGHTS = "weights.safetensors"
SEED = 0  # teachers are shared by searches of any seed
CURE = "the teacher is made again"  # where its folder is found damaged
AND = " + "  # between the networks of an ensemble


@dataclass(frozen=True)
class Teacher:
    """A teacher on disk, or several that answer together."""

    folder: str  # empty for an ensemble
    model: str  # a name for models.build; of an ensemble several, with " + " between them
    accuracy: float  # on the validation split
    sha256: str  # of the weights; of an ensemble, of its members'
    epochs: int  # of its training here; 0 for one that came from elsewhere
    mean: tuple[float, ...] = ()  # of its normalisation; the training split's where empty
    std: tuple[float, ...] = ()
    source: str = ""  # how it came about, in words
    normalisation: str = ""  # where mean and std come from, in words
    recorded: float | None = None  # accuracy that its source records, a share
    elsewhere: bool = False  # trained elsewhere, so that it may have seen the validation images
    temperature: float = 1.0  # of least NLL on the validation split
    nll: float = float("nan")  # there at temperature 1
    calibrated_nll: float = float("nan")  # there at `temperature`
    members: tuple[Teacher, ...] = ()  # of an ensemble


PLAIN = tuple(part.name for part in fields(Teacher) if part.name not in ("folder", "members"))


def build_for(
    name: str, facts: Facts, mean: tuple[float, ...] = (), std: tuple[float, ...] = ()
) -> Normalized:
    """A network for a dataset, with the training split's normalisation unless told; weights from torch's stream."""
    return models.build(
        name,
        n_classes=facts.n_classes,
        channels=facts.channels,
        size=facts.size,
        mean=mean or facts.mean,
        std=std or facts.std,
    )


def untrained(model: str, facts: Facts) -> nn.Module:
    """A teacher's network, or an ensemble's, for its shapes; weights from torch's stream."""
    names = model.split(AND)
    members = [build_for(name, facts) for name in names]
    return Ensemble(members) if len(names) > 1 else members[0]


def find(folder: Path) -> Teacher | None:
    """The teacher in `folder`, or None where it is missing, damaged or of another version."""
    try:
        record = read_record(folder)
        content = (folder / WEIGHTS).read_bytes()
    except (OSError, ValueError):
        return None
    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        return None
    return from_record(folder, record)


def damage(folder: Path) -> str:
    """What is wrong with a teacher that lies in `folder`, in words; "" where nothing is, or none lies there."""
    if not (folder / RECORD).exists() or find(folder) is not None:
        return ""
    try:
        read_record(folder)
    except (OSError, ValueError) as error:
        return str(error)
    return f"{folder / WEIGHTS} must match its record, got other weights; {CURE}"


def read_record(folder: Path) -> dict[str, Any]:
    """What `teacher.json` says; raises OSError, or ValueError where it is damaged or of another version."""
    record = records.read(folder / RECORD, VERSION, CURE)
    missing = {*PLAIN, "mean", "std"} - record.keys()
    if missing:
        raise ValueError(f"{folder / RECORD} must tell {min(missing)}, got nothing of it; {CURE}")
    return record


def from_record(folder: Path, record: dict[str, Any]) -> Teacher:
    """The teacher that a record describes."""
    lists = {name: tuple(record[name]) for name in ("mean", "std")}
    return Teacher(folder=str(folder), **{name: record[name] for name in PLAIN} | lists)


def load(teacher: Teacher, facts: Facts, device: torch.device | str = "cpu") -> nn.Module:
    """The frozen network, in eval mode; raises ValueError where its weights are not those recorded."""
    if teacher.members:
        members = [_load_one(member, facts) for member in teacher.members]
        return Ensemble(members).eval().to(device)
    return _load_one(teacher, facts).to(device)


def _load_one(teacher: Teacher, facts: Facts) -> Normalized:
    with seeded(SEED, "teacher"):
        model = build_for(teacher.model, facts, teacher.mean, teacher.std)
    return _filled(model, Path(teacher.folder), teacher.sha256)


def load_alone(folder: Path) -> tuple[Normalized, dict[str, Any]]:
    """The frozen network in `folder` without its data at hand, and its record; ValueError as in `load`."""
    record = read_record(folder)
    shape = {name: record[name] for name in ("n_classes", "channels", "size")}
    mean, std = tuple(record["mean"]), tuple(record["std"])
    with seeded(SEED, "teacher"):
        model = models.build(record["model"], **shape, mean=mean, std=std)
    return _filled(model, folder, record["sha256"]), record


def _filled(model: Normalized, folder: Path, sha256: str) -> Normalized:
    path = folder / WEIGHTS
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(
            f"the teacher's weights must be those recorded, got a changed file {path}; delete its folder"
        )
    model.load_state_dict(load_tensors(content))
    return model.requires_grad_(False).eval()


def joint_sha256(members: Sequence[Teacher]) -> str:
    """An ensemble's: of its members' checksums, in their order."""
    return hashlib.sha256("/".join(member.sha256 for member in members).encode()).hexdigest()


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
    method_name: str,
    teacher: Teacher,
    student: str,
    stages: Stages,
    facts: Facts,
    root: Path,
    device: str = "cpu",
) -> str:
    """The file of what a method prepares once for its searches; made unless it is there, "" where it makes nothing."""
    method = load_method(method_name)
    if method.prepare is None:
        return ""
    data = [facts.sha256["train"], facts.split_hash]
    key = json.dumps([VERSION, method_name, teacher.sha256, student, stages, data])
    path = root / f"{method_name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.safetensors"
    if not _is_whole(path):
        torch.set_num_threads(1)
        network = Stages.only(load(teacher, facts, device), stages.teacher)
        with seeded(SEED, "student"):
            built = Stages.only(build_for(student, facts).to(device), stages.student)
            context = context_of(built, network, facts)
        made = method.prepare(context, outputs_on(network, facts, method.prepare_epochs))
        root.mkdir(parents=True, exist_ok=True)
        content = save_tensors({k: v.contiguous().cpu() for k, v in made.items()})
        rename_into(path, content)
        rename_into(_checksum_of(path), hashlib.sha256(content).hexdigest().encode())
    return str(path)


def _is_whole(path: Path) -> bool:
    """Whether what was prepared is there and as it was written; a damaged file is said and made again."""
    if not path.exists():
        return False
    found = hashlib.sha256(path.read_bytes()).hexdigest().encode()
    checksum = _checksum_of(path)
    if checksum.exists() and checksum.read_bytes() == found:
        return True
    warnings.warn(f"{path} must match its checksum, got another or none: made again", stacklevel=2)
    return False


def _checksum_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
