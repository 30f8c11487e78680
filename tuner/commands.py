"""The commands that a report ends with: how to repeat the search, and how to open MLflow's pages."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuner import plan_table, views
from tuner.plan import Plan, redacted
from tuner.settings import Settings
from tuner.tracked import State


def command(planned: Plan) -> str:
    """The command that repeats this search."""
    left_out = {"name", "experiment", "out"}
    if planned.data_root == planned.out / "data":
        left_out.add("data_root")
    said = planned.settings.model_dump(exclude_defaults=True, exclude=left_out)
    if "tracking_uri" in said:
        said["tracking_uri"] = redacted(said["tracking_uri"])
    words = ["python", "tune.py"]
    for name, value in said.items():
        for item in value if isinstance(value, tuple | list) else (value,):
            words += ["--" + name.replace("_", "-"), *([] if item is True else [str(item)])]
    return shlex.join([*words, *where(planned)])


def rebuild(names: Sequence[str], planned: Plan, *more: str) -> str:
    """The command that makes the report of one or several searches anew from what their folders hold."""
    return shlex.join(["python", "tune.py", "--report", *names, *more, *where(planned)])


def where(planned: Plan) -> list[str]:
    """`--out` and the folder, where it is not the one that is meant without it here."""
    usual = Path(Settings.model_fields["out"].default).resolve()
    return [] if planned.out == usual else ["--out", str(planned.settings.out)]


def page(planned: Plan) -> dict[str, Any]:
    """What every report has: its question, and the command that asks it again."""
    return {
        "name": planned.name,
        "question": plan_table.question(planned),
        "command": command(planned),
    }


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
