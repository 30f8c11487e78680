"""A search's answer as MLflow gets it: its description, its line among others, and the champion with its card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainables.trainable import Task
from tuner import (
    answers,
    commands,
    descriptions,
    league_rows,
    model_card,
    pages,
    plan_table,
    report,
    standing,
)
from tuner.journal import Journal, Story
from tuner.plan import Plan
from tuner.statistics import interval

N_COMPARED = 10  # trials that the description's link compares


def publish(
    planned: Plan, task: Task, told: Story, answer: dict[str, Any], journal: Journal
) -> None:
    """Write the model card beside the champion, and the journal's last words for MLflow."""
    card = planned.folder / model_card.FILE
    card.write_text(model_card.text(planned, task, answer), encoding="utf-8")
    weights = Path(answer["champion"]["weights"])
    for path in (weights, weights.with_suffix(".json"), card):
        journal.write("file", id="", path=str(path), folder="champion")
    champion = answer["champion"]["student"]
    journal.write(
        "model",
        folder=str(planned.folder),
        registered_as=answer["registered_as"],
        accuracy=interval(answer["rows"]["tuned"]["val"]).mean,
        split_hash=task.facts.split_hash,
        card=str(card),
        headline=model_card.headline(task, answer),
        student=champion,
        metrics={"test": {k: v for k, v in told.judged[champion].items() if "/" in k}},
    )
    # after the model: MLflow gives a model all numbers that its run has by then, and these are not its own
    journal.write("summary", id="", metrics=answers.summary(answer))
    _, cells = league_rows.row(planned.settings.method, answer)
    journal.write(
        "answered",
        registered_as=answer["registered_as"],
        words=" ".join(answers.sentences(planned, answer)),
        text=description(planned, told, answer),
        line=dict(zip(descriptions.HEADER, cells, strict=True)),
        best=[student.id for student in best_trials(planned, told)],
    )


def description(planned: Plan, told: Story, answer: dict[str, Any]) -> str:
    """Of the search's run: question, answer, the table, and how to repeat it. Markdown."""
    n = len(answer["seeds"])
    return "\n\n".join(
        [
            f"**{plan_table.question(planned)}**",
            *answers.sentences(planned, answer),
            pages.markdown(answers.comparison(answer)),
            f"Percent, mean over {n} seeds ± 95% interval; paired by seed. Trials: {report.outcomes(told)}.",
            f"`{commands.command(planned)}`",
        ]
    )


def best_trials(planned: Plan, told: Story) -> list[Any]:
    """The trials that were trained in full and did best, best first."""
    complete = [student for student in told.of_kind("search") if student.complete]

    def rank(student: Any) -> tuple[bool, float]:
        return standing.rank(planned, standing.outcomes(planned, student))

    return sorted(complete, key=rank, reverse=True)[:N_COMPARED]
