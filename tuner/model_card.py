"""The champion's model card: what it is, what it learnt from, what was measured of it, and what it is not for."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from trainables.trainable import Task
from tuner import answers, commands, evaluation_report, extension, pages, report
from tuner.plan import Plan
from tuner.progress import settings_in_words

FILE = "model_card.md"
MADE_WITH = ("torch", "torchvision", "ray", "optuna", "mlflow")


def headline(task: Task, answer: dict[str, Any]) -> str:
    """One line for all versions that are registered under the champion's name."""
    student = answer["registered_as"].rpartition("-")[2]
    return (
        f"Students of the kind {student} for {task.facts.dataset}, taught by knowledge distillation. The alias "
        "`champion` belongs to the best on validation so far; each version has its model card."
    )


def text(planned: Plan, task: Task, answer: dict[str, Any]) -> str:
    """The card, in Markdown; every number of it stands in the report too."""
    parts = {
        "": _what(planned, task, answer),
        "Use": _use(task, answer["registered_as"]),
        "Numbers": _numbers(answer),
        "Limits": _limits(planned, task, answer),
        "Data": f"{task.facts.dataset}: {report.data_in_words(task.facts)}; views in training: {task.recipe.augment}.",
        "Teacher": _teacher(answer["teacher"]),
        "Settings": _settings(planned, task, answer),
        "Made with": ", ".join(f"{name} {version(name)}" for name in MADE_WITH)
        + f":\n\n    {commands.command(planned)}",
    }
    sections = [f"## {name}\n\n{said}" if name else said for name, said in parts.items()]
    return "\n\n".join([f"# {answer['registered_as']}", *sections]) + "\n"


def _what(planned: Plan, task: Task, answer: dict[str, Any]) -> str:
    champion, method = answer["champion"], planned.settings.method
    student = answer["registered_as"].rpartition("-")[2]
    return (
        f"{student} ({champion['parameters']:,.0f} parameters), taught by {task.teacher.model} with {method} "
        f"({planned.method.paper}) on {task.facts.dataset}. Of {len(answer['seeds'])} students of the tuned setting it "
        f"is the best on validation (seed {champion['seed']}), found by the search {planned.name}."
    )


def _use(task: Task, name: str) -> str:
    facts = task.facts
    shape = f"(n, {facts.channels}, {facts.size}, {facts.size})"
    named = ", ".join(facts.classes[:20]) + (", …" if facts.n_classes > 20 else "")
    return (
        f"Float images in [0, 1], shape {shape}, in; logits (n, {facts.n_classes}) out. Normalisation is inside. "
        f"Classes in their order: {named}.\n\n"
        f"    mlflow models serve -m models:/{name}@champion --env-manager local\n\n"
        "`champion.safetensors` and `champion.json` beside the model hold the same weights without pickled code."
    )


def _numbers(answer: dict[str, Any]) -> str:
    """This model's own, and the table that it was chosen from: a setting's mean over seeds says more than one seed."""
    champion = answer["champion"]["seed"]
    nth = answer["seeds"].index(champion)
    own = answer["rows"]["tuned"]
    said = (
        f"This model: {own['val'][nth]:.2%} on validation, {own['accuracy'][nth]:.2%} on the test set, NLL "
        f"{own['loss'][nth]:.3f} there. Its setting and what it was compared with, percent, mean over "
        f"{len(answer['seeds'])} seeds ± 95% interval, differences paired by seed:"
    )
    quality = evaluation_report.quality_rows(evaluation_report.networks(answer))
    tables = [answers.comparison(answer), *([quality] if quality else [])]
    return "\n\n".join([said, *map(pages.markdown, tables)])


def _limits(planned: Plan, task: Task, answer: dict[str, Any]) -> str:
    """What the numbers do not say."""
    said = answers.sentences(planned, answer)[1:]  # the first tells the setting
    n, facts = len(answer["seeds"]), task.facts
    said.append(
        f"The intervals are over {n} seeds of training on one split; other images may differ more. The test set "
        f"({facts.n_test} images) was opened {extension.opening(answer.get('opened', 1))}."
    )
    if facts.duplicates.get("train_and_test"):
        said.append(
            f"{facts.duplicates['train_and_test']} groups of identical images lie in training and test both."
        )
    if task.teacher.elsewhere:
        said.append("The teacher was trained elsewhere and may have seen the validation images.")
    said.append(
        f"It knows these {facts.n_classes} classes and images like those of {facts.dataset}, and answers with one of "
        "them whatever it is shown."
    )
    said += evaluation_report.sentences(answer)[:1] if answer["tier"] == "none" else []
    return "\n".join(f"- {one}" for one in said)


def _teacher(teacher: dict[str, Any]) -> str:
    source = f", {teacher['source']}" if teacher["source"] else ""
    return (
        f"{teacher['model']}{source}: {teacher['val']:.2%} on validation, {teacher['accuracy']:.2%} on the test set; "
        f"weights {teacher['sha256'][:16]}."
    )


def _settings(planned: Plan, task: Task, answer: dict[str, Any]) -> str:
    hyper, recipe = answer["hyper"], vars(task.recipe.changed(answer["hyper"]))
    rows = [
        ["hyperparameters", settings_in_words(hyper)],
        ["recipe", settings_in_words({k: v for k, v in recipe.items() if k not in hyper})],
        ["searched", ", ".join(f"{name}: {domain}" for name, domain in planned.space.items())],
        ["trials", f"{planned.n_trials} by {planned.search}, scheduler {planned.scheduler}"],
    ]
    return pages.markdown([["", ""], *rows])
