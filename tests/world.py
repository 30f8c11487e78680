"""A made-up teacher and student for tests of losses: outputs of the right shapes, without training anything."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trainables.contract import Batch, Context, Inputs, Method, Outputs
from trainables.methods import arguments
from trainables.objective import as_tensors, build_adapter, defaults, target_of

SIZES = (8, 8, 4, 2)  # of the stem and three stages


class Head(nn.Module):
    """Stands for a network where a method only looks at its classifier and its norms."""

    def __init__(self, channels: tuple[int, ...], n_classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(channels[-1], n_classes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in channels)


class World(NamedTuple):
    """All that one evaluation of a method's loss takes."""

    method: Method
    values: dict[str, Any]
    student: Outputs
    target: Any
    batch: Batch
    adapter: nn.Module | None
    context: Context


def outputs(
    rows: int, channels: tuple[int, ...], model: Head, seed: int, edge: str = ""
) -> Outputs:
    """Outputs with (rows, channels[i], SIZES[i], SIZES[i]) maps; `edge` makes them degenerate."""
    g = torch.Generator().manual_seed(seed)
    preacts = tuple(
        torch.randn(rows, c, s, s, generator=g) for c, s in zip(channels, SIZES, strict=True)
    )
    if edge == "constant":
        preacts = tuple(torch.ones_like(p) for p in preacts)
    if edge == "dead":
        preacts = (*preacts[:-1], -torch.ones_like(preacts[-1]))
    features = tuple(p.relu() for p in preacts)
    embedding = features[-1].mean((2, 3))
    with torch.no_grad():
        logits = model.classifier(embedding) * 3
    if edge == "huge":
        logits = torch.where(torch.rand(logits.shape, generator=g) > 0.5, 200.0, -200.0)
    if edge == "constant":
        logits = torch.ones_like(logits)
    gradient = torch.randn(rows, 1, 8, 8, generator=g)
    return Outputs(logits, embedding, features, preacts, gradient)


def world(
    method: Method, *, samples: int = 6, classes: int = 5, edge: str = "", **given: Any
) -> World:
    """A float64 world for `method` at its published setting, changed by `given`; seeded."""
    values = {
        **defaults(method),
        **{name.removesuffix("_"): value for name, value in given.items()},
    }
    inputs: Inputs = (
        method.inputs(**arguments(method.inputs, values)) if method.inputs else Inputs()
    )
    wide = (4, 4, 8, 16) if "equal_channels" in method.needs else (6, 6, 12, 24)
    torch.manual_seed(0)
    student_model, teacher_model = Head((4, 4, 8, 16), classes), Head(wide, classes)
    rows = samples * inputs.blocks
    student = outputs(samples if inputs.mix else rows, (4, 4, 8, 16), student_model, 1, edge)
    teacher = outputs(samples if inputs.teacher_sees_mix else rows, wide, teacher_model, 2, edge)
    labels = (
        torch.arange(samples) % classes
        if edge != "one_class"
        else torch.zeros(samples, dtype=torch.long)
    )
    weights = torch.full((inputs.blocks,), 1 / inputs.blocks) if inputs.mix else None
    batch = Batch(
        images=torch.rand(student.logits.shape[0], 1, 8, 8),
        labels=labels.repeat(inputs.blocks),
        indices=torch.arange(rows),
        epoch=torch.tensor(3.0),
        progress=torch.tensor(0.5),
        weights=weights,
        generator=torch.Generator().manual_seed(3),
    )
    all_labels = torch.arange(max(40, rows)) % classes
    context = Context(student, teacher, student_model, teacher_model.eval(), all_labels, classes)
    if method.prepare:
        maps = [outputs(8, wide, teacher_model, 10 + i) for i in range(4)]
        context = Context(**{**vars(context), "prepared": method.prepare(context, iter(maps))})
    adapter = build_adapter(method, context, values)
    target = target_of(method, teacher, context.prepared, values)
    values = as_tensors(method, values, torch.device("cpu"))
    made = _double(
        World(method, values, student, target, batch, adapter and adapter.double(), context)
    )
    if hasattr(adapter, "after_step"):  # constants that the first batch sets are set
        adapter.after_step(adapter(made.student, made.target, made.batch), made.batch)
    return made


def _double(made: World) -> World:
    def convert(x: Any) -> Any:
        return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x

    from torch.utils._pytree import tree_map

    return made._replace(
        values={name: convert(value) for name, value in made.values.items()},
        student=tree_map(convert, made.student),
        target=tree_map(convert, made.target),
        batch=Batch(*(convert(x) for x in made.batch)),
    )
