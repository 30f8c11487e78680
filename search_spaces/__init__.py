"""Search spaces: what is searched, written as in `temperature: loguniform(1, 20)`.

One YAML file a method (kd.yaml ...), published grids and sweeps in presets/. The words are Ray Tune's and the same in
a file and in `--set NAME=EXPR`:

    uniform(low, high)   loguniform(low, high)   quniform(low, high, step)
    randint(low, high)   lograndint(low, high)   (high excluded, as in Ray Tune)
    choice(a, b, ...)    grid(a, b, ...)         anything else is a fixed value

What is searched may have a condition, and is then a dimension only of the trials where it holds (conditions.py):

    temperature: {space: loguniform(1, 20), when: {mode: kl}}       in a file; a list of values where several will do
    --set "temperature=loguniform(1,20) when mode=kl"               the same; kl|cse where several will do
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
Value = float | int | str | bool
When = tuple[tuple[str, tuple[Value, ...]], ...]  # all keys must have one of their values

LINES = (
    "each line of a search space must be `name: domain` or "
    "`name: {space: domain, when: {key: value}}`"
)
N_ARGUMENTS = {"uniform": 2, "loguniform": 2, "quniform": 3, "randint": 2, "lograndint": 2}
CALL = re.compile(r"\s*([A-Za-z_]\w*)\s*\((.*)\)\s*", re.DOTALL)


@dataclass(frozen=True)
class Domain:
    """Where one hyperparameter may lie: an interval (low, high) or a list of values."""

    word: str  # uniform, loguniform, quniform, randint, lograndint, choice or grid
    low: float = 0.0
    high: float = 0.0
    step: float = 0.0  # of quniform
    values: tuple[Value, ...] = ()  # of choice and grid
    when: When = ()

    def __str__(self) -> str:
        """As the user writes it."""
        inside = self.values or (self.low, self.high, self.step)[: N_ARGUMENTS.get(self.word, 0)]
        condition = ", ".join(f"{k}={'|'.join(map(_written, some))}" for k, some in self.when)
        words = f"{self.word}({', '.join(map(_written, inside))})"
        return f"{words} when {condition}" if condition else words

    def holds(self, value: Any) -> bool:
        """Whether a sampler of this domain could draw `value`."""
        if self.values:
            return value in self.values
        if not _is_number(value) or not self.low <= value <= self.high:
            return False
        if self.word in ("randint", "lograndint"):
            return value == int(value) and value < self.high
        steps = (value - self.low) / self.step if self.step else 0.0
        return math.isclose(steps, round(steps), abs_tol=1e-9)

    def ends(self) -> tuple[Value, ...]:
        """The values that a range check must accept for the whole domain to be legal."""
        if self.values:
            return self.values
        if self.word in ("randint", "lograndint"):
            return (int(self.low), int(self.high) - 1)
        return (self.low, self.high)


Space = dict[str, Domain | Value]


def nearest(name: str, known: Iterable[str]) -> str:
    """`, did you mean 'kd'?` or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""


def parse(name: str, text: str) -> Domain | Value:
    """The domain or fixed value that `text` says; raises ValueError naming `name`, the rule and what came."""
    text, _, clause = text.partition(" when ")
    if clause:
        return conditional(name, parse(name, text), _clause(name, clause))
    call = CALL.fullmatch(text)
    if not call:
        return _scalar(text)
    word, inside = call[1], call[2]
    known = (*N_ARGUMENTS, "choice", "grid")
    if word not in known:
        raise ValueError(
            f"{name}: unknown word {word!r}{nearest(word, known)}; known: {', '.join(known)}"
        )
    values = tuple(_scalar(part) for part in inside.split(",")) if inside.strip() else ()
    if word in ("choice", "grid"):
        return _listed(name, word, values)
    return _interval(name, word, values, text)


def conditional(name: str, domain: Domain | Value, when: When) -> Domain:
    """The domain under a condition; raises ValueError for a fixed value, which has no use for one."""
    if not isinstance(domain, Domain):
        raise ValueError(f"{name}: a condition must follow what is searched, got {domain!r}")
    return replace(domain, when=when)


def load(source: str) -> Space:
    """The space in a YAML file: a path, a method's name, or a preset's name; raises ValueError.

    Every value is read by `parse`, so `1e-3` is a number and `no` is a word, whatever YAML thinks of them.
    """
    path = find(source)
    import yaml

    loader = yaml.BaseLoader  # leaves every scalar a string; no tags, no code
    try:
        tree = yaml.compose(path.read_text(encoding="utf-8"), Loader=loader)
        entries = tree.value if isinstance(tree, yaml.MappingNode) else None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"a search space must be YAML, got {path}: {_one_line(error)}") from None
    if tree is None:
        return {}
    if entries is None:
        raise ValueError(
            f"a search space must be lines of `name: domain`, got something else in {path}"
        )
    space: Space = {}
    for key, value in entries:
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"{LINES}, got a nested one in {path}")
        if key.value in space:
            raise ValueError(
                f"a search space must name each hyperparameter once, got {key.value!r} twice in {path}"
            )
        space[key.value] = _entry(key.value, _plain(value), path)
    return space


def find(source: str) -> Path:
    """The file of a space given by path, method or preset; raises ValueError."""
    own = {path.stem: path for path in sorted(FOLDER.rglob("*.yaml"))}
    if source in own:
        return own[source]
    path = Path(source)
    try:
        path = path.expanduser()
        is_file = path.is_file()
    except (OSError, RuntimeError):  # too long; ~nobody
        is_file = False
    if not is_file:
        raise ValueError(
            f"a search space must be a YAML file or one of {', '.join(own)}, got {source!r}{nearest(source, own)}"
        )
    return path


def names() -> tuple[str, ...]:
    """The spaces that come with kdtune: methods' first, then presets."""
    methods = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    return (*methods, *sorted(path.stem for path in (FOLDER / "presets").glob("*.yaml")))


def searched(space: Mapping[str, Domain | Value]) -> dict[str, Domain]:
    """The part of a space that is searched, without the fixed values."""
    return {name: domain for name, domain in space.items() if isinstance(domain, Domain)}


def _plain(node: Any) -> Any:
    """A YAML node as strings, lists and dictionaries; a later key of the same name wins."""
    if isinstance(node.value, str):
        return node.value
    if all(isinstance(part, tuple) for part in node.value):
        return {str(_plain(key)): _plain(value) for key, value in node.value}
    return [_plain(part) for part in node.value]


def _entry(name: str, tree: Any, path: Path) -> Domain | Value:
    """One line's domain or value, with its condition."""
    if isinstance(tree, str):
        return parse(name, tree)
    if not (isinstance(tree, dict) and set(tree) == {"space", "when"}):
        raise ValueError(f"{LINES}, got a nested one in {path}")
    space, when = tree["space"], tree["when"]
    if not (isinstance(space, str) and isinstance(when, dict) and when):
        raise ValueError(f"{LINES}, got a nested one in {path}")
    some = {k: v if isinstance(v, list) else [v] for k, v in when.items()}
    if not all(isinstance(v, str) for values in some.values() for v in values):
        raise ValueError(f"{LINES}, got a nested one in {path}")
    clause = tuple((k, tuple(_scalar(v) for v in values)) for k, values in some.items())
    return conditional(name, parse(name, space), clause)


def _clause(name: str, text: str) -> When:
    """The condition in `mode=kl|cse, group=2`."""
    parts = [part.partition("=") for part in text.split(",")]
    if not all(key.strip() and values.strip() for key, _, values in parts):
        raise ValueError(f"{name}: a condition must be KEY=VALUE, got {text.strip()!r}")
    return tuple(
        (key.strip(), tuple(_scalar(value) for value in values.split("|")))
        for key, _, values in parts
    )


def _listed(name: str, word: str, values: tuple[Value, ...]) -> Domain:
    if not values:
        raise ValueError(f"{name}: {word} must list at least one value, got none")
    if len(set(values)) < len(values):
        raise ValueError(
            f"{name}: {word} must list each value once, got {word}({', '.join(map(str, values))})"
        )
    return Domain(word, values=values)


def _interval(name: str, word: str, values: tuple[Value, ...], text: str) -> Domain:
    if len(values) != N_ARGUMENTS[word] or not all(_is_number(value) for value in values):
        raise ValueError(
            f"{name}: {word} must be given {N_ARGUMENTS[word]} finite numbers, got {text.strip()}"
        )
    low, high, step = (*(float(value) for value in values), 0.0)[:3]
    if not low < high:
        raise ValueError(f"{name}: low must be below high, got {text.strip()}")
    if word.startswith("log") and low <= 0:
        raise ValueError(f"{name}: a log scale must start above 0, got {text.strip()}")
    if word in ("randint", "lograndint") and not (low == int(low) and high == int(high)):
        raise ValueError(f"{name}: {word} must have whole ends, got {text.strip()}")
    if word == "quniform" and not (
        step > 0 and math.isclose((high - low) / step, round((high - low) / step))
    ):
        raise ValueError(f"{name}: the step must divide high - low, got {text.strip()}")
    return Domain(word, low, high, step)


def _scalar(text: str) -> Value:
    text = text.strip().strip("'\"")
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            pass
    return text


def _written(value: Value) -> str:
    """As the user writes it, short where that is the same number."""
    short = f"{value:g}" if isinstance(value, float) else str(value)
    return repr(value) if isinstance(value, float) and float(short) != value else short


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
