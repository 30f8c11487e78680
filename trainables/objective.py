"""Apply a method's record: its target of the teacher, its loss of the student."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from search_spaces import nearest
from trainables.contract import Batch, Context, Method, Outputs, Phase
from trainables.methods import arguments, hyperparameters

# Inclusive ranges of the hyperparameters that several methods share; a record may narrow them.
BOUNDS: dict[str, tuple[float, float]] = {
    "temperature": (math.ulp(0.0), math.inf),
    "alpha": (0.0, math.inf),
    "beta": (0.0, math.inf),
    "lambda": (0.0, math.inf),
}


def defaults(method: Method) -> dict[str, Any]:
    """The published setting, by the user's names."""
    return {name: known.default for name, known in hyperparameters(method).items()}


def check(method: Method, name: str, value: Any) -> None:
    """Raise ValueError where `value` cannot be the hyperparameter `name` of `method`."""
    known = hyperparameters(method)
    if name not in known:
        raise ValueError(
            f"unknown hyperparameter {name!r}{nearest(name, known)}; known: {', '.join(known)}"
        )
    if value not in method.choices.get(name, (value,)):
        legal = ", ".join(map(str, method.choices[name]))
        raise ValueError(f"{name} must be one of {legal}, got {value!r}")
    default = known[name].default
    if isinstance(default, bool) and not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")
    is_count = (
        isinstance(default, int) and not isinstance(default, bool) and not known[name].is_float
    )
    if is_count and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValueError(f"{name} must be a whole number, got {value!r}")
    if known[name].is_float or is_count:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            raise ValueError(f"{name} must be a finite number, got {value!r}")
        low, high = {**BOUNDS, **method.bounds}.get(name, (-math.inf, math.inf))
        if not low <= value <= high:
            raise ValueError(f"{name} must be {_range_in_words(low, high)}, got {value!r}")


@torch.no_grad()
def look(
    student: nn.Module,
    teacher: nn.Module,
    images: Tensor,
    labels: Tensor,
    n_classes: int,
    prepared: Mapping[str, Tensor] | None = None,
) -> Context:
    """What a method may look at: both networks' outputs for a few images in [0, 1], in eval mode."""
    training = student.training
    seen = student.eval()(images), teacher.eval()(images)
    student.train(training)
    return Context(*seen, student, teacher, labels, n_classes, prepared or {})


def why_not(method: Method, context: Context, values: Mapping[str, Any]) -> str | None:
    """Why a method cannot work with two networks (the shapes are in the answer), or None."""
    student, teacher = context.student, context.teacher
    for need, ours, theirs in (
        ("features", student.features, teacher.features),
        ("preacts", student.preacts, teacher.preacts),
    ):
        if need in method.needs and not (ours and theirs):
            counts = f"{len(ours)} of the student and {len(theirs)} of the teacher"
            return f"both networks must give {need}, got {counts}"
    return method.refuse(context, **values) if method.refuse else None


def as_tensors(method: Method, values: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The hyperparameters ready for the loss: floats as 0-d tensors, the rest as they are."""
    known = hyperparameters(method)
    return {
        name: torch.tensor(float(value), device=device)
        if known[name].is_float and value is not None
        else value
        for name, value in values.items()
        if name in known
    }


def target_of(
    method: Method,
    teacher: Outputs,
    prepared: Mapping[str, Tensor] | None = None,
    values: Mapping[str, Any] | None = None,
) -> Any:
    """What the loss needs of the teacher, cut from its graph; None where it needs nothing."""
    if method.target is None:
        return None
    choices = arguments(method.target, dict(values or {}))
    seen = (teacher, prepared) if method.prepare else (teacher,)
    target = method.target(*seen, **choices)
    return tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, target)


def build_adapter(method: Method, context: Context, values: Mapping[str, Any]) -> nn.Module | None:
    """The method's own trainable part, or None."""
    if method.adapter is None:
        return None
    return method.adapter(context, **arguments(method.adapter, dict(values)))


def terms(
    method: Method | Phase,
    values: Mapping[str, Any],
    student: Outputs,
    target: Any,
    batch: Batch,
    adapter: nn.Module | None = None,
) -> tuple[dict[str, Tensor], Outputs]:
    """The loss's weighted terms by name, and the student's outputs with what the adapter added."""
    if adapter is not None:
        student = student._replace(adapted=adapter(student, target, batch))
    return method.loss(student, target, batch, **arguments(method.loss, dict(values))), student


def _range_in_words(low: float, high: float) -> str:
    if low == math.ulp(0.0):
        return "above 0"
    if high == math.inf:
        return f"{low:g} or more"
    return f"at most {high:g}" if low == -math.inf else f"from {low:g} to {high:g}"
