"""The teacher's mistakes in the report, against counts worked by hand; what the report says that it does not know."""

from __future__ import annotations

from typing import Any

from tuner import mistakes_report


def answer(wrong: float = 4.0) -> dict[str, Any]:
    """Two seeds: of the teacher's 4 mistakes 1 and 3 are repaired; 5 and 7 of 96 right answers are lost."""
    measured = {
        "agreement/teacher_wrong": [wrong, wrong],
        "agreement/teacher_right": [100 - wrong] * 2,
        "agreement/repaired": [1.0, 3.0] if wrong else [0.0, 0.0],
        "agreement/lost": [5.0, 7.0],
    }
    return {"rows": {"default": {"measured": {}}, "tuned": {"measured": measured}}}


def test_mistakes_are_counted() -> None:
    """Repeated 3 and 1, mean 2; repaired 1 and 3; repeated 75 and 25 %: mean 50."""
    header, row = mistakes_report.rows(answer())
    assert len(header) == len(row) and row[0] == "tuned"
    assert [cell.partition(" ")[0] for cell in row[1:]] == ["2.00", "2.00", "6.00", "50.00"]
    (said,) = mistakes_report.sentences(answer())
    assert "4 of 100 test images wrong" in said and "repeats 2.0 of these" in said


def test_a_teacher_without_mistakes_has_none_to_repeat() -> None:
    assert mistakes_report.rows(answer(0.0))[1][-1] == ""
    assert "no mistake to repeat" in mistakes_report.sentences(answer(0.0))[0]


def test_what_was_not_measured_is_not_shown() -> None:
    bare = {"rows": {"tuned": {"measured": {}}}}
    assert mistakes_report.rows(bare) == mistakes_report.sentences(bare) == []
