"""Several real processes train one student, led by the trial's own: with Ray around it, lost, failing and resumed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from torch.utils._pytree import tree_flatten

from tests.conftest import ROOT
from tests.test_training import EPOCHS, config, place, same, task  # noqa: F401  (fixtures)
from trainables.checkpoint import read_state
from trainables.parallel import RankLostError
from trainables.trainable import Task, Trial, Workplace, alone
from tuner import cluster, evictions, students
from tuner.failures import Tally
from tuner.journal import Journal, story
from tuner.progress import Board
from tuner.recorder import Recorder
from tuner.samplers import Listed
from tuner.shelf import Shelf

PATIENCE = 30.0  # seconds until a process is gone


@pytest.fixture
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the second process of a troubled student leaves its marks; other processes inherit it."""
    monkeypatch.setenv("KDTUNE_TEST_MARKS", str(tmp_path))
    return tmp_path


@pytest.fixture
def begin(place: Callable[[str], Workplace]) -> Iterator[Callable[..., Trial]]:
    """Trials of crd on two processes, or on as many as are asked for, ended with the test."""
    made: list[Trial] = []

    def of(ranks: int = 2, student: str = "convnet4", method: str = "crd", **more: Any) -> Trial:
        task = replace(place(method).task, ranks=ranks, student=student)
        made.append(alone(task, {**config(method, batch_size=25), **more}))
        return made[-1]

    yield of
    for trial in made:
        trial.cleanup()


def saved(trial: Trial, folder: Path) -> dict[str, Any]:
    """What a checkpoint says, but for the clock."""
    folder.mkdir()
    trial.save_checkpoint(str(folder))
    state = read_state(folder)
    return {name: state[name] for name in ("epoch", "student", "adapter", "optimizer")}


def test_a_trial_on_two_processes_is_that_on_one(
    begin: Callable[..., Trial], tmp_path: Path
) -> None:
    """Two epochs, all but rounding; from the checkpoint on bit for bit again, and on one process too."""
    whole, one = begin(), begin(ranks=1)
    whole.step()
    saved(whole, tmp_path / "first")
    told, alone_told = whole.step(), [one.step(), one.step()][-1]
    expected = saved(whole, tmp_path / "second")
    assert close(saved(one, tmp_path / "alone"), expected)
    for name in ("train/loss", "val/loss"):
        assert told[name] == pytest.approx(alone_told[name], rel=1e-3)
    again = {"restore_from": str(tmp_path / "first")}
    processes = processes_of(whole)
    whole.reset_config({**whole.config, **again})
    assert whole.step()["epoch"] == 2
    assert processes_of(whole) == processes  # kept for the next trial
    assert same(saved(whole, tmp_path / "resumed"), expected)
    other = begin(ranks=1, **again)
    other.step()
    assert close(saved(other, tmp_path / "resumed on one"), expected)


def processes_of(trial: Trial) -> list[int | None]:
    assert trial.team is not None
    return [process.pid for process in trial.team.processes]


def close(a: Any, b: Any) -> bool:
    """In float32, after eight steps."""
    (flat, shape), (other, other_shape) = tree_flatten(a), tree_flatten(b)
    return shape == other_shape and all(
        torch.allclose(x.double(), y.double(), rtol=1e-3, atol=1e-4)
        if isinstance(x, torch.Tensor)
        else x == y
        for x, y in zip(flat, other, strict=True)
    )


def test_a_killed_process_ends_the_trial_with_its_reason(begin: Callable[..., Trial]) -> None:
    """SIGKILL between two epochs; the error is raised, so that Ray begins again from the checkpoint."""
    trial = begin()
    trial.step()
    assert trial.team is not None
    trial.team.processes[0].kill()
    with pytest.raises(RankLostError, match="rank 1 of 2 ended with exit code -9"):
        trial.step()
    assert trial.team is None


def test_a_process_without_memory_is_out_of_memory(
    begin: Callable[..., Trial], marks: Path
) -> None:
    """Though rank 0 had enough; in the middle of a step, where rank 0 waits for it."""
    trial = begin(student="tests.troubled:allocating", method="kd")
    with pytest.raises(torch.OutOfMemoryError, match=r"CUDA out of memory.* on rank 1 of 2"):
        trial.step()


def test_a_bug_is_told_as_on_one_process(begin: Callable[..., Trial]) -> None:
    """A result, and no reason to try again; the next trial has new processes."""
    trial = begin(student="tests.troubled:raising", method="kd")
    assert "the gradient must be finite, got a bug" in trial.step()["failed"]
    assert trial.team is None


def test_under_ray_a_trial_survives_the_loss_of_a_process(
    place: Callable[[str], Workplace], marks: Path
) -> None:
    """It dies in the first step; the trial is tried again and trained to its end, and no process is left behind."""
    one = replace(place("kd").task, ranks=2, student="tests.troubled:dying")
    (marks / "search").mkdir()
    told = under_ray(marks / "search", one)
    (student,) = told.students.values()
    assert (student.status, len(student.history), student.retries) == ("finished", EPOCHS, 1)
    assert "rank 1 of 2 ended with exit code 9" in (marks / "search" / "events.jsonl").read_text()
    processes = [int(path.name.partition("-")[2]) for path in marks.glob("process-*")]
    assert len(processes) == 2
    deadline = time.monotonic() + PATIENCE
    while any(runs(process) for process in processes):
        assert time.monotonic() < deadline, "a process must not outlive its trial"
        time.sleep(0.1)
    alone_told = alone(replace(one, ranks=1), config("kd")).step()
    assert student.history[0]["train/loss"] == pytest.approx(alone_told["train/loss"], rel=1e-4)


def runs(process: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    return False


def under_ray(folder: Path, task: Task) -> Any:
    """One trial of kd by Ray Tune with a search's own callbacks."""
    journal, board = Journal(folder), Board()
    recorder = Recorder(journal, board, Shelf(folder / "checkpoints", 1, ()), Tally(1))
    known = {"search": "", "kind": "search", "role": "trial", "label": ""}
    parts = Listed([{**config("kd"), **known}]), FIFOScheduler(), 1, 1, folder
    with cluster.running(1), students.quiet():
        evictions.survive()
        trainable = tune.with_parameters(Trial, tasks={"": task}, courier=None)
        students.make_tuner(tune.with_resources(trainable, {"cpu": 1}), *parts, [recorder]).fit()
    journal.close()
    return story(folder)


WAITING = """
import threading
import time
from types import SimpleNamespace
from trainables import team

if __name__ == "__main__":
    team.GRACE = 0.2
    led = team.Team(2, False)
    threading.Timer(0.2, led.processes[0].kill).start()
    led.train_epoch(SimpleNamespace(train_epoch=lambda: time.sleep(1000)))
"""


def test_rank_0_does_not_wait_for_a_lost_one_for_ever(tmp_path: Path) -> None:
    """As it would on GPUs, whose exchanges do not hear of it: the process ends, which Ray counts as a lost worker."""
    script = tmp_path / "waiting.py"
    script.write_text(WAITING, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.endswith("another rank has ended, and this one waits for it\n")


KILLED = """
import os
import signal
from trainables import team

if __name__ == "__main__":
    print(team.Team(2, False).processes[0].pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_others_end_with_rank_0(tmp_path: Path) -> None:
    """Which the watchdog ends by SIGKILL where it hangs."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script], env=environment, stdout=-1) as process:
        assert process.stdout is not None
        other = int(process.stdout.readline())
    assert process.returncode == -9
    deadline = time.monotonic() + PATIENCE
    while runs(other):
        assert time.monotonic() < deadline, "a process must not outlive its trial"
        time.sleep(0.1)
