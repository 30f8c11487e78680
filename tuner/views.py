"""How an experiment's pages first look: columns, order and charts, as MLflow keeps a view that somebody shares.

MLflow reads such a view from a tag of the experiment when an address names it; whoever changes columns or charts then
changes their own view only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

# Without it an experiment opens on pages for language models.
FLAT = "workflowType=machine_learning"
KEY = "kdtune"  # the view's name in an address
TAG = f"mlflow.sharedViewState.{KEY}"
SEARCHED = (
    "kd.searched"  # the tag of a search's run with what it searches: name -> "number" or "choice"
)
SECTION = "Accuracy by setting"  # of the charts; sorted by name, so it comes first
ACCURACY = "val/accuracy"
COLUMNS = (  # beside what is searched
    "metrics.`val/accuracy`",
    "metrics.`test/accuracy`",
    "tags.`kd.status`",
    "attributes.`Models`",
)


def address(experiment: str) -> str:
    """The page of an experiment's runs, in our view of it."""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={KEY}&{FLAT}"


def shared(searches: Iterable[Mapping[str, str]]) -> str:
    """The view of an experiment with these searches (tags of their runs): best first, each with a chart of its own."""
    told = [(one["kd.method"], json.loads(one.get(SEARCHED, "{}"))) for one in searches]
    made = (chart(method, list(names)) for method, names in told if names)
    charts = list({one["uuid"]: one for one in made}.values())  # once where two search the same
    columns = {column(name, kind): None for _, names in told for name, kind in names.items()}
    section = {"uuid": SECTION, "name": SECTION, "display": True, "isReordered": False}
    view = {
        "orderByKey": f"metrics.`{ACCURACY}`",
        "orderByAsc": False,
        "selectedColumns": [*COLUMNS[:2], *columns, *COLUMNS[2:]],
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": charts,
        "compareRunSections": [{**section, "isGenerated": False, "deleted": False}],
    }
    return json.dumps(view if charts else {k: v for k, v in view.items() if "compare" not in k})


def column(name: str, kind: str) -> str:
    """Where the table finds a hyperparameter; numbers as metrics, since parameters are sorted as text."""
    return f"metrics.`{as_metric(name)}`" if kind == "number" else f"params.`{name}`"


def as_metric(name: str) -> str:
    """What a searched number is called among the metrics; the last section, and not the first choice of any chart."""
    return f"value/{name}"


def chart(method: str, names: list[str]) -> dict[str, Any]:
    """Parallel coordinates: what is searched, and the accuracy that came of it."""
    identity = f"{SECTION} {method} {' '.join(names)}"
    shown = {"selectedParams": names, "selectedMetrics": [ACCURACY], "showAllRuns": False}
    place = {"uuid": identity, "metricSectionId": SECTION, "isGenerated": False, "deleted": False}
    return {"type": "PARALLEL", "displayName": method, "runsCountToCompare": 20, **place, **shown}
