"""The tables and pages that a person reads: plan, final table, report.md and report.html."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape
from rich.console import Group
from rich.table import Table
from rich.text import Text

from trainables.trainable import Task
from tuner import figures
from tuner.journal import Journal, Story
from tuner.plan import Plan, available_cpus, redacted
from tuner.progress import duration, settings_in_words
from tuner.statistics import interval, paired
from tuner.tracking import State

MASKED = 0.01  # share of zero gradients above which FGSM says nothing
ROLES = {"vanilla": "plain student", "default": "published default", "tuned": "tuned"}
SECONDS_PER_EPOCH = {"digits": 0.09}  # a student and its teacher on one core; others by images
IMAGES_PER_SECOND = 12000  # a LeNet-size pair on one core
START_SECONDS = 28  # imports, Ray, the digits teacher, the report, MLflow


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
    per_epoch = SECONDS_PER_EPOCH.get(s.dataset, 60000 / IMAGES_PER_SECOND)
    times = [duration(START_SECONDS + n * per_epoch / planned.slots) for n in (least, most)]
    rows = {
        "search": f"{planned.name}, in {planned.folder}",
        "question": question(planned),
        "space": "\n".join(f"{name}: {domain}" for name, domain in planned.space.items()),
        "first trial": settings_in_words(planned.published) + " (the published setting)",
        "trials": f"{planned.n_trials} by {planned.search}, {_early(planned)}",
        "epochs": f"{epochs} of a full trial, {least} to {most} in all",
        "confirmation": f"best {s.confirm_top}, default and plain student, {s.confirm_seeds} seeds each",
        "at once": f"{planned.slots} trials of {s.cpus_per_trial} CPU, {s.gpus_per_trial:g} GPU "
        f"({available_cpus()} CPUs here)",
        "time": f"about {times[0]} to {times[1]} on cores like those this was measured on",
        "disk": f"about {2 * (planned.n_trials + n_confirm) * 0.12 + 5:.0f} MB for a student of 16,000 parameters",
        "tracking": redacted(planned.tracking_uri),
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="cyan")
    table.add_column(overflow="fold")
    for name, text in rows.items():
        table.add_row(name, Text(text))
    return Group(Text("What would run (nothing has been started or written)", style="bold"), table)


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
    return ", ".join(f"{n} {words.get(status, status)}" for status, n in counts.most_common())


def comparison(answer: dict[str, Any]) -> list[list[str]]:
    """The league table's rows, header first: one a role, then the teacher; percent."""
    names = [f"FGSM {answer['epsilon']:g}", "PGD margin", "zero gradients"]
    rows = [["", "val", "test", "test minus plain", "test minus default", *names]]
    for role, found in answer["rows"].items():
        gains = [_gain(answer, role, other) for other in ("vanilla", "default")]
        rows.append(
            [
                ROLES[role],
                interval(found["val"]).text(),
                interval(found["accuracy"]).text(),
                *gains,
                *(interval(found[name]).text() for name in ("fgsm", "pgd_margin")),
                _zero(interval(found["zero_gradients"]).mean),
            ]
        )
    teacher = answer["teacher"]
    robust = [f"{100 * teacher[name]:.2f}" for name in ("fgsm", "pgd_margin")]
    rows.append(
        [
            f"teacher {teacher['model']}",
            f"{100 * teacher['val']:.2f}",
            f"{100 * teacher['accuracy']:.2f}",
            "",
            "",
            *robust,
            _zero(teacher["zero_gradients"]),
        ]
    )
    return rows


def _gain(answer: dict[str, Any], role: str, other: str) -> str:
    """The paired difference of two roles on test; nothing for a role and itself."""
    order = list(ROLES)
    known = other in answer["rows"] and order.index(role) > order.index(other)
    if not known or (role == "tuned" and answer["winner"] == other):
        return "the same" if role == "tuned" and answer["winner"] == other else ""
    rows = answer["rows"]
    return paired(rows[role]["accuracy"], rows[other]["accuracy"]).text(signed=True)


def _zero(share: float) -> str:
    return f"{100 * share:.1f}" + (" masked" if share > MASKED else "")


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
    for role in ("vanilla", "default"):
        if role in answer["rows"] and answer["winner"] != role:
            gap = paired(tuned["accuracy"], answer["rows"][role]["accuracy"])
            verdict = "" if gap.resolved else ", which these seeds do not tell from 0"
            said.append(
                f"Tuned minus {ROLES[role]} on test: {gap.text(signed=True)} points{verdict}."
            )
    if max(interval(found["zero_gradients"]).mean for found in answer["rows"].values()) > MASKED:
        said.append(
            "Gradients are masked where the last column says so: read the margin column there, not FGSM."
        )
    return said


def finalist_rows(answer: dict[str, Any]) -> list[list[str]]:
    """Validation accuracy of the finalists, header first."""
    rows = [["contender", "trial", "settings", "val in the search", "val over seeds", ""]]
    for found in answer["finalists"]:
        rows.append(
            [
                found["role"],
                found["trial"],
                settings_in_words(found["hyper"]),
                f"{100 * found['searched']:.2f}" if found["searched"] is not None else "",
                interval(found["val"]).text() if found["val"] else "not trained in full",
                "chosen" if found["role"] == answer["winner"] else "",
            ]
        )
    return rows


def final_table(planned: Plan, told: Story, answer: dict[str, Any]) -> Group:
    """What the terminal shows at the end."""
    n = len(answer["seeds"])
    parts: list[Any] = [
        Text(sentence, style="bold" if i == 0 else "")
        for i, sentence in enumerate(sentences(planned, answer))
    ]
    parts += [
        Text(),
        rich_table("Finalists, validation accuracy in percent", finalist_rows(answer)),
    ]
    note = f"Test and validation accuracy in percent: mean over {n} seeds ± 95% interval; differences paired by seed"
    parts += [Text(), rich_table(note, comparison(answer)), Text()]
    parts.append(Text(f"trials    {outcomes(told)}"))
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
    pictures = figures.draw(planned, told, answer, planned.folder / "figures")
    page = {
        "planned": planned,
        "question": question(planned),
        "sentences": sentences(planned, answer),
        "comparison": comparison(answer),
        "finalists": finalist_rows(answer),
        "outcomes": outcomes(told),
        "epochs": sum(len(s.history) for s in told.students.values()),
        "answer": answer,
        "task": task,
        "command": command(planned),
        "ui": ui_command(planned),
        "pictures": pictures,
        "space": {name: str(domain) for name, domain in planned.space.items()},
    }
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html.jinja"], default_for_string=False),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("report.md", "report.html"):
        text = environment.get_template(f"{name}.jinja").render(**page)
        (planned.folder / name).write_text(text, encoding="utf-8")
        journal.write("file", id="", path=str(planned.folder / name))
    for picture in pictures:
        journal.write("file", id="", path=str(picture.path), folder="figures")
    journal.write("summary", id="", metrics=_summary(answer))
    journal.write("file", id="", path=answer["champion"]["weights"], folder="champion")
    journal.write(
        "model",
        folder=str(planned.folder),
        registered_as=answer["registered_as"],
        accuracy=interval(answer["rows"]["tuned"]["val"]).mean,
        split_hash=task.facts.split_hash,
    )


def _summary(answer: dict[str, Any]) -> dict[str, float]:
    tuned = answer["rows"]["tuned"]
    found = {}
    for role, row in answer["rows"].items():
        found[f"test/accuracy_{role}"] = interval(row["accuracy"]).mean
        found[f"val/accuracy_{role}"] = interval(row["val"]).mean
        if role != "tuned":
            found[f"test/gain_over_{role}"] = paired(tuned["accuracy"], row["accuracy"]).mean
    return {
        **found,
        "val/accuracy": found["val/accuracy_tuned"],
        "test/accuracy": found["test/accuracy_tuned"],
    }


def command(planned: Plan) -> str:
    """The command that repeats this search."""
    said = planned.settings.model_dump(exclude_defaults=True, exclude={"name", "experiment"})
    if "tracking_uri" in said:
        said["tracking_uri"] = redacted(said["tracking_uri"])
    words = ["python", "tune.py"]
    for name, value in said.items():
        for item in value if isinstance(value, tuple | list) else (value,):
            words += ["--" + name.replace("_", "-"), str(item)]
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
    link = f"{base}/#/experiments/{state.experiment}/runs?workflowType=machine_learning"
    return f"mlflow    {start}\n          {link}" if start else f"mlflow    {link}"
