"""A student's run read back from MLflow: what it was made of, how it was changed, what was measured of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner import addresses
from tuner.delivery import CHANGE, REPLAY
from tuner.recorder import is_metric
from tuner.registry import reading


@dataclass(frozen=True)
class Recorded:
    """A student's run as MLflow has it."""

    run_id: str
    experiment: str  # MLflow's id of it
    token: str  # of the search
    record: dict[str, Any]  # what the student was made of: the tag kd.replay
    changes: dict[int, dict[str, Any]]  # of a population's member, by epoch: from, hyper
    history: dict[int, dict[str, float]]  # metrics by epoch


class Records:
    """Runs of one tracking server; raises ValueError where it has not got what is asked for."""

    def __init__(self, uri: str) -> None:
        database = uri.removeprefix("sqlite:///")
        if database != uri and not Path(database).exists():
            raise ValueError(
                f"--replay must find its run in MLflow, got no {database}; name it by --out or --tracking-uri"
            )
        self.uri, self.mlflow = uri, reading(uri)

    def student(self, run_id: str) -> Recorded:
        """The student's run of that id."""
        try:
            return self._recorded(self.mlflow.MlflowClient().get_run(run_id))
        except (self.mlflow.exceptions.MlflowException, OSError) as error:
            raise ValueError(
                f"--replay must be the id of a run in MLflow, got {run_id!r}: {self._in_short(error)}"
            ) from None

    def beside(self, one: Recorded, key: str) -> Recorded:
        """The run of another student of the same search."""
        query = f"tags.`kd.token` = '{one.token}' and tags.`kd.key` = '{key}'"
        client = self.mlflow.MlflowClient()
        found = client.search_runs([one.experiment], query, max_results=1)
        if not found:
            raise ValueError(f"--replay must find the run of {key} beside {one.run_id}, got none")
        return self._recorded(found[0])

    def _in_short(self, error: Exception) -> str:
        return addresses.hushed(str(error), self.uri)[:300]

    def _recorded(self, run: Any) -> Recorded:
        run_id, tags = run.info.run_id, run.data.tags
        key = tags.get("kd.key")
        if key in (None, "search"):
            got = "the search's own" if key else "one that kdtune did not write"
            raise ValueError(f"--replay must be the run of a student, got {got}: {run_id}")
        if REPLAY not in tags:
            raise ValueError(
                f"--replay must be a run with the tag {REPLAY}, got one of an older kdtune: {run_id}"
            )
        changes = {
            int(name.removeprefix(CHANGE)): json.loads(text)
            for name, text in tags.items()
            if name.startswith(CHANGE)
        }
        record, experiment = json.loads(tags[REPLAY]), run.info.experiment_id
        return Recorded(run_id, experiment, tags["kd.token"], record, changes, self._history(run))

    def _history(self, run: Any) -> dict[int, dict[str, float]]:
        client = self.mlflow.MlflowClient()
        history: dict[int, dict[str, float]] = {}
        for name in filter(is_metric, run.data.metrics):
            for metric in client.get_metric_history(run.info.run_id, name):
                history.setdefault(metric.step, {})[name] = metric.value
        return history
