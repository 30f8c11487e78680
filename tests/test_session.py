"""Ray's temporary folder: ours alone, gone at the end, swept where its driver was killed and only there."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tuner import session


def left_by_a_killed_driver(root: Path) -> Path:
    path = Path(tempfile.mkdtemp(prefix=session.PREFIX, dir=root))
    (path / session.MARKER).touch()
    return path


def test_it_is_gone_at_the_end_and_its_path_leaves_room_for_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the usual temporary folder has a long name: 107 bytes are a socket's limit, Ray takes 64."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 40)))
    with session.folder() as folder:
        assert folder.is_dir()
        assert len(bytes(folder)) + 64 <= 107
    assert not folder.exists()


def test_a_killed_drivers_folder_is_swept(tmp_path: Path) -> None:
    left = left_by_a_killed_driver(tmp_path)
    assert session.sweep(tmp_path) == [left]
    assert not left.exists()


def test_what_is_not_provably_dead_and_ours_stays(tmp_path: Path) -> None:
    """A folder without a marker, one of another name, one with a live driver, one with a process at work in it."""
    Path(tempfile.mkdtemp(prefix=session.PREFIX, dir=tmp_path))
    (tmp_path / "session_1").mkdir()
    (tmp_path / "session_1" / session.MARKER).touch()
    busy = left_by_a_killed_driver(tmp_path)
    (busy / "work.py").write_text("print('at work', flush=True); input()")
    worker = subprocess.Popen(
        [sys.executable, str(busy / "work.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert worker.stdout is not None
    worker.stdout.readline()  # its command line can be read only some moments after it was started
    held = left_by_a_killed_driver(tmp_path)
    import fcntl

    with (held / session.MARKER).open("w") as marker:
        fcntl.flock(marker, fcntl.LOCK_EX)
        assert session.sweep(tmp_path) == []
    worker.communicate(b"\n")
    assert sorted(session.sweep(tmp_path)) == sorted([busy, held])
