"""--out s3://...: against a real S3 server on loopback, moto's."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest

from tests.conftest import Command, start
from tests.team import object_store
from tuner import store
from tuner.journal import FILE, story
from tuner.registry import reading
from tuner.store import Store
from tuner.tracked import STATE, State

ADDRESS = "s3://kdtune/runs"


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """What a process needs to reach the server; this one can."""
    with object_store() as told, pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        yield told


@pytest.fixture
def here(s3: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store, and this machine's folder for it, with a search in it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    made = Store(f"{ADDRESS}/{tmp_path.name}")
    for name in ("settings.json", FILE, "checkpoints/kd-000/1", "driver.lock"):
        path = made.local / "kd" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name} 1", encoding="utf-8")
    return made


def files(made: Store) -> list[str]:
    folder = made.local / "kd"
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def elsewhere(here: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """The same store from a machine that has nothing yet."""
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    return Store(here.address)


def test_what_is_sent_is_fetched(
    here: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As it is last: what was deleted here is gone there; locks stay here."""
    here.send()
    (here.local / "kd" / "checkpoints" / "kd-000" / "1").unlink()
    (here.local / "kd" / FILE).write_text("longer now", encoding="utf-8")
    here.send()
    there = elsewhere(here, monkeypatch, tmp_path)
    there.fetch("kd")
    assert files(there) == [FILE, "settings.json"]
    assert (there.local / "kd" / FILE).read_text(encoding="utf-8") == "longer now"


def test_the_longer_journal_wins(here: Store) -> None:
    """One that is behind is replaced, one that is ahead stays."""
    journal = here.local / "kd" / FILE
    journal.write_text("two epochs", encoding="utf-8")
    here.send()
    for own, kept in (("one", "two epochs"), ("and a third epoch", "and a third epoch")):
        journal.write_text(own, encoding="utf-8")
        here.fetch("kd")
        assert journal.read_text(encoding="utf-8") == kept


def test_what_belongs_to_a_search_comes_with_it(
    here: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A league's searches with the league; the search for a tuned baseline with any of them; no search of another."""
    home = here.local
    league = {"settings.json": '{"experiment": "two"}', FILE: "a line", "checkpoints/a-000/1": ""}
    for name, own in {
        "two": {"league.json": "{}"},
        "two-kd": league,
        "two-dkd": league,
        "two-kd-tuned": league,
        "other": {"settings.json": '{"experiment": null}', FILE: "a line"},
    }.items():
        for path, content in own.items():
            (home / name / path).parent.mkdir(parents=True, exist_ok=True)
            (home / name / path).write_text(content, encoding="utf-8")
    here.send()
    for asked in ("two", "two-dkd"):
        monkeypatch.setenv("HOME", str(tmp_path / asked))
        there = Store(here.address)
        there.fetch(asked)
        come = {p.parent.name for p in there.local.glob(f"*/{FILE}")}
        assert come == {"two-kd", "two-dkd", "two-kd-tuned"}
        assert (there.local / "two" / "league.json").exists() == (asked == "two")


def test_what_was_fetched_in_part_is_fetched_again(
    here: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The machine went down in the middle: no file is there in part, and the journal, which is last, is not there."""
    here.send()
    there = elsewhere(here, monkeypatch, tmp_path)
    replace = Path.replace

    def dies(one: Path, target: Path) -> Path:
        if target.name == "1":
            raise KeyboardInterrupt
        return replace(one, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", dies)
        there.fetch("kd")
    assert FILE not in files(there)
    there.fetch("kd")
    assert (there.local / "kd" / "checkpoints/kd-000/1").read_text(encoding="utf-8")
    assert (there.local / "kd" / FILE).exists()


def test_records_of_lines_that_the_store_lacks_are_asked_for(here: Store) -> None:
    """MLflow's mirror may be ahead of the journal that was sent: its count of bytes is of no use then."""
    journal, tracked = (here.local / "kd" / name for name in (FILE, STATE))
    for offset, left in ((len("whole"), True), (len("whole") + 1, False)):
        journal.write_text("whole", encoding="utf-8")
        State(offset=offset).save(tracked)
        here.send()
        journal.unlink()
        here.fetch("kd")
        assert tracked.exists() == left


def test_a_store_that_can_be_used_is_probed(here: Store) -> None:
    """Nothing is left behind."""
    here.probe()
    assert "Contents" not in boto3.client("s3").list_objects_v2(
        Bucket="kdtune", Prefix="runs/.probe"
    )


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://of-nobody/runs", "must be a store that can be written and read, got s3://of-nobody"),
        ("s3://", "must be a folder, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER, got 's3://'"),
        ("ftp://kdtune/runs", "must be a folder, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused(
    s3: dict[str, str], address: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Store(address).probe()


def test_a_store_without_rights_is_one_line(
    s3: dict[str, str], tmp_path: Path, tune: Callable[..., Command]
) -> None:
    """A policy that lets nobody write: status 2, before anything is written here or there."""
    boto3.client("s3").create_bucket(Bucket="of-others")
    denied = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": "*"}
    policy = {"Version": "2012-10-17", "Statement": [denied]}
    boto3.client("s3").put_bucket_policy(Bucket="of-others", Policy=json.dumps(policy))
    for bucket, reason in (("of-others", "ACCESS_DENIED"), ("of-nobody", "")):
        out = f"s3://{bucket}/runs"
        done = tune("--method", "kd", "--out", out, HOME=str(tmp_path))
        assert done.status == 2
        assert f"must be a store that can be written and read, got {out}" in done.err
        assert reason in done.err and len(done.err.splitlines()) == 1, done.err
        assert not (tmp_path / store.local(out).relative_to(Path.home())).exists()


def test_a_search_goes_on_on_another_machine(
    s3: dict[str, str], tmp_path: Path, tune: Callable[..., Command]
) -> None:
    """Ended by a signal on one, resumed on another that has the store alone; its teacher is not trained again.

    A third that has the store alone exports the champion.
    """
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    flags = ("--method", "kd", "--trials", "3", "--epochs", "4", "--name", "kd")
    few = ("--confirm-top", "1", "--confirm-seeds", "2", "--evaluate", "none")
    team = ("--out", ADDRESS, "--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}")
    search = start(*flags, *few, *team, **s3, HOME=str(first))
    journal = first / store.local(ADDRESS).relative_to(Path.home()) / "kd" / FILE
    deadline = time.monotonic() + 300
    while not journal.exists() or '"event":"epoch"' not in journal.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    search.send_signal(signal.SIGTERM)
    out, err = search.communicate(timeout=120)
    assert search.returncode == 143, err
    assert f"kept in {ADDRESS}" in out
    done = tune("--resume", "kd", *team, **s3, HOME=str(second))
    assert done.status == 0, done.err
    assert "training" not in done.out
    told = story(second / journal.parent.relative_to(first))
    assert all(len(s.history) == 4 for s in told.students.values())
    client = reading(team[-1]).MlflowClient()
    experiment = client.get_experiment_by_name("kd")
    own = client.search_runs([experiment.experiment_id], "tags.`kd.key` = 'search'")
    done = tune("--export", own[0].info.run_id, *team, **s3, HOME=str(third))
    assert done.status == 0, done.err
    assert list(third.rglob("exports/*/*.safetensors"))
