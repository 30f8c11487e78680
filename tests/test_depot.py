"""Files that go to machines which do not see the search's folder; a Depot in this process stands for the driver's."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from trainables import depot
from trainables.depot import Courier, Depot, errand
from tuner.storage import through

CONTENT = os.urandom(1000)


def asked(served: Depot, log: list[str], function: str, *arguments: Any) -> Any:
    log.append(function)
    return getattr(served, function)(*arguments)


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Courier, Path, list[str]]:
    """A courier on a machine that does not see the driver's folder, that folder, and what was asked of the depot."""
    monkeypatch.setattr(depot, "machine", lambda: tmp_path / "machine")
    monkeypatch.setattr(depot, "PIECE", 300)
    monkeypatch.setattr(depot, "_same", lambda *_: False)  # one disk for both, in this test
    out, log = tmp_path / "out", []
    out.mkdir()
    (out / "weights").write_bytes(CONTENT)
    ask: Callable[..., Any] = partial(asked, Depot([str(out)]), log)
    return Courier(ask, str(out), str(out / "marker"), "token"), out, log


def test_a_file_is_fetched_once_a_machine(away: tuple[Courier, Path, list[str]]) -> None:
    """The same bytes, in pieces; another search takes them from the machine, under the same checksum."""
    courier, out, log = away
    first = Path(courier.file(str(out / "weights")))
    assert first.read_bytes() == CONTENT
    assert log.count("read") == 4  # 1,000 bytes in pieces of 300
    second = Path(replace(courier, token="other").file(str(out / "weights")))
    assert second != first
    assert second.samefile(first)
    assert log.count("read") == 4


def test_a_changed_file_is_fetched_again(away: tuple[Courier, Path, list[str]]) -> None:
    courier, out, _ = away
    courier.file(str(out / "weights"))
    (out / "weights").write_bytes(b"other")
    assert Path(courier.file(str(out / "weights"))).read_bytes() == b"other"


def test_a_damaged_file_is_fetched_again(away: tuple[Courier, Path, list[str]]) -> None:
    """By the next search on the machine."""
    courier, out, _ = away
    Path(courier.file(str(out / "weights"))).write_bytes(b"damage")
    again = replace(courier, token="other")
    assert Path(again.file(str(out / "weights"))).read_bytes() == CONTENT


def test_where_the_folder_is_seen_paths_stay(away: tuple[Courier, Path, list[str]]) -> None:
    courier, out, log = away
    (out / "marker").write_text("seen", encoding="ascii")
    seen = replace(courier, token="seen")
    assert seen.file(str(out / "weights")) == str(out / "weights")
    assert seen.place(str(out / "cache")) == str(out / "cache")
    assert log == []


def make_twice(name: str, folder: Path, weights: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(2 * (weights / "weights").read_bytes())
    return str(folder / name)


def test_what_a_task_writes_goes_back(away: tuple[Courier, Path, list[str]]) -> None:
    """Its answer names the driver's path."""
    courier, out, _ = away
    work = ("twice", out / "made", out)
    assert errand(courier, make_twice, work, [str(out)]) == str(out / "made" / "twice")
    assert (out / "made" / "twice").read_bytes() == 2 * CONTENT


def test_nothing_beside_the_folder_is_served(away: tuple[Courier, Path, list[str]]) -> None:
    courier, out, _ = away
    (out.parent / "secret").write_bytes(b"secret")
    with pytest.raises(PermissionError, match="a path must lie below"):
        courier.file(f"{out}/../secret")


def test_storage_from_another_machine(
    away: tuple[Courier, Path, list[str]], tmp_path: Path
) -> None:
    """A folder goes there and back through pyarrow's own copying, and is what it was."""
    courier, out, _ = away
    storage, local = through(courier), fs.LocalFileSystem()
    here = tmp_path / "checkpoint"
    here.mkdir()
    (here / "state.pt").write_bytes(CONTENT)
    storage.create_dir(f"{out}/kept/1")
    fs.copy_files(str(here), f"{out}/kept/1", local, storage)
    assert (out / "kept" / "1" / "state.pt").read_bytes() == CONTENT
    (tmp_path / "back").mkdir()
    fs.copy_files(f"{out}/kept/1", str(tmp_path / "back"), storage, local)
    assert (tmp_path / "back" / "state.pt").read_bytes() == CONTENT
    storage.delete_dir(f"{out}/kept")
    assert storage.get_file_info(f"{out}/kept").type == fs.FileType.NotFound
