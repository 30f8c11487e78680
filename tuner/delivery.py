"""From the journal's events to MLflow: one pass after the other over what is new.

Trial runs lie flat, grouped by the tags kd.search, kd.method and kd.kind. Statuses: finished -> FINISHED, stopped
early, infeasible and interrupted -> KILLED, diverged and failed -> FAILED; the tag kd.status tells them apart. Trials
on the Pareto front have the tag kd.pareto. Everything may be delivered twice and is there once. What MLflow will never
take (a run deleted by hand, a file that is gone) is noted in tracking.log and left out.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner import descriptions, views
from tuner.descriptions import QUESTION
from tuner.journal import FILE, Event, read
from tuner.registry import Registry
from tuner.runs import MAX_TAG, RefusedError, Runs, as_metrics

STATUS = {"finished": "FINISHED"} | dict.fromkeys(
    ("stopped", "infeasible", "interrupted"), "KILLED"
)
# What torch.export raises for a network that it cannot follow, and what a folder is that is gone or damaged; a
# server's errors are others.
CANNOT_BE_LOGGED = (RuntimeError, TypeError, AttributeError, FileNotFoundError, ValueError)
REPLAY = "kd.replay"  # the tag that holds what a student was made of
CHANGE = "kd.change."  # and those of a population's changes, by epoch
NOTE = "mlflow.note.content"  # the description of a run or of an experiment


class Delivery:
    """Delivers the journal of the search in `folder` to MLflow at `uri`."""

    def __init__(self, folder: Path, uri: str, artifacts: Path) -> None:
        import mlflow

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        mlflow.set_tracking_uri(uri)
        self.folder = folder
        self.runs = Runs(mlflow, folder, uri, artifacts)
        self.registry = Registry(self.runs)
        self.client, self.state = self.runs.client, self.runs.state
        self.task: Event = {}

    def deliver(self, until: float = math.inf) -> bool:
        """Bring MLflow up to the journal's end, or to byte `until`; whether there was anything new."""
        unread = read(self.folder / FILE, self.state.offset)
        events = [(event, offset) for event, offset in unread if offset <= until]
        if not events:
            return False
        metrics: dict[str, list[Any]] = {}
        for event, offset in events:
            if event["event"] == "epoch":
                metrics.setdefault(event["id"], []).extend(as_metrics(event))
                continue
            self.runs.log(metrics)
            self.runs.unless_refused(self._handle, event)
            self.state.offset = offset
            self.runs.save()
        self.runs.log(metrics)
        self.state.offset = events[-1][1]
        self.runs.save()
        return True

    def close(self, status: str = "KILLED") -> None:
        """Leave no run RUNNING."""
        for key in list(self.state.open):
            self.runs.unless_refused(self.runs.tag, key, "kd.status", "interrupted")
            self.runs.unless_refused(self.runs.end, key, status)
            if key in self.state.open:  # refused
                self.state.open.remove(key)
        self.runs.save()

    def _handle(self, event: Event) -> None:
        """Do what `_on_KIND` says; events without one are not MLflow's business."""
        on = getattr(self, f"_on_{event['event']}", None)
        if on is not None:
            on(event)

    def _on_search(self, event: Event) -> None:
        self.state.experiment = self.runs.experiment(event["experiment"])
        question = event["description"]
        tags = {"kd.kind": "search", "kd.status": "running", QUESTION: question, NOTE: question}
        tags[views.SEARCHED] = json.dumps(event.get("searched", {}))
        run_id = self.runs.begin("", event["name"], event["time"], tags)
        settings = {k: str(v)[:6000] for k, v in event["settings"].items() if v is not None}
        self.runs.params(run_id, {**settings, **event["facts"]})
        self.runs.used("", ("train", "validation", "test"))
        self._describe_experiment()

    def _on_resumed(self, event: Event) -> None:
        self.runs.begin("", self.runs.search["name"], event["time"], {})
        self.runs.tag("", "kd.status", "running")

    def _on_task(self, event: Event) -> None:
        self.task = event

    def _on_teacher(self, event: Event) -> None:
        """Register the teacher, or each of an ensemble, unless it is known, and name it in the search's run."""
        run_id = self.runs.of("")
        try:
            versions = self.registry.teachers(event)
        except CANNOT_BE_LOGGED as error:  # the rest of the journal must not wait for it
            self.runs.tag("", "kd.teacher", f"not registered: {error}")
            return
        links = ", ".join(f"models:/{version.name}/{version.version}" for version in versions)
        self.client.set_tag(run_id, "kd.teacher", links)
        self.client.set_tag(run_id, "kd.teacher_sha256", event["sha256"])
        self.runs.used("", (), [one.source.removeprefix("models:/") for one in versions])

    def _on_student(self, event: Event) -> None:
        tags = {
            "kd.kind": event["kind"],
            "kd.role": event["role"],
            "kd.method": event["method"],
            "kd.student": event["id"],
            "kd.status": "running",
            **replay_tag(self._task_so_far(), event),
        }
        run_id = self.runs.begin(event["id"], event["label"], event["time"], tags)
        hyper = {k: v for k, v in event["hyper"].items() if v is not None}
        self.runs.params(run_id, {**hyper, "method": event["method"], "seed": event["seed"]})
        self.runs.used(event["id"], ("train", "validation"))

    def _sortable(self, event: Event, hyper: Mapping[str, Any], epoch: int) -> None:
        """Numbers that are searched, as metrics too: MLflow sorts its parameters as text, 10 before 4.

        After an epoch's own metrics, since MLflow's comparison begins with the metric that a run had first.
        """
        told = {
            views.as_metric(name): float(hyper[name])
            for name in self._numbers
            if hyper.get(name) is not None
        }
        metrics = {**told, "epoch": epoch}
        self.runs.log({event["id"]: as_metrics({"time": event["time"], "metrics": metrics})})

    @property
    def _numbers(self) -> list[str]:
        """The numbers among what is searched; none where an older search does not tell."""
        searched = self.runs.search.get("searched", {})
        return [name for name, kind in searched.items() if kind == "number"]

    def _task_so_far(self) -> Event:
        """What all students share, as the journal tells it, by now; empty before it is known."""
        if not self.task:
            events = [e for e, _ in read(self.folder / FILE) if e["event"] == "task"]
            self.task = events[-1] if events else {}
        return self.task

    def _on_changed(self, event: Event) -> None:
        told = {"from": event["from"], "hyper": event["hyper"]}
        self.runs.tag(event["id"], f"{CHANGE}{event['epoch']:05d}", json.dumps(told))
        self._sortable(event, event["hyper"], event["epoch"])

    def _on_end(self, event: Event) -> None:
        self.runs.tag(event["id"], "kd.status", event["status"])
        if self._numbers:
            params = self.client.get_run(self.runs.of(event["id"])).data.params
            self._sortable(event, params, 0)
        if event.get("reason"):
            self.runs.tag(event["id"], "kd.reason", event["reason"])
        self.runs.end(event["id"], STATUS.get(event["status"], "FAILED"), event["time"])

    def _on_summary(self, event: Event) -> None:
        self.runs.log({event["id"]: as_metrics(event)})

    def _on_judged(self, event: Event) -> None:
        if event["id"] in self.state.runs:
            self.runs.log({event["id"]: as_metrics(event)})
            self.runs.used(event["id"], ("test",))

    def _on_file(self, event: Event) -> None:
        if not Path(event["path"]).exists():
            raise RefusedError(f"{event['path']} is gone")
        self.client.log_artifact(self.runs.of(event["id"]), event["path"], event.get("folder"))

    def _on_front(self, event: Event) -> None:
        for identity in event["ids"]:
            self.runs.tag(identity, "kd.pareto", "true")

    def _on_budget(self, event: Event) -> None:
        self.runs.tag("", "kd.ended_by", event["reason"])

    def _on_extended(self, event: Event) -> None:
        self.state.model_version = ""  # the champion may be another, and is registered anew
        self.runs.tag("", "kd.extended", f"from {event['before']} to {event['trials']} trials")

    def _on_close(self, event: Event) -> None:
        self.runs.tag("", "kd.status", event["status"])
        self.runs.end("", STATUS.get(event["status"], "FAILED"), event["time"])
        self._describe_experiment()

    def _on_model(self, event: Event) -> None:
        """The champion as an MLflow model, registered under its alias."""
        if self.state.model_version:
            return
        try:
            version = self.registry.champion(event)
        except CANNOT_BE_LOGGED as error:
            self.runs.tag("", "kd.model", f"not registered: {error}")
            return
        self.registry.crown(event["registered_as"], version, event["accuracy"], event["split_hash"])
        link = f"models:/{event['registered_as']}/{version}"
        self.runs.tag("", "kd.model", link)
        self.state.model_version = version

    def _on_answered(self, event: Event) -> None:
        """The search's answer: as its run's description, and as tags that the experiment's is made of."""
        for heading, text in event["line"].items():
            if text:
                self.runs.tag("", descriptions.CELL + heading, text)
        self.runs.tag("", descriptions.ANSWER, event["words"])
        best = [self.state.runs[one] for one in event["best"] if one in self.state.runs]
        compared = descriptions.comparison(self.state.experiment, best)
        links = {f"the {len(best)} best trials compared": compared}
        if self.state.model_version:
            page = descriptions.version(event["registered_as"], self.state.model_version)
            links["the champion"] = page
        told, run_id = event["text"], self.runs.of("")
        note = descriptions.of_run(told, self.state.experiment, run_id, links)
        self.runs.tag("", NOTE, note)

    def _describe_experiment(self) -> None:
        """From the runs of all its searches, this one's and others'."""
        found = self.client.search_runs(
            [self.state.experiment],
            "tags.`kd.key` = 'search'",
            order_by=["metrics.`test/accuracy` DESC"],
        )
        searches = [run.data.tags for run in found]
        told = descriptions.of_experiment(self.state.experiment, searches)
        self.client.set_experiment_tag(self.state.experiment, views.TAG, views.shared(searches))
        self.client.set_experiment_tag(self.state.experiment, NOTE, told[:MAX_TAG])


def replay_tag(task: Event, student: Event) -> dict[str, str]:
    """The tag that holds all it takes to train a student again; none where that is not known or too long."""
    if not task:
        return {}
    config = {k: v for k, v in student.items() if k not in ("event", "time")}
    shared = {k: v for k, v in task.items() if k not in ("event", "time")}
    text = json.dumps({**shared, "config": config})
    return {REPLAY: text} if len(text) <= MAX_TAG else {}
