"""The answer of a search in sentences and tables: who won, by how much, how sure that is."""

from __future__ import annotations

from typing import Any

from tuner import baselines, evaluation_report
from tuner.confirm import ROLES
from tuner.objectives import ACCURACY, KNOWN
from tuner.plan import Plan
from tuner.progress import settings_in_words
from tuner.statistics import MOST_SEEDS, interval, paired, seeds_needed

SHORT = {
    "vanilla": "plain",
    "default": "default",
    "kd-tuned": "tuned plain KD",
    "vanilla-tuned": "plain, tuned",
}
VALIDATED = ("val, last epoch", "val, best epoch")  # what is judged has the last epoch's weights


def sentences(planned: Plan, answer: dict[str, Any]) -> list[str]:
    """The answer in two sentences, what won and by how much; then a warning for each sign of masked gradients."""
    hyper = settings_in_words(answer["hyper"])
    won = f"Best setting: {hyper} (trial {answer['trial']})."
    if answer["winner"] == "default":
        won = (
            f"The search found nothing better on validation than the published setting ({hyper}), which therefore "
            "stands as tuned."
        )
    gains = _gains(answer)
    by = [f"Tuned {'; '.join(gains)}."] if gains else []
    return [won, *by, *evaluation_report.warnings(answer)]


def _gains(answer: dict[str, Any]) -> list[str]:
    """The paired difference to each row that tuned is compared with, in words."""
    tuned = answer["rows"]["tuned"]
    said: list[str] = []
    for role in ("vanilla", "default", *baselines.ROLES):
        if role in answer["rows"] and answer["winner"] != role:
            gap = paired(tuned["accuracy"], answer["rows"][role]["accuracy"])
            verdict = "" if gap.resolved else _unresolved(tuned, answer["rows"][role])
            on = " on test" if not said else ""
            said.append(f"minus {ROLES[role]}{on}: {gap.text(signed=True)} points{verdict}")
    return said


def _unresolved(tuned: dict[str, Any], other: dict[str, Any]) -> str:
    """Why a difference says nothing yet, and how many seeds would make one like it say something."""
    differences = [a - b for a, b in zip(tuned["accuracy"], other["accuracy"], strict=True)]
    needed = seeds_needed(differences)
    enough = f"about {needed} would" if needed else f"not even {MOST_SEEDS} would"
    return f", which these {len(differences)} seeds do not tell from 0 ({enough}, if the difference is as seen)"


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


def summary(answer: dict[str, Any]) -> dict[str, float]:
    """Mean accuracies and gains by metric name, for the search's MLflow run."""
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
