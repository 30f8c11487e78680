"""Looking at a search, stopping and extending it: on made-up folders, and on real searches from another process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Command, start
from tests.test_confirm import trial
from tests.test_settings import league, out, refused  # noqa: F401
from tuner import confirm, control, extension, plan, status
from tuner.control import REQUEST, SETTINGS, locked
from tuner.journal import FILE, Journal, Story, Student, read, story
from tuner.settings import make

SMALL = (
    *("--method", "kd", "--trials", "3", "--epochs", "3", "--confirm-top", "1"),
    *("--confirm-seeds", "2", "--evaluate", "none"),
)


def written(folder: Path, *events: dict[str, Any], **asked: Any) -> Path:
    """A search's folder: its settings, and a journal of these events behind the first."""
    folder.mkdir(parents=True)
    settings = make({"method": "kd", "name": folder.name, **asked})
    (folder / SETTINGS).write_text(settings.model_dump_json())
    journal = Journal(folder)
    told = settings.model_dump(mode="json") | {"search": "gp", "scheduler": "none"}
    journal.write("search", version=2, name=folder.name, settings=told)
    for event in events:
        journal.write(**event)
    journal.close()
    return folder


def student(number: int, epochs: int, end: str = "") -> Iterator[dict[str, Any]]:
    """A trial's events; an accuracy of 0.5, and 0.1 more each epoch."""
    known = {"id": f"kd-{number:03d}", "number": number, "kind": "search", "role": "trial"}
    hyper = {"temperature": number + 1.0}
    yield {"event": "student", **known, "method": "kd", "seed": 0, "hyper": hyper, "epochs": 4}
    for epoch in range(epochs):
        metrics = {"val/accuracy": 0.5 + 0.1 * epoch}
        yield {"event": "epoch", "id": known["id"], "metrics": metrics}
    if end:
        yield {"event": "end", "id": known["id"], "status": end}


def phase(name: str) -> dict[str, Any]:
    return {"event": "phase", "name": name}


def test_status_of_a_running_search(tmp_path: Path) -> None:
    """Its words, by hand: of 8 trials one is done, one runs; best, budgets and epochs as they are."""
    events = [phase("search"), *student(0, 4, "finished"), *student(1, 2)]
    folder = written(tmp_path / "mine", *events, trials=8, budget_epochs=10)
    (now,) = [e["time"] for e, _ in read(folder / FILE) if e.get("number") == 1]
    with locked(folder):
        lines = status.search_lines(folder, now)
    assert lines[0].startswith("mine: running (process ") and lines[0].endswith(", searching")
    assert lines[2:] == [
        "trials    2 of 8: 1 running, 1 finished; 6 epochs",
        "budget    --budget-epochs 10: 4 left",
        "best      kd-000 epoch 4/4, val accuracy 80.00%, temperature 1",
        "running   kd-001 epoch 2/4, val accuracy 60.00%, temperature 2, begun 0 s ago",
    ]


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("finished", "not running, finished"),
        ("interrupted", "not running, interrupted; --resume mine goes on"),
        ("", "not running, ended without a word; --resume mine goes on"),
    ],
)
def test_status_of_a_search_that_does_not_run(end: str, words: str, tmp_path: Path) -> None:
    """As it closed; a killed one could not say so."""
    close = [{"event": "close", "status": end}] if end else []
    folder = written(tmp_path / "mine", phase("search"), *student(0, 1), *close)
    assert status.search_lines(folder, time.time())[0] == f"mine: {words}"


def test_status_and_stop_know_the_names_there_are(
    out: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line, status 2; what does not run cannot be stopped, nor what is confirming."""
    written(out / "done", {"event": "close", "status": "finished"})
    for flag in ("--status", "--stop"):
        told = refused((flag, "nobody", "--out", str(out)), capsys)
        assert told == f"{flag} must name a search in {out}, got 'nobody'; known: done"
        told = refused((flag, "done", "--out", str(out), "--trials", "3"), capsys)
        assert told == f"{flag} must stand alone but for --out, got --trials too"
    told = refused(("--stop", "done", "--out", str(out)), capsys)
    assert told == "--stop must name a search that is running, got done, which is not"
    confirming = written(out / "late", phase("search"), phase("confirm"))
    with locked(confirming):
        told = refused(("--stop", "late", "--out", str(out)), capsys)
    assert told == "--stop must come before the confirmation, got late: it is confirming"
    assert not (confirming / REQUEST).exists()


def test_stopping_a_league_ends_all_its_searches(out: Path) -> None:
    """The request lies in the folder of each that is trained, and of none that is confirming."""
    league(out, "kd", "dkd", "crd")
    running = [written(out / f"mine-{name}", phase("search")) for name in ("kd", "dkd")]
    late = written(out / "mine-crd", phase("search"), phase("confirm"))
    with ExitStack() as stack:
        for folder in (out / "mine", *running, late):
            stack.enter_context(locked(folder))
        assert control.stop("mine", {"out": out}) == 0
        lines = status.league_lines(out / "mine")
    assert all((folder / REQUEST).exists() for folder in running)
    assert not (late / REQUEST).exists()
    assert lines[0].endswith(", 3 searches")


def test_a_second_driver_is_refused(tmp_path: Path) -> None:
    """A request that came too late is forgotten by the next driver."""
    (tmp_path / REQUEST).touch()
    with locked(tmp_path):
        assert control.driver(tmp_path) is not None and not (tmp_path / REQUEST).exists()
        with pytest.raises(ValueError, match="a search must have one driver, got a second"):
            locked(tmp_path).__enter__()
    assert control.driver(tmp_path) is None


@pytest.mark.parametrize(
    ("asked", "trials", "ended", "message"),
    [
        ({}, "2", "", "must be more than the search has begun, 2, got 2"),
        ({}, "many", "", "--trials must be a valid integer, got 'many'"),
        ({}, "9", "--time-budget 2h", "its budget does not let: it ended by --time-budget 2h"),
        ({"search": "grid"}, "9", "", "which a grid cannot"),
        ({"scheduler": "pbt"}, "9", "", "which a population cannot"),
    ],
)
def test_what_cannot_be_extended(
    asked: dict[str, Any], trials: str, ended: str, message: str
) -> None:
    """Two trials were begun."""
    budget = {"budget": {"event": "budget", "reason": ended}} if ended else {}
    told = Story(results=budget, students={s.id: s for s in (trial(0, 0.5), trial(1, 0.5))})
    with pytest.raises(ValueError, match=message):
        extension.extended(make({"method": "kd", **asked}), told, trials)


def test_an_extended_search_keeps_how_it_draws_and_stops(tmp_path: Path) -> None:
    """With 64 trials `auto` would be TPE under ASHA; the first 3 were drawn by a Gaussian process, without stops."""
    events = [*student(0, 4, "finished"), {"event": "budget", "reason": "--stop", "kept": []}]
    opened = [{"event": "test_opened"}, {"event": "answer"}, {"event": "close"}]
    folder = written(tmp_path / "mine", *events, *opened, trials=3)
    told = story(folder)
    settings = make({"method": "kd", "out": tmp_path, "name": "mine", "trials": 3})
    planned = plan.make(extension.extended(settings, told, "64"))
    assert (planned.n_trials, planned.search, planned.scheduler) == (64, "gp", "none")
    extension.begin(planned, told)
    assert set(told.results) == {"extended"} == set(story(folder).results)
    assert extension.times_opened(told) == 1 and '"trials": 64' in (folder / SETTINGS).read_text()
    told.add({"event": "test_opened"})
    assert extension.opening(extension.times_opened(told)).startswith("a second time")


def test_who_was_confirmed_before_is_not_trained_again() -> None:
    """The second of the old finalists is first now and keeps its name; a new one gets a new one, as does the plain."""
    planned = plan.make(make({"method": "kd", "set": ("lr=loguniform(0.01,0.1)",)}))
    old, same, new = (trial(n, 0.9) for n in (1, 2, 3))
    for one, lr in ((old, 0.02), (same, 0.03), (new, 0.04)):
        one.hyper["lr"] = lr
    first = confirm.contenders(planned, [old, same])
    assert [c.identity(1) for c in first[2:]] == ["finalist-1-seed1", "finalist-2-seed1"]
    past = [Student(c.identity(1), 0, "confirm", c.role, c.method, 1, c.hyper, 20) for c in first]
    again = confirm.contenders(planned, [old, same], earlier=past)
    assert [c.name for c in again] == [c.name for c in first]
    later = confirm.contenders(planned, [same, new, old], earlier=past)
    assert {c.role: c.name for c in later} == {
        "vanilla": "vanilla-2",  # of the recipe of another leader
        "default": "default",
        "finalist-1": "finalist-2",
        "finalist-2": "finalist-2-2",
        "finalist-3": "finalist-1",
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def test_a_finished_search_is_extended(runs: Path, tune: Callable[..., Command]) -> None:
    """Against the first answer: who was trained before stands; the test set is opened once more, and that is said."""
    whole = tune(*SMALL, "--out", runs, "--name", "first")
    assert whole.status == 0, whole.err
    before = story(runs / "first")
    more = tune("--resume", "first", "--trials", "5", "--out", runs)
    assert more.status == 0, more.err
    told = story(runs / "first")
    assert [s.number for s in told.of_kind("search")] == [0, 1, 2, 3, 4]
    kinds = [line.split('"')[3] for line in (runs / "first" / FILE).read_text().splitlines()]
    assert kinds.count("test_opened") == 2 and kinds.count("answer") == 2
    for identity, one in before.students.items():
        assert told.students[identity].history == one.history
    assert "test set opened a second time (the search was extended after the answer" in more.out
    report = (runs / "first" / "report.md").read_text()
    assert "The test set was opened a second time" in report
    assert "extended from 3 to 5 trials" in report


def test_a_running_search_is_looked_at_and_stopped_from_outside(
    runs: Path, tune: Callable[..., Command]
) -> None:
    """It learns from the first search's trials, tells how far it is, ends in order and confirms what it has."""
    process = start(
        *(*SMALL, "--trials", "999", "--out", runs, "--name", "second"),
        *("--warm-start", "first", "--budget-epochs", "2900", "--time-budget", "1d"),
    )
    assert process.stdout
    for line in process.stdout:
        if line.startswith("[2/"):
            break
    looked = tune("--status", "second", "--out", runs)
    asked = tune("--stop", "second", "--out", runs)
    rest, errors = process.communicate(timeout=300)
    assert (looked.status, asked.status, process.returncode) == (0, 0, 0), errors
    assert "second: running (process " in looked.out and "--budget-epochs 2900: " in looked.out
    told = story(runs / "second")
    trials = told.of_kind("search")
    assert trials[0].complete and len(trials) < 999
    assert {s.status for s in trials} <= {"finished", "stopped"}
    assert f"ended by --stop after {len(trials)} of 999 trials" in rest
    assert "warm start: 5 trials of first" in (runs / "second" / "report.md").read_text()
    assert told.results["close"]["status"] == "finished"
    assert tune("--stop", "second", "--out", runs).status == 2
