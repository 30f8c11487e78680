"""What the report shows of a search, on made-up searches: importance, early stopping, pictures, the page to explore."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import search_spaces
from tuner import figures, plan, safety_report, search_report
from tuner.figures import Seen, explore
from tuner.figures.seen import from_unit, is_log, unit
from tuner.figures.style import short
from tuner.figures.surface import surface
from tuner.importance import Importances, importances
from tuner.journal import Story
from tuner.plan import Plan
from tuner.settings import make

EPOCHS = 4


def planned_of(*space: str, **more: Any) -> Plan:
    known = {"method": "kd", "epochs": EPOCHS, "scheduler": "none", "confirm_seeds": 2}
    return plan.make(make({**known, "set": space, **more}))


def told_of(curves: list[list[float]], hypers: list[dict[str, Any]], stopped: Any = ()) -> Story:
    """A story of trials with these accuracies, epoch after epoch, all trained side by side."""
    told = Story()
    for i, hyper in enumerate(hypers):
        about = {"kind": "search", "role": "trial", "method": "kd", "seed": 0, "epochs": EPOCHS}
        told.add({"event": "student", "id": f"kd-{i:03d}", "number": i, "hyper": hyper, **about})
    for epoch in range(EPOCHS):
        for i, curve in enumerate(curves):
            if epoch < len(curve):
                found = {
                    "epoch": epoch + 1,
                    "ranked_epoch": epoch + 1,
                    "val/accuracy": curve[epoch],
                }
                told.add({"event": "epoch", "id": f"kd-{i:03d}", "metrics": found})
    for i in range(len(curves)):
        status = "stopped" if i in stopped else "finished"
        told.add({"event": "end", "id": f"kd-{i:03d}", "status": status})
    return told


def hypers_of(n: int) -> list[dict[str, Any]]:
    """Trials spread over temperature and alpha, the published default first."""
    draws = np.random.default_rng(0).random((n, 2))
    rest = [{"temperature": float(20**t), "alpha": float(a)} for t, a in draws]
    return [{"temperature": 4.0, "alpha": 0.9}, *rest[1:]]


CURVE = {
    "clean/accuracy": [0.9, 0.92],
    "robust/curve/linf_8_255": [0.5, 0.7],
    "robust/curve/linf_32_255": [0.1, 0.0],
    "robust/curve/linf_1": [0.0, 0.0],
    "flags/zero_gradients": [0.0, 1.0],
}  # as the suite names what it found, over two seeds


def test_the_curve_of_radii_by_hand() -> None:
    """Means over seeds, in 255ths, from the clean accuracy on; nothing where nothing was attacked."""
    found = figures.radii.radii(CURVE)
    assert found == pytest.approx({0.5: 91, 8: 60, 32: 5, 255: 0})
    assert figures.radii.radii({"clean/accuracy": [0.9, 0.9]}) == {}


def rising(ends: list[float]) -> list[list[float]]:
    return [[end * (epoch + 1) / EPOCHS for epoch in range(EPOCHS)] for end in ends]


def hill(hyper: dict[str, Any]) -> float:
    """Best at temperature 4; alpha plays no part."""
    return 0.9 - 0.1 * math.log(hyper["temperature"] / 4) ** 2


def seen_of(planned: Plan, told: Story) -> Seen:
    row = {"accuracy": [0.9, 0.92], "hyper": {}, "measured": CURVE}
    rows = {"vanilla": row, "default": row, "tuned": row}
    answer = {"trial": "kd-001", "winner": "finalist-1", "seeds": [1, 2], "rows": rows}
    answer |= {"teacher": {"measured": {}}, "champion": {}}
    return Seen(planned, told, answer, importances(planned, told))


@pytest.fixture(scope="module")
def seen() -> Seen:
    """20 trials of kd, two of them stopped at half."""
    hypers = hypers_of(20)
    curves = rising([hill(hyper) for hyper in hypers])
    curves[5:7] = [curve[:2] for curve in curves[5:7]]
    return seen_of(planned_of(), told_of(curves, hypers, stopped=(5, 6)))


def test_importance_finds_the_only_dimension_that_matters(seen: Seen) -> None:
    """Accuracies depend on temperature alone: nearly all is its doing, and the range holds the share."""
    first, second = seen.importances.shares
    assert first.name == "temperature" and first.share > 0.8
    assert first.share + second.share == pytest.approx(1)
    assert all(one.low <= one.share <= one.high for one in (first, second))
    assert "rough" in seen.importances.said and "18 trials" in seen.importances.said


@pytest.mark.parametrize(
    ("space", "ends", "reason"),
    [
        ((), [0.5, 0.6, 0.7], "they need 8 trials trained in full, and 3 were"),
        ((), [0.5] * 9, "all trials ended equal"),
        (("alpha=0.5",), [0.5 + i / 100 for i in range(9)], "fewer than two hyperparameters"),
    ],
)
def test_no_importance_without_cause(
    space: tuple[str, ...], ends: list[float], reason: str
) -> None:
    told = told_of(rising(ends), hypers_of(len(ends)))
    found = importances(planned_of(*space), told)
    assert found.rows() == [] and reason in found.said


def test_a_first_trial_outside_its_grid_has_no_part_in_importance() -> None:
    """The published default need not be a cell: nine cells remain."""
    space = ("temperature=grid(1,2,8)", "alpha=grid(0.1,0.5,0.7)")
    planned = planned_of(*space, search="grid")
    told = told_of(rising([0.5 + i / 50 for i in range(10)]), planned.grid)
    assert "between the 9 trials" in importances(planned, told).said


def test_asha_would_have_stopped_the_late_winner() -> None:
    """By hand: rungs at 1 and 2 stop whoever lies below the median of three or more, in the order of arrival."""
    early = [[0.5, 0.5, 0.5, 0.5], *[[0.6, 0.6, 0.6, 0.6]] * 3, [0.1, 0.2, 0.3, 0.99]]
    planned, told = planned_of(), told_of(early, hypers_of(5))
    assert safety_report.epochs_of_rungs(planned) == [planned.grace] == [2]
    assert safety_report.stopped_at(planned, told) == {"kd-004": 2}
    said = safety_report.sentences(planned, told)
    assert "stopped 1 of 5 and saved 2 of 20 epochs; the best trial, kd-004, would" in said[0]
    assert said[0].endswith("stopped at epoch 2.")
    assert "would have dropped the winner at epoch 2" in said[1]
    assert safety_report.rows(planned, told)[1][:4] == ["2", "5", "1", "5"]


def test_what_asha_did_is_told_where_it_ran() -> None:
    """Two stopped at the rung; of the six trained in full the order never changed."""
    ends = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
    curves = [curve[:2] if i > 5 else curve for i, curve in enumerate(rising(ends))]
    planned = planned_of(scheduler="asha")
    told = told_of(curves, hypers_of(8), stopped=(6, 7))
    header, row = safety_report.rows(planned, told)
    assert row == ["2", "8", "2", "6", "1.00"] and len(header) == len(row)
    assert safety_report.sentences(planned, told) == ["Nothing here speaks against early stopping."]


def test_too_few_trials_judge_no_rung() -> None:
    planned, told = planned_of(), told_of(rising([0.5, 0.6]), hypers_of(2))
    assert safety_report.rows(planned, told)[1][-1] == "too few"
    assert "Fewer than 5 trials" in safety_report.sentences(planned, told)[-1]


@pytest.mark.parametrize(
    "text", ["loguniform(1,20)", "uniform(0,1)", "grid(1,2,4,8,16)", "randint(1,5)"]
)
def test_places_on_an_axis_and_back(text: str) -> None:
    """0 and 1 are the ends; what goes there comes back."""
    domain = search_spaces.parse("temperature", text)
    assert isinstance(domain, search_spaces.Domain)
    assert is_log(domain) == text.startswith(("log", "grid"))
    for share in (0.0, 0.3, 1.0):
        assert unit(domain, from_unit(domain, share)) == pytest.approx(share)


def test_the_ground_of_the_map_passes_near_the_trials(seen: Seen) -> None:
    """Nearest cells against the trials' own accuracies: no further off than the hill's own slope; blank far away."""
    found = surface(seen, ("temperature", "alpha"))
    assert found is not None
    for one in seen.whole:
        column = np.abs(np.log(found.x / one.hyper["temperature"])).argmin()
        row = np.abs(found.y - one.hyper["alpha"]).argmin()
        clipped = max(100 * one.accuracy, seen.limits[0])
        assert found.accuracy[row, column] == pytest.approx(clipped, abs=2)
    few = seen_of(seen.planned, told_of(rising([0.5, 0.6]), hypers_of(2)))
    assert surface(few, ("temperature", "alpha")) is None


def test_far_from_every_trial_the_map_is_blank(seen: Seen) -> None:
    near = [{"temperature": 1 + i / 10, "alpha": i / 50} for i in range(8)]
    told = told_of(rising([0.5 + i / 50 for i in range(8)]), near)
    found = surface(seen_of(seen.planned, told), ("temperature", "alpha"))
    assert found is not None
    assert math.isnan(found.accuracy[-1, -1]) and math.isfinite(found.accuracy[0, 0])


def test_every_picture_says_what_it_shows(seen: Seen, tmp_path: Path) -> None:
    """PNG files, each with words that hold the numbers."""
    drawn = figures.draw(seen, tmp_path)
    assert set(drawn) == set(figures.DRAWERS) - {"adversarial"}  # no examples are kept here
    for picture in drawn.values():
        assert picture.path.read_bytes()[:4] == b"\x89PNG" and len(picture.caption) > 40
    assert "18 circles" in drawn["landscape"].caption and "2 outlines" in drawn["landscape"].caption
    assert "Star: chosen, temperature" in drawn["slices"].caption
    assert "Masked gradients (plain student, published default, tuned)" in drawn["radii"].caption


@pytest.mark.parametrize(
    ("space", "missing"),
    [
        (("alpha=0.5",), {"landscape", "parallel", "importance"}),
        (("mode=choice(cse,mse)", "alpha=0.5"), {"landscape", "importance"}),
        (("temperature=4", "alpha=0.9"), {"landscape", "parallel", "slices", "importance"}),
    ],
)
def test_only_what_there_is_is_drawn(
    space: tuple[str, ...], missing: set[str], tmp_path: Path
) -> None:
    """One dimension has no map; nothing searched leaves what the trials did."""
    planned = planned_of(*space)
    known = {"temperature": 4.0, "alpha": 0.9, "mode": "cse"}
    hypers = [{name: known[name] for name in ("temperature", "alpha", "mode")}] * 3
    found = seen_of(planned, told_of(rising([0.5, 0.6, 0.7]), hypers))
    drawn = set(figures.draw(found, tmp_path))
    assert set(figures.DRAWERS) - drawn == {"adversarial", *missing}
    explore.write(found, tmp_path / "search.html")


def test_trials_that_diverged_at_once_do_not_stop_the_pictures(tmp_path: Path) -> None:
    """NaN from the first epoch on, and a trial without any."""
    told = told_of([[math.nan], [0.5] * 4, []], hypers_of(3))
    told.students["kd-000"].status, told.students["kd-002"].status = "diverged", "failed"
    assert "curves" in figures.draw(seen_of(planned_of(), told), tmp_path)
    explore.write(seen_of(planned_of(), told), tmp_path / "search.html")


def test_the_page_to_explore_is_one_file_and_names_every_trial(seen: Seen, tmp_path: Path) -> None:
    """Nothing is fetched: no script, style or picture from elsewhere; text of users is escaped."""
    path = tmp_path / "search.html"
    seen.told.students["kd-003"].hyper["note"] = "<script>"
    explore.write(seen, path)
    del seen.told.students["kd-003"].hyper["note"]
    page = path.read_text(encoding="utf-8")
    assert all(student.id in page for student in seen.students)
    assert re.search(r"<(script|img|link|iframe)[^>]*\s(src|href)=", page) is None
    assert "note <script>" not in page and "kd-001, chosen" in page


def test_trials_in_words_are_ordered_as_finalists_are(seen: Seen) -> None:
    """Those trained in full by accuracy, then those that got furthest; the best epoch beside the last."""
    header, *rows = search_report.trial_rows(seen.told)
    assert [len(row) for row in (header, *rows)] == [6] * 21
    assert [row[2] for row in rows[-2:]] == ["stopped"] * 2
    accuracies = [float(row[4]) for row in rows[:18]]
    assert accuracies == sorted(accuracies, reverse=True)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-4, "1e-4"),
        (1.5e-6, "1.5e-6"),
        (0.001, "0.001"),
        (4.4721, "4.47"),
        (0, "0"),
        (256, "256"),
    ],
)
def test_numbers_on_axes_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_importances_without_shares_have_no_rows() -> None:
    assert Importances((), "why").rows() == []
