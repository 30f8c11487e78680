"""The shelf: which checkpoints stay on the disk."""

from __future__ import annotations

from pathlib import Path

from trainables.checkpoint import write_state
from tuner.journal import Student
from tuner.shelf import Shelf, newest


def student(
    identity: str, accuracy: float, status: str = "finished", kind: str = "search"
) -> Student:
    history = [{"val/accuracy": accuracy}] * 4
    return Student(
        identity, int(identity[-3:]), kind, "trial", "kd", 0, {}, 4, status, history=history
    )


def saved(folder: Path, identity: str, epoch: int) -> Path:
    path = folder / identity / f"checkpoint_{epoch:06d}"
    path.mkdir(parents=True)
    write_state(path, {"epoch": epoch + 1})
    return path


def left(folder: Path) -> dict[str, list[int]]:
    return {
        path.name: sorted(int(one.name[-6:]) for one in path.iterdir())
        for path in sorted(folder.iterdir())
    }


def test_the_two_newest_checkpoints_of_each_student_stay(tmp_path: Path) -> None:
    """Folders after two students took turns; one that somebody has deleted already is no trouble."""
    shelf = Shelf(tmp_path, 1, ())
    for epoch in range(4):
        for name in ("kd-000", "kd-001"):
            path = saved(tmp_path, name, epoch)
            shelf.add(name, path)
            if epoch == 1:
                (path / "state.pt").unlink()
    assert left(tmp_path) == {"kd-000": [2, 3], "kd-001": [2, 3]}


def test_of_trials_that_ended_the_best_few_keep_their_last(tmp_path: Path) -> None:
    """Two of five: those stopped early come after those trained in full, whatever their accuracy."""
    shelf = Shelf(tmp_path, 2, ())
    ends = [student("kd-000", 0.5), student("kd-001", 0.9, "stopped"), student("kd-002", 0.7)]
    ends += [student("kd-003", 0.7), student("kd-004", 0.9, "diverged")]
    for one in ends:
        for epoch in range(3):
            shelf.add(one.id, saved(tmp_path, one.id, epoch))
        shelf.end(one)
    assert {name: kept for name, kept in left(tmp_path).items() if kept} == {
        "kd-002": [2],
        "kd-003": [2],
    }


def test_confirmed_students_keep_their_last(tmp_path: Path) -> None:
    """They are judged later; one that diverged never is."""
    shelf = Shelf(tmp_path, 1, ())
    for one in (
        student("x-001", 0.1, kind="confirm"),
        student("x-002", 0.1, "diverged", "baseline"),
    ):
        shelf.add(one.id, saved(tmp_path, one.id, 0))
        shelf.end(one)
    assert left(tmp_path) == {"x-001": [0], "x-002": []}


def test_what_a_killed_driver_left_is_taken_away(tmp_path: Path) -> None:
    """Of those that ended; the newest by its epoch, not by its name; who is under way keeps all that can be read."""
    for name in ("kd-000", "kd-001", "kd-002"):
        for epoch in (3, 0, 1):
            saved(tmp_path, name, epoch)
    (tmp_path / "kd-000" / "checkpoint_000003" / "state.pt").write_bytes(b"cut short")
    past = [student("kd-000", 0.9), student("kd-001", 0.1), student("kd-002", 0.5, "running")]
    Shelf(tmp_path, 1, past)
    assert left(tmp_path) == {"kd-000": [1], "kd-001": [], "kd-002": [0, 1, 3]}
    assert newest(tmp_path / "kd-001") is None
