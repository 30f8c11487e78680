"""Choosing finalists and winner, and the tables made of the answer, on made-up journals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainables.evaluation.sanity import MASKING
from tuner import confirm, evaluation_report, judging, league, plan, report, teacher_report
from tuner.journal import Journal, Story, Student
from tuner.plan import Plan
from tuner.settings import make


@pytest.fixture(scope="module")
def planned() -> Plan:
    return plan.make(make({"method": "kd", "confirm_top": 2, "confirm_seeds": 2}))


def trial(number: int, accuracy: float, epochs: int = 20, **changed: Any) -> Student:
    """A search trial that reached `epochs` of 20."""
    hyper = {"temperature": float(number), "alpha": 0.5}
    status = "finished" if epochs == 20 else "stopped"
    history = [{"val/accuracy": accuracy}] * epochs
    known = {"status": status, "history": history, **changed}
    return Student(f"kd-{number:03d}", number, "search", "trial", "kd", 0, hyper, 20, **known)


def told(accuracies: dict[str, list[float]]) -> Story:
    """A story in which each role's students of seeds 1 and 2 ended at these accuracies."""
    students = {}
    for role, values in accuracies.items():
        for seed, value in enumerate(values, 1):
            history = [{"val/accuracy": value}] * 20
            identity = f"{role}-seed{seed}"
            one = Student(identity, 0, "confirm", role, "kd", seed, {}, 20, "finished", "", history)
            students[identity] = one
    return Story(students=students)


def test_finalists_are_the_best_trained_in_full_then_those_that_got_furthest(planned: Plan) -> None:
    """A stopped trial's higher early accuracy does not count against a finished one."""
    trials = [
        trial(1, 0.9),
        trial(2, 0.99, 5),
        trial(3, 0.8, 10),
        trial(5, 0.95, status="diverged"),
    ]
    assert [s.number for s in confirm.finalists(planned, trials)] == [1, 3]


def test_equal_finalists_come_in_the_order_of_their_numbers(planned: Plan) -> None:
    trials = [trial(7, 0.9), trial(3, 0.9), trial(5, 0.9)]
    assert [s.number for s in confirm.finalists(planned, trials)] == [3, 5]


def test_published_default_is_no_finalist(planned: Plan) -> None:
    default = trial(4, 1.0)
    default.hyper = planned.published
    assert confirm.finalists(planned, [default, trial(1, 0.5)]) == [trial(1, 0.5)]


def test_winner_has_the_highest_mean_and_a_tie_goes_to_the_default(planned: Plan) -> None:
    options = confirm.contenders(planned, [trial(1, 0.9), trial(2, 0.8)])
    values = {"vanilla": [1.0, 1.0], "default": [0.9, 0.8], "finalist-1": [0.8, 0.9]}
    story = told({**values, "finalist-2": [0.7, 0.7]})
    assert confirm.choose(planned, story, options).role == "default"
    story = told({**values, "finalist-2": [0.7, 1.01]})
    assert confirm.choose(planned, story, options).role == "finalist-2"


def test_a_contender_that_was_not_trained_with_every_seed_cannot_win(planned: Plan) -> None:
    options = confirm.contenders(planned, [trial(1, 0.9)])
    story = told({"default": [0.5, 0.5], "finalist-1": [0.9, 0.9]})
    story.students["finalist-1-seed2"].status = "diverged"
    assert confirm.choose(planned, story, options).role == "default"
    story.students["default-seed1"].status = "failed"
    with pytest.raises(ValueError, match="at least one finalist must be trained with every seed"):
        confirm.choose(planned, story, options)


def test_searching_the_plain_student_compares_it_with_its_own_default() -> None:
    planned = plan.make(make({"method": "vanilla"}))
    roles = [contender.role for contender in confirm.contenders(planned, [])]
    assert roles == ["default"]


def measured(worst: Any, masked: Any) -> dict[str, Any]:
    """What the suite found, as far as tables show it: plain numbers or lists over seeds."""
    robust = {"robust/linf_0.1/fgsm": worst, "robust/linf_0.1/worst": worst}
    flags = {"flags/zero_gradients": masked, "flags/noise_costs": masked}
    return {**robust, **flags, "calibration/nll": worst, "agreement/top1": worst}


def answer(winner: str = "finalist-1") -> dict[str, Any]:
    """Tuned: 0.90, 0.94; default: 0.89, 0.91; plain: 0.80, 0.90."""

    def row(a: float, b: float) -> dict[str, Any]:
        return {
            "val": [a, b],
            "val_best": [a, b + 0.02],
            "accuracy": [a, b],
            "measured": measured([a / 2, b / 2], [0.0, 1.0]),
        }

    rows = {"vanilla": row(0.80, 0.90), "default": row(0.89, 0.91), "tuned": row(0.90, 0.94)}
    teacher = {"model": "t", "val": 0.95, "accuracy": 0.96, "measured": measured(0.4, 0.0)}
    teacher |= {"temperature": 1.5, "nll": 0.2, "calibrated_nll": 0.1, "recorded": None}
    teacher |= {"source": "trained here", "normalisation": "its own", "members": []}
    teacher |= {"elsewhere": False}
    return {
        "winner": winner,
        "trial": "kd-001",
        "hyper": {"temperature": 2.0},
        "seeds": [1, 2],
        **{"tier": "quick", "epsilon": 0.1, "threat": "linf_0.1", "champion": {}},
        "rows": rows,
        "finalists": [],
        "registered_as": "kdtune-digits-convnet4",
        "teacher": teacher,
    }


def test_comparison_shows_paired_differences_and_the_worst_case_with_its_flags() -> None:
    """Tuned minus plain: +10 and +4 points, mean 7; minus default: +1 and +3, mean 2; seed 2 is masked."""
    rows = {row[0]: row for row in report.comparison(answer())}
    assert rows["tuned"][4].startswith("+7.00 ±") and rows["tuned"][5].startswith("+2.00 ±")
    assert rows["published default"][4].startswith("+5.00 ±") and rows["published default"][5] == ""
    assert rows["tuned"][-2].startswith("46.00 ±") and rows["tuned"][-1] == "masked 1 of 2"
    assert rows["teacher t"][-2:] == ["40.00", ""]


def test_an_unresolved_difference_says_how_many_seeds_would_resolve_it(planned: Plan) -> None:
    """By hand: mean 2, deviation sqrt(2): t(0.975, 4) sqrt(2 / 5) = 1.76 < 2 <= t(0.975, 3) sqrt(2 / 4) = 2.25."""
    said = report.sentences(planned, answer())
    assert said[1].endswith(
        "which these 2 seeds do not tell from 0 (about 5 would, if the difference is as seen)."
    )


def test_last_and_best_epoch_stand_beside_each_other_by_name() -> None:
    """Tuned: 0.90 and 0.94 at the last, 0.90 and 0.96 at the best; a journal of old knows the last alone."""
    header, *rows = report.comparison(answer())
    assert header[1:4] == ["val, last epoch", "val, best epoch", "test"]
    assert [cell.partition(" ")[0] for cell in rows[2][1:4]] == ["92.00", "93.00", "92.00"]
    old = answer()
    for row in old["rows"].values():
        del row["val_best"]
    assert [row[2] for row in report.comparison(old)[1:]] == [""] * 4


def test_masked_gradients_are_said_with_who_shows_them(planned: Plan) -> None:
    """On the terminal as in the report; a caveat in the report alone."""
    said = report.sentences(planned, answer())
    who = "plain student, 1 of 2 seeds; published default, 1 of 2 seeds; tuned, 1 of 2 seeds"
    assert f"Masked gradients ({who}): {MASKING['zero_gradients']}" in said[-1]
    in_report = evaluation_report.sentences(answer())
    assert in_report[1] == said[-1] and in_report[2].startswith(f"Caveat ({who})")


def test_where_no_flag_is_raised_that_is_said() -> None:
    clean = answer()
    for row in clean["rows"].values():
        row["measured"] = measured([0.4, 0.4], [0.0, 0.0])
    assert evaluation_report.sentences(clean)[1].startswith("No flag is raised")
    assert {row[-1] for row in report.comparison(clean)[1:]} == {""}


def test_without_a_tier_there_are_no_robust_columns() -> None:
    """Accuracy and loss alone, and the report says why."""
    bare = {**answer(), "tier": "none"}
    for row in (*bare["rows"].values(), bare["teacher"]):
        row["measured"] = {}
    assert {len(row) for row in report.comparison(bare)} == {6}
    assert evaluation_report.robust_rows(evaluation_report.networks(bare)) == []
    assert evaluation_report.quality_rows(evaluation_report.networks(bare)) == []
    assert evaluation_report.summary(bare) == {}
    assert "--evaluate none" in evaluation_report.sentences(bare)[0]


@pytest.mark.parametrize(
    ("tier", "radii"), [("none", []), ("quick", [0.15]), ("standard", [0.05, 0.1, 0.15])]
)
def test_quick_attacks_at_the_datasets_own_radius_alone(tier: str, radii: list[float]) -> None:
    """The own radius is among the others and not attacked twice."""
    assert [t.epsilon for t in judging.threats_of(tier, "digits", 1, 0.15)] == radii


def test_a_published_radius_is_attacked_too() -> None:
    """CCKD's on CIFAR-10 in pixels: 0.05 of the range from -1 to 1; on MNIST it is the dataset's own, once."""
    quick = judging.threats_of("quick", "cifar10", 3, 1 / 255, "cckd")
    assert [threat.epsilon for threat in quick] == [1 / 255, 0.025]
    assert len(judging.threats_of("standard", "mnist", 1, 0.15, "cckd")) == 3


def test_report_tables_have_a_row_for_each_network_and_radius() -> None:
    """The champion's own, stronger evaluation stands beside; what only it has is empty elsewhere."""
    full = answer()
    full["champion"] = {"measured": {**measured(0.3, 0.0), "robust/linf_0.1/aa": 0.3}}
    rows = evaluation_report.robust_rows(evaluation_report.networks(full))
    assert rows[0] == ["network", "radius", "FGSM", "worst case", "AutoAttack", "flags"]
    known = [confirm.ROLES[role] for role in full["rows"]]
    assert [row[0] for row in rows[1:]] == [*known, "teacher", "champion"]
    assert rows[-1] == ["champion", "linf 0.1", "30.00", "30.00", "30.00", ""]
    assert rows[-2][4] == ""
    assert evaluation_report.quality_rows(evaluation_report.networks(full))[-1] == [
        "champion",
        "0.300",
        "30.00",
    ]
    assert evaluation_report.summary(full)["champion/robust/linf_0.1/aa"] == 0.3
    assert evaluation_report.summary(full)["robust/linf_0.1/worst_tuned"] == pytest.approx(0.46)


def test_where_the_default_wins_it_is_said_and_not_compared_with_itself(planned: Plan) -> None:
    rows = {row[0]: row for row in report.comparison(answer("default"))}
    assert rows["tuned"][5] == "the same"
    said = report.sentences(planned, answer("default"))
    assert said[0].startswith("The search found nothing better on validation")
    assert not any("minus published default" in sentence for sentence in said)


@pytest.mark.parametrize(
    ("best", "words"),
    [
        (2.0, "they agree within a factor of 1.5"),
        (6.0, "do not agree, it lies a factor of 4 above"),
    ],
)
def test_report_says_whether_calibration_finds_the_temperature_that_teaches_best(
    planned: Plan, best: float, words: str
) -> None:
    """The teacher's own is 1.5: 2 is a factor of 1.33 from it, 6 one of 4."""
    found = {**answer(), "hyper": {"temperature": best, "alpha": 0.5}}
    (said,) = teacher_report.sentences(planned, found)
    assert said.startswith("The teacher is best calibrated at T = 1.5; the search's best temperat")
    assert words in said


def test_report_of_a_temperature_that_was_not_searched_compares_nothing() -> None:
    fixed = plan.make(make({"method": "kd", "set": ["temperature=4"]}))
    found = answer()
    found["teacher"]["elsewhere"] = True
    said = teacher_report.sentences(fixed, found)
    assert said[0] == "The teacher is best calibrated at T = 1.5." and "flatter" in said[1]
    assert [len(row) for row in teacher_report.rows(found["teacher"])] == [8, 8]


def made_league(folder: Path, answers: dict[str, dict[str, Any] | None]) -> None:
    """A league `l` of these methods, each with its answer; without one its search has not begun."""
    searches = [{"name": f"l-{method}", "method": method} for method in answers]
    (folder / "l").mkdir()
    (folder / "l" / league.RECORD).write_text(json.dumps({"version": 1, "searches": searches}))
    for method, found in answers.items():
        if found is not None:
            (folder / f"l-{method}").mkdir()
            journal = Journal(folder / f"l-{method}")
            journal.write("answer", **found)
            journal.close()


def better() -> dict[str, Any]:
    """Tuned: 0.99 and 0.99."""
    found = answer()
    found["rows"]["tuned"] = {**found["rows"]["tuned"], "accuracy": [0.99, 0.99]}
    return found


def test_league_is_sorted_by_test_accuracy_and_shows_what_is_missing(tmp_path: Path) -> None:
    made_league(tmp_path, {"at": answer(), "dkd": better(), "crd": None})
    rows = league.table(tmp_path / "l")[1:]
    assert [row[0] for row in rows] == ["dkd", "at", "plain convnet4", "crd"]
    assert rows[0][2].startswith("99.00") and rows[3][1] == "not finished"
    assert {len(row) for row in league.table(tmp_path / "l")} == {8}


def test_leagues_page_has_the_pairs_of_those_that_are_finished(tmp_path: Path) -> None:
    """By hand: dkd is 9 and 5 points above at, mean 7; crd is in no pair."""
    made_league(tmp_path, {"at": answer(), "dkd": better(), "crd": None})
    folder = tmp_path / "l"
    page = league.page(folder, league.table(folder), league.tuned_accuracies(folder))
    assert "0 of 1 pairs differ (paired t-test over 2 seeds" in page
    assert "| 1 dkd |  | +7.00 |" in page
    assert "Searched: at 0 trials, 0 epochs; dkd" in page


def test_budgets_are_equal_or_named() -> None:
    """By hand: a grid of two temperatures has the published default and two cells; three and dkd's default make 4."""
    methods = ("kd", "dkd")
    equal = [plan.make(make({"method": m, "trials": 5, "epochs": 3})) for m in methods]
    assert "Equal budget: 5 trials of up to 3 epochs for each of 2" in league.budget_in_words(equal)
    grids = {"kd": ["temperature=grid(1,2)", "alpha=0.5"], "dkd": ["temperature=grid(1,2,3)"]}
    grids["dkd"] += ["tckd=1", "nckd=8", "warmup=0"]
    other = [
        plan.make(make({"method": m, "search": "grid", "set": s, "epochs": 3}))
        for m, s in grids.items()
    ]
    assert "kd 3 of 3, dkd 4 of 3" in league.budget_in_words(other)
