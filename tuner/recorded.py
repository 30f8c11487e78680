"""A student's run read back from MLflow: what it was made of, how it was changed, what was measured of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner import addresses
from tuner.delivery import CHANGE, REPLAY
from tuner.recorder import is_metric
from tuner.registry import reading
from tuner.runs import MAX_METRICS


@dataclass(frozen=True)
class Recorded:
    """A student's run as MLflow has it."""

    run_id: str
    experiment: str  # MLflow's id of it
    token: str  # of the search
    search: str  # its name
    record: dict[str, Any]  # what the student was made of: the tag kd.replay
    changes: dict[int, dict[str, Any]]  # of a population's member, by epoch: from, hyper
    history: dict[int, dict[str, float]]  # metrics by epoch, from 1
    judged: bool  # whether its search has opened the test set for it

    def hyper_at(self, epoch: int) -> dict[str, Any]:
        """Its setting in `epoch`."""
        began = max((at for at in self.changes if at < epoch), default=0)
        hyper: dict[str, Any] = (self.changes[began] if began else self.record["config"])["hyper"]
        return hyper


def ask(given: dict[str, Any], flag: str) -> tuple[Records, Path | None]:
    """The records that --out and --tracking-uri name, and the folder of --out; takes both out of `given`.

    Raises ValueError where more is given: the rest is as the run has it.
    """
    out, uri = given.pop("out", None), given.pop("tracking_uri", None)
    if given:
        other = next(iter(given)).replace("_", "-")
        raise ValueError(f"{flag} reads the settings of its run, got --{other} too")
    here = Path(out or "runs").expanduser().resolve()
    records = Records(uri or addresses.default() or f"sqlite:///{here / 'mlflow.db'}", flag)
    return records, here if out else None


class Records:
    """Runs of one tracking server; raises ValueError, naming the `flag`, where it has not got what is asked for."""

    def __init__(self, uri: str, flag: str = "--replay") -> None:
        database = uri.removeprefix("sqlite:///")
        if database != uri and not Path(database).exists():
            raise ValueError(
                f"{flag} must find its run in MLflow, got no {database}; name it by --out or --tracking-uri"
            )
        self.uri, self.flag, self.mlflow = uri, flag, reading(uri)

    def student(self, run_id: str) -> Recorded:
        """The student's run of that id."""
        return self._recorded(self._run(run_id))

    def student_or_champion(self, run_id: str, champion: Callable[[str], str]) -> Recorded:
        """The student's run of that id or, of a search's, that of the student that `champion` (its name) says."""
        run = self._run(run_id)
        tags = run.data.tags
        if tags.get("kd.key") != "search":
            return self._recorded(run)
        key = champion(tags["kd.search"])
        return self._of_search(run.info.experiment_id, tags["kd.token"], key, run_id)

    def _run(self, run_id: str) -> Any:
        try:
            return self.mlflow.MlflowClient().get_run(run_id)
        except (self.mlflow.exceptions.MlflowException, OSError) as error:
            raise ValueError(
                f"{self.flag} must be the id of a run in MLflow, got {run_id!r}: {self._in_short(error)}"
            ) from None

    def beside(self, one: Recorded, key: str) -> Recorded:
        """The run of another student of the same search."""
        return self._of_search(one.experiment, one.token, key, one.run_id)

    def _of_search(self, experiment: str, token: str, key: str, run_id: str) -> Recorded:
        query = f"tags.`kd.token` = '{token}' and tags.`kd.key` = '{key}'"
        found = self.mlflow.MlflowClient().search_runs([experiment], query, max_results=1)
        if not found:
            raise ValueError(f"{self.flag} must find the run of {key} beside {run_id}, got none")
        return self._recorded(found[0])

    def add(self, run_id: str, metrics: dict[str, float], tags: dict[str, str]) -> None:
        """More of a run that has ended; its status stays. Raises ValueError where MLflow does not take it."""
        client, when = self.mlflow.MlflowClient(), int(1000 * time.time())
        entities = self.mlflow.entities
        rows = [entities.Metric(name, value, when, 0) for name, value in metrics.items()]
        try:
            for first in range(0, len(rows), MAX_METRICS):
                client.log_batch(run_id, metrics=rows[first : first + MAX_METRICS])
            client.log_batch(run_id, tags=[entities.RunTag(*pair) for pair in tags.items()])
        except (self.mlflow.exceptions.MlflowException, OSError) as error:
            raise ValueError(
                f"{self.flag} must be able to write to MLflow, got: {self._in_short(error)}"
            ) from None

    def _in_short(self, error: Exception) -> str:
        return addresses.hushed(str(error), self.uri)[:300]

    def _recorded(self, run: Any) -> Recorded:
        run_id, tags = run.info.run_id, run.data.tags
        key = tags.get("kd.key")
        if key in (None, "search"):
            got = "the search's own" if key else "one that kdtune did not write"
            raise ValueError(f"{self.flag} must be the run of a student, got {got}: {run_id}")
        if REPLAY not in tags:
            raise ValueError(
                f"{self.flag} must be a run with the tag {REPLAY}, got one of an older kdtune: {run_id}"
            )
        changes = {
            int(name.removeprefix(CHANGE)): json.loads(text)
            for name, text in tags.items()
            if name.startswith(CHANGE)
        }
        record, experiment = json.loads(tags[REPLAY]), run.info.experiment_id
        search = tags["kd.token"], tags["kd.search"]
        history, judged = self._history(run), "test/accuracy" in run.data.metrics
        return Recorded(run_id, experiment, *search, record, changes, history, judged)

    def _history(self, run: Any) -> dict[int, dict[str, float]]:
        client = self.mlflow.MlflowClient()
        history: dict[int, dict[str, float]] = {}
        for name in filter(is_metric, run.data.metrics):
            for metric in client.get_metric_history(run.info.run_id, name):
                if metric.step:  # what was judged after the last epoch has step 0
                    history.setdefault(metric.step, {})[name] = metric.value
        return history
