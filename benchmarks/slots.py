"""In place of a cluster: as many slots as are asked for, in the driver's own process.

Ray Tune's loop starts workers, gives them work and hears their answers by its actor manager. `Slots` answers in its
stead: a worker is an object of this process that does at once what it is told, and the answers come in the order in
which the work was given. All else of a search is what it always is. The CPU time that the workers take is counted
apart. What is not there is Ray's messages.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple
from uuid import uuid4

import tuner  # noqa: F401  sets Ray's environment, which Ray reads when it is imported

# isort: split
from ray.air.execution._internal import TrackedActor


class Event(NamedTuple):
    """What is next to happen to a worker; `kind` is start, work or stop."""

    worker: TrackedActor
    kind: str
    happen: Callable[[], None]


class Worker:
    """A trainable, and as much of Ray's handle on one as Tune asks for by itself."""

    def __init__(self, actor_class: Any, told: dict[str, Any]) -> None:
        self.trainable = _timed(lambda: actor_class.__ray_metadata__.modified_class(**told))
        self.get_auto_filled_metrics = SimpleNamespace(remote=self._metrics)

    def do(self, what: str, *arguments: Any, **named: Any) -> Any:
        """The answer."""
        return _timed(lambda: getattr(self.trainable, what)(*arguments, **named))

    def _metrics(self, **asked: bool) -> dict[str, Any]:
        found: dict[str, Any] = self.trainable.get_auto_filled_metrics(**asked)
        return found


class Slots:
    """Ray's actor manager, as far as Ray Tune asks it."""

    n: ClassVar[int] = 1  # slots
    seconds: ClassVar[float] = 0.0  # of CPU time that the workers took

    def __init__(self, resource_manager: object) -> None:
        self.waiting: deque[tuple[TrackedActor, Any, dict[str, Any]]] = deque()
        self.events: deque[Event] = deque()
        self._live_actors_to_ray_actors_resources: dict[TrackedActor, tuple[Worker, None]] = {}

    def next(self, timeout: float | None = None) -> bool:
        """Start who waits for a slot, and let one thing happen; whether there was one."""
        while self.waiting and self.num_live_actors < self.n:
            worker, actor_class, told = self.waiting.popleft()
            self._live_actors_to_ray_actors_resources[worker] = Worker(actor_class, told), None
            self._later(worker, "start", lambda worker=worker: worker._on_start(worker))
        if not self.events:
            return False
        self.events.popleft().happen()
        return True

    def add_actor(
        self, cls: Any, kwargs: dict[str, Any], resource_request: object, **callbacks: Any
    ) -> TrackedActor:
        """A worker that is to start."""
        worker = TrackedActor(uuid4().int, **callbacks)
        self.waiting.append((worker, cls, kwargs))
        return worker

    def remove_actor(
        self, tracked_actor: TrackedActor, kill: bool = False, stop_future: object = None
    ) -> bool:
        """Let a worker go; whether it had started."""
        if tracked_actor not in self._live_actors_to_ray_actors_resources:
            self.waiting = deque(one for one in self.waiting if one[0] != tracked_actor)
            return False
        self._forget(tracked_actor, "start")
        self._later(tracked_actor, "stop", lambda: self._stop(tracked_actor))
        return True

    def schedule_actor_task(
        self,
        tracked_actor: TrackedActor,
        method_name: str,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        on_result: Callable[[TrackedActor, Any], None] | None = None,
        on_error: Callable[[TrackedActor, Exception], None] | None = None,
        _return_future: bool = False,
    ) -> object:
        """Work for a worker; what it raises comes out of the loop, as nobody is to fail here."""

        def work() -> None:
            worker, _ = self._live_actors_to_ray_actors_resources[tracked_actor]
            answer = worker.do(method_name, *(args or ()), **(kwargs or {}))
            if on_result:
                on_result(tracked_actor, answer)

        self._later(tracked_actor, "work", work)
        return object() if _return_future else None

    def clear_actor_task_futures(self, tracked_actor: TrackedActor) -> None:
        """A worker's work is wanted no more."""
        self._forget(tracked_actor, "work")

    def is_actor_started(self, tracked_actor: TrackedActor) -> bool:
        """Whether it has a slot."""
        return tracked_actor in self._live_actors_to_ray_actors_resources

    def is_actor_failed(self, tracked_actor: TrackedActor) -> bool:
        """Never."""
        return False

    def get_live_actors_resources(self) -> dict[str, float]:
        """Of those that have one."""
        return {"CPU": float(self.num_live_actors)}

    @property
    def num_live_actors(self) -> int:
        """Workers that have a slot."""
        return len(self._live_actors_to_ray_actors_resources)

    @property
    def num_pending_actors(self) -> int:
        """Workers that wait for one."""
        return len(self.waiting)

    @property
    def num_total_actors(self) -> int:
        """Both."""
        return self.num_live_actors + self.num_pending_actors

    @property
    def num_actor_tasks(self) -> int:
        """What is to be done."""
        return len(self.events)

    def cleanup(self) -> None:
        """Nothing is left running."""
        self._live_actors_to_ray_actors_resources.clear()

    def _later(self, worker: TrackedActor, kind: str, happen: Callable[[], None]) -> None:
        self.events.append(Event(worker, kind, happen))

    def _forget(self, worker: TrackedActor, kind: str) -> None:
        kept = (one for one in self.events if (one.worker, one.kind) != (worker, kind))
        self.events = deque(kept)

    def _stop(self, worker: TrackedActor) -> None:
        self._live_actors_to_ray_actors_resources.pop(worker, None)
        if worker._on_stop:
            worker._on_stop(worker)


def _timed(work: Callable[[], Any]) -> Any:
    started = time.process_time()
    try:
        return work()
    finally:
        Slots.seconds += time.process_time() - started
