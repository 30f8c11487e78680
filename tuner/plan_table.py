"""What `--plan` prints: what would run, how long it would take, how much disk it would fill."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from trainables import stages
from trainables.data import sources
from tuner import baselines, budgets, disk, warm
from tuner.objectives import in_words
from tuner.plan import Plan, available_cpus, redacted
from tuner.progress import duration, settings_in_words
from tuner.settings import LOCAL

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
        **networks_plan(planned),
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
        "at once": f"{planned.slots} trials of {s.cpus_per_trial} CPU, {s.gpus_per_trial:g} GPU"
        + (", together on one student" if s.gpus_per_trial > 1 else "")
        + (f", on nodes with {s.accelerator}" if s.accelerator else "")
        + (f" ({available_cpus()} CPUs here)" if s.address == LOCAL else "")
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


def networks_plan(planned: Plan) -> dict[str, str]:
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


def _early(planned: Plan) -> str:
    if planned.scheduler == "none":
        return "each trained in full"
    if planned.scheduler == "pbt":
        return f"one population, its worst quarter replaced every {planned.grace} epochs"
    name = {"asha": "ASHA", "hyperband": "HyperBand"}.get(planned.scheduler, planned.scheduler)
    return f"stopped early by {name}, never before epoch {planned.grace}"
