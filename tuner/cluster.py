"""Where students are trained: the only file that starts or joins Ray.

Ray starts for this search alone, on this machine, quietly, with its token authentication on.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OBJECT_STORE_BYTES = 100 * 2**20  # data travels by memory-mapped files, so little is needed


@contextmanager
def running(n_cpus: int) -> Iterator[None]:
    """A Ray of our own for the time of a search; raises ValueError where one runs in this process already."""
    import ray

    from tuner import session

    if ray.is_initialized():
        raise ValueError(
            "Ray must not be running in this process yet, got a running one: call ray.shutdown()"
        )
    _ensure_token()
    with session.folder() as folder:
        ray.init(
            address="local",
            num_cpus=n_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
            runtime_env={"env_vars": environment()},
            _temp_dir=str(folder),
        )
        try:
            yield
        finally:
            ray.shutdown()


def environment() -> dict[str, str]:
    """Of the workers: one thread each, and the user's folder in sight, for factories of models and data."""
    known = [str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(known)}


def _ensure_token() -> None:
    """Ray's token, made if there is none, readable by its owner alone."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path.home() / ".ray" / "auth_token"
    if not path.exists():
        import secrets

        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(secrets.token_hex(32), encoding="utf-8")
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)


def kill(worker: Any) -> None:
    """End a trial's worker, which Ray then counts as lost."""
    import ray

    if worker is not None:
        ray.kill(worker)


def submit(function: Callable[..., Any], *arguments: Any, cpus: float = 1, gpus: float = 0) -> Any:
    """Start `function(*arguments)` on the cluster; `wait` gives its answer."""
    import ray

    return ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(function).remote(*arguments)


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
