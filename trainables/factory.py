"""A user's own function, named `package.module:factory`: what builds a network or opens a dataset."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from search_spaces import nearest


def named(text: str, takes: str, *arguments: Any, **keywords: Any) -> Callable[..., Any]:
    """The function behind `package.module:factory`, which must take arguments like these (`takes`, in words).

    It is not called. Raises ValueError where there is no such function.
    """
    module, _, attribute = text.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"{text} must name a module that can be imported, got {error}") from None
    factory = getattr(found, attribute, None)
    if not callable(factory):
        near = nearest(attribute, [key for key, value in vars(found).items() if callable(value)])
        got = "none" if factory is None else f"a {type(factory).__name__}"
        raise ValueError(f"{module} must have a factory {attribute!r}, got {got}{near}")
    try:
        inspect.signature(factory).bind(*arguments, **keywords)
    except (TypeError, ValueError) as error:  # other arguments; a builtin that shows none
        raise ValueError(f"{text} must take {takes}, got {error}") from None
    return factory
