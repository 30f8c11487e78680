"""What ends a search before its trials are used up: epochs, time, a target, or a request from another terminal.

Budgets are of the search alone; the confirmation follows whatever ended it. Once one is used up no trial is begun, and
those that run end with their next report, so that at most one epoch a slot goes beyond it. Two are trained in full all
the same: the published default, because everything is compared with it, and the trial that reached the target, because
its accuracy in mid-training is not yet one that can be ranked.

NaN, missing   an accuracy that is none reaches no target
a tie          an accuracy equal to the target reaches it; of two budgets used up at once the one above is named
a retry        an epoch that is reported twice counts once
a resumed one  goes on with what was spent before; the time between is not counted
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

from tuner.control import REQUEST
from tuner.journal import Event, Journal, Story, read
from tuner.progress import Board, duration
from tuner.settings import Settings, seconds_of

REASON = "budget"  # of a trial that was stopped here
ASKED = "--stop"


class Budgets:
    """Counts what a search spends; asked by its searcher, its scheduler and Tune's loop."""

    def __init__(self, settings: Settings, n_trials: int, journal: Journal, board: Board) -> None:
        self.settings, self.n_trials = settings, n_trials
        self.journal, self.board = journal, board
        self.request = journal.path.with_name(REQUEST)
        past = board.story.of_kind("search")
        self.epochs = {student.id: len(student.history) for student in past}
        self.seconds_before = search_seconds(event for event, _ in read(journal.path))
        self.started = time.monotonic()
        self.stopped: set[str] = set()  # ids of trials that ended here, and not by themselves

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray pickles what it is given, and the journal is an open file."""
        return {}

    def begin(self) -> None:
        """The clock of --time-budget runs from here."""
        self.started = time.monotonic()

    @property
    def over(self) -> bool:
        """Whether the search is to end."""
        if "budget" not in self.board.story.results:
            reason = self._used_up()
            if reason:
                self._end(reason, ())
        return "budget" in self.board.story.results

    def refuses(self, number: int) -> bool:
        """Whether the trial of that number is not to be trained any further."""
        return self.over and number not in (0, *self.board.story.results["budget"]["kept"])

    def stops(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Take a trial's report in; whether it is its last."""
        config = result["config"]
        identity, number = config["id"], config["number"]
        self.epochs[identity] = max(self.epochs.get(identity, 0), result["epoch"])
        self._look_at_target(identity, number, result)
        return not result["done"] and self.ends(identity, number)

    def ends(self, identity: str, number: int) -> bool:
        """Whether a trial is to end where it stands; it is remembered as ended by a budget."""
        refused = self.refuses(number)
        if refused:
            self.stopped.add(identity)
        return refused

    def end_the_rest(self) -> None:
        """Write down that trials which were under way, and are refused now, have ended."""
        for student in self.board.story.of_kind("search"):
            under_way = student.status in ("running", "interrupted")
            if under_way and self.refuses(student.number):
                told = {"id": student.id, "status": "stopped", "reason": REASON}
                self.board.take(self.journal.write("end", sync=True, **told))

    def _look_at_target(self, identity: str, number: int, result: Mapping[str, Any]) -> None:
        target, accuracy = self.settings.target, result.get("val/accuracy")
        if target is None or accuracy is None or result.get("diverged") or result.get("failed"):
            return
        if accuracy >= target and not self.over:
            reached = f"{identity} reached {accuracy:.4g} in epoch {result['epoch']}"
            self._end(f"--target {target:g} ({reached})", (number,))

    def _used_up(self) -> str:
        """The budget that is used up, as its flag; "" where none is."""
        limit, spent = self.settings.budget_epochs, sum(self.epochs.values())
        if limit is not None and spent >= limit:
            return f"--budget-epochs {limit}"
        seconds = self.seconds_before + time.monotonic() - self.started
        if self.settings.time_budget and seconds >= seconds_of(self.settings.time_budget):
            return f"--time-budget {self.settings.time_budget}"
        return ASKED if self.request.exists() else ""

    def _end(self, reason: str, kept: tuple[int, ...]) -> None:
        self.request.unlink(missing_ok=True)
        told = {"reason": reason, "kept": kept, "trials": self.n_trials}
        self.board.take(self.journal.write("budget", sync=True, **told))
        self.board.say(f"{reason}: no further trial is begun, those that run end with this epoch")


def in_words(told: Story) -> str:
    """`ended by --time-budget 2h after 23 of 32 trials`; "" where the search had all its trials."""
    event, begun = told.results.get("budget"), told.of_kind("search")
    if event is None:
        return ""
    cut = len(begun) < event["trials"] or any(student.reason == REASON for student in begun)
    return (
        f"ended by {event['reason']} after {len(begun)} of {event['trials']} trials" if cut else ""
    )


def search_seconds(events: Iterable[Event]) -> float:
    """How long a search's trials have been trained: from each begin of that phase to its end, or its last event."""
    total, since, last = 0.0, None, 0.0
    for event in events:
        kind, when = event["event"], event["time"]
        if since is not None:
            last = last if kind == "resumed" else when
            if kind in ("phase", "resumed", "close"):
                total, since = total + last - since, None
        if kind == "phase" and event["name"] == "search":
            since = last = when
    return total + (last - since if since is not None else 0.0)


def left(settings: Mapping[str, Any], told: Story, seconds: float) -> list[str]:
    """What is left of each budget that was given, in words; `settings` as the journal has them."""
    lines = []
    if settings.get("budget_epochs") is not None:
        spent = sum(len(student.history) for student in told.of_kind("search"))
        rest = max(0, settings["budget_epochs"] - spent)
        lines.append(f"--budget-epochs {settings['budget_epochs']}: {rest} left")
    if settings.get("time_budget"):
        rest_seconds = max(0.0, seconds_of(settings["time_budget"]) - seconds)
        lines.append(f"--time-budget {settings['time_budget']}: {duration(rest_seconds)} left")
    if settings.get("target") is not None:
        accuracies = [m["val/accuracy"] for s in told.of_kind("search") for m in s.history]
        best = max((a for a in accuracies if math.isfinite(a)), default=0.0)
        lines.append(f"--target {settings['target']:g}: best so far {best:.4g}")
    return lines


def estimates(
    settings: Settings, n_trials: int, epochs: int, epoch_seconds: float | None
) -> list[str]:
    """What each budget comes to, for the plan: in epochs, in full trainings, and in time where an epoch was measured.

    `epoch_seconds` is of an epoch by all slots together: of one student's epoch, divided by the slots.
    """

    def lasting(n: int) -> str:
        return "" if epoch_seconds is None else f", about {duration(n * epoch_seconds)}"

    lines = [f"--trials {n_trials}: at most {n_trials * epochs} epochs{lasting(n_trials * epochs)}"]
    if settings.budget_epochs is not None:
        n = settings.budget_epochs
        lines.append(f"--budget-epochs {n}: {n / epochs:.1f} full trainings{lasting(n)}")
    if settings.time_budget:
        reach = "not known how many epochs"
        if epoch_seconds:
            n = int(seconds_of(settings.time_budget) / epoch_seconds)
            reach = f"about {n} epochs, {n / epochs:.1f} full trainings"
        lines.append(f"--time-budget {settings.time_budget}: {reach}")
    if settings.target is not None:
        lines.append(f"--target {settings.target:g}: when a trial's validation accuracy reaches it")
    return [*lines, "whichever comes first; the confirmation follows"]
