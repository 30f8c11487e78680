"""What ends a search before its trials are used up: what is counted, who goes on, and what is said."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from rich.console import Console

from search_spaces import Domain
from tests.test_population import Made
from tuner import budgets
from tuner.budgets import Budgets, in_words, search_seconds
from tuner.control import REQUEST
from tuner.journal import Journal, Story, story
from tuner.population import Population
from tuner.progress import Board
from tuner.samplers import Listed
from tuner.settings import make, seconds_of

EPOCHS = 4


def counting(folder: Path, **limits: Any) -> Budgets:
    """Budgets of a search of 8 trials, going on from the journal that lies in the folder, if one does."""
    board = Board(Console(quiet=True))
    journal = Journal(folder)
    board.story = story(folder)
    return Budgets(make({"method": "kd", "trials": 8, **limits}), 8, journal, board)


def begin(made: Budgets, *numbers: int) -> None:
    for n in numbers:
        known = {"id": f"kd-{n:03d}", "number": n, "kind": "search", "role": "trial"}
        told = {**known, "method": "kd", "seed": 0, "hyper": {"alpha": 0.1 * n}, "epochs": EPOCHS}
        made.board.take(made.journal.write("student", **told))


def report(
    made: Budgets, number: int, epoch: int, accuracy: float | None = 0.5, **more: Any
) -> bool:
    """One report, counted and written down as a search does; whether it is the trial's last."""
    identity = f"kd-{number:03d}"
    told = {"val/accuracy": accuracy, "epoch": epoch, "done": epoch == EPOCHS, **more}
    last = made.stops("ray", {**told, "config": {"id": identity, "number": number}})
    made.board.take(made.journal.write("epoch", id=identity, metrics={"val/accuracy": accuracy}))
    return last


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1d", 86400)]
)
def test_a_time_in_seconds(text: str, seconds: float) -> None:
    """By hand."""
    assert seconds_of(text) == seconds


def test_epochs_of_all_trials_are_counted_each_once(tmp_path: Path) -> None:
    """Five epochs: a retried one is the same one; the report that uses the budget up is the last of its trial."""
    made = counting(tmp_path, budget_epochs=5)
    begin(made, 0, 1, 2)
    ends = [report(made, 1, 1), report(made, 1, 1), report(made, 2, 1), report(made, 2, 2)]
    assert ends == [False] * 4 and not made.over
    assert not report(made, 0, 1) and not made.over
    assert report(made, 1, 2) and made.over
    assert made.board.story.results["budget"]["reason"] == "--budget-epochs 5"


def test_when_a_budget_is_used_up_the_default_alone_goes_on(tmp_path: Path) -> None:
    """Trial 0 is trained in full, others end with their next report, a last report ends by itself, none is begun."""
    made = counting(tmp_path, budget_epochs=1)
    begin(made, 0, 1, 2)
    assert [report(made, 0, 1), report(made, 0, 2)] == [False, False]
    assert [report(made, 1, 1), report(made, 2, EPOCHS)] == [True, False]
    assert made.stopped == {"kd-001"}
    assert [made.refuses(n) for n in (0, 1, 7)] == [False, True, True]


def test_a_target_is_reached_in_any_epoch_and_who_reached_it_goes_on(tmp_path: Path) -> None:
    """Equal reaches; what is none, diverged or failed does not."""
    made = counting(tmp_path, target=0.9)
    begin(made, 0, 1, 2, 3)
    for accuracy, more in ((math.nan, {}), (None, {}), (0.95, {"diverged": "ce"})):
        assert not report(made, 1, 1, accuracy, **more) and not made.over
    assert not report(made, 2, 2, 0.9) and made.over
    assert [report(made, 2, 3, 0.1), report(made, 3, 1)] == [False, True]
    reason = made.board.story.results["budget"]["reason"]
    assert reason == "--target 0.9 (kd-002 reached 0.9 in epoch 2)"


def test_a_request_from_outside_is_heard_once(tmp_path: Path) -> None:
    """The file that --stop leaves is taken away when it has been heard."""
    made = counting(tmp_path)
    begin(made, 0, 1)
    assert not report(made, 1, 1)
    (tmp_path / REQUEST).touch()
    assert report(made, 1, 2) and not (tmp_path / REQUEST).exists()
    assert in_words(made.board.story) == "ended by --stop after 2 of 8 trials"


def test_time_is_counted_from_where_the_search_was(tmp_path: Path) -> None:
    """An hour was spent before, of a budget of an hour; of two hours there is some left."""
    journal = Journal(tmp_path)
    journal.write("phase", name="search")
    journal.close()
    assert not counting(tmp_path, time_budget="1h").over
    for hours, over in ((0.5, False), (1.5, True)):
        made = counting(tmp_path, time_budget="1h")
        made.seconds_before = 3600 * hours
        assert made.over == over


def test_seconds_of_the_search_by_hand() -> None:
    """Teaching, the time between, and the confirmation are not the search's: 10 + 5 + 3."""
    told = [
        *((0, "search"), (50, "phase", "search"), (60, "epoch")),
        *((1000, "resumed"), (1100, "phase", "search"), (1105, "close")),
        *(
            (2000, "resumed"),
            (2010, "phase", "search"),
            (2013, "phase", "confirm"),
            (2500, "close"),
        ),
    ]
    events = [{"time": t, "event": kind, "name": "".join(name)} for t, kind, *name in told]
    assert search_seconds(events) == 18
    assert search_seconds(events[:3]) == 10
    assert search_seconds([]) == 0


def test_a_search_that_goes_on_remembers_what_was_spent_and_how_it_ended(tmp_path: Path) -> None:
    """Three of five epochs were trained before; then the budget stays used up, and open trials end."""
    made = counting(tmp_path, budget_epochs=5)
    begin(made, 0, 1)
    for epoch in (1, 2, 3):
        report(made, 1, epoch)
    again = counting(tmp_path, budget_epochs=5)
    begin(again, 2)
    assert not again.over and not report(again, 0, 1) and report(again, 2, 1)
    last = counting(tmp_path, budget_epochs=5)
    assert last.over
    last.end_the_rest()
    told = {s.id: (s.status, s.reason) for s in story(tmp_path).of_kind("search")}
    ended = ("stopped", "budget")
    assert told == {"kd-000": ("running", ""), "kd-001": ended, "kd-002": ended}


def test_a_search_that_had_all_its_trials_was_not_ended_by_a_budget(tmp_path: Path) -> None:
    """The last epoch of the last trial used it up."""
    made = counting(tmp_path, budget_epochs=8 * EPOCHS)
    begin(made, *range(8))
    for n in range(8):
        ends = [report(made, n, epoch) for epoch in range(1, EPOCHS + 1)]
        assert ends == [False] * EPOCHS
        made.board.take(made.journal.write("end", id=f"kd-{n:03d}", status="finished"))
    assert made.over and in_words(made.board.story) == "" == in_words(Story())


def test_a_list_hands_out_what_is_not_refused() -> None:
    listed = Listed([{"number": n} for n in range(4)], lambda number: number in (1, 3))
    assert [listed.suggest(str(n)) for n in range(3)] == [{"number": 0}, {"number": 2}, "FINISHED"]


class Controller:
    """Ray's, as far as a scheduler may end a trial."""

    def stop_trial(self, trial: Any) -> None:
        trial.status = Trial.TERMINATED


def test_a_population_takes_no_turn_after_its_budget(tmp_path: Path) -> None:
    """Who waits at a turn ends there; the default goes on past it."""
    made = counting(tmp_path, budget_epochs=4)
    begin(made, 0, 1)
    space = {"alpha": Domain("uniform", 0, 1)}
    population = Population(8, 2, space, 0, lambda _: {}, lambda *_: None, made)
    trials: list[Any] = [Made({"id": f"kd-{n:03d}", "number": n, "hyper": {}}) for n in (0, 1)]
    for trial in trials:
        population.on_trial_add(None, trial)
        told = {"epoch": 2, "ranked_epoch": 2, "epochs": 8, "val/accuracy": 0.5}
        report(made, trial.config["number"], 1)
        assert population.on_trial_result(None, trial, told) == TrialScheduler.PAUSE
        trial.status = Trial.PAUSED
    assert population.choose_trial_to_run(Controller()) is None
    report(made, 0, 3)
    assert population.choose_trial_to_run(Controller()) is trials[0]
    assert trials[1].status == Trial.TERMINATED and made.stopped == {"kd-001"}
    told = {"epoch": 4, "ranked_epoch": 4, "epochs": 8, "val/accuracy": 0.5}
    assert population.on_trial_result(None, trials[0], told) == TrialScheduler.CONTINUE


def test_what_is_left_of_each_budget(tmp_path: Path) -> None:
    """By hand: 2 of 5 epochs, 20 minutes of an hour; an accuracy that is none is not the best."""
    made = counting(tmp_path, budget_epochs=5, time_budget="1h", target=0.9)
    begin(made, 0)
    report(made, 0, 1, 0.75)
    report(made, 0, 2, math.nan)
    given = made.settings.model_dump(mode="json")
    assert budgets.left(given, made.board.story, 1200) == [
        "--budget-epochs 5: 3 left",
        "--time-budget 1h: 40 min 0 s left",
        "--target 0.9: best so far 0.75",
    ]
    assert budgets.left({}, Story(), 0) == []


def test_estimates_by_hand() -> None:
    """8 trials of 20 epochs, 2 seconds an epoch."""
    settings = make({"method": "kd", "budget_epochs": 30, "time_budget": "1m", "target": 0.9})
    lines = budgets.estimates(settings, 8, 20, 2.0)
    assert lines[:3] == [
        "--trials 8: at most 160 epochs, about 5 min 20 s",
        "--budget-epochs 30: 1.5 full trainings, about 1 min 0 s",
        "--time-budget 1m: about 30 epochs, 1.5 full trainings",
    ]
    assert budgets.estimates(settings, 8, 20, None)[1:3] == [
        "--budget-epochs 30: 1.5 full trainings",
        "--time-budget 1m: not known how many epochs",
    ]
