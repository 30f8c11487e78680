"""The forecast of a search's disk, against what is really written."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from trainables.recipe import make_optimizer
from tuner import disk, plan
from tuner.settings import make


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_checkpoint_is_as_large_as_reckoned(optimizer: str) -> None:
    """Against torch.save of weights and optimiser after a step; names and shapes take a tenth at most."""
    planned = plan.make(make({"method": "kd", "student": "convnet16res", "optimizer": optimizer}))
    network = planned.networks.student_model
    steps = make_optimizer(planned.recipe, list(network.parameters()))
    network(torch.rand(2, 1, 8, 8)).logits.sum().backward()
    steps.step()
    written = io.BytesIO()
    torch.save({"student": network.state_dict(), "optimizer": steps.state_dict()}, written)
    assert disk.checkpoint_bytes(planned, "convnet16res") == pytest.approx(written.tell(), rel=0.1)


def test_a_methods_own_part_is_counted(tmp_path: Path) -> None:
    """crd's memory holds two vectors of 128 floats for each training image, and one more of them student's ... ."""
    sizes = [
        disk.checkpoint_bytes(plan.make(make({"method": method, "out": tmp_path})), "convnet4")
        for method in ("kd", "crd")
    ]
    assert sizes[1] - sizes[0] > 1198 * 128 * 2 * 4


def test_larger_students_and_more_slots_need_more(tmp_path: Path) -> None:
    """Three checkpoints a slot: two kept and one being written; in words the largest part comes first."""
    known = {"method": "kd", "out": tmp_path, "max_concurrent": 1}
    small, large = (
        disk.forecast(plan.make(make({**known, "student": name})))
        for name in ("convnet4", "resnet20")
    )
    assert large["checkpoints of students under way"] > small["checkpoints of students under way"]
    one = disk.checkpoint_bytes(plan.make(make(known)), "convnet4")
    assert small["checkpoints of students under way"] == 3 * one
    assert (
        disk.in_words({"a": 2 * 10**6, "b": 3 * 10**9, "c": 1}) == "about 3.0 GB: b 3.0 GB, a 2 MB"
    )
