"""One student's training: an epoch as a story, and a state that resumes exactly.

Every draw comes from (seed, purpose, epoch), so a run restored after epoch k goes on as if it had never stopped.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from trainables import objective
from trainables.contract import Batch, Context, Inputs, Method, Outputs
from trainables.data.feed import Feed, Shown
from trainables.data.splits import Split
from trainables.data.views import to_float
from trainables.methods import arguments
from trainables.optimizers import Optimizer
from trainables.parallel import ALONE, Ranks
from trainables.precision import PLAIN, Precision
from trainables.recipe import Recipe, learning_rate, make_optimizer
from trainables.seeding import generator, seeded


class Recall(Protocol):
    """Brings the coming epoch's targets to a training, or None where the teacher must answer itself."""

    found: bool  # whether the last ones had been made before
    live: bool  # whether there were none

    def __call__(self, training: Training) -> Entry | None:
        """The targets of the epoch after `training.epoch`."""


Teach = Callable[..., Any]  # (images, labels, settings, ranks that share the work) -> target


class Form(NamedTuple):
    """How a target falls apart into tensors, and comes together again; it may hold None."""

    spec: TreeSpec
    is_tensor: tuple[bool, ...]

    @classmethod
    def of(cls, target: Any) -> Form:
        """The form of a target."""
        leaves, spec = tree_flatten(target)
        return cls(spec, tuple(isinstance(leaf, Tensor) for leaf in leaves))

    def joined(self, tensors: Iterable[Tensor]) -> Any:
        """The target that falls apart into these."""
        rest = iter(tensors)
        return tree_unflatten(
            [next(rest) if there else None for there in self.is_tensor], self.spec
        )


@dataclass(frozen=True)
class Entry:
    """One epoch's targets, known before it begins: a leaf is (steps, ...), or (images, ...) where `by_image`."""

    leaves: tuple[Tensor, ...]
    form: Form
    by_image: bool

    def __call__(self, step: int, indices: Tensor) -> Any:
        """The target of one step, whose images are `indices`."""
        rows: Any = indices if self.by_image else step
        return self.form.joined(leaf[rows] for leaf in self.leaves)


@dataclass(frozen=True)
class Divergence:
    """Where a student's loss stopped being a number."""

    epoch: int  # counted from 1
    term: str  # the first to go; "weights" where the loss was finite and the validation outputs were not


class Training:
    """A student on its way: weights, adapter, optimiser, and the number of epochs behind it.

    `teach(images, labels, settings, ranks)` gives the teacher's target for a batch of views, or is None for methods
    without a teacher; `recall(training)` gives the coming epoch's targets where they are kept; `context(student)` is
    what a method may look at while it builds its adapter. Each of several `ranks` has such a training, in step.
    """

    def __init__(
        self,
        method: Method,
        values: Mapping[str, Any],
        recipe: Recipe,
        seed: int,
        build: Callable[[], nn.Module],
        data: Split,
        teach: Teach | None = None,
        context: Callable[[nn.Module], Context] | None = None,
        device: torch.device | str = "cpu",
        recall: Recall | None = None,
        precision: Precision = PLAIN,
        ranks: Ranks = ALONE,
    ) -> None:
        self.method, self.recipe, self.seed, self.data = method, recipe, seed, data
        self.teach, self.recall, self.precision, self.ranks = teach, recall, precision, ranks
        self.device = torch.device(device)
        self.settings = {**objective.defaults(method), **values}
        with seeded(seed, "student"):
            self.student = precision.arranged(build().to(self.device))
        ranks.synchronise(self.student)
        self.adapter: nn.Module | None = None
        if method.adapter is not None and context is not None:
            with seeded(seed, "adapter"):
                made = objective.build_adapter(method, context(self.student), self.settings)
            self.adapter = made.to(self.device) if made is not None else None
        self.values = objective.as_tensors(method, self.settings, self.device)
        self.inputs: Inputs = method.inputs(**arguments(method.inputs, self.settings))
        self.first_epochs = first_epochs(method, self.settings, recipe.epochs)
        self.epoch = 0
        self.teacher_seconds = 0.0  # of the last epoch: computing, waiting for or reading targets
        self.optimizer = self._fresh_optimizer()

    @property
    def deployed(self) -> nn.Module:
        """The network that is judged and exported: the student, or what the method makes of it."""
        if self.method.deploy is not None and self.adapter is not None:
            return self.method.deploy(self.student, self.adapter)
        return self.student

    def train_epoch(self) -> tuple[dict[str, float], Divergence | None]:
        """Train the next epoch; the mean of each term by name, and where the loss diverged, if it did."""
        if self.epoch == self.first_epochs and self.epoch > 0:
            self.optimizer = self._fresh_optimizer()
        started = time.perf_counter()
        known = self.recall(self) if self.recall else None
        known = known if self.ranks.all(known is not None, self.device) else None
        self.teacher_seconds = time.perf_counter() - started
        self.ranks.same_start(self.student, self.adapter)
        self.student.train()
        history: list[Tensor] = []
        kept: list[Tensor] = []
        names: list[str] = []
        rank = self.ranks.number  # whose rows are others', and so are its draws
        with seeded(self.seed, f"dropout of rank {rank}" if rank else "dropout", self.epoch):
            for step, (batch, singles) in enumerate(self._batches()):
                target = known(step, batch.indices) if known else self._live_target(batch, singles)
                terms, used = self._step(batch, target)
                names = list(terms)
                history += [value.detach() for value in terms.values()]
                kept += [used] if used is not None else []
        self.epoch += 1
        values = torch.stack(history).view(-1, len(names))
        means = {f"train/{name}": float(v) for name, v in zip(names, values.mean(0), strict=True)}
        means["train/loss"] = float(values.sum(1).mean())
        if kept:
            means["train/samples_used"] = float(torch.stack(kept).mean())
        return means, first_divergence(values, names, self.epoch)

    def _batches(self) -> Iterator[tuple[Batch, Tensor]]:
        """The epoch's batches and, where the student sees mixtures, the single images; sets each step's rate."""
        in_first = self.epoch < self.first_epochs
        start, end = (0, self.first_epochs) if in_first else (self.first_epochs, self.recipe.epochs)
        feed = self.feed(self.epoch)
        draws = generator(self.seed, "negatives", self.epoch, self.device)
        done = [
            (self.epoch - start + step / feed.n_steps) / (end - start)
            for step in range(feed.n_steps)
        ]
        spread = self.recipe.label_smoothing
        smoothing = torch.tensor(spread, device=self.device) if spread else None
        half_a_step = 0.5 / (feed.n_steps * (end - start))  # so that the first rate is not 0
        epoch = torch.tensor(float(self.epoch - start), device=self.device)
        shares = torch.tensor(done, device=self.device)
        for step, progress in enumerate(done):
            self.optimizer.lr = learning_rate(self.recipe, progress + half_a_step)
            shown = feed(step)
            batch = Batch(
                images=shown.images.to(self.device),
                labels=shown.labels.to(self.device),
                indices=shown.indices.to(self.device),
                epoch=epoch,
                progress=shares[step],
                weights=None if shown.weights is None else shown.weights.to(self.device),
                generator=draws,
                smoothing=smoothing,
            )
            yield batch, batch.images if shown.singles is None else shown.singles.to(self.device)

    def feed(self, epoch: int) -> Feed:
        """What the steps of an epoch show."""
        return Feed(self.data, self.inputs, self.recipe, self.seed, epoch)

    def targets(self, shown: Shown) -> Any:
        """What the teacher says of one step's views."""
        assert self.teach is not None
        singles = None if self.inputs.teacher_sees_mix else shown.singles
        images = shown.images if singles is None else singles
        return self.teach(
            images.to(self.device), shown.labels.to(self.device), self.settings, ALONE
        )

    def _live_target(self, batch: Batch, singles: Tensor) -> Any:
        if self.teach is None:
            return None
        started = time.perf_counter()
        seen = batch.images if self.inputs.teacher_sees_mix else singles
        target = self.teach(seen, batch.labels, self.settings, self.ranks)
        self.teacher_seconds += time.perf_counter() - started
        return target

    def _step(self, batch: Batch, target: Any) -> tuple[dict[str, Tensor], Tensor | None]:
        """Show one batch to the student, and take one step; the terms, and the share of samples used."""
        student = self._student_outputs(batch)
        in_first = self.epoch < self.first_epochs
        part = self.method.first_phase if in_first and self.method.first_phase else self.method
        terms, student = objective.terms(part, self.values, student, target, batch, self.adapter)
        used = None
        if self.method.keep is not None:
            mask = self.method.keep(
                student, target, batch, **arguments(self.method.keep, self.values)
            )
            used = mask.float().mean()
            if not mask.any():
                return terms, used
        self.optimizer.zero_grad()
        functools.reduce(torch.add, terms.values()).backward()
        self.ranks.join_gradients(self.student, self.adapter)
        self.optimizer.step()
        remember = getattr(self.adapter, "after_step", None)
        if remember is not None:
            with torch.no_grad():
                remember(student.adapted, batch)
        return terms, used

    def _student_outputs(self, batch: Batch) -> Outputs:
        """The student's outputs, in one pass or in the passes that the method's inputs ask for."""
        needs = self.method.needs
        if "input_gradient" in needs:
            say = functools.partial(with_input_gradient, self.student, create_graph=True)
            return self.ranks.shared(say, needs, batch.images, batch.labels)
        say = functools.partial(self.precision.outputs, self.student)
        if self.inputs.mix or len(self.inputs.forwards) == 1:
            return self.ranks.shared(say, needs, batch.images)
        samples = len(batch.labels) // self.inputs.blocks
        passes = batch.images.split([n * samples for n in self.inputs.forwards])
        return joined([self.ranks.shared(say, needs, images) for images in passes])

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

    def _fresh_optimizer(self) -> Optimizer:
        parts = [self.student, *([self.adapter] if self.adapter is not None else [])]
        return make_optimizer(self.recipe, [p for part in parts for p in part.parameters()])


def first_epochs(method: Method, settings: Mapping[str, Any], epochs: int) -> int:
    """Epochs of the first phase, inside the recipe's and never all of them; 0 without one."""
    phase = method.first_phase
    if phase is None:
        return 0
    share = phase.share(**arguments(phase.share, dict(settings)))
    return min(max(1, round(share * epochs)), epochs - 1) if share else 0


def joined(passes: list[Outputs]) -> Outputs:
    """Several passes' outputs as one, one after the other."""

    def cat(maps: tuple[tuple[Tensor, ...], ...]) -> tuple[Tensor, ...]:
        return tuple(torch.cat(same) for same in zip(*maps, strict=True))

    return Outputs(
        torch.cat([one.logits for one in passes]),
        torch.cat([one.embedding for one in passes]),
        cat(tuple(one.features for one in passes)),
        cat(tuple(one.preacts for one in passes)),
    )


def with_input_gradient(
    model: nn.Module, images: Tensor, labels: Tensor, *, create_graph: bool
) -> Outputs:
    """A network's outputs with d CE_i / d image_i, differentiable itself where `create_graph`."""
    with torch.enable_grad():
        seen = images.detach().requires_grad_()
        outputs: Outputs = model(seen)
        loss = nn.functional.cross_entropy(outputs.logits, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, seen, create_graph=create_graph)
    return outputs._replace(input_gradient=gradient)


def first_divergence(values: Tensor, names: list[str], epoch: int) -> Divergence | None:
    """The first term of (steps, terms) that is not finite; ties go to the earlier-named one."""
    bad = ~torch.isfinite(values)
    if not bad.any():
        return None
    step = int(bad.any(1).int().argmax())
    return Divergence(epoch, names[int(bad[step].int().argmax())])


@torch.inference_mode()
def validate(
    model: nn.Module,
    data: Split,
    device: torch.device | str = "cpu",
    precision: Precision = PLAIN,
    batch_size: int = 1000,
) -> dict[str, float]:
    """`accuracy` and `loss` (CE) over a whole split, in eval mode; NaN logits count as wrong."""
    model.eval()
    right, loss = 0, 0.0
    for images, some in zip(
        data.images.split(batch_size), data.labels.split(batch_size), strict=True
    ):
        logits = precision.outputs(model, to_float(images.to(device))).logits.float()
        labels = some.to(device)
        finite = torch.isfinite(logits).all(-1)
        right += int(((logits.argmax(-1) == labels) & finite).sum())
        loss += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
    return {"accuracy": right / len(data.labels), "loss": loss / len(data.labels)}
