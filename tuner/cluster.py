"""Where students are trained: the only file that starts or joins Ray.

Ray starts for this search alone, on this machine, quietly, with its token authentication on; or, where --address says
so, a cluster is joined that is there already.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

from tuner import heads, luggage, nodes, roll_call
from tuner.nodes import Node
from tuner.settings import LOCAL, Settings

OBJECT_STORE_BYTES = 100 * 2**20  # data travels by memory-mapped files, so little is needed
KEPT = 2  # idle processes that have imported torch, beside trials: who judges takes them
LOST = 3  # machines that a task may lose and be done again
READERS = 16  # that the depot serves at once
A_BIT = 0.001  # of a node's accelerator, which many trials may ask for, as Ray itself has it


class _Joined:
    """The cluster that this process has joined, and what its workers are given."""

    nodes: tuple[Node, ...] = ()
    courier: Any = None
    depot: Any = None


def workers(settings: Settings, n_cpus: int, roots: Sequence[Path]) -> AbstractContextManager[None]:
    """Where a search's students are trained: a Ray of our own, or the cluster that --address names.

    The cluster's machines may ask for the files below `roots`, the first of which is the folder of all searches.
    """
    if settings.address != LOCAL:
        return _joined(settings, roots)
    return running(n_cpus, use_gpus=settings.gpus_per_trial > 0)


@contextmanager
def running(n_cpus: int, *, use_gpus: bool = False) -> Iterator[None]:
    """A Ray of our own for the time of a search; raises ValueError where one runs in this process already."""
    import ray

    from tuner import session

    _refuse_another()
    heads.ensure_token()
    with session.folder() as folder:
        # inherited: the processes that Ray starts ahead are only for who has no runtime environment
        with _environment(environment() | luggage.visible(use_gpus)):
            ray.init(
                address="local",
                num_cpus=n_cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=str(folder),
                _system_config={
                    "num_workers_soft_limit": n_cpus + KEPT,
                    "preload_python_modules": ["trainables.trainable"],
                },
            )
        try:
            yield
        finally:
            ray.shutdown()


def join(settings: Settings) -> tuple[Node, ...]:
    """The nodes of the cluster at --address for trials, joined unless it has been; ValueError where none can run.

    That is: nobody answers, the token is another, versions differ, or no node is large enough or has the accelerator.
    """
    if not _Joined.nodes:
        import ray

        _connect(settings)
        try:
            found = roll_call.present()
            nodes.check_versions(found, nodes.versions())
            having = nodes.having(found, settings.accelerator)
            nodes.check_room(
                *(having, settings.cpus_per_trial, settings.gpus_per_trial, settings.accelerator)
            )
            _Joined.nodes = tuple(having)
        except ValueError:
            ray.shutdown()
            raise
    return _Joined.nodes


def _connect(settings: Settings) -> None:
    import ray
    from ray._private import ray_constants

    _refuse_another()
    address = heads.found(settings.address)
    heads.check(address)
    packed = luggage.environment(settings, Path.cwd())
    ray_constants.ENABLE_RAY_CLUSTER = True  # loopback is for a Ray of our own
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    try:
        ray.init(address=address, runtime_env=packed, **quiet)
    except (RuntimeError, ConnectionError, ray.exceptions.RayError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"--address must be a cluster to join, got {address}: {reason}") from None


def _refuse_another() -> None:
    import ray

    if ray.is_initialized():
        raise ValueError(
            "Ray must not be running in this process yet, got a running one: call ray.shutdown()"
        )


@contextmanager
def _joined(settings: Settings, roots: Sequence[Path]) -> Iterator[None]:
    """The cluster with a depot of the driver's files on this machine; leaves it at the end."""
    import ray

    from trainables.depot import Courier, Depot

    join(settings)
    out, token = str(roots[0]), secrets.token_hex(8)
    marker = Path(out, f".driver-{token}")
    try:
        marker.write_text(token, encoding="ascii")
        here = roll_call.on(ray.get_runtime_context().get_node_id())
        remote: Any = ray.remote  # its types know nothing of max_concurrency
        depot = remote(num_cpus=0, max_concurrency=READERS)(Depot)
        options = {"name": f"depot-{token}", "scheduling_strategy": here}
        _Joined.depot = depot.options(**options).remote([str(root) for root in roots])
        _Joined.courier = Courier(partial(ask, f"depot-{token}"), out, str(marker), token)
        yield
    finally:
        roll_call.tidy(token)
        _Joined.nodes, _Joined.courier, _Joined.depot = (), None, None
        with suppress(OSError):
            marker.unlink()
        ray.shutdown()


def ask(depot: str, function: str, *arguments: Any) -> Any:
    """What the depot of that name answers; raises what it raised."""
    return wait(getattr(_actor(depot), function).remote(*arguments))


@cache
def _actor(name: str) -> Any:
    import ray

    return ray.get_actor(name)


def courier() -> Any:
    """What workers reach the driver's files with; None on one machine, where they lie at hand."""
    return _Joined.courier


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """For processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def environment() -> dict[str, str]:
    """Of the workers: one thread each, and the user's folder in sight, for factories of models and data."""
    known = [str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(known)}


def resources(settings: Settings) -> dict[str, float]:
    """What a trial asks of its node beside CPUs and GPUs, by Ray's names."""
    if settings.accelerator is None or settings.address == LOCAL:
        return {}
    return {nodes.resource_of(settings.accelerator, join(settings)): A_BIT}


def kill(worker: Any) -> None:
    """End a trial's worker, which Ray then counts as lost."""
    import ray

    if worker is not None:
        ray.kill(worker)


def submit(
    function: Callable[..., Any],
    *arguments: Any,
    cpus: float = 1,
    gpus: float = 0,
    resources: dict[str, float] | None = None,
    here: bool = False,
    bring: Sequence[str] = (),
) -> Any:
    """Start `function(*arguments)` on the cluster; `wait` gives its answer.

    It runs on the driver's own machine, if `here` and that is large enough. The driver's files travel with it as
    `trainables/depot.py` tells; the folders `bring` too.
    """
    import ray

    remote = partial(ray.remote, num_cpus=cpus, num_gpus=gpus, resources=resources)
    if _Joined.courier is None:
        return remote(max_retries=0)(function).remote(*arguments)
    from trainables.depot import errand

    node = ray.get_runtime_context().get_node_id()
    strategy = roll_call.on(node, soft=True) if here else "DEFAULT"
    work = remote(scheduling_strategy=strategy, max_retries=LOST)(errand)
    return work.remote(_Joined.courier, function, arguments, list(bring))


def _done(tasks: list[Any]) -> list[Any]:
    """Those that have ended after half a second; what a signal's handler raises comes out of Ray as it is."""
    import ray

    try:
        done: list[Any] = ray.wait(tasks, timeout=0.5)[0]
    except SystemError as error:  # "returned a result with an exception set"
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None
    return done


def each(tasks: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The answers of submitted functions by name, in the order in which they come; raises what one raised."""
    left = {task: name for name, task in tasks.items()}
    while left:
        for task in _done(list(left)):
            yield left.pop(task), wait(task)


def wait(task: Any, meanwhile: Callable[[], None] = lambda: None) -> Any:
    """The answer of a submitted function; raises what it raised. `meanwhile` is called twice a second."""
    import ray

    while not _done([task]):
        meanwhile()
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise error.as_instanceof_cause() from None
