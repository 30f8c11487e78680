"""Label smoothing reaches the hard-label term of every method that has one, and no other term."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.world import World, world
from trainables.methods import hyperparameters, load, names
from trainables.objective import terms
from trainables.recipe import Recipe
from tuner import plan
from tuner.settings import make
from tuner.spaces import check_value

SMOOTHS = [name for name in names() if load(name).smooths]
OWN = ("cckd_l", "cckd_t", "cckd_t_reg")  # whose own term holds the labels too


def with_hard_term(name: str) -> World:
    """The method's world with weight 1 on its hard-label term."""
    known = hyperparameters(load(name))
    return world(load(name), **({"lambda_": 1.0} if "lambda" in known else {}))


def found(made: World, smoothing: float | None) -> dict[str, Tensor]:
    given = None if smoothing is None else torch.tensor(smoothing, dtype=torch.float64)
    batch = made.batch._replace(smoothing=given)
    if batch.generator is not None:
        batch.generator.manual_seed(3)
    return terms(made.method, made.values, made.student, made.target, batch, made.adapter)[0]


def torchs(name: str, made: World, smoothing: float) -> Tensor:
    """torch's own smoothed cross-entropy of what the method's hard-label term looks at."""
    student, batch = made.student, made.batch
    logits, labels = student.logits, batch.labels
    if name == "simkd":
        assert made.adapter is not None
        logits = made.adapter(student, made.target, batch).logits
    if name == "mixup":
        assert batch.weights is not None
        blocks = F.one_hot(labels.reshape(2, -1), logits.shape[-1])
        mixed = (batch.weights.reshape(2, 1, 1) * blocks).sum(0)
        return F.cross_entropy(logits, mixed, label_smoothing=smoothing)
    each = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    if name == "cckd_t_reg":
        keep = made.method.keep
        assert keep is not None
        each = keep(student, made.target, batch) * each
    return (2 if name == "mlkd" else 1) * each.mean()  # mlkd: on both views


@pytest.mark.parametrize("name", SMOOTHS)
def test_the_hard_term_against_torchs_and_the_rest_as_before(name: str) -> None:
    """F.cross_entropy(label_smoothing=0.2) on the term `ce`; every other term bit for bit as without."""
    made = with_hard_term(name)
    plain, smoothed = found(made, None), found(made, 0.2)
    torch.testing.assert_close(smoothed["ce"], torchs(name, made, 0.2))
    rest = set(plain) - {"ce"} if name not in OWN else set()
    assert all(torch.equal(plain[term], smoothed[term]) for term in rest)


@pytest.mark.parametrize("name", names())
def test_none_is_zero_and_records_tell_the_truth(name: str) -> None:
    """0 is what was there before there was smoothing; the loss changes with it where the record says so."""
    made = with_hard_term(name)
    plain, zero, some = found(made, None), found(made, 0.0), found(made, 0.2)
    assert all(torch.equal(plain[term], zero[term]) for term in plain)
    changed = any(not torch.equal(plain[term], some[term]) for term in plain)
    assert changed == made.method.smooths


def test_cckds_two_forms_stay_one_at_temperature_one() -> None:
    """cckd_l's hard share and cckd_t's mixed target smooth the same labels; by hand for the first sample."""
    left, right = found(world(load("cckd_l")), 0.2), found(world(load("cckd_t")), 0.2)
    torch.testing.assert_close(left["cckd_soft"] + left["cckd_hard"], right["cckd"])
    made = world(load("cckd_l"), samples=1)
    trust = made.target.logits.softmax(-1)[0, made.batch.labels[0]]
    torch.testing.assert_close(
        found(made, 0.2)["cckd_hard"], (1 - trust) * torchs("cckd_l", made, 0.2)
    )


@pytest.mark.parametrize("text", ["label_smoothing=0.1", "label_smoothing=uniform(0,0.2)"])
def test_a_method_without_the_term_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"label_smoothing must be 0 for a method without a cross"):
        plan.make(make({"method": "ckd", "set": (text,)}))


def test_the_flag_reaches_the_recipe_or_is_refused() -> None:
    assert plan.make(make({"method": "kd", "label_smoothing": 0.1})).recipe.label_smoothing == 0.1
    with pytest.raises(ValueError, match=r"label_smoothing must be 0 .*, got 0.1"):
        plan.make(make({"method": "ckd", "label_smoothing": 0.1}))
    with pytest.raises(ValueError, match="--label-smoothing must be less than 1, got 1"):
        make({"method": "kd", "label_smoothing": 1})


RECIPE = {
    "lr": "loguniform(0.01,0.2)",
    "weight_decay": "loguniform(1e-5,1e-3)",
    "momentum": "uniform(0.8,0.95)",
    "optimizer": "choice(sgd,adamw)",
    "batch_size": "choice(32,64)",
    "epochs": "choice(10,20)",
    "label_smoothing": "uniform(0,0.2)",
}


def test_the_whole_recipe_can_be_searched_beside_the_loss() -> None:
    """The first trial has the recipe's own values; each is a dimension."""
    asked = tuple(f"{name}={text}" for name, text in RECIPE.items())
    planned = plan.make(make({"method": "kd", "set": asked}))
    assert set(planned.searched) == {"temperature", "alpha", *RECIPE}
    own = vars(planned.recipe)
    assert {name: planned.published[name] for name in RECIPE} == {
        name: own[name] for name in RECIPE
    }


@pytest.mark.parametrize(
    ("recipe", "values", "lr"),
    [
        (Recipe(), {"optimizer": "adamw"}, 0.001),
        (Recipe(), {"optimizer": "sgd"}, 0.05),
        (Recipe(), {"optimizer": "adamw", "lr": 0.02}, 0.02),
        (Recipe(lr=0.3), {"optimizer": "adamw"}, 0.3),
    ],
)
def test_another_optimiser_brings_its_own_rate(
    recipe: Recipe, values: dict[str, Any], lr: float
) -> None:
    """Unless the user or the search has chosen one."""
    assert recipe.changed(values).lr == lr


def test_smoothing_is_checked_where_it_enters() -> None:
    with pytest.raises(ValueError, match="label_smoothing must be below 1, got 1"):
        check_value(load("kd"), "label_smoothing", 1.0)
