"""The main job's parts, from its journal and from what it printed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.watch import Watched
from tuner.journal import FILE, Event, read

STARTED = "start-up: imports, Ray, the data"
TAUGHT = "teacher, trained once and kept"
READY = "first worker, MLflow's process, sampler"
SEARCHED = "search: first student to last"
CONFIRMED = "confirm: finalists and baselines over seeds"
REPORTED = "test set, attacks, report"
HANDED = "Ray's end and MLflow hand-over"
PARTS = (STARTED, TAUGHT, READY, SEARCHED, CONFIRMED, REPORTED, HANDED)


@dataclass(frozen=True)
class Ours:
    """One run of the main job; seconds."""

    parts: dict[str, float]
    wall: float
    settings: dict[str, Any]
    points: list[
        dict[str, Any]
    ]  # each search trial's hyperparameters, and the epochs it was trained
    slots: int  # most students at once
    slot_idle: float  # of the search, over all slots
    cpu: float | None  # of the driver
    search_cpu: float | None

    @property
    def n_trials(self) -> int:
        """Of the search."""
        return len(self.points)

    @property
    def n_reports(self) -> int:
        """Epochs that the search's trials reported."""
        return sum(point["epochs"] for point in self.points)

    @property
    def start_wall(self) -> float:
        """Until the teacher could be trained."""
        return self.parts[STARTED]

    @property
    def search_wall(self) -> float:
        """From the teacher to the search's last result: the start of the workers is part of it."""
        return self.parts[READY] + self.parts[SEARCHED]


def read_ours(folder: Path, seen: Watched) -> Ours:
    """Read the journal in `folder`; raises ValueError where the run was not a whole one with a new teacher."""
    events = [event for event, _ in read(folder / FILE)]
    taught = [
        when for when, text in seen.lines if text.startswith("teacher: ") and "kept in" in text
    ]
    closed = [e["time"] for e in events if e["event"] == "close"]
    if not (taught and closed):
        raise ValueError(f"the job must train a teacher and end, got {len(events)} events")
    kinds = {e["id"]: e["kind"] for e in events if e["event"] == "student"}
    searched = [e for e in events if kinds.get(e.get("id", "")) == "search"]
    others = [e for e in events if e["event"] == "end" and kinds[e["id"]] != "search"]
    begin, end = searched[0]["time"], searched_end(searched)
    confirmed = max(e["time"] for e in others)
    moments = [seen.started, events[0]["time"], taught[0], begin, end]
    moments += [confirmed, closed[0], seen.ended]
    cpu = [seen.cpu_at(moment) for moment in (seen.ended, begin, end)]
    slots, points = most_at_once(searched), points_of(searched)
    return Ours(
        parts={name: b - a for name, a, b in zip(PARTS, moments, moments[1:], strict=False)},
        wall=seen.ended - seen.started,
        settings=events[0]["settings"],
        points=points,
        slots=slots,
        slot_idle=slots * (end - begin) - trained_seconds(searched),
        cpu=cpu[0],
        search_cpu=None if cpu[1] is None or cpu[2] is None else cpu[2] - cpu[1],
    )


def searched_end(events: list[Event]) -> float:
    """When the last search trial ended."""
    return max(float(e["time"]) for e in events if e["event"] == "end")


def points_of(events: list[Event]) -> list[dict[str, Any]]:
    """What each trial was and how long it was trained, in the order of their starts."""
    epochs: dict[str, int] = {}
    for event in events:
        if event["event"] == "epoch":
            epochs[event["id"]] = epochs.get(event["id"], 0) + 1
    starts = [e for e in events if e["event"] == "student"]
    return [{**e["hyper"], "epochs": epochs[e["id"]]} for e in starts if e["id"] in epochs]


def trained_seconds(events: list[Event]) -> float:
    """Training and validation, over all trials, as they measured it themselves."""
    last = {e["id"]: float(e["metrics"]["seconds"]) for e in events if e["event"] == "epoch"}
    return sum(last.values())


def most_at_once(events: list[Event]) -> int:
    """The largest number of trials between start and end."""
    now = most = 0
    for event in events:
        now += {"student": 1, "end": -1}.get(event["event"], 0)
        most = max(most, now)
    return most
