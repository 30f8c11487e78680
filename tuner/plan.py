"""From settings to a plan: every name looked up, every value checked, nothing written and nothing started."""

from __future__ import annotations

import copy
import itertools
import os
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import torch
from torch import nn

import search_spaces
from search_spaces import Domain, Space, Value, nearest, searched
from trainables import methods, models, objective, teacher_wanted
from trainables.contract import Context, Method
from trainables.data import sources
from trainables.data.sources import Source
from trainables.evaluation import autoattack
from trainables.evaluation.attacks import losses_for
from trainables.models.ensemble import Ensemble
from trainables.precision import PLAIN, stepper
from trainables.recipe import RECIPE_KEYS, Recipe, check_recipe
from trainables.seeding import generator, seeded
from trainables.stages import BY_RULE, Stages
from trainables.stages import check as check_stages
from trainables.stages import parse as parse_stages
from trainables.targets import Choice, can_keep, choose
from trainables.teacher_wanted import Wanted
from tuner.progress import settings_in_words
from tuner.settings import Settings, bytes_of

DATABASES = (
    "postgresql",
    "mysql",
    "mssql",
)  # beside sqlite and http, what MLflow stores its runs in
EARLIEST_STOP = 10  # epochs
LEARNING_RATES = {"sgd": 0.05, "adam": 1e-3, "adamw": 1e-3}


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

    @property
    def published(self) -> dict[str, Any]:
        """The first trial: the method's published setting with what the user fixed.

        A recipe part that is searched starts from the recipe.
        """
        known = {**objective.defaults(self.method), **vars(self.recipe)}
        return {**{name: known[name] for name in self.searched}, **self.fixed}

    @property
    def n_trials(self) -> int:
        """Trials; a grid has as many as it has cells, and no more than asked for."""
        if self.settings.search == "grid":
            return len(self.grid)
        return self.settings.trials if self.searched else 1

    @property
    def grid(self) -> list[dict[str, Any]]:
        """Every cell of a grid, the published default first where it is no cell of it."""
        names = list(self.searched)
        cells = [
            dict(zip(names, values, strict=True))
            for values in itertools.product(*(d.values for d in self.searched.values()))
        ]
        full = [{**cell, **self.fixed} for cell in cells]
        return [self.published, *(cell for cell in full if cell != self.published)]

    @property
    def n_confirmed(self) -> int:
        """Students that the confirmation trains: finalists, default and plain student, each seed."""
        return (self.settings.confirm_top + 2) * self.settings.confirm_seeds

    @property
    def slots(self) -> int:
        """Trials at once."""
        fit = max(1, available_cpus() // self.settings.cpus_per_trial)
        return min(self.settings.max_concurrent or fit, fit)

    @property
    def stages(self) -> Stages:
        """Which feature maps are compared, where the user said so."""
        return parse_stages(self.settings.stages) if self.settings.stages else BY_RULE

    @cached_property
    def networks(self) -> Context:
        """Both networks, untrained, with all their maps, and what they say of a few images."""
        source, grey = self.source, (0.5,) * self.source.channels
        shape = {"n_classes": source.n_classes, "channels": source.channels, "size": source.size}
        with seeded(0, "check"):
            student, *members = (
                models.build(name, **shape, mean=grey, std=grey)
                for name in (self.student, *(wanted.model for wanted in self.teachers))
            )
            teacher = Ensemble(members) if len(members) > 1 else members[0]
            return self._seen(student, teacher)

    @cached_property
    def context(self) -> Context:
        """The same with the maps that are compared alone, as the method sees it."""
        whole = self.networks
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
        """
        epochs = self.recipe.epochs
        return max(1, -(-epochs // 4), min(EARLIEST_STOP, epochs // 2))


def available_cpus() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def make(settings: Settings) -> Plan:
    """Look up and check everything that needs no data; raises ValueError with what must hold and what came."""
    method = methods.load(settings.method)
    source = sources.source(settings.dataset, _data_root(settings), settings.image_size)
    recipe = Recipe(
        epochs=settings.epochs or source.epochs,
        batch_size=settings.batch_size,
        optimizer=settings.optimizer,
        lr=settings.lr or LEARNING_RATES[settings.optimizer],
        augment=settings.augment or source.augment,
    )
    plan = Plan(
        settings=settings,
        source=source,
        method=method,
        teachers=_teachers(settings, source),
        student=settings.student or _default_student(source, method),
        recipe=recipe,
        space=_space(settings, method),
        name=settings.name or _made_up_name(settings, source),
    )
    _check_search(plan)
    check_models(plan)
    return plan


def check_outside(plan: Plan) -> None:
    """Raise ValueError where the world is not ready: cores, GPUs, output folder, tracking server."""
    _check_machine(plan.settings)
    _check_evaluation(plan)
    _check_writable(plan.out)
    _check_tracking(plan)


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
    if plan.settings.evaluate != "none":
        losses_for(plan.source.n_classes)
    if plan.settings.evaluate == "full":
        autoattack.check(plan.source.n_classes)


def _space(settings: Settings, method: Method) -> Space:
    space = search_spaces.load(settings.space or methods.space(settings.method))
    for item in settings.set:
        name, equals, text = item.partition("=")
        if not (equals and name.strip() and text.strip()):
            raise ValueError(f"--set must be NAME=EXPR, got {item!r}")
        space[name.strip()] = search_spaces.parse(name.strip(), text)
    for name, domain in space.items():
        for value in domain.ends() if isinstance(domain, Domain) else (domain,):
            check_value(method, name, value)
    return space


def check_value(method: Method, name: str, value: Any) -> None:
    """Raise ValueError where `value` can be neither a hyperparameter of the method nor a part of the recipe."""
    if name in RECIPE_KEYS:
        check_recipe(name, value)
        return
    known = methods.hyperparameters(method)
    if name not in known:
        everything = (*known, *RECIPE_KEYS)
        raise ValueError(
            f"unknown space key {name!r}{nearest(name, everything)}; known: {', '.join(everything)}"
        )
    objective.check(method, name, value)


def _check_search(plan: Plan) -> None:
    kinds = {name: domain.word for name, domain in plan.searched.items()}
    if plan.settings.search == "grid":
        loose = [name for name, word in kinds.items() if word not in ("grid", "choice")]
        if loose or not kinds:
            got = f"{loose[0]}: {plan.searched[loose[0]]}" if loose else "nothing searched"
            raise ValueError(
                f"--search grid must have every searched dimension as grid(...), got {got}"
            )
        return
    grids = [name for name, word in kinds.items() if word == "grid"]
    if grids:
        raise ValueError(
            f"grid(...) must go with --search grid, got {grids[0]} under --search {plan.settings.search}"
        )
    for name, domain in plan.searched.items():
        default = plan.published[name]
        if default is not None and not domain.holds(default):
            raise ValueError(
                f"the published {name} must lie in its space so that it can be tried first, "
                f"got {default} outside {domain}; widen it or fix {name}"
            )


def check_models(plan: Plan) -> None:
    """Let the method look at both networks' shapes; raises ValueError where it cannot work.

    Nothing is checked yet where only the registry knows a teacher's network.
    """
    if not all(wanted.model for wanted in plan.teachers):
        return
    whole = plan.networks
    check_stages(plan.stages, whole.student, whole.teacher)
    context = plan.context
    for hyper in _corners(plan):
        reason = objective.why_not(plan.method, context, hyper)
        if reason:
            pair = f"{plan.teacher} -> {plan.student}"
            raise ValueError(
                f"{plan.settings.method} cannot distill {pair} with {settings_in_words(hyper)}: {reason}"
            )


def _corners(plan: Plan) -> list[dict[str, Any]]:
    """The published setting, and the same with each value of each searched choice."""
    base = {**objective.defaults(plan.method), **plan.published}
    return [
        base,
        *({**base, name: value} for name, d in plan.searched.items() for value in d.values),
    ]


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


def _check_tracking(plan: Plan) -> None:
    uri = plan.tracking_uri
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5) as answer:
                answer.read()
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                return  # it lives; credentials come from MLflow's own environment variables
            raise ValueError(
                f"--tracking-uri must be an MLflow server that answers, got {redacted(uri)}: {error}"
            ) from None
        except (urllib.error.URLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise ValueError(
                f"--tracking-uri must be a server that can be reached, got {redacted(uri)}: {reason}"
            ) from None
    elif parts.scheme == "sqlite":
        path = uri.removeprefix("sqlite:///")
        if not path.startswith("/"):
            raise ValueError(
                f"--tracking-uri must be absolute, as in sqlite:////folder/mlflow.db, got {uri}"
            )
        if Path(path).parent != plan.out:
            _check_writable(Path(path).parent)
    elif parts.scheme.partition("+")[0] in DATABASES:
        return  # the mirror connects, and says so where it cannot
    else:
        raise ValueError(
            f"--tracking-uri must be sqlite:////folder/mlflow.db or http://server, got {uri}: MLflow has given up "
            "folders of files (mlflow migrate-filestore moves one)"
        )


def redacted(uri: str) -> str:
    """A URI without its user and password."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc="***@" + parts.netloc.rpartition("@")[2]))
