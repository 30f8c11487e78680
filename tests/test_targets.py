"""The teacher cache: read equals computed live, bit by bit; nothing stale, damaged or half written is ever read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.conftest import ROOT
from tests.test_training import RECIPE, config, place, task
from trainables import targets
from trainables.methods import load, names
from trainables.precision import Precision
from trainables.teacher_cache import TargetCache
from trainables.trainable import Task, Workplace
from trainables.training import Training

__all__ = ["place", "task"]  # fixtures
KEPT = [name for name in names() if targets.can_keep(load(name))]
KEY = {"teacher": "a", "epoch": 3}


def weights(run: Training, epochs: int = 2) -> list[Tensor]:
    """What a training ends with."""
    for _ in range(epochs):
        run.train_epoch()
    return [x.clone() for x in run.student.state_dict().values()]


def same(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def cached(
    at: Workplace, folder: Path, limit: int = 10**9, augment: str = "crop_flip"
) -> Workplace:
    """The same workplace with a cache, its views augmented."""
    recipe = replace(at.task.recipe, augment=augment)
    where = {"cache_folder": str(folder), "cache_bytes": limit}
    return Workplace(replace(at.task, recipe=recipe, **where))


def in_order(at: Workplace, *, channels_last: bool) -> Workplace:
    """The same workplace in a memory format."""
    return Workplace(replace(at.task, precision=Precision(channels_last=channels_last)))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("augment", ["none", "crop_flip"])
@pytest.mark.parametrize("name", KEPT)
def test_kept_equals_live(
    name: str,
    augment: str,
    channels_last: bool,
    place: Callable[[str], Workplace],
    tmp_path: Path,
) -> None:
    """Weights after two epochs: with a live teacher, computing the cache, and reading what another computed."""
    at = in_order(place(name), channels_last=channels_last)
    live = weights(cached(at, tmp_path, 0, augment).training(config(name)))
    writer = cached(at, tmp_path, augment=augment).training(config(name))
    assert same(weights(writer), live)
    reader = cached(at, tmp_path, augment=augment).training(config(name))
    assert same(weights(reader), live)
    assert reader.recall is not None and reader.recall.found


@pytest.mark.parametrize("name", names())
def test_a_memory_format_changes_rounding_alone(
    name: str, place: Callable[[str], Workplace]
) -> None:
    """The terms of two steps, with student and teacher in either; further steps magnify what rounding began."""
    some, others = (
        in_order(place(name), channels_last=last).training(config(name, batch_size=48))
        for last in (False, True)
    )
    terms, _ = some.train_epoch()
    assert terms == pytest.approx(others.train_epoch()[0], rel=1e-3)


def test_targets_are_of_one_memory_format(
    place: Callable[[str], Workplace], tmp_path: Path
) -> None:
    """What a teacher said in one is not read in the other, where it says the same but for rounding."""
    for last in (False, True):
        run = cached(in_order(place("kd"), channels_last=last), tmp_path).training(config("kd"))
        weights(run, 1)
        assert run.recall is not None and not run.recall.found


def test_a_reader_needs_no_teacher_pass(place: Callable[[str], Workplace], tmp_path: Path) -> None:
    """Once an epoch is kept, nothing asks the teacher about it again."""
    weights(cached(place("kd"), tmp_path).training(config("kd")))
    reader = cached(place("kd"), tmp_path).training(config("kd", temperature=2.0))

    def refuse(*_: Any) -> Any:
        raise AssertionError("the teacher was asked")

    reader.teach = refuse
    weights(reader)


def test_what_the_targets_depend_on_is_in_the_key(
    place: Callable[[str], Workplace],
    tmp_path: Path,
) -> None:
    """Another seed, epoch, augmentation, batch size, method's target or teacher: another entry."""
    at = cached(place("kd"), tmp_path)
    base = at.training(config("kd"))
    key = targets.key_of(base, 0, False)
    others = [
        targets.key_of(base, 1, False),
        targets.key_of(at.training({**config("kd"), "seed": 5}), 0, False),
        targets.key_of(at.training(config("kd", batch_size=12)), 0, False),
        targets.key_of(at.training(config("kd", augment="none")), 0, False),
        targets.key_of(at.training(config("mixup")), 0, False),
        targets.key_of(place("sp").training(config("sp")), 0, False),
    ]
    assert key not in others
    assert len({str(other) for other in others}) == len(others)
    assert targets.key_of(at.training(config("kd", temperature=9.0, lr=0.3)), 0, False) == key


def test_a_search_that_outgrows_the_cache_still_runs(
    place: Callable[[str], Workplace],
    tmp_path: Path,
) -> None:
    """Entries that were used longest ago go; what is trained stays the same."""
    live = weights(cached(place("kd"), tmp_path, 0).training(config("kd")), 4)
    limit = 20_000  # an epoch takes about 4,400 bytes
    assert same(weights(cached(place("kd"), tmp_path, limit).training(config("kd")), 4), live)
    weights(cached(place("kd"), tmp_path, limit).training({**config("kd"), "seed": 7}), 4)
    assert 0 < sum(path.stat().st_size for path in tmp_path.glob("*.arrow")) <= limit


def test_a_target_beyond_the_budget_comes_from_a_live_teacher(
    place: Callable[[str], Workplace],
    tmp_path: Path,
) -> None:
    """Four epochs must fit."""
    assert cached(place("kd"), tmp_path, 5_000).training(config("kd")).recall is None
    assert cached(place("kd"), tmp_path, 0).training(config("kd")).recall is None
    assert cached(place("fitnet"), tmp_path).training(config("fitnet")).recall is None


def test_where_nothing_can_be_written_the_teacher_stays_live(
    place: Callable[[str], Workplace], tmp_path: Path
) -> None:
    """A file in the folder's place: the same weights, and a word about why."""
    (tmp_path / "blocked").write_bytes(b"")
    run = cached(place("kd"), tmp_path / "blocked").training(config("kd"))
    with pytest.warns(UserWarning, match="a live teacher: .*blocked"):
        found = weights(run)
    assert same(found, weights(cached(place("kd"), tmp_path, 0).training(config("kd"))))


def entry(folder: Path) -> tuple[TargetCache, Path, tuple[Tensor, ...]]:
    """A small cache with one entry."""
    cache = TargetCache(folder, 10**6)
    leaves = (torch.arange(12.0).view(3, 4), torch.tensor([[1], [2], [3]]))
    cache.fetch([KEY], lambda _: leaves)
    return cache, cache.path_of(KEY), leaves


def read_or_made(cache: TargetCache) -> tuple[tuple[Tensor, ...], bool]:
    """What the cache gives for KEY, and whether it had to be computed again."""
    made = []

    def compute(_: int) -> tuple[Tensor, ...]:
        made.append(1)
        return (torch.arange(12.0).view(3, 4), torch.tensor([[1], [2], [3]]))

    found, _ = cache.fetch([KEY], compute)
    assert found is not None
    return found, bool(made)


@pytest.mark.filterwarnings("ignore:deleted a damaged file")
def test_an_entry_cut_short_anywhere_is_computed_again(tmp_path: Path) -> None:
    """Truncated at every length."""
    cache, path, leaves = entry(tmp_path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        found, again = read_or_made(cache)
        assert same(list(found), list(leaves))
        assert again


@pytest.mark.filterwarnings("ignore:deleted a damaged file")
@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_never_changes_what_is_read(
    position: int,
    bit: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Either it is noticed, or it lies where nothing is read."""
    cache, path, leaves = entry(tmp_path_factory.mktemp("cache"))
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << bit
    path.write_bytes(bytes(content))
    found, _ = read_or_made(cache)
    assert same(list(found), list(leaves))


def test_an_entry_under_a_wrong_name_is_not_read(tmp_path: Path) -> None:
    """The key stands inside as well."""
    cache, path, _ = entry(tmp_path)
    other = {**KEY, "epoch": 4}
    path.rename(cache.path_of(other))
    with pytest.warns(UserWarning, match=str(cache.path_of(other))):
        found, _ = cache.fetch([other], lambda _: (torch.zeros(1, 2),))
    assert found is not None
    assert torch.equal(found[0], torch.zeros(1, 2))


WORKER = """
import sys, time, torch
from pathlib import Path
from trainables.teacher_cache import TargetCache
folder = Path(sys.argv[1])
def compute(n):
    with (folder / "computed").open("a") as file:
        file.write(f"{epoch + n}\\n")
    time.sleep(float(sys.argv[2]))
    return (torch.full((2, 2), float(epoch + n)),)
for epoch in range(6):
    keys = [{"epoch": e} for e in range(epoch, min(epoch + 3, 6))]
    found, _ = TargetCache(folder, 10**6).fetch(keys, compute)
    assert found is not None and float(found[0].mean()) == epoch
"""


def worker(folder: Path, seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WORKER, str(folder), str(seconds)], cwd=ROOT)


def test_processes_that_want_the_same_epochs_compute_each_once(tmp_path: Path) -> None:
    """Three processes, six epochs, six computations."""
    processes = [worker(tmp_path, 0.2) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert sorted((tmp_path / "computed").read_text().split()) == list("012345")


def test_a_killed_process_lets_go_of_its_epoch(tmp_path: Path) -> None:
    """kill -9 in the middle of a computation: the other computes that epoch itself."""
    first = worker(tmp_path, 60)
    while not (tmp_path / "computed").exists():
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert worker(tmp_path, 0).wait(120) == 0
    assert sorted((tmp_path / "computed").read_text().split()) == list("0012345")


def test_choices_say_why(task: Task, place: Callable[[str], Workplace]) -> None:
    """In words, with the size: 4 classes of 4 bytes for 96 images are 1,536 bytes."""
    at = place("kd")
    seen = at.teacher(torch.rand(2, 1, 8, 8))

    def chosen(name: str, augment: str, limit: int = 10**9) -> targets.Choice:
        recipe = replace(RECIPE, augment=augment)
        return targets.choose(load(name), {}, recipe, seen, {}, 96, limit)

    assert chosen("kd", "none").reason == "computed once, the views stay the same: 0.0 MB"
    assert chosen("kd", "none").epoch_bytes == 96 * 4 * 4
    assert chosen("kd", "crop_flip").reason.startswith("computed once an epoch")
    assert chosen("vanilla", "none").reason == "no teacher"
    assert "too much" in chosen("kd", "crop_flip", 2000).reason
    assert "whole feature maps" in chosen("fitnet", "none").reason
    assert chosen("kd", "none", 0).reason == "live teacher: the cache is off"
