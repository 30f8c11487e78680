"""What a driver that died in mid-sentence had left unsaid; who may write where."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_journal import end, epoch, student, told
from trainables import teacher_ready
from tuner import claims
from tuner.control import locked
from tuner.journal import Journal, story
from tuner.progress import Board
from tuner.recovery import endings, settle


def saved_at(*epochs: int) -> dict[Path, int]:
    return {Path(f"checkpoint_{i}"): at for i, at in enumerate(epochs)}


def test_who_had_trained_the_last_epoch_has_finished() -> None:
    """Only with the weights of that epoch; else it is trained again. Those that ended, or go on, are left alone."""
    full = [epoch(0.5) for _ in range(4)]
    finished = ("kd-000", "finished", "")
    assert list(endings(told(student(), *full), lambda _: saved_at(3, 4))) == [finished]
    stopped = told(student(), *full, end("interrupted"))
    assert list(endings(stopped, lambda _: saved_at(4))) == [finished]
    assert list(endings(told(student(), *full), lambda _: saved_at(2, 3))) == []
    assert list(endings(told(student(), *full, end("finished")), lambda _: saved_at(4))) == []
    assert list(endings(told(student(), *full[:3]), lambda _: saved_at(3))) == []


def test_who_had_diverged_does_not_diverge_again() -> None:
    """The same words as the recorder's, with the epoch in which it happened."""
    ill = {**epoch(0.1), "diverged": "kd"}
    found = endings(told(student(), epoch(0.5), ill), lambda _: saved_at(2))
    assert list(found) == [("kd-000", "diverged", "kd was not finite in epoch 2")]


def test_what_is_settled_is_written(tmp_path: Path) -> None:
    board, journal = Board(), Journal(tmp_path)
    for event in (student(), *[epoch(0.5) for _ in range(4)]):
        journal.write(**event)
        board.story.add(event)
    settle(journal, board, lambda _: saved_at(4))
    journal.close()
    assert story(tmp_path).students["kd-000"].status == "finished"
    assert board.story.students["kd-000"].status == "finished"


def test_retries_and_epochs_trained_again_are_counted() -> None:
    """Over an interruption, too."""
    retried = {"event": "retried", "id": "kd-000", "kind": "lost", "reason": "why"}
    again = {"event": "repeated", "id": "kd-000", "epoch": 1}
    one = told(student(), epoch(0.5), retried, again, student()).students["kd-000"]
    assert (one.retries, one.repeated, len(one.history)) == (1, 1, 1)


def test_a_search_has_one_driver(tmp_path: Path) -> None:
    """The second is refused in one line with the first one's process, and nothing is changed."""
    words = r"one driver, got a second for .* \(process \d+ runs"
    with locked(tmp_path), pytest.raises(ValueError, match=words):
        locked(tmp_path).__enter__()
    with locked(tmp_path):
        pass


def test_of_two_new_searches_of_one_name_the_first_writes(tmp_path: Path) -> None:
    """A whole file or nothing, and never over another's."""
    path = tmp_path / claims.SETTINGS
    claims.write_new(path, "first")
    with pytest.raises(FileExistsError):
        claims.write_new(path, "second")
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "first"


def test_a_teacher_that_another_search_makes_is_waited_for(tmp_path: Path) -> None:
    """The lock of the process that makes it tells; a dead one's is gone."""
    assert not teacher_ready.busy(tmp_path / "none")
    with teacher_ready._locked(tmp_path):
        assert teacher_ready.busy(tmp_path)
    assert not teacher_ready.busy(tmp_path)
