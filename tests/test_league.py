"""A league as a user runs it: real processes, killed in the middle and gone on with."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import Command, start
from tests.test_search import no_run_stays_running, query
from tuner.journal import FILE, Story, story

LEAGUE = (
    *("--method", "kd", "dkd", "--trials", "3", "--epochs", "2", "--confirm-top", "1"),
    *("--confirm-seeds", "2", "--max-concurrent", "1", "--evaluate", "none", "--tune-baseline"),
)
SEARCHES = ("l-kd", "l-dkd", "l-vanilla-tuned")


class League(NamedTuple):
    """A league that was killed and has come to its end."""

    out: Path
    begun: dict[str, int]  # trials of each search before the kill
    resumed: Command

    def told(self, search: str) -> Story:
        return story(self.out / search)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, tune: Callable[..., Command]) -> League:
    """Killed when the second search's second trial had ended, resumed; two methods and kd's baseline."""
    out = tmp_path_factory.mktemp("runs")
    process = start(*LEAGUE, "--out", out, "--name", "l")
    assert process.stdout
    for line in process.stdout:
        if line.startswith("l-dkd [2/"):
            process.send_signal(signal.SIGKILL)
            break
    process.communicate(timeout=60)
    begun = {name: len(story(out / name).students) for name in SEARCHES}
    no_run_stays_running(out / "mlflow.db")
    resumed = tune("--resume", "l", "--out", out)
    assert resumed.status == 0, resumed.err
    return League(out, begun, resumed)


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = (json.loads(line[9:]) for line in (folder / FILE).read_text().splitlines())
    return [event for event in found if event["event"] == kind]


def test_all_searches_are_equally_far_at_any_time(ended: League) -> None:
    """By their starts: no search begins a trial two ahead of another, before the kill and after."""
    assert max(ended.begun.values()) - min(ended.begun.values()) <= 1
    starts: dict[tuple[str, str], float] = {}
    for name in SEARCHES:
        for event in events(ended.out / name, "student"):
            if event["kind"] == "search":
                starts.setdefault((name, event["id"]), event["time"])
    order = [name for name, _ in sorted(starts, key=lambda key: starts[key])]
    counts = [[order[:n].count(name) for name in SEARCHES] for n in range(len(order) + 1)]
    assert all(max(some) - min(some) <= 1 for some in counts)
    assert counts[-1] == [3, 3, 3]


def test_no_epoch_is_trained_twice_and_each_search_keeps_its_own_folder(ended: League) -> None:
    for name in SEARCHES:
        for student in ended.told(name).students.values():
            assert len(student.history) == student.epochs == 2
            assert (ended.out / name / "checkpoints" / student.id).is_dir()


def test_each_search_confirms_and_reports_and_the_baseline_only_searches(ended: League) -> None:
    for name in ("l-kd", "l-dkd"):
        assert (ended.out / name / "report.html").exists()
        assert len(events(ended.out / name, "test_opened")) == 1
    baseline = ended.told("l-vanilla-tuned")
    assert baseline.results["close"]["status"] == "finished" and "answer" not in baseline.results


def test_the_tuned_baselines_come_from_the_searches_beside(ended: League) -> None:
    """Against the journals: kd's is the plain student's best trial, dkd's the best of kd's own search."""
    pairs = {"l-kd": ("vanilla-tuned", "l-vanilla-tuned"), "l-dkd": ("kd-tuned", "l-kd")}
    for name, (role, source) in pairs.items():
        trials = ended.told(source).of_kind("search")
        best = max(trials, key=lambda s: (s.accuracy, -s.number))
        assert ended.told(name).results["answer"]["rows"][role]["hyper"] == best.hyper


def test_league_shows_all_and_says_which_differ(ended: League) -> None:
    page = (ended.out / "l" / "league.md").read_text()
    for words in ("kd", "dkd", "plain convnet4", "tuned plain convnet4", "tuned plain KD convnet4"):
        assert f"| {words} |" in page
    assert "of 1 pairs" in page and "of 1 pairs" in ended.resumed.out
    assert "Equal budget: 3 trials of up to 2 epochs for each of 2 methods" in page
    assert "Searched: kd 3 trials, 6 epochs; dkd 3 trials, 6 epochs." in page


def test_mlflow_has_each_student_once_in_the_leagues_experiment(ended: League) -> None:
    """Against the journals."""
    database = ended.out / "mlflow.db"
    no_run_stays_running(database)
    n_students = sum(len(ended.told(name).students) for name in SEARCHES)
    assert query(database, "select count(*) from runs") == [(n_students + len(SEARCHES),)]
    names = query(database, "select name from experiments where name != 'Default'")
    assert names == [("l",)]
    statuses = dict(query(database, "select status, count(*) from runs group by status"))
    assert set(statuses) == {"FINISHED"}


def test_a_league_that_has_ended_shows_its_table_again(
    ended: League, tune: Callable[..., Command]
) -> None:
    again = tune("--resume", "l", "--out", ended.out)
    assert again.status == 0 and "of 1 pairs" in again.out
    assert "Searched" not in again.err
