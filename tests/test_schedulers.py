"""ASHA: who is stopped, who never is, and that a search that goes on decides what it would have decided."""

from __future__ import annotations

import math
import random
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import TrialScheduler

from tuner import strategies
from tuner.samplers import METRIC
from tuner.schedulers import (
    BRACKETS,
    FIRST_ARRIVALS,
    ById,
    InOrder,
    SafeASHA,
    SafeMedian,
    bracket_of,
    make,
    rankable,
)
from tuner.strategies import FEWEST_OTHERS, scheduler_of

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP
GRACE, EPOCHS = 2, 8  # rungs at 2, 4, 8
ANY: Any = None  # the controller that nobody looks at


class Trial(NamedTuple):
    """What the scheduler sees of Ray's."""

    trial_id: str
    config: dict[str, Any]


def trial(number: int, attempt: str = "") -> Any:
    return Trial(f"ray-{number}{attempt}", {"id": f"kd-{number:03d}", "number": number})


def report(epoch: int, accuracy: float | None, **more: Any) -> dict[str, Any]:
    told = {"epoch": epoch, "ranked_epoch": epoch, "epochs": EPOCHS, METRIC: accuracy}
    return {**told, "diverged": "", "failed": "", **more}


def asha(*accuracies: float, at: int = GRACE) -> SafeASHA:
    """A scheduler whose rung at epoch `at` holds `accuracies`, of trials 100, 101, ..."""
    made = SafeASHA(EPOCHS, GRACE)
    for number, accuracy in enumerate(accuracies, 100):
        made.on_trial_add(ANY, trial(number))
        made.on_trial_result(ANY, trial(number), report(at, accuracy))
    return made


def decide(made: SafeASHA, number: int, told: dict[str, Any]) -> str:
    made.on_trial_add(ANY, trial(number))
    return made.on_trial_result(ANY, trial(number), told)


def rungs(made: SafeASHA) -> dict[int, dict[str, float]]:
    return {int(milestone): dict(recorded) for milestone, recorded in made._brackets[0]._rungs}


@pytest.mark.parametrize(
    ("accuracy", "action"), [(0.59, STOP), (0.6, CONTINUE), (0.61, CONTINUE), (1.0, CONTINUE)]
)
def test_the_lowest_third_is_stopped_and_a_tie_goes_on(accuracy: float, action: str) -> None:
    """By hand: the rung holds 0.5, 0.6, 0.7, 0.8; a third of the way from the first to the last is the second."""
    assert decide(asha(0.8, 0.5, 0.7, 0.6), 1, report(GRACE, accuracy)) == action


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_a_cutoff_is_a_percentile(values: list[float]) -> None:
    """Against numpy."""
    assert strategies.cutoff(values) == pytest.approx(np.percentile(values, 100 / 3))


def test_equals_go_on_together() -> None:
    made = asha(*[0.5] * 6)
    assert [decide(made, n, report(GRACE, 0.5)) for n in range(1, 6)] == [CONTINUE] * 5


def test_the_first_arrivals_go_on() -> None:
    """Falling accuracies: everyone after the first would be stopped, but a cutoff of few is luck."""
    made = SafeASHA(EPOCHS, GRACE)
    actions = [decide(made, n, report(GRACE, 0.9 - 0.1 * n)) for n in range(1, 7)]
    assert actions == [CONTINUE] * FIRST_ARRIVALS + [STOP] * (6 - FIRST_ARRIVALS)


@pytest.mark.parametrize(("epoch", "action"), [(1, CONTINUE), (2, STOP), (3, STOP)])
def test_grace_is_respected(epoch: int, action: str) -> None:
    """Nothing is stopped before the grace period, however bad; later reports count for the rung they passed."""
    assert decide(asha(0.8, 0.8, 0.8), 1, report(epoch, 0.1)) == action


def test_rungs_double() -> None:
    assert sorted(rungs(SafeASHA(20, 5))) == [5, 10, 20]
    assert sorted(rungs(SafeASHA(4, 1))) == [1, 2, 4]
    assert sorted(rungs(SafeASHA(1, 1))) == [1]


def test_between_rungs_nothing_is_decided() -> None:
    """Recorded once, at the rung: a worse epoch after it changes nothing."""
    made = asha(0.8, 0.8, 0.8)
    assert decide(made, 1, report(2, 0.9)) == CONTINUE
    assert made.on_trial_result(ANY, trial(1), report(3, 0.1)) == CONTINUE
    assert rungs(made)[2]["kd-001"] == 0.9


NEVER_RANKED = [
    report(GRACE, math.nan),
    report(GRACE, math.inf),
    report(GRACE, None),
    {"epoch": GRACE, "ranked_epoch": GRACE},
    report(GRACE, 0.99, diverged="ce"),
    report(GRACE, 0.99, failed="OSError: disk"),
    report(GRACE, math.nan, ranked_epoch=0, failed="OSError: disk"),
]


@pytest.mark.parametrize("told", NEVER_RANKED)
def test_what_is_no_accuracy_never_enters_a_rung(told: dict[str, Any]) -> None:
    """NaN, infinity, missing, diverged, failed: neither by a report nor by an end."""
    made = asha(0.5, 0.6, 0.7)
    before = rungs(made)
    assert decide(made, 1, told) == CONTINUE
    made.on_trial_complete(ANY, trial(1), told)
    assert rungs(made) == before
    assert not rankable(told)


def test_first_phases_are_not_ranked() -> None:
    """ranked_epoch 0, whatever the epoch and the accuracy."""
    made = asha(0.5, 0.6, 0.7)
    before = rungs(made)
    for epoch in range(1, EPOCHS):
        assert decide(made, 1, report(epoch, 0.1, ranked_epoch=0)) == CONTINUE
    assert rungs(made) == before


def test_ranks_count_from_the_end_of_the_first_phase() -> None:
    """Epoch 7 with ranked_epoch 2 stands at the first rung."""
    made = asha(0.5, 0.6, 0.7)
    assert decide(made, 1, report(7, 0.1, ranked_epoch=2)) == STOP


def test_the_published_default_is_never_stopped() -> None:
    """Trial 0, worst at every rung; it is recorded all the same."""
    made = asha(0.5, 0.6, 0.7)
    assert decide(made, 0, report(GRACE, 0.0)) == CONTINUE
    assert rungs(made)[GRACE]["kd-000"] == 0.0


def test_a_finished_trial_is_recorded_at_the_last_rung() -> None:
    made = asha()
    made.on_trial_add(ANY, trial(1))
    made.on_trial_complete(ANY, trial(1), report(EPOCHS, 0.75))
    assert rungs(made)[EPOCHS] == {"kd-001": 0.75}


def test_a_trial_that_failed_or_is_unknown_can_be_removed_twice() -> None:
    made = asha()
    made.on_trial_add(ANY, trial(1))
    for _ in range(2):
        made.on_trial_remove(ANY, trial(1))
        made.on_trial_complete(ANY, trial(1), report(3, math.nan))


def test_another_attempt_of_the_same_trial_is_not_ranked_twice() -> None:
    """A resumed search gives its trials new Ray ids; their student's id stays."""
    made = asha(0.5, 0.6, 0.7)
    assert decide(made, 1, report(GRACE, 0.65)) == CONTINUE
    made.on_trial_add(ANY, trial(1, "-again"))
    assert made.on_trial_result(ANY, trial(1, "-again"), report(GRACE + 1, 0.1)) == CONTINUE
    assert rungs(made)[GRACE]["kd-001"] == 0.65


def reports(seed: int, n_trials: int = 12) -> list[tuple[int, dict[str, Any]]]:
    """(number, report) of trials that learn side by side; every fifth diverges at epoch 3."""
    rng = random.Random(seed)
    curves = [[rng.random() for _ in range(EPOCHS)] for _ in range(n_trials)]
    return [
        (
            n,
            report(e, math.nan, diverged="ce")
            if n % 5 == 4 and e == 3
            else report(e, curve[e - 1]),
        )
        for e in range(1, EPOCHS + 1)
        for n, curve in enumerate(curves)
        if not (n % 5 == 4 and e > 3)
    ]


def live(made: ById, told: list[tuple[int, dict[str, Any]]], gone: set[int]) -> list[str]:
    """Decisions on reports as they arrive; those who were stopped or diverged report no more."""
    actions = []
    for number, one in told:
        if number in gone:
            actions.append("gone")
            continue
        if one["diverged"] or one["epoch"] == EPOCHS:
            made.on_trial_complete(ANY, trial(number), one)
            actions.append("done")
        else:
            actions.append(made.on_trial_result(ANY, trial(number), one))
        gone |= {number} if actions[-1] != CONTINUE else set()
    return actions


def state(made: ById) -> Any:
    """All that decisions depend on."""
    if isinstance(made, SafeMedian):
        return made.curves
    assert isinstance(made, SafeASHA)
    return [{m: dict(r) for m, r in bracket._rungs} for bracket in made._brackets]


def rule(name: str) -> Any:
    return make(name, EPOCHS, GRACE)


@pytest.mark.parametrize("cut", [0, 13, 30, 47, 60])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["asha", "hyperband", "median"])
def test_replayed_equals_uninterrupted(name: str, seed: int, cut: int) -> None:
    """The same rungs after `cut` reports, and the same decisions ever after."""
    told = reports(seed, 24)
    whole, gone_whole = rule(name), set[int]()
    before = live(whole, told[:cut], gone_whole)
    past = [
        (f"kd-{n:03d}", n, one)
        for (n, one), action in zip(told[:cut], before, strict=True)
        if action != "gone"
    ]
    resumed = rule(name)
    stopped = resumed.replay(past)
    assert state(resumed) == state(whole)
    assert stopped == {f"kd-{n:03d}" for (n, _), a in zip(told, before, strict=False) if a == STOP}
    assert live(resumed, told[cut:], set(gone_whole)) == live(whole, told[cut:], gone_whole)


def test_who_went_on_after_a_stop_is_not_stopped_by_replay() -> None:
    """Killed before the stop was carried out, resumed, reported again: the last report decides."""
    three = [(f"kd-{n}", n, report(GRACE, 0.8)) for n in (1, 2, 3)]
    late = ("kd-4", 4, report(GRACE, 0.1))
    assert SafeASHA(EPOCHS, GRACE).replay([*three, late]) == {"kd-4"}
    assert SafeASHA(EPOCHS, GRACE).replay([*three, late, ("kd-4", 4, report(3, 0.1))]) == set()


def test_replay_somewhere_stops_somebody() -> None:
    """The battery above compares something: of 24 trials some are stopped, some reach the end."""
    for name in ("asha", "hyperband", "median"):
        actions = live(rule(name), reports(0, 24), set())
        assert actions.count(STOP) >= 3
        assert actions.count("done") >= 3


def test_metric_and_mode_are_not_set_from_outside() -> None:
    made = SafeASHA(EPOCHS, GRACE)
    assert made.set_search_properties("loss", "min")
    assert (made.metric, made._mode) == (METRIC, "max")


def test_make() -> None:
    assert isinstance(make("asha", EPOCHS, GRACE), SafeASHA)
    assert isinstance(make("median", EPOCHS, GRACE), SafeMedian)
    assert type(make("none", EPOCHS, GRACE)) is InOrder


@pytest.mark.parametrize(
    ("n", "expected"), [(1, "none"), (23, "none"), (24, "asha"), (500, "asha")]
)
def test_auto(n: int, expected: str) -> None:
    """No early stopping under 24 trials; what is asked for is what is had."""
    assert scheduler_of("auto", n) == expected
    assert scheduler_of("median", n) == "median"


def test_hyperbands_brackets() -> None:
    """By hand, 16 epochs from 4 on: rungs 4 8 16, 8 16, and 16; shares 4 : 3 : 3 as 2^2/3 : 2/2 : 1/1."""
    made = make("hyperband", 16, 4)
    assert isinstance(made, SafeASHA)
    assert [sorted(m for m, _ in b._rungs) for b in made._brackets] == [[4, 8, 16], [8, 16], [16]]
    dealt = [bracket_of(n, BRACKETS) for n in range(20)]
    assert [dealt.count(b) for b in range(3)] == [8, 6, 6]
    assert [bracket_of(n, 1) for n in range(5)] == [0] * 5
    assert all(set(dealt[n : n + 5]) == {0, 1, 2} for n in range(15))


def test_brackets_do_not_mix() -> None:
    """Trials of the last bracket are never stopped; nobody is compared with another bracket's."""
    made = rule("hyperband")
    last = [n for n in range(1, 40) if bracket_of(n, BRACKETS) == BRACKETS - 1]
    first = [n for n in range(1, 40) if bracket_of(n, BRACKETS) == 0]
    actions = [decide(made, n, report(GRACE, 0.9 - 0.01 * n)) for n in last]
    assert actions == [CONTINUE] * len(last)
    assert decide(made, first[0], report(GRACE, 0.1)) == CONTINUE
    later = [decide(made, n, report(GRACE, 0.1 - 0.001 * n)) for n in first[1:6]]
    assert later == [CONTINUE] * (FIRST_ARRIVALS - 1) + [STOP] * 3


@pytest.mark.parametrize("name", ["asha", "hyperband", "median"])
def test_a_rung_is_a_share_of_the_trials_own_epochs(name: str) -> None:
    """Epoch 4 of 16 is where epoch 2 of 8 is; epoch 2 of 16 is before the grace."""
    long, usual = rule(name), rule(name)
    for n in (0, 3, 10, 13, 20, 23, 30, 33):
        decide(long, n, report(GRACE, 0.8))
        decide(usual, n, report(GRACE, 0.8))
    number = next(n for n in range(1, 40) if bracket_of(n, BRACKETS) == 0 and n not in (3, 10, 13))
    assert decide(long, number, report(2, 0.1, epochs=16)) == CONTINUE
    assert long.on_trial_result(ANY, trial(number), report(4, 0.1, epochs=16)) == decide(
        usual, number, report(2, 0.1)
    )


def median_of(*curves: tuple[float, ...]) -> SafeMedian:
    """A rule that has heard these curves from the grace epoch on, of trials 100, 101, ..."""
    made = SafeMedian(EPOCHS, GRACE)
    for number, curve in enumerate(curves, 100):
        for epoch, accuracy in enumerate(curve, GRACE):
            made.on_trial_result(ANY, trial(number), report(epoch, accuracy))
    return made


@pytest.mark.parametrize(
    ("accuracy", "action"), [(0.59, STOP), (0.6, CONTINUE), (0.61, CONTINUE), (1.0, CONTINUE)]
)
def test_the_median_rule_by_hand(accuracy: float, action: str) -> None:
    """Means 0.4, 0.5, 0.6, 0.7, 0.8 at epoch 3, the median is 0.6; a tie goes on."""
    made = median_of(*((m - 0.1, m + 0.1) for m in (0.4, 0.5, 0.6, 0.7, 0.8)))
    made.on_trial_result(ANY, trial(1), report(GRACE, 0.1))
    assert made.on_trial_result(ANY, trial(1), report(GRACE + 1, accuracy)) == action


def test_the_median_rule_takes_the_best_so_far() -> None:
    """A dip is forgiven."""
    made = median_of(*[(0.5, 0.5)] * FEWEST_OTHERS)
    assert made.on_trial_result(ANY, trial(1), report(GRACE, 0.6)) == CONTINUE
    assert made.on_trial_result(ANY, trial(1), report(GRACE + 1, 0.1)) == CONTINUE


def test_the_median_rule_needs_others_and_grace() -> None:
    """Four others, an epoch before the grace, others that have not come as far, the default: nobody is stopped."""
    five = [(0.5,)] * FEWEST_OTHERS
    assert decide(median_of(*five[:-1]), 1, report(GRACE, 0.1)) == CONTINUE
    assert decide(median_of(*five), 1, report(GRACE - 1, 0.1)) == CONTINUE
    assert decide(median_of(*five), 1, report(GRACE + 1, 0.1)) == CONTINUE
    assert decide(median_of(*five), 0, report(GRACE, 0.1)) == CONTINUE
    assert decide(median_of(*five), 1, report(GRACE, 0.1)) == STOP


@pytest.mark.parametrize("told", NEVER_RANKED[:-1])
def test_the_median_rule_hears_nothing_of_what_is_no_accuracy(told: dict[str, Any]) -> None:
    made = median_of((0.5,))
    assert decide(made, 1, told) == CONTINUE
    made.on_trial_complete(ANY, trial(1), told)
    assert set(made.curves) == {"kd-100"}


def test_the_median_rule_counts_a_last_report_once() -> None:
    """Ray's own counts it again in on_trial_complete; a report that comes twice replaces itself."""
    made = median_of((0.4, 0.6))
    made.on_trial_complete(ANY, trial(100), report(GRACE + 1, 0.6))
    assert made.curves["kd-100"] == {GRACE: 0.4, GRACE + 1: 0.6}
