"""What a person gets at the end of a search: the final table, report.md and report.html."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from trainables.data.splits import Facts
from tuner import (
    budgets,
    commands,
    costs,
    evaluation_report,
    extension,
    goals_report,
    mistakes_report,
    pages,
    plan_table,
    standing,
    teacher_report,
    unmeasured,
)
from tuner.answers import comparison, finalist_rows, sentences
from tuner.journal import Journal, Story
from tuner.plan import Plan

if TYPE_CHECKING:
    from tuner.search_report import LookBack


def outcomes(told: Story) -> str:
    """`20 finished, 12 stopped early`."""
    counts = Counter(student.status for student in told.of_kind("search"))
    words = {"stopped": "stopped early"}
    said = ", ".join(f"{n} {words.get(status, status)}" for status, n in counts.most_common())
    return "; ".join(filter(None, (said, budgets.in_words(told))))


def notes(told: Story) -> list[str]:
    """Where the search began and went on in other ways than by itself, in words."""
    event = told.results.get("extended")
    again = [f"extended from {event['before']} to {event['trials']} trials"] if event else []
    if event and event["opened"]:
        again.append(f"test set opened {extension.opening(extension.times_opened(told))}")
    warm = [f"warm start: {words}" for words in told.results.get("warm", {}).get("words", [])]
    return [*warm, *again]


def data_in_words(facts: Facts) -> str:
    """Counts, the split's hash, and images that are there more than once, where there are any."""
    counts = f"{facts.n_train} train, {facts.n_val} validation, {facts.n_test} test images"
    said = f"{counts}, split {facts.split_hash[:8]}"
    twins = facts.duplicates
    if not twins.get("groups"):
        return said
    return (
        f"{said}; {twins['groups']} groups of identical images in the whole set: {twins['train_and_test']} across "
        f"training and test, {twins['within_train']} within training, {twins['different_labels']} with different labels"
    )


def final_table(planned: Plan, told: Story, answer: dict[str, Any]) -> Group:
    """What the terminal shows at the end."""
    n = len(answer["seeds"])
    said = [*sentences(planned, answer), *goals_report.sentences(planned, told, answer)]
    parts: list[Any] = [
        Text(sentence, style="bold" if i == 0 else "") for i, sentence in enumerate(said)
    ]
    front = goals_report.rows(planned, told)
    if front:
        parts += [Text(), rich_table("Pareto front, on validation, one seed a trial", front)]
    parts += [
        Text(),
        rich_table("Finalists, validation accuracy in percent", finalist_rows(answer)),
    ]
    note = f"Test and validation accuracy in percent: mean over {n} seeds ± 95% interval; differences paired by seed"
    parts += [Text(), rich_table(note, comparison(answer)), Text()]
    parts.append(Text(f"trials    {outcomes(told)}"))
    parts += [Text(f"          {note}") for note in notes(told)]
    parts.append(Text(f"weights   {answer['champion']['weights']}"))
    parts.append(Text(f"report    {planned.folder / 'report.html'}"))
    return Group(*parts)


def rich_table(title: str, rows: list[list[str]]) -> Table:
    """Rows, header first, for the terminal."""
    table = Table(title=title, title_justify="left", title_style="dim", box=None, pad_edge=False)
    for i, name in enumerate(rows[0]):
        table.add_column(
            name, justify="left" if i == 0 or name in ("trial", "settings") else "right"
        )
    for row in rows[1:]:
        table.add_row(*row)
    return table


def write(
    planned: Plan, facts: Facts, told: Story, answer: dict[str, Any], journal: Journal
) -> None:
    """report.md, report.html and figures into the search's folder, and into its MLflow run."""
    from tuner import search_report  # its pictures: two seconds that a start need not wait for

    search = search_report.look_back(planned, told, answer)
    for path in put(page(planned, facts, told, search), planned.folder):
        journal.write("file", id="", path=str(path))
    for path in search.files:
        journal.write("file", id="", path=str(path), folder="figures")
    if planned.goals.several:
        on_front = standing.front(planned, told.of_kind("search"))
        journal.write("front", ids=[student.id for student in on_front])


SECTIONS = {  # the page's anchors and titles; those with a key stand where the page has something under it
    "compared": ("Compared", ""),
    "published": ("Beside published numbers", "published"),
    "robustness": ("Robustness, calibration, agreement", ""),
    "adversarial": ("Adversarial examples", "adversarial"),
    "mistakes": ("The teacher's mistakes", "mistakes_words"),
    "finalists": ("Finalists", ""),
    "objectives": ("Objectives", "goals_words"),
    "teacher": ("Teacher", ""),
    "importance": ("Which hyperparameter decided", ""),
    "where": ("Where the trials lie", ""),
    "early": ("Was early stopping safe?", ""),
    "trials": ("The trials", ""),
    "cost": ("Cost", ""),
    "how": ("How", ""),
    "unmeasured": ("What was not measured", ""),
    "again": ("Again", ""),
}


def put(page: dict[str, Any], folder: Path) -> list[Path]:
    """The page, with its table of contents, into a folder; the paths of its two forms."""
    shown = {**page, "adversarial": page["search"].pictures.get("adversarial")}
    sections = [(key, title) for key, (title, of) in SECTIONS.items() if not of or shown.get(of)]
    return pages.write("report", {**page, "sections": sections}, folder)


def page(planned: Plan, facts: Facts, told: Story, search: LookBack) -> dict[str, Any]:
    """What the templates are filled in with."""
    answer = told.results["answer"]
    networks = evaluation_report.networks(answer)
    return {
        "name": planned.name,
        "planned": planned,
        "question": plan_table.question(planned),
        "sentences": sentences(planned, answer),
        "comparison": comparison(answer),
        "finalists": finalist_rows(answer),
        "robust": evaluation_report.robust_rows(networks),
        "quality": evaluation_report.quality_rows(networks),
        "evaluation_words": evaluation_report.sentences(answer),
        "mistakes": mistakes_report.rows(answer),
        "mistakes_words": mistakes_report.sentences(answer),
        "goals_words": goals_report.sentences(planned, told, answer),
        "front": goals_report.rows(planned, told),
        "teacher": teacher_report.rows(answer["teacher"]),
        "teacher_words": teacher_report.sentences(planned, answer),
        "outcomes": outcomes(told),
        "opened": extension.opening(answer.get("opened", 1)),
        "notes": notes(told),
        "spent": costs.rows(told, facts.n_train),
        "teacher_costs": costs.in_words(
            costs.teacher_costs(told.students.values()), planned.out / "cache" / "targets"
        ),
        "data": data_in_words(facts),
        "dataset": facts.dataset,
        "stages": plan_table.networks_plan(planned).get("stages", "").splitlines(),
        "precision": told.results.get("precision", {}).get("chosen", ""),
        "answer": answer,
        "weights": planned.folder / Path(answer["champion"]["weights"]).name,
        "not_measured": unmeasured.sentences(planned, told),
        "command": commands.command(planned),
        "rebuild": commands.rebuild([planned.name], planned),
        "ui": commands.ui_command(planned),
        "search": search,
        "space": {name: str(domain) for name, domain in planned.space.items()},
    }
