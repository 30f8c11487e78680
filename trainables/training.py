"""One student's training: a recipe, an epoch as a story, and a state that resumes exactly.

Every draw comes from (seed, purpose, epoch), so a run restored after epoch k goes on as if it had never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from trainables import objective
from trainables.contract import Batch, Context, Method
from trainables.data.splits import Split
from trainables.data.views import Views, to_float
from trainables.methods import arguments
from trainables.seeding import generator, seeded

OPTIMIZERS = ("sgd", "adam", "adamw")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained, whatever its loss."""

    epochs: int = 16
    batch_size: int = 64
    optimizer: str = "sgd"  # of OPTIMIZERS; sgd is with Nesterov momentum
    lr: float = 0.1  # the peak
    momentum: float = 0.9  # of sgd
    weight_decay: float = 5e-4
    warmup_fraction: float = 0.1  # of all steps, linear; then a half cosine to 0
    augment: str = "none"

    def changed(self, values: Mapping[str, Any]) -> Recipe:
        """This recipe with those of `values` that name its parts."""
        known = {part.name for part in fields(self)}
        return replace(self, **{name: value for name, value in values.items() if name in known})


RECIPE_KEYS = tuple(part.name for part in fields(Recipe))
POSITIVE = ("epochs", "batch_size", "lr")


def check_recipe(name: str, value: Any) -> None:
    """Raise ValueError where `value` cannot be the part `name` of a recipe."""
    if name == "optimizer":
        if value not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {value!r}")
        return
    if name == "augment":
        return
    whole = name in ("epochs", "batch_size")
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or (whole and value != int(value))
    ):
        raise ValueError(f"{name} must be a {'whole ' if whole else ''}number, got {value!r}")
    if not math.isfinite(value) or value < 0 or (name in POSITIVE and value == 0):
        raise ValueError(
            f"{name} must be {'above 0' if name in POSITIVE else '0 or more'}, got {value!r}"
        )
    if name in ("momentum", "warmup_fraction") and value >= 1:
        raise ValueError(f"{name} must be below 1, got {value!r}")


def learning_rate(recipe: Recipe, progress: float) -> float:
    """The step's rate: linear warm-up, then a half cosine down to 0 at progress 1."""
    if progress < recipe.warmup_fraction:
        return recipe.lr * progress / recipe.warmup_fraction
    share = (progress - recipe.warmup_fraction) / (1 - recipe.warmup_fraction)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * share))


def make_optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The recipe's optimiser, fused; its learning rate is set before every step."""
    common: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "fused": True}
    if recipe.optimizer == "sgd":
        nesterov = recipe.momentum > 0
        return torch.optim.SGD(parameters, momentum=recipe.momentum, nesterov=nesterov, **common)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, **common)


@dataclass(frozen=True)
class Divergence:
    """Where a student's loss stopped being a number."""

    epoch: int  # counted from 1
    term: str  # the first to go; "weights" where the loss was finite and the validation outputs were not


class Training:
    """A student on its way: weights, adapter, optimiser, and the number of epochs behind it.

    `teach(images)` gives the teacher's target for a batch of views, or None for methods without a teacher.
    """

    def __init__(
        self,
        method: Method,
        values: Mapping[str, Any],
        recipe: Recipe,
        seed: int,
        build: Callable[[], nn.Module],
        data: Split,
        teach: Callable[[Tensor], Any] | None = None,
        context: Callable[[nn.Module], Context] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.method, self.recipe, self.seed, self.data, self.teach = (
            method,
            recipe,
            seed,
            data,
            teach,
        )
        self.device = torch.device(device)
        settings = {**objective.defaults(method), **values}
        with seeded(seed, "student"):
            self.student = build().to(self.device)
        self.adapter: nn.Module | None = None
        if method.adapter is not None and context is not None:
            with seeded(seed, "adapter"):
                made = objective.build_adapter(method, context(self.student), settings)
            self.adapter = made.to(self.device) if made is not None else None
        self.settings = settings
        self.values = objective.as_tensors(method, settings, self.device)
        self.batch_size = min(recipe.batch_size, len(data.labels))
        self.n_steps = len(data.labels) // self.batch_size  # the ragged last batch is dropped
        self.epoch = 0
        self.optimizer = self._fresh_optimizer()

    @property
    def first_epochs(self) -> int:
        """Epochs of the first phase, inside the recipe's; 0 without one."""
        phase = self.method.first_phase
        if phase is None:
            return 0
        share = phase.share(**arguments(phase.share, self.settings))
        return (
            min(max(1, round(share * self.recipe.epochs)), self.recipe.epochs - 1) if share else 0
        )

    @property
    def deployed(self) -> nn.Module:
        """The network that is judged and exported: the student, or what the method makes of it."""
        if self.method.deploy is not None and self.adapter is not None:
            return self.method.deploy(self.student, self.adapter)
        return self.student

    def train_epoch(self) -> tuple[dict[str, float], Divergence | None]:
        """Train the next epoch; the mean of each term by name, and where the loss diverged, if it did."""
        in_first = self.epoch < self.first_epochs
        if self.epoch == self.first_epochs and self.epoch > 0:
            self.optimizer = self._fresh_optimizer()
        views = Views(
            self.recipe.augment,
            len(self.data.labels),
            self.data.images.shape[-1],
            self.seed,
            self.epoch,
        )
        order = torch.randperm(
            len(self.data.labels), generator=generator(self.seed, "order", self.epoch)
        )
        self.student.train()
        history: list[Tensor] = []
        names: list[str] = []
        with seeded(self.seed, "dropout", self.epoch):
            for step in range(self.n_steps):
                rows = order[step * self.batch_size : (step + 1) * self.batch_size]
                terms = self._step(views, rows, step, in_first)
                names = list(terms)
                history.append(torch.stack([value.detach() for value in terms.values()]))
        self.epoch += 1
        values = torch.stack(history)
        means = {f"train/{name}": float(v) for name, v in zip(names, values.mean(0), strict=True)}
        means["train/loss"] = float(values.sum(1).mean())
        return means, first_divergence(values, names, self.epoch)

    def _step(self, views: Views, rows: Tensor, step: int, in_first: bool) -> dict[str, Tensor]:
        """Show one batch to teacher and student, and take one step."""
        start, end = (0, self.first_epochs) if in_first else (self.first_epochs, self.recipe.epochs)
        progress = (self.epoch - start + step / self.n_steps) / (end - start)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                self.recipe, progress + 1 / (2 * self.n_steps * (end - start))
            )
        images = views(self.data.images[rows], rows).to(self.device)
        batch = Batch(
            images=images,
            labels=self.data.labels[rows].to(self.device),
            indices=rows.to(self.device),
            epoch=torch.tensor(float(self.epoch - start)),
            progress=torch.tensor(progress),
        )
        target = self.teach(images) if self.teach else None
        part = self.method.first_phase if in_first and self.method.first_phase else self.method
        terms, _ = objective.terms(
            part, self.values, self.student(images), target, batch, self.adapter
        )
        self.optimizer.zero_grad()
        sum(terms.values(), torch.zeros((), device=self.device)).backward()
        self.optimizer.step()
        return terms

    def state(self) -> dict[str, Any]:
        """Everything that the next epoch depends on, as tensors and plain values."""
        return {
            "epoch": self.epoch,
            "student": self.student.state_dict(),
            "adapter": self.adapter.state_dict() if self.adapter else {},
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, exactly."""
        self.epoch = int(state["epoch"])
        self.student.load_state_dict(state["student"])
        if self.adapter is not None:
            self.adapter.load_state_dict(state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _fresh_optimizer(self) -> torch.optim.Optimizer:
        parts = [self.student, *([self.adapter] if self.adapter is not None else [])]
        return make_optimizer(self.recipe, [p for part in parts for p in part.parameters()])


def first_divergence(values: Tensor, names: list[str], epoch: int) -> Divergence | None:
    """The first term of (steps, terms) that is not finite; ties go to the earlier-named one."""
    bad = ~torch.isfinite(values)
    if not bad.any():
        return None
    step = int(bad.any(1).int().argmax())
    return Divergence(epoch, names[int(bad[step].int().argmax())])


@torch.inference_mode()
def validate(model: nn.Module, data: Split, device: torch.device | str = "cpu") -> dict[str, float]:
    """`accuracy` and `loss` (CE) over a whole split, in eval mode; NaN logits count as wrong."""
    model.eval()
    right, loss = 0, 0.0
    for images, some_labels in batches(data):
        logits = model(to_float(images).to(device)).logits.float()
        labels = some_labels.to(device)
        finite = torch.isfinite(logits).all(-1)
        right += int(((logits.argmax(-1) == labels) & finite).sum())
        loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
    return {"accuracy": right / len(data.labels), "loss": loss / len(data.labels)}


def batches(data: Split, size: int = 1000) -> Any:
    """(images, labels) in order, `size` at a time."""
    return zip(data.images.split(size), data.labels.split(size), strict=True)
