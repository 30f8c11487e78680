"""What SECURITY.md promises: no code in data, names that stay in their folder, secrets that stay out of sight."""

from __future__ import annotations

import ast
import hashlib
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tune
from tests.conftest import ROOT
from tests.test_layers import FILES, source
from trainables.checkpoint import STATE, read_state
from trainables.data.folders import describe
from trainables.models import slug
from trainables.teacher_wanted import Wanted
from tuner import addresses, league, search, teaching
from tuner.control import SETTINGS
from tuner.plan import Plan

HOSTILE = ("../x", "a/b", "..", ".", "", "x" * 300, "a\0b", "ünï", "-x", "a b", "x\n", "~", "/etc")
KD = ("--method", "kd")


def refused(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        tune.main(list(arguments))
    told = capsys.readouterr()
    assert stop.value.code == 2 and told.out == "" and told.err.count("\n") == 1
    return told.err


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("flag", ["--name", "--resume"])
def test_names_that_are_no_folder_names(
    flag: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused in one line before anything is written or read: beside the output folder lies what must not be found."""
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / SETTINGS).write_text("{}")
    method = KD if flag == "--name" else ()
    told = refused((*method, f"{flag}={name}", "--out", str(tmp_path / "out")), capsys)
    assert f"{flag} must" in told or "--method must be given" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_slug_is_one_file_name(name: str) -> None:
    """Letters of file names alone, and not too many; different long names stay different."""
    made = slug(f"digits-{name}")
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,120}", made)
    assert (Path("/teachers") / made).parent == Path("/teachers")
    assert slug("x" * 300) != slug("x" * 301)


def test_a_folder_of_images_with_a_long_name(tmp_path: Path) -> None:
    """255 bytes of two-byte letters: what is stored under it has a name that is short enough."""
    folder = tmp_path / ("ä" * 127)
    for part in ("train/a", "train/b"):
        (folder / part).mkdir(parents=True)
        _image(folder / part / "1.png")
    assert len(describe(folder, None).name.encode()) <= 100


def _image(path: Path) -> None:
    from PIL import Image

    Image.new("L", (8, 8)).save(path)


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    for file in FILES:
        for node in ast.walk(ast.parse(source(file))):
            if isinstance(node, ast.Call):
                yield file, ast.unparse(node.func), node


def test_nothing_of_ours_runs_what_it_reads() -> None:
    """No pickle, eval or shell; torch and NumPy load data alone, but for what --trust-pickle was given for."""
    forbidden = {"pickle.load", "pickle.loads", "eval", "exec", "os.system", "yaml.load"}
    forbidden |= {"yaml.unsafe_load", "yaml.full_load", "joblib.load", "torch.export.load"}
    found = [(file, name) for file, name, _ in calls() if name in forbidden]
    assert found == [("trainables/exported.py", "torch.export.load")]  # what was exported just now
    careless = []
    for file, name, node in calls():
        told = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert told.get("shell", "False") == "False", file
        if name == "torch.load" and told.get("weights_only") != "True":
            careless.append(file)
        if name == "np.load":
            assert told.get("allow_pickle") == "False", file
    assert careless == ["trainables/teacher_files.py"]  # below `if trust_pickle`


class Bomb:
    """What a hostile file would hold."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return (open, (str(Path(sys.argv[0]).parent / "exploded"), "w"))


@pytest.mark.parametrize("content", [pickle.dumps({"version": Bomb()}, protocol=2), b"nonsense"])
def test_a_hostile_checkpoint_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    """Its checksum is right: still nothing in it is run."""
    (tmp_path / STATE).write_bytes(content)
    checksum = hashlib.sha256(content).hexdigest()
    (tmp_path / f"{STATE}.sha256").write_text(checksum)
    with pytest.raises(ValueError, match=f"a checkpoint must hold .*{STATE}"):
        read_state(tmp_path)
    torch.save({"version": Bomb()}, tmp_path / STATE)
    checksum = hashlib.sha256((tmp_path / STATE).read_bytes()).hexdigest()
    (tmp_path / f"{STATE}.sha256").write_text(checksum)
    with pytest.raises(ValueError, match=f"a checkpoint must hold .*{STATE}"):
        read_state(tmp_path)


def test_a_registered_model_cannot_name_code_of_its_own() -> None:
    """A record from the registry that says `module:factory`: only where the user has said so too."""
    asked = Wanted("mlflow:models:/a/1", uri="models:/a/1")
    for known in ("resnet8", "torchvision:resnet18", "timm:resnet18"):
        assert teaching.named(known, asked) == known
    with pytest.raises(
        ValueError, match=r"must be asked for by name, as os.path:join:mlflow:models"
    ):
        teaching.named("os.path:join", asked)
    assert teaching.named("my.net:make", replace(asked, model="my.net:make")) == "my.net:make"


REDACTED = [
    ("http://me:hidden@host:5000/a", "http://***@host:5000/a"),
    ("http://host:5000", "http://host:5000"),
    ("mysql+pymysql://me:hid%40den@host/db", "mysql+pymysql://***@host/db"),
    ("postgresql://host/db?user=me&password=hidden", "postgresql://host/db?user=me&password=***"),
    (
        "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dhidden",
        "mssql+pyodbc:///?odbc_connect=***",
    ),
    ("sqlite:////runs/mlflow.db", "sqlite:////runs/mlflow.db"),
    ("http://[hidden", "http://***"),
]


@pytest.mark.parametrize(("uri", "expected"), REDACTED)
def test_a_uri_is_shown_without_its_secrets(uri: str, expected: str) -> None:
    assert addresses.redacted(uri) == expected
    assert "hid" not in expected


def test_messages_are_hushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The password as it is written and as it is meant, of the URI and of MLflow's own variable."""
    monkeypatch.setenv(addresses.PASSWORD, "third-word")
    uri = "mysql://me:hid%40den@host/db"
    message = "no me:hid%40den@host:\n hid@den is wrong, third-word too"
    assert addresses.hushed(message, uri) == "no ***@host: *** is wrong, *** too"


def test_a_servers_user_and_password_go_by_the_environment() -> None:
    """And no farther: the URI is without them."""
    found = addresses.environment("https://me:hid%40den@host/x")
    named = (addresses.VARIABLES[0], addresses.USER, addresses.PASSWORD)
    assert found == dict(zip(named, ("https://host/x", "me", "hid@den"), strict=True))
    database = "mysql://me:hidden@host/db"
    assert addresses.environment(database) == {addresses.VARIABLES[0]: database}


def test_what_was_left_out_must_be_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the flag, or by the variable where it is the same but for its secrets."""
    written = "mysql://***@host/db"
    assert addresses.completed(written, "http://other") == "http://other"
    assert addresses.completed(None, None) is None
    assert addresses.completed("http://host", None) == "http://host"
    with pytest.raises(ValueError, match="--tracking-uri must be given again"):
        addresses.completed(written, None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mysql://me:hidden@elsewhere/db")
    with pytest.raises(ValueError, match="--tracking-uri must be given again"):
        addresses.completed(written, None)
    monkeypatch.setenv("KDTUNE_TRACKING_URI", "mysql://me:hidden@host/db")
    assert addresses.completed(written, None) == "mysql://me:hidden@host/db"


def test_the_environments_uri_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of files, as old habits have it, is refused with the variable's name; a flag goes before it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:/somewhere")
    told = refused((*KD, "--out", str(tmp_path)), capsys)
    assert "got file:/somewhere (MLFLOW_TRACKING_URI): MLflow has given up" in told
    told = refused((*KD, "--out", str(tmp_path), "--tracking-uri", "sqlite:///here.db"), capsys)
    assert "--tracking-uri must be absolute" in told


def test_a_league_writes_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given again when the league goes on, and reaches the search."""
    seen: list[str | None] = []

    def started(planned: list[Plan], *_: object, **__: object) -> int:
        seen.append(planned[0].settings.tracking_uri)
        return 130

    monkeypatch.setattr(search, "run_all", started)
    monkeypatch.setattr(search, "resume_all", started)
    uri = "mysql://me:hidden-word@host/db"
    asked = ["--method", "kd", "dkd", "--name", "mine", "--out", str(tmp_path)]
    assert tune.main([*asked, "--tracking-uri", uri]) == 130
    assert "hidden-word" not in (tmp_path / "mine" / league.RECORD).read_text()
    again = ["--resume", "mine", "--out", str(tmp_path)]
    with pytest.raises(SystemExit):
        tune.main(again)
    assert tune.main([*again, "--tracking-uri", uri]) == 130
    assert seen == [uri, uri]


RAY = """
from tuner import cluster
import ray
import psutil  # which Ray brings
from ray._raylet import AuthenticationMode, get_authentication_mode
with cluster.running(1):
    print(get_authentication_mode() == AuthenticationMode.TOKEN)
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        for one in process.net_connections(kind="inet"):
            if one.status == psutil.CONN_LISTEN:
                print("listens", one.laddr.ip, process.name())
"""


def test_a_started_ray_asks_for_its_token_and_listens_on_loopback() -> None:
    """Read back from the running processes."""
    done = subprocess.run(
        [sys.executable, "-c", RAY],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    mode, *listening = done.stdout.splitlines()
    assert mode == "True"
    places = {line.split()[1].removeprefix("::ffff:") for line in listening}
    assert listening and places <= {"127.0.0.1", "::1"}, listening
