"""The same again: a whole search in batches on other slots, and one student from its MLflow run alone."""

from __future__ import annotations

import json
import math
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from safetensors.torch import load_file

import tune as program
from tests.conftest import Command
from trainables.checkpoint import read_state
from trainables.trainable import Task
from tuner import ingredients, plan
from tuner.delivery import replay_tag
from tuner.journal import Story, story
from tuner.replaying import Difference, as_stored, compare, compared, likely_reason
from tuner.settings import make

SMALL = (
    *("--method", "kd", "--epochs", "4", "--scheduler", "asha", "--set", "alpha=0.9"),
    *("--confirm-top", "1", "--confirm-seeds", "2", "--evaluate", "none"),
)
# a learning rate with which nothing is learnt, so that some trials are surely stopped
BATCHES = (
    *("--batch-mode", "--max-concurrent", "2", "--trials", "8"),
    *("--set", "temperature=loguniform(1,20)", "--set", "lr=choice(0.05,0.000001)"),
)
FREE = (
    "--search",
    "grid",
    "--set",
    "temperature=grid(4,8)",
    "--set",
    "lr=grid(0.05,0.04,0.000001)",
)
FIRST = {"train/ce": 0.5, "val/accuracy": 0.75, "val/loss": math.nan, "train/kd": math.inf}


class Runs(NamedTuple):
    """Three small searches in one folder: two in batches, on all cores and on one, and an asynchronous one."""

    out: Path
    told: dict[str, Story]

    def run_of(self, student: str) -> str:
        """The MLflow run of a student of the asynchronous search."""
        known = json.loads((self.out / "free" / "tracking.json").read_text())["runs"]
        return str(known[student])

    def one(self, status: str) -> str:
        """The best of its trials that ended so."""
        ended = [s for s in self.told["free"].of_kind("search") if s.status == status]
        return max(ended, key=lambda student: (student.accuracy, -student.number)).id


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tune: Callable[..., Command]) -> Runs:
    out = tmp_path_factory.mktemp("repeated")
    found = {}
    for name, flags, cores in (("all", BATCHES, None), ("alone", BATCHES, 1), ("free", FREE, None)):
        command = on_cores(cores, tune, *SMALL, *flags, "--out", out, "--name", name)
        assert command.status == 0, command.err
        found[name] = story(out / name)
    return Runs(out, found)


def on_cores(n: int | None, tune: Callable[..., Command], *arguments: str | Path) -> Command:
    """Run the command on so many of this process's cores."""
    if n is None or sys.platform != "linux":
        return tune(*arguments)
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(own)[:n])
    try:
        return tune(*arguments)
    finally:
        os.sched_setaffinity(0, own)


def told_of(told: Story) -> dict[str, Any]:
    """All that a journal says but for the clock's part, student by student."""
    found: dict[str, Any] = {
        s.id: (s.hyper, s.status, [{n: m[n] for n in compared(m)} for m in s.history])
        for s in told.students.values()
    }
    answer = told.results["answer"]
    return {**found, "rows": answer["rows"], "winner": answer["winner"], "hyper": answer["hyper"]}


def test_a_search_in_batches_repeats_exactly_on_other_slots(runs: Runs) -> None:
    """Two searches of one seed, on all cores and on one: journals equal but for times and the order of arrival."""
    assert told_of(runs.told["all"]) == told_of(runs.told["alone"])
    statuses = {s.status for s in runs.told["all"].of_kind("search")}
    assert statuses == {"finished", "stopped"}
    for told in (runs.told["all"], runs.told["alone"]):
        assert told.results["precision"]["chosen"] == "float32"
        assert told.results["precision"]["milliseconds"] == {}


@pytest.mark.parametrize("status", ["finished", "stopped"])
def test_a_trial_is_trained_again_from_its_run(
    status: str, runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against MLflow's record of an asynchronous search, and against the weights of its checkpoint, bit for bit."""
    student = runs.one(status)
    run_id, before = runs.run_of(student), (runs.out / "mlflow.db").read_bytes()
    assert program.main(["--replay", run_id, "--out", str(runs.out)]) == 0
    printed = capsys.readouterr().out
    n_epochs = len(runs.told["free"].students[student].history)
    assert printed.count("equal in") == n_epochs
    assert f"Equal to the recorded run in every metric of {n_epochs} epochs." in printed
    weights = load_file(runs.out / "replays" / run_id / "champion.safetensors")
    kept = list((runs.out / "free" / "checkpoints" / student).glob("checkpoint_*"))
    assert len(kept) == (status == "finished")  # one finalist was asked for
    for folder in kept:
        expected = read_state(folder)["student"]
        assert all(weights[f"student.{name}"].equal(x) for name, x in expected.items())
    assert (runs.out / "mlflow.db").read_bytes() == before


def test_a_difference_is_said_with_its_place_and_size(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copy of the store in which one recorded value has been changed."""
    run_id, database = runs.run_of("kd-000"), tmp_path / "mlflow.db"
    shutil.copy(runs.out / "mlflow.db", database)
    with sqlite3.connect(database) as connection:
        connection.execute(
            "update metrics set value = value + 0.5 where run_uuid = ? and key = 'train/kd' and step = 2",
            (run_id,),
        )
    uri = f"sqlite:///{database}"
    assert program.main(["--replay", run_id, "--out", str(runs.out), "--tracking-uri", uri]) == 1
    printed = capsys.readouterr().out
    assert "First difference: train/kd of epoch 2 is" in printed and "by 0.5." in printed
    assert "The likely reason: a processor of another model" in printed


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as error:
        program.main(["--replay", *arguments])
    assert error.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    return told


def test_what_cannot_be_replayed_is_one_line(
    runs: Runs, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No such run, the search's own, no store, settings beside it, no teacher."""
    out, run_id = str(runs.out), runs.run_of("kd-000")
    assert "must be the id of a run in MLflow, got 'no'" in refused(capsys, "no", "--out", out)
    own = runs.run_of("")
    assert "got the search's own" in refused(capsys, own, "--out", out)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # MLflow has put it there when it was asked
    assert "got no /nowhere/mlflow.db" in refused(capsys, run_id, "--out", "/nowhere")
    assert "got --seed too" in refused(capsys, run_id, "--seed", "1", "--out", out)
    kept, away = runs.out / "teachers", runs.out / "elsewhere"
    kept.rename(away)
    try:
        told = refused(capsys, run_id, "--out", out)
    finally:
        away.rename(kept)
    assert "must have the teacher of its run, convnet16res, got nothing usable in" in told


def test_other_data_are_refused(tmp_path: Path) -> None:
    """The digits with another split than the one recorded."""
    told = {"dataset": "digits", "root": "", "val_fraction": None, "subset": None}
    told |= {"image_size": None, "split_hash": "0" * 64, "sha256": ""}
    facts = ingredients.prepare("digits", tmp_path / "data", tmp_path / "cache")
    told["sha256"] = facts.sha256["train"]
    with pytest.raises(ValueError, match=r"digits with split 0{16}, got split [0-9a-f]{16}$"):
        ingredients.facts_of(told, tmp_path)


def test_every_part_of_a_task_is_recorded() -> None:
    """A new field of Task must be recorded, or a replay would not be one; unless it changes roundings at most."""
    made = {"facts", "teacher", "recipe", "prepared", "precision", "cache_folder", "asked"}
    where = {"ranks", "gpu_share"}  # a replay takes one process, on a GPU of its own
    assert {part.name for part in fields(Task)} == {*ingredients.SHARED, *made, *where}


def test_the_tag_of_a_run() -> None:
    """What all share and the student's own, without the journal's words; none where that is too long or unknown."""
    task = {"event": "task", "time": 1.0, "precision": {"bfloat16": False}}
    student = {"event": "student", "time": 2.0, "id": "kd-000", "hyper": {"alpha": 0.1}}
    text = replay_tag(task, student)["kd.replay"]
    own = {"id": "kd-000", "hyper": {"alpha": 0.1}}
    assert json.loads(text) == {"precision": {"bfloat16": False}, "config": own}
    assert replay_tag({}, student) == {}
    assert replay_tag(task, {**student, "label": "x" * 5000}) == {}


def test_compare() -> None:
    """By hand: NaN equals NaN, infinity its stand-in, the clock is left out, a missing value is none."""
    recorded = {**FIRST, "seconds": 1.0, "val/seconds": 2.0, "teacher/found": 0.0}
    recorded["train/kd"] = sys.float_info.max
    assert compare(1, recorded, {**FIRST, "seconds": 9.0}) == []
    assert compare(2, recorded, {**FIRST, "train/ce": 0.25}) == [
        Difference(2, "train/ce", 0.5, 0.25)
    ]
    (gone,) = compare(3, {"train/ce": 0.5}, {})
    assert math.isnan(gone.found)
    assert as_stored(-math.inf) == -sys.float_info.max


def test_the_likely_reason() -> None:
    """What differs is named; nothing known differs: the machine's own arithmetic."""
    now = {"torch": "2.12", "code": "b", "machine": "AVX2"}
    assert likely_reason({**now, "torch": "2.11"}, now) == (
        "another version of torch (2.11 then, 2.12 now)"
    )
    assert "training code" in likely_reason({**now, "code": "a"}, now)
    assert likely_reason(now, now).startswith("a processor of another model")


@pytest.mark.parametrize(
    ("given", "batch"),
    [
        ({}, 0),
        ({"batch_mode": True}, 8),
        ({"batch_mode": True, "max_concurrent": 99}, 99),
        ({"batch_mode": True, "max_concurrent": 3, "cpus_per_trial": 4}, 3),
        ({"batch_mode": True, "scheduler": "pbt"}, 0),
    ],
)
def test_the_size_of_a_batch(
    given: dict[str, Any], batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On 8 cores: as --max-concurrent says, whatever fits; the slots without it; a population is one batch."""
    monkeypatch.setattr(plan, "available_cpus", lambda: 8)
    planned = plan.make(make({"method": "kd", **given}))
    assert planned.batch == batch
