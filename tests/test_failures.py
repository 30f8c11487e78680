"""What went wrong with a trial: told apart, tried again where that can help, and given up where it cannot."""

from __future__ import annotations

import inspect
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError
from ray.tune.execution import tune_controller
from ray.tune.schedulers import FIFOScheduler

from tests import troubled
from trainables.mishaps import in_a_line, out_of_memory
from tuner import cluster, evictions, students
from tuner.failures import FAILED, LOST, MEMORY, Failure, Tally, classified
from tuner.journal import Journal, Story, story
from tuner.progress import Board
from tuner.recorder import Recorder
from tuner.samplers import Listed
from tuner.shelf import Shelf
from tuner.watchdog import Patience, Watchdog

DIED = str(ActorDiedError())
UNREACHABLE = str(ActorUnavailableError("RPC error: Socket closed rpc_code: 14", 16 * b"a"))
KERNEL = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
    "(1) the process is killed by SIGKILL by OOM killer due to high memory usage."
)
EVICTED = (
    "Task was killed due to the node running low on memory.\nMemory on the node was 15.5GB / 16GB"
)


@pytest.mark.parametrize(
    ("text", "kernel", "kind"),
    [
        (DIED, False, LOST),
        (UNREACHABLE, False, LOST),  # its node was lost
        (KERNEL, False, LOST),  # Ray only guesses at the reason
        (KERNEL, True, MEMORY),
        (EVICTED, False, MEMORY),
        ("Traceback ...\ntorch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB", False, MEMORY),
        ("RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried", False, MEMORY),
        ("Failure # 1 (occurred at x)\nMemoryError\nFailure # 2 (y)\nOSError: gone", False, FAILED),
        ("OSError: [Errno 28] No space left on device", False, FAILED),
        ("", True, LOST),
    ],
)
def test_failures_are_told_apart(text: str, kernel: bool, kind: str) -> None:
    """By the words of Ray, torch and Python; the last failure counts."""
    assert classified(text, kernel_killed=kernel).kind == kind


def test_the_reason_is_the_line_that_says_it() -> None:
    assert classified("Traceback\n  ValueError: bad\n") == Failure(FAILED, "ValueError: bad")


def test_an_exception_is_told_with_its_place() -> None:
    """The type, the message in one line, and the last line of the user's that raised, not torch's."""
    try:
        torch.zeros(2) @ torch.zeros(3)
    except RuntimeError as error:
        told = in_a_line(error)
    assert told.startswith("RuntimeError: ") and "\n" not in told
    assert "(test_failures.py, line " in told


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_memory_is_told_from_bugs(error: Exception, memory: bool) -> None:
    assert out_of_memory(error) == memory


@pytest.mark.parametrize(
    ("slots", "ends", "given_up"),
    [
        (1, ["failed"] * 2, False),
        (1, ["failed"] * 3, True),
        (1, ["failed", "hung", "failed", "hung"], False),  # not of one kind
        (4, ["failed"] * 4, False),  # all that ran at once
        (4, ["failed"] * 5, True),
        (1, ["finished", *["failed"] * 8], False),  # a corner of the space, perhaps
        (1, ["finished", *["failed"] * 9], True),
        (1, [*["hung"] * 2, "stopped", *["hung"] * 2], False),
        (1, ["diverged"] * 8, False),
        (1, ["diverged"] * 9, True),
        (1, ["finished", *["diverged"] * 50], False),  # the sampler learns where not to look
    ],
)
def test_when_a_search_is_given_up(slots: int, ends: list[str], given_up: bool) -> None:
    """The rule in failures.Tally, by hand."""
    tally = Tally(slots)
    for status in ends:
        tally.add(status, "OSError: why")
    assert bool(tally.verdict) == given_up
    if given_up:
        assert (
            f"{tally.count} trials in a row: {ends[-1]}, the last with: OSError: why."
            in tally.verdict
        )


def test_how_long_a_trial_may_be_silent() -> None:
    """300 s and 1800 s at least, ten times the longest epoch, or what is reckoned before the first."""
    dear = lambda: 500.0  # noqa: E731
    assert Patience().limit(False, dear) == 300
    assert Patience(longest=60).limit(False, dear) == 600
    assert Patience().limit(True, lambda: 1.0) == 1800
    assert Patience().limit(True, dear) == 5000
    assert Patience(hang_after=5).limit(False, dear) == 5
    assert Patience(hang_after=5, longest=1).limit(False, dear) == 10
    assert Patience(hang_after=5).limit(True, dear) == 5000


def test_time_in_which_the_driver_slept_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour between two looks, as of a laptop that was closed, is five seconds of silence."""
    clock = iter([0.0, 1.0, 3601.0, 3602.0])
    monkeypatch.setattr("tuner.watchdog.time.monotonic", lambda: next(clock))
    heard: list[str] = []
    watchdog = Watchdog(Patience(hang_after=60), lambda _: 0.0, lambda *told: heard.append(told[1]))
    trial: Any = SimpleNamespace(trial_id="kd-000", config={"id": "kd-000"}, status="RUNNING")
    watchdog.on_trial_start(0, [], trial)
    for _ in range(3):
        watchdog.on_step_end(0, [])
    assert watchdog.now == 7.0
    assert heard == []


def test_tunes_manager_still_has_what_ours_changes() -> None:
    """Ray's private names that evictions.py relies on, and that its memory monitor's error is none of an actor's."""
    assert tune_controller.RayActorManager.__mro__[-2].__name__ == "RayActorManager"
    assert {"_resetting_trials", "_actor_to_trial"} <= set(
        inspect.getsource(tune_controller.TuneController.__init__)
        .replace(":", " ")
        .replace("self.", " ")
        .split()
    )
    known = inspect.signature(evictions.RayActorManager._actor_task_failed)
    assert list(known.parameters) == ["self", "tracked_actor_task", "exception"]
    assert not issubclass(OutOfMemoryError, ActorDiedError.__mro__[1])


TROUBLES = ("fine", "hangs", "hangs-always", "dies", "dies-always", "allocates-always")


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with cluster.running(3):
        yield


def trained(folder: Path, names: tuple[str, ...], slots: int) -> tuple[Story, Recorder]:
    """The trials of those names under Ray Tune with a search's own callbacks."""
    journal, board = Journal(folder), Board()
    recorder = Recorder(journal, board, Shelf(folder / "checkpoints", 1, ()), Tally(slots))
    watchdog = Watchdog(Patience(hang_after=12.0), lambda _: 0.0, recorder.hung)
    common = {"kind": "search", "role": "trial", "method": "kd", "seed": 0, "hyper": {}}
    common |= {"epochs": 3, "label": "", "folder": str(folder)}
    configs = [{"id": name, "number": i, **common} for i, name in enumerate(names)]
    evictions.survive()
    parts = (Listed(configs), FIFOScheduler(), len(configs), slots, folder)
    with students.quiet():
        students.make_tuner(troubled.trainable(), *parts, [recorder, watchdog]).fit()
    journal.close()
    return story(folder), recorder


def test_a_worker_that_dies_between_two_trials_is_one_loss(ray: None, tmp_path: Path) -> None:
    """It dies while it takes up the second trial, which goes on in a new one."""
    told, _ = trained(tmp_path, ("fine", "reset-dies", "fine-too"), slots=1)
    found = {s.id: (s.status, len(s.history), s.retries) for s in told.students.values()}
    assert found == {
        "fine": ("finished", 3, 0),
        "reset-dies": ("finished", 3, 1),
        "fine-too": ("finished", 3, 0),
    }


def test_a_worker_that_cannot_be_set_up_is_told_with_its_reason(ray: None, tmp_path: Path) -> None:
    """No epoch, a second try, and what was raised."""
    told, _ = trained(tmp_path, ("broken",), slots=1)
    (one,) = told.students.values()
    assert (one.status, len(one.history), one.retries) == ("failed", 0, 1)
    assert "ValueError: no data" in one.reason


def test_trouble_costs_its_trial_alone(ray: None, tmp_path: Path) -> None:
    """Hangs and memory get a second chance, lost workers three; whoever uses them up is recorded as what it is."""
    told, recorder = trained(tmp_path, TROUBLES, slots=3)
    found = {s.id: (s.status, len(s.history), s.retries) for s in told.students.values()}
    assert found == {
        "fine": ("finished", 3, 0),
        "hangs": ("finished", 3, 1),
        "hangs-always": ("hung", 1, 1),
        "dies": ("finished", 3, 1),
        "dies-always": ("failed", 1, students.MAX_FAILURES),
        "allocates-always": ("out of memory", 1, 1),
    }
    reasons = {s.id: s.reason for s in told.students.values()}
    assert reasons["hangs-always"].startswith("no report for ")
    assert reasons["dies-always"] == "its worker process died 4 times"
    assert "MemoryError: no room" in reasons["allocates-always"]
    assert recorder.tally.verdict == ""


def test_too_many_failures_of_one_kind_end_the_search(ray: None, tmp_path: Path) -> None:
    """Three of ten trials are enough where none has gone well."""
    previous = signal.getsignal(signal.SIGUSR1)
    try:
        told, recorder = trained(tmp_path, tuple(f"raises-{i}" for i in range(10)), slots=1)
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert (
        [s.status for s in told.students.values()].count("failed") == 3 <= len(told.students) <= 4
    )
    assert recorder.tally.verdict.startswith(
        "3 trials in a row: failed, the last with: ValueError: a bug."
    )
    assert os.getpid()  # the signal that ends Tune's loop has not ended us
