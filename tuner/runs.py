"""A search's runs in MLflow: found or made, told what is known of them, ended; each thing there once.

Runs are known by a key: a student's id, or "" for the search's own. They lie flat, with tags that group them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tuner import addresses
from tuner.journal import FILE, Event, read
from tuner.objectives import ACCURACY, KNOWN
from tuner.tracked import STATE, State, note

REFUSAL = "INVALID_PARAMETER_VALUE"  # what no later try will change; a server in trouble says other things
MAX_METRICS = 1000  # of one log_batch
MAX_TAG = 5000  # characters; older servers take no more
MAX_NAME = 480  # characters of a dataset's, its part aside


class RefusedError(Exception):
    """What can never be delivered: the rest of the journal must not wait for it."""


class Runs:
    """The runs of the search in `folder`."""

    def __init__(self, mlflow: Any, folder: Path, uri: str, artifacts: Path) -> None:
        self.mlflow, self.client = mlflow, mlflow.MlflowClient()
        self.folder, self.uri, self.artifacts = folder, uri, artifacts
        self.state_path = folder / STATE
        self.state = State.load(self.state_path, note)
        store = addresses.redacted(uri)
        if self.state.store not in ("", store):  # MLflow has moved, or another one was asked for
            self.state = State()
        self.state.store = store
        self.created: set[str] = set()  # ids of runs that are new
        self.had: dict[tuple[str, str], set[int]] = {}  # (run, metric) of older ones -> steps

    @cached_property
    def search(self) -> Event:
        """The journal's event of the search."""
        return next(e for e, _ in read(self.folder / FILE) if e["event"] == "search")

    def save(self) -> None:
        """Remember how far MLflow is."""
        self.state.save(self.state_path)

    def unless_refused(self, deliver: Callable[..., None], *what: Any) -> None:
        """Deliver something; where that can never be, note it and let it be: the rest does not wait for it."""
        from mlflow.exceptions import MlflowException

        try:
            deliver(*what)
        except (MlflowException, RefusedError) as error:
            if getattr(error, "error_code", REFUSAL) != REFUSAL:
                raise
            note(f"refused: {addresses.hushed(str(error), self.uri)[:500]}")
            self.state.refused += 1

    def experiment(self, name: str) -> str:
        """The id of the experiment, which is made where there is none."""
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                self.client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        location = self.artifacts.as_uri() if self.uri.startswith("sqlite") else None
        return str(self.client.create_experiment(name, artifact_location=location))

    def of(self, key: str) -> str:
        """The run of a student, or of the search (key ""); raises RefusedError where there is none."""
        if key not in self.state.runs:
            raise RefusedError(f"there is no run of {key or 'the search'}")
        return self.state.runs[key]

    def begin(self, key: str, name: str, when: float, tags: dict[str, str]) -> str:
        """The run of that key: the one it has, set RUNNING again, or a new one."""
        run_id = self.state.runs.get(key) or self._known(key)
        if run_id is None:
            identity = {"kd.search": self.search["name"], "kd.key": key or "search"}
            identity["kd.token"] = self.search["token"]
            method = {"kd.method": self.search["settings"]["method"]}
            created = self.client.create_run(
                self.state.experiment, int(when * 1000), {**method, **tags, **identity}, name
            )
            run_id = created.info.run_id
            self.created.add(run_id)
        else:
            self.client.update_run(run_id, status="RUNNING")
        self.state.runs[key] = run_id
        if key not in self.state.open:
            self.state.open.append(key)
        self.save()
        return str(run_id)

    def _known(self, key: str) -> str | None:
        token = self.search["token"]
        query = f"tags.`kd.token` = '{token}' and tags.`kd.key` = '{key or 'search'}'"
        found = self.client.search_runs([self.state.experiment], query, max_results=1)
        return found[0].info.run_id if found else None

    def tag(self, key: str, name: str, value: str) -> None:
        """Set a tag of a run."""
        self.client.set_tag(self.of(key), name, value[:MAX_TAG])

    def end(self, key: str, status: str, when: float | None = None) -> None:
        """End a run, which ended at `when` however late MLflow hears of it; now unless told."""
        ended = None if when is None else int(when * 1000)
        self.client.set_terminated(self.of(key), status, ended)
        if key in self.state.open:
            self.state.open.remove(key)

    def params(self, run_id: str, values: dict[str, Any]) -> None:
        """Log those that the run does not have yet: they can never be changed there."""
        from mlflow.entities import Param

        known = {} if run_id in self.created else self.client.get_run(run_id).data.params
        params = [Param(key, str(value)) for key, value in values.items() if key not in known]
        for some in _chunks(params, 100):
            self.client.log_batch(run_id, params=some)

    def log(self, metrics: dict[str, list[Any]]) -> None:
        """Log MLflow's metrics by key of their run, and forget them.

        What is delivered again, MLflow tells by key, step, time and value, and keeps once. An epoch that was trained
        again, by a machine to which the journal's last lines had not come, has another time: it is left out.
        """

        def log(key: str, some: list[Any]) -> None:
            run_id = self.of(key)
            self.client.log_batch(run_id, metrics=[m for m in some if not self._has(run_id, m)])

        for key, values in metrics.items():
            for some in _chunks(values, MAX_METRICS):
                self.unless_refused(log, key, some)
        metrics.clear()

    def _has(self, run_id: str, metric: Any) -> bool:
        """Whether a run that was there before this process has the metric of that epoch; asked once for each metric."""
        if run_id in self.created or not metric.step:
            return False
        about = run_id, metric.key
        if about not in self.had:
            known = self.client.get_metric_history(*about)
            self.had[about] = {one.step for one in known}
        return metric.step in self.had[about]

    def used(self, key: str, parts: Iterable[str], models: Iterable[str] = ()) -> None:
        """Link a run with what it used: `parts` of the data, and models by MLflow's id."""
        from mlflow.entities import DatasetInput, InputTag, LoggedModelInput

        data = self.search.get("data")  # which older searches do not tell
        datasets = [
            DatasetInput(dataset(data, part), [InputTag("mlflow.data.context", part)])
            for part in parts
            if data
        ]
        inputs = [LoggedModelInput(model) for model in models]
        if datasets or inputs:
            self.client.log_inputs(self.of(key), datasets, inputs)


def dataset(data: Mapping[str, Any], part: str) -> Any:
    """MLflow's record of a part of the data: training, validation or test; the images stay where they are."""
    from mlflow.entities import Dataset

    stored = data["sha256"]["test" if part == "test" else "train"]
    digest = stored[:16] if part == "test" else f"{stored[:16]}-{data['split_hash'][:16]}"
    size = {"num_rows": data["n"][part]}
    source = {"tags": {"dataset": data["dataset"], "sha256": stored, "split": data["split_hash"]}}
    profile = {**size, "num_classes": data["n_classes"], "shape": data["shape"]}
    name = f"{data['dataset'][-MAX_NAME:]}-{part}"
    return Dataset(name, digest, "code", json.dumps(source), profile=json.dumps(profile))


def as_metrics(event: Event, **linked: str) -> list[Any]:
    """An event's numbers as MLflow's metrics, the accuracy first, which MLflow's comparison then begins with.

    `linked` says of which model and data they are.
    """
    from mlflow.entities import Metric

    when, step = int(event["time"] * 1000), event["metrics"].get("epoch", 0)
    return [
        Metric(name, float(value), when, int(step), **linked)
        for name, value in sorted(event["metrics"].items(), key=lambda one: one[0] != ACCURACY.name)
        if "/" in name or name in ("seconds", *KNOWN)
    ]


def _chunks(values: list[Any], size: int) -> Iterable[list[Any]]:
    return (values[i : i + size] for i in range(0, len(values), size))
