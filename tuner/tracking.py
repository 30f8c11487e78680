"""What MLflow gets to see: a mirror of the journal, made by a process of its own. The only file that imports mlflow.

The driver never waits for MLflow: it writes its journal, and the mirror (`python -m tuner.tracking FOLDER ARTIFACTS
PATIENCE`, which mirror.py starts) delivers what it finds there, however slow the server. The mirror ends when the
driver's end of its standard input closes, for whatever reason, and then leaves no run RUNNING. How far it came is kept
in tracking.json, and everything that it does may be done twice: a restarted mirror delivers the rest, once. What MLflow
will never take (a run deleted by hand, a file that is gone) is noted in tracking.log and left out.

Trial runs lie flat, grouped by the tags kd.search, kd.method and kd.kind. Statuses: finished -> FINISHED, stopped
early, infeasible and interrupted -> KILLED, diverged and failed -> FAILED; the tag kd.status tells them apart. Trials
on the Pareto front have the tag kd.pareto.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import select
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trainables import records
from trainables.models import slug
from tuner import addresses
from tuner.journal import FILE, Event, read
from tuner.objectives import KNOWN

STATE = "tracking.json"
LOG = "tracking.log"
LOCK = "tracking.lock"
VERSION = 1  # of tracking.json
CURE = "MLflow is asked what it has"  # where that is damaged
REFUSAL = "INVALID_PARAMETER_VALUE"  # what no later try will change; a server in trouble says other things
STATUS = {"finished": "FINISHED"} | dict.fromkeys(
    ("stopped", "infeasible", "interrupted"), "KILLED"
)
PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)  # seconds between tries while the server does not answer
PATIENCE = 60.0  # seconds that the end of a search waits for a server that does not answer
POLL = 0.5  # seconds
# What torch.export raises for a network that it cannot follow, and what a folder is that is gone or damaged; a
# server's errors are others.
CANNOT_BE_LOGGED = (RuntimeError, TypeError, AttributeError, FileNotFoundError, ValueError)
MAX_METRICS = 1000  # of one log_batch
REPLAY = "kd.replay"  # the tag that holds what a student was made of
CHANGE = "kd.change."  # and those of a population's changes, by epoch
MAX_TAG = 5000  # characters; older servers take no more


@dataclass
class State:
    """How far the mirror has come."""

    offset: int = 0  # bytes of the journal
    experiment: str = ""
    runs: dict[str, str] = field(
        default_factory=dict
    )  # student's id, or "" for the search -> run id
    open: list[str] = field(default_factory=list)  # ids of runs that are RUNNING
    model_version: str = ""
    store: str = ""  # the tracking URI, without secrets, where all this is
    refused: int = 0  # records that MLflow did not take, whatever the reason

    @classmethod
    def load(cls, path: Path, say: Callable[[str], None] = lambda _: None) -> State:
        """The state in a file; a fresh one where it is missing or, which is said, damaged: all may be done twice."""
        try:
            return cls(**records.read(path, VERSION, CURE))
        except FileNotFoundError:
            return cls()
        except ValueError as error:
            say(str(error))
        except TypeError as error:
            say(f"{path} must be whole, got a damaged file ({error}); {CURE}")
        return cls()

    def save(self, path: Path) -> None:
        """Write the whole file or nothing."""
        temporary = path.with_suffix(".tmp")
        temporary.write_text(records.text(asdict(self), VERSION), encoding="utf-8")
        temporary.replace(path)


class RefusedError(Exception):
    """What can never be delivered: the rest of the journal must not wait for it."""


class Delivery:
    """One pass after the other over what is new in the journal."""

    def __init__(self, folder: Path, uri: str, artifacts: Path) -> None:
        import mlflow
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        mlflow.set_tracking_uri(uri)
        self.mlflow, self.client = mlflow, MlflowClient()
        self.folder, self.uri, self.artifacts = folder, uri, artifacts
        self.state_path = folder / STATE
        self.state = State.load(self.state_path, note)
        store = addresses.redacted(uri)
        if self.state.store not in ("", store):  # MLflow has moved, or another one was asked for
            self.state = State()
        self.state.store = store
        self.search: Event = {}
        self.task: Event = {}
        self.created: set[str] = set()  # ids of runs that are new

    def deliver(self, until: float = math.inf) -> bool:
        """Bring MLflow up to the journal's end, or to byte `until`; whether there was anything new."""
        unread = read(self.folder / FILE, self.state.offset)
        events = [(event, offset) for event, offset in unread if offset <= until]
        if not events:
            return False
        metrics: dict[str, list[Any]] = {}
        for event, offset in events:
            if event["event"] == "epoch":
                metrics.setdefault(event["id"], []).extend(self._metrics(event))
                continue
            self._log(metrics)
            self._unless_refused(self._handle, event)
            self.state.offset = offset
            self.state.save(self.state_path)
        self._log(metrics)
        self.state.offset = events[-1][1]
        self.state.save(self.state_path)
        return True

    def close(self, status: str = "KILLED") -> None:
        """Leave no run RUNNING."""
        for key in list(self.state.open):
            self._unless_refused(self._tag, key, "kd.status", "interrupted")
            self._unless_refused(self._terminate, key, status)
            if key in self.state.open:  # refused
                self.state.open.remove(key)

    def _unless_refused(self, deliver: Callable[..., None], *what: Any) -> None:
        """Deliver something; where that can never be, note it and let it be: the rest does not wait for it."""
        from mlflow.exceptions import MlflowException

        try:
            deliver(*what)
        except (MlflowException, RefusedError) as error:
            if getattr(error, "error_code", REFUSAL) != REFUSAL:
                raise
            note(f"refused: {addresses.hushed(str(error), self.uri)[:500]}")
            self.state.refused += 1

    def _run_of(self, key: str) -> str:
        """The run of a student, or of the search (key "")."""
        if key not in self.state.runs:
            raise RefusedError(f"there is no run of {key or 'the search'}")
        return self.state.runs[key]

    def _tag(self, key: str, name: str, value: str) -> None:
        self.client.set_tag(self._run_of(key), name, value[:5000])

    def _handle(self, event: Event) -> None:
        """Do what `_on_KIND` says; events without one are not MLflow's business."""
        on = getattr(self, f"_on_{event['event']}", None)
        if on is not None:
            on(event)

    def _on_resumed(self, event: Event) -> None:
        self._run("", self._search_event()["name"], event["time"], {})

    def _on_task(self, event: Event) -> None:
        self.task = event

    def _on_changed(self, event: Event) -> None:
        told = {"from": event["from"], "hyper": event["hyper"]}
        self._tag(event["id"], f"{CHANGE}{event['epoch']:05d}", json.dumps(told))

    def _on_end(self, event: Event) -> None:
        self._tag(event["id"], "kd.status", event["status"])
        if event.get("reason"):
            self._tag(event["id"], "kd.reason", event["reason"])
        self._terminate(event["id"], STATUS.get(event["status"], "FAILED"))

    def _on_summary(self, event: Event) -> None:
        self._log({event["id"]: self._metrics(event)})

    def _on_judged(self, event: Event) -> None:
        if event["id"] in self.state.runs:
            self._log({event["id"]: self._metrics(event)})

    def _on_file(self, event: Event) -> None:
        if not Path(event["path"]).exists():
            raise RefusedError(f"{event['path']} is gone")
        self.client.log_artifact(self._run_of(event["id"]), event["path"], event.get("folder"))

    def _on_front(self, event: Event) -> None:
        for identity in event["ids"]:
            self._tag(identity, "kd.pareto", "true")

    def _on_budget(self, event: Event) -> None:
        self._tag("", "kd.ended_by", event["reason"])

    def _on_extended(self, event: Event) -> None:
        self.state.model_version = ""  # the champion may be another, and is registered anew
        self._tag("", "kd.extended", f"from {event['before']} to {event['trials']} trials")

    def _on_close(self, event: Event) -> None:
        self._tag("", "kd.status", event["status"])
        self._terminate("", STATUS.get(event["status"], "FAILED"))

    def _on_search(self, event: Event) -> None:
        self.search = event
        self.state.experiment = self._experiment(event["experiment"])
        description = event["description"]
        tags = {"kd.kind": "search", "mlflow.note.content": description}
        run_id = self._run("", event["name"], event["time"], tags)
        settings = {k: str(v)[:6000] for k, v in event["settings"].items() if v is not None}
        self._params(run_id, {**settings, **event["facts"]})
        self.client.set_experiment_tag(self.state.experiment, "mlflow.note.content", description)

    def _on_student(self, event: Event) -> None:
        tags = {
            "kd.kind": event["kind"],
            "kd.role": event["role"],
            "kd.method": event["method"],
            "kd.student": event["id"],
            "kd.status": "running",
            **replay_tag(self._task_event(), event),
        }
        run_id = self._run(event["id"], event["label"], event["time"], tags)
        hyper = {k: v for k, v in event["hyper"].items() if v is not None}
        self._params(run_id, {**hyper, "method": event["method"], "seed": event["seed"]})

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                self.client.restore_experiment(found.experiment_id)
            return found.experiment_id
        location = self.artifacts.as_uri() if self.uri.startswith("sqlite") else None
        return self.client.create_experiment(name, artifact_location=location)

    def _run(self, key: str, name: str, when: float, tags: dict[str, str]) -> str:
        """The run of a student, or of the search (key ""): the one it has, set RUNNING again, or a new one."""
        run_id = self.state.runs.get(key) or self._known_run(key)
        if run_id is None:
            identity = {"kd.search": self._search_event()["name"], "kd.key": key or "search"}
            identity["kd.token"] = self._search_event()["token"]
            method = {"kd.method": self._search_event()["settings"]["method"]}
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
        self.state.save(self.state_path)
        return run_id

    def _known_run(self, key: str) -> str | None:
        token = self._search_event()["token"]
        query = f"tags.`kd.token` = '{token}' and tags.`kd.key` = '{key or 'search'}'"
        found = self.client.search_runs([self.state.experiment], query, max_results=1)
        return found[0].info.run_id if found else None

    def _search_event(self) -> Event:
        if not self.search:
            self.search = next(e for e, _ in read(self.folder / FILE) if e["event"] == "search")
        return self.search

    def _task_event(self) -> Event:
        """What all students share, as the journal tells it, by now; empty before it is known."""
        if not self.task:
            events = [e for e, _ in read(self.folder / FILE) if e["event"] == "task"]
            self.task = events[-1] if events else {}
        return self.task

    def _terminate(self, key: str, status: str) -> None:
        self.client.set_terminated(self._run_of(key), status)
        if key in self.state.open:
            self.state.open.remove(key)

    def _params(self, run_id: str, values: dict[str, Any]) -> None:
        """Log those that the run does not have yet: they can never be changed there."""
        from mlflow.entities import Param

        known = {} if run_id in self.created else self.client.get_run(run_id).data.params
        params = [Param(key, str(value)) for key, value in values.items() if key not in known]
        for some in _chunks(params, 100):
            self.client.log_batch(run_id, params=some)

    def _metrics(self, event: Event) -> list[Any]:
        from mlflow.entities import Metric

        when, step = int(event["time"] * 1000), event["metrics"].get("epoch", 0)
        return [
            Metric(name, float(value), when, int(step))
            for name, value in event["metrics"].items()
            if "/" in name or name in ("seconds", *KNOWN)
        ]

    def _log(self, metrics: dict[str, list[Any]]) -> None:
        """What is delivered again, MLflow tells by key, step, time and value, and keeps once."""

        def log(key: str, some: list[Any]) -> None:
            self.client.log_batch(self._run_of(key), metrics=some)

        for key, values in metrics.items():
            for some in _chunks(values, MAX_METRICS):
                self._unless_refused(log, key, some)
        metrics.clear()

    def _on_model(self, event: Event) -> None:
        """The champion as an MLflow model: images in [0, 1] in, logits out; registered under its alias."""
        if self.state.model_version:
            return
        try:
            version = self._champion_version(event)
        except CANNOT_BE_LOGGED as error:
            self._tag("", "kd.model", f"not registered: {error}")
            return
        self._crown(event["registered_as"], version, event["accuracy"], event["split_hash"])
        self.state.model_version = version

    def _champion_version(self, event: Event) -> str:
        """The registered version of this search's champion: the one that it has already, or a new one."""
        from trainables.champion import RECORD, WEIGHTS, load_champion, read_record

        folder, run_id = Path(event["folder"]), self._run_of("")
        record = read_record(folder)
        of_it = f"run_id = '{run_id}' and tags.`kd.sha256` = '{record['sha256']}'"
        known = self.client.search_model_versions(f"name = '{event['registered_as']}' and {of_it}")
        if known:
            return str(known[0].version)
        files = [folder / WEIGHTS, folder / RECORD]
        networks = [record["student"], record["teacher"]]
        model = load_champion(folder)
        logged = self._log_network(model, record["facts"], "model", files, networks)
        tags = {"kd.sha256": record["sha256"]}  # there with the version or not at all
        made = self.mlflow.register_model(logged.model_uri, event["registered_as"], tags=tags)
        return str(made.version)

    def _log_network(
        self,
        model: Any,
        shape: dict[str, Any],
        name: str,
        files: list[Path],
        networks: list[str],
    ) -> Any:
        """Log a network that gives logits, with `files` beside it, in the search's run."""
        import mlflow.pytorch
        import numpy as np
        import torch
        from mlflow.models import infer_signature

        torch.set_num_threads(1)
        size = (2, shape["channels"], shape["size"], shape["size"])
        example = np.random.default_rng(0).random(size, dtype=np.float32)
        with torch.no_grad():
            answer = model(torch.from_numpy(example)).numpy()
        try:
            with self.mlflow.start_run(run_id=self._run_of("")):
                return mlflow.pytorch.log_model(
                    model,
                    name=name,
                    input_example=example,
                    signature=infer_signature(example, answer),
                    pip_requirements=requirements(networks),
                    extra_files=[str(path) for path in files],
                )
        finally:  # the search itself goes on
            self.client.update_run(self._run_of(""), status="RUNNING")

    def _on_teacher(self, event: Event) -> None:
        """Register the teacher, or each of an ensemble, unless it is known, and name it in the search's run."""
        from mlflow.entities import LoggedModelInput

        run_id = self._run_of("")
        members = zip(event["members"] or [event], event["registered_as"], strict=True)
        try:
            versions = [
                self._teacher_version(Path(member["folder"]), member["sha256"], name)
                for member, name in members
            ]
        except CANNOT_BE_LOGGED as error:  # the rest of the journal must not wait for it
            self._tag("", "kd.teacher", f"not registered: {error}")
            return
        links = ", ".join(f"models:/{version.name}/{version.version}" for version in versions)
        self.client.set_tag(run_id, "kd.teacher", links)
        self.client.set_tag(run_id, "kd.teacher_sha256", event["sha256"])
        models = [LoggedModelInput(version.source.removeprefix("models:/")) for version in versions]
        self.client.log_inputs(run_id, models=models)

    def _teacher_version(self, folder: Path, sha256: str, name: str) -> Any:
        """The registered version of these weights; made by the first who comes, others wait for it."""
        from trainables.models.normalized import LogitsOnly
        from trainables.teacher import RECORD, WEIGHTS, load_alone

        with (folder / "registry.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            query = f"name = '{name}' and tags.`kd.sha256` = '{sha256}'"
            known = self.client.search_model_versions(query)
            if known:
                return known[0]
            network, record = load_alone(folder)
            model = LogitsOnly(network).eval()
            files = [folder / WEIGHTS, folder / RECORD]
            logged = self._log_network(model, record, "teacher", files, [record["model"]])
            told = ("accuracy", "temperature", "source", "split_hash", "sha256")
            tags = {f"kd.{key}": str(record[key]) for key in told}
            return self.mlflow.register_model(logged.model_uri, name, tags=tags)

    def _crown(self, name: str, version: str, accuracy: float, split_hash: str) -> None:
        """Give the alias `champion` to this version, unless another search's is better on the same validation split."""
        from mlflow.exceptions import MlflowException

        for key, value in (("val/accuracy", str(accuracy)), ("split_hash", split_hash)):
            self.client.set_model_version_tag(name, version, key, value)
        with contextlib.suppress(MlflowException):  # no champion yet
            tags = self.client.get_model_version_by_alias(name, "champion").tags
            same_split = tags.get("split_hash") == split_hash
            if same_split and float(tags.get("val/accuracy", "nan")) > accuracy:
                return
        self.client.set_registered_model_alias(name, "champion", version)


def replay_tag(task: Event, student: Event) -> dict[str, str]:
    """The tag that holds all it takes to train a student again; none where that is not known or too long."""
    if not task:
        return {}
    config = {k: v for k, v in student.items() if k not in ("event", "time")}
    shared = {k: v for k, v in task.items() if k not in ("event", "time")}
    text = json.dumps({**shared, "config": config})
    return {REPLAY: text} if len(text) <= MAX_TAG else {}


def reading(uri: str) -> Any:
    """mlflow, quiet, for a few questions to the store at `uri`."""
    quiet = {"DISABLE_TELEMETRY": "true", "ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    for name, value in {**quiet, "HTTP_REQUEST_MAX_RETRIES": "1"}.items():
        os.environ.setdefault(f"MLFLOW_{name}", value)
    import mlflow

    logging.getLogger("alembic").setLevel(logging.ERROR)
    os.environ |= addresses.credentials(uri)
    mlflow.set_tracking_uri(addresses.login(uri).uri)
    return mlflow


def requirements(networks: list[str]) -> list[str]:
    """What has to be installed where a model made of `networks` is loaded."""
    from importlib.metadata import version

    libraries = [
        library for library in ("torchvision", "timm") if f"{library}:" in " ".join(networks)
    ]
    pinned = [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", *libraries)]
    return [*pinned, "numpy"]


def fetch(uri: str, tracking_uri: str, root: Path) -> Path:
    """The files of a registered model, `models:/name/version` or `models:/name@alias`, in a folder below `root`.

    Nothing of them is loaded. Raises ValueError where the registry does not have or give them.
    """
    database = tracking_uri.removeprefix("sqlite:///")
    if database != tracking_uri and not Path(database).exists():
        raise ValueError(f"--teacher must be in MLflow's registry, got {uri}: no {database} yet")
    mlflow = reading(tracking_uri)
    from mlflow.exceptions import MlflowException

    name, at, alias = uri.removeprefix("models:/").partition("@")
    try:
        client = mlflow.MlflowClient()
        if at:
            version = client.get_model_version_by_alias(name, alias).version
        else:
            name, _, version = name.rpartition("/")
            client.get_model_version(name, version)
        folder = root / slug(f"{name}-{version}")
        mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=str(folder))
    except (MlflowException, OSError) as error:
        reason = addresses.hushed(str(error), tracking_uri)[:300]
        raise ValueError(f"--teacher must be in MLflow's registry, got {uri}: {reason}") from None
    return folder


def _chunks(values: list[Any], size: int) -> Iterable[list[Any]]:
    return (values[i : i + size] for i in range(0, len(values), size))


def driver_gone(timeout: float) -> bool:
    """Whether the driver has closed our standard input; waits up to `timeout` seconds for it."""
    ready, _, _ = select.select([sys.stdin], [], [], timeout)
    return bool(ready) and not os.read(sys.stdin.fileno(), 1)


def note(text: str) -> None:
    """One line for tracking.log; nothing where its disk is full."""
    with contextlib.suppress(OSError):
        print(f"{time.strftime('%X')} {text}", flush=True)


def main() -> int:
    """Mirror until the driver is gone and all is delivered; 0 where nothing is left undone."""
    folder, artifacts, *others = map(Path, (sys.argv[1], sys.argv[2], *sys.argv[4:]))
    with contextlib.ExitStack() as locks:
        for one in (folder, *others):  # the mirror of a driver that was killed may still be at it
            fcntl.flock(locks.enter_context((one / LOCK).open("w")), fcntl.LOCK_EX)
        uri = os.environ[addresses.VARIABLES[0]]
        return mirror([folder, *others], uri, artifacts, float(sys.argv[3]))


def mirror(folders: list[Path], uri: str, artifacts: Path, patience: float) -> int:
    """What `main` does, with nobody else at it; gives up `patience` seconds after the driver has gone.

    What a next driver writes is left to that one's mirror.
    """
    deliveries: dict[Path, Delivery] = {}
    failures, gone, deadline = 0, False, 0.0
    ends = dict.fromkeys(folders, math.inf)
    while True:
        try:
            for folder in folders:
                deliveries[folder] = deliveries.get(folder) or Delivery(folder, uri, artifacts)
            news = [deliveries[folder].deliver(ends[folder]) for folder in folders]
            if gone and not any(news):
                for delivery in deliveries.values():
                    delivery.close()
                    delivery.state.save(delivery.state_path)
                return 0
            failures = 0
        except Exception as error:  # whatever a server can do wrong: note it, wait, try again
            note(
                f"not delivered: {addresses.hushed(str(error), uri)[:500] or type(error).__name__}"
            )
            failures += 1
            if gone and time.monotonic() > deadline:
                return 1
        pause = PAUSES[min(failures, len(PAUSES)) - 1] if failures else POLL
        if gone:
            time.sleep(pause if failures else 0)
        elif driver_gone(pause):
            gone, deadline = True, time.monotonic() + patience
            ends = {folder: (folder / FILE).stat().st_size for folder in folders}


if __name__ == "__main__":
    sys.exit(main())
