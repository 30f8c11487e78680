"""Adversarial examples for the report: which images, how far they move, what is kept of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from trainables.data.splits import Split
from trainables.evaluation import examples
from trainables.evaluation.threats import Threat

EPSILON = 0.1


class Bright(nn.Module):
    """Class 1 where the mean pixel is above a half; the further from it, the surer."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean((1, 2, 3)) - 0.5
        return torch.stack([-mean, mean], -1)


@pytest.fixture
def made() -> examples.Examples:
    """Images of one grey each: 0.2 and 0.45 are class 0, 0.55 and 0.8 class 1; the second is labelled wrongly."""
    greys = torch.tensor([204, 51, 115, 140])  # 0.8, 0.2, 0.45, 0.55
    images = greys.to(torch.uint8).view(4, 1, 1, 1).expand(4, 1, 2, 2).clone()
    data = Split(images, torch.tensor([0, 0, 0, 1]))
    others = {"teacher": Bright()}
    return examples.make(
        Bright(), others, data, Threat("linf", EPSILON), ("dark", "bright"), seed=0
    )


def test_the_first_right_image_of_each_class_is_attacked(made: examples.Examples) -> None:
    """By hand: 0.8 labelled dark is a mistake, so dark begins with 0.2, which 0.1 cannot turn; 0.55 it can."""
    assert made.labels == [0, 1]
    assert made.clean[:, 0, 0, 0].tolist() == pytest.approx([51 / 255, 140 / 255])
    assert made.said["tuned"] == made.said["teacher"] == [[0, 0], [1, 0]]
    assert float((made.adversarial - made.clean).abs().max()) <= EPSILON + 1e-6


def test_what_is_kept_comes_back(made: examples.Examples, tmp_path: Path) -> None:
    examples.write(tmp_path, made)
    found = examples.read(tmp_path)
    assert found is not None and torch.equal(found.adversarial, made.adversarial)
    assert (found.labels, found.said, found.classes) == (made.labels, made.said, made.classes)
    assert examples.read(tmp_path / "elsewhere") is None


def test_a_network_that_is_never_right_has_no_example() -> None:
    data = Split(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([1, 1]))
    found = examples.make(Bright(), {}, data, Threat("linf", EPSILON), ("a", "b"), seed=0)
    assert found.labels == [] and found.said == {"tuned": []}
