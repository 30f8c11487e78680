"""The recorder: which of a trial's checkpoints stay on the disk, and what it tells of damaged ones."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune import Checkpoint

from tuner.journal import Journal
from tuner.progress import Board
from tuner.recorder import Recorder


def test_the_two_newest_checkpoints_of_each_trial_stay(tmp_path: Path) -> None:
    """Folders on the disk after two trials took turns; one that somebody has deleted already is no trouble."""
    recorder = Recorder(Journal(tmp_path), Board(), {})
    for epoch in range(4):
        for name in ("kd-000", "kd-001"):
            trial: Any = SimpleNamespace(config={"id": name})
            folder = tmp_path / name / f"checkpoint_{epoch:06d}"
            folder.mkdir(parents=True)
            recorder.on_checkpoint(epoch, [], trial, Checkpoint(str(folder)))
            if epoch == 1:
                folder.rmdir()
    for name in ("kd-000", "kd-001"):
        left = sorted(path.name for path in (tmp_path / name).iterdir())
        assert left == ["checkpoint_000002", "checkpoint_000003"]


def test_a_damaged_checkpoint_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the first epoch after it, and where the student goes on."""
    recorder = Recorder(Journal(tmp_path), Board(), {"kd-000": 3})
    trial: Any = SimpleNamespace(config={"id": "kd-000"})
    for epoch in (2, 3):
        result = {"epoch": epoch, "failed": "", "damage": "a damaged one: /out/state.pt"}
        recorder.on_trial_result(epoch, [], trial, result)
    told = capsys.readouterr().out
    assert told.count("kd-000 goes on with epoch 2: a damaged one: /out/state.pt") == 1
