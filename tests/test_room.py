"""A disk that fills up: one message, status 1, what was written is whole, and --resume goes on once there is room."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tune as command
from tests.conftest import Command, start
from trainables.checkpoint import STATE, read_state, write_state
from tuner import room, search
from tuner.failures import Tally
from tuner.journal import FILE, Journal, read, story
from tuner.progress import Board
from tuner.recorder import TOLD, Recorder
from tuner.shelf import Shelf

SIZES = {"small": "1m", "large": "128m"}


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk of its own, as large as the test's marker says; skipped where nobody may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = SIZES[request.param]
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all the room there is."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(2**16)):
                pass
        except OSError as error:
            assert error.errno == errno.ENOSPC
    return filler


@pytest.mark.parametrize("disk", ["small"], indirect=True)
def test_a_journal_on_a_full_disk_stays_whole(disk: Path) -> None:
    """Lines are there whole or not at all, and it goes on when there is room: against what was written."""
    journal = Journal(disk)
    journal.write("first")
    filler = fill(disk)
    written = 0
    with pytest.raises(OSError, match="No space left"):
        while journal.write("more", content="x" * 700):
            written += 1
    kinds = [event["event"] for event, _ in read(disk / FILE)]
    assert kinds == ["first", *["more"] * written]
    assert (disk / FILE).read_bytes().endswith(b"\n")
    filler.unlink()
    journal.write("last")
    journal.close()
    assert [event["event"] for event, _ in read(disk / FILE)] == [*kinds, "last"]


@pytest.mark.parametrize("disk", ["small"], indirect=True)
def test_a_checkpoint_on_a_full_disk_leaves_the_one_before(disk: Path) -> None:
    write_state(disk, {"epoch": 1})
    fill(disk)
    with pytest.raises(OSError, match="No space left"):
        write_state(disk, {"epoch": 2, "weights": list(range(10**5))})
    assert read_state(disk)["epoch"] == 1
    assert [path.name for path in disk.glob(f".{STATE}*")] == []


@pytest.mark.parametrize("disk", ["small"], indirect=True)
def test_a_search_is_not_begun_without_room(disk: Path) -> None:
    with pytest.raises(ValueError, match=r"--out must have 32.0 MB free at least, got .* MB in"):
        room.check(disk / "not" / "there")
    with pytest.raises(room.NoRoomError):
        room.watch(disk)


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as found:
        return found


FULL = OSError(errno.ENOSPC, "No space left on device")
CASES = [
    (FULL, True),
    (raised(RuntimeError("Tune has failed"), FULL), True),
    (RuntimeError("the worker said: OSError: [Errno 28] No space left on device"), True),
    (OSError(errno.EROFS, "Read-only file system"), True),
    (PermissionError(errno.EACCES, "Permission denied", "/out/kd/events.jsonl"), True),
    (PermissionError(errno.EACCES, "Permission denied", "/data/images"), False),
    (RuntimeError("a bug"), False),
    (KeyboardInterrupt(), False),
]


@pytest.mark.parametrize(("error", "expected"), CASES)
def test_what_counts_as_no_room(error: BaseException, expected: bool) -> None:
    """A failed write, ours or in words or as the cause of something else; a bug and a foreign file are none."""
    assert (room.cause(error, Path("/out/kd")) is not None) == expected


def test_the_message_names_folder_room_and_command(tmp_path: Path) -> None:
    told = room.in_words(tmp_path, FULL, "python tune.py --resume kd-1")
    assert told.startswith(
        f"{tmp_path} must be a folder that can be written to, got: No space left"
    )
    assert "MB free)" in told and told.endswith("go on with: python tune.py --resume kd-1")


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 1), (errno.EIO, None)])
def test_no_room_before_a_search_has_begun(
    number: int,
    status: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line and status 1; any other error of the system is none of these, and is not hidden."""

    def full(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number), "/out/kd/settings.json")

    monkeypatch.setattr(search, "run", full)
    with nullcontext() if status else pytest.raises(OSError):
        assert command.main(["--method", "kd"]) == status
    told = "kdtune: /out/kd/settings.json must be writable, got: No space left on device\n"
    assert capsys.readouterr().err == (told if status else "")


@pytest.mark.parametrize("failed", [True, False])
def test_a_student_that_could_not_write_has_not_failed(failed: bool, tmp_path: Path) -> None:
    """Its epoch or its checkpoint met a full disk: the search ends, and the journal tells of no failure."""
    recorder = Recorder(Journal(tmp_path), Board(), Shelf(tmp_path, 1, ()), Tally(1))
    reason = "OSError: [Errno 28] No space left on device"
    error = tmp_path / "error.txt"
    error.write_text(reason)
    config = {**dict.fromkeys(TOLD), "id": "kd-000", "epochs": 4}
    trial: Any = SimpleNamespace(config=config, error_file=str(error), num_failures=1)
    recorder.last["kd-000"] = {"failed": reason}
    with pytest.raises(room.NoRoomError):
        if failed:
            recorder.on_trial_complete(1, [], trial)
        else:
            recorder.on_trial_error(1, [], trial)
    assert list(read(tmp_path / FILE)) == []


@pytest.mark.parametrize("disk", ["large"], indirect=True)
def test_a_search_whose_disk_fills_up_goes_on_when_there_is_room(
    disk: Path, tune: Callable[..., Command]
) -> None:
    """All is taken while it trains: status 1, one message, a whole journal; then it is resumed to its end."""
    small = ("--trials", "4", "--epochs", "4", "--confirm-top", "1", "--confirm-seeds", "2")
    small += ("--teacher", "convnet8", "--teacher-epochs", "4")
    more = ("--max-concurrent", "1", "--evaluate", "none", "--out", disk, "--name", "full")
    process = start("--method", "kd", *small, *more)
    assert process.stdout
    filler = None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("[1/"):
            filler = fill(disk)
    err = process.stderr.read() if process.stderr else ""
    assert process.wait(60) == 1 and filler, (lines, err)
    assert "must be a folder that can be written to, got: " in lines[-1] + lines[-2]
    assert "--resume full" in lines[-1] and "Traceback" not in err
    told = story(disk / "full")
    assert "failed" not in {student.status for student in told.students.values()}
    filler.unlink()
    assert shutil.disk_usage(disk).free > room.LEAST
    resumed = tune("--resume", "full", "--out", disk)
    assert resumed.status == 0, resumed.out + resumed.err
    assert {student.status for student in story(disk / "full").students.values()} <= {
        "finished",
        "stopped",
    }
