"""Which hyperparameters are a trial's own: a condition holds where its keys have one of the values it names.

A key that is not searched has its fixed value or its published default; so has one whose own condition does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from search_spaces import Domain, Space, Value, searched


def holds(domain: Domain, values: Mapping[str, Any]) -> bool:
    """Whether a trial with these `values` has the hyperparameter; one without a condition is everybody's."""
    return all(values.get(key) in legal for key, legal in domain.when)


def in_order(domains: Mapping[str, Domain]) -> list[str]:
    """The names, each behind those its condition asks for, else as they were; raises ValueError for a circle."""
    left, placed = list(domains), list[str]()
    while left:
        free = (n for n in left if not any(key in left for key, _ in domains[n].when))
        name = next(free, None)
        if name is None:
            raise ValueError(f"conditions must not go round in a circle, got {', '.join(left)}")
        left.remove(name)
        placed.append(name)
    return placed


def settle(
    domains: Mapping[str, Domain],
    known: Mapping[str, Any],
    draw: Callable[[str, Domain], Any],
) -> dict[str, Any]:
    """A trial's values of what is searched: `draw` is asked for those whose conditions hold.

    `known` holds the fixed values and the published defaults, which stand where a condition does not hold.
    """
    drawn: dict[str, Any] = {}
    for name in in_order(domains):
        if holds(domains[name], {**known, **drawn}):
            drawn[name] = draw(name, domains[name])
    return {name: drawn[name] for name in domains if name in drawn}


def cells(domains: Mapping[str, Domain], known: Mapping[str, Any]) -> list[dict[str, Value]]:
    """Every combination of listed values that a trial can have, the first name's changing slowest."""
    found: list[dict[str, Value]] = [{}]
    for name in in_order(domains):
        domain = domains[name]
        found = [
            grown
            for cell in found
            for grown in (
                [{**cell, name: value} for value in domain.values]
                if holds(domain, {**known, **cell})
                else [cell]
            )
        ]
    return [{name: cell[name] for name in domains if name in cell} for cell in found]


def reduced(space: Space, known: Mapping[str, Any]) -> Space:
    """The space without the conditions that are settled already, and without what they rule out.

    `known` holds the published defaults. Raises ValueError where a condition asks for what its key cannot be.
    """
    found: Space = dict(space)
    for name in in_order(searched(space)):
        domain = found[name]
        assert isinstance(domain, Domain)
        open_, settled = [], True
        for key, legal in domain.when:
            other = found.get(key, known.get(key))
            if isinstance(other, Domain):
                _check(name, key, legal, other)
                open_.append((key, legal))
            else:
                settled = settled and other in legal
        if settled:
            found[name] = replace(domain, when=tuple(open_))
        else:
            del found[name]
    return found


def _check(name: str, key: str, legal: tuple[Value, ...], other: Domain) -> None:
    if not other.values:
        raise ValueError(f"{name}: a condition must be on a choice or grid, got {key}: {other}")
    wrong = [value for value in legal if value not in other.values]
    if wrong:
        raise ValueError(
            f"{name}: a condition must ask for a value that {key} can have, got {key}={wrong[0]}, {key}: {other}"
        )
