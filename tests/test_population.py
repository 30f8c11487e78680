"""Population-based training: who takes over from whom, with which values, and that a resumed turn is the same turn."""

from __future__ import annotations

import itertools
import json
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from search_spaces import Domain, parse
from tests.conftest import Command, start
from tune import main
from tuner.journal import Story, Student, story
from tuner.population import (
    Change,
    Member,
    Population,
    at,
    inside,
    perturbed,
    ranked_accuracy,
    take_over,
    turn,
)
from tuner.samplers import METRIC
from tuner.students import _last_turn

SPACE = {"temperature": Domain("loguniform", 1, 20), "alpha": Domain("uniform", 0, 1)}
ANY: Any = None  # the controller that nobody looks at


def member(number: int, accuracy: float | None, temperature: float = 4.0) -> Member:
    hyper = {"temperature": temperature, "alpha": 0.5, "mode": f"of {number}"}
    return Member(f"kd-{number:03d}", number, accuracy, hyper)


def who(changes: list[Change]) -> dict[str, str]:
    return {change.identity: change.source for change in changes}


def test_the_worst_quarter_takes_over_from_the_best() -> None:
    """By hand: of 8, the two lowest go on from one of the two highest."""
    members = [member(n, 0.1 * n + 0.1) for n in range(1, 9)]
    found = who(turn(members, 4, SPACE, 0))
    assert set(found) == {"kd-001", "kd-002"}
    assert set(found.values()) <= {"kd-007", "kd-008"}


def test_what_does_not_change_comes_from_the_source() -> None:
    """Choices go with the weights; numbers are the source's times 0.8 or 1.2, or drawn anew."""
    members = [member(n, 0.1 * n, temperature=10.0 + n) for n in range(1, 5)]
    (change,) = turn(members, 4, SPACE, 3)
    assert (change.identity, change.source) == ("kd-001", "kd-004")
    assert change.hyper["mode"] == "of 4"
    assert all(SPACE[name].holds(change.hyper[name]) for name in SPACE)


def test_the_default_is_a_source_and_never_a_target() -> None:
    worst = [member(n, 0.1 + 0.1 * n) for n in range(4)]
    best = [member(n, 0.9 - 0.1 * n) for n in range(4)]
    assert turn(worst, 4, SPACE, 0) == []
    assert who(turn(best, 4, SPACE, 0)) == {"kd-003": "kd-000"}


def test_ties_go_on() -> None:
    assert turn([member(n, 0.5) for n in range(8)], 4, SPACE, 0) == []


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_to_compare(n: int) -> None:
    assert turn([member(1, 0.5)][:n], 4, SPACE, 0) == []


def test_who_is_not_ranked_is_left_alone() -> None:
    """First phases: of five, one without a rank; the worst of the other four takes over from their best."""
    members = [member(9, None), *(member(n, 0.1 * n) for n in range(1, 5))]
    assert who(turn(members, 4, SPACE, 0)) == {"kd-001": "kd-004"}


def test_a_turn_depends_on_nothing_but_seed_epoch_and_reports() -> None:
    """Any order of arrival; another seed or epoch draws other values."""
    members = [member(n, random.Random(n).random()) for n in range(9)]
    shuffled = random.Random(0).sample(members, 9)
    assert turn(members, 4, SPACE, 0) == turn(shuffled, 4, SPACE, 0)
    assert turn(members, 4, SPACE, 0) != turn(members, 4, SPACE, 1)
    assert turn(members, 4, SPACE, 0) != turn(members, 8, SPACE, 0)


def test_perturbed_by_hand() -> None:
    """Of 400 draws about a quarter is anew; all others are 0.8 or 1.2 times the value, cut at the space's ends."""
    draws = random.Random(0)
    found = [perturbed({"temperature": 18.0, "alpha": 0.5}, SPACE, draws) for _ in range(400)]
    factors = [round(hyper["temperature"], 9) for hyper in found]
    alphas = [round(hyper["alpha"], 9) for hyper in found]
    assert 0.65 < sum(t in (14.4, 20.0) for t in factors) / 400 < 0.85
    assert 0.65 < sum(a in (0.4, 0.6) for a in alphas) / 400 < 0.85


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("uniform(0, 1)", 1.2, 1.0),
        ("loguniform(1, 20)", 0.8, 1.0),
        ("quniform(0, 1, 0.25)", 0.6, 0.5),
        ("randint(1, 5)", 4.8, 4.0),
        ("randint(1, 5)", 3.6, 4.0),
    ],
)
def test_inside(text: str, value: float, expected: float) -> None:
    """By hand; integers exclude their upper end."""
    domain = parse("x", text)
    assert isinstance(domain, Domain)
    assert inside(domain, value) == pytest.approx(expected)
    assert domain.holds(inside(domain, value))


def test_at() -> None:
    """A log scale's middle is the geometric mean."""
    assert at(Domain("loguniform", 1, 16), 0.5) == pytest.approx(4)
    assert at(Domain("uniform", 1, 3), 0.5) == pytest.approx(2)


def report(epoch: int, accuracy: float, **more: Any) -> dict[str, Any]:
    told = {"epoch": epoch, "ranked_epoch": epoch, "epochs": 8, METRIC: accuracy}
    return {**told, "diverged": "", "failed": "", **more}


def test_ranked_accuracy() -> None:
    """NaN and first phases have none."""
    assert ranked_accuracy(report(2, 0.5)) == 0.5
    assert ranked_accuracy(report(2, float("nan"))) is None
    assert ranked_accuracy(report(2, 0.5, diverged="ce")) is None
    assert ranked_accuracy(report(2, 0.5, ranked_epoch=0)) is None


@dataclass(eq=False)
class Made:
    """What the scheduler sees of Ray's trial."""

    config: dict[str, Any]
    status: str = Trial.PENDING

    def set_config(self, config: dict[str, Any]) -> None:
        self.config = config


@dataclass
class World:
    """A population without weights: each student's checkpoints are the epochs it was at."""

    folder: Path
    changes: list[tuple[Change, int]] = field(default_factory=list)

    def population(self, size: int) -> Population:
        def on_change(change: Change, epoch: int) -> None:
            self.changes.append((change, epoch))

        return Population(size, 2, SPACE, 0, self.checkpoints, on_change)

    def checkpoints(self, identity: str) -> dict[Path, int]:
        return {path: int(path.name) for path in sorted((self.folder / identity).iterdir())}

    def save(self, identity: str, epoch: int, content: str) -> None:
        folder = self.folder / identity / str(epoch)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("state.pt", "state.pt.sha256"):
            (folder / name).write_text(content)


def run(world: World, size: int, slots: int, epochs: int = 6) -> list[dict[str, Any]]:
    """A whole search in Ray's order: who is chosen trains an epoch, on so many slots; the final configs."""
    made = world.population(size)
    trials = [
        Made({"id": f"kd-{n:03d}", "number": n, "epochs": epochs, "hyper": member(n, 0).hyper})
        for n in range(size)
    ]
    for one in trials:
        made.on_trial_add(ANY, one)  # type: ignore[arg-type]
    at_epoch = dict.fromkeys((one.config["id"] for one in trials), 0)
    for _ in itertools.count():
        while sum(t.status == Trial.RUNNING for t in trials) < slots:
            chosen: Any = made.choose_trial_to_run(ANY)
            if chosen is None:
                break
            chosen.status = Trial.RUNNING
        running = [t for t in trials if t.status == Trial.RUNNING]
        if not running:
            return [t.config for t in trials]
        one: Any = running[-1]
        identity = one.config["id"]
        at_epoch[identity] += 1
        world.save(identity, at_epoch[identity], f"{identity} at {at_epoch[identity]}")
        told = report(at_epoch[identity], 0.1 * one.config["number"], epochs=epochs)
        if at_epoch[identity] == epochs:
            made.on_trial_complete(ANY, one, told)
            one.status = Trial.TERMINATED
        elif made.on_trial_result(ANY, one, told) == TrialScheduler.PAUSE:
            one.status = Trial.PAUSED
    raise AssertionError


def test_any_number_of_slots_gives_the_same_population(tmp_path: Path) -> None:
    """1, 3 and 8 slots: the same changes in the same turns, the same settings in the end."""
    worlds = [World(tmp_path / str(slots)) for slots in (1, 3, 8)]
    ends = [run(world, 8, slots) for world, slots in zip(worlds, (1, 3, 8), strict=True)]
    assert ends[0] == ends[1] == ends[2]
    assert worlds[0].changes == worlds[1].changes == worlds[2].changes
    assert [(c.identity, epoch) for c, epoch in worlds[0].changes] == [("kd-001", 2), ("kd-001", 4)]


def test_the_weights_are_taken_over_whole(tmp_path: Path) -> None:
    """Every file of the checkpoint of that epoch, and none of another."""
    world = World(tmp_path)
    for identity, epoch in itertools.product(("kd-001", "kd-002"), (1, 2)):
        world.save(identity, epoch, f"{identity} at {epoch}")
    take_over(Change("kd-001", "kd-002", {}), 2, world.checkpoints)
    read = {
        (folder.name, path.name): path.read_text()
        for folder in world.checkpoints("kd-001")
        for path in folder.iterdir()
    }
    assert read["1", "state.pt"] == "kd-001 at 1"
    assert read["2", "state.pt"] == read["2", "state.pt.sha256"] == "kd-002 at 2"
    with pytest.raises(ValueError, match="checkpoint of epoch 3, got none for kd-002"):
        take_over(Change("kd-001", "kd-002", {}), 3, world.checkpoints)


def added(made: Population, n: int) -> list[Any]:
    """So many students that the population knows of."""
    trials: list[Any] = [
        Made({"id": f"kd-{n:03d}", "number": n, "epochs": 8, "hyper": member(n, 0).hyper})
        for n in range(n)
    ]
    for one in trials:
        made.on_trial_add(ANY, one)
    return trials


def test_who_has_ended_is_waited_for_no_more(tmp_path: Path) -> None:
    """Three wait at the turn; the fourth fails, and the turn is taken."""
    world = World(tmp_path)
    made = world.population(4)
    trials = added(made, 4)
    for one in trials[:3]:
        world.save(one.config["id"], 2, "")
        assert made.on_trial_result(ANY, one, report(2, 0.5)) == TrialScheduler.PAUSE
        one.status = Trial.PAUSED
    trials[3].status = Trial.RUNNING
    assert made.choose_trial_to_run(ANY) is None
    made.on_trial_error(ANY, trials[3])
    assert made.choose_trial_to_run(ANY) is trials[0]


def test_who_lost_its_worker_is_waited_for(tmp_path: Path) -> None:
    """Tune tells of the error and adds the student again: it is the one to run, and the turn waits for it."""
    made = World(tmp_path).population(4)
    trials = added(made, 4)
    for one in trials[:3]:
        made.on_trial_result(ANY, one, report(2, 0.5))
        one.status = Trial.PAUSED
    made.on_trial_error(ANY, trials[3])
    made.on_trial_add(ANY, trials[3])
    assert made.choose_trial_to_run(ANY) is trials[3]


def stood(number: int, epoch: int, changed_at: tuple[int, ...] = ()) -> Student:
    """A student of an interrupted search, whose accuracies are 0.1 times its number."""
    known = {"kind": "search", "role": "trial", "method": "kd", "seed": 0, "epochs": 8}
    history = [{METRIC: 0.1 * number}] * epoch
    changes = [{"epoch": at} for at in changed_at]
    hyper = member(number, 0).hyper
    return Student(
        f"kd-{number:03d}", number, **known, hyper=hyper, history=history, changes=changes
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("epochs", "changed", "decided", "carried_out"),
    [
        ([2] * 8, {}, 0, []),  # the last checkpoints may be missing: everybody waits once more
        ([2] * 8, {2: (2,)}, 2, ["kd-001"]),  # killed between the two changes of the turn
        ([2] * 8, {1: (2,), 2: (2,)}, 2, []),
        ([3, *[2] * 7], {}, 2, []),  # somebody has gone on from it
        ([4] * 8, {1: (2,), 2: (2,)}, 2, []),
        ([3, 2, 1, *[2] * 5], {}, 0, []),
    ],
)
def test_where_an_interrupted_population_stands(
    epochs: list[int],
    changed: dict[int, tuple[int, ...]],
    decided: int,
    carried_out: list[str],
    tmp_path: Path,
) -> None:
    """By hand, with turns every 2 epochs; of students 1 to 8 the first two are the worst quarter."""
    world = World(tmp_path)
    living = [stood(n, e, changed.get(n, ())) for n, e in enumerate(epochs, 1)]
    for student, epoch in zip(living, epochs, strict=True):
        world.save(student.id, epoch, student.id)
    assert _last_turn(living, world.population(8)) == decided
    assert [change.identity for change, _ in world.changes] == carried_out


POPULATION = (
    *("--method", "kd", "--scheduler", "pbt", "--trials", "5", "--epochs", "4"),
    *("--confirm-top", "1", "--confirm-seeds", "2", "--max-concurrent", "1"),
)


def summary(told: Story) -> dict[str, object]:
    return {
        s.id: (
            s.hyper,
            s.status,
            [m["val/accuracy"] for m in s.history],
            [(c["epoch"], c["from"], c["hyper"]) for c in s.changes],
        )
        for s in told.students.values()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tune: Callable[..., Command]) -> Path:
    """The folder of a population that nobody disturbed."""
    out = tmp_path_factory.mktemp("population")
    command = tune(*POPULATION, "--out", out, "--name", "whole")
    assert command.status == 0, command.err
    return out / "whole"


def test_a_killed_population_goes_on_as_if_nobody_had_killed_it(
    whole: Path, tune: Callable[..., Command]
) -> None:
    """kill -9 in mid-search, after the first change; every student's setting, changes and accuracies are the same."""
    out = whole.parent
    process = start(*POPULATION, "--out", out, "--name", "broken")
    journal = out / "broken" / "events.jsonl"
    while process.poll() is None and not (
        journal.exists() and b'"event":"changed"' in journal.read_bytes()
    ):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    resumed = tune("--resume", "broken", "--out", out)
    assert resumed.status == 0, resumed.err
    told = story(out / "broken")
    assert summary(told) == summary(story(whole))
    assert any(student.changes for student in told.students.values())


def test_a_changed_student_is_trained_again_from_its_run(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own epochs up to the change, the source's, and its own after it: all as MLflow has them."""
    changed = [s.id for s in story(whole).students.values() if s.changes][-1]
    run_id = json.loads((whole / "tracking.json").read_text())["runs"][changed]
    assert main(["--replay", run_id, "--out", str(whole.parent)]) == 0
    assert capsys.readouterr().out.count("equal in") == 4
