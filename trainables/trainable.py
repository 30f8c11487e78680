"""The Ray trainable: one student under one configuration, one epoch a step."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from ray import tune
from safetensors.torch import load_file
from torch import nn

from trainables import measuring, methods, objective, targets
from trainables import teacher as teachers
from trainables.checkpoint import read_newest, write_state
from trainables.contract import Context, Method, Outputs
from trainables.data.splits import Facts, Split, open_split
from trainables.data.stream import Streamed
from trainables.data.views import to_float
from trainables.depot import Courier, near
from trainables.measuring import NOTHING, Asked
from trainables.mishaps import in_a_line, out_of_memory
from trainables.parallel import ALONE, RankLostError, Ranks
from trainables.precision import PLAIN, Precision
from trainables.recipe import RECIPE_KEYS, Recipe
from trainables.sharing import keep_to
from trainables.stages import BY_RULE, Stages
from trainables.targets import Recall
from trainables.teacher import Teacher
from trainables.teacher_cache import TargetCache
from trainables.team import Team
from trainables.training import Divergence, Teach, Training, validate, with_input_gradient

RESIDENT_BYTES = 4 * 2**30  # of images kept in a GPU's memory


@dataclass(frozen=True)
class Task:
    """What all trials of a search share; plain values, so that it travels to any node."""

    facts: Facts
    teacher: Teacher
    student: str
    recipe: Recipe
    use_gpu: bool = False
    prepared: str = ""  # file of what the method prepared once for the search
    precision: Precision = PLAIN
    cache_folder: str = ""  # of what the teacher said
    cache_bytes: int = 0  # its bound; 0 for a live teacher
    # after which a student is judged, beside its last; empty: after each
    eval_epochs: tuple[int, ...] = ()
    stages: Stages = BY_RULE
    workers: int = 0  # processes that read streamed images from their files
    asked: Asked = NOTHING  # what is measured of a student after its last epoch
    ranks: int = 1  # processes that train a student together, each on a GPU of its own
    gpu_share: float = 1.0  # of the one GPU, where trials share it

    @property
    def teacher_precision(self) -> Precision:
        """How the teacher is asked: in float32, on a CPU in the memory format that is faster for the student."""
        return Precision(channels_last=self.precision.channels_last and not self.use_gpu)


@near.register
def _task(value: Task, courier: Courier) -> Task:
    return replace(
        value,
        facts=near(value.facts, courier),
        teacher=near(value.teacher, courier),
        prepared=courier.file(value.prepared),
        cache_folder=courier.place(value.cache_folder),
    )


class Workplace:
    """What a worker keeps between trials: data and teacher, opened once."""

    def __init__(self, task: Task) -> None:
        torch.set_num_threads(1)  # a second thread a trial can cost a factor of 250 under load
        self.task = task
        self.device = torch.device("cuda" if task.use_gpu else "cpu")
        if task.use_gpu:
            keep_to(task.gpu_share)
        self.train, self.val = (
            resident(open_split(task.facts, part, task.workers), self.device)
            for part in ("train", "val")
        )

    def moved(self, task: Task) -> Workplace:
        """The same place for another search's task; what both have in common stays open."""
        if task is self.task:
            return self
        known = self.task
        if (task.facts, task.use_gpu, task.workers) != (known.facts, known.use_gpu, known.workers):
            return Workplace(task)
        place = copy.copy(self)
        place.task = task
        kept = _of_teacher(task) == _of_teacher(known)
        for name in ("prepared",) if kept else ("prepared", "teacher"):
            place.__dict__.pop(name, None)  # made when it is asked for
        return place

    @cached_property
    def teacher(self) -> nn.Module:
        """The frozen teacher on this worker's device."""
        network = teachers.load(self.task.teacher, self.task.facts, self.device)
        return Stages.only(self.task.teacher_precision.arranged(network), self.task.stages.teacher)

    def training(self, config: dict[str, Any], ranks: Ranks = ALONE) -> Training:
        """The student that `config` (method, seed, hyper) describes, before its first epoch; on one of `ranks`."""
        method = methods.load(config["method"])
        hyper = config["hyper"]
        loss_values = {k: v for k, v in hyper.items() if k not in RECIPE_KEYS}
        recipe = self.task.recipe.changed(hyper)
        taught = method.target is not None
        return Training(
            method,
            loss_values,
            recipe,
            config["seed"],
            lambda: self.build(str(hyper.get("student", self.task.student))),
            self.train,
            self._teach(method) if taught else None,
            self._context,
            self.device,
            self._recall(method, loss_values, recipe),
            self.task.precision,
            ranks,
        )

    def build(self, student: str) -> nn.Module:
        """A student before its training."""
        network = teachers.build_for(student, self.task.facts)
        return Stages.only(network, self.task.stages.student)

    @cached_property
    def prepared(self) -> dict[str, torch.Tensor]:
        """What the search's method prepared once, if it does."""
        path = self.task.prepared
        return {k: v.to(self.device) for k, v in load_file(path).items()} if path else {}

    def _teach(self, method: Method) -> Teach:
        gradient = "input_gradient" in method.needs

        def say(images: torch.Tensor, labels: torch.Tensor) -> Outputs:
            if gradient:
                return with_input_gradient(self.teacher, images, labels, create_graph=False)
            with torch.no_grad():
                seen: Outputs = self.teacher(images)
            return seen

        def teach(
            images: torch.Tensor, labels: torch.Tensor, settings: Mapping[str, Any], ranks: Ranks
        ) -> Any:
            outputs = ranks.shared(say, method.needs, images, labels)
            return objective.target_of(method, outputs, self.prepared, settings)

        return teach

    def _recall(self, method: Method, values: Mapping[str, Any], recipe: Recipe) -> Recall | None:
        """What brings an epoch's targets from the cache, or None where the teacher stays live."""
        limit = self.task.cache_bytes
        if not limit or not targets.can_keep(method):
            return None
        settings = {**objective.defaults(method), **values}
        with torch.no_grad():
            seen = self.teacher(to_float(self.train.images[:2]).to(self.device))
        n_train = len(self.train.labels)
        choice = targets.choose(method, settings, recipe, seen, self.prepared, n_train, limit)
        if not choice.kept:
            return None
        return Recall(TargetCache(Path(self.task.cache_folder), limit), choice, self._about)

    @property
    def _about(self) -> dict[str, Any]:
        """What targets depend on beside method, recipe and seed."""
        facts = self.task.facts
        machine = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        return {
            "teacher": [self.task.teacher.sha256, self.task.stages],
            "data": [facts.sha256["train"], facts.split_hash],
            "prepared": Path(self.task.prepared).name,
            "computed": [
                machine,
                torch.__version__,
                str(self.task.teacher_precision),
                code_hash(),
            ],
        }

    def _context(self, student: nn.Module) -> Context:
        return teachers.context_of(student, self.teacher, self.task.facts, self.prepared)


def _of_teacher(task: Task) -> tuple[Any, ...]:
    return task.teacher, task.stages.teacher, task.teacher_precision


def resident(data: Split, device: torch.device) -> Split:
    """The split with its images where the student is, if they fit there; as it is on a CPU, where they are mapped."""
    if device.type == "cpu" or isinstance(data.images, Streamed):
        return data
    if math.prod(data.images.shape) > RESIDENT_BYTES:
        return data
    return Split(data.images[:].to(device), data.labels.to(device))


@cache
def code_hash() -> str:
    """Of this package's source: what another version of it has computed is not taken over."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def alone(task: Task, config: dict[str, Any]) -> Trial:
    """A trial in this process, without Ray around it: each `step` trains and measures one epoch."""
    trial = Trial.__new__(Trial)
    trial.setup({**config, "search": ""}, {"": task})
    return trial


def not_trained(config: Mapping[str, Any]) -> dict[str, Any]:
    """What is reported of a student that breaks a constraint before it is trained: `infeasible` says which."""
    told = {"epoch": 0, "epochs": config["epochs"], "ranked_epoch": 0, "done": True}
    reason = {"infeasible": config["infeasible"], "failed": "", "diverged": ""}
    return {**told, **reason, **config["known"], "val/accuracy": float("nan")}


class Trial(tune.Trainable):
    """Reports val/accuracy after every epoch; a diverged student ends itself and says so."""

    def setup(
        self,
        config: dict[str, Any],
        tasks: Mapping[str, Task] | None = None,
        courier: Courier | None = None,
    ) -> None:
        """Open the workplace and build the first student; `tasks` by the name of the search they are of.

        With a `courier` their files are the driver's, who may be on another machine.
        """
        assert tasks is not None
        self.courier = courier
        self.team: Team | None = None
        self.tasks = {
            name: near(task, courier) if courier else task for name, task in tasks.items()
        }
        self.workplace = Workplace(self.tasks[config.get("search", "")])
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become another trial in the same process, maybe of another search; its student is built by the first step."""
        self.config = new_config
        self.workplace = self.workplace.moved(self.tasks[new_config.get("search", "")])
        self.student: Training | None = None
        self.state: dict[str, Any] | None = None
        self.best = 0.0
        self.seconds = 0.0
        self.val: dict[str, float] = {}  # of the last epoch that was judged
        self.used = 0.0  # shares of samples that the method learnt from, summed over epochs
        self.damage = ""  # of checkpoints, to be told with the next epoch
        before = new_config.get("restore_from")
        if before:
            self.load_checkpoint(self.courier.folder(before) if self.courier else before)
        return True

    @property
    def run(self) -> Training:
        """The student's training, built when it is first asked for."""
        if self.student is None:
            self.student = self.workplace.training(self.config, self._ranks())
            if self.state is not None:
                self.student.load(self.state)
        return self.student

    def _ranks(self) -> Ranks:
        """This process alone, or the first of several, of which the others build their student now."""
        task = self.workplace.task
        if task.ranks == 1:
            return ALONE
        self.team = self.team or Team(task.ranks, task.use_gpu)
        self.team.begin(task, self.config, self.state)
        return self.team.ranks

    def cleanup(self) -> None:
        """End the processes that were started."""
        if self.team is not None:
            self.team.close()
            self.team = None

    def step(self) -> dict[str, Any]:
        """Train one epoch and measure it; what training raises is a result too, and no reason to try again.

        Where memory ran out or another rank was lost it is raised, so that Ray tries again in a fresh process.
        """
        if self.config.get("infeasible"):
            return not_trained(self.config)
        try:
            return self._epoch()
        except (
            Exception
        ) as error:  # the boundary: a bug in a loss must end its trial alone, with its reason
            self.student = None
            self.cleanup()
            if out_of_memory(error) or isinstance(error, RankLostError):
                raise
            told = {"epoch": 0, "epochs": self.config["epochs"], "ranked_epoch": 0}
            return {**told, "val/accuracy": float("nan"), "failed": in_a_line(error), "done": True}

    def _epoch(self) -> dict[str, Any]:
        started = time.perf_counter()
        run = self.run
        train, divergence = self.team.train_epoch(run) if self.team else run.train_epoch()
        val = self._judged(divergence is not None)
        if divergence is None and not val["loss"] < float("inf"):
            divergence = Divergence(self.run.epoch, "weights")
        self.best = max(self.best, val["accuracy"])
        self.used += train.get("train/samples_used", 0.0)
        last = divergence is None and self.run.epoch >= self.run.recipe.epochs
        asked = self._asked() if last else {}
        self.seconds += time.perf_counter() - started
        return {
            "epoch": self.run.epoch,
            "epochs": self.run.recipe.epochs,
            "ranked_epoch": max(0, self.run.epoch - self.run.first_epochs),
            "val/accuracy": val["accuracy"],
            "val/best_accuracy": self.best,
            "val/loss": val["loss"],
            **train,
            **self._costs(),
            **self.config.get("known", {}),
            **asked,
            "seconds": self.seconds,
            "diverged": divergence.term if divergence else "",
            "failed": "",
            "damage": self.damage,
            "done": divergence is not None or self.run.epoch >= self.run.recipe.epochs,
        }

    def _asked(self) -> dict[str, float]:
        """What the search asks of a student that was trained in full."""
        place = self.workplace
        found = measuring.measure(place.task.asked, self.run.deployed, place.val, place.device)
        if self.run.method.keep is not None:
            found["samples_used"] = self.used / self.run.epoch
        return found

    def _judged(self, now: bool) -> dict[str, float]:
        """Accuracy and loss on validation; those of an earlier epoch where this one is not to be judged."""
        due, epoch = self.workplace.task.eval_epochs, self.run.epoch
        if now or not due or epoch in due or epoch >= self.run.recipe.epochs or not self.val:
            place = self.workplace
            started = time.perf_counter()
            found = validate(self.run.deployed, place.val, place.device, place.task.precision)
            self.val = {**found, "epoch": epoch, "seconds": time.perf_counter() - started}
        return self.val

    def _costs(self) -> dict[str, float]:
        """What this epoch spent on validation and on the teacher, and whether it found the targets made."""
        told = {"val/seconds": self.val["seconds"] if self.val["epoch"] == self.run.epoch else 0.0}
        if self.workplace.task.eval_epochs:
            told["val/age_epochs"] = self.run.epoch - self.val["epoch"]
        if self.run.teach is not None:
            told["teacher/seconds"] = self.run.teacher_seconds
            recall = self.run.recall
            told["teacher/found"] = float(recall is not None and recall.found)
            told["teacher/live"] = float(recall is None or recall.live)
        return told

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the state of this trial and its checksum, each whole or not at all; nothing for a failed one."""
        if self.student is None:
            return
        extra = {"best": self.best, "seconds": self.seconds, "val": self.val, "used": self.used}
        write_state(Path(checkpoint_dir), {**self.run.state(), **extra})

    def load_checkpoint(self, checkpoint: str) -> None:  # type: ignore[override]
        """Go on from a checkpoint or, where it is damaged, from the one before, or else from the beginning."""
        self.state, self.damage = read_newest(Path(checkpoint))
        self.student = None
        told: dict[str, Any] = self.state or {}
        self.best, self.seconds = float(told.get("best", 0)), float(told.get("seconds", 0))
        self.val, self.used = told.get("val", {}), float(told.get("used", 0.0))
