"""The benchmark of many students on one device, small."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import loops, students
from benchmarks.epoch import place_of
from benchmarks.ground import Pair
from trainables.precision import PLAIN, Precision
from trainables.recipe import make_optimizer

SMALL = Pair("convnet8", "convnet4", 1, 8, 10, n_steps=3, augment="crop_flip")
RESIDUAL = Pair("convnet8", "resnet8", 3, 16, 10, n_steps=1, augment="crop_flip")


@pytest.mark.parametrize(
    ("pair", "precision"), [(SMALL, PLAIN), (RESIDUAL, PLAIN), (RESIDUAL, Precision(False, True))]
)
def test_mapped_students_train_as_each_would_alone(
    pair: Pair, precision: Precision, tmp_path: Path
) -> None:
    """Weights and running statistics after an epoch, each student at its own temperature and alpha."""
    place = place_of(pair, tmp_path, pair.augment, precision)
    together = students.Mapped(place, 2)
    together.epoch()
    for number, (t, alpha) in enumerate(((2.0, 0.5), (8.0, 0.9))):
        network = loops.known(place, pair.student).train()
        steps = make_optimizer(place.task.recipe, list(network.parameters()))
        for pixels, labels, taught in loops.ready(place):
            steps.zero_grad()
            loops.loss(network(pixels), taught, labels, t, alpha).backward()
            steps.step()
        found = {**together.weights, **together.buffers}
        mine = {name: rows[number].detach() for name, rows in found.items()}
        torch.testing.assert_close(mine, network.state_dict(), rtol=1e-3, atol=1e-5)


def test_students_are_timed_both_ways(tmp_path: Path) -> None:
    """Two in processes of their own, and two in one."""
    timing = students.Timing("cpu", rounds=1, seconds=0.1)
    (row,) = students.rows(SMALL, tmp_path, [2], timing)
    student, _, n, apart, ratio, one, _ = row
    assert (student, n, ratio) == ("convnet4", "2", "1.00")
    assert float(apart) > 0 and float(one) > 0
