"""Searches that an older kdtune recorded: gone on with, or refused in one line; and a version in every file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT, Command
from trainables.checkpoint import STATE, read_state
from tuner.control import SETTINGS
from tuner.journal import FILE, VERSION, Journal, story
from tuner.mirror import behind

RECORDED = ROOT / "tests" / "recorded"


def recorded(name: str, out: Path) -> Path:
    """A copy of a recorded search, moved to `out`."""
    folder = out / "recorded"
    shutil.copytree(RECORDED / name, folder)
    settings = (folder / SETTINGS).read_text().replace("/home/user/runs", str(out))
    (folder / SETTINGS).write_text(settings)
    return folder


def test_a_search_recorded_with_journal_version_2_goes_on(
    tmp_path: Path, tune: Callable[..., Command]
) -> None:
    """Two of four trials had ended and one was under way, without checkpoints and without checksums in the settings:
    those two are as they were, the rest is trained. Every file of ours then has its version.
    """
    folder = recorded("journal-2", tmp_path)
    before = story(folder)
    resumed = tune("--resume", "recorded", "--out", tmp_path)
    assert resumed.status == 0, resumed.out + resumed.err
    told = story(folder)
    for name in ("kd-000", "kd-001"):
        assert told.students[name] == before.students[name]
    assert [len(student.history) for student in told.of_kind("search")] == [3, 3, 3, 3]
    assert told.students["kd-002"].history[:2] == before.students["kd-002"].history
    assert {student.status for student in told.students.values()} == {"finished"}
    assert (folder / "report.md").exists() and "answer" in told.results
    assert not behind(folder)  # MLflow has it all, the champion's model too
    versions = {
        path.name: json.loads(path.read_text()).get("version")
        for pattern in ("recorded/*.json", "teachers/*/*.json", "data/**/*.json", "cache/*/*.json")
        for path in tmp_path.glob(pattern)
    }
    assert {"champion.json", "tracking.json", "teacher.json", "progress.json", "data.json"} <= {
        *versions
    }
    assert None not in {number for name, number in versions.items() if name != SETTINGS}, versions
    assert told.search["version"] == VERSION
    kept = list(folder.glob(f"checkpoints/*/*/{STATE}"))
    assert kept and all(read_state(state.parent)["version"] for state in kept)


@pytest.mark.parametrize("version", [1, None, VERSION + 1])
def test_another_version_is_refused_before_anything_is_read_of_it(
    version: int | None, tmp_path: Path
) -> None:
    """In one line that says what to do, although later events are such that nobody knows."""
    journal = Journal(tmp_path)
    journal.write("search", version=version)
    journal.write("student", of="another shape")
    journal.close()
    with pytest.raises(
        ValueError, match=f"of version {VERSION}, got {version} in .*: search again"
    ):
        story(tmp_path)
    assert (tmp_path / FILE).exists()
