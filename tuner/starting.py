"""How Ray Tune starts, without what costs seconds there and is of no use to a search.

It imports all of MLflow, to count callbacks for usage statistics that are off. And it gives the processes of trials
variables of their own, so that none of those will do that Ray has started ahead.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.air._internal import usage
from ray.tune.execution import class_cache, tune_controller

Usual = class_cache._ActorClassCache


class Plain(Usual):
    """Classes of actors that are as the driver's Ray is; its processes have inherited the driver's variables."""

    def get(self, trainable_cls: Any) -> Any:
        """The same class each time it is asked for."""
        if trainable_cls not in self._cache:
            self._cache[trainable_cls] = ray.remote(trainable_cls)
        return self._cache[trainable_cls]


def quicken(*, alone: bool) -> None:
    """From now on Tune starts so; `alone`: on a Ray of our own, whose processes need no further variables."""
    usage.tag_callbacks = _nothing
    tune_controller._ActorClassCache = Plain if alone else Usual  # type: ignore[misc]


def _nothing(callbacks: Any) -> bool:
    """Whether they were recorded."""
    return False
