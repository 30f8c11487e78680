"""A trial that Ray's memory monitor ended is a lost worker; Tune would take it for a bug and abort the search.

Ray's monitor ends workers before the kernel does, which would choose less well. The error that it leaves is no
RayActorError, and Tune's actor manager knows only those.
"""

from __future__ import annotations

from typing import Any

from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import tune_controller


class EvictedError(RayActorError):
    """Ray ended the worker because the machine was short of memory."""


class Manager(RayActorManager):
    """Tune's own, which also knows evicted workers."""

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = EvictedError(error_msg=str(exception))
        super()._actor_task_failed(tracked_actor_task, exception)


def survive() -> None:
    """From now on Tune's controllers are made with this manager."""
    tune_controller.RayActorManager = Manager  # type: ignore[misc]
