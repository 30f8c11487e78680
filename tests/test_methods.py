"""The shared battery: every method, at its published setting and in its first phase, held to the same rules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from tests.world import World, world
from trainables.contract import Outputs
from trainables.methods import arguments, load, names
from trainables.objective import terms

EDGES = ("one_sample", "one_class", "two_classes", "constant", "huge", "dead")


def parts(name: str) -> list[Any]:
    """The method's losses: of the main phase and, where there is one, of the first."""
    method = load(name)
    return [method, method.first_phase] if method.first_phase else [method]


def excused(name: str, rule: str) -> None:
    if rule in load(name).exceptions:
        pytest.skip(f"{name}: {load(name).exceptions[rule]}")


def total(made: World, student: Outputs, part: Any) -> Tensor:
    if made.batch.generator is not None:
        made.batch.generator.manual_seed(3)
    return sum(terms(part, made.values, student, made.target, made.batch, made.adapter)[0].values())  # type: ignore


def leaves(student: Outputs) -> tuple[list[Tensor], Any]:
    """Preactivations, embedding, logits and input gradient as leaves; features follow the preactivations."""
    free = (student.preacts, student.embedding, student.logits, student.input_gradient)
    flat, shape = tree_flatten(free)
    return [x.clone().requires_grad_() for x in flat], shape


def rebuilt(flat: list[Tensor], shape: Any) -> Outputs:
    preacts, embedding, logits, gradient = tree_unflatten(flat, shape)
    return Outputs(logits, embedding, tuple(p.relu() for p in preacts), preacts, gradient)


@pytest.fixture(params=names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_terms_are_finite_scalars(name: str) -> None:
    made = world(load(name))
    for part in parts(name):
        for term, value in terms(
            part, made.values, made.student, made.target, made.batch, made.adapter
        )[0].items():
            assert value.shape == (), term
            assert torch.isfinite(value), term


def test_gradient_against_finite_differences(name: str) -> None:
    """Oracle: (f(x + h v) - f(x - h v)) / 2h in float64, three random directions v."""
    excused(name, "gradient")
    made = world(load(name))
    flat, shape = leaves(made.student)
    for part in parts(name):
        gradients = torch.autograd.grad(
            total(made, rebuilt(flat, shape), part), flat, allow_unused=True
        )
        for seed in range(3):
            g = torch.Generator().manual_seed(seed)
            v = [torch.randn(x.shape, generator=g, dtype=x.dtype) for x in flat]
            h = 1e-6
            up, down = (
                total(
                    made,
                    rebuilt([x.detach() + s * h * d for x, d in zip(flat, v, strict=True)], shape),
                    part,
                )
                for s in (1, -1)
            )
            slope = sum(
                (gr * d).sum() for gr, d in zip(gradients, v, strict=True) if gr is not None
            )
            torch.testing.assert_close(slope, (up - down) / (2 * h), rtol=1e-4, atol=1e-6)


def test_no_gradient_reaches_the_teacher(name: str) -> None:
    method = load(name)
    made = world(method)
    wide = tree_map(
        lambda x: x.double().requires_grad_() if isinstance(x, Tensor) else x, made.context.teacher
    )
    from trainables.objective import target_of

    target = target_of(method, wide, made.context.prepared)
    for part in parts(name):
        student = tree_map(
            lambda x: x.clone().requires_grad_() if isinstance(x, Tensor) else x, made.student
        )
        loss = sum(terms(part, made.values, student, target, made.batch, made.adapter)[0].values())
        if loss.requires_grad:  # type: ignore[union-attr]
            loss.backward()  # type: ignore[union-attr]
    assert all(x.grad is None for x in tree_flatten(wide)[0] if isinstance(x, Tensor))
    assert all(p.grad is None for p in made.context.teacher_model.parameters())


def test_mapped_over_three_configurations_equals_one_at_a_time(name: str) -> None:
    excused(name, "vmap")
    made = world(load(name))
    for part in parts(name):
        student = made.student
        if made.adapter is not None:
            student = student._replace(adapted=made.adapter(student, made.target, made.batch))
        scales = torch.tensor([0.5, 1.0, 0.9], dtype=torch.float64)
        values = arguments(part.loss, made.values)
        floats = {k: v * scales for k, v in values.items() if isinstance(v, Tensor)}
        fixed = {k: v for k, v in values.items() if not isinstance(v, Tensor)}
        students = tree_map(
            lambda x: torch.stack([x, x * 1.1, x * 0.7]) if isinstance(x, Tensor) else x, student
        )
        dims = tree_map(lambda x: 0 if isinstance(x, Tensor) else None, students)

        def one(
            student: Outputs, floats: dict[str, Tensor], part=part, fixed=fixed
        ) -> dict[str, Tensor]:
            return part.loss(student, made.target, made.batch, **floats, **fixed)

        mapped = torch.func.vmap(one, in_dims=(dims, 0))(students, floats)
        for i in range(3):
            this = tree_map(lambda x, i=i: x[i] if isinstance(x, Tensor) else x, students)
            alone = one(this, {k: v[i] for k, v in floats.items()})
            for term, value in alone.items():
                torch.testing.assert_close(mapped[term][i], value)


def test_order_of_the_batch_does_not_matter(name: str) -> None:
    excused(name, "order")
    made = world(load(name))
    samples = 6
    order = torch.tensor([3, 0, 5, 1, 4, 2])

    def permuted(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.ndim == 0 or x.shape[0] % samples:
            return x
        return torch.cat([block[order] for block in x.split(samples)])

    student = tree_map(permuted, made.student)
    batch = made.batch._replace(
        images=permuted(made.batch.images),
        labels=permuted(made.batch.labels),
        indices=permuted(made.batch.indices),
    )
    for part in parts(name):
        here = total(made, made.student, part)
        there = total(
            made._replace(target=tree_map(permuted, made.target), batch=batch), student, part
        )
        torch.testing.assert_close(here, there)


@pytest.mark.parametrize("edge", EDGES)
def test_degenerate_batches_stay_finite(name: str, edge: str) -> None:
    """Values and gradients; a loss that cannot be defined there says so with a ValueError."""
    excused(name, edge)
    sizes = {"one_sample": {"samples": 1}, "two_classes": {"classes": 2}}
    made = world(load(name), edge=edge, **sizes.get(edge, {}))  # type: ignore[arg-type]
    flat, shape = leaves(made.student)
    for part in parts(name):
        value = total(made, rebuilt(flat, shape), part)
        assert torch.isfinite(value)
        if value.requires_grad:
            for gradient in torch.autograd.grad(value, flat, allow_unused=True):
                assert gradient is None or torch.isfinite(gradient).all()
