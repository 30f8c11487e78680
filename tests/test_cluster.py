"""Searches on a real cluster: a head and nodes in processes of their own, with token authentication on.

One search on the cluster takes most of a minute; there is one, and all that is asked of it is asked of that one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import Command, start
from tests.raylets import Raylets
from tests.test_repeat import told_of
from tuner.journal import FILE, Story, story

FLAGS = (
    *("--method", "kd", "--trials", "6", "--epochs", "16", "--seed", "3", "--evaluate", "none"),
    *("--confirm-top", "1", "--confirm-seeds", "2", "--batch-mode", "--max-concurrent", "3"),
    *("--scheduler", "none", "--name", "kd"),
)


class Struck(NamedTuple):
    """A search on three nodes, of which one was lost and replaced, beside the same on one machine."""

    alone: Story
    status: int
    out: str
    err: str
    told: Story
    blind: bool
    homes: dict[str, Path]  # the nodes' temporary folders


@pytest.fixture(scope="module")
def raylets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raylets]:
    made = Raylets(tmp_path_factory.mktemp("far"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def struck(
    raylets: Raylets, tmp_path_factory: pytest.TempPathFactory, tune: Callable[..., Command]
) -> Struck:
    homes = {name: tmp_path_factory.mktemp("homes") / name for name in ("first", "second", "third")}
    near = tmp_path_factory.mktemp("near")
    done = tune(*FLAGS, "--out", near, RAY_ADDRESS="127.0.0.1:9")
    assert done.status == 0, done.err
    shutil.copytree(near / "teachers", raylets.out / "teachers")  # trained once for both
    for name in ("first", "second"):
        raylets.add(homes[name])
    search = start(*FLAGS, "--out", raylets.out, "--address", raylets.address)
    journal = raylets.out / "kd" / FILE
    wait_for(journal, '"event":"epoch"', times=2)
    raylets.kill("first")
    raylets.add(homes["third"], wait=False)
    out, err = search.communicate(timeout=600)
    told = story(raylets.out / "kd")
    return Struck(story(near / "kd"), search.returncode, out, err, told, raylets.blind, homes)


def wait_for(file: Path, text: str, times: int) -> None:
    deadline = time.monotonic() + 300
    while not file.exists() or file.read_text(encoding="utf-8").count(text) < times:
        assert time.monotonic() < deadline, f"{file} must tell {text}"
        time.sleep(0.1)


def test_a_search_on_a_cluster_is_the_search_on_one_machine(struck: Struck) -> None:
    """Every suggestion, metric and the answer, against the same seed on one machine; a node is lost on the way."""
    assert struck.status == 0, struck.err
    assert told_of(struck.told) == told_of(struck.alone)


def test_no_epoch_is_written_twice(struck: Struck) -> None:
    """Though those of the lost node were begun again."""
    assert all(len(s.history) == 16 for s in struck.told.students.values())


def test_a_node_fetches_what_it_needs(struck: Struck) -> None:
    """Of the one that lived through it: at the end fetched files stay, for the next search, and nothing else does."""
    if not struck.blind:
        pytest.skip("needs a mount namespace")
    (place,) = struck.homes["second"].glob("kdtune-*")
    sizes = [path.stat().st_size for path in place.glob("files/*") if path.suffix != ".lock"]
    assert max(sizes) > 10_000
    assert list(place.glob("searches/*")) == []


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        (["--address", "{head}"], {"RAY_AUTH_TOKEN": 64 * "0"}, "the token must be that of"),
        (["--address", "127.0.0.1:9"], {}, "must be a cluster's head, got 127.0.0.1:9"),
        (
            ["--address", "{head}", "--gpus-per-trial", "1"],
            {},
            "--gpus-per-trial must be at most 0",
        ),
    ],
)
def test_what_cannot_run_is_one_line(
    flags: list[str],
    environment: dict[str, str],
    message: str,
    raylets: Raylets,
    tmp_path: Path,
    tune: Callable[..., Command],
) -> None:
    """Before anything of the search is written."""
    given = [flag.format(head=raylets.address) for flag in flags]
    done = tune("--method", "kd", "--out", tmp_path, "--name", "kd", *given, **environment)
    assert done.status == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1, done.err
    assert not (tmp_path / "kd").exists()
