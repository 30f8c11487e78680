"""What MLflow gets to see: a mirror of the journal, made by a process of its own. The only file that imports mlflow.

The driver never waits for MLflow: it writes its journal, and the mirror (`python -m tuner.tracking FOLDER URI`)
delivers what it finds there, however slow the server. The mirror ends when the driver's end of its standard input
closes, for whatever reason, and then leaves no run RUNNING. How far it came is kept in tracking.json, and everything
that it does may be done twice: a restarted mirror delivers the rest, once.

Trial runs lie flat, grouped by the tags kd.search, kd.method and kd.kind. Statuses: finished -> FINISHED, stopped
early and interrupted -> KILLED, diverged and failed -> FAILED; the tag kd.status tells them apart.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trainables.models import slug
from tuner.journal import FILE, Event, read

STATE = "tracking.json"
LOG = "tracking.log"
LOCK = "tracking.lock"
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "interrupted": "KILLED"}  # others: FAILED
PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)  # seconds between tries while the server does not answer
PATIENCE = 60.0  # seconds that the end of a search waits for a server that does not answer
POLL = 0.5  # seconds
# What torch.export raises for a network that it cannot follow, and a folder that is gone; a server's are others.
EXPORT_ERRORS = (RuntimeError, TypeError, AttributeError, FileNotFoundError)
MAX_METRICS = 1000  # of one log_batch


class Mirror:
    """The driver's handle on the mirroring process."""

    def __init__(self, folder: Path, uri: str, artifacts: Path) -> None:
        self.folder = folder
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
        environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        environment["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "20"
        environment["GIT_PYTHON_REFRESH"] = "quiet"
        environment["KDTUNE_TRACKING_URI"] = uri  # not an argument: it may hold a password
        with (folder / LOG).open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-W",
                    "ignore",
                    "-m",
                    "tuner.tracking",
                    str(folder),
                    str(artifacts),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C in the terminal is for the driver
            )

    def finish(self, patience: float = PATIENCE + 30) -> bool:
        """Let the mirror deliver the rest and end; whether all was delivered."""
        if self.process.stdin:
            self.process.stdin.close()
        try:
            return self.process.wait(patience) == 0
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return False

    def leave(self, patience: float) -> bool:
        """Let the mirror deliver the rest alone, after `patience` seconds; whether all was delivered by then."""
        if self.process.stdin:
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(patience) == 0
        return False

    def trouble(self) -> str:
        """Why nothing has been delivered, where the mirror has ended by itself; else nothing."""
        if self.process.poll() is None:
            return ""
        lines = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        return lines[-1] if lines else f"exit status {self.process.returncode}"

    def runs(self) -> State:
        """What has been delivered so far."""
        return State.load(self.folder / STATE)


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

    @classmethod
    def load(cls, path: Path) -> State:
        """The state in a file; a fresh one where it is missing or damaged (all may be done twice)."""
        with contextlib.suppress(OSError, ValueError, TypeError):
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        return cls()

    def save(self, path: Path) -> None:
        """Write the whole file or nothing."""
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self)), encoding="utf-8")
        temporary.replace(path)


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
        self.state = State.load(self.state_path)
        self.search: Event = {}

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
            self._handle(event)
            self.state.offset = offset
            self.state.save(self.state_path)
        self._log(metrics)
        self.state.offset = events[-1][1]
        self.state.save(self.state_path)
        return True

    def close(self, status: str = "KILLED") -> None:
        """Leave no run RUNNING."""
        for key in list(self.state.open):
            self.client.set_tag(self.state.runs[key], "kd.status", "interrupted")
            self._terminate(key, status)

    def _handle(self, event: Event) -> None:
        kind = event["event"]
        if kind == "search":
            self._start_search(event)
        elif kind == "resumed":
            self._run("", self._search_event()["name"], event["time"], {})
        elif kind == "student":
            self._start_student(event)
        elif kind == "end":
            self.client.set_tag(self.state.runs[event["id"]], "kd.status", event["status"])
            if event.get("reason"):
                self.client.set_tag(
                    self.state.runs[event["id"]], "kd.reason", event["reason"][:5000]
                )
            self._terminate(event["id"], STATUS.get(event["status"], "FAILED"))
        elif kind == "summary" or (kind == "judged" and event["id"] in self.state.runs):
            self._log({event["id"]: self._metrics(event)})
        elif kind == "file":
            self.client.log_artifact(
                self.state.runs[event["id"]], event["path"], event.get("folder")
            )
        elif kind == "model":
            self._log_model(event)
        elif kind == "teacher":
            self._link_teacher(event)
        elif kind == "close":
            self.client.set_tag(self.state.runs[""], "kd.status", event["status"])
            self._terminate("", STATUS.get(event["status"], "FAILED"))

    def _start_search(self, event: Event) -> None:
        self.search = event
        self.state.experiment = self._experiment(event["experiment"])
        description = event["description"]
        tags = {"kd.kind": "search", "mlflow.note.content": description}
        run_id = self._run("", event["name"], event["time"], tags)
        settings = {k: str(v)[:6000] for k, v in event["settings"].items() if v is not None}
        self._params(run_id, {**settings, **event["facts"]})
        self.client.set_experiment_tag(self.state.experiment, "mlflow.note.content", description)

    def _start_student(self, event: Event) -> None:
        tags = {
            "kd.kind": event["kind"],
            "kd.role": event["role"],
            "kd.method": event["method"],
            "kd.student": event["id"],
            "kd.status": "running",
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

    def _terminate(self, key: str, status: str) -> None:
        self.client.set_terminated(self.state.runs[key], status)
        if key in self.state.open:
            self.state.open.remove(key)

    def _params(self, run_id: str, values: dict[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)) for key, value in values.items()]
        for some in _chunks(params, 100):
            self.client.log_batch(run_id, params=some)

    def _metrics(self, event: Event) -> list[Any]:
        from mlflow.entities import Metric

        when, step = int(event["time"] * 1000), event["metrics"].get("epoch", 0)
        return [
            Metric(name, float(value), when, int(step))
            for name, value in event["metrics"].items()
            if "/" in name or name == "seconds"
        ]

    def _log(self, metrics: dict[str, list[Any]]) -> None:
        for key, values in metrics.items():
            for some in _chunks(values, MAX_METRICS):
                self.client.log_batch(self.state.runs[key], metrics=some)
        metrics.clear()

    def _log_model(self, event: Event) -> None:
        """The champion as an MLflow model: images in [0, 1] in, logits out; registered under its alias."""
        if self.state.model_version:
            return
        from trainables.champion import WEIGHTS, load_champion

        folder = Path(event["folder"])
        model = load_champion(folder)
        record = json.loads((folder / "champion.json").read_text(encoding="utf-8"))
        logged = self._log_network(
            model,
            record["facts"],
            event["registered_as"],
            "model",
            [folder / WEIGHTS, folder / "champion.json"],
            [record["student"], record["teacher"]],
        )
        version = str(logged.registered_model_version)
        self._crown(event["registered_as"], version, event["accuracy"], event["split_hash"])
        self.state.model_version = version

    def _log_network(
        self,
        model: Any,
        shape: dict[str, Any],
        registered_as: str | None,
        name: str,
        files: list[Path],
        networks: list[str],
    ) -> Any:
        """Log a network that gives logits, with `files` beside it, in the search's run; register it where named."""
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
            with self.mlflow.start_run(run_id=self.state.runs[""]):
                return mlflow.pytorch.log_model(
                    model,
                    name=name,
                    input_example=example,
                    signature=infer_signature(example, answer),
                    pip_requirements=requirements(networks),
                    extra_files=[str(path) for path in files],
                    registered_model_name=registered_as,
                )
        finally:  # the search itself goes on
            self.client.update_run(self.state.runs[""], status="RUNNING")

    def _link_teacher(self, event: Event) -> None:
        """Register the teacher, or each of an ensemble, unless it is known, and name it in the search's run."""
        from mlflow.entities import LoggedModelInput

        run_id = self.state.runs[""]
        members = zip(event["members"] or [event], event["registered_as"], strict=True)
        try:
            versions = [
                self._teacher_version(Path(member["folder"]), member["sha256"], name)
                for member, name in members
            ]
        except EXPORT_ERRORS as error:  # the rest of the journal must not wait for it
            self.client.set_tag(run_id, "kd.teacher", f"not registered: {error}"[:5000])
            return
        links = ", ".join(f"models:/{version.name}/{version.version}" for version in versions)
        self.client.set_tag(run_id, "kd.teacher", links)
        self.client.set_tag(run_id, "kd.teacher_sha256", event["sha256"])
        models = [LoggedModelInput(version.source.removeprefix("models:/")) for version in versions]
        self.client.log_inputs(run_id, models=models)

    def _teacher_version(self, folder: Path, sha256: str, name: str) -> Any:
        """The registered version of these weights; made by the first who comes, others wait for it."""
        import fcntl

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
            logged = self._log_network(model, record, None, "teacher", files, [record["model"]])
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
    quiet = {"DISABLE_TELEMETRY": "true", "ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    for name, value in {**quiet, "HTTP_REQUEST_MAX_RETRIES": "1"}.items():
        os.environ.setdefault(f"MLFLOW_{name}", value)
    import mlflow
    from mlflow.exceptions import MlflowException

    logging.getLogger("alembic").setLevel(logging.ERROR)
    name, at, alias = uri.removeprefix("models:/").partition("@")
    try:
        mlflow.set_tracking_uri(tracking_uri)
        client = mlflow.MlflowClient()
        if at:
            version = client.get_model_version_by_alias(name, alias).version
        else:
            name, _, version = name.rpartition("/")
            client.get_model_version(name, version)
        folder = root / slug(f"{name}-{version}")
        mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=str(folder))
    except (MlflowException, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"--teacher must be in MLflow's registry, got {uri}: {reason}") from None
    return folder


def _chunks(values: list[Any], size: int) -> Iterable[list[Any]]:
    return (values[i : i + size] for i in range(0, len(values), size))


def driver_gone(timeout: float) -> bool:
    """Whether the driver has closed our standard input; waits up to `timeout` seconds for it."""
    ready, _, _ = select.select([sys.stdin], [], [], timeout)
    return bool(ready) and not os.read(sys.stdin.fileno(), 1)


def main() -> int:
    """Mirror until the driver is gone and all is delivered; 0 where nothing is left undone."""
    folder, artifacts = Path(sys.argv[1]), Path(sys.argv[2])
    with (folder / LOCK).open("w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a killed driver's mirror may still be at work
        return mirror(folder, artifacts)


def mirror(folder: Path, artifacts: Path) -> int:
    """The same, for the one mirror of a folder; what a next driver writes is left to that one's mirror."""
    delivery = Delivery(folder, os.environ["KDTUNE_TRACKING_URI"], artifacts)
    failures, gone, deadline, end = 0, False, 0.0, math.inf
    while True:
        try:
            news = delivery.deliver(end)
            if gone and not news:
                delivery.close()
                delivery.state.save(delivery.state_path)
                return 0
            failures = 0
        except Exception as error:  # whatever a server can do wrong: note it, wait, try again
            print(
                f"{time.strftime('%X')} not delivered: {' '.join(str(error).split())[:500]}",
                flush=True,
            )
            failures += 1
            if gone and time.monotonic() > deadline:
                return 1
        pause = PAUSES[min(failures, len(PAUSES)) - 1] if failures else POLL
        if gone:
            time.sleep(pause if failures else 0)
        elif driver_gone(pause):
            gone, deadline = True, time.monotonic() + PATIENCE
            end = (folder / FILE).stat().st_size


if __name__ == "__main__":
    sys.exit(main())
