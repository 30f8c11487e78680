"""A teacher made ready: found, imported or trained, then verified and calibrated. Runs as one task, once a member.

From then on all teachers are alike: a folder below `root`. A lock in it makes a second search that wants the same
teacher wait for the first.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from trainables import models, records
from trainables.checkpoint import forget_state
from trainables.data.splits import Facts, Split, open_split
from trainables.evaluation.calibration import best_temperature, nll
from trainables.files import rename_into
from trainables.models.normalized import Normalized
from trainables.models.pretrained import fetch
from trainables.recipe import Recipe
from trainables.teacher import (
    AND,
    RECORD,
    VERSION,
    WEIGHTS,
    Teacher,
    build_for,
    find,
    from_record,
    joint_sha256,
    load,
    read_record,
)
from trainables.teacher_checks import (
    FOREIGN_TOLERANCE,
    OWN_TOLERANCE,
    Normalisation,
    Tried,
    accuracy_of,
    checked_rows,
    logits_on,
    normalisations,
    tried_on,
    verify,
)
from trainables.teacher_files import Foreign, fit, read
from trainables.teacher_training import train
from trainables.teacher_wanted import Wanted

LOCK = "teacher.lock"
FACTS = ("dataset", "split_hash", "n_classes", "channels", "size")  # that a record holds
MADE = ("source", "normalisation", "recorded", "elsewhere", "epochs")  # of a candidate


class Candidate(NamedTuple):
    """A network that may become a teacher, and what is known of it."""

    network: Normalized
    source: str
    normalisation: str
    tried: dict[str, Tried]  # by normalisation
    recorded: float | None
    elsewhere: bool
    epochs: int
    origin: dict[str, Any]  # for the record: recipe and seed, or file and checksum


def folder_of(wanted: Wanted, facts: Facts, recipe: Recipe, root: Path) -> Path:
    """Where a teacher lies: one folder for each network, data split, and recipe, file or library's weights."""
    if wanted.file:
        made_of: Any = file_sha256(Path(wanted.file))
    else:
        made_of = wanted.weights or [asdict(recipe), wanted.seed]
    key = json.dumps([VERSION, wanted.model, facts.sha256["train"], facts.split_hash, made_of])
    name = models.slug(f"{facts.dataset}-{wanted.model}")
    return root / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def file_sha256(path: Path) -> str:
    """The checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ready(
    wanted: Wanted,
    facts: Facts,
    recipe: Recipe,
    root: Path,
    trust_pickle: bool = False,
    device: str = "cpu",
) -> Teacher:
    """The teacher that was asked for, verified on validation; made once, by `recipe` where it has to be trained.

    Raises ValueError where it cannot be had, answers near chance, or is far from what is recorded of it.
    """
    torch.set_num_threads(1)
    folder = folder_of(wanted, facts, recipe, root)
    folder.mkdir(parents=True, exist_ok=True)
    val = open_split(facts, "val")
    with _locked(folder):
        found = find(folder)
        if found is not None:
            return _verified_again(found, facts, val, device)
        if wanted.file or wanted.weights:
            made = _imported(wanted, facts, val, trust_pickle, device)
        else:
            made = _trained(wanted, facts, recipe, folder, device)
        teacher = _kept(made, wanted.model, facts, val, folder, device)
        forget_state(folder)
    return teacher


def joined(members: Sequence[Teacher], facts: Facts, device: str = "cpu") -> Teacher:
    """The ensemble of teachers, measured and calibrated as a whole; raises ValueError for the same one twice."""
    torch.set_num_threads(1)
    for i, member in enumerate(members):
        if member.sha256 in {other.sha256 for other in members[:i]}:
            raise ValueError(f"an ensemble's teachers must differ, got {member.model} twice")
    together = Teacher(
        "",
        AND.join(member.model for member in members),
        accuracy=0.0,
        sha256=joint_sha256(members),
        epochs=0,
        source=f"{len(members)} teachers, the mean of their logits",
        elsewhere=any(member.elsewhere for member in members),
        members=tuple(members),
    )
    val = open_split(facts, "val")
    network = load(together, facts, device)
    logits = logits_on(network, val, torch.arange(len(val.labels)), device)
    accuracy = verify(together.model, logits, val.labels, None, 0.0, {})
    known: dict[str, Any] = _calibrated(logits, val.labels)
    return replace(together, accuracy=accuracy, **known)


def busy(folder: Path) -> bool:
    """Whether some process is making the teacher in `folder` just now."""
    try:
        with (folder / LOCK).open("r", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no folder yet
        return False
    return False


def _trained(wanted: Wanted, facts: Facts, recipe: Recipe, folder: Path, device: str) -> Candidate:
    network = train(wanted.model, facts, recipe, folder, wanted.seed, device)
    source = f"trained here for {recipe.epochs} epochs"
    origin = {"recipe": asdict(recipe), "seed": wanted.seed}
    return Candidate(
        network, source, "the training pixels'", {}, None, False, recipe.epochs, origin
    )


def _imported(
    wanted: Wanted, facts: Facts, val: Split, trust_pickle: bool, device: str
) -> Candidate:
    """A network with weights from elsewhere, under the normalisation that it brings or that suits it best."""
    if wanted.weights:
        published = fetch(wanted.model, facts.n_classes, facts.channels)
        foreign = Foreign(dict(published.state), published.accuracy, published.mean, published.std)
        source, origin = wanted.weights, {"weights": wanted.weights}
    else:
        foreign = read(Path(wanted.file), trust_pickle)
        source = wanted.uri or Path(wanted.file).name
        origin = {"file": wanted.file, "file_sha256": file_sha256(Path(wanted.file))}
    network = build_for(wanted.model, facts)
    fit(network.body, foreign.state, wanted.model)
    network.to(device)
    own = {"its own": (foreign.mean, foreign.std)} if foreign.mean and foreign.std else {}
    best, tried = _normalised(network, own or normalisations(facts), val, device)
    words = best if own else f"{best}, best of {len(tried)} tried on validation"
    elsewhere = foreign.split_hash != facts.split_hash
    return Candidate(network, source, words, tried, foreign.accuracy, elsewhere, 0, origin)


def _normalised(
    network: Normalized, options: Mapping[str, Normalisation], val: Split, device: str
) -> tuple[str, dict[str, Tried]]:
    """Give the network the normalisation of highest accuracy on some validation images; ties go to the first."""
    rows = checked_rows(len(val.labels))
    tried = {}
    for name, (mean, std) in options.items():
        _normalise(network, mean, std)
        tried[name] = tried_on(logits_on(network, val, rows, device), val.labels[rows])
    best = max(tried, key=lambda name: tried[name].accuracy)
    _normalise(network, *options[best])
    return best, tried


def _normalise(network: Normalized, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    device = network.mean.device
    network.mean = torch.tensor(mean, device=device).view(1, -1, 1, 1)
    network.std = torch.tensor(std, device=device).view(1, -1, 1, 1)


def _kept(
    made: Candidate, model: str, facts: Facts, val: Split, folder: Path, device: str
) -> Teacher:
    """Verify, calibrate, and write the folder: weights first, so that a record always has its weights."""
    logits = logits_on(made.network, val, torch.arange(len(val.labels)), device)
    reason = "it has learnt nothing; take another network or more epochs" if made.epochs else ""
    tolerance = FOREIGN_TOLERANCE if made.elsewhere else OWN_TOLERANCE
    accuracy = verify(model, logits, val.labels, made.recorded, tolerance, made.tried, reason)
    rows = checked_rows(len(val.labels))
    state = {k: x.detach().contiguous().cpu() for k, x in made.network.state_dict().items()}
    content = save_tensors(state)
    about = {name: getattr(facts, name) for name in FACTS}
    about["checked_accuracy"] = accuracy_of(logits[rows], val.labels[rows])
    known = {
        "model": model,
        "accuracy": accuracy,
        "sha256": hashlib.sha256(content).hexdigest(),
        "mean": made.network.mean.flatten().tolist(),
        "std": made.network.std.flatten().tolist(),
        **{name: getattr(made, name) for name in MADE},
        **_calibrated(logits, val.labels),
    }
    rename_into(folder / WEIGHTS, content)
    records.write(folder / RECORD, {**about, **made.origin, **known}, VERSION)
    return from_record(folder, known)


def _calibrated(logits: Tensor, labels: Tensor) -> dict[str, float]:
    temperature = best_temperature(logits, labels)
    exact = logits.double()
    return {
        "temperature": temperature,
        "nll": nll(exact, labels),
        "calibrated_nll": nll(exact, labels, temperature),
    }


def _verified_again(teacher: Teacher, facts: Facts, val: Split, device: str) -> Teacher:
    """A teacher found on disk, tried on the images that its record was measured on."""
    rows = checked_rows(len(val.labels))
    logits = logits_on(load(teacher, facts, device), val, rows, device)
    recorded = read_record(Path(teacher.folder))["checked_accuracy"]
    reason = f"data or libraries have changed; delete {teacher.folder} to have it made again"
    verify(teacher.model, logits, val.labels[rows], recorded, OWN_TOLERANCE, {}, reason)
    return teacher


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Alone in the folder; a second one waits. The lock goes with its process."""
    with (folder / LOCK).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
