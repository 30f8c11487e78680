"""Several methods: one search each, of equal budget, in one MLflow experiment, and one table of them all.

A league is a folder `league.json` (its searches, in order) beside the searches' own folders; `--resume LEAGUE` goes
on with what is not finished.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.text import Text

from trainables import methods, records
from tuner import addresses, evaluation_report, plan, report, search
from tuner.journal import FILE, story
from tuner.mirror import behind
from tuner.progress import make_console, settings_in_words
from tuner.settings import Settings, make
from tuner.statistics import interval, paired

RECORD = "league.json"
VERSION = 1  # of it
GAPS = ("test minus plain", "test minus default")
HEADER = ("method", "val", "test", *GAPS, "robust", "flags", "tuned setting")
SIGNALLED = 128  # and above: the exit status of a search that a signal ended


def run(wanted: list[str], given: dict[str, Any], *, overwrite: bool, plan_only: bool) -> int:
    """Search with every method; the exit status is the worst of them all.

    `all` stands for every method but the baseline; those that cannot work with the two networks are left out and said
    so. A method that was named and cannot work is a ValueError, before anything is written.
    """
    everything = "all" in wanted
    names = [name for name in methods.names() if name != "vanilla"] if everything else wanted
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"--method must name each method once, got {twice[0]!r} twice")
    name = given.get("name") or _made_up_name(given)
    console, planned, left_out = make_console(), [], []
    for method in names:
        settings = make({**given, "method": method, "name": f"{name}-{method}", "experiment": name})
        try:
            planned.append(plan.make(settings))
        except ValueError as error:
            if not everything:
                raise
            left_out.append(error)
    if not planned:
        raise left_out[0]
    for reason in left_out:
        console.print(Text(f"left out: {reason}"))
    if plan_only:
        for one in planned:
            console.print(report.plan_table(one))
        return 0
    folder = planned[0].out / name
    taken = [path for path in (folder, *(one.folder for one in planned)) if path.exists()]
    if taken and not overwrite:
        raise ValueError(
            f"--name must be new, got {name!r}: --resume {name} goes on with it, --overwrite deletes it"
        )
    plan.check_outside(planned[0])
    folder.mkdir(parents=True, exist_ok=True)
    shown = [plan.without_secrets(one).settings.model_dump(mode="json") for one in planned]
    records.write(folder / RECORD, {"searches": shown}, VERSION)
    return _each(
        folder,
        [partial(search.run, one.settings, overwrite=overwrite) for one in planned],
    )


def read_record(folder: Path) -> list[dict[str, Any]]:
    """The settings of a league's searches; raises ValueError, naming the file, where it is damaged."""
    cure = "resume its searches one by one, each by its own name"
    searches = records.read(folder / RECORD, VERSION, cure).get("searches")
    if not isinstance(searches, list) or not all(isinstance(one, dict) for one in searches):
        raise ValueError(f"{folder / RECORD} must hold the searches of a league, got none; {cure}")
    return searches


def is_one(name: str, given: dict[str, Any]) -> bool:
    """Whether `name` is a league in the output folder."""
    return (_folder(name, given) / RECORD).is_file()


def resume(name: str, given: dict[str, Any]) -> int:
    """Go on with the searches of a league that are not finished; the exit status. ValueError for other settings."""
    folder = _folder(name, given)
    uri = given.get("tracking_uri")
    search.refuse_settings({k: v for k, v in given.items() if k not in ("out", "tracking_uri")})
    left: list[Callable[[], int]] = []
    for written in read_record(folder):
        settings = make(written)
        place = {"tracking_uri": addresses.completed(settings.tracking_uri, uri)}
        settings = settings.model_copy(update=place)
        here = folder.parent / str(settings.name)
        if not here.exists():
            left.append(partial(search.run, settings))
        elif not (here / "report.md").exists() or behind(here):
            where = {"out": folder.parent} | ({"tracking_uri": uri} if uri else {})
            left.append(partial(search.resume, str(settings.name), where))
    return _each(folder, left)


def _each(folder: Path, searches: list[Callable[[], int]]) -> int:
    """One after the other, until all are done or a signal has ended one; the worst status."""
    statuses = []
    for one in searches:
        statuses.append(one())
        if statuses[-1] >= SIGNALLED:
            return statuses[-1]
    return _finish(folder, statuses)


def _finish(folder: Path, statuses: list[int]) -> int:
    """Print and write the table; the worst status."""
    rows = table(folder)
    console = make_console()
    console.print(report.rich_table("All methods, test accuracy in percent, best first", rows))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    title = "Percent, mean ± 95 % interval over seeds; differences paired by seed; test set opened once a search."
    text = f"# {folder.name}\n\n{title}\n\n" + "\n".join(lines) + "\n"
    (folder / "league.md").write_text(text, encoding="utf-8")
    console.print(Text(f"league    {folder / 'league.md'}"))
    return max(statuses, default=0)


def table(folder: Path) -> list[list[str]]:
    """The league's rows, header first, by tuned test accuracy; searches without an answer at the end.

    The plain student stands among them, once for each network.
    """
    rows: list[tuple[float, list[str]]] = []
    plain: dict[str, dict[str, Any]] = {}
    for written in read_record(folder):
        path = folder.parent / written["name"]
        answer = story(path).results.get("answer") if (path / FILE).exists() else None
        if answer is None:
            rows.append((-1.0, [written["method"], "not finished", *[""] * (len(HEADER) - 2)]))
            continue
        rows.append(_row(written["method"], answer))
        if "vanilla" in answer["rows"]:
            found = answer["rows"]["vanilla"]
            robust = {"robust": _robust(answer, found)}
            plain.setdefault(answer["registered_as"].rpartition("-")[2], {**found, **robust})
    for student, found in plain.items():
        val, test = (interval(found[name]) for name in ("val", "accuracy"))
        cells = [f"plain {student}", val.text(), test.text(), "", "", *found["robust"], ""]
        rows.append((test.mean, cells))
    return [list(HEADER), *(row for _, row in sorted(rows, key=lambda pair: -pair[0]))]


def _row(method: str, answer: dict[str, Any]) -> tuple[float, list[str]]:
    found, tuned = answer["rows"], answer["rows"]["tuned"]
    gaps = [
        paired(tuned["accuracy"], found[role]["accuracy"]).text(signed=True)
        if role in found
        else ""
        for role in ("vanilla", "default")
    ]
    if answer["winner"] == "default":
        gaps[1] = "the same"
    val, test = (interval(tuned[name]) for name in ("val", "accuracy"))
    setting = settings_in_words(answer["hyper"])
    return test.mean, [method, val.text(), test.text(), *gaps, *_robust(answer, tuned), setting]


def _robust(answer: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Two cells: the worst case and its flags, empty where nothing was attacked."""
    return evaluation_report.cells(answer, found) or ["", ""]


def _folder(name: str, given: dict[str, Any]) -> Path:
    out = Path(given.get("out", Settings.model_fields["out"].default))
    return out.expanduser().resolve() / name


def _made_up_name(given: dict[str, Any]) -> str:
    out = Path(given.get("out", Settings.model_fields["out"].default)).expanduser()
    base = f"league-{given.get('dataset', Settings.model_fields['dataset'].default)}"
    return next(name for n in itertools.count(1) if not (out / (name := f"{base}-{n}")).exists())
