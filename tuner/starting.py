"""How Ray Tune starts, without what costs seconds there and is of no use to a search.

It imports all of MLflow, to count callbacks for usage statistics that are off. It gives the processes of trials
variables of their own, so that none of those will do that Ray has started ahead. And where a process is still starting
for one trial while another trial ends, it drops that start and hands over the process that has become free: trials
shorter than a start run one at a time, and the next start begins anew.
"""

from __future__ import annotations

import importlib
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


class Patient(tune_controller.TuneController):
    """Tune's controller, which leaves a start that is under way to its trial as long as other trials are to come."""

    def _maybe_reuse_cached_actor(self, trial: Any) -> bool:
        own = self._trial_to_actor.get(trial)
        asked = own is not None and self._actor_manager.is_actor_started(own)  # of Ray, not of Tune
        starting = asked and own not in self._started_actors
        if starting and not self._search_alg.is_finished():
            return False
        return bool(super()._maybe_reuse_cached_actor(trial))


def quicken(*, alone: bool) -> None:
    """From now on Tune starts so; `alone`: on a Ray of our own, whose processes need no further variables."""
    usage.tag_callbacks = _nothing
    importlib.import_module("ray.tune.tune").TuneController = Patient  # type: ignore[attr-defined]
    tune_controller._ActorClassCache = Plain if alone else Usual  # type: ignore[misc]


def _nothing(callbacks: Any) -> bool:
    """Whether they were recorded."""
    return False
