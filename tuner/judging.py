"""What is measured of one network on the test set, in a task on the cluster. The only file that opens the test set.

Its callers are `tuner/verdict.py`, after every choice has been made and written down, and `tuner/evaluating.py`, for
students that the verdict has judged before; others it has measured on validation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from trainables import teacher as teachers
from trainables.champion import read_weights, rebuild
from trainables.data import sources
from trainables.data.sealed import FILE, open_test
from trainables.data.splits import Facts, Split, open_split, prepare
from trainables.depot import Courier, near
from trainables.evaluation import examples, official
from trainables.evaluation.calibration import best_temperature
from trainables.evaluation.examples import Examples
from trainables.evaluation.ood import PAIRS
from trainables.evaluation.predictions import predict, sample
from trainables.evaluation.robust import Tell
from trainables.evaluation.suite import Beside, evaluate
from trainables.evaluation.threats import Threat, linf, preset, threats_for
from trainables.evaluation.tiers import TIERS
from trainables.teacher import Teacher
from trainables.training import validate

NO_TIER = "none"
MOST_STREAMED = 2000  # test images beyond accuracy and loss, where they are not kept decoded


@dataclass(frozen=True)
class Paper:
    """What every network of a search is asked."""

    facts: Facts
    teacher: Teacher
    seed: int  # of the attacks
    workers: int
    corrupted: Path | None = None  # a published corrupted test set; else the lite one is made
    part: Literal["test", "val"] = "test"
    elsewhere: tuple[
        Facts, ...
    ] = ()  # other datasets, whose test images the network should not feel at home with


@dataclass(frozen=True)
class Candidate:
    """One network: a checkpoint with what rebuilds the network around it, or the teacher where there is none."""

    name: str  # the student's id, "teacher" or "champion"
    tier: str  # of TIERS, or NO_TIER: accuracy and loss alone
    against: tuple[Threat, ...]
    about: dict[str, Any] | None = None
    checkpoint: str = ""  # its folder, or a champion's


@near.register
def _paper(value: Paper, courier: Courier) -> Paper:
    for one in (value.facts, *value.elsewhere):
        courier.file(str(Path(one.folder, FILE)))
    facts, teacher = near(value.facts, courier), near(value.teacher, courier)
    others = tuple(near(one, courier) for one in value.elsewhere)
    return replace(value, facts=facts, teacher=teacher, elsewhere=others)


@near.register
def _candidate(value: Candidate, courier: Courier) -> Candidate:
    return replace(value, checkpoint=courier.folder(value.checkpoint))


def threats_of(
    tier: str, dataset: str, channels: int, epsilon: float, published: str | None = None
) -> tuple[Threat, ...]:
    """The dataset's one radius for the quick tier, all of its threats for the others, and a `published` radius."""
    if tier == NO_TIER:
        return ()
    own = (*linf(epsilon), *([preset(published, dataset)] if published else []))
    usual = () if tier == "quick" else threats_for(dataset, channels)
    return tuple(sorted({*own, *usual}))


def check_corrupted(folder: Path | None, facts: Facts) -> None:
    """Raise ValueError where a folder does not hold the published corruptions of just these test images."""
    if folder is None:
        return
    found = official.find(folder, facts.channels, facts.size, facts.n_classes)
    if ":" not in facts.dataset and found.name != f"{facts.dataset}_c":
        raise ValueError(
            f"--corruptions must be those of {facts.dataset}, got {found.name} in {folder}"
        )


def others(tier: str, dataset: str, root: Path, cache: Path) -> tuple[Facts, ...]:
    """The datasets that this one is told from, as far as they lie below `root`: none is downloaded for this."""
    if tier in (NO_TIER, "quick"):
        return ()
    here = [name for name in PAIRS.get(dataset, ()) if not sources.download(name, root)]
    return tuple(prepare(name, root, cache) for name in here)


def judge(
    candidate: Candidate, paper: Paper, device: str, tell: Tell = lambda what, share: None
) -> dict[str, float]:
    """`test/accuracy`, `test/loss`, and all that the tier measures under the suite's names; runs on the cluster."""
    facts = paper.facts
    model = _network(candidate, paper, device)
    data = open_test(facts) if paper.part == "test" else open_split(facts, "val")
    found = {f"{paper.part}/{name}": x for name, x in validate(model, data, device).items()}
    if candidate.tier == NO_TIER:
        return found
    if facts.streamed:
        some = sample(data, MOST_STREAMED, paper.seed, "judged")
        data = Split(some.images[:], some.labels)
    beside = _beside(candidate, paper, model, device)
    return found | evaluate(
        model,
        data,
        candidate.tier,
        candidate.against,
        beside,
        seed=paper.seed,
        device=device,
        workers=paper.workers,
        tell=tell,
    )


def illustrate(asked: dict[str, Candidate], paper: Paper, threat: Threat, device: str) -> Examples:
    """Adversarial examples of the network "tuned", and what all of `asked` say of them; runs on the cluster."""
    networks = {name: _network(one, paper, device).eval() for name, one in asked.items()}
    test, facts = open_test(paper.facts), paper.facts
    if facts.streamed:
        some = sample(test, MOST_STREAMED, paper.seed, "judged")
        test = Split(some.images[:], some.labels)
    tuned = networks.pop("tuned")
    return examples.make(
        tuned, networks, test, threat, facts.classes, seed=paper.seed, device=device
    )


def _network(candidate: Candidate, paper: Paper, device: str) -> nn.Module:
    if candidate.about is None:
        return teachers.load(paper.teacher, paper.facts, device)
    state = read_weights(Path(candidate.checkpoint))
    return rebuild(candidate.about, paper.facts, state).to(device)


def _beside(candidate: Candidate, paper: Paper, model: nn.Module, device: str) -> Beside:
    """The teacher for its students, and the temperature that calibrates the network on validation.

    Judged on validation itself, it has none: it would be fitted on what it is judged by.
    """
    others = {one.dataset: open_test(one) for one in paper.elsewhere}
    given: dict[str, Any] = {"corrupted": paper.corrupted, "elsewhere": others}
    if candidate.about is None:
        return Beside(temperature=paper.teacher.temperature, **given)
    teacher = teachers.load(paper.teacher, paper.facts, device)
    temperature = None
    if paper.part == "test":
        temperature = _temperature(model, open_split(paper.facts, "val"), device)
    seen = None
    if TIERS[candidate.tier].n_transferred and not paper.facts.streamed:
        seen = open_split(paper.facts, "train")
    return Beside(teacher=teacher, train=seen, temperature=temperature, **given)


def _temperature(model: nn.Module, val: Split, device: str) -> float | None:
    """Fitted on validation; None where the logits there are not all finite."""
    logits = predict(model.eval(), val.images, device)
    return best_temperature(logits, val.labels) if torch.isfinite(logits).all() else None
