"""Warm start: which trials of an earlier search the sampler is told, and what is refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from tests.test_samplers import PUBLISHED, ending, play, result, searcher
from tuner import plan, warm
from tuner.control import SETTINGS
from tuner.journal import FILE, Journal, Story
from tuner.settings import make

NEAR = {"temperature": 8.0, "alpha": 0.3}


def earlier(out: Path, name: str, *trials: tuple[dict[str, Any], str, int], **asked: Any) -> None:
    """A search on the disk whose trials had (values, status, epochs of 4)."""
    (out / name).mkdir(parents=True)
    (out / name / SETTINGS).write_text("{}")
    planned = plan.make(make({"method": "kd", **asked}))
    settings = planned.settings.model_dump(mode="json") | {
        "teacher": planned.teacher,
        "student": planned.student,
        "epochs": planned.recipe.epochs,
    }
    journal = Journal(out / name)
    journal.write("search", version=2, name=name, settings=settings)
    for n, (hyper, status, epochs) in enumerate(trials):
        known = {"id": f"kd-{n:03d}", "number": n, "kind": "search", "role": "trial", "seed": 0}
        journal.write("student", **known, method="kd", hyper=hyper, epochs=4)
        for epoch in range(epochs):
            metrics = {"val/accuracy": 0.5 + 0.1 * epoch}
            journal.write("epoch", id=f"kd-{n:03d}", metrics=metrics)
        journal.write("end", id=f"kd-{n:03d}", status=status)
    journal.close()


def given(out: Path, *names: str, **more: Any) -> dict[str, Any]:
    return warm.given(plan.make(make({"method": "kd", "out": out, "warm_start": names, **more})))


def test_finished_and_stopped_trials_are_given_and_nothing_else(tmp_path: Path) -> None:
    """By hand: diverged, failed, running ones and those outside the space are not."""
    whole, early, far = (NEAR, "finished", 4), (PUBLISHED, "stopped", 2), {**NEAR, "alpha": 2.0}
    rest = [(NEAR, status, 1) for status in ("diverged", "failed", "interrupted")]
    earlier(tmp_path, "first", whole, early, (far, "finished", 4), *rest)
    found = given(tmp_path, "first")
    told = [(one["source"], one["id"], one["values"], one["result"]) for one in found["trials"]]
    assert told == [
        ("first", "kd-000", NEAR, {"val/accuracy": 0.8, "epoch": 4, "epochs": 4}),
        ("first", "kd-001", PUBLISHED, {"val/accuracy": 0.6, "epoch": 2, "epochs": 4}),
    ]
    assert found["words"] == ["2 trials of first (1 outside the space left out)"]
    (tmp_path / "first" / FILE).unlink()
    values = [values for values, _ in warm.lessons(Story(results={"warm": found}))]
    assert values == [NEAR, PUBLISHED]


def test_what_the_earlier_search_had_fixed_is_a_value_too(tmp_path: Path) -> None:
    """Its trials lie in this search's space, where more is searched or less."""
    earlier(tmp_path, "first", (NEAR, "finished", 4))
    assert given(tmp_path, "first", set=("alpha=0.5",))["trials"][0]["values"] == {
        "temperature": 8.0
    }


def test_a_dimension_without_its_condition_is_not_missing(tmp_path: Path) -> None:
    space = ("mode=choice(cse,mse)", "temperature=loguniform(1,20) when mode=cse", "alpha=0.5")
    earlier(tmp_path, "first", ({"mode": "mse", "alpha": 0.5}, "finished", 4))
    (one,) = given(tmp_path, "first", set=space)["trials"]
    assert one["values"] == {"mode": "mse"}


def test_another_question_is_allowed_and_said(tmp_path: Path) -> None:
    earlier(tmp_path, "other", (NEAR, "finished", 4), dataset="mnist", epochs=7)
    earlier(tmp_path, "same", (NEAR, "finished", 4))
    other, same = given(tmp_path, "other", "same")["words"]
    assert other.startswith("1 trial of other; they answered another question (dataset mnist, here")
    assert "epochs 7, here 20" in other and other.endswith("and only guide this one")
    assert same == "1 trial of same"


@pytest.mark.parametrize(
    ("names", "more", "message"),
    [
        (
            ["nobody"],
            {},
            "--warm-start must name a search in .*, got 'nobody'; known: empty, first",
        ),
        (["empty"], {}, "must name a search with finished trials, got none in empty"),
        (["first"], {"name": "first"}, "must name an earlier search with trials, got 'first'"),
        (
            ["first"],
            {"set": ("lr=loguniform(0.01,0.1)",)},
            "got first, matching dimensions: temperature, alpha; missing: lr",
        ),
        (
            ["first"],
            {"set": ("temperature=uniform(1,5)",)},
            r"got none in first; outside it: temperature \(uniform\(1, 5\)\)",
        ),
        (["first"], {"search": "random"}, "a sampler that learns .*, got --search random"),
        (["first"], {"scheduler": "pbt"}, "got --search qmc"),
        (["first"], {"set": ("temperature=4", "alpha=1")}, "got nothing searched"),
    ],
)
def test_what_cannot_be_learnt_from(
    names: list[str], more: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """One line that says what must hold, which dimensions match, and what came."""
    earlier(tmp_path, "first", (NEAR, "finished", 4))
    earlier(tmp_path, "empty")
    with pytest.raises(ValueError, match=message):
        given(tmp_path, *names, **more)


@pytest.mark.parametrize("search", warm.LEARNERS)
def test_the_published_default_is_first_all_the_same(search: str) -> None:
    """Told as complete, or as pruned where the sampler hears of that; numbers and budget are the search's own."""
    found = searcher(search, n_trials=3)
    found.learn([(NEAR, result(0.9)), ({**NEAR, "alpha": 0.4}, result(0.7, 3))])
    states = [t.state for t in found.study.trials]
    early = TrialState.PRUNED if search == "tpe" else TrialState.COMPLETE
    assert states == [TrialState.COMPLETE, early]
    configs = play(found, 3)
    assert configs[0]["hyper"] == PUBLISHED and [c["number"] for c in configs] == [0, 1, 2]
    assert found.suggest("x") == "FINISHED"


@pytest.mark.parametrize("search", warm.LEARNERS)
def test_what_was_learnt_is_learnt_again_by_a_search_that_goes_on(search: str) -> None:
    """After 6 trials, against a searcher that was not interrupted; without the lessons it draws others."""
    lessons = [(config["hyper"], ending(config)) for config in play(searcher(search, seed=7), 12)]
    whole, again, cold = searcher(search), searcher(search), searcher(search)
    whole.learn(lessons)
    past = play(whole, 6)
    for one, known in ((again, lessons), (cold, [])):
        one.learn(known)
        one.replay([(config, ending(config), False) for config in past])
    following = play(whole, 3)
    assert play(again, 3) == following != play(cold, 3)
