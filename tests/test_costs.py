"""Costs of the teacher: against sums worked by hand."""

from __future__ import annotations

from pathlib import Path

from tuner.costs import in_words, rows, teacher_costs
from tuner.journal import Story, Student


def student(*epochs: dict[str, float]) -> Student:
    return Student("kd-001", 1, "search", "trial", "kd", 0, {}, 4, history=list(epochs))


COMPUTED = {"teacher/found": 0.0, "teacher/live": 0.0, "teacher/seconds": 4.0}
FOUND = {"teacher/found": 1.0, "teacher/live": 0.0, "teacher/seconds": 0.5}
LIVE = {"teacher/found": 0.0, "teacher/live": 1.0, "teacher/seconds": 9.0}


def test_saved_is_the_price_of_what_was_read_less_the_reading() -> None:
    """3 read at 0.5 s, 2 computed at 4 s each: 3 * 4 - 1.5 = 10.5 s; 3 of 5 were read."""
    costs = teacher_costs([student(COMPUTED, FOUND, FOUND), student(COMPUTED, FOUND), student({})])
    assert costs.saved_seconds == 10.5
    assert costs.hit_rate == 0.6


def test_live_epochs_count_neither_as_read_nor_as_computed(tmp_path: Path) -> None:
    """A search with a live teacher alone says so."""
    costs = teacher_costs([student(LIVE, LIVE)])
    assert (costs.found, costs.computed, costs.live, costs.saved_seconds) == (0, 0, 2, 0.0)
    assert in_words(costs, tmp_path) == "A live teacher answered in 2 epochs."


def test_a_search_without_a_teacher_says_nothing(tmp_path: Path) -> None:
    """The plain student's."""
    assert in_words(teacher_costs([student({"val/accuracy": 0.5})]), tmp_path) == ""


def test_the_cost_of_each_part_and_of_all_together() -> None:
    """By hand, 100 training images: a trial of 3 epochs, one computed, two read; seconds are a student's so far."""
    trial = student(
        {**COMPUTED, "seconds": 5.0}, {**FOUND, "seconds": 6.0}, {**FOUND, "seconds": 7.0}
    )
    confirmed = Student(
        "c", 0, "confirm", "default", "kd", 1, {}, 1, history=[{**LIVE, "seconds": 9.0}]
    )
    _, *found = rows(Story(students={"t": trial, "c": confirmed}), 100)
    assert found == [
        ["search", "1", "3", "7", "100", "200"],
        ["confirmation", "1", "1", "9", "100", "0"],
        ["together", "2", "4", "16", "200", "200"],
    ]
