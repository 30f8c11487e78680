"""What is measured of one network on the test set, in a task on the cluster. The only file that opens the test set.

Its caller is `tuner/verdict.py`, after every choice has been made and written down.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainables import teacher as teachers
from trainables.champion import rebuild
from trainables.checkpoint import read_state
from trainables.data.sealed import FILE, open_test
from trainables.data.splits import Facts, Split, open_split
from trainables.depot import Courier, near
from trainables.evaluation.calibration import best_temperature
from trainables.evaluation.predictions import predict, sample
from trainables.evaluation.suite import Beside, evaluate
from trainables.evaluation.threats import Threat, linf, threats_for
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


@dataclass(frozen=True)
class Candidate:
    """One network: a checkpoint with what rebuilds the network around it, or the teacher where there is none."""

    name: str  # the student's id, "teacher" or "champion"
    tier: str  # of TIERS, or NO_TIER: accuracy and loss alone
    against: tuple[Threat, ...]
    about: dict[str, Any] | None = None
    checkpoint: str = ""


@near.register
def _paper(value: Paper, courier: Courier) -> Paper:
    courier.file(str(Path(value.facts.folder, FILE)))
    facts, teacher = near(value.facts, courier), near(value.teacher, courier)
    return replace(value, facts=facts, teacher=teacher)


@near.register
def _candidate(value: Candidate, courier: Courier) -> Candidate:
    return replace(value, checkpoint=courier.folder(value.checkpoint))


def threats_of(tier: str, dataset: str, channels: int, epsilon: float) -> tuple[Threat, ...]:
    """The dataset's one radius for the quick tier, all of its threats for the others."""
    if tier == NO_TIER:
        return ()
    own = linf(epsilon)
    if tier == "quick":
        return own
    return tuple(sorted({*own, *threats_for(dataset, channels)}))


def judge(candidate: Candidate, paper: Paper, device: str) -> dict[str, float]:
    """`test/accuracy`, `test/loss`, and all that the tier measures under the suite's names; runs on the cluster."""
    facts = paper.facts
    model, test = _network(candidate, paper, device), open_test(facts)
    found = {f"test/{name}": value for name, value in validate(model, test, device).items()}
    if candidate.tier == NO_TIER:
        return found
    if facts.streamed:
        some = sample(test, MOST_STREAMED, paper.seed, "judged")
        test = Split(some.images[:], some.labels)
    beside = _beside(candidate, paper, model, device)
    return found | evaluate(
        model,
        test,
        candidate.tier,
        candidate.against,
        beside,
        seed=paper.seed,
        device=device,
        workers=paper.workers,
    )


def _network(candidate: Candidate, paper: Paper, device: str) -> nn.Module:
    if candidate.about is None:
        return teachers.load(paper.teacher, paper.facts, device)
    state = read_state(Path(candidate.checkpoint))
    return rebuild(candidate.about, paper.facts, state).to(device)


def _beside(candidate: Candidate, paper: Paper, model: nn.Module, device: str) -> Beside:
    """The teacher for its students, and the temperature that calibrates the network on validation."""
    if candidate.about is None:
        return Beside(temperature=paper.teacher.temperature)
    teacher = teachers.load(paper.teacher, paper.facts, device)
    temperature = _temperature(model, open_split(paper.facts, "val"), device)
    seen = None
    if TIERS[candidate.tier].n_transferred and not paper.facts.streamed:
        seen = open_split(paper.facts, "train")
    return Beside(teacher=teacher, train=seen, temperature=temperature)


def _temperature(model: nn.Module, val: Split, device: str) -> float | None:
    """Fitted on validation; None where the logits there are not all finite."""
    logits = predict(model.eval(), val.images, device)
    return best_temperature(logits, val.labels) if torch.isfinite(logits).all() else None
