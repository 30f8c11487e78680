"""Which stage of the student is compared with which of the teacher.

The rule: last with last, one before last with one before last, as far as both go; the stems (map 0) go together. The
larger map of a pair is average-pooled to the smaller one's size by the losses. What is paired can be said instead.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from torch import nn

from trainables.contract import Outputs


class Stages(NamedTuple):
    """Numbers of the maps that are compared, pair by pair, the stems first; empty: the rule."""

    student: tuple[int, ...] = ()
    teacher: tuple[int, ...] = ()

    @staticmethod
    def only(network: nn.Module, numbers: tuple[int, ...]) -> nn.Module:
        """The network, showing these maps alone; all of them where `numbers` is empty."""
        if numbers:
            network.stages = numbers  # type: ignore[assignment]
        return network


BY_RULE = Stages()


def parse(text: str) -> Stages:
    """`1-1,2-3` as student-teacher pairs of map numbers, counted from 1 after the stem; raises ValueError."""
    pairs = [part.split("-") for part in text.split(",")]
    student, teacher = ((0, *map(int, numbers)) for numbers in zip(*pairs, strict=True))
    for numbers in (student, teacher):
        if any(a >= b for a, b in pairwise(numbers)):
            raise ValueError(
                f"--stages must name maps from 1 on in rising order on both sides, got {text}"
            )
    return Stages(student, teacher)


def check(stages: Stages, student: Outputs, teacher: Outputs) -> None:
    """Raise ValueError where a network has no such map; `student` and `teacher` show all of theirs."""
    for who, numbers, seen in (
        ("student", stages.student, student),
        ("teacher", stages.teacher, teacher),
    ):
        if numbers and numbers[-1] >= len(seen.features):
            last = len(seen.features) - 1
            raise ValueError(
                f"--stages must name maps that the {who} has, got {numbers[-1]} of {max(0, last)}"
            )


def in_words(student: Outputs, teacher: Outputs, stages: Stages) -> str:
    """A line a pair, with channels and sizes; "" where one of the networks gives no maps.

    `student` and `teacher` are the outputs of the whole networks; what is paired by the rule is worked out here.
    """
    ours, theirs = student.features, teacher.features
    if len(ours) < 2 or len(theirs) < 2:
        return ""
    count = min(len(ours), len(theirs)) - 1
    rule = Stages(
        tuple(range(len(ours) - count, len(ours))), tuple(range(len(theirs) - count, len(theirs)))
    )
    mine, other = (stages.student[1:], stages.teacher[1:]) if stages.student else rule
    lines = []
    for i, j in zip(mine, other, strict=True):
        sizes = ours[i].shape[-1], theirs[j].shape[-1]
        pooled = "" if sizes[0] == sizes[1] else f", the larger pooled to {min(sizes)}x{min(sizes)}"
        shapes = [
            f"{maps.shape[1]}@{maps.shape[-1]}x{maps.shape[-1]}" for maps in (ours[i], theirs[j])
        ]
        lines.append(f"student {i} ({shapes[0]}) with teacher {j} ({shapes[1]}){pooled}")
    return "\n".join(lines)
