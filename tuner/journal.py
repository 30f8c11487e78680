"""The search's memory: an append-only file of events, one checksummed JSON line each.

Everything else that a search shows (MLflow's runs, the live table, the report) and its resumption are derived from
it. One process writes, the driver; any may read. Version in the first event.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSION = 2  # 2: networks are judged one by one, in events of their own
FILE = "events.jsonl"
Event = dict[str, Any]


class Journal:
    """The writing end. Lines are flushed at once; `sync` also puts them on the disk."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        if self.path.exists():
            _cut_after_last_whole_line(self.path)
        self.file = self.path.open("ab", buffering=0)

    def write(self, event: str, *, sync: bool = False, **content: Any) -> Event:
        """Append one event; what cannot be JSON is a TypeError."""
        entry = {"event": event, "time": time.time(), **content}
        text = json.dumps(entry, separators=(",", ":"), allow_nan=True)
        self._append(f"{zlib.crc32(text.encode()):08x} {text}\n".encode())
        if sync:
            os.fsync(self.file.fileno())
        return entry

    def _append(self, line: bytes) -> None:
        """The whole line or, where there is no room for it, nothing and an OSError."""
        start = self.path.stat().st_size
        try:
            while line:
                line = line[self.file.write(line) :]
        except OSError:
            with contextlib.suppress(OSError):
                self.file.truncate(start)
            raise

    def close(self) -> None:
        """Put everything on the disk and close."""
        os.fsync(self.file.fileno())
        self.file.close()


def read(path: Path, offset: int = 0) -> Iterator[tuple[Event, int]]:
    """Events from byte `offset` on, each with the offset behind it; an unfinished last line is left for later.

    Raises ValueError, naming the file and the line's place, where a line is damaged.
    """
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield _parse(line, path, offset), offset + len(line)
            offset += len(line)


def _parse(line: bytes, path: Path, offset: int) -> Event:
    try:
        checksum, text = line[:8], line[9:-1]
        if int(checksum, 16) != zlib.crc32(text):
            raise ValueError
        event: Event = json.loads(text)
    except ValueError:
        raise ValueError(
            f"a journal's lines must match their checksums, got a damaged one at byte {offset} of {path}; "
            f"`truncate -s {offset} {path}` leaves what was before it, from where --resume goes on"
        ) from None
    return event


def _cut_after_last_whole_line(path: Path) -> None:
    """A process killed in mid-write leaves half a line: drop it before going on."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("rb+") as file:
            file.truncate(whole)


@dataclass
class Student:
    """One trained student as the journal tells it."""

    id: str  # "kd-007": unique in the search
    number: int
    kind: str  # search, confirm or baseline
    role: str  # default, trial, vanilla, tuned ...
    method: str
    seed: int
    hyper: dict[str, Any]
    epochs: int
    # then finished, stopped, infeasible or interrupted, or one of those in failures.py
    status: str = "running"
    reason: str = ""
    history: list[dict[str, float]] = field(default_factory=list)  # one entry an epoch
    changes: list[Event] = field(
        default_factory=list
    )  # of its setting in mid-training: epoch, from, hyper
    diverging: str = ""  # what was no number in the last epoch, if anything
    retries: int = 0  # how often another worker took it up after one was lost
    repeated: int = 0  # epochs that were trained a second time after that

    @property
    def accuracy(self) -> float:
        """Validation accuracy of the last epoch; 0 before the first."""
        return self.history[-1]["val/accuracy"] if self.history else 0.0

    @property
    def best_accuracy(self) -> float:
        """Validation accuracy of the best epoch; 0 where no epoch has one."""
        seen = [metrics["val/accuracy"] for metrics in self.history]
        return max(filter(math.isfinite, seen), default=0.0)

    @property
    def complete(self) -> bool:
        """Trained to its full budget, without diverging: only such students are ranked."""
        return self.status == "finished"


@dataclass
class Story:
    """What has happened so far, in the order of the journal."""

    search: Event = field(default_factory=dict)
    students: dict[str, Student] = field(default_factory=dict)
    results: dict[str, Event] = field(default_factory=dict)  # the last event of every other kind
    reports: list[tuple[str, int]] = field(default_factory=list)  # (id, epoch) in their order
    judged: dict[str, dict[str, float]] = field(default_factory=dict)  # on test: network -> numbers

    def add(self, event: Event) -> None:
        """Take one event in."""
        kind = event["event"]
        if kind == "search":
            self.search = event
        elif kind == "student":
            known = {key: event[key] for key in ("id", "number", "kind", "role", "method", "seed")}
            student = Student(**known, hyper=event["hyper"], epochs=event["epochs"])
            if event["id"] in self.students:  # going on after an interruption
                before = self.students[event["id"]]
                student.history, student.changes = before.history, before.changes
                student.retries, student.repeated = before.retries, before.repeated
            self.students[event["id"]] = student
        elif kind == "epoch":
            student = self.students[event["id"]]
            student.history.append(event["metrics"])
            student.diverging = event.get("diverged", "")
            self.reports.append((student.id, len(student.history)))
        elif kind == "retried":
            self.students[event["id"]].retries += 1
        elif kind == "repeated":
            self.students[event["id"]].repeated += 1
        elif kind == "changed":
            student = self.students[event["id"]]
            student.hyper = event["hyper"]
            student.changes.append(event)
        elif kind == "end":
            student = self.students[event["id"]]
            student.status, student.reason = event["status"], event.get("reason", "")
        elif kind == "judged":
            self.judged[event["id"]] = event["metrics"]
        elif (
            kind == "extended"
        ):  # what the search came to, it comes to anew; the champion may be another
            for name in ("phase", "budget", "test_opened", "answer", "close"):
                self.results.pop(name, None)
            self.judged.pop("champion", None)
            self.results[kind] = event
        else:
            self.results[kind] = event

    def of_kind(self, *kinds: str) -> list[Student]:
        """The students of some kinds, by number."""
        return sorted(
            (s for s in self.students.values() if s.kind in kinds), key=lambda s: s.number
        )


def story(folder: Path) -> Story:
    """All that the journal in `folder` tells; raises ValueError where it is damaged or of another version."""
    told = Story()
    for event, _ in read(folder / FILE):
        if event["event"] == "search" and event.get("version") != VERSION:
            raise ValueError(
                f"a journal must be of version {VERSION}, got {event.get('version')} in {folder}: search again under "
                "another --name, or go on with the kdtune that wrote it"
            )
        told.add(event)
    return told


def so_far(folder: Path) -> Story:
    """The same; an empty story where nothing has been written yet."""
    return story(folder) if (folder / FILE).exists() else Story()
