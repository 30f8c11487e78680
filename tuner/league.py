"""Several methods: one search each, of equal budget, side by side on the same workers, and one table of them all.

A league is a folder with `league.json` (its searches, in order) beside the searches' own folders; `--resume LEAGUE`
goes on with what is not finished. The searches share an MLflow experiment.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from trainables import methods, records
from tuner import (
    addresses,
    baselines,
    league_rows,
    pages,
    pairs,
    plan,
    plan_table,
    report,
    search,
    settings_file,
    warm,
)
from tuner.control import RECORD, SETTINGS, locked
from tuner.descriptions import HEADER
from tuner.ending import resume_command
from tuner.journal import Story, so_far
from tuner.plan import Plan
from tuner.progress import make_console
from tuner.settings import Settings, check_address, make

VERSION = 1  # of league.json
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
    console = make_console()
    planned, left_out = _planned(names, {**given, "name": name}, everything=everything)
    beside = baselines.beside(planned).plans
    for reason in left_out:
        console.print(Text(f"left out: {reason}"))
    budget = budget_in_words(planned)
    if plan_only:
        console.print(Text(budget))
        for one in planned:
            console.print(plan_table.plan_table(one))
        for one in beside:
            console.print(Text(f"baseline: {baselines.in_words(one)}"))
        return 0
    folder = planned[0].out / name
    taken = [
        path for path in (folder, *(one.folder for one in (*planned, *beside))) if path.exists()
    ]
    if taken and not overwrite:
        raise ValueError(
            f"--name must be new, got {name!r}: --resume {name} goes on with it, --overwrite deletes it"
        )
    plan.check_outside(planned[0])
    folder.mkdir(parents=True, exist_ok=True)
    shown = [plan.without_secrets(one).settings.model_dump(mode="json") for one in planned]
    records.write(folder / RECORD, {"budget": budget, "searches": shown}, VERSION)
    console.print(Text(budget))
    with locked(folder):
        return _finish(folder, search.run_all(planned, _way_on(folder, given), overwrite=overwrite))


def _planned(
    names: Sequence[str], given: dict[str, Any], *, everything: bool
) -> tuple[list[Plan], list[ValueError]]:
    """A plan for each method, and why those that cannot work are left out, which a named one must not be."""
    planned, left_out, name = [], [], given["name"]
    for method in names:
        settings = make({**given, "method": method, "name": f"{name}-{method}", "experiment": name})
        try:
            one = plan.make(settings)
            if settings.warm_start:
                warm.given(one)
            planned.append(one)
        except ValueError as error:
            if not everything:
                raise
            left_out.append(error)
    if not planned:
        raise left_out[0]
    return planned, left_out


def budget_in_words(planned: Sequence[Plan]) -> str:
    """What each search may spend; where they differ, because a grid has its own cells, each is named."""
    budgets = {one.settings.method: (one.n_trials, one.recipe.epochs) for one in planned}
    if len(set(budgets.values())) == 1:
        ((trials, epochs),) = set(budgets.values())
        return (
            f"Equal budget: {trials} trials of up to {epochs} epochs for each of {len(planned)} methods, in turn on "
            "the same workers; then the same confirmation for each."
        )
    each = ", ".join(f"{name} {trials} of {epochs}" for name, (trials, epochs) in budgets.items())
    return f"Not the same budget for all, because their spaces do not have as many cells (trials of epochs): {each}."


def _way_on(folder: Path, given: dict[str, Any]) -> str:
    return resume_command(folder.name, Path(given.get("out", Settings.model_fields["out"].default)))


def is_one(name: str, given: dict[str, Any]) -> bool:
    """Whether `name` is a league in the output folder."""
    return (_folder(name, given) / RECORD).is_file()


def resume(name: str, given: dict[str, Any]) -> int:
    """Go on with the searches of a league that are not finished; the exit status. ValueError for other settings."""
    folder = _folder(name, given)
    uri, address = given.get("tracking_uri"), given.get("address")
    places = ("out", "tracking_uri", "address")
    search.refuse_settings({k: v for k, v in given.items() if k not in places})
    planned = []
    for written in read_record(folder)["searches"]:
        known = folder.parent / written["name"] / SETTINGS
        settings = settings_file.read(known.parent) if known.is_file() else make(written)
        place = addresses.completed(settings.tracking_uri, uri)
        moved = {"out": folder.parent, "tracking_uri": place}
        moved |= {"address": check_address(address)} if address else {}
        settings = settings.model_copy(update=moved)
        planned.append(plan.make(settings))
    with locked(folder):
        return _finish(folder, search.resume_all(planned, _way_on(folder, given), uri))


def _finish(folder: Path, status: int) -> int:
    """Print and write the table, unless a signal has ended it all; the status."""
    if status >= SIGNALLED:
        return status
    rows, tuned = table(folder), tuned_accuracies(folder)
    console = make_console()
    console.print(report.rich_table("All methods, test accuracy in percent, best first", rows))
    for sentence in pairs.sentences(tuned):
        console.print(Text(sentence))
    (folder / "league.md").write_text(page(folder, rows, tuned), encoding="utf-8")
    console.print(Text(f"league    {folder / 'league.md'}"))
    return status


def page(folder: Path, rows: list[list[str]], tuned: dict[str, list[float]]) -> str:
    """league.md: the table, and which of the tuned methods differ."""
    parts = [
        f"# {folder.name}",
        spent_in_words(folder),
        "Percent, mean ± 95 % interval over seeds; differences paired by seed; test set opened once a search.",
        pages.markdown(rows),
    ]
    if len(tuned) > 1:
        said = (
            "Row minus column on the test set, in points; `*` where the difference is told from 0."
        )
        parts += [
            "## Which differ",
            *pairs.sentences(tuned),
            said,
            pages.markdown(pairs.matrix(tuned)),
        ]
    return "\n\n".join(parts) + "\n"


def spent_in_words(folder: Path) -> str:
    """What each search might spend, and has spent: of its epochs early stopping saves some more than others."""
    parts, budget = [], read_record(folder).get("budget", "")  # which older leagues do not have
    for method, told in _stories(folder):
        trials = told.of_kind("search")
        epochs = sum(len(student.history) for student in trials)
        parts.append(f"{method} {len(trials)} trials, {epochs} epochs")
    return f"{budget} Searched: {'; '.join(parts)}.".strip()


def tuned_accuracies(folder: Path) -> dict[str, list[float]]:
    """Test accuracy of each method's tuned setting, seed by seed: of those with the seeds of the first."""
    answers = {method: told.results["answer"] for method, told in _stories(folder) if _done(told)}
    seeds = next(iter(answers.values()))["seeds"] if answers else []
    return {
        method: answer["rows"]["tuned"]["accuracy"]
        for method, answer in answers.items()
        if answer["seeds"] == seeds
    }


def _stories(folder: Path) -> Iterator[tuple[str, Story]]:
    """Every search of the league: its method, and what has happened in it."""
    for written in read_record(folder)["searches"]:
        path = folder.parent / written["name"]
        yield written["method"], so_far(path)


def read_record(folder: Path) -> dict[str, Any]:
    """The league's searches; raises ValueError, naming the file, where it is damaged."""
    cure = "resume its searches one by one, each by its own name"
    record = records.read(folder / RECORD, VERSION, cure)
    searches = record.get("searches")
    if not isinstance(searches, list) or not all(isinstance(one, dict) for one in searches):
        raise ValueError(f"{folder / RECORD} must hold the searches of a league, got none; {cure}")
    return record


def _done(told: Story) -> bool:
    return "answer" in told.results


def table(folder: Path) -> list[list[str]]:
    """The league's rows, header first, by tuned test accuracy; searches without an answer at the end.

    The plain student stands among them, once for each network, and so does each tuned baseline.
    """
    rows: list[league_rows.Ranked] = []
    answers = {method: told.results["answer"] for method, told in _stories(folder) if _done(told)}
    for method, _ in _stories(folder):
        if method in answers:
            rows.append(league_rows.row(method, answers[method]))
        else:
            rows.append((-math.inf, [method, "not finished", *[""] * (len(HEADER) - 2)]))
    rows += league_rows.beside(answers)
    return [list(HEADER), *(row for _, row in sorted(rows, key=lambda pair: -pair[0]))]


def _folder(name: str, given: dict[str, Any]) -> Path:
    out = Path(given.get("out", Settings.model_fields["out"].default))
    return out.expanduser().resolve() / name


def _made_up_name(given: dict[str, Any]) -> str:
    out = Path(given.get("out", Settings.model_fields["out"].default)).expanduser()
    base = f"league-{given.get('dataset', Settings.model_fields['dataset'].default)}"
    return next(name for n in itertools.count(1) if not (out / (name := f"{base}-{n}")).exists())
