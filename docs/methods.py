"""`python -m docs.methods` writes docs/methods.md from the methods' records; a test fails when it is stale."""

from __future__ import annotations

from pathlib import Path

from trainables import methods
from trainables.methods import Hyperparameter, hyperparameters, load, summary

PAGE = Path(__file__).with_name("methods.md")
HEAD = """# The methods

Made by `python -m docs.methods` from the records in `trainables/methods/`. Needs: features and preacts are maps
after and before their activation; teacher: the teacher runs in every trial and its targets are not kept; batch: the
samples of a batch are compared with each other. The objective and its letters are in the
[README](../README.md#use); each file's docstring says what was taken from where, and where it departs from that.

| method | what it does | paper | equation | hyperparameters and published defaults | needs |
| --- | --- | --- | --- | --- | --- |
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(_row(name) for name in methods.names())


def _row(name: str) -> str:
    about = summary(name)
    known = ", ".join(_default(one) for one in hyperparameters(load(name)).values())
    lines = [f"`{line}`".replace("|", "\\|") for line in about.equation.splitlines()]
    equation = "<br>".join(lines)
    needs = ", ".join(about.needs)
    return f"| {name} | {about.title} | {about.paper} | {equation} | {known} | {needs} |\n"


def _default(one: Hyperparameter) -> str:
    value = "unset" if one.default is None else f"{one.default:g}" if one.is_float else one.default
    return f"{one.name} {value}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
