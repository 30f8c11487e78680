"""`--report NAME [NAME …]`: a report made anew from what the search's folder holds, or one that compares searches.

Nothing is trained and the test set is not opened: what was measured of it stands in the journal. MLflow is not told.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from tuner import commands, comparing, control, finished, published, report, search_report, unmet
from tuner.journal import so_far
from tuner.progress import make_console


def run(names: Sequence[str], given: dict[str, Any]) -> int:
    """Write it and say where it is; 0. Raises ValueError for what cannot be reported or compared."""
    with_published = given.pop("compare_published", False)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"--report must name each search once, got {twice[0]!r} twice")
    folders = []
    for name in names:
        folder = control.find(name, given, "report")
        league = (folder / control.RECORD).is_file()
        folders += control.searches(folder) if league else [folder]
    console = make_console()
    if len(folders) == 1:
        written = rebuild(folders[0], with_published=with_published)
    else:
        written = comparing.write([finished.read(folder) for folder in folders], with_published)
    for path in written:
        console.print(Text(f"report    {path}"), soft_wrap=True)
    return 0


def rebuild(folder: Path, *, with_published: bool) -> list[Path]:
    """One search's report and figures; the paths of the pages."""
    planned, told = finished.planned(folder), so_far(folder)
    ended = told.results.get("close", {}).get("status")
    if ended == "failed" and unmet.nobody(planned, told):
        return unmet.write(planned, told, commands.page(planned))
    known = finished.read(folder)
    search = search_report.look_back(planned, told, known.answer)
    page = report.page(planned, known.facts, told, search)
    if with_published:
        page["published"] = published.beside([known])
    return report.put(page, folder)
