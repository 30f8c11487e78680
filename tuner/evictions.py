"""Two ways of losing a worker that Tune does not survive by itself.

Ray's memory monitor ends workers before the kernel does, which would choose less well. The error that it leaves is no
RayActorError, and Tune, which knows only those, takes it for a bug of its own and aborts the search.

A worker that dies while it takes up its next trial is told to the controller twice, by the actor and by its task: the
trial is put back for another try, and failed for good by the second telling.
"""

from __future__ import annotations

from typing import Any

from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import tune_controller


class EvictedError(RayActorError):
    """Ray ended the worker because the machine was short of memory."""


class Manager(RayActorManager):
    """Tune's own, which also knows evicted workers, and tells of each loss once."""

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = EvictedError(error_msg=str(exception))
        if isinstance(exception, RayActorError):
            _tell_once(tracked_actor_task)
        super()._actor_task_failed(tracked_actor_task, exception)


def _tell_once(task: Any) -> None:
    """Where a trial was being taken up, leave the telling to the actor, and let the trial be taken up again."""
    worker = task._tracked_actor
    controller = getattr(worker._on_error, "__self__", None)
    if isinstance(controller, tune_controller.TuneController):
        trial = controller._actor_to_trial.get(worker)
        if trial is not None and trial in controller._resetting_trials:
            controller._resetting_trials.discard(trial)
            task._on_error = None


def survive() -> None:
    """From now on Tune's controllers are made with this manager."""
    tune_controller.RayActorManager = Manager  # type: ignore[misc]
