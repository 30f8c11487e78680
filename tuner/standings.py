"""What a person sees while several searches run side by side: one live table of them all, or lines that name theirs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tuner.journal import Event
from tuner.progress import (
    REFRESH,
    Board,
    best_of,
    duration,
    line,
    make_console,
    settings_in_words,
)

COLUMNS = ("search", "done", "running", "epochs", "best val", "settings")


class Member(Board):
    """One search's board: its own story, the others' terminal."""

    def __init__(self, standings: Standings, name: str) -> None:
        super().__init__(standings.console)
        self.standings, self.name, self.shown = standings, name, False

    def say(self, text: str) -> None:
        """One line; while all are made ready, unless another search has said the same."""
        self.standings.say(text)

    def begin(
        self, title: str, kinds: tuple[str, ...], n_students: int, epochs_after: int = 0
    ) -> None:
        """A stage of this search, with a row in the common table."""
        self.standings.begun = True
        super().begin(title, kinds, n_students, epochs_after)

    @contextmanager
    def counting(self, title: str, total: int) -> Iterator[Callable[[int, str], None]]:
        """A stage that counts, with the search's name."""
        with super().counting(f"{self.name}: {title}", total) as show:
            yield show

    def open_live(self) -> None:
        """A row of the common table."""
        self.shown = True
        self.standings.open()

    def end(self) -> None:
        """Take the common table away."""
        self.shown = False
        self.standings.close()

    def take(self, event: Event) -> None:
        """Learn of an event; without a terminal, print a line for each student that ended."""
        self.story.add(event)
        if event["event"] == "end" and not self.live_possible:
            words = line(self.story.students[event["id"]], self.done(), self.n_students)
            self.standings.print(f"{self.name} {words}")

    def refresh(self, *, force: bool = False) -> None:
        """Draw the common table anew, a few times a second at most."""
        self.standings.draw(force=force)

    def row(self) -> list[str]:
        """This search in the common table."""
        students = self.story.of_kind(*self.kinds)
        best = best_of(students)
        return [
            self.name,
            f"{self.done()}/{self.n_students}",
            str(sum(s.status == "running" for s in students)),
            str(sum(len(s.history) for s in students)),
            f"{best.accuracy:.2%}" if best else "",
            settings_in_words(best.hyper) if best else "",
        ]


class Standings:
    """The common terminal of several searches."""

    def __init__(self, names: Sequence[str], console: Console | None = None) -> None:
        self.console = console or make_console()
        self.live: Live | None = None
        self.said: set[str] = set()
        self.begun = False
        self.last = 0.0
        self.members = [Member(self, name) for name in names]

    def say(self, text: str) -> None:
        """One line; before anything is trained only once, because each search would say what holds for all."""
        if self.begun or text not in self.said:
            self.said.add(text)
            self.print(text)

    def print(self, text: str) -> None:
        """One line, at once."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def open(self) -> None:
        """Begin the table, unless it is there."""
        if self.live is None:
            self.live = Live(console=self.console, auto_refresh=False, transient=True)
            self.live.start()

    def close(self) -> None:
        """Take the table away."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def draw(self, *, force: bool) -> None:
        """The table as it is now, unless it has just been drawn."""
        now = time.monotonic()
        if self.live is not None and (force or now - self.last >= REFRESH):
            self.last = now
            self.live.update(self.picture(), refresh=True)

    def picture(self) -> Table:
        """A row for each search that is in this stage."""
        shown = [member for member in self.members if member.shown]
        left = [member.seconds_left(member.story.of_kind(*member.kinds)) for member in shown]
        known = [seconds for seconds in left if seconds is not None]
        about = duration(max(known)) if known else "…"  # they share the workers: the slowest tells
        words = f"{len(shown)} searches in turn, about {about} left"
        table = Table(title=words, title_justify="left", box=None, pad_edge=False)
        for name in COLUMNS:
            table.add_column(name, justify="left" if name in ("search", "settings") else "right")
        for member in shown:
            table.add_row(*member.row())
        return table


def boards(names: Sequence[str]) -> list[Board]:
    """A board for each search: the plain one for one alone."""
    return [Board()] if len(names) == 1 else list(Standings(names).members)
