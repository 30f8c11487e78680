"""The recorder: which of a trial's checkpoints stay on the disk."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
