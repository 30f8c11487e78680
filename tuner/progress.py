"""What a person sees while a search runs: a live table in a terminal, plain lines on a pipe or in CI."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tuner.journal import Event, Story, Student

REFRESH = 0.25  # seconds between two pictures of the live table
PIPE_WIDTH = 160  # columns; nothing wraps at 80 where nobody looks at a terminal
COUNTED = (
    *("running", "finished", "stopped", "infeasible"),
    *("diverged", "failed", "hung", "out of memory"),
)


class Board:
    """The state of a search on the terminal. `stage` names what is happening now."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or make_console()
        self.live_possible = self.console.is_terminal and not os.environ.get("CI")
        self.story = Story()
        self.kinds: tuple[str, ...] = ("search",)
        self.n_students = 0
        self.started = time.monotonic()
        self.stage_started = self.started
        self.title = ""
        self.live: Live | None = None
        self.last = 0.0

    def say(self, text: str) -> None:
        """One line, at once."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def begin(
        self, title: str, kinds: tuple[str, ...], n_students: int, epochs_after: int = 0
    ) -> None:
        """A stage with a table: the search or the confirmation; `epochs_after` it are still to be trained."""
        self.title, self.kinds, self.n_students = title, kinds, n_students
        self.epochs_after = epochs_after
        self.stage_started = time.monotonic()
        self.epochs_before = sum(len(s.history) for s in self.story.of_kind(*kinds))
        if self.live_possible:
            self.open_live()
        self.refresh(force=True)

    def open_live(self) -> None:
        """Put the table up."""
        self.live = Live(console=self.console, auto_refresh=False, transient=True)
        self.live.start()

    @contextmanager
    def counting(self, title: str, total: int) -> Iterator[Callable[[int, str], None]]:
        """A stage that counts: call what this gives with (how much of the total is done, that in words)."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[words]}"),
        )
        bar = Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True)
        task = bar.add_task(title, total=total, words="")
        told = [0]

        def show(done: int, words: str) -> None:
            bar.update(task, completed=done, words=words if done else "")
            if not self.live_possible and done >= told[0] + max(1, total // 4):
                told[0] = done
                self.say(f"{title}: {words}")

        with bar if self.live_possible else nullcontext():
            yield show

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """A spinner while something takes its time; nothing on a pipe."""
        with self.console.status(what) if self.live_possible else nullcontext():
            yield

    def end(self) -> None:
        """Take the table away."""
        if self.live:
            self.live.stop()
            self.live = None

    def take(self, event: Event) -> None:
        """Learn of an event; without a terminal, print a line for each student that ended."""
        self.story.add(event)
        if event["event"] == "end" and not self.live_possible:
            self.say(line(self.story.students[event["id"]], self.done(), self.n_students))

    def refresh(self, *, force: bool = False) -> None:
        """Draw the table anew, a few times a second at most."""
        now = time.monotonic()
        if self.live and (force or now - self.last >= REFRESH):
            self.last = now
            self.live.update(self._picture(), refresh=True)

    def done(self) -> int:
        """How many students of this stage have ended."""
        students = self.story.students.values()
        return sum(s.kind in self.kinds and s.status != "running" for s in students)

    def _remaining(self, students: list[Student]) -> str:
        seconds = self.seconds_left(students)
        return "…" if seconds is None else duration(seconds)

    def seconds_left(self, students: list[Student]) -> float | None:
        """By the pace of this stage, epochs a second, and the epochs of a student that ended; None before that."""
        trained = sum(len(s.history) for s in students) - self.epochs_before
        if trained < 4:
            return None
        ended = [len(s.history) for s in students if s.status != "running"]
        longest = max(s.epochs for s in students)
        mean = (sum(ended) + longest) / (len(ended) + 1)
        running = sum(max(0, mean - len(s.history)) for s in students if s.status == "running")
        left = running + mean * (self.n_students - len(students)) + self.epochs_after
        return left * (time.monotonic() - self.stage_started) / trained

    def _picture(self) -> Group:
        students = self.story.of_kind(*self.kinds)
        counts = Counter(s.status for s in students)
        epochs = sum(len(s.history) for s in students)
        words = ", ".join(
            f"{counts[name]} {name}" for name in COUNTED if counts[name] or name == "running"
        )
        elapsed = duration(time.monotonic() - self.started)
        head = Text.assemble((self.title, "bold"), f"  {self.done()}/{self.n_students}: {words}")
        foot = Text(
            f"{epochs} epochs trained, {elapsed} gone, about {self._remaining(students)} left",
            style="dim",
        )
        bar = ProgressBar(total=max(1, self.n_students), completed=self.done(), width=60)
        line = Table.grid()
        line.add_row(bar)
        return Group(head, line, self._table(students), foot)

    def _table(self, students: list[Student]) -> Table:
        table = Table(box=None, pad_edge=False)
        for column in ("", "trial", "val accuracy", "epoch", "settings"):
            table.add_column(
                column, justify="right" if column in ("val accuracy", "epoch") else "left"
            )
        best = best_of(students)
        rows = [best] if best else []
        rows += [s for s in students if s.status == "running" and s is not best]
        for s in rows[:12]:
            accuracy = f"{s.accuracy:.2%}" if s.history else ""
            word = "best" if s is best else s.status
            table.add_row(
                word, s.id, accuracy, f"{len(s.history)}/{s.epochs}", settings_in_words(s.hyper)
            )
        return table


def make_console() -> Console:
    """The terminal, or lines of PIPE_WIDTH on a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=PIPE_WIDTH)


def best_of(students: list[Student]) -> Student | None:
    """The fully trained student of highest validation accuracy; ties go to the earlier one."""
    complete = [s for s in students if s.complete]
    return max(complete, key=lambda s: (s.accuracy, -s.number)) if complete else None


def line(student: Student, done: int, total: int) -> str:
    """One plain line for a student that ended."""
    words = f"{student.status}{f' ({student.reason})' if student.reason else ''}"
    accuracy = f"val accuracy {student.accuracy:.2%}" if student.history else "no epoch"
    epochs = f"epoch {len(student.history)}/{student.epochs}"
    return f"[{done}/{total}] {student.id} {words}, {epochs}, {accuracy}, {settings_in_words(student.hyper)}"


def settings_in_words(hyper: Mapping[str, Any]) -> str:
    """`temperature 3.86, alpha 0.715`."""
    shown = {k: v for k, v in hyper.items() if v is not None}
    return (
        ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())
        or "plain"
    )


def duration(seconds: float) -> str:
    """`48 s`, `3 min 5 s`, `2 h 10 min`, `12 days`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 72 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400:,} days"


def quiet_streams() -> None:
    """Flush what we print at once, also on a pipe."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)
