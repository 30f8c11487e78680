"""One student on several processes: the same terms, weights, banks and checkpoints as on one, by gloo on a CPU."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.utils._pytree import tree_flatten

from tests.test_training import config, place, task  # noqa: F401  (fixtures)
from tests.world import world
from trainables.methods import load, names
from trainables.parallel import ALONE, Ranks
from trainables.trainable import Task, Workplace
from tuner import together

BATCH = 25  # 13 rows for one rank and 12 for the other
EPOCHS = 2
CASES: dict[str, dict[str, Any]] = {
    **{name: {} for name in names()},
    "kd with views": {"method": "kd", "augment": "crop_flip"},
    "kd with adam": {"method": "kd", "optimizer": "adam", "lr": 0.001},
    "crd with relax": {"method": "crd", "positive": "relax"},
    "ab in two phases": {"method": "ab", "first_share": 0.5},
    "ctkd for each sample": {"method": "ctkd", "kind": "instance"},
    "kd from the cache": {"method": "kd", "augment": "crop_flip"},
    "sp from the cache": {"method": "sp"},
}


@contextmanager
def exactly() -> Iterator[None]:
    """Networks and losses in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def trained(place: Workplace, given: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    run = place.training(config(**{"batch_size": BATCH, **given}), ranks)
    told = [run.train_epoch()[0] for _ in range(EPOCHS)]
    return {"told": told, **run.state()}


def rank(number: int, count: int, folder: Path, tasks: dict[str, Task]) -> None:
    """One of several processes: trains every case, and leaves what came of it in a file."""
    ranks = Ranks(number, count)
    store = distributed.FileStore(str(folder / "store"), count)
    distributed.init_process_group("gloo", store=store, rank=number, world_size=count)
    found: dict[str, Any] = {}
    with exactly():
        for case, task in tasks.items():
            given = {"method": case, **CASES[case]}
            found[case] = trained(Workplace(task), given, ranks)
    torch.save(found, folder / f"rank-{number}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def on_two(
    place: Callable[[str], Workplace], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    tasks = {case: place(given.get("method", case)).task for case, given in CASES.items()}
    for case in (case for case in CASES if case.endswith("from the cache")):
        kept = {"cache_folder": str(folder / "cache"), "cache_bytes": 10**8}
        tasks[case] = replace(tasks[case], **kept)
    context = multiprocessing.get_context("spawn")
    started = [context.Process(target=rank, args=(i, 2, folder, tasks)) for i in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0]
    return [torch.load(folder / f"rank-{i}.pt") for i in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_the_student_of_one(
    case: str, on_two: list[dict[str, Any]], place: Callable[[str], Workplace]
) -> None:
    """Terms, weights, batch-norm statistics, adapter, banks and optimiser after six steps, in float64."""
    given = {"method": case, **CASES[case]}
    with exactly():
        alone = trained(Workplace(place(given["method"]).task), given, ALONE)
    expected, shape = tree_flatten(alone)
    for one in on_two:
        found, other = tree_flatten(one[case])
        assert other == shape
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_a_method_whose_adapter_draws_by_itself_is_refused() -> None:
    """Its draws would differ from rank to rank; a student's own may."""
    drawing = replace(load("kd"), adapter=lambda context: nn.Dropout(0.1))
    context = world(load("kd")).context
    together.check_networks(load("kd"), [context], {})
    with pytest.raises(ValueError, match=r"--gpus-per-trial must be at most 1 .* got Dropout"):
        together.check_networks(drawing, [context], {})


@pytest.mark.parametrize(("gpus", "ranks"), [(0, 1), (0.25, 1), (1, 1), (2, 2), (8.0, 8)])
def test_a_process_a_gpu(gpus: float, ranks: int) -> None:
    assert together.ranks(gpus) == ranks
