"""Measure any recorded student as a search measures those that it compares, and add the numbers to its run in MLflow.

A test set is opened once, by the search, after its choice. So a student that was judged then may be looked at again,
more closely: nothing can be chosen by it any more. Any other student, a trial above all, is measured on validation.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from trainables.data import sources
from trainables.evaluation import autoattack, sanity
from trainables.evaluation.attacks import losses_for
from trainables.evaluation.robust import section
from trainables.evaluation.tiers import TIERS
from tuner import evaluation_report, ingredients, judging, stored
from tuner.judging import Candidate, Paper
from tuner.plan import available_cpus
from tuner.progress import Board, duration
from tuner.report import rich_table
from tuner.stored import Stored

FLAG = "--evaluate-run"
OWN = ("evaluate", "corruptions", "threat")  # settings that it takes
WHERE = {
    "test": "on the test set, which its search opened for this student after its choice: nothing is chosen by it",
    "val": "on validation, which its search chose by: the test set has not been opened for this student",
}
SEED = 0  # of the attacks' draws, the same for every student
EVALUATED = "kd.evaluated"  # the tag that says how


def run(run_id: str, given: dict[str, Any]) -> int:
    """Measure the student of that run, or the champion of a search's; raises ValueError for what cannot be done."""
    asked = {name: given.pop(name) for name in OWN if name in given}
    tier = asked.get("evaluate", "quick")
    if tier not in TIERS:
        raise ValueError(f"--evaluate must be one of {', '.join(TIERS)}, got {tier!r}")
    torch.set_num_threads(1)  # as many networks' batches at once as there are cores
    board, found = Board(), stored.find(run_id, given, FLAG)
    candidate, paper = _asked(found, tier, asked)
    board.say(f"{found.in_words()}; {tier}, {WHERE[paper.part]}")
    device = "cuda" if found.run.record["task"]["use_gpu"] and torch.cuda.is_available() else "cpu"
    started = time.monotonic()
    with board.counting("evaluating", 100) as show:
        numbers = judging.judge(
            candidate,
            paper,
            device,
            lambda what, share: show(int(100 * share), f"{share:.0%}, {what}"),
        )
    seconds = time.monotonic() - started
    _tell(board, candidate.name, numbers, paper.part)
    said = f"{tier} on {paper.part}, seed {paper.seed}"
    found.records.add(found.run.run_id, recorded(numbers, paper.part), {EVALUATED: said})
    board.say(f"measured in {duration(seconds)}; added to the run {found.run.run_id} in MLflow")
    return 0


def recorded(numbers: Mapping[str, float], part: Literal["test", "val"]) -> dict[str, float]:
    """Metrics as the run gets them: of the test set under the search's names, of validation below `val/`."""
    if part == "test":
        return dict(numbers)
    return section("val", {k: x for k, x in numbers.items() if not k.startswith("val/")})


def _asked(found: Stored, tier: str, asked: Mapping[str, Any]) -> tuple[Candidate, Paper]:
    """The network and what it is asked; refuses what would be found out at the end."""
    facts, record = found.facts, found.run.record
    part: Literal["test", "val"] = "test" if found.run.judged else "val"
    corrupted = Path(asked["corruptions"]).expanduser() if "corruptions" in asked else None
    if corrupted and (part == "val" or not TIERS[tier].corruptions):
        why = "the test set is closed for it" if part == "val" else f"--evaluate {tier}"
        raise ValueError(
            f"--corruptions must go with --evaluate standard or full of a student that its search judged, got {why}"
        )
    judging.check_corrupted(corrupted, facts)
    losses_for(facts.n_classes)
    if TIERS[tier].autoattack:
        autoattack.check(facts.n_classes)
    data = record["data"]
    root = Path(data["root"] or found.place / "data")
    source = sources.source(data["dataset"], root, data["image_size"])
    against = judging.threats_of(
        tier, source.name, source.channels, source.epsilon, asked.get("threat")
    )
    teacher = ingredients.teacher_of(record["teachers"], found.place, FLAG)
    name, weights = record["config"]["id"], str(found.weights)
    others = judging.others(tier, source.name, root, found.place / "cache" / "data")
    paper = Paper(facts, teacher, SEED, available_cpus(), corrupted, part, others)
    return Candidate(name, tier, against, found.about, weights), paper


def _tell(board: Board, name: str, numbers: Mapping[str, float], part: str) -> None:
    """The tables of a report, of one network, and whether its robust numbers can be believed."""
    board.say(f"accuracy  {numbers[f'{part}/accuracy']:.2%} of {numbers['clean/n']:,.0f} images")
    networks = {name: numbers}
    board.console.print(
        rich_table(
            "Under attack, percent; radii in pixels of [0, 1]",
            evaluation_report.robust_rows(networks),
        )
    )
    title = "Otherwise, percent but for NLL, KL and T"
    board.console.print(rich_table(title, evaluation_report.quality_rows(networks)))
    for why in sanity.flagged(numbers):
        board.say(f"flag      {why}")
    if sanity.masked(numbers):
        board.say("The gradients are masked: its robust numbers are upper bounds, no more.")
    elif not sanity.flagged(numbers):
        board.say("No flag is raised: no sign of masked gradients.")
