"""What the parts of a distillation hand to each other: outputs, targets, batches, and a method's record.

Images are (B, channels, H, W); axis letters everywhere: B batch, C classes, D embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

POSITIVE = (math.ulp(0.0), math.inf)  # ranges for `bounds`, inclusive
NON_NEGATIVE = (0.0, math.inf)
SHARE = (0.0, 1.0)
AT_LEAST_1 = (1.0, math.inf)

Scalar: TypeAlias = Tensor | float  # a float hyperparameter: arrives as a 0-d tensor, may be mapped


class Outputs(NamedTuple):
    """What a network says about a batch."""

    logits: Tensor  # (B, C)
    embedding: Tensor  # (B, D), the classifier's input
    features: tuple[
        Tensor, ...
    ] = ()  # stem, then one map a stage, after activation: (B, C_l, H_l, W_l)
    preacts: tuple[Tensor, ...] = ()  # the same maps before their activation
    input_gradient: Tensor | None = (
        None  # (B, channels, H, W), d CE_i / d image_i, for records that ask
    )
    adapted: Any = None  # what the method's adapter made of these outputs and the target


class Logits(NamedTuple):
    """The default target: all that a soft-label method needs of the teacher."""

    logits: Tensor  # (B, C)


class Embedded(NamedTuple):
    """The target of methods that compare embeddings."""

    logits: Tensor  # (B, C)
    embedding: Tensor  # (B, D_t)


class Batch(NamedTuple):
    """One step's images and what is known about them.

    Methods whose `inputs` take several images a sample see them as blocks: `labels` and
    `indices` (and the target's rows) are blocks * B long, block after block.
    """

    images: Tensor  # (B, channels, H, W), what the student saw, normalised
    labels: Tensor  # (B,) int64
    indices: Tensor  # (B,) int64, position in the training split
    epoch: Tensor  # 0-d float, epochs of this phase finished before this one
    progress: Tensor  # 0-d float, share of this phase's steps already done, in [0, 1)
    weights: Tensor | None = None  # (blocks,), sums to 1, where the blocks are mixed into one image
    generator: torch.Generator | None = None  # for adapters that draw (negatives)
    smoothing: Scalar | None = None  # of the labels in the hard-label term; None is 0


class Inputs(NamedTuple):
    """What one step shows the student; most methods show one image a sample."""

    blocks: int = 1  # images a sample
    forwards: tuple[int, ...] = (
        1,
    )  # blocks in each pass of the student; BatchNorm sees a pass alone
    mix: bool = False  # the student sees one convex combination of the blocks
    concentration: float = 1.0  # of the Beta distribution that the mixing weights come from
    teacher_sees_mix: bool = False  # else the teacher sees the single images
    strong: tuple[bool, ...] = (False,)  # which blocks are strongly augmented views of the first


class Phase(NamedTuple):
    """Epochs before the main ones, with a loss of their own; reported as such, never ranked."""

    loss: Callable[..., dict[str, Tensor]]
    share: Callable[..., float]  # of all epochs, from the hyperparameters; 0 means none


@dataclass(frozen=True)
class Context:
    """What a method may look at while it builds its adapter, prepares, or refuses."""

    student: Outputs  # of a few images: the shapes
    teacher: Outputs
    student_model: nn.Module
    teacher_model: nn.Module  # frozen, in eval mode
    labels: Tensor  # (N,) of the training split
    n_classes: int
    prepared: Mapping[str, Tensor] = field(default_factory=dict)


def logits_target(teacher: Outputs) -> Logits:
    """The teacher's logits."""
    return Logits(teacher.logits)


def embedding_target(teacher: Outputs) -> Embedded:
    """The teacher's logits and embedding."""
    return Embedded(teacher.logits, teacher.embedding)


def single(**_: Any) -> Inputs:
    """One image a sample."""
    return Inputs()


@dataclass(frozen=True, kw_only=True)
class Method:
    """A distillation method: one loss and what it needs around it.

    The keyword-only arguments of `loss`, `adapter`, `inputs` and `first_phase` are the hyperparameters;
    their defaults are the published ones. Arguments annotated `Scalar` are floats (0-d tensors, may be
    mapped with torch.func.vmap); the others are Python values.
    """

    paper: str  # "arXiv:1503.02531"
    loss: Callable[
        ..., dict[str, Tensor]
    ]  # (student, target, batch, *, ...) -> weighted terms by name
    # (teacher) or, after prepare, (teacher, prepared); None where no teacher is looked at. Its keyword-only
    # arguments, if any, are choices among the hyperparameters that decide what is kept (never floats).
    target: Callable[..., Any] | None = logits_target
    smooths: bool = False  # whether its hard-label term reads batch.smoothing
    needs: frozenset[str] = frozenset()  # of NEEDS
    # (context, *, ...) -> a module whose forward(student, target, batch) becomes `student.adapted`; trained and
    # checkpointed with the student. What it remembers (banks) changes only in its after_step(adapted, batch), if any.
    adapter: Callable[..., nn.Module | None] | None = None  # None back: nothing to train this time
    # (context, iterator of teacher Outputs on training images) -> tensors by name; once a search, cached
    prepare: Callable[..., dict[str, Tensor]] | None = None
    prepare_epochs: int = 0  # passes over the training images that prepare's iterator makes
    inputs: Callable[..., Inputs] = single
    first_phase: Phase | None = None
    keep: Callable[..., Tensor] | None = (
        None  # (student, target, batch, *, ...) -> (B,) bool, samples used
    )
    deploy: Callable[[nn.Module, nn.Module], nn.Module] | None = (
        None  # (student, adapter) -> what leaves
    )
    refuse: Callable[..., str | None] | None = None  # (context, **hyper) -> why it cannot work
    bounds: Mapping[str, tuple[float, float]] = field(
        default_factory=dict
    )  # beside BOUNDS, inclusive
    choices: Mapping[str, tuple[Any, ...]] = field(
        default_factory=dict
    )  # hyperparameter -> its legal values
    exceptions: Mapping[str, str] = field(
        default_factory=dict
    )  # shared test -> why it cannot hold here

    def __post_init__(self) -> None:
        """Raise ValueError for a need that nobody can meet."""
        unknown = self.needs - NEEDS
        if unknown:
            raise ValueError(f"needs must be among {sorted(NEEDS)}, got {sorted(unknown)}")


NEEDS = frozenset(
    {
        "features",  # stage maps
        "preacts",  # stage maps before activation
        "equal_channels",  # student and teacher stages have the same channels
        "input_gradient",  # d CE / d image of both networks
        "teacher",  # the target is used up at once and never cached: too large, or not a function of the view
        "batch",  # compares the samples of a batch with each other
    }
)
