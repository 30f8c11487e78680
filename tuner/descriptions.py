"""What MLflow's pages say in words: of a search's run, and of an experiment. Markdown, from plain values.

Links are relative to MLflow's own address, whatever that is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlencode

from tuner import pages, views

GAPS = ("test minus plain", "test minus default")
HEADER = ("method", "val", "test", *GAPS, "robust", "flags", "tuned setting")  # of a league's table
QUESTION = "kd.question"  # the tag with what a search asks
ANSWER = "kd.answer"  # the tag with a search's answer in words
CELL = "kd.answer."  # and those with its line of the table, by heading


def of_run(told: str, experiment: str, run: str, links: Mapping[str, str]) -> str:
    """The search's run: what it found, and where to go from here."""
    files = f"#/experiments/{experiment}/runs/{run}/artifacts"
    to = {**links, "the report": f"{files}/report.html", "all figures": f"{files}/figures"}
    ways = " · ".join(f"[{words}]({where})" for words, where in to.items())
    return f"{told}\n\n{ways}"


def of_experiment(experiment: str, searches: Sequence[Mapping[str, str]]) -> str:
    """The experiment: each search's question, a table of their answers, best first, and the answers in words.

    A search is its run's tags; one may have no answer yet, or none at all.
    """
    answered = [one for one in searches if ANSWER in one]
    waiting = [one for one in searches if ANSWER not in one]
    parts = [one[QUESTION] for one in searches if QUESTION in one]
    if answered:
        rows = [[one.get(CELL + heading, "") for heading in HEADER] for one in answered]
        parts.append(pages.markdown([HEADER, *rows]))
        parts.append("Percent, mean ± 95% interval over seeds; differences paired by seed.")
        parts += [f"**{one['kd.method']}**: {one[ANSWER]}" for one in answered]
    parts += [f"{one['kd.search']} has no answer ({one.get('kd.status', '')})." for one in waiting]
    runs = f"#/experiments/{experiment}/runs?{views.FLAT}"
    own = quote("tags.`kd.key` = 'search'")
    parts.append(
        f"[The searches' own runs]({runs}&searchFilter={own}) · "
        f"[all runs, best first]({views.address(experiment)})"
    )
    return "\n\n".join(parts)


def comparison(experiment: str, runs: Sequence[str]) -> str:
    """The page that compares some runs: parallel coordinates, scatter, box plots and all values side by side."""
    asked = {
        "runs": json.dumps(list(runs), separators=(",", ":")),
        "experiments": json.dumps([experiment]),
    }
    return f"#/compare-runs?{urlencode(asked)}&{views.FLAT}"


def version(name: str, number: str) -> str:
    """The page of a registered model's version."""
    return f"#/models/{quote(name, safe='')}/versions/{number}"
