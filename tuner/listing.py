"""What `--list` prints; read without importing torch or Ray."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from rich.table import Table
from rich.text import Text

import search_spaces
from trainables import methods
from trainables.data import sources
from trainables.models import facts
from tuner import objectives, strategies
from tuner.progress import make_console

Listing: TypeAlias = tuple[tuple[str, ...], list[tuple[str, ...]]]  # header, rows


def print_lists(which: Iterable[str]) -> None:
    """Print a table for each name in LISTS."""
    console = make_console()
    for name in which:
        console.print(_table(name, *LISTS[name]()))


def _methods() -> Listing:
    known = {name: methods.summary(name) for name in methods.names()}
    rows: list[tuple[str, ...]] = [
        (name, about.title, about.paper, ", ".join(about.needs)) for name, about in known.items()
    ]
    return ("method", "what it does", "paper", "needs"), rows


def _models() -> Listing:
    return facts.HEADER, facts.rows()


def _datasets() -> Listing:
    rows: list[tuple[str, ...]] = [
        (name, e.summary, e.augment, f"{e.teacher} -> {e.student}")
        for name, e in sources.SOURCES.items()
    ]
    rows += [(name, about, "", "by the images' size") for name, about in sources.PATTERNS.items()]
    return ("dataset", "images", "views", "default teacher -> student"), rows


def _spaces() -> Listing:
    rows: list[tuple[str, ...]] = []
    for name in search_spaces.names():
        space = search_spaces.load(name)
        rows.append((name, "; ".join(f"{key}: {domain}" for key, domain in space.items())))
    return ("space", "what it searches"), rows


def _samplers() -> Listing:
    return ("--search", "how configurations are chosen"), list(strategies.SEARCHES.items())


def _schedulers() -> Listing:
    return ("--scheduler", "which trials end early"), list(strategies.SCHEDULERS.items())


def _objectives() -> Listing:
    rows = [
        (one.name, "highest" if one.direction == "max" else "lowest", one.words, one.known)
        for one in objectives.KNOWN.values()
    ]
    return ("--objective", "best", "what it is", "known"), [tuple(row) for row in rows]


LISTS = {
    "methods": _methods,
    "models": _models,
    "datasets": _datasets,
    "spaces": _spaces,
    "samplers": _samplers,
    "schedulers": _schedulers,
    "objectives": _objectives,
}


def _table(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for i, column in enumerate(header):
        table.add_column(column, no_wrap=i == 0, style="cyan" if i == 0 else "")
    for row in rows:
        table.add_row(*map(Text, row))
    return table
