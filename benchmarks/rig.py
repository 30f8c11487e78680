"""One method in a training step, on made-up images: what its own part, its passes and its teacher cost.

The networks are resnet32x4 and resnet8x4: their stages have equal channels, so every method can run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from trainables import methods, models, objective
from trainables.contract import Context, Inputs, Outputs
from trainables.data.feed import Feed
from trainables.data.splits import Split
from trainables.recipe import Recipe, make_optimizer
from trainables.training import Training, with_input_gradient

TEACHER, STUDENT = "resnet32x4", "resnet8x4"
N_IMAGES, N_CLASSES, SIZE = 512, 100, 32
RECIPE = Recipe(epochs=20, batch_size=64, lr=1e-4)  # a rate at which nothing diverges


@dataclass(frozen=True)
class Case:
    """A method under one setting, in one of its phases."""

    name: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    n_labels: int = N_IMAGES  # of the training split, as the method's adapter sees it
    first_phase: bool = False


class World:
    """Images, labels and the two networks; outputs that several cases need are computed once."""

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (N_IMAGES, 3, SIZE, SIZE), dtype=torch.uint8, generator=g)
        self.data = Split(images, torch.randint(0, N_CLASSES, (N_IMAGES,), generator=g))
        self.generator = g
        torch.manual_seed(0)
        self.teacher = settled(build(TEACHER), images[:128].float() / 255).requires_grad_(False)
        self.cache: dict[Any, Outputs] = {}

    def labels(self, count: int) -> Tensor:
        """`count` labels, the first of them those of the images."""
        more = torch.randint(0, N_CLASSES, (count - N_IMAGES,), generator=self.generator)
        return torch.cat([self.data.labels, more])

    def once(self, key: Any, make: Callable[[], Outputs]) -> Outputs:
        """Outputs of a network, kept; no graph hangs on them."""
        if key not in self.cache:
            self.cache[key] = tree_map(detached, make())
        return self.cache[key]


class Rig:
    """A case, ready to have its parts run one at a time."""

    def __init__(self, case: Case, world: World) -> None:
        self.case, self.world, self.method = case, world, methods.load(case.method)
        self.prepared = self._prepared()
        teach = self._target if self.method.target is not None else None
        self.run = Training(
            self.method, case.settings, RECIPE, 0, student, world.data, teach, self._context
        )
        inputs: Inputs = self.run.inputs
        self.feed = Feed(world.data, inputs, RECIPE, 0, 0)
        batch, clean = next(iter(self.run._batches()))
        self.batch = batch._replace(progress=torch.tensor(0.5))  # past every warm-up
        self.seen = batch.images if inputs.teacher_sees_mix else clean
        self.run.epoch = 0 if case.first_phase else self.run.first_epochs
        gradient = "input_gradient" in self.method.needs
        self.more_passes = gradient or len(inputs.forwards) > 1
        key = (inputs, gradient)
        self.taught = world.once(("teacher", key), self.teacher_pass) if teach else None
        self.outputs = world.once(("student", key), lambda: self.run._student_outputs(batch))
        adapter = self.run.adapter
        own = [p for p in adapter.parameters() if p.requires_grad] if adapter is not None else []
        self.own_optimizer = make_optimizer(RECIPE, own) if own else None

    def whole_step(self) -> None:
        """A training step with the teacher's outputs at hand."""
        self.run.student.train()
        self.run._step(self.batch, self.seen)

    def own_part(self) -> None:
        """Target, adapter, loss, their way back to the student's outputs, and the adapter's update."""
        run = self.run
        student: Outputs = tree_map(leaf, self.outputs)
        target = self._target() if run.teach else None
        first = self.case.first_phase and self.method.first_phase
        part = first or self.method
        terms, student = objective.terms(part, run.values, student, target, self.batch, run.adapter)
        if self.method.keep is not None:
            wanted = methods.arguments(self.method.keep, run.values)
            self.method.keep(student, target, self.batch, **wanted)
        if self.own_optimizer is not None:
            self.own_optimizer.zero_grad()
        sum(terms.values(), torch.zeros(())).backward()
        if self.own_optimizer is not None:
            self.own_optimizer.step()
        remember = getattr(run.adapter, "after_step", None)
        if remember is not None:
            with torch.no_grad():
                remember(student.adapted, self.batch)

    def passes(self) -> None:
        """The step's images, and the student's way forth and back without any loss."""
        self.feed(0)
        outputs = self.run._student_outputs(self.batch)
        end = outputs.logits.sum()
        if outputs.input_gradient is not None:
            end = end + outputs.input_gradient.sum()
        end.backward()

    def teacher_pass(self) -> Outputs:
        """What the teacher says of the step's images."""
        if "input_gradient" in self.method.needs:
            labels = self.batch.labels
            return with_input_gradient(self.world.teacher, self.seen, labels, create_graph=False)
        with torch.no_grad():
            return self.world.teacher(self.seen)

    def kept_bytes(self) -> int:
        """What the method holds on to between steps: weights, gradients and momentum; banks and other buffers."""
        if self.run.adapter is None:
            return 0
        weights = sum(size(p) for p in self.run.adapter.parameters())
        return 3 * weights + sum(size(b) for b in self.run.adapter.buffers())

    def step_bytes(self) -> int:
        """The most that a step has allocated at a time, and the target that it is handed."""
        if self.run.teach is None:
            return peak_bytes(self.whole_step)
        target = self._target()
        self.run.teach = lambda *_: target
        try:
            return peak_bytes(self.whole_step) + sum(size(x) for x in tree_leaves(target))
        finally:
            self.run.teach = self._target

    def _target(self, *_: Any) -> Any:
        assert self.taught is not None
        return objective.target_of(self.method, self.taught, self.prepared, self.run.settings)

    def _context(self, network: nn.Module) -> Context:
        labels = self.world.labels(self.case.n_labels)
        images = self.world.data.images[:64].float() / 255
        return objective.look(network, self.world.teacher, images, labels, N_CLASSES)

    def _prepared(self) -> dict[str, Tensor]:
        """What the method prepares once a search, here from one batch."""
        if self.method.prepare is None:
            return {}
        with torch.no_grad():
            seen: Outputs = self.world.teacher(self.world.data.images[:64].float() / 255)
        return self.method.prepare(self._context(student()), iter([seen]))


def student() -> nn.Module:
    """A new student."""
    return build(STUDENT)


def build(name: str) -> nn.Module:
    """A network for the made-up images."""
    half = (0.5, 0.5, 0.5)
    return models.build(name, n_classes=N_CLASSES, channels=3, size=SIZE, mean=half, std=half)


def settled(network: nn.Module, images: Tensor) -> nn.Module:
    """An untrained network in eval mode, with the statistics of some images, so that its maps are of usual size."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(images)
    return network.eval()


def milliseconds(work: Callable[[], Any]) -> float:
    """CPU time of one run: on a busy machine it is steadier than the clock on the wall."""
    start = time.process_time()
    work()
    return 1e3 * (time.process_time() - start)


def peak_bytes(work: Callable[[], Any]) -> int:
    """The most that was allocated at a time beyond what was at the start, as torch's profiler hears its allocator."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


class Tally(TorchDispatchMode):
    """Counts operations and the bytes that they write."""

    def __init__(self) -> None:
        super().__init__()
        self.n_operations = self.n_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation; a view writes nothing."""
        out = func(*args, **(kwargs or {}))
        aliases = [r.alias_info for r in func._schema.returns]
        if all(a is None or a.is_write for a in aliases):
            self.n_operations += 1
            self.n_bytes += sum(size(x) for x in tree_leaves(out))
        return out


def arithmetic(work: Callable[[], Any]) -> tuple[float, float, int]:
    """GFLOP of products and convolutions, MB written, and operations of one run."""
    flops = FlopCounterMode(display=False)
    with flops:
        work()
    with Tally() as tally:
        work()
    return flops.get_total_flops() / 1e9, tally.n_bytes / 1e6, tally.n_operations


def size(x: Any) -> int:
    """Bytes of a tensor; 0 of anything else."""
    return x.numel() * x.element_size() if isinstance(x, Tensor) else 0


def detached(x: Any) -> Any:
    """The tensor without its graph."""
    return x.detach() if isinstance(x, Tensor) else x


def leaf(x: Any) -> Any:
    """The tensor as a leaf that takes a gradient."""
    return x.detach().requires_grad_() if isinstance(x, Tensor) else x
