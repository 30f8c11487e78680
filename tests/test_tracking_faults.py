"""MLflow in trouble: a real server killed, slow, out of order, refusing; the mirror delivers everything, once."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tune as command
from tests.conftest import Command
from tests.serving import Door, Server, free_port
from tuner.delivery import Delivery
from tuner.journal import FILE, VERSION, Journal, story
from tuner.mirror import Mirror, behind
from tuner.tracked import LOG, STATE, State

EPOCHS, STUDENTS = 5, ("kd-000", "kd-001")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    yield made
    made.kill()


@pytest.fixture(scope="module")
def empty(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without runs: making one takes MLflow seconds, copying it none."""
    return Path(shutil.copy(server.database, tmp_path_factory.mktemp("empty") / "mlflow.db"))


@pytest.fixture
def door(server: Server) -> Iterator[Door]:
    made = Door(server)
    yield made
    made.shut()


def begin(folder: Path, name: str) -> Journal:
    """A search's first events."""
    journal = Journal(folder)
    settings = {"method": "kd", "trials": 2}
    about = {"name": name, "experiment": name, "token": name, "description": "a question"}
    journal.write("search", version=VERSION, **about, settings=settings, facts={"n_train": 6})
    return journal


def train(journal: Journal, identity: str, epochs: int = EPOCHS, begun: int = 0) -> None:
    """A student from its start, or what it had `begun`, to its end."""
    about = {"kind": "search", "role": "trial", "method": "kd", "label": identity, "number": 0}
    hyper = {"temperature": 4.0}
    journal.write("student", id=identity, **about, seed=0, hyper=hyper, epochs=epochs)
    for epoch in range(begun + 1, epochs + 1):
        metrics = {"epoch": epoch, "val/accuracy": epoch / 8, "val/loss": 1.5}
        journal.write("epoch", id=identity, metrics=metrics)
    journal.write("end", id=identity, status="finished", reason="")


def finish(journal: Journal, file: Path | None = None) -> None:
    """The last events; `file` is one to be uploaded."""
    if file:
        journal.write("file", id="", path=str(file), folder=None)
    journal.write("summary", id="", metrics={"test/accuracy": 0.5})
    journal.write("close", status="finished")
    journal.close()


def whole(folder: Path, name: str) -> None:
    journal = begin(folder, name)
    for identity in STUDENTS:
        train(journal, identity)
    finish(journal)


def query(database: Path, sql: str, *values: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(database) as connection:
        return connection.execute(sql, values).fetchall()


def assert_delivered(database: Path, name: str) -> None:
    """One run a student and one for the search, none RUNNING; every metric of every epoch once and in order."""
    runs = query(
        database,
        "select k.value, r.run_uuid, r.status from runs r join tags k on k.run_uuid = r.run_uuid and k.key = 'kd.key' "
        "join tags s on s.run_uuid = r.run_uuid and s.key = 'kd.search' where s.value = ? "
        "and r.lifecycle_stage = 'active'",
        name,
    )
    assert sorted(key for key, _, _ in runs) == sorted((*STUDENTS, "search"))
    assert {status for _, _, status in runs} == {"FINISHED"}
    expected = [(epoch, epoch / 8) for epoch in range(1, EPOCHS + 1)]
    metrics = (
        "select step, value from metrics where run_uuid = ? and key = ? order by timestamp, step"
    )
    for key, run, _ in runs:
        if key == "search":
            assert query(database, metrics, run, "test/accuracy") == [(0, 0.5)]
        else:
            assert query(database, metrics, run, "val/accuracy") == expected
            assert query(database, metrics, run, "val/loss") == [(e, 1.5) for e, _ in expected]


def wait_for(happened: Callable[[], bool], patience: float = 120) -> None:
    deadline = time.monotonic() + patience
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def direct(folder: Path, empty: Path, name: str = "mlflow.db") -> Delivery:
    """A delivery in this process, into a database of its own."""
    if not (folder / name).exists():
        shutil.copy(empty, folder / name)
    return Delivery(folder, f"sqlite:///{folder / name}", folder / "artifacts")


def test_a_server_and_a_mirror_killed_in_the_middle(server: Server, tmp_path: Path) -> None:
    """kill -9 of the server, later of the mirror; the server comes back on its store: against the journal."""
    journal = begin(tmp_path, "killed")
    train(journal, STUDENTS[0])
    mirror = Mirror(tmp_path, server.uri, tmp_path, patience=60)
    wait_for(lambda: STUDENTS[0] in mirror.runs().runs)
    server.kill()
    train(journal, STUDENTS[1])
    wait_for(lambda: "not delivered" in (tmp_path / LOG).read_text())
    os.kill(mirror.process.pid, signal.SIGKILL)
    mirror.process.wait()
    finish(journal)
    server.start()
    assert mirror.finish(120), mirror.trouble()
    assert_delivered(server.database, "killed")
    assert not behind(tmp_path) and not behind(tmp_path, server.uri)
    assert behind(tmp_path, "http://elsewhere")


def test_a_slow_server_holds_nobody_up(door: Door, server: Server, tmp_path: Path) -> None:
    """The server answers nothing: the driver writes all it has and leaves; the mirror goes on alone, and a second
    one, as --resume starts it, waits its turn. Against the journal, once the server answers.
    """
    journal = begin(tmp_path, "slow")
    door.open.clear()
    mirror = Mirror(tmp_path, door.uri, tmp_path, patience=120)
    for identity in STUDENTS:
        train(journal, identity)
    finish(journal)
    mirror.patience = 0  # the driver's own; the process was given another
    assert not mirror.finish(1)
    assert "goes on delivering" in mirror.trouble()
    second = Mirror(tmp_path, door.uri, tmp_path, patience=60)
    door.open.set()
    assert second.finish(120), second.trouble()
    assert mirror.process.wait(60) == 0
    assert_delivered(server.database, "slow")


def test_a_server_whose_disk_is_full(door: Door, server: Server, tmp_path: Path) -> None:
    """Three answers of 500: tried again until they are taken, each once; the log says what the server said."""
    whole(tmp_path, "full")
    door.failing = 3
    mirror = Mirror(tmp_path, door.uri, tmp_path, patience=120)
    assert mirror.finish(60), mirror.trouble()
    assert_delivered(server.database, "full")
    assert door.failing == 0 and "not delivered" in (tmp_path / LOG).read_text()


def test_a_database_on_a_full_disk(empty: Path, tmp_path: Path) -> None:
    """A real one, a few kilobytes large: nothing can be delivered until there is room, then everything is."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(disk)], check=False
        ).returncode
    ):
        pytest.skip("only root may mount a small disk")
    try:
        (tmp_path / "search").mkdir()
        whole(tmp_path / "search", "cramped")
        shutil.copy(empty, disk / "mlflow.db")
        (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free))
        uri = f"sqlite:///{disk / 'mlflow.db'}"
        mirror = Mirror(tmp_path / "search", uri, disk / "artifacts", patience=120)
        wait_for(lambda: "not delivered" in (tmp_path / "search" / LOG).read_text())
        (disk / "filler").unlink()
        assert mirror.finish(60), mirror.trouble()
        assert_delivered(disk / "mlflow.db", "cramped")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_what_is_delivered_again_is_there_once(empty: Path, tmp_path: Path) -> None:
    """A mirror killed behind each of its deliveries, before it could note it: all twice, against the journal."""
    report = tmp_path / "report.md"
    report.write_text("the answer")
    journal = begin(tmp_path, "twice")
    for identity in STUDENTS:
        before = (tmp_path / STATE).read_bytes() if (tmp_path / STATE).exists() else None
        train(journal, identity)
        direct(tmp_path, empty).deliver()
        if before is not None:
            (tmp_path / STATE).write_bytes(before)
            direct(tmp_path, empty).deliver()
    finish(journal, report)
    direct(tmp_path, empty).deliver()
    (tmp_path / STATE).unlink()
    direct(tmp_path, empty).deliver()
    assert_delivered(tmp_path / "mlflow.db", "twice")


def test_epochs_that_another_machine_trained_again_are_there_once(
    empty: Path, tmp_path: Path
) -> None:
    """The journal's last lines were delivered and lost with their machine: the next one writes them at another time."""
    journal = begin(tmp_path, "again")
    train(journal, STUDENTS[0], epochs=3)
    direct(tmp_path, empty).deliver()
    journal.close()
    lines = (tmp_path / FILE).read_bytes().splitlines(keepends=True)
    (tmp_path / FILE).write_bytes(b"".join(lines[:3]))  # the search, the student, its first epoch
    (tmp_path / STATE).unlink()
    journal = Journal(tmp_path)
    train(journal, STUDENTS[0], begun=1)
    train(journal, STUDENTS[1])
    finish(journal)
    direct(tmp_path, empty).deliver()
    assert_delivered(tmp_path / "mlflow.db", "again")


def test_a_damaged_state_is_said_and_begun_anew(
    empty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole(tmp_path, "damaged")
    direct(tmp_path, empty).deliver()
    content = (tmp_path / STATE).read_text()
    (tmp_path / STATE).write_text(content.replace('"offset": ', '"offset": 1'))
    direct(tmp_path, empty).deliver()
    assert f"{tmp_path / STATE} must be whole" in capsys.readouterr().out
    assert_delivered(tmp_path / "mlflow.db", "damaged")


def test_another_store_gets_everything(empty: Path, tmp_path: Path) -> None:
    """The first was given up; what is in the second is the journal."""
    whole(tmp_path, "moved")
    direct(tmp_path, empty).deliver()
    direct(tmp_path, empty, "other.db").deliver()
    assert_delivered(tmp_path / "other.db", "moved")


def test_what_will_never_be_taken_does_not_hold_up_the_rest(
    empty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that somebody deleted, and a file that is gone: noted and counted; the other student is all there."""
    journal = begin(tmp_path, "refused")
    train(journal, "kd-099", epochs=1)
    delivery = direct(tmp_path, empty)
    delivery.deliver()
    delivery.client.delete_run(delivery.state.runs["kd-099"])
    journal.write("epoch", id="kd-099", metrics={"epoch": 2, "val/accuracy": 0.5})
    for identity in STUDENTS:
        train(journal, identity)
    finish(journal, tmp_path / "gone.md")
    delivery.deliver()
    assert_delivered(tmp_path / "mlflow.db", "refused")
    assert delivery.state.refused == 2
    told = capsys.readouterr().out
    assert "gone.md is gone" in told and "refused" in told
    assert not behind(tmp_path)


def test_a_search_without_its_server_delivers_later_and_writes_no_password(
    server: Server,
    tmp_path: Path,
    tune: Callable[..., Command],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nobody at the port: refused, unless --tracking-offline; --resume delivers once somebody is there, as the user.

    The password stands in no file below the output folder, nor in anything printed.
    """
    port = free_port()
    uri = f"http://me:hidden-word@127.0.0.1:{port}"
    small = ("--trials", "2", "--epochs", "2", "--confirm-top", "1", "--confirm-seeds", "2")
    small += ("--teacher", "convnet8", "--teacher-epochs", "4")
    asked = ("--method", "kd", *small, "--evaluate", "none", "--out", str(tmp_path), "--name")
    resume = ("--resume", "far", "--out", str(tmp_path))
    assert status_of(*asked, "far", "--tracking-uri", uri) == 2
    searched = tune(*asked, "far", "--tracking-uri", uri, "--tracking-offline")
    assert searched.status == 0, searched.err
    assert "--resume far" in searched.out and "delivers the rest" in searched.out
    assert status_of(*resume) == status_of(*resume, "--tracking-uri", uri) == 2
    door = Door(server, port)
    monkeypatch.setenv("KDTUNE_TRACKING_URI", uri)
    assert status_of(*resume) == 0
    door.shut()
    assert_all_epochs_once(server.database, tmp_path / "far")
    me = "Basic bWU6aGlkZGVuLXdvcmQ="  # me:hidden-word
    assert me in door.authorizations
    assert status_of(*resume) == 2
    told = capsys.readouterr()
    refusals = ("--tracking-offline", "must be given again", "that can be reached", "unfinished")
    assert all(some in line for some, line in zip(refusals, told.err.splitlines(), strict=True))
    assert "MLflow has everything now" in told.out
    printed = (told.out, told.err, searched.out, searched.err)
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"hidden-word" in text for text in (*files, *map(str.encode, printed)))


def status_of(*arguments: str) -> int:
    """Of the command in this process."""
    try:
        return command.main(list(arguments))
    except SystemExit as stop:
        return int(str(stop.code))


def assert_all_epochs_once(database: Path, folder: Path) -> None:
    """The store against the journal."""
    runs = State.load(folder / STATE).runs
    for student in story(folder).students.values():
        sql = "select value from metrics where run_uuid = ? and key = 'val/accuracy' order by step"
        found = [value for (value,) in query(database, sql, runs[student.id])]
        assert found == [metrics["val/accuracy"] for metrics in student.history]
    statuses = query(
        database,
        "select status from runs where run_uuid in (select run_uuid from tags "
        "where key = 'kd.search' and value = ?)",
        folder.name,
    )
    assert set(statuses) == {("FINISHED",)} and len(statuses) == len(runs)
