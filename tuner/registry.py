"""Networks in MLflow's registry: champions and teachers put there, described, crowned, and fetched again."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from pathlib import Path
from typing import Any

from trainables.models import slug
from tuner import addresses
from tuner.journal import Event
from tuner.runs import Runs, as_metrics, dataset

MAX_DESCRIPTION = 5000  # characters of a registered version's
ELSEWHERE = "\n\n… goes on in model_card.md, beside the model."
CHAMPION = "champion"  # the alias


class Registry:
    """Registers what the search of some runs has made or used."""

    def __init__(self, runs: Runs) -> None:
        self.runs, self.client, self.mlflow = runs, runs.client, runs.mlflow

    def champion(self, event: Event) -> str:
        """The registered version of this search's champion, described and linked; raises what CANNOT_BE_LOGGED names.

        It is the one that the search has already, or a new one: images in [0, 1] in, logits out.
        """
        name = event["registered_as"]
        made = self._champion_version(event)
        card = Path(event.get("card", ""))  # which older searches do not have
        if card.is_file():
            text = card.read_text(encoding="utf-8")
            self.client.update_model_version(name, made.version, in_short(text))
        if event.get("headline"):
            self.client.update_registered_model(name, event["headline"])
        if event.get("student"):
            self._link(event, made.source.removeprefix("models:/"))
        return str(made.version)

    def _champion_version(self, event: Event) -> Any:
        from trainables.champion import RECORD, WEIGHTS, load_champion, read_record

        folder, name = Path(event["folder"]), event["registered_as"]
        record = read_record(folder)
        of_it = f"run_id = '{self.runs.of('')}' and tags.`kd.sha256` = '{record['sha256']}'"
        known = self.client.search_model_versions(f"name = '{name}' and {of_it}")
        if known:
            return known[0]
        files = [folder / WEIGHTS, folder / RECORD]
        files += [Path(event["card"])] if event.get("card") else []
        networks = [record["student"], record["teacher"]]
        model = load_champion(folder)
        logged = self._log_network(model, record["facts"], "model", files, networks)
        tags = {"kd.sha256": record["sha256"]}  # there with the version or not at all
        return self.mlflow.register_model(logged.model_uri, name, tags=tags)

    def _link(self, event: Event, model: str) -> None:
        """Say of which student's run the model is, and what was measured of it on which data."""
        from mlflow.entities import LoggedModelOutput

        run_id = self.runs.of(event["student"])
        data = self.runs.search.get("data")  # which older searches do not tell
        outputs = self.client.get_run(run_id).outputs
        known = [one.model_id for one in outputs.model_outputs] if outputs else []
        if model not in known:
            self.client.log_outputs(run_id, [LoggedModelOutput(model, step=0)])
        for part, numbers in event["metrics"].items():
            linked = {}
            if data:
                judged_on = dataset(data, part)
                linked = {"dataset_name": judged_on.name, "dataset_digest": judged_on.digest}
            told = {"time": event["time"], "metrics": numbers}
            self.runs.log({event["student"]: as_metrics(told, model_id=model, **linked)})

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
        run_id = self.runs.of("")
        try:
            with self.mlflow.start_run(run_id=run_id):
                return mlflow.pytorch.log_model(
                    model,
                    name=name,
                    input_example=example,
                    signature=infer_signature(example, answer),
                    pip_requirements=requirements(networks),
                    extra_files=[str(path) for path in files],
                )
        finally:  # the search itself goes on
            self.client.update_run(run_id, status="RUNNING")

    def teachers(self, event: Event) -> list[Any]:
        """The registered version of the teacher, or of each of an ensemble."""
        members = zip(event["members"] or [event], event["registered_as"], strict=True)
        return [
            self._teacher_version(Path(member["folder"]), member["sha256"], name)
            for member, name in members
        ]

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

    def crown(self, name: str, version: str, accuracy: float, split_hash: str) -> None:
        """Give the alias `champion` to this version, unless another search's is better on the same validation split."""
        from mlflow.exceptions import MlflowException

        for key, value in (("val/accuracy", str(accuracy)), ("split_hash", split_hash)):
            self.client.set_model_version_tag(name, version, key, value)
        with contextlib.suppress(MlflowException):  # no champion yet
            tags = self.client.get_model_version_by_alias(name, CHAMPION).tags
            same_split = tags.get("split_hash") == split_hash
            if same_split and float(tags.get("val/accuracy", "nan")) > accuracy:
                return
        self.client.set_registered_model_alias(name, CHAMPION, version)


def in_short(text: str) -> str:
    """As much of a model card as a registered version's description takes, whole lines."""
    if len(text) <= MAX_DESCRIPTION:
        return text
    kept = text[: MAX_DESCRIPTION - len(ELSEWHERE)]
    return kept.rpartition("\n")[0] + ELSEWHERE


def requirements(networks: list[str]) -> list[str]:
    """What has to be installed where a model made of `networks` is loaded: the versions that made it."""
    from importlib.metadata import version

    libraries = [
        library for library in ("torchvision", "timm") if f"{library}:" in " ".join(networks)
    ]
    return [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "numpy", *libraries)]


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
