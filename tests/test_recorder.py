"""The recorder: what it tells of damaged checkpoints."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tuner.failures import Tally
from tuner.journal import Journal, Student
from tuner.progress import Board
from tuner.recorder import Recorder
from tuner.shelf import Shelf


def test_a_damaged_checkpoint_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the first epoch after it, and where the student goes on."""
    board = Board()
    board.story.students["kd-000"] = Student(
        "kd-000", 0, "search", "trial", "kd", 0, {}, 4, history=[{"val/accuracy": 0.5}] * 3
    )
    recorder = Recorder(Journal(tmp_path), board, Shelf(tmp_path, 1, ()), Tally(1))
    trial: Any = SimpleNamespace(config={"id": "kd-000"})
    for epoch in (2, 3):
        result = {"epoch": epoch, "failed": "", "damage": "a damaged one: /out/state.pt"}
        recorder.on_trial_result(epoch, [], trial, result)
    told = capsys.readouterr().out
    assert told.count("kd-000 goes on with epoch 2: a damaged one: /out/state.pt") == 1
