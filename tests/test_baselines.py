"""The second search that tunes a baseline: what it searches, whom it serves, and what the report makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import test_confirm as confirmed
from tuner import baselines, confirm, league, plan, report
from tuner.journal import Journal, Story, story
from tuner.plan import Plan
from tuner.progress import Board
from tuner.settings import make


def planned(method: str, **given: Any) -> Plan:
    return plan.make(
        make({"method": method, "name": f"m-{method}", "tune_baseline": True, **given})
    )


def words(found: Plan) -> dict[str, str]:
    return {name: str(value) for name, value in found.space.items()}


def test_a_method_is_compared_with_plain_kd_of_the_same_budget() -> None:
    """Its own settings are no part of it; recipe and student are, searched or fixed."""
    asked = planned(
        "dkd",
        trials=6,
        epochs=3,
        scheduler="median",
        seed=7,
        set=["lr=loguniform(0.01,0.5)", "momentum=0.8", "warmup=0.1"],
    )
    (found,) = baselines.beside([asked]).plans
    space = {"temperature": "loguniform(1, 20)", "alpha": "uniform(0, 1)"}
    assert words(found) == {**space, "lr": "loguniform(0.01, 0.5)", "momentum": "0.8"}
    assert (found.name, found.settings.method, found.n_trials) == ("m-dkd-kd-tuned", "kd", 6)
    assert (found.scheduler, found.recipe, found.settings.seed) == ("median", asked.recipe, 7)
    assert found.settings.experiment == "m-dkd"


def test_plain_kd_is_compared_with_a_plain_student_whose_recipe_is_searched() -> None:
    """By hand: a tenth to ten times 0.05; what the plain student's own space names stays."""
    (found,) = baselines.beside([planned("kd")]).plans
    assert (found.settings.method, found.name) == ("vanilla", "m-kd-vanilla-tuned")
    assert words(found) == {
        "label_smoothing": "uniform(0, 0.3)",
        "lr": "loguniform(0.005, 0.5)",
        "weight_decay": "loguniform(1e-05, 0.01)",
    }


def test_a_grid_is_compared_with_as_many_trials() -> None:
    asked = planned(
        "dkd",
        search="grid",
        set=["tckd=grid(0.5,2)", "nckd=grid(4,8)", "temperature=4", "warmup=0"],
    )
    (found,) = baselines.beside([asked]).plans
    assert found.n_trials == asked.n_trials == 5
    assert found.search == "gp"


def test_a_condition_on_the_methods_own_setting_falls_away() -> None:
    """The baseline has no such setting."""
    asked = planned("dkd", set=["nckd=choice(4,8)", "lr=loguniform(0.01,0.5) when nckd=4"])
    (found,) = baselines.beside([asked]).plans
    assert words(found)["lr"] == "loguniform(0.01, 0.5)"


def test_in_a_league_one_search_serves_all_and_a_member_may_be_it() -> None:
    """kd's own search is the baseline of the others; and of ttm."""
    asked = [planned(m, name=f"l-{m}", experiment="l") for m in ("dkd", "kd", "vanilla", "ttm")]
    beside = baselines.beside(asked)
    assert [one.name for one in beside.plans] == ["l-vanilla-tuned"]
    assert beside.of == {"l-dkd": "l-kd", "l-kd": "l-vanilla-tuned", "l-ttm": "l-kd"}
    beside = baselines.beside([asked[0], asked[3]])
    assert beside.of == {"l-dkd": "l-kd-tuned", "l-ttm": "l-kd-tuned"}


def test_two_students_have_a_baseline_each() -> None:
    asked = [planned("dkd", experiment="l"), planned("ttm", experiment="l", student="convnet8")]
    assert [one.name for one in baselines.beside(asked).plans] == ["l-kd-tuned", "l-kd-tuned-2"]


def test_the_plain_student_has_no_baseline_but_itself() -> None:
    with pytest.raises(ValueError, match="--tune-baseline must have a method that has a baseline"):
        baselines.beside([planned("vanilla")])


def handed_over(tmp_path: Path, told: Story) -> Story:
    journal, board = Journal(tmp_path), Board()
    for _ in range(2):  # a search that goes on does it again
        baselines.hand_over(planned("dkd"), told, "m-dkd-kd-tuned", journal, board)
    journal.close()
    return story(tmp_path)


def test_its_best_fully_trained_trial_is_confirmed_with_the_finalists(tmp_path: Path) -> None:
    trials = [confirmed.trial(1, 0.8), confirmed.trial(2, 0.9), confirmed.trial(3, 0.99, epochs=5)]
    told = handed_over(tmp_path, Story(students={s.id: s for s in trials}))
    event = told.results[baselines.EVENT]
    options = confirm.contenders(planned("dkd"), [confirmed.trial(5, 0.7)], event)
    assert [c.role for c in options] == ["vanilla", "default", "kd-tuned", "finalist-1"]
    assert (options[2].method, options[2].hyper) == ("kd", trials[1].hyper)
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 1


def test_without_a_fully_trained_trial_there_is_no_contender(tmp_path: Path) -> None:
    stopped = confirmed.trial(1, 0.9, epochs=5)
    assert baselines.EVENT not in handed_over(tmp_path, Story(students={"kd-001": stopped})).results


def test_the_tuned_baseline_cannot_win() -> None:
    """It is what the winner is compared with."""
    asked = planned("dkd", confirm_seeds=2)
    event = {"role": "kd-tuned", "method": "kd", "hyper": {}}
    options = confirm.contenders(asked, [], event)
    told = confirmed.told({"vanilla": [0.5] * 2, "default": [0.6] * 2, "kd-tuned": [0.9] * 2})
    assert confirm.choose(asked, told, options).role == "default"


def answer() -> dict[str, Any]:
    """Tuned: 0.90, 0.94; tuned plain KD: 0.89, 0.94."""
    found = confirmed.answer()
    row = {**found["rows"]["default"], "accuracy": [0.89, 0.94], "hyper": {"temperature": 3.0}}
    tuned = found["rows"].pop("tuned")
    found["rows"] |= {"kd-tuned": row, "tuned": tuned}
    return found


def test_the_report_compares_with_it_and_stops_saying_that_it_was_not_measured() -> None:
    """By hand: +1 and 0 points, mean +0.5; the tuned baseline minus the default: 0 and +3."""
    asked = planned("dkd")
    rows = report.comparison(answer())
    assert rows[0][6] == "test minus tuned plain KD"
    by_name = {row[0]: row for row in rows}
    assert by_name["tuned"][6].startswith("+0.50 ±")
    assert by_name["tuned plain KD"][5].startswith("+1.50 ±")
    assert any("; minus tuned plain KD: " in said for said in report.sentences(asked, answer()))
    assert baselines.not_measured(asked, Story(results={baselines.EVENT: {}})) == ""
    assert "--tune-baseline" in baselines.not_measured(asked, Story())


def test_a_league_shows_it_beside_the_plain_student(tmp_path: Path) -> None:
    confirmed.made_league(tmp_path, {"dkd": answer()})
    names = [row[0] for row in league.table(tmp_path / "l")[1:]]
    assert names == ["dkd", "tuned plain KD convnet4", "plain convnet4"]
