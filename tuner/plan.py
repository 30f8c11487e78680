"""From settings to a plan: every name looked up, every value checked, nothing written and nothing started."""

from __future__ import annotations

import copy
import itertools
import os
import sys
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from search_spaces import Domain, Space, Value, searched
from search_spaces.conditions import cells, reduced, settle
from trainables import methods, models, objective, teacher_wanted
from trainables.contract import Context, Method
from trainables.data import sources
from trainables.data.sources import Source
from trainables.evaluation import autoattack
from trainables.evaluation.attacks import losses_for
from trainables.evaluation.threats import preset
from trainables.measuring import MEASURES, Asked
from trainables.models.ensemble import Ensemble
from trainables.models.normalized import Normalized
from trainables.precision import PLAIN, stepper
from trainables.recipe import LEARNING_RATES, Recipe
from trainables.seeding import generator, seeded
from trainables.stages import BY_RULE, Stages
from trainables.stages import check as check_stages
from trainables.stages import parse as parse_stages
from trainables.targets import Choice, can_keep, choose
from trainables.teacher_wanted import Wanted
from tuner import addresses, cluster, room, sizes, spaces, strategies, together
from tuner.addresses import redacted
from tuner.nodes import Node, fits
from tuner.objectives import AT_THE_END, Goals, goals
from tuner.progress import settings_in_words
from tuner.settings import LOCAL, Settings, bytes_of

EARLIEST_STOP = 10  # epochs


@dataclass(frozen=True)
class Plan:
    """What will run: the settings with every default worked out."""

    settings: Settings
    source: Source
    method: Method
    teachers: tuple[Wanted, ...]  # several are averaged
    student: str
    recipe: Recipe
    space: Space  # searched domains and fixed values
    name: str

    @property
    def out(self) -> Path:
        """The output folder, absolute."""
        return self.settings.out.expanduser().resolve()

    @property
    def teacher(self) -> str:
        """The teacher's network, or those of an ensemble, in words."""
        return " + ".join(wanted.model or wanted.uri for wanted in self.teachers)

    @property
    def teacher_epochs(self) -> int:
        """Of a teacher that has to be trained."""
        return self.settings.teacher_epochs or self.source.teacher_epochs

    @property
    def folder(self) -> Path:
        """This search's own folder."""
        return self.out / self.name

    @property
    def artifacts(self) -> Path:
        """Where the experiment's artifacts lie, unless a server keeps them."""
        return self.out / "artifacts" / (self.settings.experiment or self.name)

    @property
    def data_root(self) -> Path:
        """Where images lie."""
        return _data_root(self.settings)

    @property
    def tracking_uri(self) -> str:
        """MLflow's, absolute."""
        given = self.settings.tracking_uri
        return given if given else f"sqlite:///{self.out / 'mlflow.db'}"

    @cached_property
    def searched(self) -> dict[str, Domain]:
        """What is searched."""
        return searched(self.space)

    @property
    def fixed(self) -> dict[str, Value]:
        """What the user fixed."""
        return {k: v for k, v in self.space.items() if not isinstance(v, Domain)}

    @cached_property
    def known(self) -> dict[str, Any]:
        """Every value that stands where a trial has none of its own: published defaults, recipe, student, fixed."""
        defaults = objective.defaults(self.method)
        return {**defaults, **vars(self.recipe), spaces.STUDENT: self.student, **self.fixed}

    @property
    def published(self) -> dict[str, Any]:
        """The first trial: the method's published setting with what the user fixed.

        A recipe part that is searched starts from the recipe.
        """
        own = settle(self.searched, self.known, lambda name, _: self.known[name])
        return {**own, **self.fixed}

    @cached_property
    def goals(self) -> Goals:
        """What the search is after."""
        return goals(self.settings.objective, self.settings.constraint)

    @property
    def asked(self) -> Asked:
        """What a student's trial measures for the goals after its last epoch."""
        names = tuple(name for name in self.goals.names(AT_THE_END) if name in MEASURES)
        return Asked(names, self.source.epsilon, self.settings.seed)

    @cached_property
    def sizes(self) -> dict[tuple[str, ...], dict[str, float]]:
        """What `sizes.known` has found so far."""
        return {}

    @property
    def scheduler(self) -> str:
        """Which trials are stopped early, `auto` decided; what cannot be stopped early never is."""
        asked = self.settings.scheduler
        if asked == "auto" and self.recipe.epochs < 2:
            return "none"
        return strategies.scheduler_of(asked, self.n_trials, self.goals)

    @property
    def search(self) -> str:
        """How configurations are chosen, `auto` decided."""
        return strategies.search_of(
            self.settings.search, self.scheduler, self.searched, self.n_trials, self.goals
        )

    @property
    def changeable(self) -> dict[str, Domain]:
        """What a population may change while its students are trained."""
        return spaces.changeable(self.searched, self.method)

    @property
    def n_trials(self) -> int:
        """Trials; a grid has as many as it has cells, and no more than asked for."""
        if self.settings.search == "grid":
            return len(self.grid)
        return self.settings.trials if self.searched else 1

    @property
    def grid(self) -> list[dict[str, Any]]:
        """Every cell of a grid, the published default first where it is no cell of it."""
        full = [{**cell, **self.fixed} for cell in cells(self.searched, self.known)]
        return [self.published, *(cell for cell in full if cell != self.published)]

    @property
    def n_confirmed(self) -> int:
        """Students that the confirmation trains: finalists, default, plain student and tuned baseline, each seed."""
        contenders = self.settings.confirm_top + 2 + self.settings.tune_baseline
        return contenders * self.settings.confirm_seeds

    @property
    def slots(self) -> int:
        """Trials at once; on a cluster, which may grow, as many as were asked for or else fit when it is joined."""
        s = self.settings
        if s.address != LOCAL:
            return s.max_concurrent or fits(cluster.join(s), s.cpus_per_trial, s.gpus_per_trial)
        here = Node("here", available_cpus(), torch.cuda.device_count() if s.gpus_per_trial else 0)
        fit = max(1, here.fits(s.cpus_per_trial, s.gpus_per_trial))
        return min(s.max_concurrent or fit, fit)

    @property
    def batch(self) -> int:
        """Trials of a batch, however many fit at once; 0 without batches, and for a population, which is one."""
        if not self.settings.batch_mode or self.scheduler == "pbt":
            return 0
        return self.settings.max_concurrent or self.slots

    @property
    def stages(self) -> Stages:
        """Which feature maps are compared, where the user said so."""
        return parse_stages(self.settings.stages) if self.settings.stages else BY_RULE

    @cached_property
    def networks(self) -> Context:
        """Both networks, untrained, with all their maps, and what they say of a few images."""
        return self.look(self.student)

    def build(self, name: str) -> Normalized:
        """A network for the dataset's images, untrained."""
        source, grey = self.source, (0.5,) * self.source.channels
        shape = {"n_classes": source.n_classes, "channels": source.channels, "size": source.size}
        return models.build(name, **shape, mean=grey, std=grey)

    def look(self, student: str) -> Context:
        """The same for another student."""
        with seeded(0, "check"):
            network, *members = (
                self.build(name) for name in (student, *(wanted.model for wanted in self.teachers))
            )
            return self._seen(network, Ensemble(members) if len(members) > 1 else members[0])

    @cached_property
    def context(self) -> Context:
        """What the method sees of `networks`."""
        return self.paired(self.networks)

    def paired(self, whole: Context) -> Context:
        """The same with the maps that are compared alone."""
        if not self.settings.stages:
            return whole
        student = Stages.only(copy.deepcopy(whole.student_model), self.stages.student)
        teacher = Stages.only(copy.deepcopy(whole.teacher_model), self.stages.teacher)
        return self._seen(student, teacher)

    def _seen(self, student: nn.Module, teacher: nn.Module) -> Context:
        n_classes, channels, size = (
            self.source.n_classes,
            self.source.channels,
            self.source.size,
        )
        images = torch.rand(4, channels, size, size, generator=generator(0, "check"))
        return objective.look(student, teacher, images, torch.arange(n_classes), n_classes)

    @cached_property
    def step_seconds(self) -> tuple[float, float, float]:
        """Of a step of the student, a step of the teacher and a pass of the teacher, measured on the CPU in float32."""
        seen, size = self.networks, self.source.size
        torch.set_num_threads(1)
        images = torch.rand(self.recipe.batch_size, self.source.channels, size, size)
        step = stepper(PLAIN, copy.deepcopy(seen.student_model), images)
        student = min(step() for _ in range(2))
        started = time.perf_counter()
        with torch.no_grad():
            seen.teacher_model(images)
        passing = time.perf_counter() - started
        return student, 3 * passing, passing

    def teacher_part(self, n_train: int) -> Choice:
        """Whether the teacher's outputs are kept, for so many training images."""
        settings = {**objective.defaults(self.method), **self.published}
        seen, prepared = self.context.teacher, {}
        if self.method.prepare and can_keep(self.method):
            prepared = self.method.prepare(self.context, iter([seen]))
        return choose(self.method, settings, self.recipe, seen, prepared, n_train, self.cache_bytes)

    @property
    def cache_bytes(self) -> int:
        """Bound of the cache of the teacher's outputs; 0 for none."""
        return 0 if self.settings.no_cache else bytes_of(self.settings.cache_size)

    @property
    def eval_epochs(self) -> tuple[int, ...]:
        """Epochs after which a student is judged, beside its last; empty where that is after each."""
        every, epochs = self.settings.eval_every, self.recipe.epochs
        if every == 1:
            return ()
        rungs = {self.grace * 2**rung for rung in range(epochs.bit_length())}
        return tuple(sorted({*range(every, epochs + 1, every), *rungs}))

    @property
    def grace(self) -> int:
        """Epochs before a trial may be stopped: a quarter of all, and 10 where that is not more than half.

        Accuracies of the first epochs tell who learns fast, not who ends well, the more so in short trainings.
        HyperBand's first bracket, which hedges over just that, and a population's first change come at the quarter.
        """
        epochs = self.recipe.epochs
        quarter = max(1, -(-epochs // 4))
        if self.scheduler in ("hyperband", "pbt"):
            return quarter
        return max(quarter, min(EARLIEST_STOP, epochs // 2))


def available_cpus() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def make(settings: Settings) -> Plan:
    """Look up and check everything that needs no data; raises ValueError with what must hold and what came."""
    method = methods.load(settings.method)
    source = sources.source(settings.dataset, _data_root(settings), settings.image_size)
    space = spaces.read(settings, method)
    named = spaces.students(space)
    student = settings.student or (named[0] if named else _default_student(source, method))
    recipe = Recipe(
        epochs=settings.epochs or source.epochs,
        batch_size=settings.batch_size,
        optimizer=settings.optimizer,
        lr=settings.lr or LEARNING_RATES[settings.optimizer],
        augment=settings.augment or source.augment,
        label_smoothing=settings.label_smoothing,
    )
    spaces.check_value(method, spaces.SMOOTHING, recipe.label_smoothing)
    known = {**objective.defaults(method), **vars(recipe), spaces.STUDENT: student}
    plan = Plan(
        settings=settings,
        source=source,
        method=method,
        teachers=_teachers(settings, source),
        student=student,
        recipe=recipe,
        space=reduced(space, known),
        name=settings.name or _made_up_name(settings, source),
    )
    _check_search(plan)
    _check_goals(plan)
    check_models(plan)
    return plan


def check_outside(plan: Plan) -> None:
    """Raise ValueError where the world is not ready: cores, GPUs, output folder, tracking server."""
    _check_machine(plan.settings)
    _check_evaluation(plan)
    _check_writable(plan.out)
    room.check(plan.out)
    check_tracking(plan, offline=plan.settings.tracking_offline)


def check_tracking(plan: Plan, *, offline: bool) -> None:
    """Raise ValueError where MLflow cannot be reached, unless `offline`, or is none."""
    addresses.check(plan.tracking_uri, _check_writable, offline=offline)


def without_secrets(plan: Plan) -> Plan:
    """The plan as it may be shown and pickled."""
    uri = plan.settings.tracking_uri
    if not uri or redacted(uri) == uri:
        return plan
    return replace(plan, settings=plan.settings.model_copy(update={"tracking_uri": redacted(uri)}))


def _teachers(settings: Settings, source: Source) -> tuple[Wanted, ...]:
    asked = settings.teacher or (source.teacher,)
    wanted = tuple(teacher_wanted.parse(text, source.n_classes) for text in asked)
    texts = [one.text for one in wanted]
    twice = [text for text in texts if texts.count(text) > 1]
    if twice:
        raise ValueError(
            f"an ensemble's teachers must differ, got {twice[0]} twice; NAME#2 trains one with another seed"
        )
    return wanted


def _data_root(settings: Settings) -> Path:
    return (settings.data_root or settings.out / "data").expanduser().resolve()


def _default_student(source: Source, method: Method) -> str:
    return source.equal_student if "equal_channels" in method.needs else source.student


def _check_machine(settings: Settings) -> None:
    if settings.address != LOCAL:
        cluster.join(settings)
        return
    if settings.accelerator:
        raise ValueError(
            f"--accelerator must go with --address, whose nodes it chooses from, got {settings.accelerator}"
        )
    cpus, gpus = available_cpus(), torch.cuda.device_count()
    if settings.cpus_per_trial > cpus:
        raise ValueError(
            f"--cpus-per-trial must be at most {cpus} here, got {settings.cpus_per_trial}"
        )
    if settings.gpus_per_trial > gpus:
        raise ValueError(
            f"--gpus-per-trial must be at most {gpus} here, got {settings.gpus_per_trial:g}"
        )


def _check_evaluation(plan: Plan) -> None:
    """What would otherwise be found out at the end."""
    if plan.settings.evaluate != "none" or "robust/worst" in plan.asked.names:
        losses_for(plan.source.n_classes)
    settings = plan.settings
    if settings.evaluate == "full":
        autoattack.check(plan.source.n_classes)
    if settings.threat:
        preset(settings.threat, plan.source.name)
    if settings.corruptions and settings.evaluate not in ("standard", "full"):
        raise ValueError(
            f"--corruptions must go with --evaluate standard or full, got {settings.evaluate}"
        )


def _check_search(plan: Plan) -> None:
    strategies.check_search(plan.search, plan.searched)
    if plan.search != "grid":
        spaces.check_published(plan.searched, plan.published)
    strategies.check_scheduler(
        plan.scheduler, plan.settings.search, plan.n_trials, plan.recipe.epochs, plan.changeable
    )


def _check_goals(plan: Plan) -> None:
    """Raise ValueError for an objective that no trial reports and a constraint that no student meets."""
    strategies.check_goals(plan.search, plan.scheduler, plan.goals)
    unreported = "samples_used"
    if unreported in plan.goals.names(AT_THE_END) and plan.method.keep is None:
        those = ", ".join(name for name in methods.names() if methods.load(name).keep)
        raise ValueError(
            f"{unreported} must be reported by the method's trials, as those of {those} do, "
            f"got {plan.settings.method}, which uses every sample"
        )
    sizes.check(plan)


def check_models(plan: Plan) -> None:
    """Let the method look at every pair's shapes; raises ValueError where it cannot work.

    Nothing is checked yet where only the registry knows a teacher's network.
    """
    if not all(wanted.model for wanted in plan.teachers):
        return
    contexts = {}
    for name in dict.fromkeys((plan.student, *spaces.students(plan.space))):
        whole = plan.networks if name == plan.student else plan.look(name)
        check_stages(plan.stages, whole.student, whole.teacher)
        contexts[name] = plan.paired(whole)
    n_ranks = together.ranks(plan.settings.gpus_per_trial)
    if n_ranks > 1:
        settings = {**objective.defaults(plan.method), **plan.published}
        together.check_batches(n_ranks, plan.known, plan.searched)
        together.check_networks(plan.method, contexts.values(), settings)
    for hyper in spaces.corners(plan.searched, plan.published):
        student = str(hyper.get(spaces.STUDENT, plan.student))
        settings = {**objective.defaults(plan.method), **hyper}
        reason = objective.why_not(plan.method, contexts[student], settings)
        if reason:
            pair = f"{plan.teacher} -> {student}"
            raise ValueError(
                f"{plan.settings.method} cannot distill {pair} with {settings_in_words(settings)}: {reason}"
            )


def _made_up_name(settings: Settings, source: Source) -> str:
    base = f"{settings.method}-{source.name}"
    taken = settings.out.expanduser()
    return next(name for n in itertools.count(1) if not (taken / (name := f"{base}-{n}")).exists())


def _check_writable(out: Path) -> None:
    created = [parent for parent in (out, *out.parents) if not parent.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"--out must be a folder that can be written to, got {out}: {error.strerror}"
        ) from None
    finally:
        for parent in created:
            if parent.is_dir():
                parent.rmdir()
