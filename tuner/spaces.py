"""The space of one search: the method's or the user's, every key known, every value legal, the published one inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import search_spaces
from search_spaces import Domain, Space, Value, nearest
from search_spaces.conditions import in_order
from trainables import methods, models, objective
from trainables.contract import Method
from trainables.recipe import RECIPE_KEYS, check_recipe
from tuner.settings import Settings

SMOOTHING = "label_smoothing"
STUDENT = "student"  # the key of the architecture that is trained
CHANGEABLE = (
    "lr",
    "weight_decay",
    "momentum",
    SMOOTHING,
)  # parts of the recipe that a student may change in mid-training


def read(settings: Settings, method: Method) -> Space:
    """The space that the settings ask for, each key and value checked; raises ValueError."""
    space = search_spaces.load(settings.space or methods.space(settings.method))
    for item in settings.set:
        name, equals, text = item.partition("=")
        if not (equals and name.strip() and text.strip()):
            raise ValueError(f"--set must be NAME=EXPR, got {item!r}")
        space[name.strip()] = search_spaces.parse(name.strip(), text)
    for name, domain in space.items():
        for key, value in _to_check(name, domain):
            check_value(method, key, value)
    return space


def _to_check(name: str, domain: Domain | Value) -> Iterator[tuple[str, Value]]:
    if not isinstance(domain, Domain):
        yield name, domain
        return
    yield from ((name, value) for value in domain.ends())
    yield from ((key, value) for key, values in domain.when for value in values)


def check_value(method: Method, name: str, value: Any) -> None:
    """Raise ValueError where `value` can be neither a hyperparameter, a part of the recipe, nor a student."""
    if name in RECIPE_KEYS:
        check_recipe(name, value)
        if name == SMOOTHING and value and not method.smooths:
            raise ValueError(
                f"{name} must be 0 for a method without a cross-entropy with the labels, got {value!r}"
            )
        return
    if name == STUDENT:
        models.entry(str(value))
        return
    known = methods.hyperparameters(method)
    if name not in known:
        everything = (*known, *RECIPE_KEYS, STUDENT)
        raise ValueError(
            f"unknown space key {name!r}{nearest(name, everything)}; known: {', '.join(everything)}"
        )
    objective.check(method, name, value)


def check_published(searched: Mapping[str, Domain], published: Mapping[str, Any]) -> None:
    """Raise ValueError where the first trial, the published setting, lies outside its space."""
    for name, domain in searched.items():
        default = published.get(name)
        if default is not None and not domain.holds(default):
            raise ValueError(
                f"the published {name} must lie in its space so that it can be tried first, "
                f"got {default} outside {domain}; widen it or fix {name}"
            )


def students(space: Space) -> tuple[str, ...]:
    """The architectures that the space names; none where it leaves the student alone."""
    asked = space.get(STUDENT, ())
    values = asked.values if isinstance(asked, Domain) else (asked,) if asked else ()
    return tuple(map(str, values))


def corners(searched: Mapping[str, Domain], published: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The published setting, and the same with each value of each searched choice, under its own condition."""
    found = [dict(published)]
    for name in in_order(searched):
        needed = {key: legal[0] for key, legal in searched[name].when}
        found += [{**published, **needed, name: value} for value in searched[name].values]
    return found


def changeable(searched: Mapping[str, Domain], method: Method) -> dict[str, Domain]:
    """What of the space a student may change in mid-training: numbers that its loss or its optimiser read at each step.

    Choices, counts, and numbers that decide about adapters, inputs or phases are not among them.
    """
    known = methods.hyperparameters(method)
    share = method.first_phase.share if method.first_phase else None
    read_once = {
        name.removesuffix("_")
        for function in (method.adapter, method.inputs, share)
        if function
        for name in methods.arguments(function, dict.fromkeys(known))
    }
    return {
        name: domain
        for name, domain in searched.items()
        if not domain.values
        and not domain.when
        and (
            name in CHANGEABLE or (name in known and known[name].is_float and name not in read_once)
        )
    }
