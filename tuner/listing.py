"""What `--list` prints; read without importing torch or Ray."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

import search_spaces
from trainables import methods, models
from trainables.data import sources


def print_lists(which: Iterable[str]) -> None:
    """Print a table for each of methods, models, datasets and spaces."""
    console = Console()
    for name in which:
        console.print(_table(name, *LISTS[name]()))


def _methods() -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    rows = [(name, *methods.summary(name)) for name in methods.names()]
    return ("method", "what it does", "paper"), rows


def _models() -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    return ("model", "what it is"), [(name, models.entry(name).summary) for name in models.names()]


def _datasets() -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    entries = {name: sources.source(name) for name in sources.names()}
    rows = [(name, e.summary, f"{e.teacher} -> {e.student}") for name, e in entries.items()]
    return ("dataset", "images", "default teacher -> student"), rows


def _spaces() -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    rows = []
    for name in search_spaces.names():
        space = search_spaces.load(name)
        rows.append((name, "\n".join(f"{key}: {domain}" for key, domain in space.items())))
    return ("space", "what it searches"), rows


LISTS = {"methods": _methods, "models": _models, "datasets": _datasets, "spaces": _spaces}


def _table(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for i, column in enumerate(header):
        table.add_column(column, no_wrap=i == 0, style="cyan" if i == 0 else "")
    for row in rows:
        table.add_row(*row)
    return table
