"""What Ray Tune does before a first trial, with a real one."""

from __future__ import annotations

import importlib
import inspect
import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ray import tune
from ray._private import state
from ray.tune.execution import tune_controller
from ray.tune.schedulers import FIFOScheduler
from rich.console import Console

from tests.conftest import ROOT
from trainables.teacher_ready import ready
from tuner import cluster, plan, starting, students
from tuner.journal import Journal
from tuner.preparing import Underway, make_ready, opened
from tuner.progress import Board
from tuner.samplers import METRIC, Listed
from tuner.settings import make

TUNED = """
import sys
from ray import tune
from tests.test_starting import Told
from tuner import cluster, starting
with cluster.running(1):
    starting.quicken(alone=True)
    kept = tune.RunConfig(storage_path=sys.argv[1], verbose=0, callbacks=[tune.Callback()])
    (found,) = tune.Tuner(Told, run_config=kept).fit()
print(found.metrics["began"] > 0, "mlflow" in sys.modules)
"""


class Told(tune.Trainable):
    """Tells when its process began."""

    def step(self) -> dict[str, Any]:
        """Seconds since the system did, as the kernel counts."""
        fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return {"began": int(fields[19]) / os.sysconf("SC_CLK_TCK"), "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """None."""


class Slow(Told):
    """Every process but the first takes three seconds to start; each trial takes one."""

    def setup(self, config: dict[str, Any]) -> None:
        """Leave a trace of the process in the folder that the config names."""
        folder = Path(config["folder"])
        (folder / str(os.getpid())).touch()
        with suppress(FileExistsError):
            (folder / "first").touch(exist_ok=False)
            return
        time.sleep(3)

    def step(self) -> dict[str, Any]:
        """A second's work."""
        time.sleep(1)
        return {METRIC: 0.0, "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up the next trial."""
        return True


def uptime() -> float:
    return float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])


@pytest.fixture
def tunes_own() -> Iterator[None]:
    yield
    starting.quicken(alone=False)


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc when a process began")
def test_a_trial_takes_a_process_that_ray_has_started_ahead(
    tmp_path: Path, tunes_own: None
) -> None:
    """It had begun before the trial was asked for."""
    with cluster.running(1):
        deadline = time.monotonic() + 120
        while not state.workers():
            assert time.monotonic() < deadline, "Ray must start a worker ahead"
            time.sleep(0.1)
        starting.quicken(alone=True)
        asked = uptime()
        kept = tune.RunConfig(storage_path=str(tmp_path), verbose=0)
        (found,) = tune.Tuner(Told, run_config=kept).fit()
    assert found.metrics is not None
    assert found.metrics["began"] < asked


def test_a_start_under_way_is_not_dropped_for_a_process_that_became_free(
    tmp_path: Path, tunes_own: None
) -> None:
    """Two slots take two processes, however much longer a start takes than a trial."""
    traces = tmp_path / "traces"
    traces.mkdir()
    configs = [{"id": f"t{i}", "number": i, "folder": str(traces)} for i in range(8)]
    with cluster.running(2), students.quiet():
        starting.quicken(alone=True)
        parts = (Listed(configs), FIFOScheduler(), len(configs), 2, tmp_path / "search")
        found = students.make_tuner(Slow, *parts, []).fit()
    assert len(found) == 8 and not found.errors
    assert len([trace for trace in traces.iterdir() if trace.name != "first"]) == 2


def test_what_is_known_takes_no_process_from_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second search has its teacher and its number format without a task of Ray's."""
    submitted: list[Any] = []

    def at_once(function: Any, *arguments: Any, **_: Any) -> Any:
        submitted.append(function)
        return function(*arguments)

    monkeypatch.setattr(cluster, "submit", at_once)
    monkeypatch.setattr(cluster, "wait", lambda answer, _: answer)
    first, second = (made_ready(tmp_path, name) for name in ("first", "second"))
    assert submitted == [ready]
    assert first.task.teacher == second.task.teacher
    assert first.task.precision == second.task.precision


def made_ready(out: Path, name: str) -> Underway:
    given = {"method": "kd", "student": "convnet4", "teacher": "convnet4", "teacher_epochs": 4}
    planned = plan.make(make({**given, "out": out, "name": name}))
    planned.folder.mkdir()
    board = Board(Console(file=io.StringIO()))
    one = Underway(planned, opened([planned], [board]), board)
    one.journal = Journal(planned.folder)
    make_ready(one)
    one.journal.close()
    return one


def test_the_mirror_starts_without_what_only_the_driver_needs() -> None:
    """Importing it took a core from the first trials."""
    code = "import tuner.tracking, sys; print({'torch', 'ray', 'optuna'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_tune_does_not_import_mlflow(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TUNED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True False"


def test_tune_still_starts_as_ours_changes() -> None:
    """Ray's private names that starting.py relies on."""
    text = inspect.getsource(tune_controller.TuneController)
    assert "_ActorClassCache()" in text
    assert "self._class_cache.get(trainable_cls)" in text
    run = inspect.getsource(importlib.import_module("ray.tune.tune"))
    assert "air_usage.tag_callbacks(callbacks)" in run
    assert "runner = TuneController(" in run
    assert "self._started_actors.add(tracked_actor)" in text
    reuse = tune_controller.TuneController._maybe_reuse_cached_actor
    assert list(inspect.signature(reuse).parameters) == ["self", "trial"]
    assert list(inspect.signature(starting.Usual.get).parameters) == ["self", "trainable_cls"]
