"""The methods: one file each, found by being there.

A file `NAME.py` in this folder holds a record `METHOD`; its name is the method's name. Packages add methods of
their own through the entry-point group `kdtune.methods` (see CONTRIBUTING.md). Nothing here imports torch before a
method is loaded, so that `--list` and `--help` stay quick.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from search_spaces import nearest

if TYPE_CHECKING:
    from trainables.contract import Method

FOLDER = Path(__file__).parent
GROUP = "kdtune.methods"


@dataclass(frozen=True)
class Hyperparameter:
    """A keyword of one of the record's functions."""

    name: str  # as the user writes it: `lambda`, not `lambda_`
    default: Any
    is_float: bool  # arrives as a 0-d tensor


@cache
def names() -> tuple[str, ...]:
    """Every method's name, sorted: this folder's files and other packages' entry points."""
    own = {path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_")}
    return tuple(sorted(own | set(_plugins())))


@cache
def load(name: str) -> Method:
    """The record of method `name`; raises ValueError for an unknown name or a file without a record."""
    from trainables.contract import Method

    if name not in names():
        raise ValueError(
            f"unknown method {name!r}{nearest(name, names())}; known: {', '.join(names())}"
        )
    plugin = _plugins().get(name)
    module = plugin.load() if plugin else importlib.import_module(f"{__name__}.{name}")
    record = getattr(module, "METHOD", module)
    if not isinstance(record, Method):
        where = plugin.value if plugin else FOLDER / f"{name}.py"
        raise ValueError(f"a method's file must define METHOD = Method(...), got none in {where}")
    return record


class Summary(NamedTuple):
    """What can be said of a method without running its file."""

    title: str  # the docstring's first line
    equation: str  # its indented lines
    paper: str
    needs: tuple[str, ...]


def summary(name: str) -> Summary:
    """A method's file, read but not run."""
    path = _file(name)
    if path is None:
        return Summary("", "", "", ())
    tree = ast.parse(path.read_text(encoding="utf-8"))
    text = ast.get_docstring(tree) or ""
    given = {
        keyword.arg: keyword.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Method"
        for keyword in node.keywords
    }
    strings = (
        [n.value for n in ast.walk(given["needs"]) if isinstance(n, ast.Constant)]
        if "needs" in given
        else []
    )
    paper = getattr(given.get("paper"), "value", "")
    blocks = [block for block in text.split("\n\n") if block.startswith("    ")]
    equation = "\n".join(" ".join(line.split()) for line in "\n".join(blocks).splitlines())
    return Summary(text.partition("\n")[0], equation, str(paper), tuple(sorted(map(str, strings))))


def space(name: str) -> str:
    """Where a method's search space is: its name, or for another package's method the YAML file beside its module."""
    path = _file(name) if name in _plugins() else None
    return str(path.with_name(f"{name}.yaml")) if path else name


def _file(name: str) -> Path | None:
    plugin = _plugins().get(name)
    if plugin is None:
        return FOLDER / f"{name}.py"
    spec = importlib.util.find_spec(plugin.module)
    return Path(spec.origin) if spec and spec.origin else None


def hyperparameters(method: Method) -> dict[str, Hyperparameter]:
    """The method's hyperparameters by the user's name, with their published defaults."""
    found: dict[str, Hyperparameter] = {}
    for function in _functions(method):
        for keyword in _keywords(function):
            name = keyword.name.removesuffix("_")
            is_float = "Scalar" in str(keyword.annotation) or "Tensor" in str(keyword.annotation)
            found.setdefault(name, Hyperparameter(name, keyword.default, is_float))
    return found


def arguments(function: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
    """Those of `values` (by the user's names) that `function` takes, by Python's names."""
    wanted = {keyword.name.removesuffix("_"): keyword.name for keyword in _keywords(function)}
    return {wanted[name]: value for name, value in values.items() if name in wanted}


def _functions(method: Method) -> Iterator[Callable[..., Any]]:
    phase = method.first_phase
    candidates = (
        method.loss,
        method.target,
        method.adapter,
        method.inputs,
        method.keep,
        phase and phase.loss,
        phase and phase.share,
    )
    return (function for function in candidates if function)


@cache
def _keywords(function: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    parameters = inspect.signature(function).parameters.values()
    return tuple(p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)


@cache
def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
