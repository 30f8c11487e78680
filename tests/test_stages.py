"""Which maps are compared: the rule, what is said instead, and what cannot be."""

from __future__ import annotations

import pytest
import torch

from trainables.losses import matched
from trainables.models import build
from trainables.stages import BY_RULE, Stages, check, in_words, parse

GREY = (0.5,) * 3


def network(name: str) -> torch.nn.Module:
    return build(name, n_classes=10, channels=3, size=32, mean=GREY, std=GREY).eval()


def test_pairs_are_parsed_with_the_stems_first() -> None:
    """Map 0 goes with map 0."""
    assert parse("1-2,3-4") == Stages((0, 1, 3), (0, 2, 4))


@pytest.mark.parametrize("text", ["2-1,1-2", "1-1,1-2", "0-1"])
def test_pairs_must_rise_from_1(text: str) -> None:
    """On both sides."""
    with pytest.raises(ValueError, match="rising order"):
        parse(text)


def test_the_rule_pairs_from_the_end_and_pools_the_larger() -> None:
    """resnet8's three stages at 32, 16, 8 with vgg8's last three of 16, 8, 4, 4: shapes from the models' table."""
    images = torch.rand(1, 3, 32, 32)
    student, teacher = network("resnet8")(images), network("vgg8")(images)
    assert in_words(student, teacher, BY_RULE).splitlines() == [
        "student 1 (16@32x32) with teacher 2 (256@8x8), the larger pooled to 8x8",
        "student 2 (32@16x16) with teacher 3 (512@4x4), the larger pooled to 4x4",
        "student 3 (64@8x8) with teacher 4 (512@4x4), the larger pooled to 4x4",
    ]
    sizes = [s.shape[-1] for s, _ in matched(student.features[1:], teacher.features[1:])]
    assert sizes == [8, 4, 4]


def test_what_is_said_is_what_the_losses_see() -> None:
    """1-1,3-4: the student's first and third with the teacher's first and fourth."""
    images = torch.rand(1, 3, 32, 32)
    said = parse("1-1,3-4")
    whole = network("resnet8")(images), network("vgg8")(images)
    student = Stages.only(network("resnet8"), said.student)(images)
    teacher = Stages.only(network("vgg8"), said.teacher)(images)
    seen = matched(student.features[1:], teacher.features[1:])
    assert [(s.shape[1], t.shape[1]) for s, t in seen] == [(16, 128), (64, 512)]
    assert in_words(*whole, said).splitlines()[1].startswith("student 3 (64@8x8) with teacher 4")
    assert len(student.preacts) == len(student.features) == 3


def test_norms_go_with_their_maps() -> None:
    """The batch normalisation before each map that is left."""
    network_ = network("vgg8")
    all_norms = list(network_.norms)
    assert list(Stages.only(network_, (0, 2, 4)).norms) == [all_norms[i] for i in (0, 2, 4)]


def test_a_map_that_is_not_there_is_refused() -> None:
    """resnet8 has three after its stem."""
    seen = network("resnet8")(torch.rand(1, 3, 32, 32))
    with pytest.raises(
        ValueError, match="--stages must name maps that the student has, got 5 of 3"
    ):
        check(parse("5-1"), seen, seen)
