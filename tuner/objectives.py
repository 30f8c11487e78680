"""What a search is after: objectives, of which several make a front, and constraints on outcomes.

Names and rules only, so that --help and --list need neither torch nor Optuna. `trainables/measuring.py` measures what
is not known anyway, `sizes.py` what is known before training; `samplers.py` tells Optuna, and `standing.py` says how
trials stand.

NaN, missing   a trial without a value of every objective is neither ranked nor on the front; a constraint on what was
               not measured is not met
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from search_spaces import nearest

BEFORE, EACH_EPOCH, AT_THE_END = "before training", "each epoch", "after the last epoch"
GRAMMAR = re.compile(
    r"\s*([A-Za-z_/]{1,40})\s*(<=|>=|<|>)\s*([+-]?(?:\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})(?:[eE][+-]?\d{1,2})?)\s*"
)


@dataclass(frozen=True)
class Objective:
    """Something of a trained student that a search may be after."""

    name: str  # as trials report it
    direction: Literal["max", "min"]
    words: str
    known: str  # BEFORE, EACH_EPOCH or AT_THE_END
    high: float = math.inf  # values lie from 0 to this
    unit: str = ""  # "%": a share, shown in percent

    def better(self, value: float) -> float:
        """The value with its sign so that more is better."""
        return value if self.direction == "max" else -value

    def shown(self, value: float | None) -> str:
        """For tables; nothing for what was not measured."""
        if value is None or not math.isfinite(value):
            return ""
        if self.unit == "%":
            return f"{100 * value:.2f}"
        return f"{value:,.0f}" if self.known == BEFORE else f"{value:.4g}"

    @property
    def heading(self) -> str:
        """Its name with the unit of `shown`."""
        return f"{self.name}, {self.unit}" if self.unit else self.name


KNOWN = {
    one.name: one
    for one in (
        Objective("val/accuracy", "max", "validation accuracy", EACH_EPOCH, 1.0, "%"),
        Objective("val/loss", "min", "cross-entropy on validation", EACH_EPOCH, unit="nats"),
        Objective("val/ece", "min", "calibration error on validation", AT_THE_END, 1.0, "%"),
        Objective(
            "robust/worst",
            "max",
            "accuracy under attack on validation, 0 with masked gradients",
            AT_THE_END,
            1.0,
            "%",
        ),
        Objective("n_parameters", "min", "parameters of the network that leaves", BEFORE),
        Objective("multiply_adds", "min", "multiply-adds for one image", BEFORE),
        Objective("latency_ms", "min", "time for one image on one thread", AT_THE_END, unit="ms"),
        Objective(
            "samples_used",
            "min",
            "share of samples that the method learnt from, over all epochs",
            AT_THE_END,
            1.0,
            "%",
        ),
    )
}
ACCURACY = KNOWN["val/accuracy"]


@dataclass(frozen=True)
class Constraint:
    """A bound that an outcome has to keep."""

    name: str  # of KNOWN
    comparison: str  # <, <=, > or >=
    bound: float

    def __str__(self) -> str:
        """As the user writes it."""
        return f"{self.name} {self.comparison} {self.bound:.15g}"

    @property
    def known(self) -> str:
        """When a trial's value is known."""
        return KNOWN[self.name].known

    def met(self, value: float) -> bool:
        """Whether `value` keeps the bound; NaN does not."""
        if self.comparison in ("<", "<="):
            return value < self.bound or (value == self.bound and self.comparison == "<=")
        return value > self.bound or (value == self.bound and self.comparison == ">=")

    def gap(self, value: float) -> float:
        """How far `value` lies beyond the bound, in bounds; 0 or below only where it is met, inf for NaN."""
        if math.isnan(value):
            return math.inf
        beyond = value - self.bound if self.comparison in ("<", "<=") else self.bound - value
        share = beyond / (abs(self.bound) or 1.0)
        return share if self.met(value) else max(share, math.ulp(1.0))


@dataclass(frozen=True)
class Goals:
    """All that a search is after."""

    objectives: tuple[Objective, ...] = (ACCURACY,)
    constraints: tuple[Constraint, ...] = ()

    @property
    def decider(self) -> Objective:
        """What finalists and winner are chosen by: validation accuracy where it is asked for, else the first."""
        return ACCURACY if ACCURACY in self.objectives else self.objectives[0]

    @property
    def several(self) -> bool:
        """Whether there is a front."""
        return len(self.objectives) > 1

    @property
    def usual(self) -> bool:
        """Whether nothing but validation accuracy is asked for."""
        return self.objectives == (ACCURACY,) and not self.constraints

    def names(self, known: str) -> tuple[str, ...]:
        """Of objectives and constraints, those that are known then."""
        asked = [one.name for one in self.objectives] + [one.name for one in self.constraints]
        return tuple(dict.fromkeys(name for name in asked if KNOWN[name].known == known))

    @property
    def in_full(self) -> str:
        """Why every trial has to be trained in full; nothing where stopping by validation accuracy does no harm."""
        if self.several:
            return "only fully trained trials enter a front"
        if self.objectives != (ACCURACY,):
            return f"trials are stopped by val/accuracy, not by {self.objectives[0].name}"
        late = [str(one) for one in self.constraints if one.known == AT_THE_END]
        return f"{late[0]} is known {AT_THE_END} only" if late else ""

    def values(self, metrics: Mapping[str, Any]) -> list[float] | None:
        """The objectives' values in their order; None where one is missing or not finite."""
        found = [metrics.get(one.name) for one in self.objectives]
        return [float(v) for v in found] if all(map(_finite, found)) else None  # type: ignore[arg-type]

    def met(self, metrics: Mapping[str, Any]) -> bool:
        """Whether every constraint is met; one on what is missing is not."""
        return all(one.met(metrics.get(one.name, math.nan)) for one in self.constraints)

    def gap(self, metrics: Mapping[str, Any]) -> float:
        """How far the worst constraint is from being met, in bounds; what is missing speaks neither for nor against."""
        known = [one for one in self.constraints if _finite(metrics.get(one.name))]
        return max((one.gap(metrics[one.name]) for one in known), default=0.0)

    def unmet(self, metrics: Mapping[str, Any]) -> list[str]:
        """Every constraint that is not met, with the value: `n_parameters must be < 1000, got 1,234`."""
        said = []
        for one in self.constraints:
            value = metrics.get(one.name)
            if not one.met(math.nan if value is None else value):
                digits = ",.0f" if one.known == BEFORE else ".6g"
                what = format(value, digits) if _finite(value) else "nothing measured"
                said.append(f"{one.name} must be {one.comparison} {one.bound:.15g}, got {what}")
        return said


USUAL = Goals()


def goals(objectives: Iterable[str], constraints: Iterable[str]) -> Goals:
    """From checked words."""
    return Goals(tuple(KNOWN[name] for name in objectives), tuple(map(parse, constraints)))


def check_name(name: str) -> str:
    """The name of an objective; raises ValueError for an unknown one."""
    if name not in KNOWN:
        raise ValueError(f"must be one of {', '.join(KNOWN)}{nearest(name, KNOWN)}")
    return name


def parse(text: str) -> Constraint:
    """The constraint that `text` says: NAME, one of < <= > >=, and a number. Raises ValueError."""
    found = GRAMMAR.fullmatch(text)
    if found is None:
        raise ValueError(
            "must be NAME, one of < <= > >=, and a number, as in n_parameters < 300000"
        )
    return Constraint(check_name(found[1]), found[2], float(found[3]))


def check_constraint(text: str) -> str:
    """The same text; raises ValueError where it is no constraint or no value in range can meet it."""
    constraint = parse(text)
    if _empty([constraint]):
        high = KNOWN[constraint.name].high
        lies = "is 0 or more" if high == math.inf else f"lies from 0 to {high:g}"
        raise ValueError(f"must be one that can be met ({constraint.name} {lies})")
    return text


def check_together(texts: Iterable[str]) -> None:
    """Raise ValueError where constraints rule each other out."""
    constraints = [parse(text) for text in texts]
    for name in {one.name for one in constraints}:
        same = [one for one in constraints if one.name == name]
        if _empty(same):
            raise ValueError(f"must be met by some {name}")


def in_words(asked: Goals) -> str:
    """`val/accuracy (max), n_parameters (min): a front; finalists by val/accuracy`."""
    listed = ", ".join(f"{one.name} ({one.direction})" for one in asked.objectives)
    if not asked.several:
        return listed
    return f"{listed}: a front; finalists by {asked.decider.name}"


def _empty(constraints: list[Constraint]) -> bool:
    """Whether no value can meet constraints that are all on one name."""
    low, high = (0.0, False), (KNOWN[constraints[0].name].high, False)  # bound, whether excluded
    for one in constraints:
        strict = one.comparison in ("<", ">")
        if one.comparison in ("<", "<="):
            high = min(high, (one.bound, strict), key=lambda end: (end[0], not end[1]))
        else:
            low = max(low, (one.bound, strict))
    return low[0] > high[0] or (low[0] == high[0] and (low[1] or high[1]))


def _finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)
