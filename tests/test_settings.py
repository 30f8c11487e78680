"""The command before anything starts: bad input in one line, lists without heavy imports, a plan without effects."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

import tune
from tests.conftest import ROOT
from tuner import plan, search
from tuner.control import SETTINGS
from tuner.plan_table import plan_table
from tuner.settings import GROUPS, Settings, make

KD = ("--method", "kd")


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output folder that nobody may create, and a search that nobody may start."""

    def started(*_: object) -> int:
        raise AssertionError("the search was started")

    monkeypatch.setattr(search, "_carry_out", started)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "out"


def refused(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a refusal prints; asserts status 2 and silence otherwise."""
    with pytest.raises(SystemExit) as stop:
        tune.main(list(arguments))
    told = capsys.readouterr()
    assert stop.value.code == 2
    assert told.out == ""
    assert told.err.startswith("kdtune: ")
    assert told.err.count("\n") == 1
    assert told.err.endswith("\n")
    return told.err.removeprefix("kdtune: ").rstrip("\n")


BAD: list[tuple[tuple[str, ...], str]] = [
    # unknown names, with the nearest
    (("--method", "kdd"), "unknown method 'kdd', did you mean 'kd'?; known: ab, at"),
    ((*KD, "--dataset", "mnits"), "unknown dataset 'mnits', did you mean 'mnist'?; known: digits"),
    ((*KD, "--student", "convnet5"), "unknown model 'convnet5', did you mean 'convnet8'?; known:"),
    ((*KD, "--teacher", "covnet16res"), "unknown model 'covnet16res', did you mean 'convnet16res'"),
    ((*KD, "--teacher", "convnet9:w.pt"), "unknown model 'convnet9', did you mean 'convnet8'?"),
    ((*KD, "--teacher", "convnet8:w.pt"), "a teacher's file must exist, got 'w.pt' for convnet8"),
    ((*KD, "--teacher", "w.pt"), "--teacher must be NAME, NAME#SEED, NAME:FILE or mlflow:models:/"),
    ((*KD, "--teacher", "convnet8#x"), "a teacher's seed must be a whole number, as in resnet56#2"),
    ((*KD, "--teacher", "mlflow:runs:/x"), "must be mlflow:models:/NAME@ALIAS or mlflow:models:/N"),
    (
        (*KD, "--teacher", "convnet8", "--teacher", "convnet8"),
        "an ensemble's teachers must differ, got convnet8 twice; NAME#2 trains one with another seed",
    ),
    (
        ("--method", "at", "--teacher", "convnet8", "--teacher", "convnet8#2"),
        "at cannot distill convnet8 + convnet8 -> convnet4",
    ),
    (
        (*KD, "--teacher-epochs", "0"),
        "--teacher-epochs must be greater than or equal to 1, got '0'",
    ),
    ((*KD, "--trails", "3"), "unknown flag '--trails', did you mean '--trials'?; see --help"),
    ((*KD, "--trial", "3"), "unknown flag '--trial', did you mean '--trials'?; see --help"),
    ((*KD, "--epochs", "3", "stray"), "unknown flag 'stray'"),
    ((*KD, "stray"), "unknown method 'stray'"),
    ((*KD, "kd"), "--method must name each method once, got 'kd' twice"),
    (("--method", "all", "--dataset", "mnits"), "unknown dataset 'mnits', did you mean 'mnist'?"),
    (("--method", "all", "--trials", "0"), "--trials must be greater than or equal to 1, got '0'"),
    (("--method", "kd", "dkd", "--set", "temperature=0"), "temperature must be above 0, got 0"),
    (("--method", "kd", "dkd", "--name", "a/b"), "--name must be 1 to 100 letters"),
    ((*KD, "--set", "temprature=4"), "unknown space key 'temprature', did you mean 'temperature'?"),
    ((*KD, "--set", "temperature=unifrom(1,2)"), "unknown word 'unifrom', did you mean 'uniform'?"),
    ((*KD, "--space", "wrn_gird"), "got 'wrn_gird', did you mean 'wrn_grid'?"),
    ((*KD, "--space", "crd"), "unknown space key 'beta'"),
    ((*KD, "--search", "sobol"), "'nsga2', 'random' or 'grid', got 'sobol'"),
    ((*KD, "--scheduler", "bohb"), "'median', 'pbt' or 'none', got 'bohb'"),
    ((*KD, "--optimizer", "sdg"), "--optimizer must be 'sgd', 'adam' or 'adamw', got 'sdg'"),
    (("--list", "method"), "invalid choice: 'method'"),
    ((*KD, "--threat", "rkd"), "--threat must be 'cckd', got 'rkd'"),
    ((*KD, "--threat", "cckd"), "preset cckd must be for one of mnist, fashion_mnist, cifar10"),
    ((*KD, "--corruptions", "x"), "--corruptions must go with --evaluate standard or full, got qu"),
    ((*KD, "--format", "onnx"), "--format must go with --export, got it alone"),
    (("--export", "x", "--format", "tflite"), "--format must be one of safetensors, pt2, onnx, on"),
    (("--evaluate-run", "x", "--evaluate", "none"), "--evaluate must be one of quick, standard, f"),
    # hyperparameters out of range
    ((*KD, "--set", "temperature=uniform(5,1)"), "low must be below high, got uniform(5,1)"),
    ((*KD, "--set", "temperature=uniform(5,\n1)"), "low must be below high, got uniform(5, 1)"),
    ((*KD, "--set", "temperature=0"), "temperature must be above 0, got 0"),
    ((*KD, "--set", "temperature=-1"), "temperature must be above 0, got -1"),
    ((*KD, "--set", "temperature=uniform(0,4)"), "temperature must be above 0, got 0.0"),
    ((*KD, "--set", "temperature=choice(4,0)"), "temperature must be above 0, got 0"),
    ((*KD, "--set", "temperature=warm"), "temperature must be a finite number, got 'warm'"),
    ((*KD, "--set", "temperature=inf"), "temperature must be a finite number, got inf"),
    ((*KD, "--set", "alpha=1.5"), "alpha must be from 0 to 1, got 1.5"),
    ((*KD, "--set", "alpha=uniform(-0.1,1)"), "alpha must be from 0 to 1, got -0.1"),
    ((*KD, "--set", "mode=kl"), "mode must be one of cse, mse, mse_logit, got 'kl'"),
    ((*KD, "--set", "epochs=inf"), "epochs must be a whole number, got inf"),
    ((*KD, "--set", "batch_size=uniform(16,64)"), "batch_size must be a whole number, got 16.0"),
    ((*KD, "--set", "temperature"), "--set must be NAME=EXPR, got 'temperature'"),
    ((*KD, "--set", "=4"), "--set must be NAME=EXPR, got '=4'"),
    ((*KD, "--set", "alpha="), "--set must be NAME=EXPR, got 'alpha='"),
    ((*KD, "--set", "temperature=uniform(10,20)"), "got 4.0 outside uniform(10, 20)"),
    # searches that make no sense
    ((*KD, "--set", "temperature=grid(1,2)"), "got temperature under --search tpe"),
    ((*KD, "--search", "grid"), "dimension as grid(...), got temperature: loguniform(1, 20)"),
    (
        (*KD, "--search", "grid", "--set", "temperature=4", "--set", "alpha=1"),
        "got nothing searched",
    ),
    ((*KD, "--search", "cmaes", "--set", "alpha=1"), "at least 2 numeric dimensions without"),
    (
        (*KD, "--search", "grid", "--scheduler", "pbt", "--set", "temperature=grid(1,2)"),
        "dimension as grid(...), got alpha: uniform(0, 1)",
    ),
    (
        (
            *(*KD, "--search", "grid", "--scheduler", "pbt"),
            *("--set", "temperature=grid(1,2)", "--set", "alpha=1"),
        ),
        "pbt must go with --search auto, qmc or random",
    ),
    ((*KD, "--search", "tpe", "--scheduler", "pbt"), "before anything can be learnt, got tpe"),
    ((*KD, "--scheduler", "pbt", "--trials", "3"), "pbt must have at least 4 trials, got 3"),
    ((*KD, "--scheduler", "pbt", "--epochs", "1"), "pbt must have at least 2 epochs, got 1"),
    (
        (*KD, "--scheduler", "pbt", "--set", "temperature=4", "--set", "alpha=choice(0.1,0.9)"),
        "something that can change during training",
    ),
    ((*KD, "--scheduler", "hyperband", "--epochs", "3"), "must have at least 4 epochs, got 3"),
    ((*KD, "--scheduler", "asha", "--epochs", "1"), "must have at least 2 epochs, got 1"),
    ((*KD, "--scheduler", "median", "--epochs", "1"), "must have at least 2 epochs, got 1"),
    ((*KD, "--scheduler", "median", "--trials", "5"), "more than 5 trials to compare, got 5"),
    # conditions
    ((*KD, "--set", "temperature=loguniform(1,20) when mod=mse"), "'mod', did you mean 'mode'?"),
    ((*KD, "--set", "temperature=loguniform(1,20) when mode=kl"), "cse, mse, mse_logit, got 'kl'"),
    ((*KD, "--set", "temperature=loguniform(1,20) when mode"), "must be KEY=VALUE, got 'mode'"),
    ((*KD, "--set", "temperature=4 when mode=mse"), "must follow what is searched, got 4"),
    (
        (*KD, "--set", "temperature=uniform(1,20) when alpha=0.5"),
        "a condition must be on a choice or grid, got alpha: uniform(0, 1)",
    ),
    (
        (*KD, "--set", "mode=choice(cse,mse)", "--set", "alpha=uniform(0,1) when mode=mse_logit"),
        "got mode=mse_logit, mode: choice(cse, mse)",
    ),
    (
        (
            *(*KD, "--set", "mode=choice(cse,mse) when standardize=true"),
            *("--set", "standardize=choice(true,false) when mode=cse"),
        ),
        "conditions must not go round in a circle, got mode, standardize",
    ),
    # students
    ((*KD, "--set", "student=choice(convnet4,convnet5)"), "unknown model 'convnet5'"),
    (
        (*KD, "--student", "convnet8", "--set", "student=choice(convnet4,convnet16)"),
        "the published student must lie in its space",
    ),
    (
        (*KD, "--set", "student=choice(convnet4,lenet5)"),
        "lenet5 must be able to take the images, got 1x8x8",
    ),
    ((*KD, "--trials", "0"), "--trials must be greater than or equal to 1, got '0'"),
    ((*KD, "--trials", "many"), "--trials must be a valid integer, got 'many'"),
    ((*KD, "--budget-epochs", "0"), "--budget-epochs must be greater than or equal to 1, got '0'"),
    ((*KD, "--time-budget", "2 hours"), "must be a time above 0 as 90s, 30m, 2h or 1d, got '2 hou"),
    ((*KD, "--time-budget", "0h"), "--time-budget must be a time above 0"),
    ((*KD, "--target", "95"), "--target must be less than or equal to 1, got '95'"),
    ((*KD, "--target", "0"), "--target must be greater than 0, got '0'"),
    ((*KD, "--target", "nan"), "--target must be"),
    ((*KD, "--warm-start", "nobody"), "--warm-start must name a search in"),
    ((*KD, "--warm-start", "nobody", "--plan"), "--warm-start must name a search in"),
    ((*KD, "dkd", "--warm-start", "nobody"), "--warm-start must name a search in"),
    ((*KD, "--epochs", "0"), "--epochs must be greater than or equal to 1, got '0'"),
    ((*KD, "--epochs", "1.5"), "--epochs must be a valid integer, got '1.5'"),
    ((*KD, "--batch-size", "0"), "--batch-size must be greater than or equal to 1, got '0'"),
    ((*KD, "--lr", "0"), "--lr must be greater than 0, got '0'"),
    ((*KD, "--lr", "nan"), "--lr must be a finite number, got 'nan'"),
    ((*KD, "--lr", "inf"), "--lr must be a finite number, got 'inf'"),
    ((*KD, "--seed", "-1"), "--seed must be greater than or equal to 0, got '-1'"),
    ((*KD, "--confirm-top", "0"), "--confirm-top must be greater than or equal to 1, got '0'"),
    ((*KD, "--confirm-seeds", "1"), "--confirm-seeds must be greater than or equal to 2, got '1'"),
    (
        (*KD, "--evaluate", "all"),
        "--evaluate must be 'none', 'quick', 'standard' or 'full', got 'all'",
    ),
    (
        (*KD, "--max-concurrent", "0"),
        "--max-concurrent must be greater than or equal to 1, got '0'",
    ),
    (
        (*KD, "--cpus-per-trial", "0"),
        "--cpus-per-trial must be greater than or equal to 1, got '0'",
    ),
    (
        (*KD, "--gpus-per-trial", "-1"),
        "--gpus-per-trial must be greater than or equal to 0, got '-1'",
    ),
    ((*KD, "--gpus-per-trial", "inf"), "--gpus-per-trial must be a finite number, got 'inf'"),
    (
        (*KD, "--gpus-per-trial", "1.5"),
        "--gpus-per-trial must be a share of one GPU or a whole number of them, got '1.5'",
    ),
    (
        (*KD, "--gpus-per-trial", "4", "--batch-size", "3"),
        "batch_size must be at least the 4 of --gpus-per-trial, which share a batch, got 3",
    ),
    (
        (*KD, "--gpus-per-trial", "2", "--set", "batch_size=choice(64,1)"),
        "batch_size must be at least the 2 of --gpus-per-trial, which share a batch, got 1",
    ),
    (
        (*KD, "--gpus-per-trial", "2", "--student", "tests.troubled:normalising"),
        "must have torch's own batch normalisation, got tests.troubled.Activated",
    ),
    ((*KD, "--accelerator", "A100"), "--accelerator must go with --address"),
    (("--trials", "3"), "--method must be given; --list methods shows them"),
    (("--method",), "argument --method: expected at least one argument"),
    # networks that do not fit
    ((*KD, "--student", "lenet5"), "lenet5 must be able to take the images, got 1x8x8"),
    ((*KD, "--teacher", "lenet5"), "lenet5 must be able to take the images, got 1x8x8"),
    # the world outside
    ((*KD, "--name", "a/b"), "--name must be 1 to 100 letters, digits, '.', '_' or '-'"),
    ((*KD, "--name", "../b"), "got '../b'"),
    ((*KD, "--name", ""), "got ''"),
    ((*KD, "--name", "x" * 101), "--name must be 1 to 100 letters"),
    (
        (*KD, "--tracking-uri", "http://127.0.0.1:9"),
        "--tracking-uri must be a server that can be reached",
    ),
    ((*KD, "--tracking-uri", "sqlite:///here.db"), "--tracking-uri must be absolute"),
    ((*KD, "--tracking-uri", "./mlruns"), "MLflow has given up folders of files"),
    (("--resume", "nobody"), "--resume must name a search in"),
    (("--resume", "nobody", "--trials", "3"), "--resume must name a search in"),
    (("--resume", "nobody", "--epochs", "3"), "the settings it was started with, got --epochs too"),
    (("--status", "nobody"), "--status must name a search in"),
    (("--stop", "nobody", "--status", "x"), "--status must stand alone but for --out, got --stop"),
    (("--resume", "nobody", "--plan"), "the settings it was started with, got --plan too"),
    (
        ("--resume", "nobody", "--overwrite"),
        "the settings it was started with, got --overwrite too",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input(
    arguments: tuple[str, ...], message: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What must hold and what came, in one line, status 2, nothing started, nothing written."""
    assert message in refused((*arguments, "--out", str(out)), capsys)
    assert list(out.parent.iterdir()) == []


@pytest.mark.skipif(importlib.util.find_spec("pyautoattack") is not None, reason="is installed")
def test_full_evaluation_without_its_extra(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused before anything starts, with the command that installs it."""
    told = refused((*KD, "--evaluate", "full", "--out", str(out)), capsys)
    assert told.startswith("the tier full must have AutoAttack, got none: python -m pip install")
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("where", ["file", "file/below"])
def test_an_output_folder_that_cannot_be(
    where: str, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file, and below a file."""
    (out.parent / "file").write_text("kept")
    told = refused((*KD, "--out", str(out.parent / where)), capsys)
    assert "--out must be a folder that can be written to, got " in told
    assert [path.name for path in out.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("where", ["x" * 300, "~nobody-of-that-name/runs"])
def test_an_impossible_path(where: str, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Too long for the file system; the home of nobody."""
    told = refused((*KD, "--out", where), capsys)
    assert told.startswith("--out must be a folder that can be written to (")
    assert "must be a YAML file" in refused((*KD, "--space", where, "--out", str(out)), capsys)


def test_a_read_only_output_folder(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out.mkdir(mode=0o500)
    if os.access(out, os.W_OK):
        pytest.skip("this user may write anywhere")
    assert "Permission denied" in refused((*KD, "--out", str(out)), capsys)


def league(out: Path, *methods: str) -> None:
    """A league's record, as if it had been started."""
    searches = [
        make({"method": m, "name": f"mine-{m}", "experiment": "mine", "out": str(out)})
        for m in methods
    ]
    (out / "mine").mkdir(parents=True)
    record = {"version": 1, "searches": [one.model_dump(mode="json") for one in searches]}
    (out / "mine" / "league.json").write_text(json.dumps(record))


@pytest.mark.parametrize("flags", [("--plan",), ("--overwrite",), ("--trials", "3")])
def test_a_league_is_resumed_as_it_was(
    flags: tuple[str, ...], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    league(out, "kd", "dkd")
    told = refused(("--resume", "mine", "--out", str(out), *flags), capsys)
    assert told == f"--resume reads the settings it was started with, got {flags[0]} too"


@pytest.mark.parametrize("resumed", [False, True])
def test_a_signal_ends_the_whole_league(
    resumed: bool, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are begun together; a league that a signal has ended has no table yet."""
    begun: list[list[str]] = []

    def ended(planned: list[plan.Plan], resume_command: str, *_: object, **__: object) -> int:
        begun.append([one.name for one in planned])
        assert resume_command == f"python tune.py --resume mine --out {out}"
        return 130

    monkeypatch.setattr(search, "run_all", ended)
    monkeypatch.setattr(search, "resume_all", ended)
    if resumed:
        league(out, "kd", "dkd")
        assert tune.main(["--resume", "mine", "--out", str(out)]) == 130
    else:
        assert tune.main(["--method", "kd", "dkd", "--name", "mine", "--out", str(out)]) == 130
    assert begun == [["mine-kd", "mine-dkd"]]
    assert not (out / "mine" / "league.md").exists()


def test_a_league_takes_no_searchs_folder(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A single search called `mine` is there: a league of that name would be written into it."""
    (out / "mine").mkdir(parents=True)
    told = refused(("--method", "kd", "dkd", "--name", "mine", "--out", str(out)), capsys)
    assert "--name must be new, got 'mine'" in told
    assert list((out / "mine").iterdir()) == []


def test_a_password_is_not_shown(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = "http://me:secret@127.0.0.1:9"
    told = refused((*KD, "--tracking-uri", uri, "--out", str(out)), capsys)
    assert "secret" not in told
    assert "http://***@127.0.0.1:9" in told


def test_a_name_that_is_taken(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """How to go on or to start over; what is there stays as it is."""
    (out / "mine").mkdir(parents=True)
    (out / "mine" / "report.md").write_text("kept")
    told = refused((*KD, "--name", "mine", "--out", str(out)), capsys)
    assert "--resume mine goes on with it, --overwrite deletes it first" in told
    assert (out / "mine" / "report.md").read_text() == "kept"


def test_a_name_that_the_baselines_search_would_take(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (out / "mine-vanilla-tuned").mkdir(parents=True)
    (out / "mine-vanilla-tuned" / "something").touch()
    told = refused((*KD, "--tune-baseline", "--name", "mine", "--out", str(out)), capsys)
    assert told.startswith("--name must be a new search, got 'mine-vanilla-tuned'")


def test_the_plain_students_own_search_has_no_baseline(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(("--method", "vanilla", "--tune-baseline", "--out", str(out)), capsys)
    assert told.startswith("--tune-baseline must have a method that has a baseline, got the plain")
    assert list(out.parent.iterdir()) == []


def test_overwrite_deletes_nothing_before_all_is_checked(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (out / "mine").mkdir(parents=True)
    again = (*KD, "--name", "mine", "--out", str(out), "--overwrite")
    refused((*again, "--set", "temperature=0"), capsys)
    refused((*again, "--tracking-uri", "http://127.0.0.1:9"), capsys)
    assert (out / "mine").is_dir()


def test_an_unknown_resume_names_the_known(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        (out / name).mkdir(parents=True)
        (out / name / SETTINGS).write_text("{}")
    (out / "teachers").mkdir()
    assert refused(("--resume", "three", "--out", str(out)), capsys).endswith("known: one, two")


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "flags",
    [[], ["--help"], ["--help", "all"], ["--list"], *(["--list", what] for what in tune.LISTS)],
    ids=lambda flags: " ".join(flags) or "nothing",
)
def test_answers_without_torch_or_ray(flags: list[str]) -> None:
    """Which modules are loaded when the answer has been printed."""
    done = run(
        f"import atexit, sys, tune\n"
        f"heavy = {{'torch', 'ray', 'mlflow', 'optuna', 'sklearn', 'torchvision', 'scipy', 'pandas'}}\n"
        f"atexit.register(lambda: print(sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
        f"sys.exit(tune.main({flags!r}))"
    )
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert len(done.stdout.splitlines()) > 3


def test_help_shows_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """Every field of Settings that a user may set stands in one group, and in the help; the short help is short."""
    shown = [name for names in GROUPS.values() for name in names]
    assert sorted(shown) == sorted(set(Settings.model_fields) - {"experiment"})
    with pytest.raises(SystemExit) as stop:
        tune.main(["--help", "all"])
    told = capsys.readouterr().out
    assert stop.value.code == 0
    assert [f for f in shown if f"--{f.replace('_', '-')} " not in told] == []
    with pytest.raises(SystemExit):
        tune.main(["--help"])
    short = capsys.readouterr().out
    assert "--method" in short and "--resume" in short and "--hang-after" not in short
    assert len(short.splitlines()) < len(told.splitlines()) / 2


@pytest.mark.parametrize("what", tune.LISTS)
def test_list_shows_only_what_was_asked_for(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.main(["--list", what]) == 0
    assert capsys.readouterr().out.split()[0] == what


def test_list_alone_shows_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.main(["--list"]) == 0
    told = capsys.readouterr().out
    assert all(
        name in told.split() for name in (*tune.LISTS, "kd", "convnet4", "digits", "wrn_grid")
    )


def planned(out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert tune.main([*KD, "--plan", "--out", str(out), *more]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert not out.exists()
    return told


def test_plan_says_what_would_run_and_writes_nothing(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By hand: 8 trials of 12 epochs, grace 6, 5 students x 5 seeds: 8 x 6 to 8 x 12, and 25 x 12 on top."""
    eight = ("--trials", "8", "--scheduler", "asha")
    told = planned(out, capsys, *eight, "--epochs", "12", "--max-concurrent", "1")
    assert "temperature: loguniform(1, 20) alpha: uniform(0, 1)" in told
    assert "temperature 4, alpha 0.9" in told
    assert "8 by tpe, stopped early by ASHA, never before epoch 6" in told
    assert "12 of a full trial, 348 to 396 in all" in told
    assert "1 trials of 1 CPU, 0 GPU" in told
    assert "time about " in told
    assert " MB" in told.partition("disk ")[2].partition("tracking")[0]


def test_plan_tells_of_several_gpus_and_where_they_are() -> None:
    """As it is shown on a machine without any."""
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(plan_table(plan_of(gpus_per_trial=2, accelerator="A100")))
    told = console.export_text()
    assert "1 trials of 1 CPU, 2 GPU, together on one student, on nodes with A100" in told


def test_plan_of_a_grid_counts_its_cells(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """3 x 2 cells, and the published default (4, 0.9), which is none of them; --trials plays no part."""
    grid = ("--search", "grid", "--set", "temperature=grid(1,2,4)", "--set", "alpha=grid(0.1,0.5)")
    assert "7 by grid" in planned(out, capsys, *grid)


def test_plan_tells_of_the_baselines_search(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By hand: 6 students x 5 seeds to confirm, beside 2 trials of 3 epochs."""
    told = planned(out, capsys, "--tune-baseline", "--trials", "2", "--epochs", "3")
    assert "baseline 2 trials of vanilla on top, in kd-digits-1-vanilla-tuned: " in told
    assert "default, tuned baseline and plain student" in told and "96 to 96 in all" in told


def test_plan_of_nothing_searched_is_one_trial(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = planned(
        out, capsys, "--set", "temperature=4", "--set", "alpha=0.5", "--scheduler", "none"
    )
    assert "1 by tpe, each trained in full" in told


def test_plan_deletes_nothing(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "mine").mkdir(parents=True)
    assert tune.main([*KD, "--plan", "--overwrite", "--name", "mine", "--out", str(out)]) == 0
    assert (out / "mine").is_dir()


def test_settings_go_to_json_and_back() -> None:
    """What --resume reads is what the user said."""
    said = make(
        {"method": "kd", "set": ["temperature=4"], "lr": "0.05", "out": "x y", "trials": "3"}
    )
    assert Settings.model_validate_json(said.model_dump_json()) == said
    assert (said.trials, said.lr, said.set, said.out) == (
        3,
        0.05,
        ("temperature=4",),
        Path("x y"),
    )


def test_a_registered_teacher_needs_a_registry(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no store yet, and asking for one makes none."""
    told = refused((*KD, "--teacher", "mlflow:models:/mine@best", "--out", str(out)), capsys)
    assert told.startswith("--teacher must be in MLflow's registry, got models:/mine@best: no ")
    assert not out.exists()


def test_settings_of_one_teacher_are_read() -> None:
    """As earlier versions wrote them: a name, or nothing."""
    assert Settings(method="kd", teacher="convnet8").teacher == ("convnet8",)  # type: ignore[arg-type]
    assert Settings(method="kd", teacher=None).teacher == ()  # type: ignore[arg-type]


def test_settings_are_immutable_and_closed() -> None:
    said = make({"method": "kd"})
    with pytest.raises(ValidationError):
        said.trials = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="--wings must be"):
        make({"method": "kd", "wings": 2})


@pytest.mark.parametrize(
    ("epochs", "grace"),
    [(1, 1), (2, 1), (4, 2), (5, 2), (16, 8), (20, 10), (30, 10), (41, 11), (240, 60)],
)
def test_grace(epochs: int, grace: int) -> None:
    """By hand: ten epochs or half of all, whichever is less, and never below a quarter rounded up."""
    assert plan.make(make({"method": "kd", "epochs": epochs})).grace == grace


@pytest.mark.parametrize(
    ("given", "search", "scheduler"),
    [
        ({"trials": 32}, "tpe", "asha"),
        ({"trials": 24}, "tpe", "asha"),
        ({"trials": 23}, "gp", "none"),
        ({"trials": 32, "scheduler": "none"}, "gp", "none"),
        ({"trials": 32, "scheduler": "pbt"}, "qmc", "pbt"),
        ({"trials": 32, "epochs": 1}, "gp", "none"),
        ({"trials": 8, "search": "cmaes"}, "cmaes", "none"),
        ({"trials": 8, "scheduler": "hyperband"}, "tpe", "hyperband"),
    ],
)
def test_auto(given: dict[str, Any], search: str, scheduler: str) -> None:
    """The rules in words: no early stopping under 24 trials nor in one epoch; gp for 2 numbers trained in full."""
    found = plan_of(**given)
    assert (found.search, found.scheduler) == (search, scheduler)


def test_what_a_population_may_change() -> None:
    """kd's numbers and the optimiser's; no choice, no count, nothing that only decides what is built."""
    space = ("mode=choice(cse,mse)", "lr=loguniform(0.01,1)", "batch_size=randint(16,65)")
    assert set(plan_of(*space).changeable) == {"temperature", "alpha", "lr"}
    assert set(plan_of(method="fsp").changeable) == {"beta"}


def test_a_condition_that_is_settled_is_none() -> None:
    """kd's published mode is cse; a fixed mode decides too."""
    when = "temperature=loguniform(1,20) when mode=cse"
    assert set(plan_of(when).searched) == {"temperature", "alpha"}
    assert set(plan_of(when, "mode=mse").searched) == {"alpha"}
    assert plan_of(when, "mode=mse").published == {"alpha": 0.9, "mode": "mse"}
    both = plan_of(when, "mode=choice(mse,cse)")
    assert str(both.searched["temperature"]) == "loguniform(1, 20) when mode=cse"


def test_the_published_setting_has_what_its_conditions_give_it() -> None:
    """The published mode, cse, has a temperature; the published temperature of mse_logit is nobody's."""
    mode = "mode=choice(mse,cse)"
    with_it = plan_of("temperature=loguniform(1,20) when mode=cse", mode)
    without = plan_of("temperature=loguniform(1,20) when mode=mse", mode)
    assert with_it.published == {"temperature": 4.0, "alpha": 0.9, "mode": "cse"}
    assert without.published == {"alpha": 0.9, "mode": "cse"}


def test_a_grid_has_only_combinations_that_can_be() -> None:
    """By hand: cse with T 1 or 4, mse alone, each with one alpha; the published (cse, 4, 0.9) is none of them."""
    items = ("mode=grid(cse,mse)", "temperature=grid(1,4) when mode=cse", "alpha=0.5")
    found = plan_of(*items, search="grid").grid
    assert found == [
        {"temperature": 4, "mode": "cse", "alpha": 0.5},
        {"temperature": 1, "mode": "cse", "alpha": 0.5},
        {"mode": "mse", "alpha": 0.5},
    ]


def test_a_student_in_the_space() -> None:
    """Fixed, it is --student; searched, the first named is tried first, unless --student says another."""
    assert plan_of("student=convnet8").student == "convnet8"
    assert plan_of("student=choice(convnet8,convnet4)").published["student"] == "convnet8"
    asked = plan_of("student=choice(convnet8,convnet4)", student="convnet4")
    assert (asked.student, asked.published["student"]) == ("convnet4", "convnet4")


def test_each_student_is_checked_against_the_method() -> None:
    """fsp needs the teacher's channels: its usual student has them, the second of two has not."""
    usual = plan_of(method="fsp").student
    with pytest.raises(ValueError, match="cannot distill convnet16res -> convnet4 with"):
        plan_of(f"student=choice({usual},convnet4)", method="fsp")


def plan_of(*items: str, **given: Any) -> plan.Plan:
    return plan.make(make({"method": "kd", "set": items, **given}))


def test_the_published_setting_takes_what_is_fixed() -> None:
    """kd's own are T 4 and alpha 0.9."""
    assert plan_of().published == {"temperature": 4.0, "alpha": 0.9}
    assert plan_of("temperature=2").published == {"temperature": 2, "alpha": 0.9}
    assert plan_of("lr=loguniform(0.01,1)", lr=0.05).published["lr"] == 0.05


def test_a_grid_begins_with_the_published_default_once() -> None:
    """It is moved to the front where it is a cell, put there where it is none."""
    cells = plan_of("temperature=grid(1,4)", "alpha=grid(0.5,0.9)", search="grid").grid
    assert cells[0] == {"temperature": 4, "alpha": 0.9}
    assert len(cells) == 4
    assert len({tuple(sorted(cell.items())) for cell in cells}) == 4


def test_the_same_flag_twice_takes_the_last(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = planned(out, capsys, "--set", "temperature=2", "--set", "temperature=choice(4,8)")
    assert "temperature: choice(4, 8)" in told


def test_slots_are_no_more_than_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 8 cores: 8 of 1, 2 of 3, 1 of 16; --max-concurrent only lowers that."""
    monkeypatch.setattr(plan, "available_cpus", lambda: 8)
    given = [
        {},
        {"cpus_per_trial": 3},
        {"cpus_per_trial": 16},
        {"max_concurrent": 2},
        {"max_concurrent": 99},
    ]
    assert [plan_of(**one).slots for one in given] == [8, 2, 1, 2, 8]


def test_made_up_names_are_free(tmp_path: Path) -> None:
    (tmp_path / "kd-digits-1").mkdir()
    assert plan_of(out=tmp_path).name == "kd-digits-2"
    assert plan_of(out=tmp_path, name="mine").name == "mine"
