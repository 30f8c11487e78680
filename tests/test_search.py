"""The main job as a user runs it: a real process, a real Ray, a real MLflow store, real signals."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import tune
from tests.conftest import Command, start
from trainables import champion, records
from trainables.champion import load_champion
from trainables.data.sealed import open_test
from trainables.data.splits import Facts, open_split
from trainables.data.views import to_float
from tuner import plan, registry, settings_file, teaching
from tuner.costs import teacher_costs
from tuner.journal import FILE, Story, story
from tuner.mirror import Mirror
from tuner.settings import make

SMALL = (
    "--method",
    "kd",
    "--trials",
    "6",
    "--epochs",
    "4",
    "--confirm-top",
    "1",
    "--confirm-seeds",
    "2",
)


class Done(NamedTuple):
    """A finished small search."""

    out: Path
    folder: Path
    command: Command
    told: Story


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tune: Callable[..., Command]) -> Done:
    out = tmp_path_factory.mktemp("runs")
    command = tune(*SMALL, "--out", out, "--name", "small")
    assert command.status == 0, command.err
    return Done(out, out / "small", command, story(out / "small"))


def test_the_teacher_answers_once(done: Done) -> None:
    """The digits' views never change: one computation serves every epoch of every student, and the report says so."""
    costs = teacher_costs(done.told.students.values())
    assert (costs.computed, costs.live) == (1, 0)
    taught = [s for s in done.told.students.values() if s.method == "kd"]
    assert costs.found == sum(len(s.history) for s in taught) - 1
    assert "computed for 1 epochs and read for" in (done.folder / "report.md").read_text()


def query(database: Path, sql: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(database) as connection:
        return connection.execute(sql).fetchall()


def test_first_trial_is_the_published_default_and_trained_in_full(done: Done) -> None:
    first = done.told.of_kind("search")[0]
    assert first.hyper == {"temperature": 4.0, "alpha": 0.9}
    assert first.complete


def test_confirmation_is_paired(done: Done) -> None:
    """Every role with the same seeds, none of them the search's."""
    seeds: dict[str, set[int]] = {}
    for student in done.told.of_kind("confirm", "baseline"):
        seeds.setdefault(student.role, set()).add(student.seed)
        assert student.complete
    assert set(map(frozenset, seeds.values())) == {frozenset({1, 2})}
    assert set(seeds) == {"vanilla", "default", "finalist-1"}


def test_tuned_is_never_worse_than_default_on_validation(done: Done) -> None:
    rows = done.told.results["answer"]["rows"]
    assert sum(rows["tuned"]["val"]) >= sum(rows["default"]["val"])


def test_test_set_is_opened_once_and_after_the_choice(done: Done) -> None:
    events = [json.loads(line[9:]) for line in (done.folder / FILE).read_text().splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds.count("test_opened") == 1
    assert all(i < kinds.index("test_opened") for i, kind in enumerate(kinds) if kind == "epoch")


def test_each_network_is_judged_once_and_its_run_has_the_numbers(done: Done) -> None:
    """Against the journal: the teacher and the rows' students; a student's MLflow run holds the suite's names."""
    events = [json.loads(line[9:]) for line in (done.folder / FILE).read_text().splitlines()]
    judged = [event["id"] for event in events if event["event"] == "judged"]
    assert len(judged) == len(set(judged)) and "teacher" in judged
    assert {"vanilla-seed1", "vanilla-seed2", "default-seed1", "default-seed2"} <= set(judged)
    numbers = done.told.judged["default-seed1"]
    database = done.out / "mlflow.db"
    for name in ("test/accuracy", "robust/linf_0.15/worst", "flags/count", "agreement/top1"):
        sql = (
            "select m.value from metrics m join tags t on m.run_uuid = t.run_uuid "
            f"where t.key = 'kd.key' and t.value = 'default-seed1' and m.key = '{name}'"
        )
        assert query(database, sql) == [(pytest.approx(numbers[name]),)]
    clean = numbers["robust/linf_0.15/clean"]
    assert numbers["robust/linf_0.15/worst"] <= clean == numbers["test/accuracy"]
    teacher = done.told.judged["teacher"]
    assert "agreement/top1" not in teacher and "calibration/nll_scaled" in teacher


def test_a_search_cut_off_while_judging_judges_the_rest_alone(
    done: Done, tmp_path: Path, tune: Callable[..., Command]
) -> None:
    """The journal ends behind the second network: the first two are not judged again, the answer is the same."""
    for part in ("teachers", "cache", "small"):
        shutil.copytree(done.out / part, tmp_path / part)
    (tmp_path / "small" / "tracking.json").unlink()
    lines = (done.folder / FILE).read_text().splitlines(keepends=True)
    judged = [i for i, line in enumerate(lines) if json.loads(line[9:])["event"] == "judged"]
    (tmp_path / "small" / FILE).write_text("".join(lines[: judged[1] + 1]))
    resumed = tune("--resume", "small", "--out", tmp_path)
    assert resumed.status == 0, resumed.err
    again = (tmp_path / "small" / FILE).read_text().splitlines()
    kinds = [json.loads(line[9:])["event"] for line in again]
    assert kinds.count("judged") == len(judged) and kinds.count("test_opened") == 1
    answers = [told.results["answer"] for told in (done.told, story(tmp_path / "small"))]
    assert answers[0]["rows"] == answers[1]["rows"]


def test_champion_reproduces_its_recorded_accuracies(done: Done) -> None:
    """Against the journal: the weights on disk, judged again."""
    facts = Facts(**json.loads((done.folder / "champion.json").read_text())["facts"])
    answer = done.told.results["answer"]
    model = load_champion(done.folder)
    nth = answer["seeds"].index(answer["champion"]["seed"])
    for split, name in ((open_split(facts, "val"), "val"), (open_test(facts), "accuracy")):
        right = (model(to_float(split.images[:])).argmax(-1) == split.labels).float().mean()
        assert float(right) == pytest.approx(answer["rows"]["tuned"][name][nth], abs=1e-6)


def test_report_says_what_the_terminal_says(done: Done) -> None:
    report = (done.folder / "report.md").read_text()
    page = (done.folder / "report.html").read_text()
    for row in ("plain student", "published default", "tuned", "robust 0.15", "flags"):
        assert row in report and row in page and row in done.command.out
    assert 'src="http' not in page and 'href="http' not in page
    assert "mlflow ui" in done.command.out
    for picture in ("gain", "adversarial", "landscape", "slices", "parallel", "curves", "rungs"):
        assert (done.folder / "figures" / f"{picture}.png").read_bytes()[:4] == b"\x89PNG"


def test_report_looks_back_on_the_search(done: Done) -> None:
    """Importance, early stopping, every trial, the page to explore; the page and the best epoch are in MLflow too."""
    report = (done.folder / "report.md").read_text()
    page = (done.folder / "report.html").read_text()
    for words in ("Which hyperparameter decided", "Was early stopping safe?", "val, best epoch"):
        assert words in report and words in page
    trials = [student.id for student in done.told.of_kind("search")]
    explored = (done.folder / "figures" / "search.html").read_text()
    assert all(one in report and one in page and one in explored for one in trials)
    assert page.count("<img") == page.count('alt="') == len(list(done.folder.glob("figures/*.png")))
    assert len(list(done.out.rglob("artifacts/figures/search.html"))) == 1
    sql = "select value from metrics where key = 'val/best_accuracy_tuned'"
    best = done.told.results["answer"]["rows"]["tuned"]["val_best"]
    assert query(done.out / "mlflow.db", sql) == [(pytest.approx(sum(best) / len(best)),)]


def test_the_report_can_be_made_again_from_the_folder_alone(done: Done) -> None:
    """Against what the search wrote: the same text, and nothing new in the journal, so no test set opened."""
    pages = [done.folder / f"report.{form}" for form in ("md", "html")]
    before, journal = [page.read_text() for page in pages], (done.folder / FILE).read_bytes()
    for path in (*pages, *done.folder.glob("figures/*")):
        path.unlink()
    assert tune.main(["--report", "small", "--out", str(done.out)]) == 0
    assert pages[0].read_text() == before[0]
    assert pages[1].read_text().count("<img") == before[1].count("<img")
    assert (done.folder / FILE).read_bytes() == journal


def test_a_report_is_read_aloud_well(done: Done) -> None:
    """By the page's own tags: a language, a text for each picture, headers with a scope, anchors that are there."""
    page = (done.folder / "report.html").read_text()
    assert '<html lang="en">' in page and "@media print" in page
    assert re.findall(r"<th(?! scope=\"(?:row|col)\")[ >]", page) == []
    assert page.count("<table") == page.count("<caption") == page.count('role="region"')
    ids = re.findall(r'<h2 id="(\w+)"', page)
    assert re.findall(r'<a href="#(\w+)"', page) == ids


def another(done: Done, out: Path, name: str, **facts: object) -> None:
    """A copy of the search under another name; `facts` of its data are changed."""
    shutil.copytree(done.folder, out / name)
    told = settings_file.read(out / name).model_copy(update={"name": name})
    settings_file.write(out / name, told)
    record = records.read(out / name / "champion.json", champion.VERSION, "")
    record["facts"] |= facts
    records.write(out / name / "champion.json", record, champion.VERSION)


def test_searches_are_compared_where_the_same_images_judged_them(
    done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A search and its copy: no difference; a copy judged by other images stands apart, and alone is refused."""
    another(done, tmp_path, "a")
    another(done, tmp_path, "b")
    another(done, tmp_path, "c", sha256={"train": "0", "test": "0"})
    assert tune.main(["--report", "a", "b", "c", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "compare-a-b-c" / "report.md").read_text()
    assert "0 of 1 pairs differ" in page and "may not be compared" in page
    assert page.count("| plain convnet4 |") == 2
    with pytest.raises(SystemExit) as stop:
        tune.main(["--report", "a", "c", "--out", str(tmp_path)])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "must name searches judged by the same test images" in said


def test_a_search_without_an_answer_is_not_reported(
    done: Done, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    another(done, tmp_path, "half")
    lines = (tmp_path / "half" / FILE).read_text().splitlines(keepends=True)
    (tmp_path / "half" / FILE).write_text("".join(lines[: len(lines) // 2]))
    with pytest.raises(SystemExit) as stop:
        tune.main(["--report", "half", "--out", str(tmp_path)])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "--resume small goes on" in said and said.count("\n") == 1


def test_ray_and_its_warnings_are_quiet(done: Done) -> None:
    assert done.command.err == ""
    assert "Trial" not in done.command.out and "ray" not in done.command.out.lower().split()


def test_mlflow_has_a_run_for_the_search_and_one_a_student(done: Done) -> None:
    """Against the journal: statuses, every epoch once, flat runs."""
    database = done.out / "mlflow.db"
    runs = dict(query(database, "select run_uuid, status from runs"))
    keys = dict(query(database, "select run_uuid, value from tags where key = 'kd.key'"))
    assert sorted(keys.values()) == sorted(["search", *done.told.students])
    for run, key in keys.items():
        if key != "search":
            expected = {"finished": "FINISHED", "stopped": "KILLED"}[done.told.students[key].status]
            assert runs[run] == expected
            sql = (
                f"select step, value from metrics where key = 'val/accuracy' and run_uuid = '{run}'"
            )
            steps = sorted(query(database, sql))
            history = [m["val/accuracy"] for m in done.told.students[key].history]
            assert steps == list(enumerate(history, 1))
    assert not query(database, "select 1 from tags where key = 'mlflow.parentRunId'")
    assert {runs[r] for r, key in keys.items() if key == "search"} == {"FINISHED"}


def test_second_search_reuses_the_teacher(done: Done, tune: Callable[..., Command]) -> None:
    again = tune(
        "--method", "kd", "--set", "temperature=grid(2,8)", "--set", "alpha=0.5", "--search", "grid",
        "--epochs", "2", "--confirm-top", "1", "--confirm-seeds", "2", "--out", done.out,
        "--name", "second", "--scheduler", "none", "--evaluate", "none",
    )  # fmt: skip
    assert again.status == 0, again.err
    assert "found in teachers/" in again.out
    told = story(done.out / "second")
    assert all(set(found) == {"test/accuracy", "test/loss"} for found in told.judged.values())
    tried = [student.hyper["temperature"] for student in told.of_kind("search")]
    assert tried == [4.0, 2, 8]
    assert all(student.hyper["alpha"] == 0.5 for student in told.of_kind("search"))
    registered = "kdtune-teacher-digits-convnet16res"
    database = done.out / "mlflow.db"
    linked = query(database, "select value from tags where key = 'kd.teacher'")
    assert linked == [(f"models:/{registered}/1",)] * 2
    versions = query(database, f"select version from model_versions where name = '{registered}'")
    assert versions == [(1,)]
    inputs = query(database, "select 1 from inputs where source_type = 'RUN_INPUT'")
    assert len(inputs) == 2


def test_taken_name_is_refused_with_the_ways_out(done: Done, tune: Callable[..., Command]) -> None:
    refused = tune(*SMALL, "--out", done.out, "--name", "small")
    assert refused.status == 2
    assert "--resume small" in refused.err and "--overwrite" in refused.err
    assert story(done.folder).results["close"]["status"] == "finished"


def test_registered_champion_is_served(done: Done) -> None:
    """A real `mlflow models serve` answers as the weights on disk do."""
    version = json.loads((done.folder / "tracking.json").read_text())["model_version"]
    name, port = f"models:/kdtune-digits-convnet4/{version}", free_port()
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"sqlite:///{done.out / 'mlflow.db'}",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    serve = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        name,
        "--env-manager",
        "local",
    ]
    with ended(
        subprocess.Popen([*serve, "--port", str(port)], env=environment, start_new_session=True)
    ):
        images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        answer = post(f"http://127.0.0.1:{port}/invocations", {"inputs": images.tolist()})
    expected = load_champion(done.folder)(images)
    torch.testing.assert_close(torch.tensor(answer["predictions"]), expected, rtol=1e-4, atol=1e-4)


def run_of(done: Done, key: str) -> str:
    known = json.loads((done.folder / "tracking.json").read_text())["runs"]
    return str(known[key])


def test_a_search_runs_champion_is_exported(done: Done, tune: Callable[..., Command]) -> None:
    """The file's weights are the champion's of the search, bit for bit, and another process found it equal."""
    run_id = run_of(done, "")
    command = tune("--export", run_id, "--format", "safetensors", "pt2", "--out", done.out)
    assert command.status == 0, command.err
    student = done.told.results["answer"]["champion"]["student"]
    folder = done.out / "exports" / run_of(done, student)
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert load_champion(folder)(images).equal(load_champion(done.folder)(images))
    told = json.loads((folder / "export.json").read_text())
    assert {one["file"] for one in told["files"].values()} == {"champion.safetensors", "model.pt2"}
    assert all(one["difference"] <= 1e-4 for one in told["files"].values())
    assert "model.pt2" in command.out and "the test set stays closed" in command.out


def evaluated(done: Done, key: str, tune: Callable[..., Command]) -> tuple[str, dict[str, Any]]:
    """What --evaluate-run prints of a student, and its run's metrics and tags afterwards."""
    run_id, database = run_of(done, key), done.out / "mlflow.db"
    command = tune("--evaluate-run", run_id, "--out", done.out)
    assert command.status == 0, command.err
    metrics = query(database, f"select key, value from latest_metrics where run_uuid = '{run_id}'")
    tags = query(database, f"select key, value from tags where run_uuid = '{run_id}'")
    return command.out, dict([*metrics, *tags])  # type: ignore[list-item]


def test_a_trial_is_evaluated_on_validation(done: Done, tune: Callable[..., Command]) -> None:
    """Its numbers stand below val/; the test set stays closed, nothing is fitted on what it is judged by."""
    trial = next(key for key in sorted(kept(done)) if done.told.students[key].kind == "search")
    printed, found = evaluated(done, trial, tune)
    assert "quick, on validation, which its search chose by" in printed
    assert found["kd.evaluated"] == "quick on val, seed 0"
    trained = done.told.students[trial].accuracy
    assert found["val/clean/accuracy"] == pytest.approx(trained, abs=0.01)
    assert 0 <= found["val/robust/linf_0.15/worst"] <= found["val/clean/accuracy"]
    assert "test/accuracy" not in found and "val/calibration/nll_scaled" not in found


def test_who_was_judged_is_evaluated_on_the_test_set(
    done: Done, tune: Callable[..., Command]
) -> None:
    """The search's own numbers again: the same images, network and draws."""
    judged = done.told.judged["default-seed1"]
    printed, found = evaluated(done, "default-seed1", tune)
    assert "quick, on the test set, which its search opened for this student" in printed
    assert {name: found[name] for name in judged} == pytest.approx(judged)


@pytest.mark.parametrize("flag", ["--export", "--evaluate-run"])
def test_runs_without_a_network_are_one_line(
    flag: str, done: Done, capsys: pytest.CaptureFixture[str]
) -> None:
    """No such run; a trial whose weights were not kept, with the way to get them; a setting that is not its."""
    gone = next(s.id for s in reversed(done.told.of_kind("search")) if s.id not in kept(done))
    cases = [
        (("no",), f"{flag} must be the id of a run in MLflow, got 'no'"),
        ((run_of(done, gone),), "trains it again and keeps them"),
        (
            (run_of(done, ""), "--seed", "1"),
            f"{flag} reads the settings of its run, got --seed too",
        ),
    ]
    for arguments, message in cases:
        with pytest.raises(SystemExit) as stop:
            tune.main([flag, *arguments, "--out", str(done.out)])
        told = capsys.readouterr()
        assert stop.value.code == 2 and told.err.count("\n") == 1 and message in told.err


def kept(done: Done) -> set[str]:
    """The students whose checkpoints are there."""
    return {path.parents[1].name for path in done.folder.glob("checkpoints/*/*/state.pt")}


def test_alias_champion_is_the_best_of_all_searches_on_validation(done: Done) -> None:
    """Against the version tags: whoever has the alias has the highest accuracy (ties: the latest)."""
    database = done.out / "mlflow.db"
    rows = query(
        database, "select version, value from model_version_tags where key = 'val/accuracy'"
    )
    found = {version: float(str(value)) for version, value in rows}
    alias = query(database, "select version from registered_model_aliases where alias = 'champion'")
    assert alias == [(max(found, key=lambda v: (found[v], v)),)]


def test_a_registered_champion_becomes_a_teacher(done: Done) -> None:
    """The weights that the registry gives are those on disk; an unknown alias is one line."""
    known = {"method": "kd", "out": done.out}
    name = "mlflow:models:/kdtune-digits-convnet4"
    asked = plan.make(make({**known, "teacher": f"{name}@champion"}))
    (found,) = teaching.resolved(asked).teachers
    assert found.model == "convnet4"
    weights = [path.read_bytes() for path in done.out.glob("*/champion.safetensors")]
    assert Path(found.file).read_bytes() in weights
    with pytest.raises(ValueError, match=r"must be in MLflow's registry, got models:/.*@nobody"):
        teaching.resolved(plan.make(make({**known, "teacher": f"{name}@nobody"})))


@pytest.mark.parametrize(
    ("networks", "libraries"),
    [
        (["convnet4"], {"torch", "numpy"}),
        (["torchvision:resnet18"], {"torch", "torchvision", "numpy"}),
    ],
)
def test_a_logged_model_asks_for_its_networks_library(
    networks: list[str], libraries: set[str]
) -> None:
    """Where the network is torchvision's, torchvision has to be there when it is loaded."""
    assert {one.partition("==")[0] for one in registry.requirements(networks)} == libraries


def test_a_lost_tracking_state_delivers_nothing_twice(done: Done) -> None:
    """The whole journal delivered again: the store's runs, metrics, models and links are as they were."""
    counted = ("runs", "metrics", "params", "model_versions", "logged_models", "inputs")
    database = done.out / "mlflow.db"
    before = {name: query(database, f"select count(*) from {name}") for name in counted}
    (done.folder / "tracking.json").unlink()
    again = Mirror(done.folder, f"sqlite:///{database}", done.out / "artifacts" / "small")
    assert again.finish(60), again.trouble()
    assert {name: query(database, f"select count(*) from {name}") for name in counted} == before
    assert query(database, "select distinct status from runs where status = 'RUNNING'") == []


def test_report_tells_of_the_teacher(done: Done) -> None:
    """Its calibrated temperature is the journal's, beside the one that the search found."""
    teacher = done.told.results["teacher"]
    words = f"The teacher is best calibrated at T = {teacher['temperature']:.3g}; the search"
    for page in ("report.md", "report.html"):
        assert words in (done.folder / page).read_text().replace("&#39;", "'")
    assert teacher["calibrated_nll"] <= teacher["nll"]


ENDS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]  # test_kills has SIGKILL


@pytest.mark.parametrize(("number", "status"), ENDS)
def test_a_signal_ends_in_order_and_resume_equals_uninterrupted(
    number: int, status: int, tmp_path: Path, tune: Callable[..., Command], uninterrupted: Story
) -> None:
    """Same suggestions, same stops, same results as the search that nobody disturbed; no run left RUNNING."""
    process = start(*ONE_WORKER, "--out", tmp_path, "--name", "broken")
    assert process.stdout
    for line in process.stdout:
        if line.startswith("[2/"):
            process.send_signal(number)
            break
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == status
    assert "--resume broken" in rest
    no_run_stays_running(tmp_path / "mlflow.db")
    resumed = tune("--resume", "broken", "--out", tmp_path)
    assert resumed.status == 0, resumed.err
    told = story(tmp_path / "broken")
    assert summary(told) == summary(uninterrupted)
    n_runs = query(tmp_path / "mlflow.db", "select count(*) from runs")
    assert n_runs == [(len(told.students) + 1,)]
    no_run_stays_running(tmp_path / "mlflow.db")


def no_run_stays_running(database: Path, patience: float = 180) -> None:
    """The mirror outlives its driver for as long as it takes to deliver the rest; it may just have begun to."""
    deadline = time.monotonic() + patience
    while not delivered(database):
        assert time.monotonic() < deadline, "a run stayed RUNNING, or none was delivered"
        time.sleep(0.5)


def delivered(database: Path) -> bool:
    """Whether there are runs, and none of them RUNNING."""
    with suppress(sqlite3.OperationalError):  # no table yet
        found = query(database, "select distinct status from runs")
        return bool(found) and ("RUNNING",) not in found
    return False


ONE_WORKER = (
    *("--method", "kd", "--trials", "5", "--epochs", "4", "--confirm-top", "1"),
    *("--confirm-seeds", "2", "--max-concurrent", "1"),
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tune: Callable[..., Command]) -> Story:
    out = tmp_path_factory.mktemp("whole")
    command = tune(*ONE_WORKER, "--out", out, "--name", "whole")
    assert command.status == 0, command.err
    return story(out / "whole")


def summary(told: Story) -> dict[str, object]:
    students = {
        s.id: (s.hyper, s.status, [m["val/accuracy"] for m in s.history])
        for s in told.students.values()
    }
    return {**students, "rows": told.results["answer"]["rows"]}


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def post(url: str, content: object, patience: float = 60) -> dict[str, object]:
    import urllib.error
    import urllib.request

    request = urllib.request.Request(
        url, json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return json.loads(answer.read())  # type: ignore[no-any-return]
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


class ended:  # noqa: N801
    """Ends a process group that a test started."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def __enter__(self) -> subprocess.Popen[bytes]:
        return self.process

    def __exit__(self, *_: object) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
