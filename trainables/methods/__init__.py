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
from typing import TYPE_CHECKING, Any

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


def summary(name: str) -> tuple[str, str]:
    """(first line of the docstring, paper) of a method, read without running its file."""
    plugin = _plugins().get(name)
    if plugin:
        spec = importlib.util.find_spec(plugin.module)
        path = Path(spec.origin) if spec and spec.origin else None
    else:
        path = FOLDER / f"{name}.py"
    if path is None:
        return "", ""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    papers = [
        str(keyword.value.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "paper" and isinstance(keyword.value, ast.Constant)
    ]
    return (ast.get_docstring(tree) or "").partition("\n")[0], papers[0] if papers else ""


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
