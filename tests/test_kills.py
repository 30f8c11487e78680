"""Searches that are killed: a real driver, real workers, real signals, against the same search undisturbed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import pytest

from benchmarks import chaos
from benchmarks.chaos import Blow, Patient, Toll
from tests.conftest import ROOT, Command
from tuner import session
from tuner.journal import Story, story
from tuner.shelf import KEPT

WANTED = chaos.flags(trials=6, epochs=4)


class Killed(NamedTuple):
    """A search that was struck in each of its stages, beside the one that was not."""

    patient: Patient
    toll: Toll
    reference: Story
    told: Story


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    whole, broken = (tmp_path_factory.mktemp(name) for name in ("whole", "broken"))
    reference = chaos.undisturbed(whole, WANTED)
    known = chaos.timeline(whole)
    first = known.index("search")
    more = [Blow(first + 2, "rival"), Blow(first + 4, "worker"), Blow(first + 9, "impatient")]
    with Patient(broken, WANTED) as patient:
        for blow in sorted([*chaos.one_a_stage(known, seed=0), *more]):
            patient.take(blow)
        patient.end()
    toll = chaos.counted(patient, reference)
    return Killed(patient, toll, reference, story(broken / chaos.NAME))


def test_a_search_killed_in_every_stage_ends_as_if_nothing_had_happened(killed: Killed) -> None:
    """Suggestions, stops, accuracies and answer equal the undisturbed search's; all blows landed."""
    assert killed.toll.landed == {"driver": 5, "worker": 1, "impatient": 1, "rival": 1}
    assert chaos.summary(killed.told) == chaos.summary(killed.reference)
    assert killed.toll.different == 0


def test_no_metric_is_lost_or_doubled_and_no_run_stays_running(killed: Killed) -> None:
    """MLflow's rows against the journal's epochs."""
    assert (killed.toll.lost, killed.toll.twice, killed.toll.running) == (0, 0, 0)


def test_a_kill_costs_an_epoch_at_most(killed: Killed) -> None:
    """The journal tells each epoch that was trained again; a lost worker is told, and why."""
    assert killed.toll.repeated <= 7  # kills that hit a trial
    retried = [s for s in killed.told.students.values() if s.retries]
    assert len(retried) == 1
    assert killed.told.results.get("retried") is None  # it belongs to its student


def test_finished_trials_leave_only_the_best_ones_weights(killed: Killed) -> None:
    """One checkpoint of the best trial and of each confirmed student, none of the others."""
    folder = killed.patient.out / chaos.NAME / "checkpoints"
    left = {
        s.id: len(list((folder / s.id).glob("checkpoint_*"))) for s in killed.told.students.values()
    }
    trials = [s for s in killed.told.of_kind("search") if s.complete]
    best = max(trials, key=lambda s: (s.accuracy, -s.number))
    confirmed = {s.id for s in killed.told.of_kind("confirm", "baseline")}
    assert {identity for identity, n in left.items() if n} == {best.id, *confirmed}
    assert max(left.values()) == 1 < KEPT


def test_rays_folders_of_killed_drivers_are_swept(killed: Killed) -> None:
    """By the drivers that came after them; the last one's own is gone with it."""
    marks = session.roomy().glob(f"{session.PREFIX}*/{session.MARKER}")
    left = set()
    for mark in marks:
        with suppress(OSError):  # another search's, gone meanwhile
            left.add(mark.read_text())
    first, *_, last = killed.patient.drivers
    assert not left & {str(first), str(last)}


def test_a_bug_in_the_users_code_ends_the_search_with_a_diagnosis(
    killed: Killed, tune: Callable[..., Command]
) -> None:
    """A network whose gradients raise: three trials, one line with the kind, the count, the reason and the way on."""
    wanted = ("--student", "tests.troubled:raising", "--out", killed.patient.out, "--name", "bug")
    found = tune(*WANTED, *wanted, PYTHONPATH=str(ROOT))
    assert found.status == 1, found.err
    assert "3 trials in a row: failed, the last with: ValueError: the gradient must be" in found.out
    assert "(troubled.py, line " in found.out
    assert "--resume bug" in found.out
    told = story(killed.patient.out / "bug")
    assert [s.status for s in told.students.values()] == ["failed"] * 3
