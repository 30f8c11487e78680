"""What a search's students are made of, as plain values, and the task that these give again.

With a student's config they are all that training it takes; data and teacher are named by checksums, and must be there.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from trainables import teacher as teachers
from trainables.data import sources
from trainables.data.splits import Facts, prepare
from trainables.measuring import Asked
from trainables.precision import Precision
from trainables.recipe import Recipe
from trainables.stages import Stages
from trainables.teacher import AND, Teacher, joint_sha256
from trainables.trainable import Task, code_hash
from tuner.plan import Plan
from tuner.spaces import STUDENT
from tuner.teaching import FOLDER

SHARED = ("student", "use_gpu", "cache_bytes", "eval_epochs", "stages", "workers")  # of a Task


def record(planned: Plan, task: Task, made: Mapping[str, str]) -> dict[str, Any]:
    """What the students of a search share, as plain values: with a student's config all that training it takes.

    `made` is `made_with` where they are trained.
    """
    s, facts, default_root = planned.settings, task.facts, planned.out / "data"
    return {
        "data": {
            "dataset": sources.absolute(s.dataset),
            "root": "" if planned.data_root == default_root else str(planned.data_root),
            "val_fraction": s.val_fraction,
            "subset": s.subset,
            "image_size": s.image_size,
            "split_hash": facts.split_hash,
            "sha256": facts.sha256["train"],
        },
        "teachers": [
            {"model": one.model, "folder": Path(one.folder).name, "sha256": one.sha256}
            for one in task.teacher.members or (task.teacher,)
        ],
        "task": {name: getattr(task, name) for name in SHARED},
        "recipe": asdict(task.recipe),
        "precision": asdict(task.precision),
        "asked": asdict(task.asked),
        "prepared_for": s.method,
        "out": str(planned.out),
        "with": dict(made),
    }


def made_with(device: str) -> dict[str, str]:
    """What the numbers of a training on this machine may depend on beside its settings."""
    cpu = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    machine = torch.cuda.get_device_name() if device == "cuda" else cpu
    return {"torch": torch.__version__, "code": code_hash(), "machine": machine}


def network_of(told: Mapping[str, Any], hyper: Mapping[str, Any]) -> dict[str, Any]:
    """What rebuilds a recorded student's network around its weights, after training with `hyper` at last."""
    return {
        "student": hyper.get(STUDENT, told["task"]["student"]),
        "stages": told["task"]["stages"],
        "teacher": AND.join(one["model"] for one in told["teachers"]),
        "method": told["config"]["method"],
        "hyper": dict(hyper),
        "seed": told["config"]["seed"],
    }


def task_of(told: Mapping[str, Any], out: Path) -> Task:
    """The task of a recorded student; raises ValueError where its data or teacher have gone or changed."""
    if told["task"]["use_gpu"] and not torch.cuda.is_available():
        raise ValueError("--replay must find a GPU for a student that was trained on one, got none")
    facts = facts_of(told["data"], out)
    teacher = teacher_of(told["teachers"], out)
    shared = {name: told["task"][name] for name in SHARED}
    stages = Stages(*map(tuple, shared.pop("stages")))
    device = "cuda" if shared["use_gpu"] else "cpu"
    prepared = teachers.prepare(
        *(told["prepared_for"], teacher, shared["student"], stages, facts),
        *(out / "cache" / "prepared", device),
    )
    return Task(
        **{**shared, "eval_epochs": tuple(shared["eval_epochs"]), "stages": stages},
        facts=facts,
        teacher=teacher,
        recipe=Recipe(**told["recipe"]),
        prepared=prepared,
        precision=Precision(**told["precision"]),
        asked=Asked(**{**told["asked"], "names": tuple(told["asked"]["names"])}),
        cache_folder=str(out / "cache" / "targets"),
    )


def facts_of(told: Mapping[str, Any], out: Path, flag: str = "--replay") -> Facts:
    """The data, which must be those that the student was trained on; raises ValueError."""
    facts = prepare(
        told["dataset"],
        Path(told["root"] or out / "data"),
        out / "cache" / "data",
        val_fraction=told["val_fraction"],
        subset=told["subset"],
        image_size=told["image_size"],
    )
    same = (("images", "sha256", facts.sha256["train"]), ("split", "split_hash", facts.split_hash))
    for what, name, found in same:
        if told[name] != found:
            raise ValueError(
                f"{flag} must have the data of its run, {told['dataset']} with {what} {told[name][:16]}, "
                f"got {what} {found[:16]}"
            )
    return facts


def teacher_of(told: list[dict[str, str]], out: Path, flag: str = "--replay") -> Teacher:
    """The teacher, or the ensemble, of the run; raises ValueError where it has gone or changed."""
    root, members = out / FOLDER, []
    for one in told:
        found = teachers.find(root / one["folder"])
        if found is None or found.sha256 != one["sha256"]:
            got = "nothing usable" if found is None else "one with other weights"
            raise ValueError(
                f"{flag} must have the teacher of its run, {one['model']}, got {got} in {root / one['folder']}"
            )
        members.append(found)
    if len(members) == 1:
        return members[0]
    return Teacher(
        "",
        AND.join(member.model for member in members),
        accuracy=0.0,
        sha256=joint_sha256(members),
        epochs=0,
        members=tuple(members),
    )
