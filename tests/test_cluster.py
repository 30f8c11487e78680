"""Searches on a real cluster: a head and nodes in processes of their own, with token authentication on.

One search on the cluster takes minutes with all that happens to it; there is one, and all that is asked of it is asked
of that one. It keeps its files in a real S3 server, and its records on a real MLflow server with PostgreSQL and
basic-auth, where there is PostgreSQL.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

import tune as command
from tests import postgres
from tests.conftest import Command, start
from tests.postgres import Postgres
from tests.raylets import Growing, Raylets
from tests.team import BUCKET, Team, client, object_store
from tests.test_repeat import told_of
from tests.unhurried import PACE
from tuner import store
from tuner.failures import LOST
from tuner.journal import FILE, Story, read, story
from tuner.tracked import STATE, State

ADDRESS = f"s3://{BUCKET}/runs"
WITHOUT = "needs PostgreSQL: apt-get install postgresql"
IMPATIENT = {
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5"
}  # of a driver without a head; Ray's is 60
EPOCHS = 8
FLAGS = (
    *("--method", "kd", "--trials", "6", "--epochs", str(EPOCHS), "--seed", "3", "--name", "kd"),
    *("--student", "tests.unhurried:network", "--teacher", "convnet8", "--teacher-epochs", "4"),
    *("--confirm-top", "1", "--confirm-seeds", "2", "--evaluate", "none"),
    *("--batch-mode", "--max-concurrent", "3", "--scheduler", "none"),
)


class Shown(NamedTuple):
    """An ended command, and what all could see of it meanwhile."""

    status: int
    out: str
    err: str
    arguments: str = ""


class Struck(NamedTuple):
    """A search whose head was lost, then a node, and another cut off, beside the same on one machine."""

    alone: Story
    first: Shown  # until the head was lost
    second: Shown  # resumed on a cluster of other nodes, by a machine that had nothing
    told: Story
    folder: Path  # the search's, on the second machine
    team: Team | None
    texts: list[bytes]  # all that was written or shown, by then


@dataclass
class Fleet:
    """Where it happens."""

    out: Path  # the folder of all that nodes must not see
    homes: Path  # of nodes
    pace: Path  # seconds of a training step
    s3: dict[str, str]
    team: Team | None
    drivers: list[subprocess.Popen[str]] = field(default_factory=list)

    def search(self, machine: str, *flags: str, **told: str) -> subprocess.Popen[str]:
        """A driver on a machine of its own: with that home folder."""
        token = Path.home() / ".ray" / "auth_token"
        told |= {**self.s3, "HOME": str(self.out / machine), "RAY_AUTH_TOKEN_PATH": str(token)}
        told |= self.team.credentials if self.team else {}
        self.drivers.append(start(*flags, "--out", ADDRESS, **told))
        return self.drivers[-1]

    def folder(self, machine: str) -> Path:
        """Of all searches, on that machine."""
        return self.out / machine / store.local(ADDRESS).relative_to(Path.home())

    def lose(self, machine: str) -> None:
        """All that runs and lies there."""
        for process, words in commands():
            if str(self.out / machine) in words:
                os.kill(process, signal.SIGKILL)
        shutil.rmtree(self.out / machine)

    def close(self) -> None:
        """End drivers that were left, where something went wrong."""
        for driver in self.drivers:
            if driver.poll() is None:
                driver.kill()


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    with object_store() as told:
        yield told


@pytest.fixture(scope="module")
def team(s3: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team | None]:
    """None without PostgreSQL."""
    programs = postgres.binaries()
    if programs is None:
        yield None
        return
    database = Postgres(programs)
    try:
        made = Team(tmp_path_factory.mktemp("team"), database, s3)
        yield made
        made.server.kill()
    finally:
        database.close()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("far")


@pytest.fixture(scope="module")
def pace(
    alone: tuple[Path, subprocess.Popen[str]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """How long nodes take for a training step, in this file; the one machine, begun before, knows nothing of it."""
    path = tmp_path_factory.mktemp("pace") / "seconds"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PACE, str(path))
        yield path


@pytest.fixture(scope="module")
def raylets(out: Path, pace: Path) -> Iterator[Raylets]:
    made = Raylets(out)
    yield made
    made.close()


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """The same search on one machine, under way, and its folder."""
    near = tmp_path_factory.mktemp("near")
    search = start(*FLAGS, "--out", near, RAY_ADDRESS="127.0.0.1:9")
    yield near, search
    search.kill()


@pytest.fixture(scope="module")
def struck(
    alone: tuple[Path, subprocess.Popen[str]],
    team: Team | None,
    raylets: Raylets,
    out: Path,
    pace: Path,
    s3: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Struck]:
    near, search = alone
    fleet = Fleet(out, tmp_path_factory.mktemp("homes"), pace, s3, team)
    try:
        first = until_the_head_is_lost(fleet)
        texts = written(out)
        fleet.lose("old")
        second = resumed(fleet, raylets)
        folder = fleet.folder("new") / "kd"
        shown = (text.encode() for one in (first, second) for text in one[1:])
        texts += [*written(out), *stored(s3), *shown]
        done = ended(search)
        assert done.status == 0, done.err
        yield Struck(story(near / "kd"), first, second, story(folder), folder, team, texts)
    finally:
        fleet.close()


def until_the_head_is_lost(fleet: Fleet) -> Shown:
    """A search is begun on a head that starts a node for who waits; both are gone in the middle of its first trials."""
    fleet.pace.write_text("0.3", encoding="ascii")  # there is to be work until all has happened
    lost = Growing(fleet.homes / "head")
    where = ["--tracking-uri", fleet.team.server.uri] if fleet.team else []
    try:
        search = fleet.search("old", *FLAGS, "--address", lost.address, *where, **IMPATIENT)
        lost.wait_for(2)
        wait_for(fleet.folder("old") / "kd" / FILE, '"event":"epoch"', times=6)
        wait_until(
            lambda: all(keys(fleet.s3, f"runs/{part}") for part in (f"kd/{FILE}", "teachers/")),
            "the store must have the journal and the teacher",
        )
        lost.kill()
        return ended(search)
    finally:
        lost.kill()


def resumed(fleet: Fleet, raylets: Raylets) -> Shown:
    """It goes on from the store, on another machine and cluster, where nodes die, fall silent, and come."""
    raylets.add(fleet.homes / "second", fleet.homes / "third")
    search = fleet.search("new", "--resume", "kd", "--address", raylets.address)
    wait_until(lambda: raylets.trains("second") and raylets.trains("third"), "both must get work")
    arguments = "\n".join(command for _, command in commands())
    raylets.kill("second")
    raylets.add(fleet.homes / "fourth")
    joined = time.monotonic()
    wait_until(lambda: raylets.trains("fourth"), "a new node must get work")
    print(f"a new node got work after {time.monotonic() - joined:.1f} s")
    wait_until(lambda: raylets.trains("third"), "there must be work on every node")
    raylets.freeze("third")
    wait_for(fleet.folder("new") / "kd" / FILE, '"event":"retried"', times=2)
    raylets.thaw("third")
    fleet.pace.write_text("0", encoding="ascii")
    return ended(search)._replace(arguments=arguments)


def ended(search: subprocess.Popen[str]) -> Shown:
    out, err = search.communicate(timeout=600)
    return Shown(search.returncode, out, err)


def written(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


def keys(s3: dict[str, str], prefix: str = "") -> list[str]:
    """Of what the store has; a first page is enough for a search of this size."""
    found = client(s3).list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    return [one["Key"] for one in found.get("Contents", [])]


def stored(s3: dict[str, str]) -> list[bytes]:
    asked = client(s3)
    return [asked.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys(s3)]


def commands() -> Iterator[tuple[int, str]]:
    """The processes that anybody on this machine can see."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ")
            yield int(process.name), words.decode(errors="replace")


def wait_for(file: Path, text: str, times: int) -> None:
    wait_until(
        lambda: file.exists() and file.read_text(encoding="utf-8").count(text) >= times,
        f"{file} must tell {text} {times} times",
    )


def wait_until(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 300
    while not happened():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_a_search_on_clusters_is_the_search_on_one_machine(struck: Struck) -> None:
    """Every suggestion, metric and the answer, against the same seed on one machine, whatever was lost on the way."""
    assert struck.second.status == 0, struck.second.err
    assert told_of(struck.told) == told_of(struck.alone)


def test_a_lost_head_ends_the_search_and_leaves_it_in_the_store(struck: Struck) -> None:
    """No success; who goes on has the store alone, and trains no teacher."""
    assert struck.first.status != 0
    assert "found in teachers/" in struck.second.out
    assert f"kept in {ADDRESS}" in struck.second.out


def test_a_lost_node_costs_an_epoch_at_most(struck: Struck) -> None:
    """For each student that it had, as the loss of the head does; all trained to their end, none has an epoch twice."""
    students = struck.told.students.values()
    retried = [s for s in students if s.retries]
    assert len(retried) >= 2  # one node was killed, one cut off
    events = [event for event, _ in read(struck.folder / FILE)]
    assert {event["kind"] for event in events if event["event"] == "retried"} == {LOST}
    since = dict.fromkeys(struck.told.students, 0)  # epochs repeated since the last loss
    for event in events:
        if event["event"] in ("student", "retried"):
            since[event["id"]] = 0
        elif event["event"] == "repeated":
            since[event["id"]] += 1
            assert since[event["id"]] == 1, event
    assert {s.status for s in students} == {"finished"}
    assert {len(s.history) for s in students} == {EPOCHS}


def test_the_teams_server_has_every_epoch_once(struck: Struck, s3: dict[str, str]) -> None:
    """Rows of PostgreSQL, against the journal, though a first machine had reported a part of them; none RUNNING."""
    if struck.team is None:
        pytest.skip(WITHOUT)
    query = struck.team.postgres.query
    runs = State.load(struck.folder / STATE).runs
    sql = "select value from metrics where run_uuid = %s and key = 'val/accuracy' order by step"
    for student in struck.told.students.values():
        found = [value for (value,) in query(sql, runs[student.id])]
        assert found == [metrics["val/accuracy"] for metrics in student.history], student.id
    assert sorted(query("select run_uuid, status from runs")) == sorted(
        (run, "FINISHED") for run in runs.values()
    )
    assert any("champion" in key for key in keys(s3, "mlflow/"))


def test_no_password_is_told(struck: Struck) -> None:
    """Neither in a file of either machine or of the store, nor printed, nor in the arguments of any process of ours."""
    if struck.team is None:
        pytest.skip(WITHOUT)
    assert any(
        b"tuner.tracking" in text for text in struck.texts
    )  # the mirror's arguments are among them
    for secret in struck.team.secrets:
        assert not any(secret.encode() in text for text in struck.texts)


@pytest.mark.parametrize(("word", "got"), [("wrong", "others"), ("", "none")])
def test_a_wrong_password_is_one_line(
    word: str,
    got: str,
    struck: Struck,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And nobody's, before anything of the search is written."""
    if struck.team is None:
        pytest.skip(WITHOUT)
    for name in struck.team.credentials:
        monkeypatch.setenv(name, word)
    where = ("--out", str(tmp_path), "--tracking-uri", struck.team.server.uri)
    with pytest.raises(SystemExit) as stop:
        command.main(["--method", "kd", *where])
    told = capsys.readouterr().err
    assert stop.value.code == 2
    assert f"must be those of a user of the server, got {got} at" in told
    assert told.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_a_node_fetches_what_it_needs(struck: Struck, raylets: Raylets) -> None:
    """Of one that lived to the end: fetched files stay, for the next search, and nothing else does."""
    if not raylets.blind:
        pytest.skip("needs a mount namespace")
    (place,) = raylets.nodes["fourth"].home.glob("kdtune-*")
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


def test_another_version_on_a_node_is_one_line(
    raylets: Raylets, tmp_path: Path, tune: Callable[..., Command]
) -> None:
    """A node that joined with another torch, by what is installed there, and where it is."""
    about = tmp_path / "site" / "torch-9.9.9.dist-info" / "METADATA"
    about.parent.mkdir(parents=True)
    about.write_text("Metadata-Version: 2.1\nName: torch\nVersion: 9.9.9\n", encoding="ascii")
    raylets.add(tmp_path / "other", PYTHONPATH=str(tmp_path / "site"))
    try:
        done = tune("--method", "kd", "--out", tmp_path / "out", "--address", raylets.address)
    finally:
        raylets.kill("other")
    assert done.status == 2
    assert "every node must have the driver's torch" in done.err
    assert "got 9.9.9 on " in done.err and len(done.err.splitlines()) == 1, done.err
    assert not (tmp_path / "out").exists()


def test_a_folder_too_large_to_be_sent_is_one_line(
    raylets: Raylets,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """2 GiB that take no room on the disk, beside a network of the user's own, on a cluster that answers."""
    with (tmp_path / "big.bin").open("wb") as file:
        file.truncate(2 * 2**30)
    monkeypatch.chdir(tmp_path)
    given = ("--student", "tests.troubled:raising", "--out", str(tmp_path / "out"))
    with pytest.raises(SystemExit) as stop:
        command.main(["--method", "kd", *given, "--address", raylets.address])
    told = capsys.readouterr()
    assert stop.value.code == 2
    assert "must be at most 200 MiB, got 2,048 MiB" in told.err and told.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
