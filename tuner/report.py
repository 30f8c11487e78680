"""The tables and pages that a person reads: plan, final table, report.md and report.html."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from trainables import stages
from trainables.data import sources
from trainables.data.splits import Facts
from trainables.trainable import Task
from tuner import (
    baselines,
    budgets,
    costs,
    disk,
    evaluation_report,
    extension,
    goals_report,
    pages,
    search_report,
    standing,
    teacher_report,
    views,
    warm,
)
from tuner.confirm import ROLES
from tuner.journal import Journal, Story
from tuner.objectives import ACCURACY, KNOWN, in_words
from tuner.plan import Plan, available_cpus, redacted
from tuner.progress import duration, settings_in_words
from tuner.statistics import MOST_SEEDS, interval, paired, seeds_needed
from tuner.tracked import State

SHORT = {
    "vanilla": "plain",
    "default": "default",
    "kd-tuned": "tuned plain KD",
    "vanilla-tuned": "plain, tuned",
}
VALIDATED = ("val, last epoch", "val, best epoch")  # what is judged has the last epoch's weights
START_SECONDS = 25  # imports, Ray, the report, MLflow


def question(planned: Plan) -> str:
    """What the search asks, in one sentence."""
    s = planned.settings
    dimensions = ", ".join(planned.searched) or "nothing"
    return (
        f"Which {dimensions} of {s.method} teach {planned.student} the most from {planned.teacher} on {s.dataset}, "
        "and how much is that over the plain student and over the published setting?"
    )


def plan_table(planned: Plan) -> Group:
    """What `--plan` prints."""
    s, epochs = planned.settings, planned.recipe.epochs
    n_confirm = planned.n_confirmed
    most = planned.n_trials * epochs + n_confirm * epochs
    least = (
        planned.n_trials * (epochs if planned.scheduler in ("pbt", "none") else planned.grace)
        + n_confirm * epochs
    )
    rows = {
        "search": f"{planned.name}, in {planned.folder}",
        "question": question(planned),
        "data": data_plan(planned),
        "teacher": "\n".join(
            f"{one.model or 'a network'} {one.origin(planned.teacher_epochs)}"
            for one in planned.teachers
        ),
        **_networks_plan(planned),
        "space": "\n".join(f"{name}: {domain}" for name, domain in planned.space.items()),
        "first trial": settings_in_words(planned.published) + " (the published setting)",
        "trials": f"{planned.n_trials} by {planned.search}, {_early(planned)}",
        **_budgets_plan(planned),
        "epochs": f"{epochs} of a full trial, {least} to {most} in all",
        "recipe": settings_in_words(
            {part: value for part, value in vars(planned.recipe).items() if part != "epochs"}
        ),
        "confirmation": f"best {s.confirm_top}, default{', tuned baseline' * s.tune_baseline} and plain student, "
        f"{s.confirm_seeds} seeds each",
        **_baseline_plan(planned),
        **_goals_plan(planned),
        "evaluation": f"{s.evaluate}, of what is compared on the test set",
        "at once": f"{planned.slots} trials of {s.cpus_per_trial} CPU, {s.gpus_per_trial:g} GPU "
        f"({available_cpus()} CPUs here)"
        + (f", in batches of {planned.batch}" if planned.batch else ""),
        "time": _time(planned, least, most),
        "disk": _disk(planned),
        "tracking": redacted(planned.tracking_uri)
        + (", which need not answer" if s.tracking_offline else ""),
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="cyan")
    table.add_column(overflow="fold")
    for name, text in rows.items():
        table.add_row(name, Text(text))
    return Group(Text("What would run (nothing has been started or written)", style="bold"), table)


def _baseline_plan(planned: Plan) -> dict[str, str]:
    """The search that tunes the baseline, where there is one; a league, whose searches may share one, says its own."""
    if planned.settings.experiment:
        return {}
    found = baselines.beside([planned]).plans
    return {"baseline": baselines.in_words(found[0])} if found else {}


def _budgets_plan(planned: Plan) -> dict[str, str]:
    """What ends the search, where that is not its trials alone, and what it learns from before it begins."""
    settings, rows = planned.settings, {}
    if settings.budget_epochs or settings.time_budget or settings.target:
        epoch = _epoch_seconds(planned)
        each = None if epoch is None else epoch / planned.slots
        lines = budgets.estimates(settings, planned.n_trials, planned.recipe.epochs, each)
        rows["search ends"] = "\n".join(lines)
    if settings.warm_start:
        rows["warm start"] = "\n".join(warm.given(planned)["words"])
    return rows


def _disk(planned: Plan) -> str:
    if not all(wanted.model for wanted in planned.teachers):
        return "not known before the teacher has been fetched"
    return disk.in_words(disk.forecast(planned))


def _time(planned: Plan, least: int, most: int) -> str:
    """From a step of student and teacher measured here and now, on one core's one thread."""
    source = planned.source
    if not all(wanted.model for wanted in planned.teachers):
        return "not known before the teacher has been fetched"
    student, teacher, passing = planned.step_seconds
    steps = f"a step of the student {1000 * student:.1f} ms here now"
    if planned.settings.gpus_per_trial:
        return f"not known: nothing was measured on a GPU ({steps})"
    if source.n_images is None:
        return f"not known before the images are counted; {steps}"
    n_steps, live = _steps(planned), not planned.teacher_part(planned.recipe.batch_size).kept
    epoch = n_steps * (student + passing * live)
    # the targets are computed once a seed and epoch, and a teacher may have to be trained first
    once = (
        0
        if live
        else n_steps * passing * planned.recipe.epochs * (1 + planned.settings.confirm_seeds)
    )
    taught = n_steps * teacher * planned.teacher_epochs * sum(not w.file for w in planned.teachers)
    spent = [START_SECONDS + taught + (once + n * epoch) / planned.slots for n in (least, most)]
    return f"about {duration(spent[0])} to {duration(spent[1])}, the teacher's training included; {steps}"


def _goals_plan(planned: Plan) -> dict[str, str]:
    """What is searched for, where that is not validation accuracy alone."""
    rows = {} if planned.goals.usual else {"searched for": in_words(planned.goals)}
    if planned.goals.constraints:
        lines = [f"{one}, known {one.known}" for one in planned.goals.constraints]
        rows["constraints"] = "\n".join(lines)
    return rows


def _steps(planned: Plan) -> float:
    """Of an epoch, where the images have been counted."""
    given, source = planned.settings.val_fraction, planned.source
    share = source.val_fraction if given is None else given
    n_images = planned.settings.subset or source.n_images or 0
    return n_images * (1 - (0.5 if share is None else share)) / planned.recipe.batch_size


def _epoch_seconds(planned: Plan) -> float | None:
    """Of a student's epoch here, from a measured step; None where nothing can be measured or counted."""
    known = all(wanted.model for wanted in planned.teachers) and planned.source.n_images
    if not known or planned.settings.gpus_per_trial:
        return None
    student, _, passing = planned.step_seconds
    live = not planned.teacher_part(planned.recipe.batch_size).kept
    return _steps(planned) * (student + passing * live)


def _networks_plan(planned: Plan) -> dict[str, str]:
    """How the student's maps go with the teacher's, where the method looks at maps, and where targets come from."""
    if not all(wanted.model for wanted in planned.teachers):
        return {}
    seen, rows = planned.networks, {}
    if "features" in planned.method.needs:
        rows["stages"] = stages.in_words(seen.student, seen.teacher, planned.stages)
    choice = planned.teacher_part(planned.recipe.batch_size)
    rows["teacher's part"] = choice.reason
    if choice.kept:
        each = choice.epoch_bytes // planned.recipe.batch_size
        rows["teacher's part"] = choice.reason.partition(":")[0] + f": {each:,} bytes an image"
    return rows


def data_plan(planned: Plan) -> str:
    """Which images, how they are divided and shown, and where they come from; nothing is read."""
    s, source = planned.settings, planned.source
    share = source.val_fraction if s.val_fraction is None else s.val_fraction
    lines = [
        source.summary,
        "validation as published"
        if share is None
        else f"validation: {share:g} of the training images",
        *([f"subset of {s.subset} images for training and validation"] if s.subset else []),
        f"views: {planned.recipe.augment}",
        sources.download(s.dataset, planned.data_root) or f"kept in {planned.data_root / 'kdtune'}",
    ]
    return "\n".join(lines)


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


def _early(planned: Plan) -> str:
    if planned.scheduler == "none":
        return "each trained in full"
    if planned.scheduler == "pbt":
        return f"one population, its worst quarter replaced every {planned.grace} epochs"
    name = {"asha": "ASHA", "hyperband": "HyperBand"}.get(planned.scheduler, planned.scheduler)
    return f"stopped early by {name}, never before epoch {planned.grace}"


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


def comparison(answer: dict[str, Any]) -> list[list[str]]:
    """The league table's rows, header first: one a role, then the teacher; percent."""
    others = ("vanilla", "default", *(role for role in baselines.ROLES if role in answer["rows"]))
    gaps = (f"test minus {SHORT[role]}" for role in others)
    rows = [["", *VALIDATED, "test", *gaps, *evaluation_report.columns(answer)]]
    for role, found in answer["rows"].items():
        rows.append(
            [
                ROLES[role],
                *_validated(found),
                interval(found["accuracy"]).text(),
                *(_gain(answer, role, other) for other in others),
                *evaluation_report.cells(answer, found),
            ]
        )
    teacher = answer["teacher"]
    val, test = (f"{100 * teacher[name]:.2f}" for name in ("val", "accuracy"))
    robust = evaluation_report.cells(answer, teacher)
    rows.append([f"teacher {teacher['model']}", val, "", test, *[""] * len(others), *robust])
    return rows


def _validated(found: dict[str, Any]) -> list[str]:
    """Validation accuracy over seeds, after the last and after the best epoch; a journal of old has no best."""
    return [interval(found[name]).text() if found.get(name) else "" for name in ("val", "val_best")]


def _gain(answer: dict[str, Any], role: str, other: str) -> str:
    """The paired difference of two roles on test; nothing for a role and itself."""
    order = list(ROLES)
    known = other in answer["rows"] and order.index(role) > order.index(other)
    if not known or (role == "tuned" and answer["winner"] == other):
        return "the same" if role == "tuned" and answer["winner"] == other else ""
    rows = answer["rows"]
    return paired(rows[role]["accuracy"], rows[other]["accuracy"]).text(signed=True)


def sentences(planned: Plan, answer: dict[str, Any]) -> list[str]:
    """The answer in words."""
    tuned = answer["rows"]["tuned"]
    said = []
    if answer["winner"] == "default":
        said.append(
            f"The search found nothing better on validation than the published setting "
            f"({settings_in_words(answer['hyper'])}), which therefore stands as tuned."
        )
    else:
        said.append(
            f"Best setting: {settings_in_words(answer['hyper'])} (trial {answer['trial']})."
        )
    for role in ("vanilla", "default", *baselines.ROLES):
        if role in answer["rows"] and answer["winner"] != role:
            gap = paired(tuned["accuracy"], answer["rows"][role]["accuracy"])
            verdict = "" if gap.resolved else _unresolved(tuned, answer["rows"][role])
            said.append(
                f"Tuned minus {ROLES[role]} on test: {gap.text(signed=True)} points{verdict}."
            )
    return said + evaluation_report.warnings(answer)


def _unresolved(tuned: dict[str, Any], other: dict[str, Any]) -> str:
    """Why a difference says nothing yet, and how many seeds would make one like it say something."""
    differences = [a - b for a, b in zip(tuned["accuracy"], other["accuracy"], strict=True)]
    needed = seeds_needed(differences)
    enough = f"about {needed} would" if needed else f"not even {MOST_SEEDS} would"
    return f", which these {len(differences)} seeds do not tell from 0 ({enough}, if the difference is as seen)"


def finalist_rows(answer: dict[str, Any]) -> list[list[str]]:
    """Validation accuracy of the finalists, and what decided where that is another objective; header first."""
    over_seeds = (f"{name}, over seeds" for name in VALIDATED)
    rows = [["contender", "trial", "settings", "val in the search", *over_seeds, ""]]
    decider = KNOWN[answer.get("decider", ACCURACY.name)]
    other = decider is not ACCURACY
    if other:
        rows[0][-1:] = [f"{decider.heading} in the search", "over seeds", ""]
    for found in answer["finalists"]:
        rows.append(
            [
                found["role"],
                found["trial"],
                settings_in_words(found["hyper"]),
                f"{100 * found['searched']:.2f}" if found["searched"] is not None else "",
                *(_validated(found) if found["val"] else ("not trained in full", "")),
                *([decider.shown(value) for value in found["decided"]] if other else []),
                "chosen" if found["role"] == answer["winner"] else "",
            ]
        )
    return rows


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


def write(planned: Plan, task: Task, told: Story, answer: dict[str, Any], journal: Journal) -> None:
    """report.md, report.html and figures into the search's folder, and into its MLflow run."""
    search = search_report.look_back(planned, told, answer)
    page = {
        "planned": planned,
        "question": question(planned),
        "sentences": sentences(planned, answer),
        "comparison": comparison(answer),
        "finalists": finalist_rows(answer),
        "robust": evaluation_report.robust_rows(answer),
        "quality": evaluation_report.quality_rows(answer),
        "evaluation_words": evaluation_report.sentences(answer),
        "goals_words": goals_report.sentences(planned, told, answer),
        "front": goals_report.rows(planned, told),
        "teacher": teacher_report.rows(answer["teacher"]),
        "teacher_words": teacher_report.sentences(planned, answer),
        "outcomes": outcomes(told),
        "opened": extension.opening(answer.get("opened", 1)),
        "notes": notes(told),
        "costs": costs.in_words(
            costs.teacher_costs(told.students.values()), Path(task.cache_folder)
        ),
        "data": data_in_words(task.facts),
        "stages": _networks_plan(planned).get("stages", "").splitlines(),
        "precision": told.results.get("precision", {}).get("chosen", ""),
        "epochs": sum(len(s.history) for s in told.students.values()),
        "answer": answer,
        "task": task,
        "not_measured": baselines.not_measured(planned, told),
        "command": command(planned),
        "ui": ui_command(planned),
        "search": search,
        "space": {name: str(domain) for name, domain in planned.space.items()},
    }
    pages.write("report", page, planned.folder, journal)
    for path in search.files:
        journal.write("file", id="", path=str(path), folder="figures")
    if planned.goals.several:
        on_front = standing.front(planned, told.of_kind("search"))
        journal.write("front", ids=[student.id for student in on_front])


def summary(answer: dict[str, Any]) -> dict[str, float]:
    """The search's own metrics: each role's mean over seeds."""
    tuned = answer["rows"]["tuned"]
    found = {}
    for role, row in answer["rows"].items():
        found[f"test/accuracy_{role}"] = interval(row["accuracy"]).mean
        found[f"val/accuracy_{role}"] = interval(row["val"]).mean
        if row.get("val_best"):
            found[f"val/best_accuracy_{role}"] = interval(row["val_best"]).mean
        if role != "tuned":
            found[f"test/gain_over_{role}"] = paired(tuned["accuracy"], row["accuracy"]).mean
    own = ("val/accuracy", "val/best_accuracy", "test/accuracy")
    short = {name: found[f"{name}_tuned"] for name in own if f"{name}_tuned" in found}
    return {**found, **evaluation_report.summary(answer), **short}


def command(planned: Plan) -> str:
    """The command that repeats this search."""
    said = planned.settings.model_dump(exclude_defaults=True, exclude={"name", "experiment"})
    if "tracking_uri" in said:
        said["tracking_uri"] = redacted(said["tracking_uri"])
    words = ["python", "tune.py"]
    for name, value in said.items():
        for item in value if isinstance(value, tuple | list) else (value,):
            words += ["--" + name.replace("_", "-"), *([] if item is True else [str(item)])]
    return shlex.join(words)


def ui_command(planned: Plan) -> str:
    """The exact command that opens MLflow's pages; two processes where its default is fifteen."""
    uri = planned.settings.tracking_uri
    if uri and uri.startswith("http"):
        return ""
    return (
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1 "
        f"--backend-store-uri {shlex.quote(redacted(planned.tracking_uri))}"
    )


def where_to_look(planned: Plan, state: State) -> str:
    """The last lines: how to open MLflow, and the page to open."""
    start = ui_command(planned)
    base = "http://127.0.0.1:5000" if start else redacted(planned.tracking_uri).rstrip("/")
    link = f"{base}/{views.address(state.experiment)}"
    return f"mlflow    {start}\n          {link}" if start else f"mlflow    {link}"
